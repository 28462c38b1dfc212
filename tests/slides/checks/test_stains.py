"""Exchanged channels of a whole slide are noted by its stain; the channels of real slides in their order are not."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from wsisum_cli.slides.checks.plausibility import choose_spots, find_spots, fine_window, sample_level
from wsisum_cli.slides.checks.stains import Stain, measure_stain
from wsisum_cli.slides.slide import open_pyramid

HE = (
    "slides/stomach/stomach-metaplasia.svs",
    "slides/duodenum/duodenum-lymphangiectasia.svs",
    "slides/lung/lung-scc-3.svs",
    "slides/colon/tubular-adenoma.ome.tiff",
    "slides/pancreas/pdac-tru-cut-3.tiff",
    "fixtures/CMU-1-Small-Region.svs",
    "fixtures/tcga-cr-7395-01a-01-ts1.svs",
    "fixtures/camelyon-jpeg.dcm",
    "fixtures/camelyon-jpeg2000.dcm",
    "problems/qupath032-bioformats670-he.ome.tif",
)
IHC = "problems/qupath032-bioformats670-ki67.ome.tif"
ORDERS = {"".join("RGB"[i] for i in order): list(order) for order in list(permutations(range(3)))[1:]}
#: Eosin that absorbs as much red as blue looks brown when its green is shown as blue.
NOT_NOTICED = {("slides/colon/tubular-adenoma.ome.tiff", "BRG"), (HE[-1], "BRG")}
HAEMATOXYLIN = {"purple": (0.65, 0.70, 0.29), "blue": (0.49, 0.34, 0.17)}


def windows_of(path: Path) -> list[np.ndarray]:
    """Those that the check of a slide looks at."""
    pyramid = open_pyramid(path)
    try:
        levels = range(len(pyramid.levels))
        spots = [find_spots(pyramid.levels[index], list(sample_level(pyramid, index))) for index in levels]
        chosen = choose_spots(spots, levels[-1], 0)
        return [window for spot in chosen if (window := fine_window(pyramid, spot)) is not None]
    finally:
        pyramid.close()


def note_of(windows: list[np.ndarray]) -> str | None:
    stain = measure_stain(windows)
    assert stain is not None
    return stain.note()


@pytest.mark.parametrize("name", HE)
def test_swapped_channels_of_he_are_noted(name: str, shared: Path):
    windows = windows_of(shared / name)
    assert note_of(windows) is None
    for order, channels in ORDERS.items():
        note = note_of([np.ascontiguousarray(window[..., channels]) for window in windows])
        assert ("look at the overview" in (note or "")) != ((name, order) in NOT_NOTICED), order


def test_brown_and_blue_are_in_order(shared: Path):
    assert note_of(windows_of(shared / IHC)) is None


@pytest.mark.parametrize("vector", HAEMATOXYLIN)
def test_haematoxylin_alone_is_in_order(vector: str):
    amount = np.random.default_rng(0).gamma(2.0, 0.25, (256, 256, 1))
    window = (245 * 10 ** -(amount * np.array(HAEMATOXYLIN[vector]))).round().astype(np.uint8)
    assert note_of([window]) is None


def test_too_little_stain_tells_nothing():
    assert measure_stain([np.full((256, 256, 3), 240, np.uint8)]) is None
    assert measure_stain([np.full((20, 20, 3), 90, np.uint8)]) is None


def test_he_is_certain_where_green_and_slope_say_so():
    contrast = np.array([0.05, -0.04, -0.01])
    assert Stain(np.array([0.27, 0.47, 0.26]), contrast, 0.05).is_like_he
    assert not Stain(np.array([0.27, 0.47, 0.26]), -contrast, 0.05).is_like_he
    assert not Stain(np.array([0.33, 0.34, 0.33]), contrast, 0.05).is_like_he
