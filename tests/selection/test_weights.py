from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisum_cli.selection.selectors import weigh
from wsisum_cli.selection.weights import fit_weights, mean_error

quick = settings(max_examples=30, deadline=None, derandomize=True)


def gaussian(patches: int, dims: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(patches, dims)).astype(np.float32)


def fitted(features: np.ndarray, rows: np.ndarray, counts: Any) -> np.ndarray:
    return fit_weights(features[rows], features.mean(axis=0, dtype=float), counts)


def errors(features: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Of the weights that fit, and of the counts."""
    counts = weigh(features, rows).counts
    mean, kept = features.mean(axis=0, dtype=float), features[rows].astype(float)
    return mean_error(kept, fitted(features, rows, counts), mean), mean_error(kept, counts / counts.sum(), mean)


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 99), st.data())
@quick
def test_weights_sum_to_one_and_beat_counts(patches, dims, seed, data):
    features = gaussian(patches, dims, seed)
    features[: data.draw(st.integers(0, patches))] = data.draw(st.sampled_from([0.0, 1.0]))
    rows = np.random.default_rng(seed).permutation(patches)[: data.draw(st.integers(1, patches))]
    weights = fitted(features, rows, weigh(features, rows).counts)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    best, counted = errors(features, rows)
    assert best <= counted + 1e-6  # of features as they are; the fit is to those stored in half precision


def test_reachable_mean_is_matched():
    features = np.array([[4, 0], [0, 4], [1, 3], [3, 1], [1, 3]], np.float32)
    weights = fitted(features, np.array([0, 1]), [1, 4])
    assert weights == pytest.approx([0.45, 0.55], abs=1e-3)


def test_fitting_many_patches_reduces_the_error():
    features = gaussian(500, 30) + 0.4
    best, counted = errors(features, np.arange(40))
    assert best < 0.2 * counted


def test_weights_are_bit_exact():
    features = gaussian(300, 40)
    rows = np.arange(30)
    first, second = (fitted(features, rows, np.full(30, 10)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_zero_mean_keeps_the_counts():
    features = np.array([[1, 0], [-1, 0]], np.float32)
    assert fitted(features, np.array([0, 1]), [1, 1]).tolist() == [0.5, 0.5]
