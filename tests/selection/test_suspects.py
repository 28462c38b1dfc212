"""Suspect tissue is measured like any other, and picked only where nothing clean stands for it."""

from __future__ import annotations

import numpy as np
import pytest

from wsisum_cli.selection import facility
from wsisum_cli.selection.candidates import sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.selectors import SELECTORS, pick, weigh
from wsisum_cli.selection.suspects import pickable_rows

SIDE = 512
NEED_NO_MODEL = [name for name in SELECTORS if name != "attention"]


def grid(columns: int, rows: int, at: tuple[int, int] = (0, 0)) -> np.ndarray:
    """(columns * rows, 2) coords of a rectangle of patches, its corner `at` so many patches."""
    x, y = np.meshgrid(np.arange(columns) + at[0], np.arange(rows) + at[1])
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int32) * SIDE


def tissue(suspect: np.ndarray, coords: np.ndarray, seed: int = 0) -> TissuePatches:
    """Random features; those of suspects point elsewhere than all others."""
    features = np.random.default_rng(seed).normal(0, 1, (len(coords), 24)).astype(np.float32)
    features[:, 0] += 4
    features[suspect] *= -1
    candidates = sample_candidates(features, 100, 8, 0)
    return TissuePatches(features, coords, candidates, 0, SIDE, suspect=suspect)


def scattered(count: int, every: int = 9) -> np.ndarray:
    return np.arange(count) % every == 4


@pytest.mark.parametrize("selector", NEED_NO_MODEL)
@pytest.mark.parametrize("keep", [1, 20, 150])
def test_suspects_among_clean_tissue_are_not_picked(selector, keep):
    coords = grid(20, 10)
    suspect = scattered(len(coords))
    patches = tissue(suspect, coords)
    rows = pick(patches, keep, selector)
    assert len(rows) == len(set(rows.tolist())) == keep
    assert not suspect[rows].any()
    selection = weigh(patches.features, rows)
    assert selection.counts.sum() == len(coords)  # the kept stand for suspects too


@pytest.mark.parametrize("selector", NEED_NO_MODEL)
def test_where_all_is_kept_suspects_come_last(selector):
    coords = grid(10, 6)
    suspect = scattered(len(coords), 7)
    rows = pick(tissue(suspect, coords), len(coords), selector)
    assert sorted(rows.tolist()) == list(range(len(coords)))
    assert suspect[rows[-suspect.sum() :]].all()


@pytest.mark.parametrize("selector", NEED_NO_MODEL)
def test_without_suspects_the_picks_are_those_of_tissue_that_nobody_judged(selector):
    coords = grid(12, 8)
    patches = tissue(np.zeros(len(coords), bool), coords)
    unjudged = TissuePatches(patches.features, coords, patches.candidates, 0, SIDE)
    np.testing.assert_array_equal(pick(patches, 15, selector), pick(unjudged, 15, selector))


def test_a_piece_that_is_suspect_as_a_whole_may_be_picked():
    coords = np.concatenate([grid(10, 6), grid(4, 3, at=(12, 0))])
    suspect = np.arange(len(coords)) >= 60
    rows = pick(tissue(suspect, coords), 12)
    assert suspect[rows].any()
    assert not suspect[rows].all()


def test_a_stretch_far_from_clean_tissue_may_be_picked_and_the_part_near_it_not():
    coords = grid(40, 3)
    suspect = coords[:, 0] >= 10 * SIDE
    pickable = pickable_rows(suspect, coords, SIDE)
    assert np.isin(np.flatnonzero(~suspect), pickable).all()
    added = coords[pickable][suspect[pickable], 0] // SIDE
    assert added.min() == 17  # 8 patches from the last clean column


def test_a_speck_apart_from_all_tissue_is_not_picked():
    coords = np.concatenate([grid(10, 6), grid(2, 3, at=(40, 40))])
    suspect = np.arange(len(coords)) >= 60
    assert len(pickable_rows(suspect, coords, SIDE)) == 60


@pytest.mark.parametrize("clean", [0, 7])
def test_where_hardly_anything_is_clean_all_may_be_picked(clean):
    coords = grid(10, 10)
    suspect = np.arange(100) >= clean
    np.testing.assert_array_equal(pickable_rows(suspect, coords, SIDE), np.arange(100))


def test_nobody_looked():
    np.testing.assert_array_equal(pickable_rows(None, grid(3, 3), SIDE), np.arange(9))


def test_a_pool_of_part_of_many_patches_holds_no_suspects(monkeypatch):
    monkeypatch.setattr(facility, "EXACT", 100)
    monkeypatch.setattr(facility, "MOST_COSINES", 600 * 200)
    monkeypatch.setattr(facility, "OUTLIERS", 16)
    coords = grid(30, 20)
    suspect = scattered(len(coords), 5)
    patches = tissue(suspect, coords)
    assert patches.pool.served.shape == (len(patches.pool.rows), len(coords))
    assert len(set(patches.pool.rows.tolist())) == len(patches.pool.rows) == 200
    assert not suspect[patches.pool.rows].any()
    assert not suspect[pick(patches, 180)].any()
