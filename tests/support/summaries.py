"""Tiny but whole summaries, and ways to damage them."""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from draw import draw_tissue, write_svs
from onnx_models import write_slide_encoder, write_summarizer
from records import ENCODER, base_attributes

from wsisum_cli.features.embedding import SlideEmbeddings, Tokens, embed_tissue
from wsisum_cli.models.choice import NO_MODELS, SlideModels
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.models.slide_encoder import load_slide_encoder
from wsisum_cli.models.summarizer import load_summarizer
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.describe import CompressResult
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.product import summary_figures
from wsisum_cli.quality.guarantee import guaranteed
from wsisum_cli.quality.likeness import measure_likeness
from wsisum_cli.quality.random_draws import BY_FEATURES, Draws, draw
from wsisum_cli.quality.represented import WANTED, TissuePlaces, describe_represented, fewest_for, share_curve
from wsisum_cli.quality.verdict import read_thresholds
from wsisum_cli.selection.prefixes import prefixes_of
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.patches import Reading, cut_patch
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.arrays import encode_array
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.chunks import decode_array
from wsisum_cli.summary.container import read_member, read_members, write_container
from wsisum_cli.summary.provenance import describe_models
from wsisum_cli.summary.standing import describe_standing
from wsisum_cli.summary.stored.jpeg_xl import transcode
from wsisum_cli.summary.writer import (
    FORMAT_VERSION,
    PatchArrays,
    SourceTiles,
    SummaryContents,
    TissueMap,
    reference_of,
    write_summary,
)

SIDE = 32  # px of a patch
GRID = 10  # patches across the slide
KEPT, TISSUE, DIMS = 8, 80, 12


@dataclass(frozen=True)
class StubCard:
    name: str = "stub"
    sha256: str = "ab" * 32
    patch_size: int = SIDE
    mpp: float = 0.5
    dims: int = DIMS

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class StubEncoder:
    """Mean and spread of the colours of each quarter of a patch."""

    card = StubCard()
    provider = "CPUExecutionProvider"
    batch_size = 16

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        half = pixels.shape[1] // 2
        quarters = pixels.reshape(len(pixels), 2, half, 2, half, 3).astype(np.float32) / 255
        return quarters.mean(axis=(2, 4)).reshape(len(pixels), -1)


STUB: Any = StubEncoder()
#: Thresholds that every summary passes: such small slides say little.
LENIENT = ("represented=0/0", "largest_mm2=1000/1000", "chance=0/0")


def find_stub(_card: Any) -> Any:
    return STUB


