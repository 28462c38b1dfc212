"""The catalogue: a row for each summary, kept up to date."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import write_run, write_slides
from running import wsisum
from summaries import write_tiny

from wsisum_cli.archive.state import catalogue
from wsisum_cli.archive.state.catalogue import COLUMNS, MEAN, NAME, build_catalogue
from wsisum_cli.archive.state.ledger import read_state
from wsisum_cli.errors import UsageError
from wsisum_cli.summary.reader import open_summary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_slides(tmp_path / "in", "a.svs", "b/c.svs")
    write_run(tmp_path / "in", tmp_path / "out")
    return tmp_path / "out"


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    with closing(sqlite3.connect(folder / NAME)) as database:
        database.row_factory = sqlite3.Row
        return {row["summary"]: dict(row) for row in database.execute("SELECT * FROM slides")}


def test_a_row_says_what_its_summary_says(folder: Path):
    write_tiny(folder / "models.ozx", "models")
    build_catalogue(folder)
    found = rows(folder)
    assert set(found) == {"a.ozx", "b/c.ozx", "models.ozx"}
    assert all(list(row) == list(COLUMNS) for row in found.values())
    with open_summary(folder / "b/c.ozx") as summary:
        record, row = summary.record, found["b/c.ozx"]
        assert row["slide"] == "b/c.svs"
        assert (row["sha256"], row["bytes"], row["mpp"]) == (
            record.source.sha256,
            record.source.bytes,
            record.source.mpp,
        )
        assert (row["patches"], row["verdict"]) == (record.patches, record.verdict.verdict)
        assert json.loads(row["options"])["selector"] == row["selector"] == record.options.selector
        assert row["embedding_of"] == MEAN
        assert np.array_equal(np.frombuffer(row["embedding"], "<f4"), np.asarray(summary.embedding, np.float32))
        assert row["embedding_dims"] == len(summary.embedding)
    with open_summary(folder / "models.ozx") as summary:
        row = found["models.ozx"]
        assert row["embedding_of"] == row["slide_encoder_sha256"] == summary.record.used_models["slide_encoder"].sha256
        assert np.array_equal(np.frombuffer(row["embedding"], "<f4"), summary.slide_embedding)
        assert row["slide"] is None


def test_only_changed_summaries_are_opened(folder: Path):
    assert (build_catalogue(folder).read, build_catalogue(folder).read) == (2, 0)
    write_tiny(folder / "new.ozx")
    os.utime(folder / "a.ozx", ns=(1, 1))
    (folder / "b/c.ozx").unlink()
    found = build_catalogue(folder)
    assert (found.rows, found.read, found.removed) == (2, 2, 1)
    assert rows(folder)["a.ozx"]["summary_modified"] == 1


def test_a_bad_summary_has_no_row(folder: Path):
    build_catalogue(folder)
    (folder / "a.ozx").write_bytes(b"PK")
    found = build_catalogue(folder)
    assert list(found.unreadable) == ["a.ozx"]
    assert set(rows(folder)) == {"b/c.ozx"}


@pytest.mark.parametrize("how", ["damaged", "older schema", "no database"])
def test_a_catalogue_that_is_no_use_is_built_anew(folder: Path, how: str, monkeypatch: pytest.MonkeyPatch):
    build_catalogue(folder)
    if how == "older schema":
        monkeypatch.setattr(catalogue, "SCHEMA", catalogue.SCHEMA + 1)
    elif how == "damaged":
        content = (folder / NAME).read_bytes()
        (folder / NAME).write_bytes(content[:1000] + bytes(3000) + content[4000:])
    else:
        (folder / NAME).write_bytes(b"something else")
    assert build_catalogue(folder).read == 2
    assert set(rows(folder)) == {"a.ozx", "b/c.ozx"}


def test_a_failure_leaves_the_old_catalogue(folder: Path, monkeypatch: pytest.MonkeyPatch):
    build_catalogue(folder)
    before = (folder / NAME).read_bytes()

    def fail(*_args: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(catalogue, "update", fail)
    with pytest.raises(UsageError, match="disk"):
        build_catalogue(folder)
    assert (folder / NAME).read_bytes() == before
    assert not [name for name in os.listdir(folder) if name.endswith(".part")]


def test_a_folder_without_summaries_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="expected summaries"):
        build_catalogue(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="names need not be text on POSIX alone")
def test_names_that_are_no_text_are_escaped(folder: Path):
    os.rename(folder / "a.ozx", os.fsencode(folder) + b"/bad\xff.ozx")
    build_catalogue(folder)
    assert set(rows(folder)) == {"bad\\udcff.ozx", "b/c.ozx"}
    assert build_catalogue(folder).read == 0


def test_the_command_and_pandas(folder: Path):
    done = wsisum("index", folder)
    assert done.returncode == 0, done.stderr
    assert "2 rows" in done.stdout
    pandas = pytest.importorskip("pandas")
    with closing(sqlite3.connect(folder / NAME)) as database:
        table = pandas.read_sql("SELECT summary, verdict, represented FROM slides ORDER BY summary", database)
        assert dict(database.execute("SELECT key, value FROM about"))["schema"] == str(catalogue.SCHEMA)
    assert list(table["summary"]) == ["a.ozx", "b/c.ozx"]


def test_a_run_names_the_slides_itself(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The report of a large archive is read for a summary that the run says nothing of, and else not."""
    found = read_state(folder, "summary")
    assert found is not None
    build_catalogue(folder, found.outcomes[:1])
    assert {row["slide"] for row in rows(folder).values()} == {"a.svs", "b/c.svs"}
    monkeypatch.setattr(catalogue, "read_state", None)
    moved = [replace(outcome, source=f"moved/{outcome.source}") for outcome in found.outcomes]
    build_catalogue(folder, moved)
    assert {row["slide"] for row in rows(folder).values()} == {"moved/a.svs", "moved/b/c.svs"}
