"""Patches per second out of a 40x JPEG slide, by tile here and by region with OpenSlide, in one run.

`python tests/benchmarks/reading.py --json reading.json` reads every tissue patch of 256 px at 0.5 µm, in alternation,
and prints a Markdown table. Each reader gets the same patches in the same order and number of threads; OpenSlide
reads them with one handle for all threads and with one for each, and the faster counts. Ratios travel from machine
to machine, seconds do not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import imagecodecs
import numpy as np
import openslide
import tifffile

from wsisum_cli.models.card import Card
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import blocks, read_patches
from wsisum_cli.slides.pixels import resize
from wsisum_cli.slides.slide import Slide, open_slide, read_level, read_overview
from wsisum_cli.tissue.grid import Grid, lay_grid
from wsisum_cli.tissue.mask import find_tissue

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]
SHARED = Path(__file__).parents[2].parent / "shared"
SLIDE = SHARED / "slides" / "pancreas" / "pdac-tru-cut-3.tiff"
AGREEMENT = 45.0  # dB at least
SMALLEST_SIDE = 20_000  # px; a smaller slide would fit into caches that no real one fits into
CARD = Card(
    name="benchmark",
    version="1",
    kind="encoder",
    patch_size=256,
    mpp=0.5,
    mpp_tolerance=0.1,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    dims=1,
    licence="MIT",
    description="",
    sha256="",
)

Visit = Callable[[int, np.ndarray], None]  # hears row and pixels of each patch
Reader = Callable[[Visit], None]


@dataclass(frozen=True)
class Case:
    """One slide and the patches to read from it."""

    name: str
    path: Path
    mpp: float
    align: bool
    target: float | None  # how many times as fast as OpenSlide we mean to be


@dataclass(frozen=True)
class Figures:
    """What was measured for one case; speeds are the medians of the repeats, in patches per second."""

    case: str
    patches: int
    patch_size_level0: int
    tiles_decoded: int
    ours: float
    openslide: float
    openslide_handles: str  # "shared" or "one a thread", whichever was faster
    ratio: float
    target: float | None
    psnr_db: float  # over all patches
    psnr_db_min: float  # of the patch that agrees least
    seconds: dict[str, list[float]]

    @property
    def met(self) -> bool:
        return self.psnr_db >= AGREEMENT and (self.target is None or self.ratio >= self.target)


def ignore(row: int, pixels: np.ndarray) -> None:
    """Timed runs look at no pixels."""


# --- the readers


def our_reader(slide: Slide, grid: Grid, threads: int) -> Reader:
    def read(visit: Visit) -> None:
        for rows, patches in read_patches(slide.pyramid, grid.coords, grid.reading, Damage(), threads):
            for row, patch in zip(rows.tolist(), patches, strict=True):
                visit(row, patch)

    return read


def openslide_reader(handle: Callable[[], openslide.OpenSlide], grid: Grid, threads: int) -> Reader:
    """Regions of level 0, averaged down as our reader's patches are."""
    size, reading = grid.patch_size_level0, grid.reading

    def cut(row: int) -> np.ndarray:
        x, y = grid.coords[row].tolist()
        region = np.asarray(handle().read_region((x, y), 0, (size, size)))[..., :3]
        as_read = resize(np.ascontiguousarray(region), reading.side, reading.side)
        return resize(as_read, reading.patch_size, reading.patch_size)

    def read_block(rows: np.ndarray) -> list[tuple[int, np.ndarray]]:
        return [(row, cut(row)) for row in rows.tolist()]

    def read(visit: Visit) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for found in pool.map(read_block, blocks(grid.coords, reading)):
                for row, patch in found:
                    visit(row, patch)

    return read


def handle_per_thread(path: Path) -> Callable[[], openslide.OpenSlide]:
    local = threading.local()

    def handle() -> openslide.OpenSlide:
        if not hasattr(local, "slide"):
            local.slide = openslide.OpenSlide(path)
        slide: openslide.OpenSlide = local.slide
        return slide

    return handle


def shared_handle(path: Path) -> Callable[[], openslide.OpenSlide]:
    slide = openslide.OpenSlide(path)
    return lambda: slide


# --- what is measured


