"""Figures of random draws, one draw and one size after the other: the plain way, as a reference."""

from __future__ import annotations

import numpy as np

from wsisum_cli.features.similarity import ONE
from wsisum_cli.features.vectors import one_thread
from wsisum_cli.quality.batched_draws import Pool
from wsisum_cli.quality.measures import composition
from wsisum_cli.selection.weights import fit_mean, mean_error


def measure_slowly(pool: Pool, drawn: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Figures (L, 5, C) of draws (C, K), as `measure_draws` gives them."""
    with one_thread():
        figures = [[of_one_draw(pool, rows[:size]) for rows in drawn] for size in sizes]
    return np.moveaxis(np.array(figures), 2, 1)


def of_one_draw(pool: Pool, rows: np.ndarray) -> tuple[float, ...]:
    """The five figures of some rows of the pool."""
    cosines = pool.cosines[rows]
    best, counts = cosines.max(axis=0), np.bincount(cosines.argmax(axis=0), minlength=len(rows))
    own = pool.features[rows]
    weights = fit_mean(own, pool.mean, counts.clip(1) / len(pool.cluster))
    return (
        float(best.mean(dtype=np.float64)) / ONE,
        float(np.percentile(best, 5)) / ONE,
        float(best.min()) / ONE,
        1 - mean_error(own, weights, pool.mean),
        composition(pool.cluster[pool.rows[rows]], counts, pool.cluster),
    )
