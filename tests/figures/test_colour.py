"""Colours and scales of figures, and the squares of patches on a map."""

from __future__ import annotations

import numpy as np
import pytest
from colour_vision import lightness, oklab
from stubs import SIDE

from wsisum_cli.figures.colour import (
    KINDS,
    LUMA,
    RAMP,
    VIRIDIS,
    coverage_scale,
    kind_colour,
    ramp_colours,
    squares,
    tinted,
    weight_scale,
)


@pytest.mark.parametrize("ramp", [RAMP, VIRIDIS])
def test_ramps_grow_lighter_throughout(ramp: np.ndarray):
    shades = [lightness(colour) for colour in ramp_colours(np.linspace(0, 1, 50), ramp)]
    assert (np.diff(shades) > 0).all()


def test_fifty_category_colours_are_distinct():
    assert len(KINDS) == len(set(KINDS)) == 50
    places = oklab(np.array(KINDS, float))
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(50)
    assert distances.min() > 0.06
    assert distances[:7, :7].min() > 0.1
    assert [kind_colour(number) for number in (0, 50)] == [KINDS[0]] * 2


@pytest.mark.parametrize(
    ("values", "ticks", "first"),
    [
        ([0.41, 0.6, 1.0], (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "0.4"),
        ([0.935, 0.95, 1.0], (0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 1.0), "0.93"),
        ([1.0], (0.99, 1.0), "0.99"),
        ([0.2] + [0.9] * 300 + [1.0], (0.9, 0.92, 0.94, 0.96, 0.98, 1.0), "< 0.90"),
        ([-0.3, 0.2], (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2), "-0.3"),
    ],
)
def test_scales_of_coverage_have_round_ends(values: list[float], ticks: tuple[float, ...], first: str):
    scale = coverage_scale(np.array(values))
    assert scale.ticks == pytest.approx(ticks)
    assert scale.words[0] == first


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([0.013, 0.09], ("1 %", "2 %", "5 %", "10 %")),
        ([0.125], ("10 %", "20 %")),
        ([1.0], ("50 %", "100 %")),
        ([1e-5, 0.5], ("0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %")),
        ([0.0, 1.0], ("< 50 %", "100 %")),
        ([0.0, 0.012, 0.3], ("< 1 %", "2 %", "5 %", "10 %", "20 %", "50 %")),
        ([1e-9], ("< 0.0001 %", "0.0002 %")),
    ],
)
def test_scales_of_weight_are_logarithmic_with_round_ends(weights: list[float], words: tuple[str, ...]):
    scale = weight_scale(np.array(weights))
    assert scale.words == words
    assert scale.share(np.array([scale.ticks[0], scale.ticks[-1]])).tolist() == [0, 1]
    assert np.diff(scale.share(np.array(scale.ticks))).min() > 0.09


def test_values_outside_a_scale_get_its_end_colour():
    scale = coverage_scale(np.linspace(0.5, 1, 100))
    assert scale.colours(np.array([-1.0, 2.0])) == [tuple(VIRIDIS[0].astype(int)), tuple(VIRIDIS[-1].astype(int))]


# ----------------------------------------------------------------------------------------------------------- squares


@pytest.mark.parametrize("size", [(100, 77), (333, 250), (1999, 1501)])
def test_neighbouring_squares_share_their_edges(size: tuple[int, int]):
    coords = np.array([(x, y) for y in range(12) for x in range(16)]) * SIDE
    boxes = squares(coords, SIDE, (16 * SIDE, 12 * SIDE), size)
    painted = np.zeros(size[::-1], int)
    for left, upper, right, lower in boxes.tolist():
        painted[upper:lower, left:right] += 1
    assert (painted == 1).all()


def test_squares_stay_on_the_map_and_are_visible():
    coords = np.array([[0, 0], [10**9, 10**9], [-(2**31), 5]])
    boxes = squares(coords, 10, (100_000, 100_000), (50, 40))
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= 50).all()
    assert (boxes[:, 3] <= 40).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()


def test_tissue_shows_through():
    pixels = np.random.default_rng(0).integers(60, 240, (8, 8, 3), np.uint8)
    made = tinted(pixels, np.array([[0, 0, 4, 8]]), [KINDS[0]])
    assert np.array_equal(made[:, 4:], pixels[:, 4:])
    shades = pixels[:, :4] @ LUMA
    assert np.corrcoef(shades.ravel(), (made[:, :4] @ LUMA).ravel())[0, 1] > 0.999
