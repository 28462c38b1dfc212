"""Figures of random draws of as many patches, the baseline for the figures of a summary.

A coverage or cosine near 1 says little by itself: on most slides a random draw comes close to 1 too. So each figure is
compared with that of many uniform draws from the slide's tissue; a summary stores their quantiles. The weights of a
draw are fitted like those of the kept patches. `batched_draws` measures them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.similarity import fill_cosines, whole_rows
from wsisum_cli.features.vectors import Features, as_half, one_thread
from wsisum_cli.quality.batched_draws import Pool, measure_draws
from wsisum_cli.quality.measures import Quality, mean_of

#: Number of draws.
DRAWS = 1_000
#: Draws come from at most this many patches, fewer on large tissue: their cosines to all patches are kept in memory.
POOL, MOST_COSINES = 4_000, 40_000_000
#: Smaller numbers of patches with stored quantiles, so that a trimmed summary can still be judged.
FEWER = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
#: Draw size above which fewer draws are made.
COSTLY = 256
#: Quantiles, 0 to 1, that are stored.
SHARES = np.linspace(0, 1, 101)
#: Figures of `Quality`, in its order.
BY_FEATURES = tuple(field.name for field in fields(Quality))
#: Figures, in the order of the arrays. Files before format 1.4 lack the last.
DRAWN = (*BY_FEATURES, "represented")

Figures = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Draws:
    """Quantiles of figures among random draws.

    `keep` (L,) ascends: draw sizes, the last equal to the number of kept patches. `by_features` (L, F, 101) holds the
    minimum over all draws, the 1st percentile, and so on up to the maximum, of the first F figures of `DRAWN`: 6, or 5
    before format 1.4. `count` is the number of draws, made with `seed`. Files written before models left the verdict
    hold `by_models` (M, 101) as well, of the last size and of `model_count` draws; `models` (M,) names its figures.
    """

    keep: tuple[int, ...]
    by_features: Figures
    models: tuple[str, ...]
    by_models: Figures
    count: int
    model_count: int
    seed: int

    def arrays(self) -> dict[str, Figures]:
        """Arrays by name within the group `reference`."""
        return {"draws": self.by_features} | ({"model_draws": self.by_models} if self.models else {})

    def number(self, keep: int) -> int | None:
        """The draw size to compare with `keep`: the same, or the next larger one; None if there is none."""
        return next((number for number in self.keep if number >= keep), None)

    def of(self, name: str, keep: int) -> Figures | None:
        """Quantiles (101,) of one figure, for draws of `keep` patches or the next larger size.

        Larger draws score higher, so the comparison is strict. None if the figure was not measured.
        """
        number = self.number(keep)
        return None if number is None or name not in self.figures else self.exactly(name, number)

    def exactly(self, name: str, number: int) -> Figures:
        """Quantiles (101,) of one of `figures`, for one of the sizes `keep`."""
        return np.asarray(self.by_features[self.keep.index(number), DRAWN.index(name)])

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures that were measured."""
        return DRAWN[: self.by_features.shape[1]]

    def median(self, name: str, keep: int) -> float | None:
        """What half of the draws of `keep` patches, or of the next larger size, exceed; None if not measured."""
        quantiles = self.of(name, keep)
        return None if quantiles is None else float(quantiles[len(SHARES) // 2])

    def cut(self, keep: int) -> Draws:
        """The draws needed to judge only `keep` patches. Model figures are dropped: they are of the largest size."""
        needed = 1 + next(place for place, number in enumerate(self.keep) if number >= keep)
        return without_models(self.keep[:needed], self.by_features[:needed], self.count, self.seed)


def unmeasured(keep: int, count: int, seed: int) -> Draws:
    """A placeholder for `draw`: meaningless figures that take about as many bytes."""
    sizes = sizes_of(keep)
    by_features = np.random.default_rng(0).normal(0.9, 0.02, (len(sizes), len(DRAWN), count))
    return without_models(sizes, _quantiles(by_features), count, seed)


def without_models(keep: tuple[int, ...], by_features: Figures, count: int, seed: int) -> Draws:
    """Draws of which only figures by features are known."""
    return Draws(keep, by_features, (), np.empty((0, by_features.shape[-1]), np.float32), count, 0, seed)


def affordable(keep: int, count: int) -> int:
    """Number of draws: `count` up to `COSTLY` patches, fewer above, since weights are slow to fit.

    At least 100 if `count` allows: with fewer a percentile is meaningless.
    """
    return count if keep <= COSTLY else max(count * COSTLY**2 // keep**2, min(count, 100))


def sizes_of(keep: int) -> tuple[int, ...]:
    """The draw sizes when `keep` patches are kept."""
    return (*(number for number in FEWER if number < keep), keep)


def draw(
    features: Features,
    cluster: npt.NDArray[np.integer],
    alike: float,
    keep: int,
    seed: int,
    count: int = DRAWS,
    threads: int = 1,
) -> Draws:
    """Measure `count` draws of `keep` from features (N, D) of all tissue patches with clusters (N,).

    `alike` is the cosine at which a patch represents another. The result does not depend on `threads`.
    """
    sizes, rng = sizes_of(keep), np.random.default_rng(seed)
    with one_thread():
        pool = draw_pool(features, cluster, alike, keep, rng)
        drawn = np.stack([rng.permutation(len(pool.rows))[:keep] for _ in range(count)])
        figures = measure_draws(pool, drawn, sizes, threads)
    return without_models(sizes, _quantiles(figures), count, seed)


def draw_pool(
    features: Features, cluster: npt.NDArray[np.integer], alike: float, keep: int, rng: np.random.Generator
) -> Pool:
    """The patches from which all draws come, with their cosines to the whole tissue."""
    room = max(MOST_COSINES // len(features), 2 * keep)
    rows = rng.permutation(len(features))[: min(max(POOL, 2 * keep), room)]
    whole = whole_rows(features)
    cosines = fill_cosines(np.empty((len(rows), len(features)), np.int16), whole[rows], whole)
    own, mean = as_half(features[rows]).astype(np.float64), mean_of(features).astype(np.float64)
    return Pool(rows, cosines, own, mean, cluster, alike)


def _quantiles(figures: npt.NDArray[np.float64]) -> Figures:
    """Quantiles (..., 101) of (..., draws), rounded like the figures they are compared with."""
    return np.moveaxis(np.quantile(np.round(figures, 6), SHARES, axis=-1, method="lower"), 0, -1).astype(np.float32)
