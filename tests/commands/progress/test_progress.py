"""Bars, lines, the log file and the time left."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.plan import Plan
from wsisum_cli.archive.workers import Event
from wsisum_cli.commands.progress.course import SHARES, Course, duration
from wsisum_cli.commands.progress.log import logging_to
from wsisum_cli.commands.progress.shown import BarProgress, LineProgress, bars, counting, left_lines, quiet_listener
from wsisum_cli.errors import UsageError


def plan(**sizes: int) -> Plan:
    jobs: list[Any] = [
        (f"{name}.svs", SimpleNamespace(source=SimpleNamespace(bytes=size))) for name, size in sizes.items()
    ]
    return Plan(jobs, [], 0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_slide_covers_all_its_stages_and_never_goes_back():
    course = Course()
    course.planned(plan(a=10))
    seen = [course.event(Event("a.svs", stage, done, 4)) for stage in SHARES for done in range(5)]
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == pytest.approx(1)
    assert course.event(Event("a.svs", "tissue")) == seen[-1], "a stage that is repeated takes nothing back"


def test_the_run_has_a_time_left_from_the_first_slide_on():
    clock = Clock()
    course = Course(clock)
    course.planned(plan(a=100, b=300))
    assert course.left == ""
    clock.now = 10
    course.event(Event("a.svs", "features", 1, 2))
    share = course.fraction
    assert 0 < share < 0.25
    assert course.seconds_left == pytest.approx(10 * (1 - share) / share)
    course.outcome(Outcome("a.svs", "written", seconds={"features": 10.0}))
    assert course.fraction == pytest.approx(0.25), "by the bytes of the slides"
    clock.now = 12
    assert course.left == "36 s left"


def test_stages_weigh_as_slides_of_the_run_show():
    course = Course()
    course.planned(plan(a=1, b=1, c=1))
    before = course.event(Event("c.svs", "write"))
    for name in ("a", "b"):
        course.outcome(Outcome(f"{name}.svs", "written", seconds={"features": 1.0, "write": 9.0}))
    assert Course.event(course, Event("b2.svs", "write")) < before - 0.3


def test_a_file_of_several_slides_makes_the_run_longer():
    course = Course()
    course.planned(plan(a=10, b=10))
    course.outcome(Outcome("a.svs", "written"))
    course.more(2)
    assert (course.total, course.fraction) == (4, pytest.approx(0.25))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (720, "12 min"), (12_600, "3.5 h"), (300_000, "3.5 days")]
)
def test_durations_are_short(seconds: float, words: str):
    assert duration(seconds) == words


@pytest.mark.parametrize("name", ["a.svs", "department/2026/case-[12]-with-a-very-long-name-of-its-own.ome.tiff"])
def test_bars_fit_into_80_columns(name: str):
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True, color_system=None)
    with bars(console) as progress:
        shown = BarProgress(progress)
        shown.planned(plan(a=10))
        shown.event(Event(name, "features", 10, 200))
        shown.event(Event(name, "features", 150, 200))
        shown._course._began -= 4000
        shown._show_archive()
        paper = Console(file=io.StringIO(), width=80)
        with paper.capture() as captured:
            paper.print(progress.get_renderable())
    first, second = captured.get().splitlines()
    assert max(len(first), len(second)) <= 80
    assert "slides" in first
    assert "0/1" in first
    assert first.rstrip().endswith("left")
    assert name[-14:] in second
    assert "features" in second
    assert "patches/s" in second
    assert "%" in second


def test_lines_tell_the_time_left_and_stages_if_asked_for():
    screen = io.StringIO()
    lines = LineProgress(Console(file=screen, width=200), verbose=True)
    lines.planned(plan(a=1, b=1))
    lines.event(Event("a.svs", "tissue"))
    lines.event(Event("a.svs", "features", 1, 2))
    lines._course._began -= 60
    lines.outcome(Outcome("a.svs", "failed", "unreadable", "it is broken"))
    printed = screen.getvalue().splitlines()
    assert printed[1].startswith("a.svs: tissue 0.")
    assert printed[2].startswith("a.svs: features 0.")
    assert printed[3] == "[1/2, 60 s left] a.svs: failed, unreadable. it is broken"


def test_quiet_shows_failures_alone():
    screen = io.StringIO()
    listener = quiet_listener(Console(file=screen, width=200))
    listener.planned(plan(a=1))
    listener.outcome(Outcome("a.svs", "written"))
    listener.outcome(Outcome("b.svs", "failed", "unreadable", "it is broken"))
    assert screen.getvalue() == "b.svs: failed, unreadable. it is broken\n"


def test_what_is_left_out_is_one_line():
    found = Plan([], [], 0, left_out=frozenset({"a", "b"}), beyond=("c",), idle=("--include x matches no slide",))
    assert left_lines(found) == [
        "left out: 2 slides by their names, 1 by --limit that need work",
        "--include x matches no slide",
    ]
    assert left_lines(Plan([], [], 0)) == []


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    class Full(io.RawIOBase):
        """A disk that takes half a line, then nothing, then all."""

        def __init__(self) -> None:
            self.calls, self.content = 0, b""

        def write(self, data: Any) -> int:
            self.calls += 1
            if self.calls == 2:
                raise OSError(28, "No space left on device")
            taken = bytes(data)[:10] if self.calls == 1 else bytes(data)
            self.content += taken
            return len(taken)

    disk, real = Full(), open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.open", lambda path, mode="r", **how: disk if "a" in mode else real(path, mode, **how))
        with logging_to(tmp_path / "log.jsonl") as log:
            assert log is not None
            for number in range(4):
                log.write("info", "event", f"{number}.svs")
    lines = [json.loads(line) for line in disk.content.splitlines()[1:]]
    assert [line["slide"] for line in lines] == ["2.svs", "3.svs"]
    assert "log.jsonl: 2 lines could not be written (No space left on device)" in capsys.readouterr().err


def test_the_log_file_has_an_object_a_line_and_nothing_private(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    with logging_to(path) as log:
        assert log is not None
        listener = log.listener()
        listener.planned(plan(a=1))
        listener.ready("CPUExecutionProvider")
        listener.event(Event("a.svs", "tissue"))
        listener.event(Event("a.svs", "features", 1, 2))
        listener.outcome(Outcome("a.svs", "written", seconds={"tissue": 1.5, "write": 2}))
        listener.outcome(Outcome("b.svs", "failed", "internal error", "/home/jane/x", traceback="secret.py:1"))
        listener.outcome(Outcome("c.svs", "failed", "unreadable", known=True))
    with logging_to(path) as log:
        assert log is not None
        log.write("info", "finished")
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(entry["level"], entry["event"], entry.get("slide"), entry.get("stage")) for entry in entries] == [
        ("info", "planned", None, None),
        ("info", "worker ready", None, None),
        ("info", "stage", "a.svs", "tissue"),
        ("info", "stage", "a.svs", "features"),
        ("info", "written", "a.svs", None),
        ("error", "failed", "b.svs", None),
        ("warning", "failed", "c.svs", None),
        ("info", "finished", None, None),
    ]
    assert entries[4]["seconds"] == 3.5
    assert all(entry["time"].endswith("+00:00") for entry in entries)
    assert "jane" not in path.read_text()
    assert "secret" not in path.read_text()
    with pytest.raises(UsageError, match="none: the log file cannot be written"), logging_to(tmp_path / "no/none"):
        pass


def test_a_count_is_shown_in_a_terminal_only():
    for terminal, total in ((True, 2), (True, 1), (False, 2)):
        screen = io.StringIO()
        console = Console(file=screen, width=80, force_terminal=terminal, color_system=None)
        with counting(console, total, "summaries") as begin:
            for number in range(total):
                begin(f"[in]/{number}.ozx")
        assert ("[in]/1.ozx" in screen.getvalue() and "1/2" in screen.getvalue()) == (terminal and total > 1)
        assert bool(screen.getvalue()) == (terminal and total > 1)
