"""Attributes of summaries for tests: a whole record to change."""

from __future__ import annotations

from typing import Any

ENCODER = {
    "name": "stub",
    "version": "1",
    "kind": "encoder",
    "patch_size": 32,
    "mpp": 0.5,
    "mpp_tolerance": 0.1,
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "dims": 12,
    "licence": "MIT",
    "description": "",
    "sha256": "ab" * 32,
}
OPTIONS = {
    "keep": None,
    "max_bytes": None,
    "target": None,
    "selector": "wsisum",
    "rare": None,
    "seed": 0,
    "candidates": 500,
    "clusters": 50,
    "pixels": "auto",
    "quality": 90,
    "artefacts": "guard",
    "patch_size_level0": None,
    "draws": 1000,
    "thresholds": [],
    "mask_sha256": None,
}
QUALITY = {"coverage": 0.93, "coverage_p05": 0.8, "coverage_min": 0.7, "weighted_cosine": 0.99}


def base_attributes() -> dict[str, Any]:
    """A whole record of format 1.0, without members."""
    return {
        "format_version": "1.0",
        "disclaimer": "Not for diagnosis.",
        "source": {
            "name": "tiny.svs",
            "bytes": 12345,
            "files": 1,
            "sha256": "cd" * 32,
            "vendor": "aperio",
            "scanner": None,
            "reader": "none",
            "width": 512,
            "height": 512,
            "mpp": 0.25,
            "mpp_source": "given",
        },
        "tissue_patches": 80,
        "patch": {
            "patch_size": 32,
            "patch_size_level0": 64,
            "mpp": 0.5,
            "aligned": True,
            "reading": {
                "level": 0,
                "shrink": 2,
                "scale": 2.0,
                "side": 32,
                "patch_size": 32,
                "tile_width": 16,
                "tile_height": 16,
                "width": 256,
                "height": 256,
            },
        },
        "encoder": dict(ENCODER),
        "provider": "CPUExecutionProvider",
        "features": {"origin": "computed"},
        "options": dict(OPTIONS),
        "broken_tiles": {"count": 0, "positions": []},
        "versions": {"wsisum": "0.1.0"},
        "patches": 8,
        "pixels": {"mode": "jpeg", "quality": 90, "subsampling": "4:4:4"},
        "quality": dict(QUALITY),
    }
