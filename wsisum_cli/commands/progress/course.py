"""How far a run is, and how long it will take: from the stages of its slides and the bytes of those that wait."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from wsisum_cli.slides.remote.source import RemoteSource

if TYPE_CHECKING:
    from wsisum_cli.archive.outcome import Outcome
    from wsisum_cli.archive.plan import Plan
    from wsisum_cli.archive.workers import Event

#: Share of a slide's time that each stage takes, in their order, until slides of this run show their own.
SHARES = {
    "tissue": 0.06,
    "features": 0.42,
    "selection": 0.20,
    "pixels": 0.06,
    "embedding": 0.02,
    "draws": 0.08,
    "hash": 0.01,
    "write": 0.15,
}
ENCODING = {"tissue": 0.08, "features": 0.87, "hash": 0.01, "write": 0.04}
FETCHING = 0.3  # share of a remote slide's time before these
FIRST = 2.0  # s after which the time left is told
UNKNOWN_BYTES = 1  # of a slide whose size cannot be read


class Course:
    """Follows a run. Of each slide in progress it knows the share that is done, of the run the seconds left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._shares: Mapping[str, float] = SHARES
        self._seconds: Counter[str] = Counter()  # of each stage, of the slides that are done
        self._bytes: dict[str, float] = {}  # of each slide that is planned
        self._whole = 0.0  # bytes of all slides
        self._mean = 1.0  # bytes of one; what is not planned counts as much
        self._fractions: dict[str, float] = {}  # of slides in progress
        self._done = 0.0  # bytes
        self.total = self.finished = 0  # slides

    def planned(self, plan: Plan) -> None:
        self._began = self._clock()
        self._shares = SHARES if plan.task != "encode" else ENCODING
        if any(isinstance(job.source, RemoteSource) for _, job in plan.jobs):
            self._shares = {"fetch": FETCHING, **self._shares}
        self._bytes = {source: size_of(job) for source, job in plan.jobs}
        self.total = len(plan.jobs)
        self._whole = sum(self._bytes.values())
        self._mean = self._whole / self.total if self.total else 1.0

    def more(self, count: int) -> None:
        """A file holds so many slides more than one, each as long as a slide of the archive on average."""
        self.total += count
        self._whole += count * self._mean

    def event(self, event: Event) -> float:
        """The share of the slide that is done; it never falls."""
        stages = list(self._shares)
        before = self._fractions.get(event.source, 0.0)
        if event.stage not in stages:
            return before
        at = stages.index(event.stage)
        within = event.done / event.total if event.total else 0.0
        sum_before = sum(self._shares[stage] for stage in stages[:at])
        fraction = (sum_before + within * self._shares[event.stage]) / sum(self._shares.values())
        self._fractions[event.source] = max(before, min(fraction, 1.0))
        return self._fractions[event.source]

    def outcome(self, outcome: Outcome) -> None:
        self.finished += 1
        self._fractions.pop(outcome.source, None)
        self._done += self._bytes.get(outcome.source, self._mean)
        self._seconds.update(outcome.seconds)
        whole = sum(self._seconds.values())
        if whole:
            own = {stage: self._seconds.get(stage, 0.0) / whole for stage in self._shares}
            known = self.finished / (self.finished + 1)  # the first slide counts as much as what was assumed
            self._shares = {stage: known * own[stage] + (1 - known) * self._shares[stage] for stage in self._shares}

    @property
    def fraction(self) -> float:
        """Share of the whole run that is done."""
        going = sum(self._bytes.get(source, self._mean) * share for source, share in self._fractions.items())
        return min(1.0, (self._done + going) / self._whole) if self._whole else 1.0

    @property
    def seconds_left(self) -> float | None:
        """None in the first seconds, and where nothing is done yet."""
        past, fraction = self._clock() - self._began, self.fraction
        return past * (1 - fraction) / fraction if fraction > 0 and past >= FIRST else None

    @property
    def left(self) -> str:
        """The time left in words; empty where nobody knows."""
        return duration(self.seconds_left) + " left" if self.seconds_left is not None else ""


def size_of(job: object) -> float:
    try:
        return float(job.source.bytes) or UNKNOWN_BYTES  # type: ignore[attr-defined]
    except OSError:
        return UNKNOWN_BYTES


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"
