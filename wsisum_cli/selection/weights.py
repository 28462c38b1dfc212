"""Weights of the kept patches: their weighted mean is as close as possible to the slide's mean.

Non-negative least squares (Lawson and Hanson, 1974). Counts are separate: how many patches each represents.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Features, as_half, checked, one_thread

Weights = npt.NDArray[np.float64]

#: Weight of the constraint that the weights sum to 1; large enough to enforce it.
SUM = 1e3
#: Penalty for deviating from the counts. Small, so that it only decides between equally good weights.
STRAY = 1e-4
#: Weights are rounded to multiples of 1 / ROUNDED, so that stored values do not depend on the last bits.
ROUNDED = 2**40


def fit_weights(kept: Features, mean: Features, counts: npt.ArrayLike) -> Weights:
    """Fit weights (K,) of `kept` features (K, D), non-negative and summing to 1, to the tissue's `mean` (D,).

    `counts` (K,), all above 0, are how many patches each represents. Their shares are returned if no other weights
    bring the weighted mean closer to `mean` by cosine. Features and mean are rounded as a summary stores them, so that
    a reader of the summary gets the same fit.
    """
    own = np.asarray(as_half(checked(kept)), np.float64)
    whole = np.asarray(mean.astype(np.float32), np.float64)
    shares = np.asarray(counts, np.float64) / np.sum(counts, dtype=np.float64)
    with one_thread():
        fitted = fit_mean(own, whole, shares)
        return fitted if mean_error(own, fitted, whole) < mean_error(own, shares, whole) else shares


def fit_mean(kept: Weights, mean: Weights, shares: Weights) -> Weights:
    """Weights (K,) that bring the weighted mean of `kept` (K, D) close to `mean` (D,) and stay close to `shares`."""
    from scipy.optimize import nnls

    scale = float(np.linalg.norm(mean))
    if scale == 0:
        return shares
    stray = np.sqrt(STRAY) / np.sqrt(shares)
    rows = np.concatenate([kept.T / scale, np.full((1, len(kept)), SUM), np.diag(stray)])
    wanted = np.concatenate([mean / scale, [SUM], stray * shares])
    fitted, _ = nnls(rows, wanted, maxiter=100 * len(kept))
    if not fitted.any():  # the mean lies on the opposite side, so no weights help
        return shares
    whole = np.rint(fitted / fitted.sum() * ROUNDED)
    return np.asarray(whole / whole.sum(), np.float64)


def mean_error(kept: Weights, weights: Weights, mean: Weights) -> float:
    """1 - cosine between the weighted mean of `kept` (K, D) and `mean` (D,); 1 if either is zero."""
    weighted = weights @ kept
    lengths = float(np.linalg.norm(weighted) * np.linalg.norm(mean))
    return 1 - float(weighted @ mean) / lengths if lengths > 0 else 1.0
