"""Processes that die, models that do not load, runs that are killed."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import pytest
from draw import draw_tissue, write_svs
from running import start, wsisum

from wsisum_cli.archive import workers
from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.workers import Event, Setup, make_product, run_jobs
from wsisum_cli.commands.options import DEFAULT_SLIDE_TIMEOUT
from wsisum_cli.errors import NoTissueError, UsageError
from wsisum_cli.pipeline.job import Job, Options
from wsisum_cli.pipeline.product import SUMMARIES
from wsisum_cli.slides.source import find_source
from wsisum_cli.verification.verify import is_whole

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small slides."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(3):
        write_svs(folder / f"{number}.svs", draw_tissue(2048, 1536, seed=number), tile=256)
    return folder


def setup(output: Path, **changes: object) -> Setup:
    values = {"options": Options(), "encoder": "texture", "device": "cpu", "threads": 1, "output": output}
    return Setup(**{**values, **changes})  # type: ignore[arg-type]


def jobs(archive: Path, output: Path) -> list[tuple[str, Job]]:
    paths = sorted(archive.glob("*.svs"))
    return [(path.name, Job(find_source(path), output / f"{path.stem}.ozx", path.name)) for path in paths]


def test_outcomes_and_events_are_received(archive: Path, tmp_path: Path):
    events: list[Event] = []
    outcomes = list(run_jobs(jobs(archive, tmp_path), setup(tmp_path), 2, events.append))
    assert sorted((o.source, o.status, o.summary) for o in outcomes) == [
        (f"{number}.svs", "written", f"{number}.ozx") for number in range(3)
    ]
    assert {event.stage for event in events} == {"tissue", "features", "selection", "pixels", "draws", "hash", "write"}
    assert any(event.done == event.total > 0 for event in events)


def test_no_jobs_start_no_process(tmp_path: Path):
    assert list(run_jobs([], setup(tmp_path), 4)) == []


def test_model_that_does_not_load_is_refused(archive: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="no model with this name"):
        list(run_jobs(jobs(archive, tmp_path), setup(tmp_path, encoder="nothing"), 1))


class Scripted:
    """Stands for a process that is ready, or refuses to start, and does what it is given."""

    first_words: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.pipe, self.theirs = multiprocessing.Pipe()
        self.source: str | None = None
        self.theirs.send(self.first_words.pop(0))

    def assign(self, source: str, _job: Job) -> None:
        self.source = source
        self.theirs.send(("done", Outcome(source, "written")))

    deadline = math.inf

    def receive(self) -> tuple[str, Any]:
        kind, value = self.pipe.recv()
        return kind, value

    def stop(self) -> None:
        self.pipe.close()
        self.theirs.close()


def test_other_workers_continue_when_one_cannot_start(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A GPU may hold the models of so many processes only."""
    monkeypatch.setattr(workers, "Worker", Scripted)
    Scripted.first_words = [("ready", ""), ("refused", "no memory is left")]
    outcomes = list(run_jobs(jobs(archive, tmp_path), setup(tmp_path), 2))
    assert [outcome.status for outcome in outcomes] == ["written"] * 3
    Scripted.first_words = [("refused", "no memory is left"), ("refused", "no memory is left")]
    with pytest.raises(UsageError, match="no memory"):
        list(run_jobs(jobs(archive, tmp_path), setup(tmp_path), 2))


@posix
def test_a_slide_that_is_left_out_keeps_its_size_and_time(archive: Path, tmp_path: Path):
    """By which a later look at the archive sees that it has changed."""

    def find_none(*_values: object) -> dict[str, Any]:
        raise NoTissueError("no tissue found")

    ((name, job), *_) = jobs(archive, tmp_path)
    os.utime(job.source.path, ns=(1_600_000_000_000_000_000,) * 2)
    made = replace(SUMMARIES, make=find_none)
    reporter: Any = SimpleNamespace(stage=None, progress=None)
    found = make_product(name, job, replace(setup(tmp_path), product=made), reporter, reporter, reporter)
    assert (found.status, found.reason) == ("skipped", "no tissue")
    assert (found.bytes_in, found.modified) == (job.source.bytes, 1_600_000_000_000_000_000)


