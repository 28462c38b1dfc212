"""Slides in formats that are not read have a row that says how to convert them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicoms import write_series
from files import put
from running import wsisum
from summaries import write_tiny

from wsisum_cli.archive.formats import FORMATS, SYSTEM_FOLDERS
from wsisum_cli.archive.walk import SourceIndex, find_slides


def rows(root: Path) -> dict[str, tuple[str, str]]:
    _, outcomes, _ = find_slides(root, root / "out")
    return {outcome.source: (outcome.status, outcome.reason) for outcome in outcomes}


NOT_READ = ("skipped", "format not read")


@pytest.mark.parametrize("suffix", [*sorted(FORMATS), ".KFB", ".iSyntax"])
def test_a_row_says_how_to_convert(suffix: str, tmp_path: Path) -> None:
    put(tmp_path / "a" / f"B12{suffix}", b"x")
    sources, (outcome,), others = find_slides(tmp_path, tmp_path / "out")
    assert (sources, others) == ([], 0)
    assert outcome.source == f"a/B12{suffix}"
    assert (outcome.status, outcome.reason) == NOT_READ
    assert outcome.message.startswith(f"B12{suffix}: ")
    assert " is not read; " in outcome.message


def test_a_file_that_is_named_has_the_same_row(tmp_path: Path) -> None:
    _, (outcome,), _ = find_slides(put(tmp_path / "a.lif", b"x"), tmp_path / "out")
    assert (outcome.source, outcome.reason) == ("a.lif", "format not read")


@pytest.mark.parametrize(("slide", "folder"), [("a.vsi", "_a_"), ("a.dzi", "a_files")])
def test_folders_of_pixels_are_not_searched(slide: str, folder: str, tmp_path: Path) -> None:
    put(tmp_path / slide, b"x")
    put(tmp_path / folder / "stack1" / "frame_t_0.ets", b"x")
    assert rows(tmp_path) == {slide: NOT_READ, f"{folder}/": ("skipped", "companion folder")}


@pytest.mark.parametrize("marker", [".zattrs", ".zgroup", "zarr.json"])
def test_an_ome_zarr_is_one_row(marker: str, tmp_path: Path) -> None:
    put(tmp_path / "in" / "b" / marker, b"{}")
    put(tmp_path / "in" / "b" / "0" / "slide.svs", b"x")
    assert rows(tmp_path / "in") == {"b/": NOT_READ}
    assert rows(tmp_path / "in" / "b") == {"b/": NOT_READ}


def test_a_folder_called_zarr_is_one(tmp_path: Path) -> None:
    put(tmp_path / "x.ome.zarr" / "labels" / "slide.svs", b"x")
    assert rows(tmp_path) == {"x.ome.zarr/": NOT_READ}


@pytest.mark.parametrize(
    "folder", [*sorted(SYSTEM_FOLDERS), "$RECYCLE.BIN", "@eaDir", "System Volume Information", ".Trash"]
)
def test_folders_of_the_system_are_left_out(folder: str, tmp_path: Path) -> None:
    put(tmp_path / folder / "deleted.svs", b"x")
    put(tmp_path / folder / "deleted.vsi", b"x")
    assert find_slides(tmp_path, tmp_path / "out") == ([], [], 0)


def test_a_summary_in_an_archive_is_no_slide(tmp_path: Path) -> None:
    write_tiny(put(tmp_path / "a" / "B12.ozx", b""))
    write_tiny(put(tmp_path / "out" / "C3.ozx", b""))  # an output of an earlier run
    put(tmp_path / "a" / "image.ozx", b"PK")
    put(tmp_path / "a" / "B12.svs", b"x")
    sources, outcomes, others = find_slides(tmp_path, tmp_path / "out")
    assert ([source.path.name for source in sources], others) == (["B12.svs"], 0)
    found = {outcome.source: (outcome.status, outcome.reason) for outcome in outcomes}
    assert found == {"a/B12.ozx": ("skipped", "a summary"), "a/image.ozx": NOT_READ}
    words = {outcome.source: outcome.message for outcome in outcomes}
    assert words["a/B12.ozx"].startswith("B12.ozx: is a summary, not a slide; give the slide that it was made from")
    assert "OME-Zarr in a ZIP, or a damaged summary, is not read; unzip it" in words["a/image.ozx"]
    (tmp_path / "a" / "image.ozx").unlink()
    assert SourceIndex(tmp_path).left() == ["a/B12.svs"]  # the summary is no slide that lacks one


def test_a_summary_where_a_slide_is_expected_is_refused(tmp_path: Path) -> None:
    summary = write_tiny(put(tmp_path / "summaries" / "B12.ozx", b""))
    folder = summary.parent
    for arguments, words in (
        (("compress", summary, "-o", tmp_path / "x"), "B12.ozx: is a summary, not a slide; give the slide"),
        (("compress", folder, "-o", tmp_path / "x"), "expected slides, found one summary; give the folder"),
        (("compress", summary, "-o", tmp_path / "x", "--dry-run"), "B12.ozx: is a summary, not a slide"),
        (("verify", summary, "--source", summary), "B12.ozx: is a summary, not a slide; give the slide"),
        (("verify", folder, "--source", folder), "expected slides, found one summary"),
        (("inspect", summary, "--compare", "--features", summary), "B12.ozx: is a summary, expected an h5 with"),
    ):
        done = wsisum(*arguments)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "x").exists()


def test_the_label_of_a_dicom_series_is_no_slide_that_lacks_a_summary(tmp_path: Path) -> None:
    """Nor are its overview, its thumbnail and annotations; the slide itself is one."""
    write_series(tmp_path, np.full((256, 256, 3), 240, np.uint8), tile=256)
    assert SourceIndex(tmp_path).left() == ["a-2.dcm"]
