"""Polygons around squares."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from wsisum_cli.exports import outlines as module
from wsisum_cli.exports.outlines import area, outlines


def painted(polygons: list, shape: tuple[int, int]) -> np.ndarray:
    """The pixels that polygons cover, by the even-odd rule at their centres."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for polygon in polygons:
        one = np.zeros(shape, bool)
        for ring in polygon:
            for (x0, y0), (x1, y1) in pairwise(ring):
                if x0 == x1:
                    one ^= (x0 > x) & (min(y0, y1) < y) & (y < max(y0, y1))
        assert not (inside & one).any()  # polygons do not overlap
        inside |= one
    return inside


def squares(corners: np.ndarray, side: int, shape: tuple[int, int]) -> np.ndarray:
    filled = np.zeros(shape, bool)
    for x, y in corners.tolist():
        filled[y : y + side, x : x + side] = True
    return filled


def test_one_square():
    assert outlines(np.array([[3, 5]]), 4) == [[[(3, 5), (7, 5), (7, 9), (3, 9), (3, 5)]]]


def test_none():
    assert outlines(np.empty((0, 2), int), 4) == []


def test_neighbours_are_joined_and_corners_are_not():
    found = outlines(np.array([[0, 0], [4, 0], [8, 4]]), 4)
    assert [len(polygon) for polygon in found] == [1, 1]
    assert [area(polygon[0]) / 2 for polygon in found] == [32, 16]


def test_a_ring_has_a_hole_and_may_hold_an_island():
    ring = [(x, y) for x in range(5) for y in range(5) if x in (0, 4) or y in (0, 4)]
    found = outlines(np.array([*ring, (2, 2)]) * 3, 3)
    assert [len(polygon) for polygon in found] == [2, 1]
    assert [area(each) / 2 for each in found[0]] == [225, -81]


def test_shifted_rows_are_joined():
    found = outlines(np.array([[0, 0], [8, 0], [3, 8]]), 8)
    assert len(found) == 1
    assert area(found[0][0]) / 2 == 3 * 64


@pytest.mark.parametrize("seed", range(12))
def test_any_squares_are_covered_exactly_by_simple_rings(seed: int):
    rng = np.random.default_rng(seed)
    step = int(rng.choice([1, 2, 4]))
    corners = rng.integers(0, 36 // step, (60, 2)) * step
    found = outlines(corners, 4)
    np.testing.assert_array_equal(painted(found, (44, 44)), squares(corners, 4, (44, 44)))
    for polygon in found:
        assert [area(ring) > 0 for ring in polygon] == [True] + [False] * (len(polygon) - 1)
        for ring in polygon:
            assert ring[0] == ring[-1]
            assert len(set(ring)) == len(ring) - 1  # none passes a point twice


def test_many_squares_on_no_lattice_are_moved_a_little(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_CELLS", 100)
    corners = np.random.default_rng(0).integers(0, 900, (40, 2))
    found = outlines(corners, 64)
    wrong = painted(found, (1000, 1000)) ^ squares(corners, 64, (1000, 1000))
    assert wrong.mean() < 0.03
