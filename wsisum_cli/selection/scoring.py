"""Swaps among patches that serve the tissue about as well, scored in batches by a model that sees the whole slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wsisum_cli.features.similarity import total, two_best
from wsisum_cli.selection.facility import Pool
from wsisum_cli.selection.weights import fit_mean

#: Choices (B, K) of rows of the N patches to scores (B,), the higher the better.
Score = Callable[[np.ndarray], np.ndarray]

#: How often swaps are proposed, how many at a time, and among how many neighbours each is looked for.
ROUNDS, PROPOSALS, NEIGHBOURS = 8, 64, 8
#: How much farther from the slide's mean the weighted mean may be afterwards.
FARTHER = 1.03


def tune_score(
    score: Score, features: np.ndarray, mean: np.ndarray, pool: Pool, fixed: Sequence[int], free: list[int], floor: int
) -> list[int]:
    """Places in the pool instead of the `free` ones that `score` rates higher together with the `fixed`.

    `features` (P, D) of the pool and `mean` (D,) are float64. The summed coverage does not fall below `floor`, nor
    the minimum at all. In each round one swap at a time is tried for many places, then the best of them together.
    """
    served, count = pool.served, len(fixed)
    kept = [*fixed, *free]
    lowest = int(served[kept].max(axis=0).min())
    farthest = _distance(features, mean, kept) * FARTHER
    for turn in range(ROUNDS):
        proposed = propose(pool, kept, count, turn, floor)
        if not proposed:
            break
        # Scores are compared within a call alone: what a model sees, and so its score, may differ between calls.
        rated = score(pool.rows[[kept, *(_swapped(kept, [(place, row)]) for _, place, row in proposed)]])
        gain = rated[1:] - rated[0]
        spare = total(served[kept].max(axis=0)) - floor
        cost = np.array([max(lost, 0) for lost, _, _ in proposed]) + spare / 16 + 1
        best = [proposed[number][1:] for number in np.argsort(-gain / cost, kind="stable") if gain[number] > 0]
        together = [_swapped(kept, best[:size]) for size in (1, 2, 3, 4, 6, 8, 12, 16) if size <= len(best)]
        together = [other for other in together if _covers(served, other, floor, lowest)]
        together = [other for other in together if _distance(features, mean, other) <= farthest]
        if together:
            together = [kept, *together]
            kept = together[int(score(pool.rows[together]).argmax())]
    return kept[count:]


def propose(pool: Pool, kept: Sequence[int], fixed: int, turn: int, floor: int) -> list[tuple[int, int, int]]:
    """For each place past the `fixed` one patch of its own: (coverage lost, place, row); another at each turn."""
    first, best, second = two_best(pool.served[list(kept)])
    own, now = first[pool.rows], total(best)
    proposed = []
    for place in range(fixed, len(kept)):
        near = np.setdiff1d(np.flatnonzero(own == place), kept)
        near = near[np.argsort(-best[pool.rows[near]], kind="stable")[:NEIGHBOURS]]
        others = np.where(first == place, second, best)
        after = np.array([total(np.maximum(pool.served[row], others)) for row in near])
        order = np.argsort(-after, kind="stable")
        if turn < len(order) and after[order[turn]] >= floor:
            proposed.append((now - int(after[order[turn]]), place, int(near[order[turn]])))
    return sorted(proposed)[:PROPOSALS]


def _swapped(kept: Sequence[int], swaps: Sequence[tuple[int, int]]) -> list[int]:
    changed = list(kept)
    for place, row in swaps:
        changed[place] = row
    return changed


def _covers(served: np.ndarray, kept: list[int], floor: int, lowest: int) -> bool:
    best = served[kept].max(axis=0)
    return total(best) >= floor and int(best.min()) >= lowest


def _distance(features: np.ndarray, mean: np.ndarray, kept: list[int]) -> float:
    rest = mean - fit_mean(features[kept], mean, np.full(len(kept), 1 / len(kept))) @ features[kept]
    return float(rest @ rest)
