"""Rules of the user: which slides stay whatever their summaries are worth."""

from __future__ import annotations

import os
import time
import unicodedata
from datetime import date, timedelta
from pathlib import Path

import pytest

from wsisum_cli.archive.manifest import Entry, Manifest
from wsisum_cli.archive.retention.plan import abouts_of
from wsisum_cli.archive.retention.rules import Rules, kept_by_rules, make_rules, parse_age, parse_where
from wsisum_cli.errors import UsageError
from wsisum_cli.slides.source import find_source

TODAY = date(2026, 6, 1)
NFC, NFD = "Prüfung", unicodedata.normalize("NFD", "Prüfung")


def write_slide(folder: Path, days: int) -> Path:
    path = folder / "a.svs"
    path.write_bytes(b"x")
    when = time.mktime((TODAY - timedelta(days=days)).timetuple())
    os.utime(path, (when, when))
    return path


def manifest_of(**columns: str) -> Manifest:
    return Manifest({"a.svs": Entry(about=columns)}, set(), list(columns))


@pytest.mark.parametrize(
    ("days", "given", "why"),
    [
        (800, "", None),
        (700, "", "newer than 2y, by the file"),
        (700, "2020-01-01", None),
        (9000, "2026-01-01", "newer than 2y, by the date in the manifest"),
        (9000, "2026-01-01T10:00:00", "by the date in the manifest"),
        (9000, "2020-01-01 10:00", None),
        (9000, "last year", "no usable date: 'last year' is not a date"),
        (9000, "2020-01-01/2026-01-01", "is not a date"),
        (9000, "20200101", "is not a date"),
        (9000, "2020-02-30", "is not a date"),
        (9000, "1900-01-01", "no usable date: 1900-01-01 is before 1990"),
        (9000, "0001-01-01", "no usable date"),
        (9000, "2027-01-01", "no usable date: 2027-01-01 is in the future"),
        (-9, "", "no usable date"),
    ],
)
def test_new_slides_and_those_without_a_usable_date_are_kept(tmp_path, days, given, why):
    for column in ("date", " Date "):
        rules = make_rules("PASS", "2y", [], manifest_of(**{column: given}))
        found = next(kept_by_rules(find_source(write_slide(tmp_path, days)), [{column: given}], rules, TODAY), None)
        assert (found is None) if why is None else (found is not None and why in found)


@pytest.mark.parametrize("when", [0, 315_532_800])  # 1970, and 1980 as in ZIP files
def test_a_file_without_a_time_is_kept(tmp_path, when):
    path = write_slide(tmp_path, 0)
    os.utime(path, (when, when))
    rules = make_rules("PASS", "2y", [], None)
    assert next(kept_by_rules(find_source(path), [None], rules, TODAY)).startswith("no usable date: the time of the")


@pytest.mark.parametrize(
    ("asked", "there", "kept"),
    [
        ("teaching", " Teaching ", True),
        ("teaching", "routine", False),
        (NFC, NFD, True),
        (NFD, NFC.upper(), True),
        ("trial x", "Trial  x", True),
        ("trial", "teaching; Trial", True),
        ("teaching; trial", "Teaching;  trial", True),
        ("trial", "trials", False),
    ],
)
def test_values_are_compared_whatever_their_spelling(tmp_path, asked, there, kept):
    rules = Rules("PASS", None, [("use", asked)])
    found = next(kept_by_rules(find_source(write_slide(tmp_path, 9000)), [{"use": there}], rules, TODAY), None)
    assert found == (f"use is {asked}" if kept else None)
    assert parse_where([f"use={asked}"], manifest_of(use=asked if not kept else there))


def test_a_slide_without_a_row_is_kept_by_rules_that_need_one(tmp_path):
    source = find_source(write_slide(tmp_path, 9000))
    dated, used = manifest_of(date="2000-01-01"), manifest_of(use="x")
    for rules in (make_rules("PASS", "2y", [], dated), make_rules("PASS", None, ["use=x"], used)):
        assert list(kept_by_rules(source, [None], rules, TODAY)) == ["not in the manifest"]
    for rules in (make_rules("PASS", "2y", [], None), Rules()):
        assert not list(kept_by_rules(source, [None], rules, TODAY))


@pytest.mark.parametrize("text", ["2", "y", "2 years", "-1y", "2h", "", "2100y"])
def test_age_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="--keep-newer"):
        parse_age(text)


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"scan date": "2020-01-01"}, "expected a column date in the manifest, found scan date; rename the column"),
        ({}, "expected a column date in the manifest, found none"),
        ({"date": "2020-01-01", "Date": "2026-01-01"}, "expected one column date in the manifest, found date, Date"),
    ],
)
def test_dates_that_nobody_can_tell_are_refused(columns, complaint):
    with pytest.raises(UsageError, match=complaint):
        make_rules("PASS", "2y", [], manifest_of(**columns))
    assert make_rules("PASS", None, [], manifest_of(**columns)).newer is None


def test_condition_that_no_row_can_meet_is_refused():
    manifest = manifest_of(use="teaching=1", case="7")
    assert parse_where(["use=teaching=1"], manifest) == [("use", "teaching=1")]
    for text in ("use", "=x", "use=", "use= ", "scan=7"):
        with pytest.raises(UsageError, match="--keep-where"):
            parse_where([text], manifest)
    assert parse_where(["Use =teaching=1"], manifest) == [("use", "teaching=1")]
    with pytest.raises(UsageError, match="expected one column use in the manifest, found use, Use; remove one"):
        parse_where(["use=x"], manifest_of(use="x", Use="y"))
    with pytest.raises(UsageError, match="use=teachng: expected a value that a row has in use, found teaching=1"):
        parse_where(["use=teachng"], manifest)


def test_rules_hold_for_slides_of_a_file_too():
    columns = ["use", "case"]
    entries = {
        "in/a.czi#2": Entry(about={"use": "teaching", "case": "7"}),
        "a.czi": Entry(about={"use": "", "case": "8"}),
    }
    manifest = Manifest(entries, set(entries), columns)
    assert [about and about["case"] for about in abouts_of(["in/a.czi"], [1, 2], manifest)] == ["8", "7"]
    assert not manifest.unused


def test_a_slide_of_a_file_that_has_no_row_counts_as_missing():
    entries = {"a.czi#1": Entry(about={"use": "x"}), "a.czi#2": Entry(about={"use": "y"})}
    manifest = Manifest(entries, set(entries), ["use"])
    assert None not in abouts_of(["a.czi"], [1, 2], manifest)
    assert abouts_of(["a.czi"], [1, 2, 3], manifest)[0] is None
    assert abouts_of(["b.czi"], [None], manifest) == [None]


def test_a_row_of_any_file_of_a_slide_is_of_the_slide():
    manifest = Manifest({"ser/2.dcm": Entry(about={"use": "trial"})}, {"ser/2.dcm"}, ["use"])
    assert abouts_of(["ser/1.dcm", "ser/2.dcm"], [None], manifest) == [{"use": "trial"}]
    assert not manifest.unused
