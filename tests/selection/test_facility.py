"""Sums of cosines, which decide what is picked, are exact in any number of rows."""

from __future__ import annotations

import numpy as np

from wsisum_cli.selection.facility import TOGETHER, totals


def test_sums_of_rows_are_exact():
    rng = np.random.default_rng(0)
    served = rng.integers(-(2**14), 2**14 + 1, (TOGETHER + 9, 40), np.int16)
    rows, best = rng.permutation(len(served))[: TOGETHER + 3], rng.integers(-(2**14), 2**14 + 1, 40, np.int16)
    raised = [[max(int(value), int(least)) for value, least in zip(served[row], best, strict=True)] for row in rows]
    np.testing.assert_array_equal(totals(served, rows, best), [sum(values) for values in raised])
    np.testing.assert_array_equal(totals(served, rows), [sum(map(int, served[row])) for row in rows])
    assert len(totals(served, rows[:0])) == 0
