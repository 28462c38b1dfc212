"""Broken tiles -> where tissue may lie that no patch holds: as the file says, and as the slide shows.

A tile that cannot be read takes the patches that touch it along. Their tissue is excused from the tissue map there, and
there alone, and only as far as the file counts it as unread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.errors import TileError
from wsisum_cli.slides.slide import Slide
from wsisum_cli.summary.attributes import Attributes, Patch
from wsisum_cli.summary.writer import ROOT
from wsisum_cli.tissue.coverage import painted
from wsisum_cli.verification.finding import Finding

Mask = NDArray[np.bool_]
At = tuple[int, int, int]  # level, column, row

#: Area of wide tissue under broken tiles over that of the unread patches; rims that have no patch add to it.
MOST_OVER_UNREAD = 2.0


@dataclass(frozen=True)
class Excused:
    """Where tissue need not have patches: (H, W) bool on an overview, and the most px of it, inf where not known."""

    where: Mask
    most_px: float


def excused_by_file(record: Attributes, downsample: float, shape: tuple[int, int]) -> Excused:
    """Around the tiles that the file lists as broken; anywhere, where it does not list them all."""
    listed = [(level, column, row) for level, column, row in record.broken_tiles.positions]
    if record.broken_tiles.count > len(listed):
        where = np.ones(shape, bool)
    else:
        where = around_tiles(record.patch, listed, downsample, shape)
    return Excused(where, unread_px(record, downsample))


def excused_by_slide(record: Attributes, slide: Slide, wide: Mask, downsample: float) -> Excused:
    """Around those tiles under `wide` areas, (H, W) bool, that cannot be read from the slide."""
    shape = (wide.shape[0], wide.shape[1])
    if not record.broken_tiles.count or not wide.any():
        return Excused(np.zeros(shape, bool), 0.0)
    reading = record.patch.reading
    width, height = reading.tile_width * reading.scale / downsample, reading.tile_height * reading.scale / downsample
    rows, columns = np.nonzero(wide)
    under = {(reading.level, int(x), int(y)) for x, y in zip(columns // width, rows // height, strict=True)}
    broken = [at for at in sorted(under) if not is_readable(slide, at, reading.shrink)]
    return Excused(around_tiles(record.patch, broken, downsample, shape), unread_px(record, downsample))


def unread_px(record: Attributes, downsample: float) -> float:
    """How many px of an overview the patches take that the file counts as unread; inf before format 1.4."""
    if record.represented is None:
        return float("inf")
    return record.represented.unread * (record.patch.patch_size_level0 / downsample) ** 2


def around_tiles(patch: Patch, tiles: Iterable[At], downsample: float, shape: tuple[int, int]) -> Mask:
    """(H, W) bool: where patches lie that touch any of the tiles; tiles of other levels than patches have cost none."""
    reading, side = patch.reading, patch.patch_size_level0
    at = np.array([(column, row) for level, column, row in tiles if level == reading.level], float).reshape(-1, 2)
    tile = np.array([reading.tile_width, reading.tile_height]) * reading.scale
    return painted(shape, (at * tile - side) / downsample, (tile + 2 * side) / downsample)


def tiles_painted(slide: Slide, tiles: Iterable[At], downsample: float, shape: tuple[int, int]) -> Mask:
    """(H, W) bool: where tiles of any level of the slide lie, and a px around them."""
    where = np.zeros(shape, bool)
    for level, column, row in tiles:
        grid = slide.levels[level]
        tile = np.array([grid.tile_width, grid.tile_height]) * grid.downsample / downsample
        where |= painted(shape, np.array([[column, row]]) * tile - 1, tile + 2)
    return where


def compare_broken_tiles(record: Attributes, slide: Slide) -> Iterator[Finding]:
    """The tiles that the file lists as broken cannot be read from the slide either."""
    listed = [(level, column, row) for level, column, row in record.broken_tiles.positions]
    read = [at for at in listed if is_readable(slide, at, record.patch.reading.shrink)]
    if read:
        level, column, row = read[0]
        message = (
            f"{len(read)} of {len(listed)} tiles listed as broken are not, the first is at column {column}, row {row} "
            f"of level {level}"
        )
        yield Finding("broken-tiles-differ", message, ROOT)


def is_readable(slide: Slide, at: At, shrink: int) -> bool:
    """Whether the slide has such a tile and gives its pixels, in full and as patches read it."""
    level, column, row = at
    if level >= len(slide.levels):
        return True  # no tile of this slide, so none that is broken
    grid = slide.levels[level]
    if column >= grid.columns or row >= grid.rows:
        return True
    try:
        for factor in {1, shrink}:
            slide.pyramid.tile(level, column, row, factor)
    except TileError:
        return False
    return True
