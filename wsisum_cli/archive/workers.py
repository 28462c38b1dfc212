"""Slides through processes of their own: a crash in a decoder costs one slide, and never the run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from wsisum_cli.archive.outcome import FAILED, WRITTEN, Outcome, outcome_of
from wsisum_cli.errors import SeveralSlidesError, UsageError, WsisumError
from wsisum_cli.models.choice import NO_MODEL_CHOICES, ModelChoices, SlideModels
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.pipeline.job import Job, Tools
from wsisum_cli.pipeline.product import SUMMARIES, Product

HEARTBEAT = 0.2  # s at least between two messages of progress
MAX_STILLBORN = 3  # workers in a row that die before their first slide; memory may be short for a moment
STOPPING = 5.0  # s that a process has to end


@dataclass(frozen=True)
class Setup:
    """What every worker needs before its first slide."""

    options: Any  # those of the product
    encoder: str  # name or path
    device: str
    threads: int
    output: Path  # folder that outputs are named within
    product: Product = SUMMARIES
    choices: ModelChoices = NO_MODEL_CHOICES


Named = tuple[str, Job]  # with the path of its slide within the archive
#: A job whose file holds several slides, and how many -> a job for each, and outcomes of those that need no work.
Split = Callable[[str, Job, int], tuple[list[Named], list[Outcome]]]


@dataclass(frozen=True)
class Event:
    """Something a worker has to say of the slide it is at."""

    source: str
    stage: str
    done: int = 0  # patches encoded
    total: int = 0


class Worker:
    """One process and the pipe to it."""

    def __init__(self, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")  # threads and CUDA do not survive a fork
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve_jobs, args=(theirs, setup), daemon=True)
        with hold_interrupts():
            self.process.start()
        theirs.close()
        self.source: str | None = None  # the slide it is at
        self.job: Job | None = None

    def assign(self, source: str, job: Job) -> None:
        self.source, self.job = source, job
        with contextlib.suppress(BrokenPipeError):  # it died; the next look at its pipe says so
            self.pipe.send((source, job))

    def receive(self) -> tuple[str, Any]:
        """The next message; `died` when the process is gone."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):
            return "died", None
        return kind, value

    def death_outcome(self) -> Outcome:
        """The outcome of the slide during which the process died."""
        self.process.join(STOPPING)
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = "; if memory ran out, use fewer --workers" if how == "SIGKILL" else ""
        message = f"the process reading it died ({how}){hint}"
        return Outcome(self.source or "", FAILED, "process died", message)

    def stop(self) -> None:
        """An idle process ends when its pipe closes; one at work is ended."""
        self.pipe.close()
        if self.source is None:
            self.process.join(STOPPING)
        self.process.terminate()
        self.process.join(STOPPING)
        self.process.kill()  # one that a decoder holds up
        self.process.join()


