from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisum_cli.quality.guarantee import covered_mm2, guarantee

quick = settings(max_examples=60, deadline=None, derandomize=True)


def regions(coords: np.ndarray, bad: np.ndarray) -> int:
    """Patches in the largest region of bad ones, by flooding."""
    left, largest = {tuple(at) for at in coords[bad].tolist()}, 0
    while left:
        front, size = [left.pop()], 0
        while front:
            x, y = front.pop()
            size += 1
            near = {(x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)} & left
            left -= near
            front += near
        largest = max(largest, size)
    return largest


@given(st.integers(1, 60), st.integers(0, 999), st.sampled_from([0.2, 0.5, 0.9]))
@quick
def test_guaranteed_area_exceeds_the_largest_uncovered_region_by_one_patch(patches, seed, cosine):
    rng = np.random.default_rng(seed)
    at = rng.permutation(100)[:patches]
    coords = np.stack([at % 10, at // 10], axis=1)
    similarity = np.round(rng.random(patches), 1)
    found = guarantee(coords * 512 + 70_000, 512, 0.25, similarity)
    patch = (512 * 0.25) ** 2 * 1e-6
    largest = regions(coords, similarity < cosine)
    assert found.area(cosine) == pytest.approx((largest + 1) * patch)


def test_corners_connect_and_gaps_do_not():
    coords = np.array([[0, 0], [1, 1], [3, 1], [4, 0], [5, 1]]) * 100
    found = guarantee(coords, 100, 10.0, np.zeros(5))
    assert found.area(0.5) == pytest.approx(4.0)  # three patches of 1 mm² and one more


def test_patches_off_the_grid_have_neighbours():
    found = guarantee(np.array([[3, 0], [104, 1], [205, 3]]), 100, 10.0, np.array([0.1, 0.2, 0.9]))
    assert found.area(0.5) == pytest.approx(3.0)
    assert found.area(0.15) == pytest.approx(2.0)


def test_area_that_several_patches_cover_counts_once():
    apart = np.stack([np.arange(10) * 100, np.zeros(10, int)], axis=1)
    assert covered_mm2(apart, 100, 10.0) == 10.0
    assert covered_mm2(apart // 2, 100, 10.0) == pytest.approx(5.5)
    assert covered_mm2(apart + 3, 99, 10.0) == pytest.approx(10 * 0.99**2)  # a gap of one px
    assert covered_mm2(apart[:0], 100, 10.0) == 0


def test_guarantee_is_never_understated_where_patches_overlap():
    coords = np.stack([np.arange(10) * 50, np.zeros(10, int)], axis=1)
    assert guarantee(coords, 100, 10.0, np.zeros(10)).area(0.5) == pytest.approx(11.0)