def draw_slide(seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8, smooth and different everywhere."""
    coarse = np.random.default_rng(seed).integers(40, 250, (2 * GRID, 2 * GRID, 3), dtype=np.uint8)
    side = GRID * SIDE * 2
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


def spliced_tiles(slide: np.ndarray, side: int) -> tuple[dict[tuple[int, int], bytes], int]:
    """Each tile of the slide as a JPEG stream with a marker behind SOI, and that marker's length."""
    streams = {}
    for row in range(slide.shape[0] // side):
        for column in range(slide.shape[1] // side):
            stream = jpeg.encode(slide[row * side : (row + 1) * side, column * side : (column + 1) * side])
            streams[column, row] = stream[:2] + b"\xff\xfe\x00\x04hi" + stream[2:]
    return streams, 6


#: Half-size decoding of 32 px tiles, so that a patch of 64 level-0 px takes four of them.
READING = Reading(0, 2, 2.0, SIDE, SIDE, 16, 16, GRID * SIDE, GRID * SIDE)


def tiny_contents(mode: str = "jpeg", overview_side: int = 40, models: SlideModels = NO_MODELS) -> SummaryContents:
    """A summary of 8 of 80 patches, by the stub encoder, that agrees with itself."""
    slide = draw_slide()
    tiles, spliced = spliced_tiles(slide, 32)
    places = [(x, y) for y in range(GRID) for x in range(GRID)][:TISSUE]
    coords = np.array(places, np.int32) * np.int32(2 * SIDE)
    patches = np.stack([cut_patch(READING, x, y, lambda at: jpeg.decode(tiles[at], 2)) for x, y in coords.tolist()])
    rows = np.arange(0, TISSUE, TISSUE // KEPT)
    features = STUB(patches)
    touched = sorted({tile for x, y in coords[rows].tolist() for tile in READING.tiles(x, y)})
    if mode == "source":
        streams = [tiles[at] for at in touched]
        pixels = SourceTiles(np.array(touched, np.int32), np.full(len(touched), spliced, np.int32), streams)
    else:
        pixels = [jpeg.encode(patches[row]) for row in rows]
        features[rows] = STUB(np.stack([jpeg.decode(stream) for stream in pixels]))
    overview = np.asarray(cv2.resize(slide, (overview_side, overview_side), interpolation=cv2.INTER_AREA))
    overview[overview_side * TISSUE // GRID**2 :] = 255  # the rows below the tissue are glass
    return SummaryContents(
        overview=overview,
        overview_mpp=0.25 * slide.shape[1] / overview_side,
        pixels=pixels,
        icc_profile=b"a colour profile",
        **measured_parts(mode, features, coords, rows, slide.shape[1], len(touched), models),
    )


def measured_parts(
    mode: str, features: np.ndarray, coords: np.ndarray, rows: np.ndarray, side: int, tiles: int, models: SlideModels
) -> dict[str, Any]:
    """The parts of a draft that follow from the features."""
    features[rows] = features[rows].astype(np.float16)
    units = features.astype(np.float64) / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = units @ units[rows].T
    stand_in, similarity = cosine.argmax(axis=1).astype(np.int32), cosine.max(axis=1).astype(np.float16)
    counts = np.bincount(stand_in, minlength=len(rows))
    weights = counts / len(features)
    cluster = (np.arange(len(features)) % 3).astype(np.int16)
    mixture = np.bincount(cluster, minlength=3) / len(features)
    mean, weighted = features.mean(axis=0, dtype=np.float64), weights @ features[rows].astype(np.float64)
    embedded = embed_tissue(models, Tokens(features, coords, 2 * SIDE), np.arange(0, TISSUE, 2), rows)
    quality = {
        "coverage": float(similarity.astype(float).mean()),
        "coverage_p05": float(np.percentile(similarity, 5)),
        "coverage_min": float(similarity.min()),
        "weighted_cosine": float(mean @ weighted / np.linalg.norm(mean) / np.linalg.norm(weighted)),
        "composition": float(
            np.abs(np.bincount(cluster[rows], counts, minlength=3) / len(features) - mixture).sum() / 2
        ),
        **embedded.figures(),
    }
    prefixes, yardstick = prefixes_of(features, rows), measure_likeness(features, coords, 2 * SIDE)
    draws = with_model_draws(draw(features, cluster, yardstick.cosine, len(rows), 0, 20), embedded)
    places = TissuePlaces(coords, 2 * SIDE, 0.25)
    needed = fewest_for(share_curve(prefixes, len(rows), yardstick.cosine), WANTED)
    represented = describe_represented(places, yardstick, stand_in, similarity, needed)
    standing = describe_standing(represented, quality, prefixes, draws, len(rows), read_thresholds(LENIENT))
    standing |= {
        "represented": represented,
        "guarantee": guaranteed(coords, 2 * SIDE, 0.25, similarity),
        "trimmed_from": None,
        "bound": "keep",
        "target_reached": None,
    }
    return {
        "attributes": Attributes.model_validate(
            tiny_attributes(mode, quality, side, tiles) | describe_models(models) | standing
        ),
        "kept": PatchArrays(coords[rows], features[rows], weights, counts, cluster[rows]),
        "tissue": TissueMap(coords, stand_in, similarity, cluster, prefixes),
        "reference": replace(reference_of(features), **embedded.arrays(), **draws.arrays()),
    }


def with_model_draws(draws: Draws, embedded: SlideEmbeddings) -> Draws:
    """Add quantiles of the figures of models, as files have them that were written when models were drawn for."""
    measured = {name: value for name, value in embedded.figures().items() if value is not None}
    quantiles = [np.linspace(value - 0.1, value, 101) for value in measured.values()]
    by_models = np.array(quantiles, np.float32).reshape(len(quantiles), 101)
    return replace(draws, models=tuple(measured), by_models=by_models, model_count=20 if measured else 0)


def tiny_attributes(mode: str, quality: dict[str, float | None], side: int, tiles: int) -> dict[str, Any]:
    base = base_attributes()
    return {
        **base,
        "format_version": FORMAT_VERSION,
        "source": {**base["source"], "width": side, "height": side},
        "tissue_patches": TISSUE,
        "patch": {
            "patch_size": SIDE,
            "patch_size_level0": 2 * SIDE,
            "mpp": 0.5,
            "aligned": True,
            "reading": READING.as_dict(),
        },
        "encoder": {**ENCODER, "patch_size": SIDE, "dims": DIMS},
        "pixels": {"mode": "source", "tiles": tiles} if mode == "source" else base["pixels"],
        "suspect": {"count": 0, "kinds": {}},
        "patches": KEPT,
        "quality": quality,
    }


def as_jpeg_xl(contents: SummaryContents) -> SummaryContents:
    """The same summary with its JPEG streams stored as JPEG XL."""
    pixels, stated = contents.pixels, contents.attributes.pixels
    streams = pixels.streams if isinstance(pixels, SourceTiles) else pixels
    files = [file for stream in streams if (file := transcode(stream)) is not None]
    assert len(files) == len(streams)
    return replace(
        contents,
        attributes=contents.attributes.model_copy(update={"pixels": stated.model_copy(update={"recompressed": "jxl"})}),
        pixels=replace(pixels, streams=files) if isinstance(pixels, SourceTiles) else files,
        jpeg_bytes=np.array([len(stream) for stream in streams], np.int32),
    )


def write_tiny(path: Path, mode: str = "jpeg", **changes: Any) -> Path:
    """`changes` replace fields of the draft. The mode "models" is jpeg, and models saw the whole slide."""
    contents = tiny_contents("jpeg", models=tiny_models()) if mode == "models" else tiny_contents(mode)
    write_summary(path, replace(contents, **changes))
    return path


@cache
def tiny_models(dims: int = DIMS, sha256: str = StubCard.sha256) -> SlideModels:
    """For features of `dims` numbers by the encoder of this sha256."""
    card = {"dims": dims, "encoder_sha256": sha256}
    with TemporaryDirectory() as folder:
        summarizer = load_summarizer(write_summarizer(Path(folder) / "summarizer.onnx", **card), "cpu")
        slide_encoder = load_slide_encoder(write_slide_encoder(Path(folder) / "slide.onnx", **card), "cpu")
    return SlideModels(summarizer, slide_encoder)


def unpack(path: Path) -> dict[str, bytes]:
    """Every member by its name."""
    with open(path, "rb") as file:
        return {member.name: read_member(file, member) for member in read_members(file, path.name)}


def sign_again(
    path: Path, members: dict[str, bytes], change: Callable[[dict[str, Any]], None] = lambda a: None
) -> Path:
    """Write members with checksums that fit them, as somebody would who hides a change.

    `change` works on the wsisum attributes, after the checksums are in.
    """
    root = json.loads(members["zarr.json"])
    attributes = root["attributes"]["wsisum"]
    attributes["members"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in sorted(members.items())
        if name != "zarr.json"
    }
    change(attributes)
    counted = not str(attributes.get("format_version")).startswith("1.")
    write_container(path, {**members, "zarr.json": json.dumps(root).encode()}, counted)
    return path


def write_changed(path: Path, contents: SummaryContents, changes: dict[str, Any], lost: Sequence[str] = ()) -> Path:
    """Write a summary, then change and drop attributes, with checksums that fit, whatever the format says of them."""
    write_summary(path, contents)

    def change(attributes: dict[str, Any]) -> None:
        attributes |= changes
        for name in lost:
            attributes.pop(name, None)

    return sign_again(path, unpack(path), change)


def write_as(path: Path, summary: Path, version: str = "1.3") -> Path:
    """The summary as one migrated from format 1.2 or 1.3 has it, with a verdict from percentiles alone."""
    members, figures = unpack(summary), len(BY_FEATURES)
    # Not by the reader, which refuses draws that do not fit the format.
    draws = decode_array(members["reference/draws/zarr.json"], members["reference/draws/c/0/0/0"])[:, :figures]
    members |= encode_array("reference/draws", draws, ["keep", "figure", "quantile"])
    percentiles = dict.fromkeys(BY_FEATURES, 100)
    limits = {name: [99, 50] for name in BY_FEATURES}

    def change(attributes: dict[str, Any]) -> None:
        del attributes["represented"]
        attributes["migrated_from"] = version
        thresholds = {"percentiles": limits, "values": {}}
        attributes["verdict"] = {
            "verdict": "PASS",
            "percentiles": percentiles,
            "reasons": [],
            "thresholds": thresholds,
        }

    return sign_again(path, members, change)


def figures_of(result: CompressResult) -> SimpleNamespace:
    """What a report says of a summary, its quality, sizes and times."""
    sizes = {"bytes_in": result.bytes_in, "bytes_out": result.bytes_out, "seconds": result.seconds}
    return SimpleNamespace(**summary_figures(result.attributes), **sizes, quality=result.attributes.quality)


def compress_drawn(folder: Path, rgb_jpeg: bool = False) -> dict[str, Path]:
    """A slide of 3000 x 2500 px, drawn and compressed with the shipped encoder, as files of this folder.

    Gives its path under "slide", and the summary's under each mode of pixels; "models" is jpeg, and models saw it.
    """
    return {name: Path(shutil.copy(path, folder)) for name, path in _compress_drawn(rgb_jpeg).items()}


@cache
def _compress_drawn(rgb_jpeg: bool) -> dict[str, Path]:
    """Once for all tests of a process, which work on copies."""
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder)
    slide = folder / "drawn.svs"
    write_svs(slide, draw_tissue(3000, 2500, 3), rgb_jpeg=rgb_jpeg)
    found = {"slide": slide, **{mode: compress(slide, folder / f"{mode}.ozx", mode) for mode in ("source", "jpeg")}}
    return {**found, "models": compress(slide, folder / "models.ozx", "jpeg", shipped_models_like())}


def compress(slide: Path, summary: Path, pixels: str, models: SlideModels = NO_MODELS) -> Path:
    tools = Tools(shipped_encoder(), models=models)
    compress_slide(Job(find_source(slide), summary, slide.name), Options(pixels=pixels, thresholds=LENIENT), tools)
    return summary


def shipped_models_like() -> SlideModels:
    """Tiny models for the shipped encoder's features."""
    card = shipped_encoder().card
    return tiny_models(card.dims, card.sha256)


@cache
def shipped_encoder() -> Encoder:
    return load_encoder("texture", "cpu")
