"""Journals: what was written is read back, whatever happened to the file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from wsisum_cli.archive.outcome import FAILED, WRITTEN, Outcome, Record
from wsisum_cli.archive.state import journal as journals
from wsisum_cli.archive.state.journal import FOLDER, Journal, journal_names, put_together, read_history
from wsisum_cli.summary.container import this_host

FACTS = {"product": "summary", "shard": None, "todo": []}


def write_journal(folder: Path, *outcomes: Outcome, end: bool = True) -> Path:
    journal = Journal(folder, FACTS)
    for outcome in outcomes:
        journal.note(outcome)
    if end:
        journal.end()
    journal._file.close()
    return folder / FOLDER / journal.name


def outcomes_in(folder: Path) -> dict[str, Outcome | None]:
    history = read_history(folder)
    return {source: history.outcome(source) for source in history.lines}


def everyone(_facts: Any) -> bool:
    return True


FIRST = Outcome("a.svs", WRITTEN, summary="a.ozx", patches=8, record=Record("s", 1, 2, "f"), seconds={"write": 0.5})
SECOND = Outcome("b\udcff\n.svs", FAILED, "unreadable", "b: damaged")


def test_what_was_noted_is_read(tmp_path: Path):
    write_journal(tmp_path, FIRST, SECOND)
    assert outcomes_in(tmp_path) == {FIRST.source: FIRST, SECOND.source: SECOND}


def test_every_line_is_on_the_disk_at_once(tmp_path: Path):
    write_journal(tmp_path, FIRST, end=False)
    assert outcomes_in(tmp_path) == {FIRST.source: FIRST}


def test_the_latest_line_counts(tmp_path: Path):
    write_journal(tmp_path, FIRST, SECOND)
    write_journal(tmp_path, Outcome("a.svs", FAILED, "out of memory"))
    found = outcomes_in(tmp_path)
    assert found["a.svs"] == Outcome("a.svs", FAILED, "out of memory")
    assert found[SECOND.source] == SECOND


def test_a_torn_line_costs_itself_alone(tmp_path: Path):
    path = write_journal(tmp_path, SECOND, FIRST, end=False)
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(last, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert outcomes_in(tmp_path) == {SECOND.source: SECOND}


def test_a_flipped_bit_is_noticed(tmp_path: Path):
    path = write_journal(tmp_path, FIRST)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"a.ozx")
    whole[at] ^= 1
    path.write_bytes(whole)
    assert outcomes_in(tmp_path) == {}


def test_a_full_disk_costs_lines_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = Journal(tmp_path, FACTS)
    file = journal._file

    class Full:
        closed = False

        def write(self, data: bytes) -> int:
            file.write(data[:20])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "_file", Full())
    journal.note(FIRST)
    assert journal.trouble is not None
    monkeypatch.setattr(journal, "_file", file)
    journal.note(SECOND)
    journal.end()
    assert outcomes_in(tmp_path) == {SECOND.source: SECOND}


def test_who_still_writes_is_known(tmp_path: Path):
    write_journal(tmp_path, FIRST)
    live = write_journal(tmp_path, FIRST, end=False)
    killed = live.with_name(live.name.replace(f"-{os.getpid()}-", "-999999-"))
    killed.write_bytes(live.read_bytes())
    elsewhere = live.with_name(live.name.replace(this_host(), "0" * 8))
    elsewhere.write_bytes(live.read_bytes())
    runs = {run.name: run for run in read_history(tmp_path).runs}
    assert [runs[path.name].closed for path in (live, killed, elsewhere)] == [False, True, False]
    assert [run.was_killed for run in runs.values()].count(True) == 1
    long_ago = time.time() - 3 * 24 * 3600
    os.utime(elsewhere, (long_ago, long_ago))
    assert {run.name for run in read_history(tmp_path).runs if run.was_killed} == {killed.name, elsewhere.name}


def test_many_journals_become_one(tmp_path: Path):
    for number in range(journals.MANY + 1):
        write_journal(tmp_path, Outcome(f"{number}.svs", WRITTEN), FIRST)
    before = outcomes_in(tmp_path)
    live = write_journal(tmp_path, SECOND, end=False)
    put_together(tmp_path, everyone, set(journal_names(tmp_path)) - {live.name})
    assert len(journal_names(tmp_path)) == 2
    assert outcomes_in(tmp_path) == {**before, SECOND.source: SECOND}
    put_together(tmp_path, everyone, set(journal_names(tmp_path)))  # one writes still
    assert live.is_file()


def test_few_journals_stay(tmp_path: Path):
    write_journal(tmp_path, FIRST)
    write_journal(tmp_path, SECOND)
    put_together(tmp_path, everyone, set(journal_names(tmp_path)))
    assert len(journal_names(tmp_path)) == 2


def test_what_is_no_journal_says_nothing(tmp_path: Path):
    assert read_history(tmp_path).lines == {}
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    (folder / "x.jsonl").write_bytes(b"\x00" * 5000 + b"\n{}\n[1]\n" + b'{"crc32":"00000000","kind":' * 3)
    (folder / "y.jsonl").write_bytes(journals.as_line({"kind": "run", "at": 1, "version": 99}) * 2)
    (folder / "z.jsonl").write_bytes(journals.as_line({"kind": "run", "at": 1, "version": 1, **FACTS}))
    with open(folder / "z.jsonl", "ab") as file:
        for slide in ([], {}, {"source": 5}, {"source": "s", "status": "written", "record": {"x": 1}}, {"source": "t"}):
            file.write(journals.as_line({"kind": "slide", "at": 2, "slide": slide}))
    history = read_history(tmp_path)
    assert [run.name for run in history.runs] == ["z.jsonl"]
    assert [history.outcome(source) for source in history.lines] == [None, None]
