"""Slides on the workers of a Dask cluster that the user runs. The only room that imports distributed.

Each thread of a Dask worker keeps one process of `archive/workers`, so that a decoder that crashes or hangs costs one
slide there as it does on one machine, and neither the Dask worker nor the other slides on it. What is left to Dask is a
machine that goes away: its slide is tried again on another one, up to `retries` times. The same slide gives the same
bytes, and an output gets its name only once it is whole, so a worker that was given up may finish all the same.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsisum_cli import __version__
from wsisum_cli.archive.engines.resources import cores
from wsisum_cli.archive.outcome import FAILED, Outcome
from wsisum_cli.archive.workers import Event, Named, Setup, Split, Worker, refuse_several
from wsisum_cli.errors import UsageError
from wsisum_cli.pipeline.job import Job

if TYPE_CHECKING:
    from wsisum_cli.archive.plan import Request
    from wsisum_cli.models.choice import ModelChoice

WORKER_DIED = "process died"  # reason of an outcome
AHEAD = 2  # slides given to the cluster for each of its threads, so that none waits for the next
POLL = 0.5  # s after which a worker looks whether its slide is still wanted
PULSE = 1.0  # s between messages of the progress of a slide
IDLE = 60.0  # s that a process waits for the next slide
PATIENCE = 30.0  # s until a scheduler must answer
CENSUS = 5.0  # s between counts of the cluster's threads
REFUSAL = 60.0  # s for which a worker that cannot load the models gets no slide, if another one can
SEVERAL, DONE, REFUSED, OTHER_VERSION = "several", "done", "refused", "other version"


@dataclass(frozen=True)
class Cluster:
    """A cluster by the address of its scheduler, or by the file in which the scheduler wrote it."""

    address: str | None = None
    file: Path | None = None
    retries: int = 2  # how often a slide is tried again after the worker died that had it

    def run_jobs(
        self,
        jobs: Sequence[Named],
        setup: Setup,
        listen: Callable[[Event], None] = lambda event: None,
        split: Split = refuse_several,
        ready: Callable[[str], None] = lambda provider: None,
    ) -> Iterator[Outcome]:
        """Yield outcomes as slides finish, as `workers.run_jobs` does. All paths must be absolute.

        Raises UsageError when there is no such cluster, when a worker has another version of this program, or when no
        worker can load the models.
        """
        if not jobs:
            return
        client = self._connect()
        try:
            yield from Dispatch(client, setup, self.retries, listen, split, ready).run(jobs)
        finally:
            client.close()  # the scheduler forgets what is not done, and the workers stop it

    def _connect(self) -> Any:
        try:
            from distributed import Client
        except ImportError as error:
            raise UsageError("--scheduler: expected the extra dask; pip install 'wsisum[dask]'") from error
        place = {"address": self.address} if self.address else {"scheduler_file": str(self.file)}
        try:
            return Client(**place, timeout=PATIENCE, set_as_default=False, name="wsisum")  # type: ignore[no-untyped-call]
        except (OSError, ValueError, TypeError) as error:
            which = "--scheduler" if self.address else "--scheduler-file"
            raise UsageError(f"{which}: no Dask scheduler answers there ({type(error).__name__}); start one") from error


@dataclass
class Dispatch:
    """Gives slides to a cluster and collects what becomes of them."""

    client: Any
    setup: Setup
    retries: int
    listen: Callable[[Event], None]
    split: Split
    ready: Callable[[str], None]
    topic: str = field(default_factory=lambda: f"wsisum-{uuid.uuid4().hex}")
    waiting: deque[Named] = field(default_factory=deque)
    going: dict[str, tuple[Named, Any]] = field(default_factory=dict)  # by key: the job and its future
    starts: Counter[str] = field(default_factory=Counter)  # of each slide
    heard: queue.Queue[tuple[str, Any]] = field(default_factory=queue.Queue)
    threads: Mapping[str, int] = field(default_factory=dict)  # of each worker, by its address
    refused: dict[str, float] = field(default_factory=dict)  # when a worker could not load the models
    was_ready: bool = False  # whether any worker loaded them
    counted: float = -CENSUS  # when, by the monotonic clock

    def run(self, jobs: Sequence[Named]) -> Iterator[Outcome]:
        self.waiting.extend(jobs)
        self.client.subscribe_topic(self.topic, lambda event: self.heard.put(("message", event[1])))
        try:
            while self.waiting or self.going:
                self._submit()
                try:
                    kind, value = self.heard.get(timeout=CENSUS)
                except queue.Empty:
                    continue  # more workers may have come
                if kind == "message":
                    yield from self._message(value)
                elif value in self.going:
                    yield from self._collect(value)
        finally:
            for _, future in self.going.values():
                future.cancel()
            with contextlib.suppress(ValueError):
                self.client.unsubscribe_topic(self.topic)

    def _submit(self) -> None:
        """Keep every thread of the cluster busy, and no more: a slide that waits here can still be left out."""
        if time.monotonic() - self.counted >= CENSUS:
            self.threads, self.counted = self.client.nthreads(), time.monotonic()
        able = self._able()
        if self.threads and not able:
            return
        # A wish and no more: a slide must not wait for a worker that has gone.
        wish = {"workers": list(able), "allow_other_workers": True} if len(able) < len(self.threads) else {}
        room = max(1, AHEAD * sum(able.values())) - len(self.going)
        for _ in range(min(room, len(self.waiting))):
            source, job = self.waiting.popleft()
            key = f"{self.topic}-{uuid.uuid4().hex}"
            # Not Dask's own retries: they count exceptions, and a worker that dies raises none.
            task = (source, job, self.setup, self.topic, key, __version__)
            future = self.client.submit(process_slide, *task, key=key, pure=False, **wish)
            self.going[key] = (source, job), future
            future.add_done_callback(lambda done: self.heard.put(("done", done.key)))

    def _able(self) -> dict[str, int]:
        """The threads of each worker that was not found lately to be unable to load the models."""
        before = time.monotonic() - REFUSAL
        return {place: count for place, count in self.threads.items() if self.refused.get(place, before) <= before}

    def _hand_back(self, named: Named, place: str, why: str) -> None:
        """Take back a slide from a worker that cannot load the models. Raises UsageError when none can."""
        self.refused[place] = time.monotonic()
        self.threads, self.counted = self.client.nthreads(), time.monotonic()
        if not self.was_ready and not self._able():
            raise UsageError(why)
        self.starts[named[0]] -= 1  # it did not begin
        self.waiting.appendleft(named)

    def _message(self, message: dict[str, Any]) -> Iterator[Outcome]:
        """A worker began a slide, loaded its models, or tells of progress."""
        if message["what"] == "ready":
            self.was_ready = True
            self.ready(message["provider"])
        elif message["key"] not in self.going:
            return  # of a slide that was given up
        elif message["what"] == "event":
            self.listen(Event(**message["event"]))
        else:
            source = message["source"]
            self.starts[source] += 1
            if self.starts[source] > 1 + self.retries:
                yield self._give_up(message["key"])

    def _collect(self, key: str) -> Iterator[Outcome]:
        named, future = self.going[key]
        if future.status != "finished":
            yield from self._again_or_give_up(key, named, future)
            return
        kind, value = future.result()
        del self.going[key]
        if kind == OTHER_VERSION:
            raise UsageError(value)
        if kind == REFUSED:
            self._hand_back(named, *value)
        elif kind == SEVERAL:
            more, known = self.split(*named, value)
            self.waiting.extendleft(reversed(more))
            yield from known
        else:
            yield value

    def _again_or_give_up(self, key: str, named: Named, future: Any) -> Iterator[Outcome]:
        """After the scheduler gave up a slide: several workers died that had it, or it was lost."""
        from distributed import KilledWorker

        error = future.exception() if future.status == "error" else None
        if error is not None and not isinstance(error, KilledWorker):
            # An error of the machinery, such as a module that the worker lacks: every slide would meet it.
            raise UsageError(f"a worker of the cluster cannot do its work ({type(error).__name__}: {error})") from error
        if self.client.status != "running":
            raise UsageError("the Dask scheduler has gone; run the same command again once there is one")
        if self.starts[named[0]] > self.retries:
            yield self._give_up(key)
            return
        self.starts[named[0]] += error is None  # a slide that is lost without a start has had its turn as well
        del self.going[key]
        self.waiting.appendleft(named)

    def _give_up(self, key: str) -> Outcome:
        (source, _), future = self.going.pop(key)
        future.cancel()
        tried = self.retries + 1
        message = (
            f"the worker that had it died {tried} {'time' if tried == 1 else 'times'}; if memory ran out, use fewer"
        )
        return Outcome(source, FAILED, WORKER_DIED, f"{message} threads a worker, or raise --retries")


def with_absolute_paths(request: Request, setup: Setup) -> tuple[Request, Setup]:
    """The same for workers whose working folder is another one. They must see the files at the same paths."""
    output = request.output.absolute()
    features = request.features.absolute() if request.features is not None else None
    choices = replace(
        request.choices,
        summarizer=absolute_choice(request.choices.summarizer),
        slide_encoder=absolute_choice(request.choices.slide_encoder),
    )
    there = replace(request, source=request.source.absolute(), output=output, features=features, choices=choices)
    encoder = Path(setup.encoder)
    name = str(encoder.absolute()) if encoder.is_file() else setup.encoder
    return there, replace(setup, output=output, encoder=name, choices=choices)


def absolute_choice(choice: ModelChoice | None) -> ModelChoice | None:
    return None if choice is None else replace(choice, path=choice.path.absolute())


# -- On the workers of the cluster --------------------------------------------------------------------------------

_IDLE: list[Worker] = []  # processes with loaded models, for the next slide
_LOCK = threading.Lock()


def process_slide(source: str, job: Job, setup: Setup, topic: str, key: str, version: str) -> tuple[str, Any]:
    """Work on one slide in a process of its own, which is kept for the next one. Runs on a worker of the cluster."""
    if version != __version__:
        return OTHER_VERSION, f"a worker of the cluster has wsisum {__version__}, this is {version}; install the same"
    from distributed import get_worker

    here = get_worker()
    here.log_event(topic, {"what": "start", "key": key, "source": source})
    process = take_process(replace(setup, threads=max(1, cores() // here.state.nthreads)))
    try:
        if process.source is None and not process.loaded:
            kind, value = process.receive()
            if kind != "ready":
                process.stop()
                why = value or "processes of a worker of the cluster die while loading the models"
                return REFUSED, (here.address, why)
            process.loaded = True
            here.log_event(topic, {"what": "ready", "provider": value})
        process.assign(source, job)
        return attend(process, key, here, topic)
    except BaseException:
        process.stop()
        raise


def attend(process: Worker, key: str, here: Any, topic: str) -> tuple[str, Any]:
    """Pass on what a process tells of its slide, until it is done, dead, out of time or no longer wanted."""
    stage, told, looked = "", 0.0, time.monotonic()
    while True:
        said = wait([process.pipe], POLL)
        if time.monotonic() - looked >= POLL:  # also while it tells of progress all the time
            looked = time.monotonic()
            if process.deadline <= looked or not is_wanted(here, key):
                outcome = process.timeout_outcome()
                process.stop()
                return DONE, outcome
        if not said:
            continue
        kind, value = process.receive()
        if kind == "event":
            if value.stage != stage or time.monotonic() - told > PULSE or value.done == value.total > 0:
                stage, told = value.stage, time.monotonic()
                here.log_event(topic, {"what": "event", "key": key, "event": asdict(value)})
        elif kind == "died":
            outcome = process.death_outcome()
            process.stop()
            return DONE, outcome
        else:
            process.source = process.job = None
            keep_process(process)
            return kind, value


def is_wanted(here: Any, key: str) -> bool:
    """Whether the scheduler still wants the result: not after its client has gone or given the slide up."""
    task = here.state.tasks.get(key)
    return task is not None and task.state == "executing"


def take_process(setup: Setup) -> Worker:
    """An idle process with these models, or a new one."""
    with _LOCK:
        for process in _IDLE:
            if process.setup == setup:
                _IDLE.remove(process)
                return process
    with children_allowed():
        return Worker(setup)


def keep_process(process: Worker) -> None:
    """Keep it for the next slide, for a while: its models take memory that others may want."""
    with _LOCK:
        _IDLE.append(process)
    timer = threading.Timer(IDLE, drop_process, [process, process.served])
    timer.daemon = True
    timer.start()


def drop_process(process: Worker, served: int) -> None:
    """Stop a process that had no slide since."""
    with _LOCK:
        if process not in _IDLE or process.served != served:
            return
        _IDLE.remove(process)
    process.stop()


@contextlib.contextmanager
def children_allowed() -> Iterator[None]:
    """Let a daemonic process, as Dask's nanny starts its workers, have children.

    Python forbids it because they could outlive it. Ours end with their parent (`workers.end_with_parent`).
    """
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    before = config.get("daemon")
    config["daemon"] = False
    try:
        yield
    finally:
        config["daemon"] = before
