"""Exact cosines between patches: the same on every machine and with any number of threads.

There are two kinds. Figures are computed in float64 and rounded to multiples of 2^-22. The search for patches uses
unit rows scaled and rounded to integers whose products sum to less than 2^24: float32 then holds every partial sum
exactly, so its matrix product, twice as fast, does not depend on the order of summation. Rounding changes a cosine by
up to 1e-4. These cosines are stored as multiples of 2^-14 in int16, whose sums are exact too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Features, blocks, one_thread, unit_rows

#: Cosines of the search are multiples of 1 / ONE.
ONE = 2**14
#: Below every cosine.
NONE = np.iinfo(np.int16).min
Cosines = npt.NDArray[np.int16]


def cosines(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Cosines (A, B) of unit rows, as multiples of 2^-22, which float32 holds exactly."""
    rounded = np.rint(a @ b.T * 2**22) / 2**22 + 0.0  # adding 0 turns -0 into 0
    return np.asarray(np.clip(rounded, -1, 1), np.float32)


def nearest(features: Features, kept: Features) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Index (N,) and cosine (N,) of the most similar row of `kept` (K, D) for each row of `features` (N, D)."""
    index = np.empty(len(features), np.int32)
    similarity = np.empty(len(features), np.float32)
    units = unit_rows(kept)
    with one_thread():
        for block in blocks(len(features)):
            found = cosines(unit_rows(features[block]), units)
            index[block] = found.argmax(axis=1)
            similarity[block] = found.max(axis=1)
    return index, similarity


def whole_rows(features: Features) -> npt.NDArray[np.float32]:
    """Unit rows of (N, D) times `scale_of(D)`, rounded to integers."""
    scale = scale_of(features.shape[1])
    rows = np.empty(features.shape, np.float32)
    for block in blocks(len(features)):
        rows[block] = np.rint(unit_rows(features[block]) * scale)
    return rows


def scale_of(dims: int) -> int:
    """Length of a row before rounding. Rounding may add 0.5 to each number, and the length must stay below 2^12."""
    return int(2**12 - 1 - np.sqrt(dims) / 2)


def fill_cosines(found: Cosines, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Cosines:
    """Write the cosines of `whole_rows` into `found` (A, B), in units of 1 / ONE."""
    factor = np.float32(ONE / scale_of(a.shape[1]) ** 2)
    for row in blocks(len(a)):
        for column in blocks(len(b)):
            product = a[row] @ b[column].T
            product *= factor
            np.rint(product, out=product)
            found[row, column] = np.clip(product, -ONE, ONE, out=product)
    return found


def two_best(chosen: Cosines) -> tuple[npt.NDArray[np.intp], Cosines, Cosines]:
    """For each of N columns of `Cosines` (K, N): the row of the best, the best, and the second best.

    Ties go to the first row; the second best is `NONE` if there is one row. `chosen` is modified in place.
    """
    first, best = chosen.argmax(axis=0), chosen.max(axis=0)
    chosen[first, np.arange(len(first))] = NONE
    return first, best, chosen.max(axis=0)


def total(values: npt.NDArray[Any]) -> int:
    """Exact sum of integers."""
    return int(values.sum(dtype=np.int64))
