"""Rows of a manifest, and the slides that they mean."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from wsisum_cli.archive.manifest import Entry, Manifest, read_manifest, refuse_unclear
from wsisum_cli.errors import UsageError

NFC, NFD = "Prüf.svs", unicodedata.normalize("NFD", "Prüf.svs")


def manifest_of(*keys: str) -> Manifest:
    return Manifest({key: Entry(name=f"row {number}") for number, key in enumerate(keys)}, set(keys))


def name_of(manifest: Manifest, file: str) -> str | None:
    return manifest.entry(Path(file)).name


def test_manifest_keeps_own_columns_and_refuses_misspelt_ones(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("slide,case,mpp,date\na.svs,7,0.5,2020-01-01\n")
    manifest = read_manifest(path)
    assert list(manifest.columns) == ["case", "date"]
    assert manifest.entry(Path("a.svs")).about == {"case": "7", "date": "2020-01-01"}
    for header in ("slide,MPP", "slide,names", "slide,mmp", "slide,Slide", "slide,case,case", "case", "slide,"):
        path.write_text(f"{header}\na.svs,1\n")
        with pytest.raises(UsageError, match=r"m\.csv: expected"):
            read_manifest(path)


@pytest.mark.parametrize(
    ("row", "file"),
    [
        ("lung\\A1.svs", "lung/A1.svs"),
        ("./lung/A1.svs", "lung/A1.svs"),
        (".\\lung\\A1.svs", "lung/A1.svs"),
        ("lung//A1.svs", "lung/A1.svs"),
        (NFC, f"lung/{NFD}"),
        (f"lung\\{NFD}", f"lung/{NFC}"),
        ("lung\\A1.svs", "lung\\A1.svs"),  # a file that is called so
    ],
)
def test_a_row_means_the_same_slide_as_other_systems_write_it(row, file):
    manifest = manifest_of(row)
    assert name_of(manifest, file) == "row 0"
    assert not manifest.unused
    assert not manifest.unmatched([file])


def test_a_row_that_is_spelt_as_the_file_wins():
    manifest = manifest_of(NFC, NFD, "lung\\A1.svs", "lung/A1.svs", "A1.svs")
    files = [NFC, NFD, "lung\\A1.svs", "lung/A1.svs", "colon/A1.svs"]
    assert [name_of(manifest, file) for file in files] == [f"row {number}" for number in range(5)]
    assert not manifest.unmatched(files)


def test_a_row_that_is_spelt_as_one_file_is_of_no_other():
    manifest = manifest_of(NFC)
    assert not manifest.unmatched([NFC, NFD])
    assert name_of(manifest, NFC) == "row 0"
    assert name_of(manifest, NFD) is None


def test_of_two_rows_that_are_alike_neither_counts():
    manifest = manifest_of("./A1.svs", ".\\A1.svs")
    assert name_of(manifest, "A1.svs") is None
    assert set(manifest.unmatched(["A1.svs"]).values()) == {"another row is of the same slide"}


def test_slides_of_a_file_go_by_its_name_in_any_spelling():
    manifest = manifest_of("lung\\a.czi#2")
    assert manifest.names_slides_in(Path("lung/a.czi"))
    assert not manifest.names_slides_in(Path("lung/b.czi"))
    assert name_of(manifest, "lung/a.czi#2") == "row 0"
    assert not manifest.unmatched(["lung/a.czi"])


def test_rows_that_match_nothing_are_refused_with_the_reason():
    files = ["lung/A1.svs", "colon/B1.svs", NFD]
    for row, why in (
        ("lung/a1.SVS", r"lung/a1.SVS \(did you mean lung/A1.svs\?\)"),
        ("a/lung/A1.svs", r"did you mean lung/A1.svs\?"),
        ("/archive/lung/A1.svs", "not an absolute one"),
        ("C:\\archive\\A1.svs", "not an absolute one"),
        ("Z9.svs", "no such file"),
        ("Z9.svs#2", "no such file"),
        (NFD.replace("P", "T"), r"Tru\\u0308f.svs \(no such file\)"),
    ):
        with pytest.raises(UsageError, match=f"found 1 that match none, or several: .*{why}"):
            refuse_unclear(manifest_of("lung/A1.svs", row).unmatched(files))
    refuse_unclear(manifest_of("B1.svs", NFC).unmatched(files))
    with pytest.raises(UsageError, match=r"found 7 .*, and 2 more"):
        refuse_unclear(manifest_of(*(f"{number}.svs" for number in range(7))).unmatched(files))


def test_a_name_that_several_slides_have_is_no_row_of_one():
    files = ["lung/A1.svs", "colon/A1.svs", f"lung/{NFD}", "lung/B1.svs"]
    why = "the name of 2 files; give the path"
    assert manifest_of("A1.svs", "B1.svs", NFC).shared(files) == {"A1.svs": why}
    assert manifest_of("A1.svs#1").shared(files) == {"A1.svs#1": why}
    assert not manifest_of("A1.svs", "lung\\A1.svs").shared(files)  # which leaves one
    assert manifest_of("A1.svs").shared(["A1.svs", "lung/A1.svs", "lung/A1.svs"]) == {"A1.svs": why}
    assert not manifest_of("A1.svs").shared(["A1.svs", "A1.svs"])
    assert manifest_of(NFC).shared([*files, f"colon/{NFC}"]) == {NFC: why}
