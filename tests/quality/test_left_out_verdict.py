"""Tissue that is left out, in the verdict: what nobody chose to leave out counts, what a mask leaves out is REVIEW."""

from __future__ import annotations

import pytest

from wsisum_cli.quality.verdict import FAIL, PASS, REVIEW, Chance, Figures, LeftOut, judge


def verdict(left_out: LeftOut | None, represented: float = 1.0) -> str:
    return judge(Figures(represented, 0.0, False, Chance(100, 8), {}, left_out=left_out)).verdict


@pytest.mark.parametrize(
    ("share", "largest", "expected"),
    [(0.0, 0.0, PASS), (0.05, 0.5, PASS), (0.05, 2.0, REVIEW), (0.2, 0.5, REVIEW), (0.4, 0.5, FAIL), (0.2, 11, FAIL)],
)
def test_what_given_features_leave_out_counts(share: float, largest: float, expected: str):
    assert verdict(LeftOut(share, largest)) == expected


@pytest.mark.parametrize("at_most", [False, True])
@pytest.mark.parametrize(("share", "largest", "expected"), [(0.05, 0.5, PASS), (0.05, 2, REVIEW), (0.9, 90, REVIEW)])
def test_a_mask_and_an_upper_bound_are_review_at_worst(share: float, largest: float, expected: str, at_most: bool):
    assert verdict(LeftOut(share, largest, masked=not at_most, at_most=at_most)) == expected


@pytest.mark.parametrize("masked", [False, True])
def test_what_nobody_measured_is_review(masked: bool):
    assert verdict(LeftOut(None, masked=masked)) == REVIEW


def test_fewer_features_never_improve_the_verdict():
    """Patches that nothing represents are taken away, and with them their tissue."""
    shares = [judge(Figures(0.8, 0.0, False, Chance(100, 8), {})).verdict, verdict(LeftOut(0.2, 0.5), 1.0)]
    assert shares == [REVIEW, REVIEW]
