"""Reports and journals of several runs: killed ones, shards, and two at once."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from wsisum_cli.archive.outcome import FAILED, WRITTEN, Outcome
from wsisum_cli.archive.report import read_report, shards_reported, write_report
from wsisum_cli.archive.state.journal import FOLDER, journal_names
from wsisum_cli.archive.state.ledger import Ledger, read_state
from wsisum_cli.archive.state.shard import Shard


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def start(folder: Path, *todo: str, shard: Shard | None = None) -> tuple[Ledger, dict[str, Any]]:
    ledger = Ledger(folder, "summary", shard)
    facts = {"started": now(), "finished": None} | ({"shard": str(shard)} if shard else {})
    ledger.begin(facts, list(todo), [])
    return ledger, facts


def finish(run: tuple[Ledger, dict[str, Any]], *outcomes: Outcome, wanted: tuple[str, ...] = ()) -> None:
    ledger, facts = run
    ledger.finish(list(outcomes), {**facts, "finished": now()}, list(wanted))
    assert not ledger.trouble


def work(run: tuple[Ledger, dict[str, Any]], *names: str) -> list[Outcome]:
    outcomes = [written(name) for name in names]
    for outcome in outcomes:
        run[0].note(outcome)
    return outcomes


def written(name: str) -> Outcome:
    return Outcome(name, WRITTEN, summary=f"{name}.ozx")


def kill(run: tuple[Ledger, dict[str, Any]], folder: Path) -> None:
    """As kill -9 leaves a journal: no end, and a process that is gone."""
    journal = run[0]._journal
    assert journal is not None
    journal._file.close()
    (folder / FOLDER / journal.name).rename(folder / FOLDER / journal.name.replace(f"-{os.getpid()}-", "-999999-"))


def statuses(folder: Path) -> dict[str, str]:
    report = read_report(folder)
    assert report is not None
    return {outcome.source: outcome.status for outcome in report.outcomes}


def test_a_report_is_rebuilt_after_a_kill(tmp_path: Path):
    run = start(tmp_path, "a", "b", "c")
    work(run, "a", "b")
    kill(run, tmp_path)
    assert read_report(tmp_path) is None
    state = read_state(tmp_path, "summary")
    assert state is not None
    assert [outcome.source for outcome in state.outcomes] == ["a", "b"]
    assert (list(state.not_tried), state.facts["finished"]) == (["c"], None)
    assert Ledger(tmp_path, "summary").known["a"] == written("a")
    again = start(tmp_path, "c")
    finish(again, written("a"), written("b"), *work(again, "c"))
    assert statuses(tmp_path) == dict.fromkeys("abc", WRITTEN)


def test_what_a_killed_run_did_is_added_to_the_last_report(tmp_path: Path):
    first = start(tmp_path, "a", "b")
    finish(first, *work(first, "a", "b"))
    second = start(tmp_path, "c", "a")
    work(second, "c")
    second[0].note(Outcome("a", FAILED, "unreadable"))
    kill(second, tmp_path)
    state = read_state(tmp_path, "summary")
    assert state is not None
    assert {row.source: row.status for row in state.outcomes} == {"a": FAILED, "b": WRITTEN, "c": WRITTEN}
    known = Ledger(tmp_path, "summary").known
    assert {source: known[source].status for source in known} == {"a": FAILED, "b": WRITTEN, "c": WRITTEN}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_runs_at_once_lose_no_outcome(tmp_path: Path, order: tuple[int, int]):
    runs = [start(tmp_path, "a", "b"), start(tmp_path, "c", "d")]
    done = [work(runs[0], "a", "b"), work(runs[1], "c", "d")]
    for at in order:
        finish(runs[at], *done[at])
    assert statuses(tmp_path) == dict.fromkeys("abcd", WRITTEN)


def test_of_two_runs_at_once_the_one_that_made_the_summary_counts(tmp_path: Path):
    runs = [start(tmp_path, "a", "b"), start(tmp_path, "a", "b")]
    done = work(runs[0], "a")
    failed = Outcome("a", FAILED, "file system")
    runs[1][0].note(failed)
    finish(runs[0], *done, wanted=("a", "b"))
    finish(runs[1], failed, *work(runs[1], "b"), wanted=("a", "b"))
    assert statuses(tmp_path) == {"a": WRITTEN, "b": WRITTEN}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_row_that_a_partial_run_repeats_is_no_news(tmp_path: Path, order: tuple[int, int]):
    """One run fails on a slide that the other one, which ends before or after it, leaves out."""
    first = start(tmp_path, "a", "b")
    finish(first, *work(first, "a", "b"))
    runs = [start(tmp_path, "a"), start(tmp_path, "b")]
    failed = Outcome("a", FAILED, "unreadable")
    runs[0][0].note(failed)
    made = work(runs[1], "b")
    rows = [
        [failed, replace(written("b"), earlier="left out")],
        [*made, replace(written("a"), earlier="left out")],
    ]
    for at in order:
        finish(runs[at], *rows[at])
    report = read_report(tmp_path)
    assert report is not None
    assert {row.source: (row.status, row.earlier) for row in report.outcomes} == {"a": (FAILED, ""), "b": (WRITTEN, "")}
    state = read_state(tmp_path, "summary")
    assert state is not None
    assert {row.source: row.status for row in state.outcomes} == {"a": FAILED, "b": WRITTEN}


def test_without_journals_the_reports_of_shards_say_what_is_known(tmp_path: Path):
    shard = Shard(1, 3)
    held = [name for name in (f"{number}.svs" for number in range(12)) if shard.holds(name)]
    run = start(tmp_path, *held, shard=shard)
    finish(run, *work(run, *held))
    shutil.rmtree(tmp_path / FOLDER)
    repeated = [replace(written(name), status=FAILED, earlier="left out") for name in held]
    write_report(tmp_path, repeated, {"finished": now()}, Shard(1, 2))
    known = Ledger(tmp_path, "summary", shard).known
    assert {name: known[name].status for name in held} == dict.fromkeys(held, WRITTEN)


def test_what_the_other_run_made_is_not_listed_as_not_tried(tmp_path: Path):
    runs = [start(tmp_path, "a", "b"), start(tmp_path, "a", "b")]
    work(runs[1], "b")
    finish(runs[0], *work(runs[0], "a"), wanted=("a", "b"))
    assert json.loads((tmp_path / "report.json").read_text())["not_tried"] == []
    runs[1][0].abandon()


def test_a_later_run_replaces_the_report(tmp_path: Path):
    first = start(tmp_path, "a", "b")
    finish(first, *work(first, "a", "b"))
    second = start(tmp_path, "a")
    finish(second, *work(second, "a"))
    assert statuses(tmp_path) == {"a": WRITTEN}
    assert "b" in Ledger(tmp_path, "summary").known  # its record stays


def test_shards_have_reports_of_their_own_that_are_read_together(tmp_path: Path):
    names = [f"{number}.svs" for number in range(12)]
    shards = [Shard(number, 3) for number in (1, 2, 3)]
    for shard in shards[:2]:
        held = [name for name in names if shard.holds(name)]
        run = start(tmp_path, *held, shard=shard)
        finish(run, *work(run, *held))
    assert shards_reported(tmp_path) == shards[:2]
    assert not (tmp_path / "report.json").exists()
    state = read_state(tmp_path, "summary")
    assert state is not None
    assert {outcome.source for outcome in state.outcomes} == {n for n in names if not shards[2].holds(n)}
    assert (state.facts["shards"], state.facts["shards_missing"]) == (3, ["3/3"])


def test_the_newest_report_that_covers_a_slide_counts(tmp_path: Path):
    names = [f"{number}.svs" for number in range(12)]
    shard = Shard(1, 3)
    whole = start(tmp_path, *names)
    finish(whole, *work(whole, *names))
    held = [name for name in names if shard.holds(name)]
    part = start(tmp_path, *held[1:], shard=shard)  # one slide of the shard is gone
    finish(part, *work(part, *held[1:]))
    state = read_state(tmp_path, "summary")
    assert state is not None
    assert {outcome.source for outcome in state.outcomes} == set(names) - {held[0]}
    whole = start(tmp_path, *names[:3])
    finish(whole, *work(whole, *names[:3]))
    state = read_state(tmp_path, "summary")
    assert state is not None
    assert {outcome.source for outcome in state.outcomes} == set(names[:3])
    assert "shards" not in state.facts


def test_runs_that_make_other_files_are_left_alone(tmp_path: Path):
    run = start(tmp_path, "a")
    work(run, "a")
    kill(run, tmp_path)
    assert list(Ledger(tmp_path, "features").known) == []


def test_journals_do_not_pile_up(tmp_path: Path):
    for _ in range(40):
        run = start(tmp_path, "a")
        finish(run, *work(run, "a"))
    assert len(journal_names(tmp_path)) < 20
    assert Ledger(tmp_path, "summary").known["a"] == written("a")


def test_a_report_that_cannot_be_written_is_said(tmp_path: Path):
    run = start(tmp_path, "a")
    done = work(run, "a")
    (tmp_path / "report.json").mkdir()
    run[0].finish(done, {"started": now(), "finished": now()}, [])
    assert "could not be written" in run[0].trouble
    assert run[0].unwritten
