"""The contents of a summary slide, and how to write it. See docs/format.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.features.vectors import as_half, blocks, one_thread
from wsisum_cli.quality.random_draws import Draws
from wsisum_cli.selection.prefixes import Prefixes
from wsisum_cli.slides import jpeg
from wsisum_cli.summary.attributes import VERSIONS, Attributes
from wsisum_cli.summary.container import container_parts, write_container
from wsisum_cli.summary.extras.tissue_features import PackedFeatures, encode_packed
from wsisum_cli.summary.overview import OVERVIEW_QUALITY, SHRINKS, is_finer, portable_image
from wsisum_cli.tissue.artefacts import NO_ARTEFACTS, Artefacts

FORMAT_VERSION = VERSIONS[-1]
DISCLAIMER = (
    "A summary slide holds a selection of a slide's patches. It is not reversible: the slide cannot be made "
    "again from it. It is not for diagnosis."
)
REFERENCE_COMPONENTS = 8  # directions of the covariance sketch
GROUPS = ("patches", "tissue", "reference")
ROOT = "zarr.json"  # the member with the attributes
PORTABLE = "0"  # path of the image that OME-Zarr viewers show
ICC_PROFILE = "icc_profile"
ICC_DIMENSIONS = ["icc_byte"]  # not the "byte" of JPEG rows: a dimension of the root's is one of all groups in it
#: pixel arrays: source tiles, or one JPEG per patch
TILES, PIXELS = "patches/tiles", "patches/pixels"
JPEG_BYTES = "_jpeg_bytes"  # ends the name of the array of bytes of JPEG streams that are stored as JPEG XL
OVERVIEW = "overview/pixels"
ARTEFACT = "artefact"  # group of the patches that were removed from the tissue
REEMBEDDED = "reembedded"  # group of features by further encoders, `0`, `1` and so on
SUSPECT = "tissue/suspect"  # array that is there where some tissue is suspect
#: arrays in the group `reference`: those of every summary, and optional ones
REFERENCE = ("mean", "components", "variances")
EMBEDDINGS = {
    "draws": ("float32", ["keep", "figure", "quantile"]),
    "model_draws": ("float32", ["model_figure", "quantile"]),
    "candidates": ("int32", ["candidate"]),
    "embedding": ("float32", ["embedding_dimension"]),
    "slide_embedding": ("float32", ["slide_dimension"]),
    "prototypes": ("float32", ["prototype", "prototype_dimension"]),
    "prototype_weights": ("float32", ["prototype"]),
}


@dataclass(frozen=True)
class SourceTiles:
    """The scanner's own tiles that cover the kept patches."""

    positions: np.ndarray  # (T, 2) int32 column, row in the level that was read
    spliced: np.ndarray  # (T,) int32 bytes inserted after each stream's SOI marker
    streams: list[bytes]  # T complete JPEG streams, or JPEG XL files of them


@dataclass(frozen=True)
class PatchArrays:
    """Arrays of the kept patches, in order of picking."""

    coords: np.ndarray  # (K, 2) int32 level-0 px
    features: np.ndarray  # (K, D)
    weights: np.ndarray  # (K,) make the weighted mean closest to the slide's mean; sum to 1
    counts: np.ndarray  # (K,) int32 number of tissue patches that each represents
    cluster: np.ndarray  # (K,) int16


@dataclass(frozen=True)
class TissueMap:
    """Every tissue patch of the slide, kept or not."""

    coords: np.ndarray  # (N, 2) int32 level-0 px
    representative: np.ndarray  # (N,) int32 which of the K kept patches represents it
    similarity: np.ndarray  # (N,) float16 cosine to that patch
    cluster: np.ndarray  # (N,) int16
    prefixes: Prefixes | None = None  # the representatives for smaller K; None when read from a file
    suspect: np.ndarray | None = None  # (N,) uint8 codes of `artefacts.KINDS`, 0 clean; None where all are, or unknown


@dataclass(frozen=True)
class Reference:
    """Statistics and embeddings of the features of all tissue patches."""

    mean: np.ndarray  # (D,) float32
    components: np.ndarray  # (R, D) float16 principal directions
    variances: np.ndarray  # (R,) float64 along them; float32 may overflow
    #: quantiles of the figures of random draws; None before format 1.2
    draws: np.ndarray | None = None  # (L, 6, 101) float32; 5 before format 1.4
    model_draws: np.ndarray | None = None  # (M, 101) float32
    #: of the summarizer; None without one
    candidates: np.ndarray | None = None  # (M,) int32 ascending tissue rows that it got
    embedding: np.ndarray | None = None  # (E,) float32 of all candidates
    #: of the slide encoder, from all tissue patches; None without one
    slide_embedding: np.ndarray | None = None  # (E,) float32
    prototypes: np.ndarray | None = None  # (P, F) float32 centres of similar regions
    prototype_weights: np.ndarray | None = None  # (P,) float32 share of the regions closest to each; sums to 1


