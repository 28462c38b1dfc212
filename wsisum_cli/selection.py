"""All tissue patches -> kept patches, and the share of the tissue that each stands for.

The selectors are interchangeable: `wsisum` (see `levels`), `facility`, WSISum's own search `attempts`, and the
baselines. For wsisum, facility, random and entropy the picks for K are the first K of those for K + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsisum_cli.attempts import pick_attempts
from wsisum_cli.baselines import pick_attention, pick_cluster, pick_entropy, pick_location, pick_random
from wsisum_cli.embedding import EmbeddingScore
from wsisum_cli.facility import greedy
from wsisum_cli.levels import pick_levels
from wsisum_cli.population import Population
from wsisum_cli.sampling import Features, Rows, checked, unit_rows
from wsisum_cli.similarity import cosines, nearest

#: population, keep -> rows (K,) of N, in order of picking.
Selector = Callable[[Population, int], Rows]

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


def pick(population: Population, keep: int, selector: str = "wsisum") -> Rows:
    """Pick `keep` of the N patches: rows (K,) in order of picking.

    `selector` is one of `SELECTORS`. Raises ValueError when `keep` is not in 1..N, the selector is unknown, or
    features are empty, not finite, or not of these coords; UsageError or ModelError where a selector needs a model.
    """
    features = checked(population.features)
    count, places, clusters = len(features), len(population.coords), len(population.candidates.cluster)
    if selector not in SELECTORS:
        raise ValueError(f"no selector {selector!r}; choose one of {', '.join(SELECTORS)}")
    if not 1 <= keep <= count:
        raise ValueError(f"keep must be in 1..{count}, the number of tissue patches; found {keep}")
    if not count == places == clusters:
        raise ValueError(
            f"features, coords and clusters must be of the same patches; found {count}, {places} and {clusters}"
        )
    return SELECTORS[selector](population, keep)


def weigh(features: Features, rows: Rows) -> Selection:
    """Let every patch be represented by the most similar of the picked `rows` (K,), which weighs it so much more."""
    representative, similarity = represent(features, rows)
    counts = np.bincount(representative, minlength=len(rows))
    return Selection(rows, counts / len(features), counts, representative, similarity)


def select(population: Population, keep: int, selector: str = "wsisum") -> Selection:
    """`pick`, then `weigh`."""
    return weigh(population.features, pick(population, keep, selector))


def represent(features: Features, rows: Rows) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """For each of the N patches the most similar of the kept `rows`: its index (N,), and the cosine (N,).

    A kept patch stands for itself, also where another is equal to it. Other ties go to the one picked first.
    """
    features = checked(features)
    representative, similarity = nearest(features, features[rows])
    representative[rows] = np.arange(len(rows))
    return representative, similarity


def measure(features: Features, selection: Selection) -> Quality:
    """Measure a selection from the features (N, D) of all tissue patches."""
    features = checked(features)
    return _quality(features, features[selection.rows], selection.weights, selection.similarity)


def measure_kept(features: Features, kept: Features, weights: npt.NDArray[np.floating]) -> Quality:
    """Measure kept features (K, D) with weights (K,) against the features (N, D) of all tissue patches."""
    features, kept = checked(features), checked(kept)
    return _quality(features, kept, weights, nearest(features, kept)[1])


def pick_wsisum(population: Population, keep: int) -> Rows:
    """Facility location with a rarity quota and swaps; of more patches than the pool holds the worst served follow."""
    features = checked(population.features)
    summarizer, score = population.models.summarizer, None
    if summarizer is not None:
        score = EmbeddingScore(summarizer, population.tokens, population.candidates.rows)
    return _with_worst_served(features, pick_levels(features, population.pool, keep, score), keep)


def pick_facility(population: Population, keep: int) -> Rows:
    """Greedy facility location over all patches; of more than the pool holds the worst served follow."""
    pool = population.pool
    return _with_worst_served(population.features, pool.rows[greedy(pool.served, keep)], keep)


def _with_worst_served(features: Features, picked: Rows, keep: int) -> Rows:
    if len(picked) == keep:
        return picked
    _, similarity = nearest(features, features[picked])
    similarity[picked] = np.inf
    return np.concatenate([picked, np.argsort(similarity, kind="stable")[: keep - len(picked)]])


#: The first is the default.
SELECTORS: dict[str, Selector] = {
    "wsisum": pick_wsisum,
    "facility": pick_facility,
    "attempts": pick_attempts,
    "random": pick_random,
    "cluster": pick_cluster,
    "location": pick_location,
    "entropy": pick_entropy,
    "attention": pick_attention,
}


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
        weighted_cosine=float(cosines(unit_rows(weighted), unit_rows(mean))[0, 0]),
    )
