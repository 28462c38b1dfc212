"""The yardstick: how alike adjacent patches are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tissue_groups import tissue

from wsisum_cli.quality.likeness import (
    STRICTEST,
    Likeness,
    adjacent,
    contrast,
    measure_likeness,
    rounded_down,
    says_little,
)


def grid(columns: int, rows: int, side: int = 64) -> np.ndarray:
    return np.array([(x, y) for y in range(rows) for x in range(columns)]) * side


def test_patches_that_touch_are_adjacent_also_at_a_corner():
    first, second = adjacent(grid(3, 3) / 64)
    assert len(first) == 20  # 6 beside, 6 below, 8 across
    assert {(0, 1), (0, 3), (0, 4)} <= set(zip(first.tolist(), second.tolist(), strict=True))
    assert (0, 2) not in set(zip(first.tolist(), second.tolist(), strict=True))


def test_patches_apart_or_on_top_of_each_other_are_not_adjacent():
    places = np.array([(0, 0), (0.5, 0), (2, 0), (9, 9)], float)
    first, second = adjacent(places)
    assert len(first) == len(second) == 0


def test_yardstick_is_the_median_of_adjacent_pairs():
    tokens = tissue(100, areas=True)
    units = tokens.features / np.linalg.norm(tokens.features, axis=1, keepdims=True)
    x, y = tokens.coords.T // 64
    near = (np.abs(x[:, None] - x) <= 1) & (np.abs(y[:, None] - y) <= 1)
    pairs = np.argwhere(np.triu(near, 1))
    expected = np.median((units[pairs[:, 0]] * units[pairs[:, 1]]).sum(axis=1))
    found = measure_likeness(tokens.features, tokens.coords, 64)
    assert found.pairs == len(pairs)
    assert found.cosine == pytest.approx(expected, abs=1e-3)
    assert found.cosine <= expected
    assert float(np.float16(found.cosine)) == found.cosine


@given(st.integers(2, 60), st.integers(0, 99))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_order_of_patches_does_not_matter(patches, seed):
    tokens = tissue(patches, seed, areas=True)
    order = np.random.default_rng(seed).permutation(patches)
    here = measure_likeness(tokens.features, tokens.coords, 64)
    there = measure_likeness(tokens.features[order], tokens.coords[order], 64)
    assert (here.cosine, here.pairs) == (there.cosine, there.pairs)
    assert -1 <= here.cosine <= STRICTEST


def test_scattered_patches_are_compared_with_the_nearest():
    tokens = tissue(50)
    found = measure_likeness(tokens.features, tokens.coords * 10, 64)
    assert found.pairs == 0
    assert -1 < found.cosine < STRICTEST


def test_single_patch_has_the_strictest_yardstick():
    tokens = tissue(1)
    assert measure_likeness(tokens.features, tokens.coords, 64) == Likeness(STRICTEST, 0, 0.5)


def test_contrast_tells_tissue_from_noise():
    areas, mixed = tissue(400, areas=True), tissue(400)
    assert measure_likeness(areas.features, areas.coords, 64).contrast > 0.7
    assert measure_likeness(mixed.features, mixed.coords, 64).contrast == pytest.approx(0.5, abs=0.05)
    same = np.ones((400, 3), np.float32)
    assert measure_likeness(same, areas.coords, 64).contrast == 0.5


def test_contrast_counts_ties_half():
    assert contrast(np.array([0.5]), np.array([0.4, 0.5, 0.5, 0.6])) == 0.5
    assert contrast(np.array([1.0, 1.0]), np.array([0.0, 0.5])) == 1
    assert contrast(np.array([0.0]), np.array([0.5])) == 0


@given(st.floats(-1, 1))
def test_yardstick_is_rounded_down_to_what_a_summary_stores(cosine):
    found = rounded_down(cosine)
    assert found <= min(cosine, STRICTEST)
    assert float(np.float16(found)) == found


def test_few_pairs_are_doubted_less():
    assert [says_little(value, 100) for value in (0.5, 0.59, 0.6, 0.9)] == [True, True, False, False]
    assert [says_little(value, 0) for value in (0.5, 0.59, 0.6)] == [True, True, False]  # patches that lie apart
    assert [says_little(value, 99) for value in (0.4, 0.5, 0.51, 0.9)] == [True, True, False, False]
