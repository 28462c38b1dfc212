"""Reports and journals together: what is known of every slide, whichever run found it, and however that run ended."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from wsisum_cli.archive.outcome import WRITTEN, Outcome
from wsisum_cli.archive.report import Report, read_report, report_names, shards_reported, write_report
from wsisum_cli.archive.scope.filters import file_of
from wsisum_cli.archive.state.journal import History, Journal, RunLines, is_much, parse_line, put_together, read_history
from wsisum_cli.archive.state.shard import Shard
from wsisum_cli.errors import UsageError
from wsisum_cli.slides.source import state_of

MOST_ROUNDS = 5  # of writing the report anew because another run ended meanwhile
#: Facts of a run that its journal has and reports leave out.
JOURNAL_ONLY = ("kind", "at", "version", "todo", "product", "crc32")


class Known(Mapping[str, Outcome]):
    """The latest outcome of every slide, from the journals or, where they say nothing, from the newest report."""

    def __init__(self, history: History, folder: Path) -> None:
        self._history, self._folder = history, folder
        self._reported: dict[str, Outcome] | None = None

    def __getitem__(self, source: str) -> Outcome:
        found = self._history.outcome(source)
        return found if found is not None else self._earlier[source]

    def __iter__(self) -> Iterator[str]:
        yield from self._history.lines
        yield from (source for source in self._earlier if source not in self._history.lines)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def _earlier(self) -> dict[str, Outcome]:
        if self._reported is None:
            self._reported = reported_outcomes(self._folder)
        return self._reported


@dataclass
class Ledger:
    """What a run reads of earlier runs, and what it leaves for later ones."""

    folder: Path
    product: str  # its noun; runs that make other files in the same folder are left alone
    shard: Shard | None = None
    trouble: str = ""  # why the report or the journal is not complete
    unwritten: bool = False  # the report of this run could not be written
    _journal: Journal | None = None
    _past: frozenset[str] = frozenset()
    _report_before: tuple[int, ...] = ()
    _last_written: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.history: History = read_history(self.folder, self.is_ours)
        self.known = Known(self.history, self.folder)
        self._past = self.history.closed

    def is_ours(self, facts: Mapping[str, Any]) -> bool:
        return facts.get("product") == self.product

    def is_same_shard(self, facts: Mapping[str, Any]) -> bool:
        return self.is_ours(facts) and facts.get("shard") == (str(self.shard) if self.shard else None)

    def begin(self, facts: Mapping[str, Any], todo: list[str], planned: list[Outcome]) -> None:
        """Start the journal: `todo` are the slides to work on, `planned` the outcomes of the others."""
        self._report_before = state_of(self.folder / report_names(self.shard)[0])
        shard = None if self.shard is None else str(self.shard)
        self._journal = Journal(self.folder, {"product": self.product, "shard": shard, **facts, "todo": todo})
        for outcome in planned:
            if not self._is_noted(outcome):
                self._journal.note(outcome)

    def _is_noted(self, outcome: Outcome) -> bool:
        """Whether the journals say the same of a slide, so that a line more would add nothing."""
        line = self.history.lines.get(outcome.source)
        content = None if line is None else parse_line(line[1])
        noted = {} if content is None else content["slide"]
        if outcome.record is not None:
            return bool(noted.get("record") == asdict(outcome.record))
        return (noted.get("status"), noted.get("reason", "")) == (outcome.status, outcome.reason)

    def former_rows(self, files: Collection[str]) -> list[Outcome]:
        """The latest outcomes of slides in other files than these; of slides of this shard alone.

        The last report is read only where no journal of a whole run is left: what it repeats was noted when it was.
        """
        known = self.known if not any(run.ended for run in self.history.runs) else self.history.lines
        names = [name for name in known if name not in files and file_of(name) not in files]
        rows = [self.known[name] for name in names if self.shard is None or self.shard.holds(file_of(name))]
        for row in rows:
            if row.source not in self.history.lines:
                self.note(row)
        return rows

    def note(self, outcome: Outcome) -> None:
        if self._journal is not None:
            self._journal.note(outcome)

    def abandon(self) -> None:
        """End the journal of a run that did nothing: the last report still holds."""
        if self._journal is not None:
            self._journal.end()

    def finish(self, outcomes: list[Outcome], facts: Mapping[str, Any], wanted: list[str]) -> None:
        """Write the report with what runs at the same time have done. `wanted` are the slides this run was to make.

        Whatever cannot be written is said in `trouble`.
        """
        self.unwritten = True
        own = self._journal.name if self._journal is not None else ""
        if self._journal is not None:
            self._journal.end()
            if self._journal.trouble is not None:
                self.trouble = f"the journal is not complete ({self._journal.trouble.strerror})"
        try:
            for _ in range(MOST_ROUNDS):
                beside = self._beside(own)
                rows = {outcome.source: outcome for outcome in outcomes}
                for outcome in beside.outcomes:
                    if better(rows.get(outcome.source), outcome):
                        rows[outcome.source] = outcome
                left = [source for source in wanted if source not in rows]
                self._write(list(rows.values()), {**facts, "not_tried": left})
                self.unwritten = False
                if self._beside_ended(own) <= beside.ended:
                    break
            if self._may_put_together():
                put_together(self.folder, self.is_ours, {*self._past, own})
        except OSError as error:
            self.trouble = f"the report could not be written ({error.strerror})"

    def _may_put_together(self) -> bool:
        """Whether the closed journals may be much: reading them all again to see takes longer than most runs do."""
        closed = [run for run in self.history.runs if run.closed]
        own = self._journal.count if self._journal is not None else 0
        slides = max(len(self.history.lines), own)
        return is_much(len(closed) + 1, sum(run.count for run in closed) + own, slides)

    def _beside(self, own: str) -> Beside:
        """What other runs of the same shard did since this one began."""
        found = Beside()
        history = read_history(self.folder, self.is_same_shard, {*self._past, own})
        found.ended = frozenset(run.name for run in history.runs if run.ended)
        if state_of(self.folder / report_names(self.shard)[0]) not in (self._report_before, self._last_written):
            report = report_or_none(self.folder, self.shard)
            found.outcomes += [] if report is None else report.outcomes
        found.outcomes += [outcome for _, outcome in history.since(0)]
        return found

    def _beside_ended(self, own: str) -> frozenset[str]:
        history = read_history(self.folder, self.is_same_shard, {*self._past, own})
        return frozenset(run.name for run in history.runs if run.ended)

    def _write(self, outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> None:
        write_report(self.folder, outcomes, facts, self.shard)
        self._last_written = state_of(self.folder / report_names(self.shard)[0])


@dataclass
class Beside:
    """What runs at the same time have done."""

    outcomes: list[Outcome] = field(default_factory=list)
    ended: frozenset[str] = frozenset()  # the names of their journals


def better(before: Outcome | None, other: Outcome) -> bool:
    """Whether of two runs at the same time the other one says more of a slide: it worked on it, or made the output.

    A run that leaves a slide out repeats what an earlier one said, which is no news.
    """
    if before is None or before.earlier or other.earlier:
        return before is None or (bool(before.earlier) and not other.earlier)
    return before.status != WRITTEN and other.status == WRITTEN


def reported_outcomes(folder: Path) -> dict[str, Outcome]:
    """What the newest report says of each slide, among those of the whole archive and of all shards."""
    shards: list[Shard | None] = [None, *shards_reported(folder)]
    reports = [report for shard in shards if (report := report_or_none(folder, shard)) is not None]
    found: dict[str, Outcome] = {}
    for report in sorted(reports, key=finished):
        # What a partial run repeats is no newer than what it was taken from.
        found |= {row.source: row for row in report.outcomes if not row.earlier or row.source not in found}
    return found


def read_state(folder: Path, product: str, history: History | None = None) -> Report | None:
    """The reports of all shards with what the journals add; None where there is neither.

    `history` is that of the runs of `product` where it was read before.
    Raises UsageError for a report that cannot be read.
    """
    shards: list[Shard | None] = [None, *shards_reported(folder)]
    reports = [(shard, report) for shard in shards if (report := read_report(folder, shard)) is not None]
    return merge(history or read_history(folder, lambda facts: facts.get("product") == product), reports)


def merge(history: History, reports: Sequence[tuple[Shard | None, Report]]) -> Report | None:
    """Reports and journals as one report.

    Of every slide the newest report counts that covers it: one of the whole archive, or of the slide's shard.
    """
    reports = sorted(reports, key=lambda one: finished(one[1]), reverse=True)
    rows: dict[str, tuple[int, Outcome]] = {}  # by slide, with which report it is of
    left: dict[str, int] = {}
    for place, (shard, report) in enumerate(reports):
        newer = [other for other, _ in reports[:place]]
        if None in newer:
            break
        others = [other for other in newer if other is not None and (shard is None or other.count != shard.count)]
        for outcome in report.outcomes:
            if outcome.source not in rows and not any(other.holds(outcome.source) for other in others):
                rows[outcome.source] = (place, outcome)
        left |= {source: place for source in report.not_tried if not any(other.holds(source) for other in others)}
    for source, (at, _) in history.lines.items():
        place = rows[source][0] if source in rows else covering(source, reports)
        covered = reports[place][1] if place < len(reports) else None
        noted = history.outcome(source) if at >= began(covered) else None
        if noted is None:
            continue
        if at > finished(covered) or better(rows[source][1] if source in rows else None, noted):
            rows[source] = (place, noted)
    newest = reports[0][1] if reports else None
    killed = [run for run in history.runs if run.was_killed and run.last > finished(newest)]
    for run in killed:
        left |= dict.fromkeys(todo_of(run), 0)
    if newest is None and not history.runs:
        return None
    facts = facts_of(killed[-1] if killed else None, newest, history) | shard_facts([shard for shard, _ in reports])
    return Report(facts, [outcome for _, outcome in rows.values()], [source for source in left if source not in rows])


def covering(source: str, reports: Sequence[tuple[Shard | None, Report]]) -> int:
    """The place of the newest report that covers a slide; one past the last where none does."""
    found = (place for place, (shard, _) in enumerate(reports) if shard is None or shard.holds(source))
    return next(found, len(reports))


def facts_of(killed: RunLines | None, newest: Report | None, history: History) -> dict[str, Any]:
    """The facts of the last run: of its journal where it was killed, or is not at its end, else of its report."""
    if killed is None and newest is not None:
        return dict(newest.facts)
    run = killed or history.runs[-1]
    return {name: value for name, value in run.facts.items() if name not in JOURNAL_ONLY} | {"finished": None}


def shard_facts(shards: list[Shard | None]) -> dict[str, Any]:
    """Which shards have reported, and which have not, by their latest number of shards; empty without shards."""
    if not shards or (newest := shards[0]) is None:
        return {}
    there = {shard.number for shard in shards if shard is not None and shard.count == newest.count}
    missing = [str(Shard(number, newest.count)) for number in range(1, newest.count + 1) if number not in there]
    return {"shard": None, "shards": newest.count, "shards_missing": missing}


def todo_of(run: RunLines) -> list[str]:
    todo = run.facts.get("todo")
    return [source for source in todo if isinstance(source, str)] if isinstance(todo, list) else []


def report_or_none(folder: Path, shard: Shard | None) -> Report | None:
    with suppress(UsageError):
        return read_report(folder, shard)
    return None


def began(report: Report | None) -> int:
    """Ns since 1970; 0 where nobody knows."""
    return time_in(report, "started")


def finished(report: Report | None) -> int:
    """Ns since 1970; 0 where nobody knows."""
    return time_in(report, "finished")


def time_in(report: Report | None, name: str) -> int:
    try:
        return 0 if report is None else int(datetime.fromisoformat(report.facts[name]).timestamp() * 1_000_000_000)
    except (KeyError, TypeError, ValueError):
        return 0
