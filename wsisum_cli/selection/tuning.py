"""Swaps among patches that serve the tissue about as well, so that the weighted mean comes nearer to the slide's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from wsisum_cli.features.similarity import total, two_best
from wsisum_cli.selection.facility import Pool
from wsisum_cli.selection.weights import fit_mean, mean_error

#: Swaps at most, how many are weighed up before each, and how many are then tried.
SWAPS, SHORTLIST, TRIED = 64, 400, 6
#: A swap that gains less of the error than this is not worth it.
WORTH = 1e-3
#: Patches that the mean lacks most, and kept ones that it needs least, that are tried against each other.
LACKING, LIGHT = 32, 12
#: Random draws that tell how far the mean is by chance.
CHANCES = 24
#: The same, how badly the worst served fares.
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
    """Places in the pool instead of the `free` ones, whose best weighted mean with the `fixed` is nearer to `mean`.

    `features` (P, D) of the pool and `mean` (D,) are float64. The summed coverage does not fall below `floor`, nor
    the minimum below `lowest`; None: not at all. Each swap is the one that gains most for what it costs in coverage.
    An error (1 - cosine) of `goal` is near enough.
    """
    tuning = _Tuning(features, mean, pool, [*fixed, *free], len(fixed), floor)
    if lowest is not None:
        tuning.lowest = min(tuning.lowest, lowest)
    for _ in range(SWAPS):
        if goal and tuning.missed() <= goal:
            break
        if not tuning.swap():
            break
    return tuning.kept[len(fixed) :]


def chance_minimum(pool: Pool, count: int) -> int:
    """How well the worst served is at best by `count` patches drawn at random `MINIMA` times."""
    rng = np.random.default_rng(0)
    drawn = (rng.permutation(len(pool.rows))[:count] for _ in range(MINIMA))
    return max(int(pool.served[rows].max(axis=0).min()) for rows in drawn)


def chance_error(features: np.ndarray, mean: np.ndarray, pool: Pool, count: int) -> float:
    """How far the mean of `count` patches drawn at random, weighted by how many each serves best, is from `mean`.

    1 - cosine, of features (P, D) of the pool; the mean over `CHANCES` draws, always the same ones.
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
        self.without: dict[int, np.ndarray] = {}  # how well all are served without the one in a place

    def fit(self, kept: Sequence[int]) -> tuple[np.ndarray, float]:
        """The weights of these, and the square of what is left of the mean."""
        chosen = self.features[list(kept)]
        weights = fit_mean(chosen, self.mean, np.full(len(kept), 1 / len(kept)))
        rest = self.mean - weights @ chosen
        return weights, float(rest @ rest)

    def missed(self) -> float:
        """1 - cosine of the weighted mean."""
        return mean_error(self.features[self.kept], self.weights, self.mean)

    def swap(self) -> bool:
        """Do the best of the shortlist that bears fitting anew."""
        rated = sorted(self.rated([*self.of_its_own(), *self.lacking()]))
        return any(self.take(place, row) for _, place, row in rated[:TRIED])

    def rated(self, swaps: Iterable[tuple[float, int, int]]) -> Iterator[tuple[float, int, int]]:
        """Those (gain, place among the kept, row that takes it) that are allowed, with what they cost per gain."""
        now = total(self.best)
        for gain, place, row in swaps:
            after = self.covered(place, row)
            if after >= self.floor:
                cost = max(now - after, 0) + (now - self.floor) / 16  # a swap that costs nothing still takes a turn
                yield -gain / max(cost, 1.0), place, row

    def of_its_own(self) -> list[tuple[float, int, int]]:
        """Swaps of a kept patch for one that it serves."""
        place = self.first[self.pool.rows]
        own = np.flatnonzero(place >= self.fixed)
        own = own[~np.isin(own, self.kept)]
        gain = self.error - self.errors(own, place[own])
        order = np.argsort(-gain, kind="stable")[:SHORTLIST]
        return [(float(gain[at]), int(place[own[at]]), int(own[at])) for at in order if gain[at] > self.error * WORTH]

    def lacking(self) -> list[tuple[float, int, int]]:
        """Swaps of a kept patch that the mean hardly needs for one that it lacks: a step of Frank and Wolfe (1956)."""
        now = self.weights @ self.features[self.kept]
        rest = self.mean - now
        along = np.maximum(self.features @ rest - now @ rest, 0)
        along[self.kept] = 0
        apart = self.squares - 2 * (self.features @ now) + now @ now
        gain = along**2 / np.maximum(apart, np.finfo(float).tiny)
        light = self.fixed + np.argsort(self.weights[self.fixed :], kind="stable")[:LIGHT]
        rows = np.argsort(-gain, kind="stable")[:LACKING]
        return [(float(gain[row]), int(place), int(row)) for row in rows for place in light if gain[row] > 0]

    def covered(self, place: int, row: int) -> int:
        """The summed coverage with `row` in that place; -1 where the minimum falls."""
        if place not in self.without:
            self.without[place] = np.where(self.first == place, self.second, self.best)
        served = np.maximum(self.pool.served[row], self.without[place])
        return total(served) if int(served.min()) >= self.lowest else -1

    def take(self, place: int, row: int) -> bool:
        """Put `row` in that place, where the mean then comes nearer."""
        kept = [*self.kept[:place], row, *self.kept[place + 1 :]]
        weights, error = self.fit(kept)
        if error >= self.error * (1 - WORTH):
            return False
        self.kept, self.weights, self.error = kept, weights, error
        self.serve()
        return True

    def errors(self, rows: np.ndarray, place: np.ndarray) -> np.ndarray:
        """What would be left of the mean if each of `rows` took a place, and the weight that goes with it."""
        chosen = self.features[self.kept]
        rest = self.mean - self.weights @ chosen
        weight, old = self.weights[place], np.asarray(self.kept)[place]
        along = self.features @ rest
        across = np.einsum("ij,ij->i", self.features[rows], self.features[old])
        apart = self.squares[rows] + self.squares[old] - 2 * across
        return np.asarray(self.error + 2 * weight * (along[old] - along[rows]) + weight**2 * apart)
