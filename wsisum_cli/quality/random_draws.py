"""What random draws of as many patches reach, against which figures of a summary mean something.

A coverage or a cosine near 1 says little by itself: on most slides a random draw comes near 1 too. So each figure is
held against the same figure of many uniform draws from the slide's tissue, whose quantiles a summary stores.
The weights of a draw are fitted like those of the kept patches.
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

#: Draws by features, and by models, which take longer.
DRAWS, MODEL_DRAWS = 1_000, 200
#: Draws come from so many patches at most, fewer where the tissue is large: their cosines to all are held at once.
POOL, MOST_COSINES = 4_000, 40_000_000
#: Fewer than K patches for which quantiles are stored too, so that a summary that is cut down can still be judged.
FEWER = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
#: Patches in a draw beyond which fewer draws are made.
COSTLY = 256
#: Shares of the draws, 0 to 1, whose figures are stored.
SHARES = np.linspace(0, 1, 101)
#: Figures by features and by models, in the order of the arrays.
BY_FEATURES = tuple(field.name for field in fields(Quality))
BY_MODELS = ("reconstruction", "embedding_cosine", "slide_cosine")

Figures = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Draws:
    """Quantiles of figures among random draws.

    `keep` (L,) ascends: numbers of patches drawn, the last that of the kept ones. `by_features` (L, 5, 101) and
    `by_models` (M, 101), of the last number alone, hold the least figure of all draws, that which one in a hundred
    does not exceed, and so on to the greatest; `models` (M,) names those of the second. `count` and `model_count` are
    how many draws were made, with `seed`.
    """

    keep: tuple[int, ...]
    by_features: Figures
    models: tuple[str, ...]
    by_models: Figures
    count: int
    model_count: int
    seed: int

    def arrays(self) -> dict[str, Figures]:
        """By their names below `reference`."""
        return {"draws": self.by_features} | ({"model_draws": self.by_models} if self.models else {})

    def number(self, keep: int) -> int | None:
        """How many patches are drawn to be compared with `keep`: as many, or the next larger number there is."""
        return next((number for number in self.keep if number >= keep), None)

    def of(self, name: str, keep: int) -> Figures | None:
        """The quantiles (101,) of one figure: of draws of `keep` patches, or of the next larger number there is.

        More patches do better, so that nothing is judged too well. None where the figure was not measured.
        """
        if name in BY_FEATURES:
            able = [place for place, number in enumerate(self.keep) if number >= keep]
            return np.asarray(self.by_features[able[0], BY_FEATURES.index(name)]) if able else None
        if name in self.models and keep == self.keep[-1]:
            return np.asarray(self.by_models[self.models.index(name)])
        return None

    def cut(self, keep: int) -> Draws:
        """What is needed of them to judge `keep` patches, fewer than there were; those by models are of the most."""
        needed = 1 + next(place for place, number in enumerate(self.keep) if number >= keep)
        by_models = np.empty((0, self.by_models.shape[-1]), np.float32)
        return Draws(self.keep[:needed], self.by_features[:needed], (), by_models, self.count, 0, self.seed)


def unmeasured(keep: int, models: tuple[str, ...], count: int, seed: int) -> Draws:
    """What `draw` would give, with figures that mean nothing and take about as many bytes."""
    sizes = sizes_of(keep)
    rng = np.random.default_rng(0)
    by_features = rng.normal(0.9, 0.02, (len(sizes), len(BY_FEATURES), count))
    by_models = rng.normal(0.9, 0.02, (len(models), count))
    return Draws(sizes, _quantiles(by_features), models, _quantiles(by_models), count, min(count, MODEL_DRAWS), seed)


def affordable(keep: int, count: int) -> int:
    """`count` draws of up to `COSTLY` patches, fewer of more, whose weights take long to fit.

    At least 100 where so many are asked for: of fewer, a percentile would mean nothing.
    """
    return count if keep <= COSTLY else max(count * COSTLY**2 // keep**2, min(count, 100))


def sizes_of(keep: int) -> tuple[int, ...]:
    """Numbers of patches that are drawn where `keep` are kept."""
    return (*(number for number in FEWER if number < keep), keep)


def draw(
    tissue: Tokens,
    cluster: npt.NDArray[np.integer],
    keep: int,
    embedded: SlideEmbeddings,
    seed: int,
    count: int = DRAWS,
) -> Draws:
    """Measure `count` draws of `keep` from all N tissue patches, of which `cluster` is (N,); fewer by models.

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
    """(..., draws) to (..., 101), rounded as figures are that are held against them."""
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
            told = composition(cluster[pool[rows]], counts, cluster)
            found[level, :, number] = (*_coverage(best), 1 - error, told)
    return found


def _served(served: Cosines, drawn: Rows, sizes: tuple[int, ...]) -> Iterator[tuple[Cosines, Rows]]:
    """Of the first so many of the drawn rows of `served` (P, N): the best for each patch (N,), and how many each row
    serves best.
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
    """Figures of each kind that models give, of draws from all tissue patches."""
    found: dict[str, list[float]] = {}
    summarizer, slide_encoder = embedded.models.summarizer, embedded.models.slide_encoder
    for _ in range(count if embedded.reconstructed is not None or embedded.slide is not None else 0):
        drawn = np.sort(rng.permutation(len(tissue.features))[:keep])
        if summarizer is not None and embedded.reconstructed is not None:
            near = cosine(embed(summarizer, tissue.at(drawn)), embedded.reconstructed.embedding)
            found.setdefault("embedding_cosine", []).append(near)
            made = reconstruction(summarizer, tissue, embedded.reconstructed.candidates, drawn)
            if made is not None and embedded.reconstructed.reconstruction is not None:
                found.setdefault("reconstruction", []).append(made)
        if slide_encoder is not None and embedded.slide is not None:
            of_drawn = encode_slide(slide_encoder, tissue.at(drawn)).embedding
            found.setdefault("slide_cosine", []).append(cosine(of_drawn, embedded.slide.embedding))
    return {name: found[name] for name in BY_MODELS if len(found.get(name, ())) == count}