def test_dead_process_costs_one_slide(archive: Path, tmp_path: Path):
    """The first worker is killed while at its first slide, as a crash in a decoder would."""
    killed: list[str] = []

    def kill_once(event: Event) -> None:
        if not killed:
            killed.append(event.source)
            child = next(c for c in workers.multiprocessing.active_children())
            os.kill(child.pid or 0, signal.SIGKILL)

    outcomes = {o.source: o for o in run_jobs(jobs(archive, tmp_path), setup(tmp_path), 1, kill_once)}
    assert len(outcomes) == 3
    dead = outcomes.pop(killed[0])
    assert (dead.status, dead.reason) == ("failed", "process died")
    assert "SIGKILL" in dead.message
    assert {o.status for o in outcomes.values()} == {"written"}


@posix
@pytest.mark.parametrize(
    ("minutes", "said"), [(0.4, "stood still for 0.05 minutes"), (0.05, "took longer than 0.05 minutes")]
)
def test_a_slide_that_hangs_costs_that_slide_alone(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, said: str
):
    """Its process is stopped, as one is whose decoder does not come back."""
    if minutes == 0.05:
        monkeypatch.setattr(workers, "SILENT_SHARE", 2)
    hung: list[str] = []

    def hang_once(event: Event) -> None:
        if not hung:
            hung.append(event.source)
            child = next(c for c in workers.multiprocessing.active_children())
            os.kill(child.pid or 0, signal.SIGSTOP)

    monkeypatch.setattr(workers, "STOPPING", 0.5)
    limited = setup(tmp_path, slide_timeout=minutes)
    work = jobs(archive, tmp_path)
    outcomes = {outcome.source: outcome for outcome in run_jobs(work[:1], limited, 1, hang_once)}
    (outcome,) = outcomes.values()
    assert (outcome.status, outcome.reason) == ("failed", "took too long")
    assert said in outcome.message
    assert not workers.multiprocessing.active_children()
    monkeypatch.undo()
    assert [done.status for done in run_jobs(work[1:2], setup(tmp_path), 1)] == ["written"]


def test_the_command_line_has_the_same_default():
    assert DEFAULT_SLIDE_TIMEOUT == workers.SLIDE_TIMEOUT


