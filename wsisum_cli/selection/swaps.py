"""Swaps: replace a kept patch by another as long as that represents the tissue better.

As in PAM for k-medoids; each candidate is tried against all kept patches at once (FasterPAM: Schubert and Rousseeuw,
Information Systems 101:101804, 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.similarity import Cosines, total, two_best
from wsisum_cli.selection.facility import Pool
from wsisum_cli.selection.weights import fit_mean, mean_error

#: Most passes over all candidates.
PASSES = 2


def improve(served: Cosines, fixed: Sequence[int], free: Sequence[int], passes: int = PASSES) -> list[int]:
    """Replace `free` rows of `served` (P, N) so that, together with the `fixed` ones, they cover at least as well.

    The first candidate that improves is taken, in row order, so that the swaps are the same on every machine.
    """
    kept = [*fixed, *free]
    if not free or len(kept) == len(served):
        return list(free)
    state = _State(served, kept)
    for _ in range(passes):
        swapped = False
        for row in range(len(served)):
            if row not in state.members and state.try_swap(row, len(fixed)):
                swapped = True
        if not swapped:
            break
    return state.kept[len(fixed) :]


def losses(first: npt.NDArray[np.intp], best: Cosines, second: Cosines, kept: int) -> npt.NDArray[np.float64]:
    """Coverage lost by removing each of the `kept` patches, (kept,), from their `two_best`; exact."""
    change = best.astype(np.int32) - second
    return np.asarray(np.bincount(first, weights=change, minlength=kept), np.float64)


class _State:
    """The best and second best kept patch of every tissue patch."""

    def __init__(self, served: Cosines, kept: list[int]) -> None:
        self.served = served
        self.kept = kept
        self.members = set(kept)
        self.rank()

    def rank(self) -> None:
        self.first, self.best, self.second = two_best(self.served[self.kept])
        self.losses = losses(self.first, self.best, self.second, len(self.kept))

    def try_swap(self, row: int, fixed: int) -> bool:
        """Put `row` in the place, past the first `fixed`, where it gains most. Returns whether coverage rose."""
        candidate = self.served[row]
        nearer = np.flatnonzero(candidate > self.second)
        if not len(nearer):
            return False
        # Other patches do not change: their second best is better than the candidate.
        own, value = self.first[nearer], candidate[nearer].astype(np.int32)
        best, second = self.best[nearer].astype(np.int32), self.second[nearer].astype(np.int32)
        gain = float(np.maximum(value - best, 0).sum(dtype=np.int64))
        spared = np.bincount(own, weights=np.minimum(value, best) - second, minlength=len(self.kept))
        change = gain + spared - self.losses
        place = fixed + int(change[fixed:].argmax())
        if change[place] <= 0:
            return False
        self.members.remove(self.kept[place])
        self.members.add(row)
        self.kept[place] = row
        self.rank()
        return True


#: Most swaps, how many are rated before each, and how many of these are then tried.
SWAPS, SHORTLIST, TRIED = 64, 400, 6


#: Smallest relative reduction of the error for which a swap is made.
WORTH = 1e-3


#: How many patches that the mean lacks most, and kept ones it needs least, are tried against each other.
LACKING, LIGHT = 32, 12


#: Random draws that estimate the error of the mean by chance.
CHANCES = 24


#: Random draws that estimate the minimum by chance.
MINIMA = 200


def tune_mean(
    features: np.ndarray,
    mean: np.ndarray,
    pool: Pool,
    fixed: Sequence[int],
    free: Sequence[int],
    floor: int,
    lowest: int | None = None,
    goal: float = 0.0,
) -> list[int]:
    """Replace `free` pool rows so that the best weighted mean, with the `fixed` ones, comes closer to `mean`.

    `features` (P, D) of the pool and `mean` (D,) are float64. Summed coverage stays at least `floor`, and the minimum
    at least `lowest`; None: the minimum does not fall. Each swap has the best gain for its cost in coverage. The
    search stops at an error (1 - cosine) of `goal`.
    """
    tuning = _Tuning(features, mean, pool, [*fixed, *free], len(fixed), floor)
    if lowest is not None:
        tuning.lowest = min(tuning.lowest, lowest)
    for _ in range(SWAPS):
        if goal and tuning.mean_error() <= goal:
            break
        if not tuning.swap():
            break
    return tuning.kept[len(fixed) :]


def chance_minimum(pool: Pool, count: int) -> int:
    """The best minimum that `count` random patches reach in `MINIMA` draws."""
    rng = np.random.default_rng(0)
    drawn = (rng.permutation(len(pool.rows))[:count] for _ in range(MINIMA))
    return max(int(pool.served[rows].max(axis=0).min()) for rows in drawn)


def chance_error(features: np.ndarray, mean: np.ndarray, pool: Pool, count: int) -> float:
    """Error of the mean of `count` random patches, weighted by how many patches each represents.

    1 - cosine to `mean`, from features (P, D) of the pool; the average over `CHANCES` fixed draws.
    """
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(CHANCES):
        drawn = rng.permutation(len(pool.rows))[:count]
        counts = np.bincount(pool.served[drawn].argmax(axis=0), minlength=len(drawn))
        errors.append(mean_error(features[drawn], counts / counts.sum(), mean))
    return float(np.mean(errors))


class _Tuning:
    def __init__(
        self, features: np.ndarray, mean: np.ndarray, pool: Pool, kept: list[int], fixed: int, floor: int
    ) -> None:
        self.features, self.mean, self.pool = features, mean, pool
        self.kept, self.fixed, self.floor = kept, fixed, floor
        self.squares = np.einsum("ij,ij->i", features, features)
        self.serve()
        self.lowest = int(self.best.min())
        self.weights, self.error = self.fit(kept)

    def serve(self) -> None:
        self.first, self.best, self.second = two_best(self.pool.served[self.kept])
        self.without: dict[int, np.ndarray] = {}  # best cosines without the patch in a place

    def fit(self, kept: Sequence[int]) -> tuple[np.ndarray, float]:
        """The fitted weights of `kept`, and the squared residual of the mean."""
        features = self.features[list(kept)]
        weights = fit_mean(features, self.mean, np.full(len(kept), 1 / len(kept)))
        residual = self.mean - weights @ features
        return weights, float(residual @ residual)

    def mean_error(self) -> float:
        """1 - cosine of the weighted mean to the slide's mean."""
        return mean_error(self.features[self.kept], self.weights, self.mean)

    def swap(self) -> bool:
        """Make the best rated swap that still improves after refitting the weights. Returns whether there is one."""
        rated = sorted(self.rated([*self.own_swaps(), *self.missing_swaps()]))
        return any(self.take(place, row) for _, place, row in rated[:TRIED])

    def rated(self, swaps: Iterable[tuple[float, int, int]]) -> Iterator[tuple[float, int, int]]:
        """Yield the allowed swaps (gain, place among the kept, new row), with the gain replaced by -gain per cost."""
        now = total(self.best)
        for gain, place, row in swaps:
            after = self.covered(place, row)
            if after >= self.floor:
                cost = max(now - after, 0) + (now - self.floor) / 16  # a swap that costs nothing still uses up a turn
                yield -gain / max(cost, 1.0), place, row

    def own_swaps(self) -> list[tuple[float, int, int]]:
        """Swaps of a kept patch for one that it represents."""
        place = self.first[self.pool.rows]
        own = np.flatnonzero(place >= self.fixed)
        own = own[~np.isin(own, self.kept)]
        gain = self.error - self.errors(own, place[own])
        order = np.argsort(-gain, kind="stable")[:SHORTLIST]
        return [(float(gain[at]), int(place[own[at]]), int(own[at])) for at in order if gain[at] > self.error * WORTH]

    def missing_swaps(self) -> list[tuple[float, int, int]]:
        """Swaps of a kept patch of low weight for one that the mean lacks: a step of Frank and Wolfe (1956)."""
        now = self.weights @ self.features[self.kept]
        residual = self.mean - now
        along = np.maximum(self.features @ residual - now @ residual, 0)
        along[self.kept] = 0
        apart = self.squares - 2 * (self.features @ now) + now @ now
        gain = along**2 / np.maximum(apart, np.finfo(float).tiny)
        light = self.fixed + np.argsort(self.weights[self.fixed :], kind="stable")[:LIGHT]
        rows = np.argsort(-gain, kind="stable")[:LACKING]
        return [(float(gain[row]), int(place), int(row)) for row in rows for place in light if gain[row] > 0]

    def covered(self, place: int, row: int) -> int:
        """Summed coverage with `row` in `place`; -1 if the minimum falls too low."""
        if place not in self.without:
            self.without[place] = np.where(self.first == place, self.second, self.best)
        served = np.maximum(self.pool.served[row], self.without[place])
        return total(served) if int(served.min()) >= self.lowest else -1

    def take(self, place: int, row: int) -> bool:
        """Put `row` in `place` if the mean comes closer. Returns whether it did."""
        kept = [*self.kept[:place], row, *self.kept[place + 1 :]]
        weights, error = self.fit(kept)
        if error >= self.error * (1 - WORTH):
            return False
        self.kept, self.weights, self.error = kept, weights, error
        self.serve()
        return True

    def errors(self, rows: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Squared residual of the mean if each of `rows` took over a place and its weight."""
        residual = self.mean - self.weights @ self.features[self.kept]
        weight, old = self.weights[place], np.asarray(self.kept)[place]
        along = self.features @ residual
        across = np.einsum("ij,ij->i", self.features[rows], self.features[old])
        apart = self.squares[rows] + self.squares[old] - 2 * across
        return np.asarray(self.error + 2 * weight * (along[old] - along[rows]) + weight**2 * apart)


#: Choices (B, K) of rows of the N patches -> scores (B,); higher is better.
Score = Callable[[np.ndarray], np.ndarray]


#: Rounds of proposals, most proposals per round, and neighbours considered for each.
ROUNDS, PROPOSALS, NEIGHBOURS = 8, 64, 8


#: Factor by which the error of the weighted mean may grow.
FARTHER = 1.03


def tune_score(
    score: Score, features: np.ndarray, mean: np.ndarray, pool: Pool, fixed: Sequence[int], free: list[int], floor: int
) -> list[int]:
    """Replace `free` pool rows so that `score` of them, together with the `fixed` ones, rises.

    `features` (P, D) of the pool and `mean` (D,) are float64. Summed coverage stays at least `floor`, and the minimum
    does not fall. Each round tries single swaps in many places, then the best of them together.
    """
    served, count = pool.served, len(fixed)
    kept = [*fixed, *free]
    lowest = int(served[kept].max(axis=0).min())
    farthest = _distance(features, mean, kept) * FARTHER
    for turn in range(ROUNDS):
        proposed = propose(pool, kept, count, turn, floor)
        if not proposed:
            break
        # Compare scores only within one call: a model's input, and so its score, may differ between calls.
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
    """Propose a swap (coverage lost, place, row) per place past `fixed`: its `turn`-th best patch of its own."""
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