@contextlib.contextmanager
def hold_interrupts() -> Iterator[None]:
    """Processes that begin meanwhile do not hear Ctrl-C from their first moment on: it is the parent's to handle.

    The parent hears of it when they have begun. Ignored in the parent, a Ctrl-C of that moment would be lost.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield  # the main thread alone may say how signals are handled, and Windows has no mask that is inherited
        return
    resource_tracker.ensure_running()  # begun later, it would take the mask away
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda signum, _frame: heard.append(signum))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if heard:
            signal.raise_signal(signal.SIGINT)


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_several(source: str, job: Job, count: int) -> tuple[list[Named], list[Outcome]]:
    """One outcome for the file: none of its slides is summarized."""
    return [], [outcome_of(SeveralSlidesError(job.source.path.name, count), source)]


def run_jobs(
    jobs: Sequence[Named],
    setup: Setup,
    workers: int,
    listen: Callable[[Event], None] = lambda event: None,
    split: Split = refuse_several,
) -> Iterator[Outcome]:
    """Outcomes in the order in which slides are done; `split` hears of files that turn out to hold several slides.

    Raises UsageError when the models cannot be loaded.
    """
    waiting, stillborn, started = deque(jobs), 0, False
    team = {worker.pipe: worker for worker in (Worker(setup) for _ in range(min(workers, len(jobs))))}
    try:
        while team:
            for pipe in wait(list(team)):
                worker = team[pipe]  # type: ignore[index]  # wait() is typed for any waitable
                kind, value = worker.receive()
                if kind == "event":
                    listen(value)
                elif kind == "refused":
                    del team[worker.pipe]
                    worker.stop()
                    if not started or (waiting and not team):  # else the others do it: a GPU may hold so many only
                        raise UsageError(value)
                elif kind == "died":
                    del team[worker.pipe]
                    if worker.source is None:
                        stillborn += 1
                    else:
                        yield worker.death_outcome()
                    worker.stop()
                    if stillborn > MAX_STILLBORN:
                        raise UsageError("worker processes die while they load the models; see the lines above")
                    if waiting:
                        successor = Worker(setup)
                        team[successor.pipe] = successor
                else:
                    if kind == "several":
                        source, job = worker.source, worker.job
                        assert source is not None
                        assert job is not None
                        more, known = split(source, job, value)
                        waiting.extendleft(reversed(more))
                        yield from known
                    worker.source, stillborn, started = None, 0, True
                    if kind == "done":
                        yield value
                    if waiting:
                        worker.assign(*waiting.popleft())
                    else:
                        del team[worker.pipe]
                        worker.stop()
    finally:
        busy = [worker for worker in team.values() if worker.source is not None]
        for worker in busy:
            worker.process.terminate()  # all at once: each may take a moment to end in order
        for worker in team.values():
            worker.stop()


def serve_jobs(pipe: Connection, setup: Setup) -> None:
    """What a worker process does until its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, exit_on_signal)
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        encoder = load_encoder(setup.encoder, setup.device)
        models = setup.choices.load(setup.device)
    except WsisumError as error:
        pipe.send(("refused", str(error)))
        return
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent wants no more
        pipe.send(("ready", encoder.provider))
        while True:
            source, job = pipe.recv()
            try:
                outcome = make_product(source, job, setup, encoder, models, Reporter(pipe, source))
            except SeveralSlidesError as error:
                pipe.send(("several", error.count))
            else:
                pipe.send(("done", outcome))


def exit_on_signal(signum: int, _frame: object) -> None:
    """End in order: what is half written goes, and so do the semaphores of libraries, which Python would warn of."""
    raise SystemExit(128 + signum)


def end_with_parent() -> None:
    """A killed parent must not leave processes behind that write into the archive of the next run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Reporter:
    """Sends stages and progress up the pipe, not more often than anybody can read."""

    def __init__(self, pipe: Connection, source: str) -> None:
        self._pipe, self._source = pipe, source
        self._stage, self._sent = "", 0.0

    def stage(self, name: str) -> None:
        self._stage = name
        self._pipe.send(("event", Event(self._source, name)))

    def progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._sent >= HEARTBEAT or done == total:
            self._sent = now
            self._pipe.send(("event", Event(self._source, self._stage, done, total)))


def make_product(
    source: str, job: Job, setup: Setup, encoder: Encoder, models: SlideModels, reporter: Reporter
) -> Outcome:
    """One slide; whatever goes wrong becomes its outcome. Raises SeveralSlidesError where the file holds several."""
    tools = Tools(encoder, setup.threads, reporter.stage, reporter.progress, models)
    try:
        figures = setup.product.make(job, setup.options, tools)
        modified = job.source.modified
    except SeveralSlidesError:
        raise
    except Exception as error:  # noqa: BLE001 - one bad slide never ends a run
        return outcome_of(error, source)
    return Outcome(
        source,
        WRITTEN,
        sha256=job.source.sha256,
        modified=modified,
        **setup.product.named(job.output.relative_to(setup.output).as_posix()),
        **figures,
    )
