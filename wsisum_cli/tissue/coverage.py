"""Tissue mask and patch coords -> how much of the tissue no patch covers, and how large the largest such area is.

Tissue is cut off at the edges of patches, and programs draw its outline each a little differently. So only areas count
that hold a square of `LEAST_PATCHES` patches a side: what is narrower is rim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

LEAST_PATCHES = 1.0  # side of the smallest area that counts, in sides of a patch


@dataclass(frozen=True)
class LeftOut:
    """Tissue that no patch covers."""

    share: float  # of all tissue, 0..1
    mm2: float
    largest_mm2: float  # the largest connected area of it

    def as_dict(self) -> dict[str, float]:
        """The attribute `left_out`."""
        return {"share": self.share, "mm2": self.mm2, "largest_mm2": self.largest_mm2}


def measure_left_out(
    tissue: Mask, coords: NDArray[np.integer], patch_size_level0: float, downsample: float, mpp: float
) -> LeftOut:
    """How much of a tissue mask (H, W) the patches at (N, 2) `coords`, level-0 px, leave out.

    A px of the mask is `downsample` level-0 px wide, and level 0 has `mpp` µm per px.
    """
    free = tissue & ~painted(tissue.shape, coords / downsample, patch_size_level0 / downsample)
    return measure_areas(wide_areas(free, LEAST_PATCHES * patch_size_level0 / downsample), tissue, downsample * mpp)


def measure_areas(free: Mask, tissue: Mask, mpp: float) -> LeftOut:
    """Share and sizes of the areas marked in `free`, of the `tissue`, both (H, W) at `mpp` µm per px."""
    import cv2

    marked = int(np.count_nonzero(free))
    if not marked:
        return LeftOut(0.0, 0.0, 0.0)
    _, _, stats, _ = cv2.connectedComponentsWithStats(free.astype(np.uint8), connectivity=8)
    px_mm2 = (mpp / 1000) ** 2
    largest = int(np.max(stats[1:, cv2.CC_STAT_AREA]))  # without the background
    share = marked / max(1, int(np.count_nonzero(tissue)))
    return LeftOut(round(share, 6), round(marked * px_mm2, 6), round(largest * px_mm2, 6))


def wide_areas(mask: Mask, side: float) -> Mask:
    """(H, W) bool: what of `mask` lies in a square of `side` px that is marked throughout; never beyond the image."""
    import cv2

    whole = max(1, int(side))
    square, first, last = np.ones((whole, whole), np.uint8), (0, 0), (whole - 1, whole - 1)
    corners = cv2.erode(np.pad(mask, whole).astype(np.uint8), square, anchor=first)
    opened: Any = cv2.dilate(corners, square, anchor=last)
    return np.asarray(opened[whole:-whole, whole:-whole] > 0)


def painted(shape: tuple[int, ...], corners: NDArray[np.floating], side: float | NDArray[np.floating]) -> Mask:
    """(H, W) bool: px whose centre lies in one of the squares at (N, 2) `corners` of `side` px, or of (N, 2) sides."""
    low, high = np.rint(corners).astype(np.int64), np.rint(corners + side).astype(np.int64)
    high = np.maximum(high, low + 1)
    extent = np.array(shape[1::-1])
    (left, upper), (right, lower) = np.clip(low, 0, extent).T, np.clip(high, 0, extent).T
    steps = np.zeros((shape[0] + 1, shape[1] + 1), np.int32)
    for row, column, step in ((upper, left, 1), (upper, right, -1), (lower, left, -1), (lower, right, 1)):
        np.add.at(steps, (row, column), step)
    return np.asarray(steps.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0)
