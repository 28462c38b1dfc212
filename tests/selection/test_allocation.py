"""A budget of bytes shared among slides."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsisum_cli.selection.allocation import Curve, allocate


def draw_curve(rng: np.random.Generator, most: int = 256) -> Curve:
    """A curve as slides have it: it rises fast, then slowly, in steps of whole patches; not concave in detail."""
    picks = int(rng.integers(10, most))
    tissue = rng.uniform(5, 400)
    share = 1 - np.exp(-np.arange(1, picks + 1) / rng.uniform(5, 60))
    gain = np.sort(np.round(tissue * share + rng.normal(0, 0.01 * tissue, picks), 2).clip(0))
    return Curve(gain, rng.uniform(20e3, 900e3) + np.cumsum(rng.uniform(4e3, 25e3, picks)))


def small_curves(seed: int, count: int = 3, picks: int = 6) -> list[Curve]:
    rng = np.random.default_rng(seed)
    return [
        Curve(np.cumsum(rng.integers(0, 9, picks)).astype(float), 50 + np.cumsum(rng.integers(1, 30, picks)) * 1.0)
        for _ in range(count)
    ]


def best_of_all(curves: list[Curve], budget: float) -> float:
    choices = product(*(range(len(curve.cost)) for curve in curves))
    pairs = [
        (
            sum(c.cost[row] for c, row in zip(curves, rows, strict=True)),
            sum(c.gain[row] for c, row in zip(curves, rows, strict=True)),
        )
        for rows in choices
    ]
    return max(gain for cost, gain in pairs if cost <= budget)


@given(st.integers(0, 10_000), st.floats(200, 700))
def test_bound_is_never_below_the_best_choice(seed, budget):
    curves = small_curves(seed)
    found = allocate(curves, budget, 1)
    if found is None:
        assert sum(curve.cost[0] for curve in curves) > budget
        return
    assert found.cost <= budget
    best = best_of_all(curves, budget)
    assert found.gain <= best + 1e-9 <= found.bound + 2e-9
    assert found.gain == pytest.approx(sum(c.gain[k - 1] for c, k in zip(curves, found.keep, strict=True)))
    assert found.cost == pytest.approx(sum(c.cost[k - 1] for c, k in zip(curves, found.keep, strict=True)))


@given(st.integers(0, 10_000), st.floats(200, 700), st.floats(0, 300))
def test_larger_budget_never_represents_less(seed, budget, more):
    curves = small_curves(seed)
    less, larger = allocate(curves, budget, 1), allocate(curves, budget + more, 1)
    if less is not None:
        assert larger is not None
        assert larger.gain >= less.gain - 1e-9


def test_thousand_slides_come_within_a_hundredth_of_the_optimum():
    rng = np.random.default_rng(3)
    curves = [draw_curve(rng) for _ in range(1000)]
    whole = sum(curve.cost[-1] for curve in curves)
    for share in (0.4, 0.5, 0.7, 0.9):
        found = allocate(curves, share * whole)
        assert found is not None
        assert found.gain >= 0.99 * found.bound


def test_every_slide_keeps_the_fewest_patches_or_all_it_has():
    short = Curve(np.arange(1.0, 4), np.arange(1.0, 4))
    long = Curve(np.arange(1.0, 41), np.arange(1.0, 41))
    found = allocate([short, long], 11, 8)
    assert found is not None
    assert found.keep == [3, 8]
    assert allocate([short, long], 10.5, 8) is None


def test_picks_that_represent_nothing_more_are_not_kept():
    flat = Curve(np.array([1.0, 2, 2, 2]), np.array([1.0, 2, 3, 4]))
    found = allocate([flat], 100, 1)
    assert found is not None
    assert found.keep == [2]
