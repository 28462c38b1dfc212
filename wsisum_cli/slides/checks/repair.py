"""Pyramids made fit to read: without levels that disagree, tiles taken from finer levels, pixels made square."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from wsisum_cli.errors import TileError
from wsisum_cli.slides.patches import paste
from wsisum_cli.slides.pixels import resize
from wsisum_cli.slides.pyramid import EncodedTile, Level, Pyramid

GLASS = 255
SQUARE_TILE = 512  # px a side of the tiles into which resampled levels are cut
#: Widths and heights up to this relative difference are taken for square.
MAX_ANISOTROPY = 0.01

At = tuple[int, int, int]  # level, column, row


class PartlyReadError(TileError):
    """A tile some parts of which no level holds: `pixels` has them as glass, `lost` says which and why."""

    def __init__(self, message: str, pixels: np.ndarray, lost: dict[At, str], read: int) -> None:
        super().__init__(message)
        self.pixels, self.lost, self.read = pixels, lost, read


@dataclass
class Assembly:
    """A rectangle of a level, put together from tiles."""

    pixels: np.ndarray
    lost: dict[At, str] = field(default_factory=dict)  # tiles that could not be read, and why
    read: int = 0  # tiles that could, those that are glass included
    stored: bool = False  # whether any of those had pixels


class WrappedPyramid(Pyramid):
    """Another pyramid's facts; the base of what changes its tiles."""

    def __init__(self, pyramid: Pyramid) -> None:
        self.inner = pyramid
        self.path, self.reader = pyramid.path, pyramid.reader
        self.vendor, self.scanner = pyramid.vendor, pyramid.scanner
        self.levels, self.notes = pyramid.levels, pyramid.notes
        self.mpp, self.mpp_source = pyramid.mpp, pyramid.mpp_source
        self.icc_profile = pyramid.icc_profile
        self.image, self.focal_plane = pyramid.image, pyramid.focal_plane

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> np.ndarray | None:
        return self.inner.tile(level, column, row, shrink)

    def encoded_tile(self, level: int, column: int, row: int) -> EncodedTile | None:
        return self.inner.encoded_tile(level, column, row)

    def copies_jpeg(self, level: int) -> bool:
        return self.inner.copies_jpeg(level)

    def close(self) -> None:
        self.inner.close()


class RepairedPyramid(WrappedPyramid):
    """Only the levels in `good` are used; what one of them lacks is taken from the next finer one that has it."""

    def __init__(self, pyramid: Pyramid, good: tuple[int, ...]) -> None:
        super().__init__(pyramid)
        self.levels = tuple(replace(level, usable=index in good) for index, level in enumerate(pyramid.levels))
        self.repaired: set[At] = set()  # tiles taken from finer levels

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> np.ndarray | None:
        """As the pyramid's. Raises PartlyReadError where parts are lost at every level."""
        try:
            return self.inner.tile(level, column, row, shrink)
        except TileError as error:
            if level == 0:
                raise
            found = self._from_finer(level, column, row, shrink)
            if not found.read:
                raise
            if found.lost:
                raise PartlyReadError(str(error), found.pixels, found.lost, found.read) from error
        self.repaired.add((level, column, row))
        return found.pixels if found.stored else None

    def encoded_tile(self, level: int, column: int, row: int) -> EncodedTile | None:
        encoded = self.inner.encoded_tile(level, column, row)
        if encoded is not None and level:  # what `tile` repairs is not to be copied
            self.inner.tile(level, column, row)
        return encoded

    def _from_finer(self, index: int, column: int, row: int, shrink: int) -> Assembly:
        level, upper = self.levels[index], max(i for i in range(index) if self.levels[i].usable)
        left, top = column * level.tile_width, row * level.tile_height
        width, height = min(level.tile_width, level.width - left), min(level.tile_height, level.height - top)
        ratio = level.downsample / self.levels[upper].downsample
        rectangle = (left * ratio, top * ratio, width * ratio, height * ratio)
        return assemble(self, upper, rectangle, (max(1, height // shrink), max(1, width // shrink)))


class SquarePyramid(WrappedPyramid):
    """A pyramid whose pixels are wider than high, or the reverse, resampled to squares of their shorter side."""

    def __init__(self, pyramid: Pyramid, mpp: tuple[float, float]) -> None:
        super().__init__(pyramid)
        side = min(mpp)
        self._stretch = mpp[0] / side, mpp[1] / side  # px of ours per px of theirs
        self.mpp = (side, side)
        self.levels = tuple(self._squared(level) for level in pyramid.levels)
        self.notes = (*pyramid.notes, f"pixels of {mpp[0]:g} x {mpp[1]:g} µm were resampled to squares of {side:g} µm")

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> np.ndarray | None:
        ours, (across, down) = self.levels[level], self._stretch
        left, top = column * SQUARE_TILE, row * SQUARE_TILE
        width, height = min(SQUARE_TILE, ours.width - left), min(SQUARE_TILE, ours.height - top)
        rectangle = (left / across, top / down, width / across, height / down)
        found = assemble(self.inner, level, rectangle, (max(1, height // shrink), max(1, width // shrink)))
        if found.lost:
            raise TileError(next(iter(found.lost.values())))
        return found.pixels if found.stored else None

    def copies_jpeg(self, level: int) -> bool:  # noqa: ARG002 - none of its tiles is the file's
        return False

    def _squared(self, level: Level) -> Level:
        across, down = self._stretch
        width, height = round(level.width * across), round(level.height * down)
        return Level(width, height, SQUARE_TILE, SQUARE_TILE, level.downsample, level.usable)


def assemble(
    pyramid: Pyramid, index: int, rectangle: tuple[float, float, float, float], shape: tuple[int, int]
) -> Assembly:
    """The `rectangle` (left, top, width, height in px of a level) as an image of `shape` (height, width)."""
    level, (left, top, width, height) = pyramid.levels[index], rectangle
    factor = min(width / shape[1], height / shape[0])
    shrink = next((s for s in level.shrinks() if s <= factor * (1 + 1e-6)), 1)
    x, y = round(left / shrink), round(top / shrink)
    columns, rows = max(1, round((left + width) / shrink) - x), max(1, round((top + height) / shrink) - y)
    step_x, step_y = level.tile_width // shrink, level.tile_height // shrink
    found = Assembly(np.full((rows, columns, 3), GLASS, np.uint8))
    for row in range(y // step_y, min((y + rows - 1) // step_y, level.rows - 1) + 1):
        for column in range(x // step_x, min((x + columns - 1) // step_x, level.columns - 1) + 1):
            place(found, pyramid, (index, column, row), shrink, (column * step_x - x, row * step_y - y))
    found.pixels = resize(found.pixels, *shape)
    return found


def place(found: Assembly, pyramid: Pyramid, at: At, shrink: int, corner: tuple[int, int]) -> None:
    """Put a tile where it lies, or note that it is lost."""
    try:
        tile = pyramid.tile(*at, shrink)
    except PartlyReadError as error:
        tile = error.pixels
        found.lost |= error.lost
        found.read += error.read
    except TileError as error:
        found.lost[at] = str(error)
        return
    found.read += 1
    if tile is not None:
        found.stored = True
        paste(found.pixels, tile, *corner)
