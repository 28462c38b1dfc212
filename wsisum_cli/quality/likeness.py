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
#: Equally near patches that are compared with, where none are adjacent.
NEAREST = 8
#: Fewer pairs than this have no median that means anything.
FEW_PAIRS = 8
#: Random pairs that are compared with.
RANDOM_PAIRS = 10_000
#: How often adjacent patches must be more alike than random ones: with this many pairs or more, and with fewer, whose
#: contrast is uncertain. Even very uniform tissue, such as liver, reaches 0.7.
ENOUGH_PAIRS, CONTRAST, LEAST_CONTRAST = 100, 0.6, 0.5
#: The yardstick is never stricter: rounding to float16 alone changes a cosine by half of this.
STRICTEST = 1 - 2.0**-10


@dataclass(frozen=True)
class Likeness:
    """`cosine`: the cosine at which two patches of a slide count as alike; a float16 number, at most `STRICTEST`.

    `pairs`: adjacent pairs that it is the median of; 0 where there are too few, and each patch was compared with the
    nearest other instead. `contrast`: how often, 0..1, such a pair is more alike than a random pair; ties count half,
    so it is 0.5 where the features say nothing of the tissue.
    """

    cosine: float
    pairs: int
    contrast: float


def measure_likeness(features: Features, coords: Coords, patch_size_level0: float) -> Likeness:
    """Measure on features (N, D) of all tissue patches at coords (N, 2), level-0 px."""
    features = checked(features)
    if len(features) < 2:
        return Likeness(STRICTEST, 0, 0.5)
    places = coords / patch_size_level0
    first, second = adjacent(places)
    pairs = len(first)
    if pairs < FEW_PAIRS:
        first, second, pairs = *nearest_places(places), 0
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, len(features), (2, RANDOM_PAIRS))
    apart = one != other
    with one_thread():
        alike = pair_cosines(features, first, second)
        random = pair_cosines(features, one[apart], other[apart])
    return Likeness(rounded_down(float(np.median(alike))), pairs, round(contrast(alike, random), 4))


def says_little(contrast: float, pairs: int) -> bool:
    """Whether a yardstick with this contrast, of so many pairs, is in doubt."""
    enough = pairs >= ENOUGH_PAIRS or pairs == 0  # where patches lie apart, each was compared with the nearest
    return contrast <= LEAST_CONTRAST or (enough and contrast < CONTRAST)


def contrast(alike: npt.NDArray[np.float64], random: npt.NDArray[np.float64]) -> float:
    """How often one of `alike` (P,) exceeds one of `random` (R,), 0..1; ties count half (Mann and Whitney, 1947)."""
    ordered = np.sort(np.round(random, 6))
    below, up_to = (np.searchsorted(ordered, np.round(alike, 6), side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(random)))


def adjacent(places: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows of each adjacent pair of places (N, 2), in patch sides; each pair once."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(places).query_pairs(APART, p=np.inf, output_type="ndarray")
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    apart = np.abs(places[pairs[:, 0]] - places[pairs[:, 1]]).max(axis=1)
    pairs = pairs[(apart > OVERLAPPING) & (apart < APART)]
    return pairs[:, 0], pairs[:, 1]


def nearest_places(places: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows of each place (N, 2) and of the nearest other one, or several if they are equally near."""
    from scipy.spatial import cKDTree

    distance, near = cKDTree(places).query(places, k=min(NEAREST, len(places) - 1) + 1, p=np.inf)
    distance[near == np.arange(len(places))[:, None]] = np.inf
    of, place = np.nonzero(distance <= distance.min(axis=1, keepdims=True) + 1e-9)
    return of, near[of, place]


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
