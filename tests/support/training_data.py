"""Small archives of features to train on, in the layout that `wsisum features` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wsisum_cli.features.h5 import FeatureFileContents, write_feature_file

SIDE = 512  # of a patch, level-0 px


def write_features(
    path: Path, features: np.ndarray, coords: np.ndarray, encoder: str = "stub", sha256: str = "ab" * 32
) -> Path:
    """`coords` (N, 2) in patch sides."""
    about_coords = {"patch_size": 256, "patch_size_level0": SIDE, "mpp": 0.25, "overlap": 0, "name": path.stem}
    arrays: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "features": (features.astype(np.float32), {"name": path.stem, "encoder": encoder}),
        "coords": (np.rint(coords * SIDE).astype(np.int64), about_coords),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_feature_file(path, FeatureFileContents(arrays, {"encoder_sha256": sha256}, {}))
    return path


def write_embedding(path: Path, values: np.ndarray) -> Path:
    """One row and a place, as the teachers of the demonstration are stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = values.astype(np.float32)[None], np.zeros((1, 2), np.int64)
    return path


def draw_slide(seed: int, dims: int, patches: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and places (N, 2) in patch sides: a few kinds of tissue, one in each part of the slide."""
    rng = np.random.default_rng((seed, dims))
    kinds = np.random.default_rng(dims).normal(size=(4, dims)) + 1
    across = int(np.ceil(np.sqrt(patches)))
    coords = np.stack(np.divmod(np.arange(patches), across), axis=1)[:, ::-1] + rng.integers(50, size=2)
    seeds = rng.permutation(coords)[:6]
    nearest = ((coords[:, None] - seeds) ** 2).sum(axis=2).argmin(axis=1)
    kind = rng.integers(len(kinds), size=len(seeds))[nearest]
    slide = 0.3 * rng.normal(size=dims)
    return kinds[kind] + slide + 0.3 * rng.normal(size=(patches, dims)), coords


def write_archive(folder: Path, names: list[str], dims: int, **about: str) -> Path:
    """A file for each name; another length for each."""
    for number, name in enumerate(names):
        write_features(folder / f"{name}.h5", *draw_slide(number, dims, 60 + 13 * number), **about)
    return folder
