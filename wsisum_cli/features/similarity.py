"""Cosines between patches, exact: the same on every machine, with any number of threads.

Two ways. Measures are taken in float64 and rounded to multiples of 2^-22. The search for patches works on unit
rows rounded to whole numbers whose products add up to less than 2^24: float32 then holds every partial sum, so
that its matrix product, twice as fast, has one value whatever the order of summation. What rounding does to a
cosine is up to 1e-4. Those cosines are kept as whole multiples of 2^-14, in int16, whose sums are exact too.
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
    """Cosines of unit rows, (A, B), as multiples of 2^-22, which float32 holds exactly."""
    rounded = np.rint(a @ b.T * 2**22) / 2**22 + 0.0  # adding 0 makes -0 and 0 the same
    return np.asarray(np.clip(rounded, -1, 1), np.float32)


def nearest(features: Features, kept: Features) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """For each row of `features` (N, D) the most similar row of `kept` (K, D): its index, and the cosine."""
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
    """Unit rows of (N, D) times `scale_of(D)`, rounded to whole numbers."""
    scale = scale_of(features.shape[1])
    rows = np.empty(features.shape, np.float32)
    for block in blocks(len(features)):
        rows[block] = np.rint(unit_rows(features[block]) * scale)
    return rows


def scale_of(dims: int) -> int:
    """The length of a row before rounding, which may add half a unit to each number; 2^12 must not be reached."""
    return int(2**12 - 1 - np.sqrt(dims) / 2)


def fill_cosines(found: Cosines, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Cosines:
    """Cosines of `whole_rows` into `found` (A, B), as multiples of 1 / ONE."""
    factor = np.float32(ONE / scale_of(a.shape[1]) ** 2)
    for row in blocks(len(a)):
        for column in blocks(len(b)):
            product = a[row] @ b[column].T
            product *= factor
            np.rint(product, out=product)
            found[row, column] = np.clip(product, -ONE, ONE, out=product)
    return found


def two_best(chosen: Cosines) -> tuple[npt.NDArray[np.intp], Cosines, Cosines]:
    """For each of the N columns of a copy of `Cosines` (K, N): the row of the best, the best, and the second best.

    Of equal ones the first is the best; the second is `NONE` where there is one row. `chosen` is worked on in place.
    """
    first, best = chosen.argmax(axis=0), chosen.max(axis=0)
    chosen[first, np.arange(len(first))] = NONE
    return first, best, chosen.max(axis=0)


def total(values: npt.NDArray[Any]) -> int:
    """Exact sum of whole numbers."""
    return int(values.sum(dtype=np.int64))