def test_workers_take_the_gpus_in_turn(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One that succeeds another has the GPU of that one."""
    given: list[tuple[str, ...]] = []

    class Noted(Scripted):
        def __init__(self, setup: Setup) -> None:
            super().__init__(setup)
            given.append(setup.gpus)

    monkeypatch.setattr(workers, "Worker", Noted)
    Scripted.first_words = [("ready", "CUDA"), ("died", None), ("ready", "CUDA")]
    heard: list[str] = []
    outcomes = list(run_jobs(jobs(archive, tmp_path), setup(tmp_path, gpus=("2", "5")), 2, ready=heard.append))
    assert [outcome.status for outcome in outcomes] == ["written"] * 3
    assert given == [("2",), ("5",), ("5",)]
    assert set(heard) == {"CUDA"}
    assert setup(tmp_path).for_worker(3).gpus == ()


class Silent(Scripted):
    """At its first slide it says nothing; the next process does its work."""

    silent = True

    def assign(self, source: str, job: Job) -> None:
        if Silent.silent:
            self.source, Silent.silent = source, False
            self.deadline = time.monotonic() + 0.1
        else:
            super().assign(source, job)

    def timeout_outcome(self) -> Outcome:
        return Outcome(self.source or "", "failed", "took too long")


def test_a_run_goes_on_after_a_slide_that_hangs(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "Worker", Silent)
    Scripted.first_words = [("ready", "")] * 2
    outcomes = list(run_jobs(jobs(archive, tmp_path), setup(tmp_path), 1))
    assert [outcome.status for outcome in outcomes] == ["failed", "written", "written"]


@posix
def test_closing_the_run_stops_its_processes(archive: Path, tmp_path: Path):
    running = run_jobs(jobs(archive, tmp_path), setup(tmp_path), 2)
    next(running)
    running.close()  # type: ignore[attr-defined]  # run_jobs is a generator
    assert not workers.multiprocessing.active_children()


def processes_of(pid: int) -> list[Any]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


@posix
def test_killed_runs_leave_only_whole_summaries(archive: Path, tmp_path: Path):
    """No half file under a final name; a rerun does only what is missing; the bytes come out the same."""
    whole, output = tmp_path / "whole", tmp_path / "output"
    wsisum("--version")  # what is shared by all commands is imported
    began = time.monotonic()
    assert wsisum("compress", archive, "-o", whole).returncode == 0
    duration = time.monotonic() - began
    expected = {path.name: path.read_bytes() for path in whole.glob("*.ozx")}
    draw = random.Random(0)
    for _ in range(4):  # tests/benchmarks/kills.py does many more
        if len(list(output.glob("*.ozx"))) == 3:
            shutil.rmtree(output)
        process = start("compress", archive, "-o", output)
        time.sleep(draw.uniform(0.1, duration))
        started = processes_of(process.pid)
        process.kill()
        process.communicate()
        psutil.wait_procs(started, timeout=60)  # until those that worked for it have seen that it is gone
        for path in output.glob("*.ozx"):
            assert is_whole(path)
            assert path.read_bytes() == expected[path.name]
    done = {path.name for path in output.glob("*.ozx")}
    assert wsisum("compress", archive, "-o", output).returncode == 0
    assert {path.name: path.read_bytes() for path in output.glob("*.ozx")} == expected
    rows = {row["summary"]: row["status"] for row in json.loads((output / "report.json").read_text())["slides"]}
    assert {name for name, status in rows.items() if status == "skipped"} == done
    assert not list(output.glob(".*.part")), "what killed runs left aside is removed"


#: A shell starts background jobs with SIGINT ignored, and so may whoever runs the tests.
LISTENING = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from wsisum_cli.commands.main import main; main()"
)


@posix
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_says_so(archive: Path, tmp_path: Path, sent: signal.Signals):
    command = [sys.executable, "-c", LISTENING, "compress", str(archive), "-o", str(tmp_path / "out")]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "3 slides to summarize, 0 up to date\n"  # the work begins
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # Ctrl-C is for the workers too
        else:
            process.send_signal(sent)
        errors = process.stderr.read()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "wsisum: interrupted; run the same command again to continue"
    assert "Traceback" not in errors
    assert "Warning" not in errors
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert len(report["slides"]) + len(report["not_tried"]) == 3
    assert report["not_tried"]


@posix
def test_interrupt_during_process_start_is_delivered_afterwards():
    """By this process, not by the one that begins."""
    blocked = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    begun = []

    def begin():
        with workers.hold_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            begun.append(subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True).stdout)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            begin()
        assert begun == ["True\n"]
        with workers.hold_interrupts():
            pass  # nothing came, nothing is raised
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGINT, before)


@posix
def test_termination_during_process_start_acts_afterwards():
    """A process that had begun by then would be left without what it is to do."""
    acted: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: acted.append("ended"))
    try:
        with workers.hold_interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
            assert acted == []
        assert acted == ["ended"]
    finally:
        signal.signal(signal.SIGTERM, before)


@posix
def test_workers_that_die_while_loading_are_replaced(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Memory may be short for a moment; only a row of such deaths ends the run."""
    started: list[workers.Worker] = []
    original = workers.Worker.__init__

    def fragile(self: workers.Worker, setup: Setup) -> None:
        original(self, setup)
        started.append(self)
        if len(started) == 1:
            self.process.kill()

    monkeypatch.setattr(workers.Worker, "__init__", fragile)
    outcomes = list(run_jobs(jobs(archive, tmp_path), setup(tmp_path), 1))
    assert [o.status for o in outcomes] == ["written"] * 3
    assert len(started) == 2


@posix
def test_run_ends_when_all_workers_die_while_loading(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = workers.Worker.__init__

    def doomed(self: workers.Worker, setup: Setup) -> None:
        original(self, setup)
        self.process.kill()

    monkeypatch.setattr(workers.Worker, "__init__", doomed)
    with pytest.raises(UsageError, match="die while loading the models"):
        list(run_jobs(jobs(archive, tmp_path), setup(tmp_path), 1))


@pytest.mark.skipif(not hasattr(workers.C_LIBRARY, "malloc_trim"), reason="the C library has no malloc_trim")
def test_workers_give_freed_memory_back():
    """The C library keeps many small blocks for later, below one that is still in use, until it is asked."""
    script = (
        "import re, numpy as np; from wsisum_cli.archive import workers\n"
        "def resident(): return int(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1000\n"
        "workers.share_heaps()\n"
        "held = [np.ones(10_000, np.uint8) for _ in range(20_000)]\n"
        "full, last = resident(), held[-1]\n"
        "del held; before = resident(); workers.give_back_memory(); print(full, before, resident())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    full, before, after = map(int, done.stdout.split())
    assert after < min(before + 20, full - 150)