@dataclass(frozen=True)
class SummaryContents:
    """The contents of a summary."""

    attributes: Attributes  # without `members`
    overview: np.ndarray  # (H, W, 3) uint8
    overview_mpp: float
    kept: PatchArrays
    pixels: SourceTiles | list[bytes]  # list: one JPEG stream per patch, or a JPEG XL file of it
    tissue: TissueMap
    reference: Reference
    icc_profile: bytes | None  # of the source
    artefacts: Artefacts = NO_ARTEFACTS
    tissue_features: PackedFeatures | None = None
    jpeg_bytes: np.ndarray | None = None  # (rows,) int32 of the stream in each JPEG XL file; None: pixels are JPEG


def reference_of(features: np.ndarray) -> Reference:
    """Mean and a covariance sketch of features (N, D); the signs of the directions are fixed."""
    mean = np.asarray(features.mean(axis=0, dtype=np.float64))
    covariance = np.zeros((len(mean), len(mean)))
    with one_thread():  # the order of sums would change the last bits
        for block in blocks(len(features)):
            centred = features[block].astype(np.float64) - mean
            covariance += centred.T @ centred / len(features)
        variances, directions = np.linalg.eigh(covariance)
    top = np.argsort(-variances, kind="stable")[:REFERENCE_COMPONENTS]
    components = directions[:, top].T
    components *= np.where(components[np.arange(len(top)), np.abs(components).argmax(axis=1)] < 0, -1, 1)[:, None]
    return Reference(
        mean.astype(np.float32),
        components.astype(np.float16),
        np.maximum(variances[top], 0),
    )


def write_summary(path: Path, contents: SummaryContents) -> None:
    """Write `contents` to `path`. The same contents give the same bytes."""
    write_container(path, encode_summary(contents))


def size_of(contents: SummaryContents) -> int:
    """Size in bytes of the file that `write_summary` writes."""
    return sum(map(len, container_parts(encode_summary(contents))))


def encode_summary(contents: SummaryContents) -> dict[str, bytes]:
    """All members by name."""
    files = encode_files(contents)
    return {**files, ROOT: encode_root(contents, list_members(files))}


