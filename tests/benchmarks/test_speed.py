"""What `make bench` writes: ratios, fits and tables of known seconds, and a page of one small slide."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import speed
from draw import draw_tissue, write_svs
from places import DOCS
from readers import FLOOR, OPENSLIDE, OURS, choose_window
from rounds import Spent, added, alternate, ratio, scaled
from speed_page import Growth, Measured, Reading, Whole, fit, sections

from wsisum_cli.slides.patches import Reading as PatchReading
from wsisum_cli.tissue.grid import Grid

MARKS = "<!-- generated: speed -->\n\n<!-- end: speed -->"


def spent(*seconds: float) -> list[Spent]:
    return [Spent(each, 2 * each) for each in seconds]


def test_everyone_runs_once_a_round_and_another_comes_first_each_time():
    order: list[str] = []
    found = alternate({name: partial(order.append, name) for name in "abc"}, 4)
    assert "".join(order) == "abcbcacababc"
    assert {name: len(rounds) for name, rounds in found.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_ratio_is_that_of_each_round_with_its_range():
    found = ratio(spent(2, 3, 8), spent(1, 1, 2))
    assert (found.median, found.least, found.greatest) == (3, 2, 4)
    assert str(found) == "3.00 (2.00 to 4.00)"


def test_parts_of_a_floor_are_added_round_by_round():
    assert added(spent(1, 2), scaled(spent(3, 4), 10)) == spent(31, 42)


@pytest.mark.parametrize("glass", [0.0, 0.5])
def test_a_fit_finds_what_seconds_follow(glass):
    patches, area = [200, 1_000, 5_000, 20_000], [30, 500, 90, 200]
    took = [2 + 0.003 * n + glass * mm2 for n, mm2 in zip(patches, area, strict=True)]
    found = fit([patches, area], took)
    assert found.coefficients == pytest.approx([2, 0.003, glass], abs=1e-6)
    assert found.r2 == pytest.approx(1)
    assert fit([area], took).r2 < 0.95


@pytest.mark.parametrize(
    ("downsamples", "size", "level", "side"),
    [
        ((1.0, 4.0), 512, 0, 512),
        ((1.0, 2.0, 4.0), 512, 1, 256),
        ((1.0, 2.005), 512, 1, 255),
        ((1.0,), 256, 0, 256),
    ],
)
def test_other_libraries_read_the_coarsest_level_that_is_fine_enough(downsamples, size, level, side):
    reading = PatchReading(0, 1, 1.0, size, 256, 256, 256, 10_000, 10_000)
    window = choose_window(downsamples, Grid(np.zeros((1, 2), int), size, reading, aligned=False))
    assert (window.level, window.side) == (level, side)


def test_the_page_of_known_seconds():
    reading = Reading(
        "a.svs",
        "0.25 µm, tiles of 256 px, JPEG",
        "features",
        aligned=False,
        enlarged=False,
        patches=100,
        tiles=400,
        spent={FLOOR: spent(1, 1), OURS: spent(2, 2), OPENSLIDE: spent(8, 12)},
        agreement={OPENSLIDE: 52.31},
        failed={"cuCIM": "RuntimeError"},
    )
    names = ("decode, features", "encode, features", "decode, compress", "encode, compress")
    seconds = dict.fromkeys(names, spent(1, 1)) | {"features": spent(3, 3), "compress": spent(5, 7)}
    seconds |= {"loop": spent(12, 12), "sha256": spent(0.5, 0.5), "cp": spent(0.25, 0.25)}
    slides = [
        Whole(dict.fromkeys(("features", "compress"), count), 9, seconds, f"{count}.svs", [{"draws": 3.0}], 0.999)
        for count in (100, 200, 300)
    ]
    once = Growth(dict.fromkeys(("features", "compress"), 400), 9, seconds)
    page = sections(Measured([("processor", "any")], 2, 2, 16, [reading], slides, [once]), None)
    assert "| a.svs | 0.25 µm, tiles of 256 px, JPEG | features, free | 100 | 400 | 50 | 2.00 (2.00 to 2.00) |" in page
    assert "5.00 (4.00 to 6.00)" in page  # as fast as OpenSlide
    assert "OpenSlide 52.3 dB." in page
    assert "| 100.svs | 100 | 6.00 | 3.00 (2.50 to 3.50) |" in page  # compress over its floor
    assert "| 100.svs | 50% |" in page  # draws
    assert "4 slides, one of them timed once, of 100 to 400 patches" in page


def test_a_small_slide_fills_the_page(tmp_path, capsys):
    slide, page = tmp_path / "slide.svs", tmp_path / "speed.md"
    write_svs(slide, draw_tissue(2304, 2304, seed=1))
    page.write_text(f"above\n{MARKS}\nbelow\n")
    arguments = [str(slide), "--rounds", "1", "--threads", "1", "--sections", "reading", "whole", "--page", str(page)]
    assert speed.main(arguments) == 0
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "times as fast as OpenSlide" in text
    assert "a cosine of at least 0.9" in text
    assert text.count("| slide.svs |") >= 4  # reading, features, compress, stages
    assert "slide.svs: reading" in capsys.readouterr().err


def test_the_page_in_the_docs_can_be_filled():
    text = (DOCS / "speed.md").read_text()
    assert all(mark in text for mark in MARKS.split("\n\n"))
