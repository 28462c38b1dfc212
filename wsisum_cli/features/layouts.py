"""The layouts of feature files that the MIL tools read: which arrays and attributes, under which names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsisum_cli.features.h5 import FeatureFileContents

TRIDENT, STAMP, CLAM = "trident", "stamp", "clam"
#: A scanner's "40x" is about 0.25 µm per pixel; TRIDENT and similar tools assume this.
MPP_OF_1X = 10.0


@dataclass(frozen=True)
class FeatureTable:
    """Features of patches of one slide, and what a layout says of them."""

    name: str  # of the slide, as the file is called
    features: np.ndarray  # (N, D) float32 or float16
    coords: np.ndarray  # (N, 2) integer top left x, y, level-0 px
    patch_size: int  # px, as the encoder sees it
    patch_size_level0: int  # level-0 px
    slide_size: tuple[int, int]  # width, height, level-0 px
    slide_mpp: float  # µm per level-0 px
    encoder: str  # its name
    encoder_mpp: float  # µm per px that the encoder asks for
    encoder_sha256: str | None  # of the ONNX file; None where nobody knows
    #: further arrays of N rows, by name; readers of all layouts pass over those that they do not know
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)


def lay_out(table: FeatureTable, layout: str, provenance: Mapping[str, Any]) -> FeatureFileContents:
    """The contents of a feature file in one of `LAYOUTS`."""
    contents = LAYOUTS[layout](table)
    columns: dict[str, tuple[np.ndarray, Mapping[str, Any]]]
    columns = {name: (values, {}) for name, values in table.columns.items()}
    sha256 = {} if table.encoder_sha256 is None else {"encoder_sha256": table.encoder_sha256}
    return FeatureFileContents({**contents.datasets, **columns}, {**contents.attributes, **sha256}, provenance)


def as_trident(table: FeatureTable) -> FeatureFileContents:
    """`features`, and `coords` in level-0 px with TRIDENT's attributes, but for the folder that it saves to."""
    target = MPP_OF_1X / table.encoder_mpp
    about = {
        "patch_size": table.patch_size,
        "patch_size_level0": table.patch_size_level0,
        # in the ratio of the patch sizes
        "level0_magnification": int_if_whole(target * table.patch_size_level0 / table.patch_size),
        "target_magnification": int_if_whole(target),
        "overlap": 0,
        "name": table.name,
        "level0_width": table.slide_size[0],
        "level0_height": table.slide_size[1],
        "mpp": table.slide_mpp,
    }
    features = (table.features, {"name": table.name, "encoder": table.encoder})
    return FeatureFileContents({"features": features, "coords": (table.coords.astype(np.int64), about)}, {}, {})


def as_clam(table: FeatureTable) -> FeatureFileContents:
    """`features`, and `coords` with the attributes by which CLAM reads patches from the slide itself."""
    about = {
        "patch_size": table.patch_size_level0,  # px of `patch_level`
        "patch_level": 0,
        "patch_size_level0": table.patch_size_level0,
        "downsample": np.ones(2),
        "downsampled_level_dim": np.array(table.slide_size, np.int64),
        "level_dim": np.array(table.slide_size, np.int64),
        "name": table.name,
        "mpp": table.slide_mpp,
    }
    features = (table.features, {"name": table.name, "encoder": table.encoder})
    return FeatureFileContents({"features": features, "coords": (table.coords.astype(np.int64), about)}, {}, {})


def as_stamp(table: FeatureTable) -> FeatureFileContents:
    """The STAMP 2 layout: `feats`, and `coords` in µm."""
    about = {
        "extractor": table.encoder,
        "unit": "um",
        "tile_size_um": table.patch_size_level0 * table.slide_mpp,
        "tile_size_px": table.patch_size,
        "feat_type": "tile",
    }
    coords = table.coords * table.slide_mpp
    return FeatureFileContents({"feats": (table.features, {}), "coords": (coords, {})}, about, {})


def int_if_whole(number: float) -> float:
    """Convert a whole number to int, for readers that print or compare it as one."""
    return int(number) if number.is_integer() else number


LAYOUTS: Mapping[str, Callable[[FeatureTable], FeatureFileContents]] = {
    TRIDENT: as_trident,
    STAMP: as_stamp,
    CLAM: as_clam,
}
