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
STEPS = 8  # places within the side of a patch at which it may begin, where tiles do not matter
WORTH = 2**20  # steps in which tissue of a patch is counted
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
    """Lay non-overlapping patches of `card.patch_size` px at `card.mpp` over the tissue, in rows.

    `mpp` is that of level 0; `mask` is (H, W) bool, one px for `mask_downsample` level-0 px a side. Patches lie
    wholly inside level 0, and `MIN_TISSUE` of each is tissue. Where rows begin, and each patch within its row, is
    chosen so that few patches hold much tissue and little glass. With `align` the patch side may change by
    `card.mpp_tolerance` so that patches end where tiles end, and they lie there. Raises MppError when the slide is
    coarser than the encoder asks for, NotASlideError when it holds no whole patch; both call the slide by its `name`.
    Finding no tissue gives no coords.
    """
    side = exact_side(mpp, card, name)
    size = round(side)
    if align:
        size = aligned_size(levels, side, card) or size
    width, height = levels[0].width, levels[0].height
    if size > min(width, height):
        raise NotASlideError(
            f"{name}: {width} x {height} px are too small: one patch of {card.name} takes {size} px at {mpp:g} µm",
            "too small",
        )
    reading = plan_reading(levels, size, card.patch_size, card.mpp_tolerance)
    aligned = align and is_aligned(levels, reading, size)
    parts = tiles_across(levels, reading, size) if aligned else STEPS
    coords = place_patches(mask, mask_downsample, (width, height), size, parts)
    return Grid(coords, size, reading, aligned or lies_on_tiles(levels, reading, size, coords))


def lies_on_tiles(levels: Sequence[Level], reading: Reading, size: int, coords: np.ndarray) -> bool:
    """Whether patches of `size` level-0 px at these coords (N, 2) hold whole tiles or lie within one, as it happens."""
    level = levels[reading.level]
    steps = [min(size, side * level.downsample) for side in (level.tile_width, level.tile_height)]
    return is_aligned(levels, reading, size) and not (coords % steps).any()


def tiles_across(levels: Sequence[Level], reading: Reading, size: int) -> int:
    """How many tiles an aligned patch holds from side to side; 1 where it must not be moved by less than itself."""
    level = levels[reading.level]
    tile = round(level.tile_width * level.downsample)
    return size // tile if level.tile_width == level.tile_height and size % tile == 0 else 1


def place_patches(
    mask: np.ndarray, mask_downsample: float, extent: tuple[int, int], size: int, parts: int
) -> np.ndarray:
    """(N, 2) int32 corners of patches of `size` level-0 px on a slide of `extent` (width, height), row by row.

    Rows, and patches within them, begin at any of so many `parts` of a patch. They are those of highest sum of tissue
    over `MIN_TISSUE`: what holds less is left out, and one full patch is worth more than two halves.
    """
    width, height = extent
    left = np.arange(1 + (width - size) * parts // size) * size // parts
    tissue = accumulate(mask)
    best, chosen = -1, np.empty((0, 2), np.int32)
    for top in range(min(parts, 1 + (height - size) * parts // size)):
        upper = np.arange(top * size // parts, height - size + 1, size)
        share = share_of(tissue, mask_downsample, size, left, upper)
        # Whole numbers, so that what is worth the same is so whatever the order of summation.
        worth = np.rint((share - MIN_TISSUE) * WORTH).astype(np.int64)
        row, column, total = best_places(worth, parts)
        if total > best:
            best, chosen = total, np.stack([left[column], upper[row]], axis=1).astype(np.int32)
    return chosen


def best_places(worth: np.ndarray, apart: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows and columns of the entries of `worth` (R, P) of highest sum, none negative, and their sum.

    Within a row they are at least so many places `apart`; of equal choices the leftmost is made.
    """
    rows, places = worth.shape
    most = np.zeros((places + apart, rows), np.int64)  # of what begins at a place or right of it
    for place in range(places - 1, -1, -1):
        most[place] = np.maximum(most[place + 1], worth[:, place] + most[place + apart])
    taken = np.zeros(worth.shape, bool)
    free = np.zeros(rows, np.int64)  # the first place that no patch covers
    for place in range(places):
        here = (free <= place) & (worth[:, place] >= 0)
        here &= worth[:, place] + most[place + apart] >= most[place + 1]
        taken[here, place] = True
        free[here] = place + apart
    row, column = np.nonzero(taken)
    return row, column, int(most[0].sum())


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


def share_of(tissue: np.ndarray, mask_downsample: float, size: int, left: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """(R, P) share of tissue of patches at each of `upper` (R,) and `left` (P,), level-0 px.

    `tissue` is what `accumulate` makes of the mask, whose px at the border of a patch count in part.
    """
    side = size / mask_downsample
    by_row = np.diff(at_edges(tissue, np.stack([upper, upper + size], axis=1) / mask_downsample), axis=1)[:, 0]
    by_patch = np.diff(at_edges(accumulate(by_row.T), np.stack([left, left + size], axis=1) / mask_downsample), axis=1)
    return np.asarray(by_patch[:, 0].T / side**2)


def accumulate(values: np.ndarray) -> np.ndarray:
    """Sums of (H, W) `values` above each of the H + 1 borders between rows: (H + 1, W)."""
    # Counts of mask px are exact in float32, which halves the memory that a large mask takes.
    exact = np.float32 if values.dtype == bool else np.float64
    total = np.zeros((len(values) + 1, values.shape[1]), exact)
    np.cumsum(values, axis=0, dtype=exact, out=total[1:])
    return total


def at_edges(total: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """What `accumulate` gives (H + 1, W), at fractional borders (...): (..., W)."""
    edges = np.clip(edges, 0, len(total) - 1)
    below = np.floor(edges).astype(int)
    above = np.minimum(below + 1, len(total) - 1)
    part = (edges - below)[..., None]
    return np.asarray(total[below] * (1 - part) + total[above] * part)
