"""Weights of kept patches: shares such that their weighted mean comes as near as can be to the slide's mean.

Non-negative least squares (Lawson and Hanson, 1974). Beside them stand counts: how many patches each stands for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Features, as_half, checked, one_thread

Weights = npt.NDArray[np.float64]

#: How much the sum of the weights counts beside the mean: enough to make it 1.
SUM = 1e3
#: How much it costs to stray from the counts. So little that it decides only between weights that do as well.
STRAY = 1e-4


def fit_weights(kept: Features, mean: Features, counts: npt.ArrayLike) -> Weights:
    """Weights (K,) of `kept` features (K, D): none negative, summing to 1; `mean` (D,) is that of all tissue patches.

    `counts` (K,), all above 0, are how many patches each stands for. Their shares are given back where no others
    bring the weighted mean nearer to `mean` by cosine. Both are taken as precisely as a summary stores them, so that
    whoever has only that fits the same.
    """
    own = np.asarray(as_half(checked(kept)), np.float64)
    whole = np.asarray(mean.astype(np.float32), np.float64)
    shares = np.asarray(counts, np.float64) / np.sum(counts, dtype=np.float64)
    with one_thread():
        fitted = fit_mean(own, whole, shares)
        return fitted if mean_error(own, fitted, whole) < mean_error(own, shares, whole) else shares


def fit_mean(kept: Weights, mean: Weights, shares: Weights) -> Weights:
    """Weights (K,) that bring the mean of `kept` (K, D) near to `mean` (D,), and stay near `shares` (K,)."""
    from scipy.optimize import nnls

    scale = float(np.linalg.norm(mean))
    if scale == 0:
        return shares
    stray = np.sqrt(STRAY) / np.sqrt(shares)
    rows = np.concatenate([kept.T / scale, np.full((1, len(kept)), SUM), np.diag(stray)])
    wanted = np.concatenate([mean / scale, [SUM], stray * shares])
    fitted, _ = nnls(rows, wanted, maxiter=100 * len(kept))
    if not fitted.any():  # no weights bring a mean nearer that lies on the other side
        return shares
    whole = np.rint(fitted / fitted.sum() * 2**40)  # so that what is stored is the same where the last bits are not
    return np.asarray(whole / whole.sum(), np.float64)


def mean_error(kept: Weights, weights: Weights, mean: Weights) -> float:
    """1 - cosine between the weighted mean of `kept` (K, D) and `mean` (D,); 1 where one is zero."""
    weighted = weights @ kept
    lengths = float(np.linalg.norm(weighted) * np.linalg.norm(mean))
    return 1 - float(weighted @ mean) / lengths if lengths > 0 else 1.0
