"""Tissue mask and model card -> patch coords. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsisum_cli.errors import MppError, NotASlideError
from wsisum_cli.models.card import Card
from wsisum_cli.slides.patches import Reading, plan_reading
from wsisum_cli.slides.pyramid import Level

MIN_TISSUE = 0.25  # share of a patch
#: Area of the tiles a patch touches over its own, past which copying tiles costs more than it keeps.
MAX_PULL = 2.5
ROUNDING = 1e-9  # limits that are met exactly must not fail for the last bit of a float


@dataclass(frozen=True)
class Grid:
    """Where the patches of a slide lie and how they are read."""

    coords: np.ndarray  # (N, 2) int32 x, y of the upper left corner, level-0 px, row by row
    patch_size_level0: int
    reading: Reading
    aligned: bool  # every patch ends where tiles end


def lay_grid(
    levels: Sequence[Level],
    mpp: float,
    mask: np.ndarray,
    mask_downsample: float,
    card: Card,
    align: bool,
    name: str = "the slide",
) -> Grid:
    """Lay non-overlapping patches of `card.patch_size` px at `card.mpp` over the tissue.

    `mpp` is that of level 0; `mask` is (H, W) bool, one px for `mask_downsample` level-0 px a side. Patches lie
    wholly inside level 0; one is kept if `MIN_TISSUE` of it is tissue. With `align` the patch side may change
    by `card.mpp_tolerance` so that patches end where tiles end. Raises MppError when the slide is coarser than
    the encoder asks for, NotASlideError when it holds no whole patch; both call the slide by its `name`. Finding
    no tissue gives no coords.
    """
    side = exact_side(mpp, card, name)
    size = round(side)
    if align:
        size = aligned_size(levels, side, card) or size
    width, height = levels[0].width, levels[0].height
    columns, rows = width // size, height // size
    if not columns or not rows:
        raise NotASlideError(
            f"{name}: {width} x {height} px are too small: one patch of {card.name} takes {size} px at {mpp:g} µm",
            "too small",
        )
    share = tissue_share(mask, mask_downsample, size, columns, rows)
    row, column = np.nonzero(share >= MIN_TISSUE)
    coords = np.stack([column, row], axis=1).astype(np.int32) * np.int32(size)
    reading = plan_reading(levels, size, card.patch_size, card.mpp_tolerance)
    return Grid(coords, size, reading, is_aligned(levels, reading, size))


def exact_side(mpp: float, card: Card, name: str = "the slide") -> float:
    """The side of a patch in level-0 px, not rounded. Raises MppError."""
    coarsest = card.mpp * (1 + card.mpp_tolerance)
    if mpp > coarsest + ROUNDING:
        raise MppError(
            f"{name}: its finest level has {mpp:g} µm per px, {card.name} needs {coarsest:g} or finer; "
            "use an encoder for that magnification",
            "too coarse for the encoder",
        )
    return card.patch_size * card.mpp / mpp


def aligned_size(levels: Sequence[Level], side: float, card: Card) -> int | None:
    """The side nearest to `side` at which patches and tiles end together.

    None when it is out of tolerance, or wider than the slide.
    """
    level = levels[plan_reading(levels, round(side), card.patch_size, card.mpp_tolerance).level]
    tile = level.tile_width * level.downsample
    if level.tile_width != level.tile_height or not tile.is_integer():
        return None
    many = max(1, round(side / tile)) * tile
    parts = tile / max(1, round(tile / side))
    room = min(levels[0].width, levels[0].height)
    sizes = [int(size) for size in (many, parts) if size.is_integer() and size <= room]
    best = min(sizes, key=lambda size: abs(size - side), default=None)
    return best if best is not None and abs(best / side - 1) <= card.mpp_tolerance + ROUNDING else None


def is_aligned(levels: Sequence[Level], reading: Reading, size: int) -> bool:
    """Whether patches of `size` level-0 px, laid from the corner, hold whole tiles or lie within one."""
    level = levels[reading.level]
    tiles = (level.tile_width * level.downsample, level.tile_height * level.downsample)
    return all(size % tile == 0 or tile % size == 0 for tile in tiles)


def pull(grid_coords: np.ndarray, size: int, reading: Reading) -> float:
    """Area of the tiles that cover the patches over the area of the patches themselves."""
    if not len(grid_coords):
        return 1.0
    tiles = {tile for x, y in grid_coords.tolist() for tile in reading.tiles(x, y)}
    tile_area = reading.tile_width * reading.tile_height * reading.scale**2
    return len(tiles) * tile_area / (len(grid_coords) * size**2)


def tissue_share(mask: np.ndarray, mask_downsample: float, size: int, columns: int, rows: int) -> np.ndarray:
    """(rows, columns) share of each patch that is tissue; mask px at the border of a patch count in part."""
    x_edges = np.arange(columns + 1) * (size / mask_downsample)
    y_edges = np.arange(rows + 1) * (size / mask_downsample)
    by_row = sum_between(mask, y_edges)
    by_patch = sum_between(by_row.T, x_edges).T
    return np.asarray(by_patch / (size / mask_downsample) ** 2)


def sum_between(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Sums of (H, W) `values` along the first axis between fractional row positions: (len(edges) - 1, W)."""
    # Counts of mask px are exact in float32, which halves the memory that a large mask takes.
    exact = np.float32 if values.dtype == bool else np.float64
    total = np.zeros((len(values) + 1, values.shape[1]), exact)
    np.cumsum(values, axis=0, dtype=exact, out=total[1:])
    edges = np.clip(edges, 0, len(values))
    below = np.floor(edges).astype(int)
    above = np.minimum(below + 1, len(values))
    part = (edges - below)[:, None]
    return np.diff(total[below] * (1 - part) + total[above] * part, axis=0)
