"""Candidates -> kept patches, each with the share of the tissue that it stands for.

The selector "facility" picks greedily the patch that most raises the sum, over all candidates, of the best
cosine to a picked patch (facility location; what greed gains is at least 1 - 1/e of the most that K patches
can gain: Nemhauser, Wolsey and Fisher, 1978). The others are the baselines of WSISum (Medical Image Analysis
110:103970, 2026), as its published scripts have them; they draw from all tissue patches, not from the
candidates:

random      a uniform draw.
cluster     k-means with 50 clusters, whatever K is, then a random draw from each in proportion to its size.
location    a draw that is even over the slide. The reference lays 100 × 100 cells over the bounding box and
            draws one patch from each, then drops cells at random down to K: with hardly more than one patch
            to a cell that is a uniform draw. Here the cells are as small as K allows to serve them all.
entropy     the K patches of highest Shannon entropy of |feature|, normalised to sum 1. No pixels are read.

Cosines are rounded to multiples of 2^-22. Their sums are then exact, in any order, so that ties are ties
on every machine. Facility location has many: two patches that would best serve each other gain the same.
The more central of them is picked, the one of higher mean cosine to all candidates; then the lowest row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsisum_cli.sampling import (
    Candidates,
    Features,
    Rows,
    blocks,
    checked,
    draw_by_cluster,
    one_thread,
    unit_rows,
)

Coords = npt.NDArray[np.integer]
#: features (N, D), coords (N, 2), candidates, keep, seed -> rows (K,) of N, in order of picking.
Selector = Callable[[Features, Coords, Candidates, int, int], Rows]

#: One patch in eight is kept: WSISum's mask ratio of 0.875.
ONE_IN = 8
FEWEST, MOST = 8, 64


@dataclass(frozen=True)
class Selection:
    """The K kept patches of N, and who stands for whom.

    `rows` (K,) int64: rows of N, in order of picking.
    `weights` (K,) float64: the share of the tissue patches that each stands for; they sum to 1.
    `counts` (K,) int64: the same as a number of patches, itself included.
    `representative` (N,) int32: which of the K stands for the patch, 0..K-1.
    `similarity` (N,) float32: the cosine to it.
    """

    rows: Rows
    weights: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    representative: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """How well the kept patches stand for the tissue; cosines, so -1..1.

    `coverage`, `coverage_p05`, `coverage_min`: mean, 5th percentile and minimum, over all tissue patches,
    of the best cosine to a kept patch.
    `weighted_cosine`: between the weighted mean of the kept features and the mean of all features.
    """

    coverage: float
    coverage_p05: float
    coverage_min: float
    weighted_cosine: float


def keep_count(tissue_patches: int, keep: int | None) -> int:
    """How many patches to keep: `keep`, or one in eight (8 to 64) when None; never more than there are."""
    if tissue_patches < 1 or (keep is not None and keep < 1):
        raise ValueError(f"nothing to keep: {tissue_patches} tissue patches, {keep} asked for")
    if keep is None:
        one_in_eight = (tissue_patches + ONE_IN // 2) // ONE_IN  # the half rounds up: 500 gives the paper's 63
        keep = min(max(one_in_eight, FEWEST), MOST)
    return min(keep, tissue_patches)


def pick(
    features: Features,
    coords: Coords,
    candidates: Candidates,
    keep: int,
    selector: str = "facility",
    seed: int = 0,
) -> Rows:
    """Pick `keep` of the N patches: rows (K,) in order of picking.

    `features` (N, D); `coords` (N, 2) level-0 px. `selector` is one of `SELECTORS`. Raises ValueError when
    `keep` is not in 1..N, the selector is unknown, or features are empty, not finite, or not of these coords.
    """
    features = checked(features)
    if selector not in SELECTORS:
        raise ValueError(f"no selector {selector!r}; choose one of {', '.join(SELECTORS)}")
    if not 1 <= keep <= len(features):
        raise ValueError(f"keep must be in 1..{len(features)}, the number of tissue patches; found {keep}")
    if not len(features) == len(coords) == len(candidates.cluster):
        raise ValueError(
            f"features, coords and clusters must be of the same patches; found {len(features)}, "
            f"{len(coords)} and {len(candidates.cluster)}"
        )
    return SELECTORS[selector](features, coords, candidates, keep, seed)


def weigh(features: Features, rows: Rows) -> Selection:
    """Let every patch be represented by the most similar of the picked `rows` (K,), which weighs it so much more."""
    representative, similarity = represent(features, rows)
    counts = np.bincount(representative, minlength=len(rows))
    return Selection(rows, counts / len(features), counts, representative, similarity)


def select(
    features: Features,
    coords: Coords,
    candidates: Candidates,
    keep: int,
    selector: str = "facility",
    seed: int = 0,
) -> Selection:
    """`pick`, then `weigh`."""
    return weigh(features, pick(features, coords, candidates, keep, selector, seed))


def represent(features: Features, rows: Rows) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """For each of the N patches the most similar of the kept `rows`: its index (N,), and the cosine (N,).

    A kept patch stands for itself, also where another is equal to it. Other ties go to the one picked first.
    """
    features = checked(features)
    representative, similarity = nearest(features, features[rows])
    representative[rows] = np.arange(len(rows))
    return representative, similarity


def nearest(features: Features, kept: Features) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """For each row of `features` (N, D) the most similar row of `kept` (K, D): its index, and the cosine."""
    index = np.empty(len(features), np.int32)
    similarity = np.empty(len(features), np.float32)
    units = unit_rows(kept)
    with one_thread():
        for block in blocks(len(features)):
            cosines = _cosines(unit_rows(features[block]), units)
            index[block] = cosines.argmax(axis=1)
            similarity[block] = cosines.max(axis=1)
    return index, similarity


def measure(features: Features, selection: Selection) -> Quality:
    """Measure a selection from the features (N, D) of all tissue patches."""
    features = checked(features)
    return _quality(features, features[selection.rows], selection.weights, selection.similarity)


def measure_kept(features: Features, kept: Features, weights: npt.NDArray[np.floating]) -> Quality:
    """Measure kept features (K, D) with weights (K,) against the features (N, D) of all tissue patches."""
    features, kept = checked(features), checked(kept)
    return _quality(features, kept, weights, nearest(features, kept)[1])


def pick_facility(features: Features, _coords: Coords, candidates: Candidates, keep: int, _seed: int) -> Rows:
    """Greedy facility location over the candidates. The picks for K are the first K of those for K + 1.

    Where more are asked for than there are candidates, the patches worst served by them all follow.
    """
    picked = candidates.rows[_greedy(features[candidates.rows], min(keep, len(candidates.rows)))]
    if len(picked) == keep:
        return picked
    _, similarity = nearest(features, features[picked])
    similarity[picked] = np.inf
    worst_served = np.argsort(similarity, kind="stable")[: keep - len(picked)]
    return np.concatenate([picked, worst_served])


def pick_random(features: Features, _coords: Coords, _candidates: Candidates, keep: int, seed: int) -> Rows:
    """A uniform draw from all tissue patches."""
    return np.random.default_rng(seed).permutation(len(features))[:keep]


def pick_cluster(_features: Features, _coords: Coords, candidates: Candidates, keep: int, seed: int) -> Rows:
    """A random draw from each cluster of all tissue patches, in proportion to its size."""
    return draw_by_cluster(candidates.cluster, keep, seed)


def pick_location(_features: Features, coords: Coords, _candidates: Candidates, keep: int, seed: int) -> Rows:
    """One patch from each cell of a grid, in random order, then a second from each, until enough."""
    keys = np.random.default_rng(seed).random(len(coords))
    cell = _finest_cells(coords, keep)
    order = np.lexsort((keys, cell))
    _, starts, sizes = np.unique(cell[order], return_index=True, return_counts=True)
    turn = np.empty(len(coords), np.int64)
    turn[order] = np.arange(len(coords)) - np.repeat(starts, sizes)
    return np.lexsort((keys, turn))[:keep]


def pick_entropy(features: Features, _coords: Coords, _candidates: Candidates, keep: int, _seed: int) -> Rows:
    """The patches whose absolute features, normalised to sum 1, have the highest Shannon entropy."""
    entropy = np.concatenate([_entropy(features[block]) for block in blocks(len(features))])
    return np.argsort(-np.rint(entropy * 2**22), kind="stable")[:keep]


#: The first is the default.
SELECTORS: dict[str, Selector] = {
    "facility": pick_facility,
    "random": pick_random,
    "cluster": pick_cluster,
    "location": pick_location,
    "entropy": pick_entropy,
}


def _greedy(features: Features, keep: int) -> Rows:
    """Lazy greedy: gains only fall as patches are picked, so an old gain bounds the new one."""
    units = unit_rows(features)
    with one_thread():
        cosines = np.concatenate([_cosines(units[block], units) for block in blocks(len(units))])
    best = np.full(len(features), -1, np.float32)
    central = np.array([_gain(row, best) for row in cosines])
    bound = central.copy()
    picked: list[int] = []
    while len(picked) < keep:
        tied = np.flatnonzero(bound == bound.max())
        top = int(tied[central[tied].argmax()])
        gain = _gain(cosines[top], best)
        if gain < bound[top]:
            bound[top] = gain
            continue
        picked.append(top)
        best = np.maximum(best, cosines[top])
        bound[top] = -1
    return np.array(picked, np.int64)


def _gain(cosines: npt.NDArray[np.float32], best: npt.NDArray[np.float32]) -> float:
    return float(np.maximum(cosines - best, 0).sum(dtype=np.float64))


def _cosines(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Cosines of unit rows, (A, B), as multiples of 2^-22, which float32 holds exactly."""
    rounded = np.rint(a @ b.T * 2**22) / 2**22 + 0.0  # adding 0 makes -0 and 0 the same
    return np.asarray(np.clip(rounded, -1, 1), np.float32)


