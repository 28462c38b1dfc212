"""Open a whole-slide image: choose the reader, settle the pixel size, read the overview."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsisum_cli.damage import Damage
from wsisum_cli.errors import MppError, SlideError, TileError
from wsisum_cli.pyramid import Level, Pyramid, choose_scale
from wsisum_cli.tiff import NeedsOpenSlideError, TiffPyramid
from wsisum_cli.vendor import VendorPyramid

TIFF_SUFFIXES = {".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".btf", ".tf8"}
VENDOR_SUFFIXES = {".mrxs", ".vms", ".vmu", ".dcm", ".svslide", ".czi"}
SLIDE_SUFFIXES = TIFF_SUFFIXES | VENDOR_SUFFIXES

PLAUSIBLE_MPP = (
    0.05,
    10.0,
)  # µm: below the diffraction limit of any objective, and coarser than any slide scan
MAX_ANISOTROPY = 0.1  # relative difference of pixel width and height that a square patch bears
OVERVIEW_MPP = 8.0
OVERVIEW_SIDE = 4096  # px at most, so that memory does not grow with the slide
GLASS = 255


@dataclass(frozen=True)
class Slide:
    """An open slide whose pixel size is known."""

    name: str  # file name, or what the manifest calls it; never a path
    pyramid: Pyramid
    mpp: float  # µm per level-0 px
    mpp_source: str

    @property
    def levels(self) -> tuple[Level, ...]:
        return self.pyramid.levels

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 px."""
        return self.levels[0].width, self.levels[0].height


@dataclass(frozen=True)
class Overview:
    """The whole slide at low resolution."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB
    downsample: float  # level-0 px per overview px
    mpp: float


@contextmanager
def open_slide(path: Path, mpp: float | None = None, name: str | None = None) -> Iterator[Slide]:
    """Open `path`; `mpp` serves where the file states no pixel size.

    Raises SlideError or one of its children, MppError when no plausible pixel size is known.
    """
    pyramid = open_pyramid(path)
    try:
        size, source = settle_mpp(pyramid, mpp)
        yield Slide(name or path.name, pyramid, size, source)
    finally:
        pyramid.close()


def open_pyramid(path: Path) -> Pyramid:
    """Tifffile where it can read tile by tile, OpenSlide for the rest."""
    if path.suffix.lower() in VENDOR_SUFFIXES:
        return VendorPyramid(path)
    try:
        return TiffPyramid(path)
    except NeedsOpenSlideError as error:
        return open_as_vendor(path, str(error))


def open_as_vendor(path: Path, why: str) -> Pyramid:
    try:
        return VendorPyramid(path)
    except SlideError as error:
        raise SlideError(f"{path.name}: not readable by tile ({why}), and {error}") from error


def settle_mpp(pyramid: Pyramid, given: float | None) -> tuple[float, str]:
    """The pixel size the file states, else the one given; never a guess. Raises MppError."""
    name = pyramid.path.name
    hint = "pass --mpp, or list it in --manifest"
    low, high = PLAUSIBLE_MPP
    if pyramid.mpp is None:
        if given is None:
            raise MppError(f"{name}: no pixel size in the file; {hint}")
        return given, "given"
    x, y = pyramid.mpp
    if low <= min(x, y) and max(x, y) <= high:
        if abs(x - y) > MAX_ANISOTROPY * min(x, y):
            raise MppError(f"{name}: pixels of {x:g} x {y:g} µm are not square", "implausible pixel size")
        return (x + y) / 2, pyramid.mpp_source
    if given is not None:
        return given, "given"
    raise MppError(
        f"{name}: a pixel size of {x:g} x {y:g} µm ({pyramid.mpp_source}) is outside {low:g} to {high:g}; {hint}",
        "implausible pixel size",
    )


def read_overview(slide: Slide, damage: Damage, threads: int = 1) -> Overview:
    """The slide at about `OVERVIEW_MPP`, coarser where it would exceed `OVERVIEW_SIDE`.

    Tiles that cannot be read are noted in `damage` and left as glass. Raises BrokenSlideError when those are
    too many.
    """
    import cv2

    width0, height0 = slide.size
    scale = max(OVERVIEW_MPP / slide.mpp, max(width0, height0) / OVERVIEW_SIDE, 1.0)
    shape = (max(1, round(height0 / scale)), max(1, round(width0 / scale)))
    index, shrink, read_scale = choose_scale(slide.levels, scale)
    canvas = read_level(slide.pyramid, index, shrink, damage, threads)
    if canvas.shape[:2] != shape:
        canvas = cv2.resize(canvas, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return Overview(canvas, scale, slide.mpp * scale)


def read_level(pyramid: Pyramid, index: int, shrink: int, damage: Damage, threads: int) -> np.ndarray:
    """A whole level as (H, W, 3), each side divided by `shrink`."""
    level = pyramid.levels[index]
    height, width = math.ceil(level.height / shrink), math.ceil(level.width / shrink)
    step_x, step_y = level.tile_width // shrink, level.tile_height // shrink
    canvas = np.full((height, width, 3), GLASS, np.uint8)

    def place(at: tuple[int, int]) -> None:
        column, row = at
        try:
            tile = pyramid.tile(index, column, row, shrink)
        except TileError as error:
            damage.note(index, column, row, str(error))
            return
        damage.tried()
        if tile is not None:
            part = canvas[row * step_y : (row + 1) * step_y, column * step_x : (column + 1) * step_x]
            height, width = min(part.shape[0], tile.shape[0]), min(part.shape[1], tile.shape[1])
            part[:height, :width] = tile[:height, :width]

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(place, ((c, r) for r in range(level.rows) for c in range(level.columns))):
            pass
    damage.check(pyramid.path.name)
    return canvas
