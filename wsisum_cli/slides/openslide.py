"""Slides in vendors' own formats, decoded by OpenSlide: MRXS, VMS, and TIFFs not readable by tile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsisum_cli.errors import SlideError, TileError
from wsisum_cli.slides.header import both, clean_model, number, positive
from wsisum_cli.slides.pixels import shrunk
from wsisum_cli.slides.pyramid import MAX_TILE_PIXELS, Level, Pyramid, describe_error, downsample
from wsisum_cli.slides.source import companion

if TYPE_CHECKING:
    from openslide import OpenSlide

TILE = 512  # px a side; OpenSlide has no tiles of its own to offer, so levels are cut evenly
MAX_STRIPE_PIXELS = 1 << 26
CACHE_BYTES = 64 << 20  # of decoded tiles, for all handles together
SIDES = ("width", "height")
MODEL_PROPERTIES = ("hamamatsu.Product", "leica.device-model")


class VendorPyramid(Pyramid):
    """Raises NotASlideError or SlideError."""

    def __init__(self, path: Path) -> None:
        import openslide

        self.path = path
        self.reader = f"openslide {openslide.__library_version__}"
        if path.suffix.lower() == ".mrxs" and path.is_file() and companion(path) is None:
            missing = f"the folder {path.stem} with its pixels is missing beside it"
            raise SlideError(f"{path.name}: {missing}; copy it there too", "pixels missing")
        self._cache = openslide.OpenSlideCache(CACHE_BYTES)
        try:
            slide = self._another()
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(f"{path.name}: no reader can open it ({describe_error(error, path)})") from error
        self._idle = [slide]
        try:
            self._describe(slide)
        except BaseException:
            self.close()
            raise

    def _describe(self, slide: OpenSlide) -> None:
        refuse_huge_tiles(slide, self.path)
        properties = slide.properties
        self.vendor = properties.get("openslide.vendor", "unknown")
        found = (properties.get(key) for key in MODEL_PROPERTIES)
        self.scanner = clean_model(next((value for value in found if value), None))
        self.mpp = pixel_size(properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y"))
        self.mpp_source = f"{self.vendor} header by OpenSlide" if self.mpp else ""
        self.icc_profile = icc_profile(slide)
        self._background = background(properties.get("openslide.background-color"))
        width0, height0 = slide.dimensions
        self.levels = tuple(
            Level(width, height, TILE, TILE, downsample(width0, height0, width, height))
            for width, height in slide.level_dimensions
        )
        # Where OpenSlide places the px of a level; our own downsample is rounded to a whole number.
        self._steps = slide.level_downsamples

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> np.ndarray | None:
        import openslide

        at = self.levels[level]
        width = min(TILE, at.width - column * TILE)
        height = min(TILE, at.height - row * TILE)
        x0, y0 = (round(index * TILE * self._steps[level]) for index in (column, row))
        try:
            rgba = self._region((x0, y0), level, (width, height))
        except (openslide.OpenSlideError, OSError) as error:
            where = f"tile at column {column}, row {row} of level {level}"
            found = describe_error(error, self.path)
            raise TileError(f"{self.path.name}: {where} cannot be decoded ({found})") from error
        pixels = over_background(rgba, self._background)
        return None if pixels is None else shrunk(pixels, shrink)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _region(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """(H, W, 4) premultiplied.

        After one error OpenSlide's handle answers every read with that error. So each read has a handle for
        itself, and one that failed is not used again: other tiles do not suffer, in whatever thread they are read.
        """
        try:
            slide = self._idle.pop()
        except IndexError:
            slide = self._another()
        try:
            pixels = np.asarray(slide.read_region(corner, level, size))
        except BaseException:
            slide.close()
            raise
        self._idle.append(slide)
        return pixels

    def _another(self) -> OpenSlide:
        import openslide

        slide = openslide.OpenSlide(self.path)
        slide.set_cache(self._cache)
        return slide


def refuse_huge_tiles(slide: OpenSlide, path: Path) -> None:
    """OpenSlide ends the whole process when it cannot allocate the tile that a damaged header tells of."""
    for index in range(slide.level_count):
        width, height = (int(slide.properties.get(f"openslide.level[{index}].tile-{side}", 0)) for side in SIDES)
        stripes = slide.properties.get("openslide.vendor") == "hamamatsu"  # of JPEGs without restart markers
        if width * height > (MAX_STRIPE_PIXELS if stripes else MAX_TILE_PIXELS):
            raise SlideError(f"{path.name}: damaged header, it tells of tiles of {width} x {height} px")


def icc_profile(slide: OpenSlide) -> bytes | None:
    """None where there is none, or none that can be read."""
    try:
        profile = slide.color_profile
    except (OSError, ValueError):
        return None
    return profile.tobytes() if profile else None


def pixel_size(x: str | None, y: str | None) -> tuple[float, float] | None:
    return positive(both(number(x), number(y)))


def background(colour: str | None) -> tuple[int, int, int]:
    """OpenSlide's background-color property, six hex digits; white where it says nothing."""
    try:
        red, green, blue = bytes.fromhex(colour or "FFFFFF")
    except ValueError:
        return 255, 255, 255
    return red, green, blue


def over_background(rgba: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray | None:
    """Premultiplied (H, W, 4) over the background as (H, W, 3); None where nothing was scanned."""
    alpha = rgba[..., 3:]
    if not alpha.any():
        return None
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    mixed = rgba[..., :3] * (alpha / 255.0) + np.array(colour) * (1 - alpha / 255.0)
    return mixed.round().astype(np.uint8)
