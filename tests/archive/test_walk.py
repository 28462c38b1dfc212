"""What an index of an archive calls the files of its slides."""

from __future__ import annotations

from pathlib import Path

from wsisum_cli.archive.walk import SourceIndex


def archive_of(folder: Path) -> Path:
    for name in ("in/scan.mrxs", "in/scan/Data1.dat", "in/scan/Data0.dat", "a.svs", "b.isyntax", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_names_are_those_of_all_files_of_slides_and_of_what_looks_like_one(tmp_path):
    index = SourceIndex(archive_of(tmp_path))
    files = [index.names_of(source) for source in index.sources]
    assert files == [["a.svs"], ["in/scan.mrxs", "in/scan/Data0.dat", "in/scan/Data1.dat"]]
    assert set(index.names) == {*files[0], *files[1], "in/scan", "b.isyntax"}


def test_names_of_an_archive_that_is_one_slide_are_those_of_its_files(tmp_path):
    index = SourceIndex(archive_of(tmp_path) / "in/scan.mrxs")
    assert index.names == ["scan.mrxs", "Data0.dat", "Data1.dat"]


def test_no_slide_owns_a_summary_that_cannot_be_read(tmp_path):
    index = SourceIndex(archive_of(tmp_path))
    assert index.owners(tmp_path / "none.ozx") == []
    assert index.owners(tmp_path / "notes.txt") == []
