"""The log file of a run: JSON lines with time, level, event, slide, stage and seconds, and nothing private."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from wsisum_cli.errors import UsageError

if TYPE_CHECKING:
    from wsisum_cli.archive.outcome import Outcome
    from wsisum_cli.archive.plan import Plan
    from wsisum_cli.archive.run import Listener
    from wsisum_cli.archive.workers import Event

INFO, WARNING, ERROR = "info", "warning", "error"


class StageClock:
    """Seconds of each stage of the slides in progress, told when the next one begins."""

    def __init__(self, tell: Callable[[str, str, float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._stages: dict[str, tuple[str, float]] = {}  # of each slide, and when it began

    def event(self, event: Event) -> None:
        before = self._stages.get(event.source)
        if before is None or before[0] != event.stage:
            self.end(event.source)
            self._stages[event.source] = event.stage, self._clock()

    def end(self, source: str) -> None:
        """The stage that a slide is in has ended."""
        if (before := self._stages.pop(source, None)) is not None:
            self._tell(source, before[0], self._clock() - before[1])


class LogFile:
    """Writes an object a line, at once, so that a log is whole up to the moment at which a machine dies.

    A disk that takes no more costs lines of the log, never the run.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._torn = False
        self.lost = 0  # lines that could not be written
        self.trouble = ""  # why
        self._stages = StageClock(lambda slide, stage, seconds: self.write(INFO, "stage", slide, stage, seconds))

    def listener(self) -> Listener:
        from wsisum_cli.archive.run import Listener

        return Listener(
            planned=self.planned,
            again=lambda slide, why: self.write(INFO, "made again", slide, why=why),
            ready=lambda provider: self.write(INFO, "worker ready", provider=provider),
            event=self._stages.event,
            outcome=self.outcome,
        )

    def planned(self, plan: Plan) -> None:
        out = {"left_out": len(plan.left_out), "beyond_limit": len(plan.beyond)}
        more: dict[str, Any] = {"jobs": len(plan.jobs), "decided": len(plan.outcomes), **out}
        self.write(INFO, "planned", **more)
        for outcome in plan.outcomes:
            if outcome.status == "failed":
                self.outcome(outcome)

    def outcome(self, outcome: Outcome) -> None:
        self._stages.end(outcome.source)
        level = (WARNING if outcome.known else ERROR) if outcome.status == "failed" else INFO
        seconds = sum(outcome.seconds.values()) if outcome.seconds else None
        # Not the message: that of an unexpected error may say anything.
        self.write(level, outcome.status, outcome.source, seconds=seconds, reason=outcome.reason or None)

    def write(
        self,
        level: str,
        event: str,
        slide: str | None = None,
        stage: str | None = None,
        seconds: float | None = None,
        **more: Any,
    ) -> None:
        entry = {"slide": slide, "stage": stage, "seconds": None if seconds is None else round(seconds, 3), **more}
        known = {name: value for name, value in entry.items() if value is not None}
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._append(json.dumps({"time": now, "level": level, "event": event, **known}).encode("ascii") + b"\n")

    def _append(self, line: bytes) -> None:
        whole = b"\n" + line if self._torn else line
        try:
            taken = self._file.write(whole)
        except OSError as error:
            taken, self.trouble = 0, error.strerror or type(error).__name__
        self._torn = self._torn if not taken else taken < len(whole)
        self.lost += taken < len(whole)


def refuse_other_file(path: Path) -> None:
    """Raise UsageError for a file that is no log: a slide that was named by mistake must not be written to."""
    try:
        with open(path, "rb") as file:
            first = file.read(1)
    except OSError:
        return  # it is not there, or opening it to write says why it cannot be opened
    if first not in (b"", b"{"):
        raise UsageError(
            f"{path.name}: expected a log of JSON lines, or a new file, found another file; choose another"
        )


@contextmanager
def logging_to(path: Path | None) -> Iterator[LogFile | None]:
    """The log file, opened to append; None where none is wanted. Raises UsageError when it cannot be opened."""
    from wsisum_cli.commands.console import warn
    from wsisum_cli.figures.words import pluralize

    if path is None:
        yield None
        return
    refuse_other_file(path)
    try:
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise UsageError(f"{path.name}: the log file cannot be written ({error.strerror})") from error
    log = LogFile(file)
    try:
        with file:
            yield log
    finally:
        if log.lost:
            warn(f"{path.name}: {pluralize(log.lost, 'line')} could not be written ({log.trouble or 'disk full'})")
