"""Facility location: pick the patches that best represent all tissue patches.

Each step picks the patch that most raises the sum, over all N tissue patches, of the best cosine to a picked patch.
The greedy gain is at least 1 - 1/e of the best possible with K patches (Nemhauser, Wolsey and Fisher, 1978). Gains
only fall as patches are picked, so an old gain bounds the new one and few are recomputed (Minoux, 1978). Ties are
common: two patches that represent each other best gain the same. The more central one, of higher mean cosine to all,
is picked; then the lowest row.

Up to `EXACT` patches, every patch can be picked. Beyond that only those in a pool can: patches drawn from each
cluster in proportion to its size, those that the first picks cover worst, and those nearest to the means of the
patches that each pick represents. Coverage is still that of all patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.similarity import NONE, Cosines, fill_cosines, total, whole_rows
from wsisum_cli.features.vectors import Features, Rows
from wsisum_cli.selection.candidates import draw_by_cluster

#: Most cosines between pool and tissue, two bytes each.
MOST_COSINES = 40_000_000
#: Up to this many patches the pool holds all of them.
EXACT = int(np.sqrt(MOST_COSINES))
#: Number of rows of cosines that are summed at once.
TOGETHER = 64
#: Number of badly covered patches in a pool, and after how many picks they are determined.
OUTLIERS, FIRST_PICKS = 512, 32
#: Fraction of a pool that is drawn. The rest are outliers, and patches near the means of what the first picks
#: represent, for these numbers of picks: the patches that the greedy search and swaps want.
DRAWN, CELLS = 0.4, (16, 32, 64, 128)


@dataclass(frozen=True)
class Pool:
    """The P of N patches that can be picked.

    `rows` (P,) int64: distinct rows of N. `served` (P, N): cosine of each to every patch, in units of
    1 / `similarity.ONE`.
    """

    rows: Rows
    served: Cosines


def pool_of(features: Features, cluster: npt.NDArray[np.integer], seed: int, among: Rows | None = None) -> Pool:
    """The pool of N patches with features (N, D): all, or as many as memory allows; `cluster` is (N,).

    `among` (A,), ascending rows, limits what the pool holds; it covers all N patches all the same.
    """
    count, whole = len(features), whole_rows(features)
    among = np.arange(count) if among is None else among
    if count <= EXACT:
        return Pool(among, fill_cosines(np.empty((len(among), count), np.int16), whole[among], whole))
    size = max(MOST_COSINES // count, 4 * OUTLIERS)
    served = np.empty((size, count), np.int16)
    drawn = np.sort(among[draw_by_cluster(_dense(cluster[among]), int(size * DRAWN), seed)])
    fill_cosines(served[: len(drawn)], whole[drawn], whole)
    picked = served[greedy(served[: len(drawn)], max(CELLS))]
    barred = np.setdiff1d(np.arange(count), among)
    outliers = np.setdiff1d(_outliers(picked[:FIRST_PICKS], barred), drawn)
    rows = np.concatenate([drawn, outliers])
    rows = np.concatenate([rows, _central(whole, picked, np.concatenate([rows, barred]), size - len(rows))])
    fill_cosines(served[len(drawn) : len(rows)], whole[rows[len(drawn) :]], whole)
    return Pool(rows, served[: len(rows)])


def _dense(cluster: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Labels without gaps, which a part of the patches may have."""
    return np.asarray(np.unique(cluster, return_inverse=True)[1], np.int64)


def _outliers(picked: Cosines, without: Rows) -> Rows:
    """The patches that the picked ones, (K, N), cover worst."""
    order = np.argsort(picked.max(axis=0), kind="stable")
    return order[~np.isin(order, without)][:OUTLIERS]


def _central(whole: npt.NDArray[np.float32], picked: Cosines, without: Rows, count: int) -> Rows:
    """The `count` patches nearest to the mean of what each pick, (K, N), represents, nearest first."""
    means = np.concatenate([_means(whole, picked[:cells].argmax(axis=0), cells) for cells in CELLS])
    near = fill_cosines(np.empty((len(means), len(whole)), np.int16), whole_rows(means), whole)
    near[:, without] = NONE
    turns = min(count, len(whole))
    order = np.stack([_first(row, turns) for row in near]).T.ravel()  # the nearest of each, then the second, ...
    _, place = np.unique(order, return_index=True)
    found = order[np.sort(place)]
    return np.asarray(found[~np.isin(found, without)][:count], np.int64)


def _first(row: npt.NDArray[np.int16], count: int) -> Rows:
    """Indices of the `count` highest values, the highest first; ties by index."""
    high = np.flatnonzero(row >= np.partition(row, -count)[-count])  # sorting all takes ten times as long
    return high[np.argsort(-row[high].astype(np.int32), kind="stable")[:count]]


def _means(whole: npt.NDArray[np.float32], cell: Rows, cells: int) -> npt.NDArray[np.float64]:
    """Sum of the rows of each cell, (cells, D); it has the direction of their mean."""
    order = np.argsort(cell, kind="stable")
    bounds = np.searchsorted(cell[order], np.arange(cells + 1))
    cuts = pairwise(bounds)
    return np.stack([whole[order[start:stop]].sum(axis=0, dtype=np.float64) for start, stop in cuts])


def greedy(served: Cosines, keep: int, picked: Sequence[int] = (), among: Sequence[int] | None = None) -> list[int]:
    """Pick up to `keep` rows of `served` (P, N) in addition to `picked`, from `among` or from all.

    The picks for K are the first K of the picks for K + 1.
    """
    best = served[list(picked)].max(axis=0) if len(picked) else np.full(served.shape[1], NONE, np.int16)
    covered = total(best)
    open_rows = np.setdiff1d(np.arange(len(served)) if among is None else among, picked)
    central = totals(served, open_rows)
    bound = (totals(served, open_rows, best) if len(picked) else central) - covered
    queue = list(zip((-bound).tolist(), (-central).tolist(), open_rows.tolist(), strict=True))
    heapify(queue)
    new: list[int] = []
    while queue and len(new) < keep:
        negative_bound, centrality, row = queue[0]
        with_row = np.maximum(served[row], best)
        gain = total(with_row) - covered
        if gain < -negative_bound:
            heapreplace(queue, (-gain, centrality, row))
            continue
        heappop(queue)
        new.append(row)
        best = with_row
        covered += gain
    return new


def totals(served: Cosines, rows: Rows, best: npt.NDArray[np.int16] | None = None) -> npt.NDArray[np.int64]:
    """Exact sums (R,) of some `rows` of `served` (P, N), each value raised to `best` (N,) if that is higher."""
    found = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), TOGETHER):
        some = served[rows[start : start + TOGETHER]]
        found[start : start + TOGETHER] = (some if best is None else np.maximum(some, best)).sum(axis=1, dtype=np.int64)
    return found