def measure(case: Case, threads: int, repeats: int, limit: int | None) -> Figures:
    with open_slide(case.path, case.mpp) as slide:
        grid = tissue_grid(slide, case.align, limit)
        ours = our_reader(slide, grid, threads)

        def seconds_of_openslide(handle: Callable[[Path], Callable[[], openslide.OpenSlide]]) -> float:
            return seconds_of(openslide_reader(handle(case.path), grid, threads))  # a handle whose cache is empty

        seconds: dict[str, list[float]] = {"ours": [], "shared": [], "one a thread": []}
        for _ in range(repeats):
            seconds["ours"].append(seconds_of(ours))
            seconds["shared"].append(seconds_of_openslide(shared_handle))
            seconds["one a thread"].append(seconds_of_openslide(handle_per_thread))
        errors = squared_errors(ours, openslide_reader(shared_handle(case.path), grid, threads), len(grid.coords))
        tiles = count_tiles(slide, grid, threads)
    speed = {name: len(grid.coords) / statistics.median(runs) for name, runs in seconds.items()}
    handles = max(("shared", "one a thread"), key=lambda name: speed[name])
    return Figures(
        case=case.name,
        patches=len(grid.coords),
        patch_size_level0=grid.patch_size_level0,
        tiles_decoded=tiles,
        ours=round(speed["ours"], 1),
        openslide=round(speed[handles], 1),
        openslide_handles=handles,
        ratio=round(speed["ours"] / speed[handles], 2),
        target=case.target,
        psnr_db=round(psnr(float(errors.mean())), 2),
        psnr_db_min=round(psnr(float(errors.max())), 2),
        seconds={name: [round(run, 3) for run in runs] for name, runs in seconds.items()},
    )


def tissue_grid(slide: Slide, align: bool, limit: int | None) -> Grid:
    """The first `limit` tissue patches (None for all), block by block."""
    overview = read_overview(slide, Damage())
    mask = find_tissue(overview.pixels, overview.mpp)
    grid = lay_grid(slide.levels, slide.mpp, mask, overview.downsample, CARD, align)
    order = np.concatenate(blocks(grid.coords, grid.reading))[:limit]
    return Grid(grid.coords[order], grid.patch_size_level0, grid.reading, grid.aligned)


def seconds_of(reader: Reader) -> float:
    start = time.perf_counter()
    reader(ignore)
    return time.perf_counter() - start


def squared_errors(one: Reader, other: Reader, count: int) -> np.ndarray:
    """(count,) mean squared difference of each patch."""
    found: dict[int, np.ndarray] = {}
    errors = np.full(count, np.nan)

    def compare(row: int, pixels: np.ndarray) -> None:
        errors[row] = np.mean((found.pop(row).astype(np.float64) - pixels) ** 2)

    one(found.__setitem__)
    other(compare)
    return errors


def psnr(squared_error: float) -> float:
    return 10 * math.log10(255**2 / max(squared_error, 1e-12))


def count_tiles(slide: Slide, grid: Grid, threads: int) -> int:
    """How many tiles are decoded to read all patches."""
    counter = itertools.count()  # its next() is atomic
    decode = slide.pyramid.tile

    def counted(level: int, column: int, row: int, shrink: int = 1) -> np.ndarray | None:
        next(counter)
        return decode(level, column, row, shrink)

    with mock.patch.object(slide.pyramid, "tile", counted):
        our_reader(slide, grid, threads)(ignore)
    return next(counter)


# --- the slide of 240 px RGB tiles


def write_rgb_copy(source: Slide, path: Path, tile: int = 240, quality: int = 70) -> None:
    """An Aperio-like SVS of the same pixels as RGB 4:4:4 at Aperio's usual quality, and a low level for the mask."""
    low_index = len(source.levels) - 1
    low = read_level(source.pyramid, low_index, 1, Damage(), 1)
    width, height = source.size
    size = f"{width}x{height} [0,0 {width}x{height}] ({tile}x{tile})"
    described = f"Aperio Image Library v12.0.15 \r\n{size} JPEG/RGB Q={quality}|AppMag = 40|MPP = {source.mpp:g}"
    options: dict[str, Any] = {
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"outcolorspace": "rgb"},
        "tile": (tile, tile),
        "metadata": None,
        "software": None,
        "subfiletype": 0,
        "dtype": "uint8",
    }
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level, bands in (
            (source.levels[0], level0_bands(source, tile)),
            (source.levels[low_index], cut_bands(low, tile)),
        ):
            streams = (encode_rgb(each, quality) for band in bands for each in tiles_of(band, tile))
            tiff.write(streams, shape=(level.height, level.width, 3), description=described, **options)


