"""Type and shape that each array of a summary must have, by its attributes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsisum_cli.quality.random_draws import BY_FEATURES, DRAWN, SHARES
from wsisum_cli.summary.attributes import Attributes, SourcePixels
from wsisum_cli.summary.extras.tissue_features import TISSUE_FEATURES
from wsisum_cli.summary.writer import (
    ICC_PROFILE,
    JPEG_BYTES,
    OVERVIEW,
    PIXELS,
    PORTABLE,
    REEMBEDDED,
    SUSPECT,
    TILES,
)


@dataclass(frozen=True)
class Expected:
    """`types`: names of dtypes, separated by spaces. `shape`: None where the attributes do not say."""

    types: str
    shape: tuple[int | None, ...]

    def fits(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        pairs = zip(self.shape, shape, strict=False)
        same = len(shape) == len(self.shape) and all(want in (None, have) for want, have in pairs)
        return same and dtype.name in self.types.split()

    def __str__(self) -> str:
        return f"{self.types} {self.shape}"


def expected_arrays(record: Attributes, members: Collection[str]) -> dict[str, Expected]:
    """Each array but images that a summary with these members has."""
    kept, tissue = record.patches, record.tissue_patches
    card = record.encoder_card
    dims = None if card is None else card.dims
    arrays = {
        PORTABLE: Expected("uint8", (3, None, None)),
        "patches/coords": Expected("int32", (kept, 2)),
        "patches/features": Expected("float16 float32", (kept, dims)),
        "patches/weights": Expected("float64", (kept,)),
        "patches/cluster": Expected("int16", (kept,)),
        "tissue/coords": Expected("int32", (tissue, 2)),
        "tissue/representative": Expected("int32", (tissue,)),
        "tissue/similarity": Expected("float16", (tissue,)),
        "tissue/cluster": Expected("int16", (tissue,)),
        "reference/mean": Expected("float32", (dims,)),
        "reference/components": Expected("float16", (None, dims)),
        "reference/variances": Expected("float64", (None,)),
    }
    if f"{ICC_PROFILE}/zarr.json" in members:
        arrays[ICC_PROFILE] = Expected("uint8", (None,))
    if found := record.artefact_count:
        arrays["artefact/coords"] = Expected("int32", (found, 2))
        arrays["artefact/kind"] = Expected("uint8", (found,))
    if knows_suspects(record, members):
        arrays[SUSPECT] = Expected("uint8", (tissue,))
    arrays |= expected_pixels(record, members) | expected_embeddings(record) | expected_since_1_2(record)
    return arrays | expected_additions(record)


def expected_pixels(record: Attributes, members: Collection[str]) -> dict[str, Expected]:
    """The same of what goes with the pixels."""
    arrays: dict[str, Expected] = {}
    if isinstance(record.pixels, SourcePixels):
        tiles = record.pixels.tiles
        arrays["patches/tile_positions"] = Expected("int32", (tiles, 2))
        arrays["patches/tile_spliced"] = Expected("int32", (tiles,))
        array, count = TILES, tiles
    else:
        array, count = PIXELS, record.patches
    rows = {f"{array}_bytes": count}
    if record.pixels.recompressed is not None:
        rows[f"{array}{JPEG_BYTES}"] = count
    if f"{OVERVIEW}/zarr.json" in members:
        rows[f"{OVERVIEW}_bytes"] = 1
    if not record.format_version.startswith("1."):
        arrays |= {name: Expected("int32", (count,)) for name, count in rows.items()}
    return arrays


def expected_embeddings(record: Attributes) -> dict[str, Expected]:
    """The same of the outputs of a summarizer and slide encoder, if used."""
    arrays: dict[str, Expected] = {}
    if record.summarizer is not None:
        arrays["reference/candidates"] = Expected("int32", (None,))
        arrays["reference/embedding"] = Expected("float32", (record.summarizer.embedding_dims,))
    if record.slide_encoder is not None:
        prototypes = record.slide_encoder.prototypes
        arrays["reference/slide_embedding"] = Expected("float32", (record.slide_encoder.embedding_dims,))
        arrays["reference/prototypes"] = Expected("float32", (prototypes, None))
        arrays["reference/prototype_weights"] = Expected("float32", (prototypes,))
    return arrays


def expected_since_1_2(record: Attributes) -> dict[str, Expected]:
    """The same of what stands for the tissue when fewer patches are kept, and of random draws."""
    draws = record.draws
    if draws is None:
        return {}
    figures = len(DRAWN if record.revision >= 4 else BY_FEATURES)
    arrays = {
        "patches/counts": Expected("int32", (record.patches,)),
        "tissue/earlier_count": Expected("int32", (record.tissue_patches,)),
        "reference/draws": Expected("float32", (len(draws.keep), figures, len(SHARES))),
    }
    if record.patches > 1:
        arrays["tissue/earlier_representative"] = Expected("int32", (None,))
        arrays["tissue/earlier_similarity"] = Expected("float16", (None,))
    if draws.models:
        arrays["reference/model_draws"] = Expected("float32", (len(draws.models), len(SHARES)))
    return arrays


def expected_additions(record: Attributes) -> dict[str, Expected]:
    """The same of features by further encoders, and of packed features of all tissue."""
    arrays = {
        f"{REEMBEDDED}/{place}": Expected("float16 float32", (record.patches, entry.encoder.dims))
        for place, entry in enumerate(record.reembedded or ())
    }
    if (packed := record.tissue_features) is not None:
        dims = None if record.encoder_card is None else record.encoder_card.dims
        arrays[f"{TISSUE_FEATURES}/codes"] = Expected("int8 int16", (packed.components, record.tissue_patches))
        arrays[f"{TISSUE_FEATURES}/basis"] = Expected("int8", (packed.components, dims))
        arrays[f"{TISSUE_FEATURES}/scale"] = Expected("float32", (packed.components,))
    return arrays


def knows_suspects(record: Attributes, members: Collection[str]) -> bool:
    """Whether some tissue is suspect, by the attributes or by an array that they do not call for."""
    stored = record.revision >= 3 and f"{SUSPECT}/zarr.json" in members
    return stored or record.suspect_count > 0


def same_dims(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether features, mean and components have the same length, and there is a variance per component."""
    dims = {shapes["patches/features"][1], shapes["reference/mean"][0], shapes["reference/components"][1]}
    return len(dims) == 1 and shapes["reference/components"][0] == shapes["reference/variances"][0]
