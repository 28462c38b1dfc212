"""Slides in formats that are not read have a row that says how to convert them."""

from __future__ import annotations

from pathlib import Path

import pytest
from files import put

from wsisum_cli.archive.formats import FORMATS, SYSTEM_FOLDERS
from wsisum_cli.archive.walk import find_slides


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