def level0_bands(slide: Slide, side: int) -> Iterator[np.ndarray]:
    """Level 0 from above, `side` rows at a time."""
    level = slide.levels[0]
    waiting = np.empty((0, level.width, 3), np.uint8)
    for row in range(level.rows):
        parts = [slide.pyramid.tile(0, column, row) for column in range(level.columns)]
        shape = (level.tile_height, level.tile_width, 3)
        glass = np.full(shape, 255, np.uint8)
        band = np.hstack([glass if part is None else part for part in parts])[:, : level.width]
        waiting = np.concatenate([waiting, band[: level.height - row * level.tile_height]])
        while len(waiting) >= side:
            yield waiting[:side]
            waiting = waiting[side:]
    if len(waiting):
        yield waiting


def cut_bands(image: np.ndarray, side: int) -> Iterator[np.ndarray]:
    return (image[upper : upper + side] for upper in range(0, len(image), side))


def tiles_of(band: np.ndarray, side: int) -> Iterable[np.ndarray]:
    padding = ((0, -band.shape[0] % side), (0, -band.shape[1] % side), (0, 0))
    padded = np.pad(band, padding, mode="edge")
    return (np.ascontiguousarray(padded[:, left : left + side]) for left in range(0, padded.shape[1], side))


def encode_rgb(tile: np.ndarray, quality: int) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(tile, quality, colorspace="rgb", outcolorspace="rgb"))


# --- the slide in DICOM


def write_dicom_copy(source: Slide, folder: Path) -> Path:
    """The same JPEG tiles as the frames of two DICOM files, level 0 and the lowest. The first of them."""
    import dicoms

    last = len(source.levels) - 1
    paths = []
    for index in (0, last):
        level = source.levels[index]
        frames = []
        for row, column in itertools.product(range(level.rows), range(level.columns)):
            encoded = source.pyramid.encoded_tile(index, column, row)
            if encoded is None:
                sys.exit("the slide stores no tile at some places, where DICOM needs one")
            frames.append(encoded.stream)
        size, spacing = (level.width, level.height), source.mpp * level.downsample / 1e3
        dataset = dicoms.image_of(dicoms.Slide(), size, level.tile_width, "YBR_FULL_422", spacing=spacing)
        paths.append(dicoms.save(folder / f"{index}.dcm", dataset, frames, dicoms.CODECS["jpeg"][0]))
    return paths[0]


# --- the script


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    cv2.setNumThreads(1)  # both readers have their threads already
    with tempfile.TemporaryDirectory() as folder:
        ycbcr, rgb = options.slide, options.rgb_slide or Path(folder) / "rgb-240.svs"
        with open_slide(ycbcr, options.mpp) as slide:
            if min(slide.size) < SMALLEST_SIDE:
                sys.exit(f"{ycbcr.name}: expected {SMALLEST_SIDE} px a side, found {slide.size}")
            if not options.rgb_slide:
                write_rgb_copy(slide, rgb)
            dicom = write_dicom_copy(slide, Path(folder))
        cases = (
            Case("256 px YCbCr 4:2:0 tiles", ycbcr, options.mpp, align=False, target=5.0),
            Case("256 px YCbCr 4:2:0 tiles in DICOM", dicom, options.mpp, align=False, target=1.0),
            Case("240 px RGB 4:4:4 tiles", rgb, options.mpp, align=False, target=4.0),
            Case("240 px RGB 4:4:4 tiles, patches on the tiles", rgb, options.mpp, align=True, target=None),
        )
        found = [measure(case, options.threads, options.repeats, options.limit) for case in cases]
    print(table(found, options.threads, options.repeats))
    if options.json:
        figures = [asdict(one) | {"met": one.met} for one in found]
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if all(one.met for one in found) else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", nargs="?", type=Path, default=SLIDE, help="a 40x slide of 256 px YCbCr JPEG tiles")
    parser.add_argument("--rgb-slide", type=Path, help="a 40x slide of 240 px RGB JPEG tiles; made of SLIDE by default")
    parser.add_argument("--mpp", type=float, default=0.25, help="µm per px where the slide does not state it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--limit", type=int, help="read this many patches; all of them by default")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args(arguments)


def table(found: list[Figures], threads: int, repeats: int) -> str:
    lines = [
        f"Patches of 256 px at 0.5 µm per second, {threads} threads, median of {repeats} runs in alternation.",
        "",
        "| slide | px on level 0 | patches | tiles decoded | OpenSlide | wsisum | ratio | target | agreement, dB |",
        "|" + "---|" * 9,
    ]
    for one in found:
        target = f"{one.target:g}" if one.target else "none"
        lines.append(
            f"| {one.case} | {one.patch_size_level0} | {one.patches} | {one.tiles_decoded} | {one.openslide:.0f} "
            f"| {one.ours:.0f} | {one.ratio:.1f} | {target} | {one.psnr_db:.1f} (worst patch {one.psnr_db_min:.1f}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
