"""The linear probe: logistic regression on one vector per slide."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from wsisum_cli.errors import UsageError
from wsisum_cli.evaluation.cohort import Cohort
from wsisum_cli.evaluation.folds import deal_folds
from wsisum_cli.features.vectors import one_thread

Vectors = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

#: Candidate inverse penalty strengths, strongest first. Features are standardised, so they suit any encoder.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: Used if a class has too few patients to choose.
USUAL = 1e-2
FOLDS = 3
STEPS = 2_000


def choose_strength(vectors: Vectors, cohort: Cohort, seed: int) -> float:
    """Choose the C with the lowest log loss on held-out patients of the `cohort`, with slide `vectors` (S, D)."""
    try:
        fold = deal_folds(cohort, FOLDS, seed)
    except UsageError:
        return USUAL
    losses = np.zeros(len(STRENGTHS))
    for place, strength in enumerate(STRENGTHS):
        for number in range(FOLDS):
            out = fold == number
            chances = probe(vectors[~out], cohort.labels[~out], vectors[out], strength)
            losses[place] -= np.log(np.maximum(chances[np.arange(out.sum()), cohort.labels[out]], 1e-12)).sum()
    return STRENGTHS[int(np.argmin(np.round(losses, 9)))]


def probe(vectors: Vectors, labels: Labels, held_out: Vectors, strength: float) -> Vectors:
    """Class probabilities (H, C) of the `held_out` slides (H, D), trained on `vectors` (S, D) with `labels` 0..C-1.

    Classes have equal weight. Every class must be among the labels.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, spread = vectors.mean(axis=0), vectors.std(axis=0)
    spread = np.where(spread > 1e-9 * np.maximum(np.abs(mean), 1e-30), spread, 1.0)  # constant features are not scaled
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=STEPS)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable classes do not converge with a weak penalty
        model.fit((vectors - mean) / spread, labels)
        return np.asarray(model.predict_proba((held_out - mean) / spread), np.float64)
