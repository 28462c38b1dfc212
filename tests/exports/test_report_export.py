"""The bundle for a vision-language model or a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from summaries import KEPT, SIDE, TISSUE, write_as, write_tiny

from wsisum_cli.exports.export import export_summary
from wsisum_cli.exports.report import TITLE
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.figures.canvas import Canvas
from wsisum_cli.figures.heatmap import draw_map
from wsisum_cli.figures.picture import draw_summary
from wsisum_cli.summary.reader import open_summary


def bundle(summary: Path) -> tuple[Path, dict[str, Any], str]:
    folder = summary.with_name("B12.report")
    export_summary(summary, folder, TARGETS["report"])
    return folder, json.loads((folder / "report.json").read_bytes()), (folder / "prompt.txt").read_text("utf-8")


@pytest.fixture(scope="module", params=["source", "jpeg"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any, str]:
    summary = write_tiny(tmp_path_factory.mktemp("report") / "B12.ozx", request.param)
    return (summary, *bundle(summary))


def test_every_image_that_is_named_is_there_and_no_other(made: tuple[Path, Path, Any, str]):
    _, folder, report, words = made
    named = {patch["file"] for patch in report["kept"]} | set(report["images"].values())
    assert named == {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert all(name in words for name in report["images"].values())
    assert {path.name for path in folder.iterdir() if path.is_file()} - named == {"report.json", "prompt.txt"}


def test_patches_are_numbered_by_weight_at_the_resolution_stored(made: tuple[Path, Path, Any, str]):
    summary, folder, report, _ = made
    kept = report["kept"]
    assert [patch["number"] for patch in kept] == list(range(1, KEPT + 1))
    assert sorted((patch["weight"] for patch in kept), reverse=True) == [patch["weight"] for patch in kept]
    assert sum(patch["represents"] for patch in kept) == TISSUE
    assert sum(patch["share"] for patch in kept) == pytest.approx(1, abs=1e-4)
    with open_summary(summary) as opened:
        side = 2 * SIDE if opened.record.pixels.mode == "source" else SIDE
        order = np.argsort(-opened.weights, kind="stable")
        for patch, row in zip(kept, order.tolist(), strict=True):
            with Image.open(folder / patch["file"]) as image:
                assert image.size == (side, side)
            np.testing.assert_allclose([patch["x_mm"], patch["y_mm"]], opened.coords[row] * 0.25e-3, atol=6e-4)
        np.testing.assert_array_equal(np.asarray(Image.open(folder / "overview.png")), opened.overview)
        assert report["file_mpp"] == pytest.approx(2 * SIDE * 0.25 / side)


def test_the_prompt_says_what_is_missing_and_how_to_speak_of_it(made: tuple[Path, Path, Any, str]):
    _, _, report, words = made
    assert words.startswith("You see a summary of one slide")
    assert report["note"] in words
    assert "Never say that something is absent from the slide." in words
    assert "not a diagnosis" in words
    regions = report["not_represented"]
    assert len(regions) == min(20, report["not_represented_count"]) > 0
    assert words.count("\nArea ") == len(regions)
    assert sum(region["mm2"] for region in regions) == pytest.approx(report["not_represented_mm2"], rel=0.01)
    for patch in report["kept"]:
        assert f"\n{patch['number']}: " in words


def test_nothing_names_the_slide(made: tuple[Path, Path, Any, str], monkeypatch: pytest.MonkeyPatch):
    """A file's name may hold the diagnosis; the sha256 tells which slide it is."""
    summary, _, report, words = made
    assert "tiny" not in words + json.dumps(report)
    with open_summary(summary) as opened:
        assert report["slide"]["sha256"] == opened.record.source.sha256
        drawn: list[str] = []
        original = Canvas.write

        def note(canvas: Canvas, at: Any, text: str, *rest: Any) -> None:
            drawn.append(text)
            original(canvas, at, text, *rest)

        monkeypatch.setattr(Canvas, "write", note)
        draw_summary(opened, TITLE)
        draw_map(opened, "represented", TITLE)
    assert drawn.count(TITLE) == 2
    assert not [text for text in drawn if "tiny" in text]


def test_before_format_1_4_it_says_that_it_does_not_know(tmp_path: Path):
    older = write_as(tmp_path / "older.ozx", write_tiny(tmp_path / "B12.ozx"))
    folder, report, words = bundle(older)
    assert report["not_represented"] is None
    assert "It is not known how much of the tissue looks like none of the patches." in words
    assert not (folder / "represented.png").exists()
