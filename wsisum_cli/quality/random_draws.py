"""Figures of random draws of as many patches, the baseline for the figures of a summary.

A coverage or cosine near 1 says little by itself: on most slides a random draw comes close to 1 too. So each figure is
compared with that of many uniform draws from the slide's tissue; a summary stores their quantiles. The weights of a
draw are fitted like those of the kept patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.embedding import SlideEmbeddings, Tokens, cosine, embed, encode_slide, reconstruction
from wsisum_cli.features.similarity import ONE, Cosines, fill_cosines, whole_rows
from wsisum_cli.features.vectors import Features, Rows, as_half, one_thread
from wsisum_cli.quality.measures import Quality, composition, mean_of
from wsisum_cli.selection.weights import fit_mean, mean_error

#: Number of draws measured by features, and by models, which are slower.
DRAWS, MODEL_DRAWS = 1_000, 200
#: Draws come from at most this many patches, fewer on large tissue: their cosines to all patches are kept in memory.
POOL, MOST_COSINES = 4_000, 40_000_000
#: Smaller numbers of patches with stored quantiles, so that a trimmed summary can still be judged.
FEWER = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
#: Draw size above which fewer draws are made.
COSTLY = 256
#: Quantiles, 0 to 1, that are stored.
SHARES = np.linspace(0, 1, 101)
#: Figures by features and by models, in the order of the arrays.
BY_FEATURES = tuple(field.name for field in fields(Quality))
BY_MODELS = ("reconstruction", "embedding_cosine", "slide_cosine")

Figures = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Draws:
    """Quantiles of figures among random draws.

    `keep` (L,) ascends: draw sizes, the last equal to the number of kept patches. `by_features` (L, 5, 101) and
    `by_models` (M, 101), of the last size only, hold the minimum over all draws, the 1st percentile, and so on up to
    the maximum; `models` (M,) names the figures of the latter. `count` and `model_count` are the numbers of draws,
    made with `seed`.
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

        Larger draws score higher, so the comparison is never too lenient. None if the figure was not measured.
        """
        if name in BY_FEATURES:
            able = [place for place, number in enumerate(self.keep) if number >= keep]
            return np.asarray(self.by_features[able[0], BY_FEATURES.index(name)]) if able else None
        if name in self.models and keep == self.keep[-1]:
            return np.asarray(self.by_models[self.models.index(name)])
        return None

    def cut(self, keep: int) -> Draws:
        """The draws needed to judge only `keep` patches. Model figures are dropped: they are of the largest size."""
        needed = 1 + next(place for place, number in enumerate(self.keep) if number >= keep)
        by_models = np.empty((0, self.by_models.shape[-1]), np.float32)
        return Draws(self.keep[:needed], self.by_features[:needed], (), by_models, self.count, 0, self.seed)


def unmeasured(keep: int, models: tuple[str, ...], count: int, seed: int) -> Draws:
    """A placeholder for `draw`: meaningless figures that take about as many bytes."""
    sizes = sizes_of(keep)
    rng = np.random.default_rng(0)
    by_features = rng.normal(0.9, 0.02, (len(sizes), len(BY_FEATURES), count))
    by_models = rng.normal(0.9, 0.02, (len(models), count))
    return Draws(sizes, _quantiles(by_features), models, _quantiles(by_models), count, min(count, MODEL_DRAWS), seed)


def affordable(keep: int, count: int) -> int:
    """Number of draws: `count` up to `COSTLY` patches, fewer above, since weights are slow to fit.

    At least 100 if `count` allows: with fewer a percentile is meaningless.
    """
    return count if keep <= COSTLY else max(count * COSTLY**2 // keep**2, min(count, 100))


def sizes_of(keep: int) -> tuple[int, ...]:
    """The draw sizes when `keep` patches are kept."""
    return (*(number for number in FEWER if number < keep), keep)


def draw(
    tissue: Tokens,
    cluster: npt.NDArray[np.integer],
    keep: int,
    embedded: SlideEmbeddings,
    seed: int,
    count: int = DRAWS,
) -> Draws:
    """Measure `count` draws of `keep` from all N tissue patches with clusters (N,); fewer draws by models.

    Raises ModelError.
    """
    sizes = sizes_of(keep)
    rng = np.random.default_rng(seed)
    with one_thread():
        by_features = _by_features(tissue.features, cluster, sizes, rng, count)
        found = _by_models(tissue, keep, embedded, rng, min(count, MODEL_DRAWS))
    return Draws(
        sizes,
        _quantiles(by_features),
        tuple(found),
        _quantiles(np.array(list(found.values())).reshape(len(found), -1)) if found else np.empty((0, 101), np.float32),
        count,
        min(count, MODEL_DRAWS),
        seed,
    )


def _quantiles(figures: npt.NDArray[np.float64]) -> Figures:
    """Quantiles (..., 101) of (..., draws), rounded like the figures they are compared with."""
    return np.moveaxis(np.quantile(np.round(figures, 6), SHARES, axis=-1, method="lower"), 0, -1).astype(np.float32)


def _by_features(
    features: Features,
    cluster: npt.NDArray[np.integer],
    sizes: tuple[int, ...],
    rng: np.random.Generator,
    count: int,
) -> npt.NDArray[np.float64]:
    """Figures (L, 5, count)."""
    room = max(MOST_COSINES // len(features), 2 * sizes[-1])
    pool = rng.permutation(len(features))[: min(max(POOL, 2 * sizes[-1]), room)]
    whole = whole_rows(features)
    served = fill_cosines(np.empty((len(pool), len(features)), np.int16), whole[pool], whole)
    own, mean = as_half(features[pool]).astype(np.float64), mean_of(features).astype(np.float64)
    found = np.empty((len(sizes), len(BY_FEATURES), count))
    for number in range(count):
        drawn = rng.permutation(len(pool))[: sizes[-1]]
        for level, (best, counts) in enumerate(_served(served, drawn, sizes)):
            rows = drawn[: len(counts)]
            weights = fit_mean(own[rows], mean, counts.clip(1) / len(features))
            error = mean_error(own[rows], weights, mean)
            found[level, :, number] = (*_coverage(best), 1 - error, composition(cluster[pool[rows]], counts, cluster))
    return found


def _served(served: Cosines, drawn: Rows, sizes: tuple[int, ...]) -> Iterator[tuple[Cosines, Rows]]:
    """Yield, for each of `sizes`, the best cosine of every patch (N,) to the first `size` drawn rows of `served`
    (P, N), and how many patches each row represents.
    """
    best, which, start = np.full(served.shape[1], -ONE, np.int16), np.zeros(served.shape[1], np.int64), 0
    for size in sizes:
        more = served[drawn[start:size]]
        first = more.argmax(axis=0)
        value = more[first, np.arange(len(first))]
        which = np.where(value > best, first + start, which)
        best, start = np.maximum(best, value), size
        yield best, np.bincount(which, minlength=size)


def _coverage(best: Cosines) -> tuple[float, float, float]:
    """Mean, 5th percentile and minimum."""
    figures = (best.mean(dtype=np.float64), np.percentile(best, 5), best.min())
    return float(figures[0]) / ONE, float(figures[1]) / ONE, float(figures[2]) / ONE


def _by_models(
    tissue: Tokens, keep: int, embedded: SlideEmbeddings, rng: np.random.Generator, count: int
) -> dict[str, list[float]]:
    """Figures of models, by name, for draws from all tissue patches."""
    found: dict[str, list[float]] = {}
    summarizer, slide_encoder = embedded.models.summarizer, embedded.models.slide_encoder
    for _ in range(count if embedded.reconstructed is not None or embedded.slide is not None else 0):
        drawn = np.sort(rng.permutation(len(tissue.features))[:keep])
        if summarizer is not None and embedded.reconstructed is not None:
            near = cosine(embed(summarizer, tissue.at(drawn)), embedded.reconstructed.embedding)
            found.setdefault("embedding_cosine", []).append(near)
            reconstructed = reconstruction(summarizer, tissue, embedded.reconstructed.candidates, drawn)
            if reconstructed is not None and embedded.reconstructed.reconstruction is not None:
                found.setdefault("reconstruction", []).append(reconstructed)
        if slide_encoder is not None and embedded.slide is not None:
            of_drawn = encode_slide(slide_encoder, tissue.at(drawn)).embedding
            found.setdefault("slide_cosine", []).append(cosine(of_drawn, embedded.slide.embedding))
    return {name: found[name] for name in BY_MODELS if len(found.get(name, ())) == count}
