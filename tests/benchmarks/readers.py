"""Readers of tissue patches: this project's, those of other libraries, and the floor below all of them.

Every reader hands the same patches over, in the same order or the order of its threads, and may use as many threads.
Other libraries are used as their documentation advises for speed. A library that is not installed has no reader.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import simplejpeg

from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import CACHE_BYTES, Tile, blocks, map_ahead, read_patches, shared_tiles
from wsisum_cli.slides.pixels import resize
from wsisum_cli.slides.slide import Slide
from wsisum_cli.tissue.grid import Grid

Visit = Callable[[int, np.ndarray], None]  # hears row and pixels of each patch
Reader = Callable[[Visit], None]
Region = Callable[[int, int], np.ndarray]  # pixels of the patch at x, y of level 0
OURS, FLOOR, OPENSLIDE = "wsisum", "floor", "OpenSlide"
JPEG_START = b"\xff\xd8"
BATCH = 8  # regions that cuCIM reads at once


@dataclass(frozen=True)
class Task:
    """The patches to read from one slide."""

    path: Path
    slide: Slide
    grid: Grid
    threads: int

    @property
    def cache(self) -> int:
        """Bytes of a cache that helps: none where no two patches touch the same tile."""
        return CACHE_BYTES if shared_tiles(self.grid.reading, self.grid.coords) else 0


def ignore(row: int, pixels: np.ndarray) -> None:
    """Timed runs look at no pixels."""


def our_reader(task: Task) -> Reader:
    def read(visit: Visit) -> None:
        grid = task.grid
        for rows, patches in read_patches(task.slide.pyramid, grid.coords, grid.reading, Damage(), task.threads):
            for row, patch in zip(rows.tolist(), patches, strict=True):
                visit(row, patch)

    return read


# --- other libraries


@dataclass(frozen=True)
class Window:
    """What another library reads of each patch: a square of its best level."""

    level: int
    side: int  # px of that level
    downsample: float


def choose_window(downsamples: Sequence[float], grid: Grid) -> Window:
    """The coarsest level at least as fine as a patch."""
    wanted = grid.patch_size_level0 / grid.reading.patch_size * 1.01
    level = max(i for i, downsample in enumerate(downsamples) if downsample <= max(wanted, downsamples[0]))
    return Window(level, round(grid.patch_size_level0 / downsamples[level]), downsamples[level])


def threaded(task: Task, region: Region) -> Reader:
    """Every patch by a call of its own, in threads that take a block of neighbours each."""
    side = task.grid.reading.patch_size

    def read_block(rows: np.ndarray) -> list[tuple[int, np.ndarray]]:
        corners = task.grid.coords[rows].tolist()
        return [(row, resize(region(x, y), side, side)) for row, (x, y) in zip(rows.tolist(), corners, strict=True)]

    def read(visit: Visit) -> None:
        with ThreadPoolExecutor(task.threads) as pool:
            parts = blocks(task.grid.coords, task.grid.reading)
            for found in map_ahead(pool, read_block, parts, 2 * task.threads):
                for row, patch in found:
                    visit(row, patch)

    return read


def per_thread(make: Callable[[], Any]) -> Callable[[], Any]:
    """What `make` makes, once in each thread."""
    local = threading.local()

    def get() -> Any:
        if not hasattr(local, "made"):
            local.made = make()
        return local.made

    return get


def openslide_reader(task: Task) -> Reader:
    """A handle for each thread, and one cache for all of them."""
    cache = openslide.OpenSlideCache(CACHE_BYTES)

    def opened() -> openslide.OpenSlide:
        slide = openslide.OpenSlide(task.path)
        slide.set_cache(cache)
        return slide

    handle = per_thread(opened)
    window = choose_window(handle().level_downsamples, task.grid)
    size = (window.side, window.side)

    def region(x: int, y: int) -> np.ndarray:
        return np.ascontiguousarray(np.asarray(handle().read_region((x, y), window.level, size))[..., :3])

    return threaded(task, region)


def tiffslide_reader(task: Task) -> Reader:
    """A handle for each thread; pixels as arrays, not as images of Pillow."""
    tiffslide = import_module("tiffslide")
    handle = per_thread(lambda: tiffslide.TiffSlide(task.path))
    window = choose_window(handle().level_downsamples, task.grid)
    size = (window.side, window.side)

    def region(x: int, y: int) -> np.ndarray:
        return np.ascontiguousarray(handle().read_region((x, y), window.level, size, as_array=True))

    return threaded(task, region)


def fastslide_reader(task: Task) -> Reader:
    """One handle for all threads: reads release Python's lock, and are safe in threads."""
    slide = import_module("fastslide").FastSlide.from_file_path(str(task.path))
    slide.set_cache(task.cache or None)
    window = choose_window(slide.level_downsamples, task.grid)
    size = (window.side, window.side)

    def region(x: int, y: int) -> np.ndarray:
        corner = slide.convert_level0_to_level_native(x, y, window.level) if window.level else (x, y)
        return np.asarray(slide.read_region(location=corner, level=window.level, size=size).numpy())

    return threaded(task, region)