def _finest_cells(coords: Coords, keep: int) -> npt.NDArray[np.int64]:
    """The cell of each patch in the finest grid of square cells of which at most `keep` are occupied."""
    places, finest = np.unique(coords, axis=0, return_inverse=True)
    if len(places) <= keep:
        return finest
    offset = coords.astype(np.int64) - coords.min(axis=0)
    longest = int(offset.max()) + 1
    across, cell = 1, np.zeros(len(coords), np.int64)
    while len(np.unique(cell)) <= keep:
        finest = cell
        across += 1 + across // 16  # by one at first, then by a sixteenth: fine enough, and soon done
        column, row = (offset * across // longest).T
        cell = row * across + column
    return finest


def _entropy(features: Features) -> npt.NDArray[np.float64]:
    share = np.abs(features.astype(np.float64)) + 1e-8
    share /= share.sum(axis=1, keepdims=True)
    return np.asarray(-(share * np.log(share)).sum(axis=1), np.float64)


def _quality(
    features: Features,
    kept: Features,
    weights: npt.NDArray[np.floating],
    similarity: npt.NDArray[np.float32],
) -> Quality:
    weighted = (weights[:, None].astype(np.float64) * kept).sum(axis=0, keepdims=True)
    mean = features.mean(axis=0, dtype=np.float64, keepdims=True)
    return Quality(
        coverage=float(similarity.mean(dtype=np.float64)),
        coverage_p05=float(np.percentile(similarity.astype(np.float64), 5)),
        coverage_min=float(similarity.min()),
        weighted_cosine=float(_cosines(unit_rows(weighted), unit_rows(mean))[0, 0]),
    )
