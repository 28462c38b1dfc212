"""Regions: squares of `side` x `side` patches of a slide, and the crops of them that self-distillation compares.

Patches lie in cells, squares of one patch side; patches of overlapping grids that share a cell are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Whole = npt.NDArray[np.int64]

#: Patch sides added before rounding down, so that a shift of the coords does not move patches on cell borders.
SLACK = 1e-3
FEWEST = 8  # cells that are left in a crop that had as many


@dataclass(frozen=True)
class Cells:
    """The C cells of a slide that hold tissue, row by row."""

    at: Whole  # (C, 2) column and row, from 0
    features: Floats  # (C, D) mean of the patches in the cell
    patches: Whole  # (C,) how many those are


def cells_of(features: Floats, coords: Floats) -> Cells:
    """Cells of (N, D) features at (N, 2) coords in patch sides."""
    at = np.floor(coords - coords.min(axis=0) + SLACK).astype(np.int64)
    found, cell, patches = np.unique(at[:, ::-1], axis=0, return_inverse=True, return_counts=True)
    if len(found) == len(at):
        mean = features[np.argsort(cell.ravel(), kind="stable")]
    else:
        sums = np.zeros((len(found), features.shape[1]), np.float32)
        np.add.at(sums, cell.ravel(), features)
        mean = sums / patches[:, None]
    return Cells(found[:, ::-1].copy(), mean.astype(features.dtype), patches.astype(np.int64))


@dataclass(frozen=True)
class Crop:
    """Some cells of a region."""

    features: Floats  # (S, D)
    positions: Whole  # (S,) row of the cell in the region times `side`, plus its column


@dataclass(frozen=True)
class Cropping:
    """How regions are cut up."""

    side: int = 16  # of a region, in patches
    wide: int = 14  # of a global crop
    narrow: int = 6  # of a local crop
    narrow_crops: int = 4  # of each region, beside two global ones
    dropped: tuple[float, float] = (0.25, 0.75)  # share of its cells that a crop lacks, from and to
    most: int = 48  # cells of a crop


def fixed_regions(cells: Cells, side: int, most: int | None = None) -> list[Crop]:
    """The regions of a slide without chance, in the grid that begins where its patches do.

    Of each `most` cells at most, evenly chosen; None keeps all.
    """
    region, place = np.divmod(cells.at, side)
    _, which = np.unique(region[:, ::-1], axis=0, return_inverse=True)
    positions = place[:, 1] * side + place[:, 0]
    chosen = [rows[:: -(-len(rows) // most)] if most else rows for rows in grouped(which.ravel())]
    return [Crop(cells.features[rows], positions[rows]) for rows in chosen]


def grouped(which: Whole) -> list[Whole]:
    """The rows of each group 0, 1, ..., ascending."""
    order = np.argsort(which, kind="stable")
    return np.split(order, np.cumsum(np.bincount(which))[:-1])


def draw_region(cells: Cells, cropping: Cropping, rng: np.random.Generator) -> list[Crop]:
    """Crops of a region that lies anywhere over tissue: two global ones, then the local ones."""
    side = cropping.side
    rows = window(cells.at, side, rng)
    at = cells.at[rows]
    place = at - at.min(axis=0) + rng.integers(side - np.ptp(at, axis=0))
    crops = []
    for extent in [min(cropping.wide, side)] * 2 + [min(cropping.narrow, side)] * cropping.narrow_crops:
        some = window(place, extent, rng)
        some = thinned(some, 1 - rng.uniform(*cropping.dropped), cropping.most, rng)
        crops.append(Crop(cells.features[rows[some]], turned(place[some], side, rng)))
    return crops


def thinned(rows: Whole, share: float, most: int, rng: np.random.Generator) -> Whole:
    """A random share of the rows, ascending, at least `FEWEST` where there are as many, and at most `most`."""
    count = min(len(rows), most, max(FEWEST, round(share * len(rows))))
    return np.sort(rng.choice(rows, count, replace=False))


def window(at: Whole, extent: int, rng: np.random.Generator) -> Whole:
    """Rows of the cells in a square of `extent` cells that holds at least one, each being as likely."""
    corner = at[rng.integers(len(at))] - rng.integers(extent, size=2)
    return np.flatnonzero(((at >= corner) & (at < corner + extent)).all(axis=1))


def turned(place: Whole, side: int, rng: np.random.Generator) -> Whole:
    """Positions after a flip and a quarter turn, or none: tissue has no up."""
    flip, swap = rng.integers(2, size=2), rng.integers(2)
    place = np.where(flip, side - 1 - place, place)
    column, row = (place[:, 1], place[:, 0]) if swap else (place[:, 0], place[:, 1])
    return np.asarray(row * side + column)


def padded(crops: Sequence[Crop]) -> Mapping[str, npt.NDArray[np.generic]]:
    """Crops as one batch: features (B, S, D) float32, positions (B, S), present (B, S) bool; S as long as needed."""
    longest = max(len(crop.positions) for crop in crops)
    features = np.zeros((len(crops), longest, crops[0].features.shape[1]), np.float32)
    positions = np.zeros((len(crops), longest), np.int64)
    present = np.zeros((len(crops), longest), bool)
    for row, crop in enumerate(crops):
        length = len(crop.positions)
        features[row, :length], positions[row, :length], present[row, :length] = crop.features, crop.positions, True
    return {"features": features, "positions": positions, "present": present}