def cucim_reader(task: Task) -> Reader:
    """Batches of regions, read ahead by its own threads, with its cache in this process."""
    cucim = import_module("cucim")
    cucim.CuImage.cache("per_process" if task.cache else "nocache", memory_capacity=task.cache >> 20)  # MiB
    image = cucim.CuImage(str(task.path))
    window = choose_window(image.resolutions["level_downsamples"], task.grid)
    rows = np.concatenate(blocks(task.grid.coords, task.grid.reading))
    corners = task.grid.coords[rows].astype(np.int64).ravel().tolist()

    def batches() -> Iterator[np.ndarray]:
        size = (window.side, window.side)
        several = {"num_workers": task.threads, "batch_size": min(BATCH, len(rows))}
        for batch in image.read_region(corners, size, window.level, **several):
            yield np.asarray(batch).reshape(-1, window.side, window.side, 3)

    def read(visit: Visit) -> None:
        side, at = task.grid.reading.patch_size, 0
        for batch in batches():
            for pixels in batch:
                visit(int(rows[at]), resize(pixels, side, side))
                at += 1

    return read


@dataclass(frozen=True)
class Rival:
    """Another library that reads slides."""

    name: str
    packages: tuple[str, ...]  # one of which is installed where it is
    make: Callable[[Task], Reader]

    @property
    def version(self) -> str | None:
        """None where it is not installed."""
        return next((found for package in self.packages if (found := installed(package))), None)


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


RIVALS = (
    Rival(OPENSLIDE, ("openslide-python",), openslide_reader),
    Rival("tiffslide", ("tiffslide",), tiffslide_reader),
    Rival("fastslide", ("fastslide",), fastslide_reader),
    Rival("cuCIM", ("cucim-cu13", "cucim-cu12", "cucim"), cucim_reader),
)


# --- the floor


def needed_tiles(grid: Grid) -> list[Tile]:
    """Every tile that a patch touches, row by row."""
    return sorted({tile for x, y in grid.coords.tolist() for tile in grid.reading.tiles(x, y)}, key=lambda t: t[::-1])


def tile_floor(task: Task) -> Callable[[], None]:
    """Decode every tile needed once, at the size at which it is read, and drop it.

    Streams of JPEG are read before and decoded by libjpeg-turbo and nothing else; other tiles are read and decoded as
    the project does.
    """
    reading, pyramid = task.grid.reading, task.slide.pyramid
    tiles = needed_tiles(task.grid)
    encoded = [pyramid.encoded_tile(reading.level, *tile) for tile in tiles]
    streams = [tile.stream for tile in encoded if tile is not None] if is_jpeg(task) else []
    others = [] if streams else tiles

    def decode_streams(part: Sequence[bytes]) -> None:
        for stream in part:
            simplejpeg.decode_jpeg(stream, **limits(stream, reading.shrink))

    def decode_others(part: Sequence[Tile]) -> None:
        for tile in part:
            pyramid.tile(reading.level, *tile, reading.shrink)

    def decode() -> None:
        with ThreadPoolExecutor(task.threads) as pool:
            list(pool.map(decode_streams, parts_of(streams)))
            list(pool.map(decode_others, parts_of(others)))

    return decode


def is_jpeg(task: Task) -> bool:
    """Whether the tiles that patches are read from are JPEG, by the first that the file holds."""
    level = task.grid.reading.level
    found = (task.slide.pyramid.encoded_tile(level, *tile) for tile in needed_tiles(task.grid))
    first = next((tile for tile in found if tile is not None), None)
    return first is not None and first.stream.startswith(JPEG_START)


def limits(stream: bytes, shrink: int) -> dict[str, int]:
    """The arguments without any of which simplejpeg decodes at full size."""
    if shrink == 1:
        return {}
    height, width, *_ = simplejpeg.decode_jpeg_header(stream)
    return {"min_height": -(-height // shrink), "min_width": -(-width // shrink), "min_factor": shrink}


def parts_of(items: Sequence[Any], size: int = 32) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
