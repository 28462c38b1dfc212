"""The file that holds a plan."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from datetime import date
from pathlib import Path

import pytest

from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.retention.plan import Row
from wsisum_cli.archive.retention.standing import KEEP, Standing
from wsisum_cli.archive.retention.table import (
    ABOUT,
    DISCLAIMER,
    check_columns,
    check_place,
    plan_table,
    refuse_other_file,
    write_plan,
)
from wsisum_cli.errors import UsageError

TODAY = date(2026, 6, 1)


def rows_of(table: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.decode())))


def test_plan_carries_its_own_sha256():
    rows = [Row('b#1, "x"\n.svs', KEEP, "no summary", about={"case": "7"})]
    table = plan_table(rows, ["case"], TODAY, "made with, a\nmanifest")
    body, last = table[: table.rstrip(b"\n").rindex(b"\n") + 1], table.rstrip(b"\n").rsplit(b"\n", 1)[1]
    found = rows_of(table)
    assert found[0]["slide"] == rows[0].slide
    assert found[0]["case"] == "7"
    assert [found[-2]["decision"], found[-2]["reason"]] == [ABOUT, "made with, a\nmanifest"]
    assert found[-1]["decision"] == ABOUT
    assert found[-1]["reason"] == DISCLAIMER
    assert found[-1]["sha256"] == hashlib.sha256(body).hexdigest()
    assert last.startswith(b",about this plan,")


@pytest.mark.parametrize("names", [["a.ozx"], ["a;b.ozx"], ["a;b.ozx", "c.ozx"], ["a", "b.ozx"], ["\\", ";", "x\\;y"]])
def test_names_of_summaries_can_be_told_apart(names):
    summaries = [Standing(name, KEEP, "") for name in names]
    written = rows_of(plan_table([Row("a.svs", KEEP, "", None, summaries)], [], TODAY))[0]["summary"]
    parts = re.findall(r"(?:^|;)((?:[^;\\]|\\.)*)", written)
    assert [re.sub(r"\\(.)", r"\1", part) for part in parts] == names


@pytest.mark.parametrize("content", [b"II*\0", b"slide,mpp\n", b""])
def test_plan_never_replaces_another_file(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="expected a plan, or a new file"):
        refuse_other_file(path)
    with pytest.raises(UsageError, match=r"ending in \.csv"):
        refuse_other_file(tmp_path / "a.svs")


def test_plan_never_replaces_one_that_was_edited(tmp_path):
    path = tmp_path / "a.csv"
    table = plan_table([Row("a.svs", KEEP, "no summary")], ["case"], TODAY)
    path.write_bytes(table)
    write_plan(path, table)
    for edited in (
        table.replace(b"keep", b"cold storage"),
        table.replace(b"\na.svs", b"\nb.svs"),
        table[: table.rindex(b",about this plan")],
        table.splitlines(True)[0],
    ):
        path.write_bytes(edited)
        for check in (refuse_other_file, check_place, lambda place: write_plan(place, table)):
            with pytest.raises(UsageError, match="a plan as it was written, found one that was edited since"):
                check(path)
        assert path.read_bytes() == edited


def test_plan_of_other_columns_may_be_replaced(tmp_path):
    path = tmp_path / "a.csv"
    body = b"slide,decision,reason,bytes,sha256\na.svs,keep,no summary,1,ab\n"
    path.write_bytes(body + f",about this plan,disclaimer,,{hashlib.sha256(body).hexdigest()},2026-01-01\n".encode())
    refuse_other_file(path)


def test_place_is_checked_before_anything_is_verified(tmp_path):
    check_place(tmp_path / "p.csv")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="the plan cannot be written"):
        check_place(tmp_path / "nowhere" / "p.csv")


def test_columns_of_the_plan_are_refused_in_the_manifest():
    for column in ("files", "verdict"):
        with pytest.raises(UsageError, match=column):
            check_columns(Manifest(columns=("case", column)))
    check_columns(Manifest(columns=("case",)))


def test_a_relative_place_is_in_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_place(Path("p.csv"))
