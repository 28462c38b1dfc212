"""Swaps among patches that serve the tissue about as well, so that the weighted mean comes nearer to the slide's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsisum_cli.facility import Pool
from wsisum_cli.similarity import total
from wsisum_cli.weights import fit_mean, mean_error

#: Swaps at most, and how many are weighed up before each.
SWAPS, SHORTLIST = 64, 400
#: A swap that gains less of the error than this is not worth it.
WORTH = 1e-3
#: Random draws that tell how far the mean is by chance.
CHANCES = 24


def tune_mean(
    features: np.ndarray, mean: np.ndarray, pool: Pool, fixed: Sequence[int], free: Sequence[int], floor: int
) -> list[int]:
    """Places in the pool instead of the `free` ones, whose best weighted mean with the `fixed` is nearer to `mean`.

    `features` (P, D) of the pool and `mean` (D,) are float64. The summed coverage does not fall below `floor`, nor
    the minimum at all. Each swap is the one that gains most for what it costs in coverage.
    """
    tuning = _Tuning(features, mean, pool, [*fixed, *free], len(fixed), floor)
    for _ in range(SWAPS):
        if not tuning.swap():
            break
    return tuning.kept[len(fixed) :]


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
        chosen = self.pool.served[self.kept]
        self.first = chosen.argmax(axis=0)
        self.best = chosen.max(axis=0)
        chosen[self.first, np.arange(len(self.first))] = np.iinfo(np.int16).min
        self.second = chosen.max(axis=0)

    def fit(self, kept: Sequence[int]) -> tuple[np.ndarray, float]:
        """The weights of these, and the square of what is left of the mean."""
        chosen = self.features[list(kept)]
        weights = fit_mean(chosen, self.mean, np.full(len(kept), 1 / len(kept)))
        rest = self.mean - weights @ chosen
        return weights, float(rest @ rest)

    def swap(self) -> bool:
        """Do the best of the shortlist that bears fitting anew."""
        for place, row in self.worthwhile():
            kept = [*self.kept[:place], row, *self.kept[place + 1 :]]
            weights, error = self.fit(kept)
            if error < self.error * (1 - WORTH):
                self.kept, self.weights, self.error = kept, weights, error
                self.serve()
                return True
        return False

    def worthwhile(self) -> list[tuple[int, int]]:
        """Up to three swaps (place among the kept, row that takes it), best first."""
        place = self.first[self.pool.rows]
        own = np.flatnonzero(place >= self.fixed)
        own = own[~np.isin(own, self.kept)]
        gain = self.error - self.errors(own, place[own])
        order = np.argsort(-gain, kind="stable")[:SHORTLIST]
        now = total(self.best)
        rated = []
        for row, gained in zip(own[order], gain[order], strict=True):
            if gained <= self.error * WORTH:
                break
            others = np.where(self.first == place[row], self.second, self.best)
            served = np.maximum(self.pool.served[row], others)
            after = total(served)
            if after >= self.floor and int(served.min()) >= self.lowest:
                cost = max(now - after, 0) + (now - self.floor) / 16  # a swap that costs nothing still takes a turn
                rated.append((-float(gained) / max(cost, 1.0), int(place[row]), int(row)))
        return [(at, row) for _, at, row in sorted(rated)[:3]]

    def errors(self, rows: np.ndarray, place: np.ndarray) -> np.ndarray:
        """What would be left of the mean if each of `rows` took a place, and the weight that goes with it."""
        chosen = self.features[self.kept]
        rest = self.mean - self.weights @ chosen
        weight, old = self.weights[place], np.asarray(self.kept)[place]
        along = self.features @ rest
        across = np.einsum("ij,ij->i", self.features[rows], self.features[old])
        apart = self.squares[rows] + self.squares[old] - 2 * across
        return np.asarray(self.error + 2 * weight * (along[old] - along[rows]) + weight**2 * apart)
