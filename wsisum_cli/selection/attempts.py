"""WSISum's own search (Medical Image Analysis 110:103970, 2026): many draws, the one kept whose embedding fits best.

Each attempt draws from each cluster in proportion to its size. The summarizer embeds the patches drawn, and that is
held against its embedding of all candidates. The published code scores the same draw at every attempt; here each
attempt is a draw of its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.embedding import EmbeddingScore
from wsisum_cli.selection.candidates import Rows, draw_by_cluster, unit_rows
from wsisum_cli.selection.population import Population

ATTEMPTS = 200


def pick_attempts(population: Population, keep: int, attempts: int = ATTEMPTS) -> Rows:
    """The best of so many draws: rows (K,). Without a summarizer the plain mean of features is the embedding.

    They are drawn from the candidates; from twice as many patches as are to be kept where that is no fewer than there
    are candidates. Raises ModelError.
    """
    rows = population.candidates.rows
    if keep >= len(rows):
        more = min(2 * keep, len(population.features))  # as many as a summarizer sees at once
        rows = np.sort(draw_by_cluster(population.candidates.cluster, more, population.seed))
    seeds = np.random.default_rng(population.seed).integers(2**63, size=attempts)
    cluster = population.candidates.cluster[rows]
    places = np.stack([draw_by_cluster(_dense(cluster), keep, int(seed)) for seed in seeds])
    best = int(score_draws(population, rows, places).argmax())
    return np.asarray(rows[places[best]], np.int64)


def score_draws(population: Population, rows: Rows, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Cosine (B,) between the embeddings of each of the draws `places` (B, K) from `rows` (M,), and of all M."""
    summarizer = population.models.summarizer
    if summarizer is not None:
        return EmbeddingScore(summarizer, population.tokens, rows)(rows[places])
    features = population.features[rows].astype(np.float64)
    made = unit_rows(features[places].mean(axis=1))
    return np.asarray(made @ unit_rows(features.mean(axis=0, keepdims=True))[0], np.float64)


def _dense(cluster: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Labels without gaps, which a sample may have."""
    return np.asarray(np.unique(cluster, return_inverse=True)[1], np.int64)
