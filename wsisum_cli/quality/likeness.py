"""How alike neighbouring patches of a slide are: the yardstick for what a kept patch represents.

A kept patch represents a tissue patch if it is at least as like it as two adjacent tissue patches typically are. The
yardstick comes from the slide and its encoder, so it needs no training and no fixed cosine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Coords, Features, blocks, checked, one_thread, unit_rows

#: Patch sides between the corners of adjacent patches: they touch or nearly do, and hardly overlap.
OVERLAPPING, APART = 0.75, 1.5
#: Neighbours looked at for each patch: those of a regular grid.
NEIGHBOURS = 8
#: Pairs from which on their median means something.
FEW_PAIRS = 8
#: Random pairs that are compared with.
RANDOM_PAIRS = 10_000
#: The yardstick is never stricter: rounding to float16 alone changes a cosine by half of this.
STRICTEST = 1 - 2.0**-10


@dataclass(frozen=True)
class Likeness:
    """`cosine`: from which on two patches of a slide count as alike; a float16 number, at most `STRICTEST`.

    `pairs`: adjacent pairs that it is the median of; 0 where there are too few, and each patch was compared with the
    nearest other instead. `random_cosine`: median of random pairs, for comparison.
    """

    cosine: float
    pairs: int
    random_cosine: float

    @property
    def tells_apart(self) -> bool:
        """Whether adjacent patches are more alike than random ones."""
        return self.cosine > self.random_cosine or self.cosine >= STRICTEST


def likeness(features: Features, coords: Coords, patch_size_level0: float) -> Likeness:
    """Measure on features (N, D) of all tissue patches at coords (N, 2), level-0 px."""
    features = checked(features)
    if len(features) < 2:
        return Likeness(STRICTEST, 0, STRICTEST)
    places = coords / patch_size_level0
    first, second = adjacent(places)
    pairs = len(first)
    if pairs < FEW_PAIRS:
        first, second, pairs = *nearest_places(places), 0
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, len(features), (2, RANDOM_PAIRS))
    apart = one != other
    with one_thread():
        typical = float(np.median(pair_cosines(features, first, second)))
        random = float(np.median(pair_cosines(features, one[apart], other[apart])))
    return Likeness(rounded_down(typical), pairs, round(random, 6))


def adjacent(places: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows of each adjacent pair of places (N, 2), in patch sides; the nearest of each place at most."""
    distance, near = neighbours(places, NEIGHBOURS)
    of, place = np.nonzero((distance > OVERLAPPING) & (distance < APART))
    found = np.stack([of, near[of, place]])
    pairs = np.unique(np.sort(found, axis=0), axis=1)
    return pairs[0], pairs[1]


def nearest_places(places: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows of each place (N, 2) and of the nearest other one."""
    return np.arange(len(places)), neighbours(places, 1)[1][:, 0]


def neighbours(places: npt.NDArray[np.floating], count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Distances (N, C), the larger of x and y, and rows (N, C) of the nearest others of places (N, 2)."""
    from scipy.spatial import cKDTree

    count = min(count, len(places) - 1)
    distance, near = cKDTree(places).query(places, k=count + 1, p=np.inf)
    own = near == np.arange(len(places))[:, None]
    own[~own.any(axis=1), -1] = True  # of several patches at one place, another may be found instead
    return distance[~own].reshape(-1, count), near[~own].reshape(-1, count)


def pair_cosines(
    features: npt.NDArray[np.float32], first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """Cosine (P,) of each pair of rows."""
    found = np.empty(len(first))
    for block in blocks(len(first)):
        found[block] = (unit_rows(features[first[block]]) * unit_rows(features[second[block]])).sum(axis=1)
    return found


def rounded_down(cosine: float) -> float:
    """The next lower float16 number, at most `STRICTEST`: stored cosines are float16."""
    half = np.float16(cosine)
    if float(half) > cosine:
        half = np.nextafter(half, np.float16(-np.inf))
    return float(min(half, np.float16(STRICTEST)))
