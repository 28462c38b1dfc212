"""What a summarizer must beat: the features of masked patches guessed from the visible ones without learning.

Each takes `features` (K, D) and `coords` (K, 2) of the visible patches and the `places` (M, 2) of masked ones, and
gives (M, D). Coords in any one unit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Interpolate = Callable[[Array, Array, Array], Array]

#: What the Gaussian process chooses from, by likelihood: lengths as shares of the extent, noise as shares of variance.
LENGTHS = tuple(np.geomspace(0.01, 1, 13).tolist())
NOISES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def visible_mean(features: Array, coords: Array, places: Array) -> Array:  # noqa: ARG001 - one of several
    return np.repeat(features.mean(axis=0, keepdims=True), len(places), axis=0)


def nearest_visible(features: Array, coords: Array, places: Array) -> Array:
    nearest: Array = features[squared_distances(places, coords).argmin(axis=1)]
    return nearest


def inverse_distance(power: float) -> Interpolate:
    """Shepard's weights, distance^-power."""

    def interpolate(features: Array, coords: Array, places: Array) -> Array:
        squared = squared_distances(places, coords)
        extent = max(float(squared.max()), 1e-12)
        weights = np.maximum(squared / extent, 1e-10) ** (-power / 2)
        mean: Array = weights @ features / weights.sum(axis=1, keepdims=True)
        return mean

    return interpolate


def kriging(length: float, noise: float) -> Interpolate:
    """Ordinary kriging by a Gaussian kernel of that length, in the unit of coords, and noise as a share of variance."""

    def interpolate(features: Array, coords: Array, places: Array) -> Array:
        mean, squared = features.mean(axis=0), squared_distances(coords, coords)
        covariance = np.exp(-squared / (2 * length**2)) + noise * np.eye(len(coords))
        weights = np.exp(-squared_distances(places, coords) / (2 * length**2))
        guess: Array = mean + weights @ np.linalg.solve(covariance, features - mean)
        return guess

    return interpolate


def gaussian_process(features: Array, coords: Array, places: Array) -> Array:
    """Kriging with the length and noise of the highest likelihood of the visible; all D share them.

    The amplitude is profiled out.
    """
    values, squared = features - features.mean(axis=0), squared_distances(coords, coords)
    extent = max(float(np.sqrt(squared.max())), 1e-12)
    best, chosen = -np.inf, (1.0, 1.0)
    for length in LENGTHS:
        variances, vectors = np.linalg.eigh(np.exp(-squared / (2 * (length * extent) ** 2)))
        projected = ((vectors.T @ values) ** 2).sum(axis=1)
        for noise in NOISES:
            total = np.maximum(variances, 0) + noise
            amplitude = max(float((projected / total).sum()), 1e-12) / values.size
            likelihood = -float(np.log(total).sum()) - len(total) * float(np.log(amplitude))
            if likelihood > best:
                best, chosen = likelihood, (length * extent, noise)
    return kriging(*chosen)(features, coords, places)


#: By the names they go by in tables and cards.
BASELINES: dict[str, Interpolate] = {
    "visible mean": visible_mean,
    "nearest visible": nearest_visible,
    "inverse distance": inverse_distance(1.0),
    "inverse square distance": inverse_distance(2.0),
    "Gaussian process": gaussian_process,
}


def squared_distances(a: Array, b: Array) -> Array:
    """(M, K) from (M, 2) and (K, 2)."""
    apart: Array = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
    return apart


def mean_cosine(guess: NDArray[np.floating], actual: NDArray[np.floating]) -> float:
    """The mean, over rows, of the cosine between the two."""
    a, b = guess.astype(np.float64), actual.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())
