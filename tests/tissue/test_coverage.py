"""How much tissue no patch covers: areas count, rims do not."""

from __future__ import annotations

import numpy as np
import pytest

from wsisum_cli.tissue.coverage import LeftOut, measure_left_out, painted, wide_areas

SIDE, DOWNSAMPLE, MPP = 512, 32.0, 0.25  # a patch of 16 px


def grid(columns: int, rows: int) -> np.ndarray:
    return np.array([(x * SIDE, y * SIDE) for y in range(rows) for x in range(columns)], np.int32)


def left_out(coords: np.ndarray, tissue: np.ndarray) -> LeftOut:
    return measure_left_out(tissue, coords, SIDE, DOWNSAMPLE, MPP)


def test_all_covered_leaves_nothing_out():
    assert left_out(grid(10, 10), np.ones((160, 160), bool)) == LeftOut(0.0, 0.0, 0.0)


def test_a_missing_column_is_measured():
    coords = grid(10, 10)
    found = left_out(coords[coords[:, 0] != 4 * SIDE], np.ones((160, 160), bool))
    area = 10 * (SIDE * MPP / 1000) ** 2
    assert (found.share, found.mm2, found.largest_mm2) == pytest.approx((0.1, area, area), abs=1e-6)


def test_one_missing_patch_is_measured_wherever_the_grid_lies():
    for shift in (0, 5, 13, 31):
        coords = grid(9, 9) + shift
        assert left_out(np.delete(coords, 40, axis=0), painted((160, 160), coords / DOWNSAMPLE, 16)).share > 0.01


def test_areas_apart_are_not_one():
    coords = grid(10, 10)
    gone = (coords == [SIDE, SIDE]).all(axis=1) | (coords == [7 * SIDE, 7 * SIDE]).all(axis=1)
    found = left_out(coords[~gone], np.ones((160, 160), bool))
    assert found.mm2 == pytest.approx(2 * found.largest_mm2, rel=1e-3)


def test_rims_narrower_than_a_patch_do_not_count():
    tissue = np.zeros((160, 160), bool)
    tissue[3:-3, 3:-3] = True
    inner = grid(10, 10)
    inner = inner[((inner > 0) & (inner < 9 * SIDE)).all(axis=1)]
    assert left_out(inner, tissue) == LeftOut(0.0, 0.0, 0.0)


def test_the_border_of_the_image_is_no_tissue():
    mask = np.zeros((40, 40), bool)
    mask[:5] = True
    assert not wide_areas(mask, 6).any()
    assert wide_areas(mask, 5)[:5].all()
