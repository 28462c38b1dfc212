"""Tables run nothing in a spreadsheet, and are read within bounds."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

import wsisum_cli
from wsisum_cli.archive.manifest import read_manifest
from wsisum_cli.archive.outcome import FAILED, Outcome
from wsisum_cli.archive.report import CSV_NAME, write_report
from wsisum_cli.errors import UsageError
from wsisum_cli.exports import tables
from wsisum_cli.exports.tables import as_csv, plain_cell, read_rows

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "－1+1", "=", "-a.svs"]
PLAIN = ["a.svs", "a=b", "1-2", "-1", "+0.5", "-1.5e-7", "-.5", "inf", "-inf", "nan", "", " =1", -3, -0.25, None, True]


@pytest.mark.parametrize("cell", FORMULAS)
def test_what_a_spreadsheet_would_run_is_quoted(cell: str):
    expected = "'" + cell.replace("\r", "\n")
    assert plain_cell(cell) == expected
    ((found, last),) = csv.reader(io.StringIO(as_csv([[cell, 1]]), newline=""))
    assert (found, last) == (expected, "1")


@pytest.mark.parametrize("cell", PLAIN)
def test_numbers_and_other_text_stay(cell: object):
    assert plain_cell(cell) is cell


def test_reports_quote_names_and_messages(tmp_path: Path):
    write_report(tmp_path, [Outcome("=cmd.svs", FAILED, "unreadable", "@x: broken")], {})
    (row,) = csv.DictReader(io.StringIO((tmp_path / CSV_NAME).read_text()))
    assert (row["source"], row["message"]) == ("'=cmd.svs", "'@x: broken")


def test_every_table_is_written_here():
    package = Path(wsisum_cli.__file__).parent
    writers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"csv\.(writer|DictWriter|reader|DictReader)", path.read_text())
    }
    assert writers == {"exports/tables.py"}


def test_rows_come_with_the_numbers_of_their_lines(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffa,b\n\n"x\ny",1\nz\n', encoding="utf-8")
    assert list(read_rows(path)) == [(1, ["a", "b"]), (4, ["x\ny", "1"]), (5, ["z"])]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"slide\na\0.svs\n", "NUL"),
        (b"slide\n1\n2\n3\n4\n5\n6\n7\n8\n9\n", "more than 8 rows"),
        (b"slide\n" + b'"' + 200_000 * b"a", "field larger"),
        (b"slide\n" + 5000 * b"a", "5006 bytes, expected at most 4096"),
        (b"slide\n\xff\n", "decode"),
        (b"\xff" * 9, "decode"),
        (b"", "found none"),
        (b",,,\n", "expected the column slide"),
        (b"slide,mpp\na.svs,1e999\n", "not a number"),
        (b"slide,name\na.svs,../b\n", "plain file name"),
    ],
)
def test_manifests_out_of_bounds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
):
    monkeypatch.setattr(tables, "MAX_ROWS", 8)
    if "4096" in said:
        monkeypatch.setattr(tables, "MAX_BYTES", 4096)
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_manifest(path)


def test_a_manifest_without_end_is_refused():
    if not Path("/dev/zero").exists():
        pytest.skip("needs a device that never ends")
    with pytest.raises(UsageError, match="it is no file"):
        read_manifest(Path("/dev/zero"))
