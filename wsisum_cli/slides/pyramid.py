"""The levels of a slide and their tiles: the one interface behind which every file format lies."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Factors by which a tile can be decoded smaller; the discrete cosine transform of JPEG offers just these.
SHRINKS = (8, 4, 2, 1)

#: px that one tile may have, 4096 a side. Damaged headers tell of tiles of any size, and decoders allocate what they
#: are told, several at a time.
MAX_TILE_PIXELS = 1 << 24


@dataclass(frozen=True)
class Level:
    """One resolution of a slide, cut into tiles of equal size from the upper left corner."""

    width: int  # px of this level
    height: int
    tile_width: int
    tile_height: int
    downsample: float  # level-0 px per px of this level
    usable: bool = True  # False for a level that disagrees with level 0

    @property
    def columns(self) -> int:
        return math.ceil(self.width / self.tile_width)

    @property
    def rows(self) -> int:
        return math.ceil(self.height / self.tile_height)

    def shrinks(self) -> tuple[int, ...]:
        """Factors that divide the tile, largest first: a tile shrunk by another would not fit its neighbour."""
        return tuple(s for s in SHRINKS if self.tile_width % s == 0 and self.tile_height % s == 0)


class Pyramid(ABC):
    """An open slide file. Tiles may be read from several threads at once."""

    path: Path
    reader: str  # library and version that decode the pixels
    vendor: str
    scanner: str | None  # model of the scanner, never its serial number
    levels: tuple[Level, ...]  # falling resolution, level 0 first
    mpp: tuple[float, float] | None  # µm per level-0 px in x and y, None when the file does not say
    mpp_source: str  # where in the file the pixel size was found
    icc_profile: bytes | None
    image: int | None = None  # which of the slides in the file this is, from 1; None where there is one
    focal_plane: tuple[int, int] | None = None  # number from 1 of the plane read, and how many; None where there is one
    notes: tuple[str, ...] = ()  # what a person should know of how the pixels were read; a clause each

    @abstractmethod
    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> np.ndarray | None:
        """Pixels of one tile as (H, W, 3) uint8 RGB, each side divided by `shrink`.

        None where the file stores no tile, which means glass. At the right and lower edge a tile may be
        padded beyond the level, or shorter than the others. Raises TileError.
        """

    def encoded_tile(self, level: int, column: int, row: int) -> EncodedTile | None:
        """The tile as the scanner compressed it, None where the file stores none. Raises TileError."""
        where = f"{level}, {column}, {row}"
        raise NotImplementedError(f"{self.reader} hands out no encoded tile {where}")  # guarded by copies_jpeg

    def copies_jpeg(self, level: int) -> bool:  # noqa: ARG002 - what reads a TIFF looks at it
        """Whether `encoded_tile` gives JPEG streams at this level."""
        return False

    @abstractmethod
    def close(self) -> None: ...


@dataclass(frozen=True)
class EncodedTile:
    """A complete JPEG stream, and how many of its bytes behind the SOI marker the source file did not have."""

    stream: bytes
    spliced: int


def describe_error(error: Exception, path: Path) -> str:
    """What went wrong with the file at `path`, without the folder it lies in: messages end in reports."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    for folder in {str(path.parent), str(path.parent.absolute())} - {"."}:
        text = text.replace(folder + os.sep, "")
    return text


def downsample(width0: int, height0: int, width: int, height: int) -> float:
    """Level-0 px per level px; a whole number where the level's size is that of a whole-number reduction."""
    ratio = (width0 / width + height0 / height) / 2
    whole = round(ratio)
    if whole and abs(width - width0 / whole) <= 1 and abs(height - height0 / whole) <= 1:
        return float(whole)
    return ratio


def choose_scale(levels: tuple[Level, ...], read_scale: float, tolerance: float = 0.0) -> tuple[int, int, float]:
    """The cheapest way to read pixels of about `read_scale` level-0 px a side.

    Returns level, shrink and the scale reached (level-0 px per px read), which is at most
    `read_scale * (1 + tolerance)`: finer pixels are averaged down by the caller. Where even level 0 is coarser
    than that, level 0 it is.
    """
    ways = [
        (level.downsample * shrink, index, shrink)
        for index, level in enumerate(levels)
        for shrink in level.shrinks()
        if level.usable and level.downsample * shrink <= read_scale * (1 + tolerance) + 1e-9
    ]
    if not ways:
        return 0, 1, 1.0
    scale, index, shrink = max(ways)  # of equal scales the smaller level: fewer bytes to read
    return index, shrink, scale