def list_members(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The attribute `members`: all files except the root's metadata."""
    return {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in sorted(files.items())
    }


def encode_files(contents: SummaryContents) -> dict[str, bytes]:
    """All members except the root's metadata."""
    from wsisum_cli.summary.arrays import encode_array, encode_groups

    reference = contents.reference
    files = encode_groups([*GROUPS, "overview"] if is_finer(contents.overview) else GROUPS)
    files |= encode_overview(contents.overview.tobytes(), contents.overview.shape)
    files |= encode_kept(contents.kept, contents.pixels, contents.jpeg_bytes)
    files |= encode_tissue(contents.tissue)
    files |= encode_array("reference/mean", reference.mean, ["feature"])
    files |= encode_array("reference/components", reference.components, ["component", "feature"])
    files |= encode_array("reference/variances", reference.variances, ["component"])
    files |= encode_embeddings(reference)
    files |= encode_artefacts(contents.artefacts)
    if contents.tissue_features is not None:
        files |= encode_packed(contents.tissue_features)
    if contents.icc_profile is not None:
        files |= encode_array(ICC_PROFILE, np.frombuffer(contents.icc_profile, np.uint8), ICC_DIMENSIONS)
    return files


@lru_cache(maxsize=len(SHRINKS))  # slow, and the same for many candidate summaries of a slide
def encode_overview(pixels: bytes, shape: tuple[int, ...]) -> dict[str, bytes]:
    """The portable overview, and the finer one if there is one."""
    from wsisum_cli.summary.arrays import encode_array, encode_rows

    overview = np.frombuffer(pixels, np.uint8).reshape(shape)
    files = encode_array(PORTABLE, np.moveaxis(portable_image(overview), 2, 0), ["c", "y", "x"], fill=255)
    if is_finer(overview):
        files |= encode_rows(OVERVIEW, [jpeg.encode(overview, OVERVIEW_QUALITY)], "image")
    return files


def encode_kept(
    kept: PatchArrays, pixels: SourceTiles | list[bytes], jpeg_bytes: np.ndarray | None = None
) -> dict[str, bytes]:
    """All members below `patches` except the group itself; `jpeg_bytes` as in `SummaryContents`."""
    from wsisum_cli.summary.arrays import encode_array, encode_rows

    files = encode_array("patches/coords", kept.coords.astype(np.int32), ["patch", "xy"])
    files |= encode_array("patches/features", as_half(kept.features), ["patch", "feature"])
    files |= encode_array("patches/weights", kept.weights.astype(np.float64), ["patch"])
    files |= encode_array("patches/counts", kept.counts.astype(np.int32), ["patch"])
    files |= encode_array("patches/cluster", kept.cluster.astype(np.int16), ["patch"])
    if isinstance(pixels, SourceTiles):
        files |= encode_rows(TILES, pixels.streams, "tile")
        files |= encode_array("patches/tile_positions", pixels.positions, ["tile", "column_row"])
        files |= encode_array("patches/tile_spliced", pixels.spliced, ["tile"])
    else:
        files |= encode_rows(PIXELS, pixels, "patch")
    if jpeg_bytes is not None:
        array, dimension = (TILES, "tile") if isinstance(pixels, SourceTiles) else (PIXELS, "patch")
        files |= encode_array(f"{array}{JPEG_BYTES}", jpeg_bytes.astype(np.int32), [dimension])
    return files


def encode_tissue(tissue: TissueMap) -> dict[str, bytes]:
    """All members below `tissue` except the group itself."""
    from wsisum_cli.summary.arrays import encode_array

    files = encode_array("tissue/coords", tissue.coords.astype(np.int32), ["tissue", "xy"])
    files |= encode_array("tissue/representative", tissue.representative.astype(np.int32), ["tissue"])
    files |= encode_array("tissue/similarity", tissue.similarity.astype(np.float16), ["tissue"])
    files |= encode_array("tissue/cluster", tissue.cluster.astype(np.int16), ["tissue"])
    if tissue.suspect is not None and tissue.suspect.any():
        files |= encode_array(SUSPECT, tissue.suspect.astype(np.uint8), ["tissue"])
    return files | encode_earlier(tissue)


def encode_earlier(tissue: TissueMap) -> dict[str, bytes]:
    """The representatives for smaller numbers of patches."""
    from wsisum_cli.summary.arrays import encode_array

    if tissue.prefixes is None:
        return {}
    counts, picks, cosines = tissue.prefixes.earlier()
    files = encode_array("tissue/earlier_count", counts, ["tissue"])
    if not len(picks):  # only one kept patch; Zarr has no chunk for an empty array
        return files
    files |= encode_array("tissue/earlier_representative", picks, ["earlier"])
    return files | encode_array("tissue/earlier_similarity", cosines.astype(np.float16), ["earlier"])


def encode_embeddings(reference: Reference) -> dict[str, bytes]:
    """The optional arrays below `reference`: random draws and outputs of whole-slide models."""
    from wsisum_cli.summary.arrays import encode_array

    files: dict[str, bytes] = {}
    for name, (dtype, dimensions) in EMBEDDINGS.items():
        values = getattr(reference, name)
        if values is not None and values.size:
            files |= encode_array(f"reference/{name}", values.astype(dtype), dimensions)
    return files


def encode_artefacts(artefacts: Artefacts) -> dict[str, bytes]:
    """The group of artefact patches; empty if there are none."""
    from wsisum_cli.summary.arrays import encode_array, encode_groups

    if not len(artefacts.kind):
        return {}
    files = encode_groups([ARTEFACT])
    files |= encode_array(f"{ARTEFACT}/coords", artefacts.coords.astype(np.int32), ["artefact", "xy"])
    return files | encode_array(f"{ARTEFACT}/kind", artefacts.kind.astype(np.uint8), ["artefact"])


def encode_reembedded(sets: Sequence[np.ndarray]) -> dict[str, bytes]:
    """The group of features (K, E) by further encoders; empty if there are none."""
    from wsisum_cli.summary.arrays import encode_array, encode_groups

    if not sets:
        return {}
    files = encode_groups([REEMBEDDED])
    for place, features in enumerate(sets):  # in a group, a dimension's name has one length
        files |= encode_array(f"{REEMBEDDED}/{place}", as_half(features), ["patch", f"feature_{place}"])
    return files


def encode_draws(draws: Draws) -> dict[str, bytes]:
    """Only the arrays of random draws."""
    from wsisum_cli.summary.arrays import encode_array

    files: dict[str, bytes] = {}
    for name, values in draws.arrays().items():
        files |= encode_array(f"reference/{name}", values, EMBEDDINGS[name][1])
    return files


def encode_root(contents: SummaryContents, members: Mapping[str, Any]) -> bytes:
    """The root's zarr.json: OME-Zarr 0.5 metadata of the portable image, and ours beside it."""
    shrink = max(1.0, max(contents.overview.shape[:2]) / max(portable_image(contents.overview).shape[:2]))
    pixel = contents.overview_mpp * shrink
    ome = viewer_metadata(contents.attributes.source.name, pixel)
    attributes = {**contents.attributes.as_json(), "members": members}
    root = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, "wsisum": attributes}}
    return json.dumps(root, separators=(",", ":"), allow_nan=False).encode()


def viewer_metadata(name: str, pixel: float) -> dict[str, Any]:
    """OME-Zarr 0.5 metadata of the portable image, whose px have `pixel` µm a side."""
    space = {"type": "space", "unit": "micrometer"}
    axes = [{"name": "c", "type": "channel"}, {"name": "y", **space}, {"name": "x", **space}]
    scale = {"type": "scale", "scale": [1.0, pixel, pixel]}
    dataset = {"path": PORTABLE, "coordinateTransformations": [scale]}
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {"label": label, "color": color, "active": True, "window": window}
        for label, color in (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
    ]
    return {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": [dataset]}],
        "omero": {"channels": channels, "rdefs": {"model": "color"}},
    }
