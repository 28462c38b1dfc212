"""Worker processes: a crash in a decoder costs one slide, never the whole run."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from wsisum_cli.archive.outcome import FAILED, WRITTEN, Outcome, outcome_of
from wsisum_cli.archive.remote.here import HERE, Outputs
from wsisum_cli.archive.scope.naming import refuse_unnamed
from wsisum_cli.archive.state.former import hold, settle
from wsisum_cli.archive.state.record import record_of, source_state, telling_time
from wsisum_cli.errors import AccessError, SeveralSlidesError, UsageError, WsisumError
from wsisum_cli.models.choice import NO_MODEL_CHOICES, ModelChoices, SlideModels
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.pipeline.job import Clock, Job, Tools
from wsisum_cli.pipeline.product import MODIFIED_OUT, SUMMARIES, Product
from wsisum_cli.slides.remote.source import RemoteSource
from wsisum_cli.slides.source import Source

TOOK_TOO_LONG = "took too long"  # reason of an outcome
MB = 10**6
HEARTBEAT = 0.2  # s, minimum interval between progress messages
MAX_STILLBORN = 3  # consecutive workers that may die before their first slide; memory may be short briefly
STOPPING = 5.0  # s that a process gets to end
#: Minutes that a slide may take: reading 20 GB at 2 MB/s takes 170, and encoding 200,000 patches on one slow core 170.
SLIDE_TIMEOUT = 480.0
C_LIBRARY = None if sys.platform == "win32" else ctypes.CDLL(None)
M_ARENA_MAX, HEAPS = -8, 2  # an option of `mallopt`, and how many heaps threads share
SILENT_SHARE = 1 / 8  # of these, during which a process may say nothing: reading a slide without low levels takes 60


@dataclass(frozen=True)
class Setup:
    """What a worker needs before its first slide."""

    options: Any  # the product's options
    encoder: str  # name or path
    device: str
    threads: int
    output: Path  # output paths are relative to this folder
    product: Product = SUMMARIES
    choices: ModelChoices = NO_MODEL_CHOICES
    slide_timeout: float = SLIDE_TIMEOUT  # minutes
    gpus: tuple[str, ...] = ()  # one for each worker in turn; empty: each sees all GPUs
    outputs: Outputs = HERE

    def for_worker(self, number: int) -> Setup:
        """The setup of one worker, with its own GPU."""
        return replace(self, gpus=(self.gpus[number % len(self.gpus)],)) if self.gpus else self


Named = tuple[str, Job]  # with the path of its slide within the archive
#: A job whose file holds several slides, and how many -> a job for each, and outcomes of those that need no work.
Split = Callable[[str, Job, int], tuple[list[Named], list[Outcome]]]


@dataclass(frozen=True)
class Event:
    """Progress of the slide that a worker is on."""

    source: str
    stage: str
    done: int = 0  # patches encoded, or MB fetched
    total: int = 0


class Worker:
    """One process and the pipe to it."""

    def __init__(self, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")  # threads and CUDA do not survive a fork
        self.setup = setup
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve_jobs, args=(theirs, setup), daemon=True)
        with hold_interrupts():
            self.process.start()
        theirs.close()
        self.source: str | None = None  # the slide it is on
        self.job: Job | None = None
        self.loaded = False  # whether it said that it has the models; kept by those who ask it
        self.served = 0  # slides given to it
        self._limit = 60 * setup.slide_timeout  # s
        self._assigned = self._heard = 0.0

    def assign(self, source: str, job: Job) -> None:
        self.source, self.job = source, job
        self.served += 1
        self._assigned = self._heard = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # the worker died; the next read of its pipe reports it
            self.pipe.send((source, job))

    @property
    def deadline(self) -> float:
        """By the monotonic clock, when its slide is given up unless it says something."""
        if self.source is None:
            return math.inf
        return min(self._assigned + self._limit, self._heard + SILENT_SHARE * self._limit)

    def timeout_outcome(self) -> Outcome:
        """The outcome of a slide past the deadline."""
        whole = time.monotonic() >= self._assigned + self._limit
        minutes = self._limit / 60 * (1 if whole else SILENT_SHARE)
        found = f"took longer than {minutes:.3g} minutes" if whole else f"stood still for {minutes:.3g} minutes"
        message = f"reading it {found}, so it was given up; look at the file and its disk, or raise --slide-timeout"
        return Outcome(self.source or "", FAILED, TOOK_TOO_LONG, message)

    def receive(self) -> tuple[str, Any]:
        """The next message, or `died` when the process is gone."""
        self._heard = time.monotonic()
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
        """Stop the process: an idle one ends when its pipe closes, a busy one is terminated."""
        self.pipe.close()
        if self.source is None:
            self.process.join(STOPPING)
        self.process.terminate()
        self.process.join(STOPPING)
        self.process.kill()  # a decoder may block it
        self.process.join()


@contextlib.contextmanager
def hold_interrupts() -> Iterator[None]:
    """Block Ctrl-C in processes started meanwhile: the parent handles it.

    The parent gets a pending Ctrl-C or SIGTERM once they have started. If it ignored the signal instead, it would be
    lost, and if it acted at once, it would leave a process that begins without what it is to do.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield  # only the main thread may set signal handlers, and Windows has no inherited signal mask
        return
    resource_tracker.ensure_running()  # started later, it would clear the mask
    received: list[int] = []
    held = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(signum, lambda signum, _frame: received.append(signum)) for signum in held]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for signum, handler in zip(held, handlers, strict=True):
            signal.signal(signum, handler)
        if received:
            signal.raise_signal(received[0])


