"""Patches as image files, with their table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from summaries import KEPT, SIDE, TISSUE, compress_drawn, draw_slide, write_tiny

from wsisum_cli.errors import SummaryError
from wsisum_cli.exports.export import export_summary
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.slide import open_slide
from wsisum_cli.summary.reader import open_summary


def export(summary: Path, images: str = "auto") -> Path:
    output = summary.with_name(f"{summary.stem}-{images}.patches")
    export_summary(summary, output, TARGETS["patches"], ExportOptions(images=images))
    return output


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "patches.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("mode", ["source", "jpeg"])
def test_png_are_the_patches_that_the_encoder_sees(tmp_path: Path, mode: str):
    summary = write_tiny(tmp_path / "B12.ozx", mode)
    folder = export(summary, "png")
    with open_summary(summary) as opened:
        for row in rows_of(folder):
            found = np.asarray(Image.open(folder / row["file"]))
            np.testing.assert_array_equal(found, opened.patches[int(row["picked"]) - 1])


def test_stored_streams_are_copied(tmp_path: Path):
    summary = write_tiny(tmp_path / "B12.ozx", "jpeg")
    folder = export(summary)
    with open_summary(summary) as opened:
        for row in rows_of(folder):
            assert row["file"].endswith(".jpg")
            assert (folder / row["file"]).read_bytes() == opened.patches.shard.stream(int(row["picked"]) - 1)


def test_tiles_are_no_patches(tmp_path: Path):
    with pytest.raises(SummaryError, match="use --images png or full"):
        export(write_tiny(tmp_path / "B12.ozx", "source"), "jpeg")
    assert [path.name for path in tmp_path.iterdir()] == ["B12.ozx"]


def test_full_is_what_the_scanner_stored(tmp_path: Path):
    folder = export(write_tiny(tmp_path / "B12.ozx", "source"), "full")
    slide = draw_slide()
    for row in rows_of(folder):
        x, y, side = (int(row[name]) for name in ("x", "y", "side"))
        found = np.asarray(Image.open(folder / row["file"]))
        assert found.shape == (side, side, 3) == (2 * SIDE, 2 * SIDE, 3)
        assert float(row["mpp"]) == 0.25
        tiles = [slide[y + j : y + j + 32, x + i : x + i + 32] for j in (0, 32) for i in (0, 32)]
        again = [jpeg.decode(jpeg.encode(tile)) for tile in tiles]
        np.testing.assert_array_equal(found, np.vstack([np.hstack(again[:2]), np.hstack(again[2:])]))


def test_full_of_a_real_pyramid_is_the_slide(tmp_path: Path):
    drawn = compress_drawn(tmp_path)
    folder = export(drawn["source"], "full")
    with open_slide(drawn["slide"]) as slide:
        level = slide.pyramid.levels[0]
        for row in rows_of(folder)[:3]:
            x, y, side = (int(row[name]) for name in ("x", "y", "side"))
            column, line = x // level.tile_width, y // level.tile_height
            tile = slide.pyramid.tile(0, column, line)
            assert tile is not None
            left, upper = x - column * level.tile_width, y - line * level.tile_height
            found = np.asarray(Image.open(folder / row["file"]))
            assert found.shape == (side, side, 3)
            part = tile[upper:, left:]
            np.testing.assert_array_equal(found[: part.shape[0], : part.shape[1]], part[:side, :side])


def test_the_table_and_the_facts(tmp_path: Path):
    summary = write_tiny(tmp_path / "B12.ozx", "jpeg")
    folder = export(summary)
    rows = rows_of(folder)
    assert [row["number"] for row in rows] == [str(number) for number in range(1, KEPT + 1)]
    assert {row["file"] for row in rows} == {path.name for path in folder.glob("*.jpg")}
    assert sum(float(row["weight"]) for row in rows) == pytest.approx(1, abs=1e-4)
    assert sum(int(row["represents"]) for row in rows) == TISSUE
    assert {row["slide"] for row in rows} == {"tiny.svs"}
    assert {(row["side"], row["mpp"]) for row in rows} == {(str(2 * SIDE), "0.5")}
    about = json.loads((folder / "summary.json").read_bytes())
    assert about["note"].startswith("This is not a slide. It is a summary of tiny.svs: 8 of its 80 tissue patches")
    with open_summary(summary) as opened:
        assert about["represented"] == opened.record.represented.share
        assert about["verdict"] == opened.record.verdict.verdict
    assert (folder / "icc_profile.icc").read_bytes() == b"a colour profile"
