"""The weights of `selection.weights.fit_mean` for many sets of patches at once.

Block principal pivoting (Portugal, Judice and Vicente, 1994; Kim and Park, 2011) on Gram matrices. `fit_mean` solves
one non-negative least-squares problem after the other; here all problems of a batch take each step together. Both
reach the same weights, because the penalty of `fit_mean` makes them unique.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsisum_cli.selection.weights import ROUNDED, STRAY, SUM, fit_mean

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Steps after which a problem that has not settled goes to `fit_mean`; nearly all settle within ten.
STEPS = 60
#: Steps without fewer violations that a problem may take before it changes one row at a time, which cannot cycle.
PATIENCE = 3
#: A weight this far below zero, or a gradient relative to the terms it is the difference of, counts as zero.
ZERO = 1e-12


@dataclass(frozen=True)
class Problems:
    """B problems of K rows: minimise w H w / 2 - w r + (SUM * (sum(w) - 1))^2 / 2 over w >= 0."""

    hessian: Numbers  # (B, K, K)
    right: Numbers  # (B, K)

    def at(self, rows: npt.NDArray[np.intp]) -> Problems:
        return Problems(self.hessian[rows], self.right[rows])


def fit_means(own: Numbers, gram: Numbers, mean: Numbers, shares: Numbers) -> Numbers:
    """Weights (B, K) as `fit_mean` gives them for each of B sets.

    `own` (B, K, D) holds the features of each set, `gram` (B, K, K) their scalar products, `shares` (B, K) the shares
    of tissue that each patch represents, all above 0. `mean` (D,) is that of the tissue.
    """
    scale = float(np.linalg.norm(mean))
    if scale == 0:
        return shares
    hessian = gram / scale**2
    diagonal = np.arange(shares.shape[1])
    hessian[:, diagonal, diagonal] += STRAY / shares
    fitted, settled = solve(Problems(hessian, own @ mean / scale**2 + STRAY))
    weights = as_stored(fitted, shares)
    for row in np.flatnonzero(~settled):
        weights[row] = fit_mean(own[row], mean, shares[row])
    return weights


def as_stored(fitted: Numbers, shares: Numbers) -> Numbers:
    """Weights (B, K) that sum to 1, rounded as `fit_mean` rounds them; `shares` where all fitted ones are 0."""
    total = fitted.sum(axis=1, keepdims=True)
    whole = np.rint(fitted / np.where(total > 0, total, 1) * ROUNDED)
    return np.asarray(np.where(total > 0, whole / np.maximum(whole.sum(axis=1, keepdims=True), 1), shares))


def solve(problems: Problems) -> tuple[Numbers, Mask]:
    """Solutions (B, K), and which of them (B,) are right: the others did not settle, or are not finite."""
    count, rows = problems.right.shape
    found, settled = np.zeros((count, rows)), np.zeros(count, np.bool_)
    positive = np.ones((count, rows), np.bool_)  # rows whose weight is not held at zero
    fewest, patience = np.full(count, rows + 1), np.full(count, PATIENCE)
    open_ones = np.arange(count)
    for _ in range(STEPS):
        weights, wrong = step(problems.at(open_ones), positive[open_ones])
        if weights is None:
            break
        violations = wrong.sum(axis=1)
        done = violations == 0
        found[open_ones[done]], settled[open_ones[done]] = weights[done].clip(0), True
        open_ones, wrong, violations = open_ones[~done], wrong[~done], violations[~done]
        if not len(open_ones):
            break
        fewer = violations < fewest[open_ones]
        fewest[open_ones] = np.where(fewer, violations, fewest[open_ones])
        patience[open_ones] = np.where(fewer, PATIENCE, patience[open_ones] - 1)
        positive[open_ones] ^= np.where((patience[open_ones] < 0)[:, None], only_last(wrong), wrong)
    return found, settled & np.isfinite(found).all(axis=1)


def step(problems: Problems, positive: Mask) -> tuple[Numbers | None, Mask]:
    """The best weights (B, K) when those that are not `positive` are 0, and which rows are on the wrong side.

    A row is wrong when its weight is negative, or when it is held at 0 and a positive weight would be better. The
    weights are None if a matrix is singular to machine precision or not finite.
    """
    weights, pull = solve_free(problems, positive)
    if weights is None or pull is None:
        return None, positive
    size = np.abs(problems.right).max(axis=1, keepdims=True) + np.abs(pull)
    gradient = np.matmul(problems.hessian, weights[:, :, None])[:, :, 0] - problems.right + pull
    return weights, np.where(positive, weights < -ZERO, gradient < -ZERO * size)


def solve_free(problems: Problems, positive: Mask) -> tuple[Numbers | None, Numbers | None]:
    """The minimum over the `positive` rows, the others held at 0; and the pull (B, 1) of the sum towards 1.

    The pull is SUM^2 * (sum - 1). As an unknown of its own it keeps the matrix well conditioned.
    """
    count, rows = positive.shape
    free, diagonal = positive.astype(np.float64), np.arange(rows)
    matrix = np.empty((count, rows + 1, rows + 1))
    np.multiply(problems.hessian, free[:, :, None] * free[:, None, :], out=matrix[:, :rows, :rows])
    matrix[:, diagonal, diagonal] += 1 - free
    matrix[:, :rows, rows] = matrix[:, rows, :rows] = free
    matrix[:, rows, rows] = -1 / SUM**2
    right = np.concatenate([problems.right * free, np.ones((count, 1))], axis=1)
    try:
        solution = np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        return None, None
    return solution[:, :rows], solution[:, rows:]


def only_last(wrong: Mask) -> Mask:
    """Of each row of `wrong` (B, K), the last true one alone."""
    last = wrong.shape[1] - 1 - wrong[:, ::-1].argmax(axis=1)
    return np.asarray(np.arange(wrong.shape[1]) == last[:, None])