def refuse_several(source: str, job: Job, count: int) -> tuple[list[Named], list[Outcome]]:
    """One outcome for the file: none of its slides is summarized."""
    return [], [outcome_of(SeveralSlidesError(job.source.path.name, count), source)]


def run_jobs(
    jobs: Sequence[Named],
    setup: Setup,
    workers: int,
    listen: Callable[[Event], None] = lambda event: None,
    split: Split = refuse_several,
    ready: Callable[[str], None] = lambda provider: None,
) -> Iterator[Outcome]:
    """Yield outcomes as slides finish; `split` hears of files that turn out to hold several slides.

    `ready` hears of each worker that has loaded its models, with the execution provider of its encoder.

    Raises UsageError when the models cannot be loaded, AccessError when a store refuses the credentials.
    """
    team = Team(deque(jobs), split)
    try:
        for number in range(min(workers, len(jobs))):
            team.hire(setup.for_worker(number))
        while team.workers:
            for pipe in wait(list(team.workers), seconds_left(team.workers.values())):
                worker = team.workers[pipe]  # type: ignore[index]  # wait() is typed for any waitable
                kind, value = worker.receive()
                if kind == "event":
                    listen(value)
                    continue
                if kind == "ready":
                    ready(value)
                yield from team.hear(worker, kind, value)
            for worker in [worker for worker in team.workers.values() if worker.deadline <= time.monotonic()]:
                yield worker.timeout_outcome()
                team.succeed(worker)
    finally:
        team.end()


@dataclass
class Team:
    """Worker processes, and the jobs that wait for one of them."""

    waiting: deque[Named]
    split: Split
    workers: dict[Connection, Worker] = field(default_factory=dict)  # by pipe
    _stillborn: int = 0  # processes that died one after another before they had loaded the models
    _started: bool = False  # whether a worker has loaded the models

    def hire(self, setup: Setup) -> None:
        worker = Worker(setup)
        self.workers[worker.pipe] = worker

    def dismiss(self, worker: Worker) -> None:
        del self.workers[worker.pipe]
        worker.stop()

    def succeed(self, worker: Worker) -> None:
        """Put another process in the place of a worker if there is work for it."""
        self.dismiss(worker)
        if self.waiting:
            self.hire(worker.setup)

    def hear(self, worker: Worker, kind: str, value: Any) -> Iterator[Outcome]:
        """What a message means for the slides. Raises UsageError, AccessError as `run_jobs`."""
        if kind == "refused":
            self.dismiss(worker)
            if not self._started or (self.waiting and not self.workers):  # else others go on: a GPU may fit only some
                raise UsageError(value)
        elif kind == "no access":
            raise AccessError(value)
        elif kind == "died":
            yield from self._bury(worker)
        else:
            if kind == "several":
                yield from self._share(worker, value)
            worker.source, self._stillborn, self._started = None, 0, True
            if kind == "done":
                yield value
            if self.waiting:
                worker.assign(*self.waiting.popleft())
            else:
                self.dismiss(worker)

    def _bury(self, worker: Worker) -> Iterator[Outcome]:
        """A process that died fails its slide, if it had one."""
        if worker.source is not None:
            yield worker.death_outcome()
        else:
            self._stillborn += 1
        if self._stillborn > MAX_STILLBORN:
            self.dismiss(worker)
            raise UsageError("worker processes die while loading the models; see the lines above")
        self.succeed(worker)

    def _share(self, worker: Worker, count: int) -> Iterator[Outcome]:
        """A file that turned out to hold several slides makes a job of each, ahead of the others."""
        assert worker.source is not None
        assert worker.job is not None
        more, known = self.split(worker.source, worker.job, count)
        self.waiting.extendleft(reversed(more))
        yield from known

    def end(self) -> None:
        """Stop all processes."""
        for worker in [worker for worker in self.workers.values() if worker.source is not None]:
            worker.process.terminate()  # all at once, since each may take a moment to clean up
        for worker in self.workers.values():
            worker.stop()


