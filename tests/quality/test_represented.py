"""Represented tissue, and the regions that are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tissue_groups import tissue

from wsisum_cli.quality.likeness import Likeness
from wsisum_cli.quality.represented import (
    LISTED,
    TissuePlaces,
    describe_represented,
    fewest_for,
    share_curve,
    share_of,
    unrepresented,
)
from wsisum_cli.selection.prefixes import prefixes_of

YARDSTICK = Likeness(0.75, 100, 0.9)


def places(cells: list[tuple[int, int]], unread: int = 0) -> TissuePlaces:
    """Patches of 512 px at 0.25 µm: 0.016384 mm² each."""
    return TissuePlaces(np.array(cells) * 512, 512, 0.25, unread)


def test_share_counts_what_reaches_the_yardstick_and_what_could_not_be_read():
    similarity = np.array([1.0, 0.75, 0.7495, 0.2])
    assert share_of(similarity, 0.75) == 0.5
    assert share_of(similarity, 0.75, unread=4) == 0.25


@given(st.integers(1, 50), st.integers(0, 99), st.floats(-1, 1), st.integers(0, 5), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_curve_equals_the_share_of_each_prefix_and_never_falls(patches, seed, cosine, unread, data):
    features = tissue(patches, seed).features
    rows = np.random.default_rng(seed).permutation(patches)[: data.draw(st.integers(1, patches))]
    prefixes, cosine = prefixes_of(features, rows), float(np.float16(cosine))
    curve = share_curve(prefixes, len(rows), cosine, unread)
    assert (np.diff(curve) >= 0).all()
    for keep in range(1, len(rows) + 1):
        assert curve[keep - 1] == pytest.approx(share_of(prefixes.of(keep)[1], cosine, unread), abs=1e-12)


def test_fewest_patches_for_a_share():
    curve = [0.2, 0.5, 0.5, 0.95, 1.0]
    assert [fewest_for(curve, share) for share in (0.1, 0.5, 0.6, 0.95, 1.0)] == [1, 2, 4, 4, 5]
    assert fewest_for(curve[:3], 0.95) is None


def test_regions_are_connected_and_the_largest_comes_first():
    cells = [(0, 0), (5, 5), (6, 5), (7, 6), (20, 0), (1, 1)]
    found = unrepresented(places(cells), np.arange(6))
    assert [rows.tolist() for rows in found] == [[1, 2, 3], [0, 5], [4]]
    assert unrepresented(places(cells), np.array([], int)) == []


def test_description_says_where_the_rest_lies():
    cells = [(0, 0), (1, 0), (4, 4), (5, 4), (9, 9)]
    similarity = np.array([1.0, 0.9, 0.5, 0.25, 0.75])
    found = describe_represented(places(cells, unread=1), YARDSTICK, np.array([0, 0, 1, 0, 1]), similarity, 3)
    patch = 0.016384
    assert found["share"] == pytest.approx(3 / 6)
    assert found["tissue_mm2"] == pytest.approx(6 * patch)
    assert found["mm2"] == pytest.approx(3 * patch)
    assert (found["unread"], found["needed"], found["region_count"]) == (1, 3, 1)
    assert found["regions"] == [
        {
            "patches": 2,
            "mm2": pytest.approx(2 * patch),
            "x": 4 * 512,
            "y": 4 * 512,
            "width": 2 * 512,
            "height": 512,
            "nearest": 0,
            "cosine": 0.375,
        }
    ]


def test_uneven_overlap_makes_no_region_smaller():
    """Patches that lie over one another elsewhere say nothing of how large an unrepresented region is."""
    dense = [(0.02 * x, 0.0) for x in range(200)]
    apart = [(float(20 + x % 8), float(x // 8)) for x in range(24)]
    similarity = np.array([1.0] * len(dense) + [0.0] * len(apart))
    where = TissuePlaces((np.array(dense + apart) * 512).astype(int), 512, 0.25)
    found = describe_represented(where, YARDSTICK, np.zeros(224, int), similarity, None)
    assert found["regions"][0]["mm2"] == pytest.approx(24 * 0.016384, abs=1e-6)
    assert found["tissue_mm2"] == pytest.approx((24 + 5) * 0.016384, rel=0.01)
    before = describe_represented(replace(where, twice=True), YARDSTICK, np.zeros(224, int), similarity, None)
    assert before["tissue_mm2"] == pytest.approx(224 * 0.016384)


def test_only_the_largest_regions_are_listed():
    cells = [(4 * x, 4 * y) for x in range(6) for y in range(6)]
    found = describe_represented(places(cells), YARDSTICK, np.zeros(36, int), np.zeros(36), None)
    assert found["region_count"] == 36
    assert len(found["regions"]) == LISTED
    assert found["share"] == 0