def seconds_left(team: Iterable[Worker]) -> float | None:
    """Until the first deadline; None where there is none."""
    first = min((worker.deadline for worker in team), default=math.inf)
    return None if math.isinf(first) else max(0.0, first - time.monotonic())


def serve_jobs(pipe: Connection, setup: Setup) -> None:
    """The main loop of a worker process; it ends when the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, exit_on_signal)
    threading.Thread(target=end_with_parent, daemon=True).start()
    share_heaps()
    if setup.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = setup.gpus[0]
    try:
        encoder = load_encoder(setup.encoder, setup.device)
        models = setup.choices.load(setup.device)
    except WsisumError as error:
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more
            pipe.send(("refused", str(error)))
        return
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent closed the pipe
        pipe.send(("ready", encoder.provider))
        while True:
            source, job = pipe.recv()
            try:
                outcome = make_product(source, job, setup, encoder, models, Reporter(pipe, source))
            except SeveralSlidesError as error:
                pipe.send(("several", error.count))
            except AccessError as error:
                pipe.send(("no access", str(error)))
            else:
                pipe.send(("done", outcome))
            give_back_memory()


def share_heaps() -> None:
    """Let the threads of this process share two heaps. Each has its own otherwise, and keeps what it once took.

    Only the C library of most Linux systems has this setting.
    """
    if (set_option := getattr(C_LIBRARY, "mallopt", None)) is not None:
        set_option(M_ARENA_MAX, HEAPS)


def give_back_memory() -> None:
    """Return freed memory to the system, so that a long run takes no more than its largest slide."""
    gc.collect()
    if (trim := getattr(C_LIBRARY, "malloc_trim", None)) is not None:
        trim(0)


def exit_on_signal(signum: int, _frame: object) -> None:
    """Exit cleanly: remove half-written files, and the libraries' semaphores, which Python would warn about."""
    raise SystemExit(128 + signum)


def end_with_parent() -> None:
    """Exit when the parent is killed, so that no orphan writes into the archive during the next run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Reporter:
    """Sends stages and progress through the pipe, at a limited rate."""

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

    def bytes(self, done: int, total: int) -> None:
        """Progress in MB."""
        self.progress(done // MB, max(1, total // MB))


def fetch(source: Source, clock: Clock, reporter: Reporter, stack: ExitStack) -> Source:
    """The slide on disk, until the stack is closed. Raises SlideError, AccessError."""
    if not isinstance(source, RemoteSource):
        return source
    with clock("fetch"):
        return stack.enter_context(source.staged(reporter.bytes))


def make_product(
    source: str, job: Job, setup: Setup, encoder: Encoder, models: SlideModels, reporter: Reporter
) -> Outcome:
    """Process one slide. Any error becomes its outcome.

    Raises SeveralSlidesError where the file holds several, AccessError where no other slide of a store can be read.
    """
    tools = Tools(encoder, setup.threads, reporter.stage, reporter.progress, models)
    modified = held = None
    try:
        held = hold(setup.output, job.output) if setup.product.reported else None
        state, modified = source_state(job.source), telling_time(job.source)  # before: a later change is seen
        clock = Clock(reporter.stage)
        with ExitStack() as stack:
            slide = fetch(job.source, clock, reporter, stack)
            here = replace(job, source=slide)
            refuse_unnamed(here)
            figures = setup.product.make(here, setup.options, tools)
            figures["seconds"] = {**clock.seconds, **figures.get("seconds", {})}
            digest = slide.sha256
        former = settle(setup.output, held, job.output, setup.product)
        former = setup.outputs.publish(job.output, setup.product) or former
    except (SeveralSlidesError, AccessError):
        settle(setup.output, held, job.output, setup.product)
        raise
    except Exception as error:  # noqa: BLE001 - one bad slide must not end the run
        outcome = outcome_of(error, source)
        outcome = replace(outcome, former=settle(setup.output, held, job.output, setup.product))
        with contextlib.suppress(OSError):  # it may be what is wrong
            outcome = replace(outcome, bytes_in=job.source.bytes, modified=modified)
        return outcome
    modified_out = figures.pop(MODIFIED_OUT, None)
    written = None if modified_out is None else (figures["bytes_out"], modified_out)
    return Outcome(
        source,
        WRITTEN,
        sha256=digest,
        modified=modified,
        record=None if written is None or not setup.outputs.are_here else record_of(state, written, job.fingerprint),
        bytes_fetched=slide.fetched,
        former=former,
        **setup.product.named(job.output.relative_to(setup.output).as_posix()),
        **figures,
    )
