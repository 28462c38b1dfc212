"""The slides of an archive: what the last run reported of each, what its summary says now, and what needs eyes."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, computed_field

from wsisum_cli.archive.outcome import FAILED, SKIPPED, UP_TO_DATE, WRITTEN, Outcome
from wsisum_cli.archive.report import JSON_NAME, Report
from wsisum_cli.archive.scope.filters import NEEDS_WORK, NOT_THERE
from wsisum_cli.archive.state.ledger import read_state
from wsisum_cli.archive.walk import NO_SLIDES
from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.figures.words import NO_VERDICT, pluralize
from wsisum_cli.pipeline.product import SUMMARIES, summary_figures
from wsisum_cli.quality.verdict import FAIL, PASS, VERDICTS, Thresholds, Verdict, read_thresholds
from wsisum_cli.summary.container import SUFFIX, visible_summaries
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.summary.remarks import remarks
from wsisum_cli.summary.standing import judge_again

NOT_TRIED = "not tried"
#: Whether the file of a summary could be read.
READ, MISSING, UNREADABLE, NONE = "read", "missing", "unreadable", "none"
#: What nobody knows of a summary that cannot be read, whatever the report says.
FIGURES = (
    *("verdict", "represented", "largest_unrepresented_mm2", "tissue_mm2", "coverage", "patches", "tissue_patches"),
    *("bytes_out", "target_reached", "suspect", "artefacts", "broken_tiles"),
)
#: What needs eyes, the most urgent first.
LOST, NOT_MADE, UNFIT, OPEN, DOUBTFUL, NOTED = range(6)

#: Called with the name of a slide and its open summary.
Visit = Callable[[str, Summary], None]


class Attention(BaseModel):
    """Why a person should look at a slide; a lower `urgency` is more urgent."""

    model_config = ConfigDict(frozen=True)

    urgency: int
    words: str


class Entry(BaseModel):
    """One slide of the archive. Figures are of its summary where that can be read, None where nobody knows them."""

    model_config = ConfigDict(frozen=True)

    source: str = Field(description="path of the slide within the archive")
    status: str = Field(pattern="^(written|skipped|failed|not tried)$")
    reason: str = Field(default="", description="why it was skipped or failed")
    message: str = ""
    summary: str = Field(default="", description="path within the folder")
    file: str = Field(default=NONE, description="of the summary: read, missing, unreadable or none")
    verdict: str | None = None
    represented: float | None = None
    largest_unrepresented_mm2: float | None = None
    tissue_mm2: float | None = None
    coverage: float | None = None
    patches: int | None = None
    tissue_patches: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    target_reached: bool | None = None
    suspect: int | None = None
    artefacts: int | None = None
    broken_tiles: int | None = None
    attention: list[Attention] = Field(default_factory=list, description="the most urgent first")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> float | None:
        """Input bytes divided by output bytes."""
        return round(self.bytes_in / self.bytes_out, 2) if self.bytes_in and self.bytes_out else None

    @property
    def urgency(self) -> int | None:
        """Of the most urgent reason to look at the slide; None where there is none."""
        return self.attention[0].urgency if self.attention else None


class Group(BaseModel):
    """The slides that failed, or were skipped, for one reason."""

    model_config = ConfigDict(frozen=True)

    reason: str
    slides: list[str]


class Totals(BaseModel):
    """Sums over the archive. Sizes and tissue are those of slides whose summary could be read."""

    model_config = ConfigDict(frozen=True)

    slides: int
    summaries: int
    statuses: dict[str, int]
    verdicts: dict[str, int]
    attention: int = Field(description="slides that need eyes")
    bytes_in: int
    bytes_out: int
    ratio: float | None
    patches: int
    tissue_patches: int
    tissue_mm2: float
    represented_mm2: float


class Inventory(BaseModel):
    """An archive of summaries."""

    model_config = ConfigDict(frozen=True)

    run: dict[str, Any] | None = Field(description="facts of the last run; None without a report")
    totals: Totals
    failed: list[Group]
    skipped: list[Group]
    slides: list[Entry]

    @property
    def urgent(self) -> list[Entry]:
        """The slides that need eyes, the most urgent first, then those that are represented least."""
        return sorted((entry for entry in self.slides if entry.attention), key=urgency_key)

    @property
    def missing_shards(self) -> list[str]:
        """The shards of the archive, as `3/16`, that no run has reported."""
        return [str(shard) for shard in (self.run or {}).get("shards_missing") or ()]

    @property
    def broken(self) -> list[Entry]:
        """The slides whose summary is missing, unreadable or changed."""
        return [entry for entry in self.slides if entry.urgency == LOST]


def read_inventory(folder: Path, visit: Visit = lambda source, summary: None) -> Inventory:
    """What the report in a folder and the summaries in it say, slides by name.

    Every summary is opened, and its attributes read, but not verified. Raises UsageError when the folder has neither a
    report nor a summary, or when its report cannot be read.
    """
    report, files = read_state(folder, SUMMARIES.noun), summary_files(folder)
    if report is None and not files:
        raise UsageError(f"{folder}: expected the output of a run, found neither {JSON_NAME} nor a summary ({SUFFIX})")
    entries = sorted(entries_of(folder, report, files, visit), key=lambda entry: entry.source)
    return Inventory(
        run=None if report is None else dict(report.facts),
        totals=total(entries),
        failed=group(entry for entry in entries if entry.status == FAILED),
        skipped=group(entry for entry in entries if entry.status == SKIPPED and entry.reason != UP_TO_DATE),
        slides=entries,
    )


def summary_files(folder: Path) -> list[str]:
    """Paths of the summaries within the folder, without temporary files and what was moved aside."""
    return sorted(path.relative_to(folder).as_posix() for path in visible_summaries(folder))


def entries_of(folder: Path, report: Report | None, files: Sequence[str], visit: Visit) -> Iterator[Entry]:
    """The slides of the report, then those whose summary is in no report."""
    outcomes = [] if report is None else list(report.outcomes)
    thresholds = None if report is None else thresholds_of(report)
    listed = {outcome.summary for outcome in outcomes}
    others = named_by_slide(folder, [path for path in files if path not in listed], outcomes)
    for outcome in outcomes:
        other = others.pop(outcome.source, "") if not outcome.summary else ""
        yield entry_of(folder, outcome, other, thresholds, visit)
    for source in [] if report is None else report.not_tried:
        if source not in others:
            yield Entry(
                source=source,
                status=NOT_TRIED,
                attention=[attend(OPEN, "not tried: the run was interrupted or left it out")],
            )
    for source, path in others.items():
        note = attend(NOTED, f"not in {JSON_NAME}: another run made this summary") if report is not None else None
        yield summarized(folder, Entry(source=source, status=WRITTEN, summary=path), None, visit, note)


def named_by_slide(folder: Path, files: Sequence[str], outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Summaries by what to call their slide, each by a name of its own."""
    taken = {outcome.source for outcome in outcomes if outcome.summary}
    found: dict[str, str] = {}
    for path in files:
        source = source_of(folder, path)
        found[path if source in taken or source in found else source] = path
    return found


def thresholds_of(report: Report) -> Thresholds | None:
    """The thresholds by which the run reached its verdicts; None where the report does not say."""
    options = report.facts.get("options")
    given = options.get("thresholds") if isinstance(options, dict) else None
    return read_thresholds([str(text) for text in given]) if isinstance(given, list) else None


def source_of(folder: Path, path: str) -> str:
    """What a run over the archive would call the slide of a summary: its name, in the folder of the summary."""
    try:
        with open_summary(folder / path) as summary:
            source = summary.record.source
    except SummaryError:
        return path.removesuffix(SUFFIX)
    image = f"#{source.image}" if source.image is not None else ""
    return PurePosixPath(path).with_name(source.name + image).as_posix()


def entry_of(folder: Path, outcome: Outcome, other: str, thresholds: Thresholds | None, visit: Visit) -> Entry:
    """The entry of a reported slide. `other` is a summary of the same slide that the report does not name, or empty."""
    known = {name: value for name, value in outcome.values().items() if name in Entry.model_fields}
    if outcome.status not in (WRITTEN, SKIPPED, FAILED):
        raise UsageError(f"{JSON_NAME}: expected a status of a slide, found {outcome.status!r:.40}; run again")
    entry = Entry(**known | {"summary": outcome.summary or other})
    if not entry.summary:
        return with_attention(entry, list(without_summary(outcome)))
    if other:
        before = f"{outcome.status} in the last run ({outcome.reason}); this summary is of an earlier or another run"
        return summarized(folder, entry, None, visit, attend(NOT_MADE, before))
    note = earlier_note(outcome)
    return summarized(folder, entry, thresholds, visit, failure(outcome) if outcome.status == FAILED else note)


def earlier_note(outcome: Outcome) -> Attention | None:
    """What to say of a slide whose row the last run took from an earlier one."""
    if outcome.earlier == NEEDS_WORK:
        return attend(OPEN, "needs work, which the last run left by --limit")
    if outcome.earlier == NOT_THERE:
        return attend(NOTED, "the last run did not find its slide: this is what an earlier run made of it")
    return None


def without_summary(outcome: Outcome) -> Iterator[Attention]:
    """What to say of a reported slide that has no summary; nothing of a file that belongs to another slide."""
    if outcome.status == FAILED:
        yield failure(outcome)
    elif outcome.status == SKIPPED and outcome.reason not in NO_SLIDES:
        yield attend(NOTED, f"skipped: {outcome.reason}; it has no summary")


def failed_words(outcome: Outcome) -> str:
    return "known failure" if outcome.known else "failed"


def failure(outcome: Outcome) -> Attention:
    return attend(NOTED if outcome.known else NOT_MADE, f"{failed_words(outcome)}: {outcome.reason}")


def summarized(
    folder: Path, entry: Entry, thresholds: Thresholds | None, visit: Visit, note: Attention | None
) -> Entry:
    """The entry with the figures of its summary, and with what needs eyes."""
    notes = [note] if note is not None else []
    if not is_inside(folder, entry.summary):
        return with_attention(entry, [*notes, attend(LOST, "its summary is missing")], MISSING)
    try:
        with open_summary(folder / entry.summary) as summary:
            record, whole = summary.record, summary.attributes_are_whole
            size = summary.file.seek(0, os.SEEK_END)
            visit(entry.source, summary)
    except SummaryError as error:
        return with_attention(entry, [*notes, attend(LOST, f"its summary cannot be read: {error}")], UNREADABLE)
    # One file that somebody made to do harm never costs the page of an archive.
    except Exception as error:  # noqa: BLE001
        words = f"its summary cannot be read: {type(error).__name__}; run wsisum verify on it"
        return with_attention(entry, [*notes, attend(LOST, words)], UNREADABLE)
    verdict, reported = judge_again(record, thresholds), entry.verdict
    found = {name: value for name, value in summary_figures(record).items() if name in Entry.model_fields}
    if entry.status == FAILED:
        del found["message"]  # the report says more of why it failed
    found |= {"bytes_in": record.source.bytes, "bytes_out": size, "verdict": verdict and verdict.verdict}
    entry = entry.model_copy(update=found)
    if not whole:
        notes.append(attend(LOST, "the attributes of its summary changed after it was written"))
    if reported is not None and reported != entry.verdict:
        now = entry.verdict or "without a verdict"
        notes.append(attend(OPEN, f"{JSON_NAME} says {reported}, its summary is now {now}"))
    if is_lax(verdict, judge_again(record, Thresholds())):
        notes.append(attend(DOUBTFUL, "its verdict is by thresholds laxer than the defaults"))
    return with_attention(entry, [*notes, *doubts(entry, verdict, remarks(record))], READ)


def is_lax(verdict: Verdict | None, by_default: Verdict | None) -> bool:
    """Whether the default thresholds give a worse verdict."""
    if verdict is None or by_default is None:
        return False
    return VERDICTS.index(by_default.verdict) > VERDICTS.index(verdict.verdict)


def is_inside(folder: Path, path: str) -> bool:
    """Whether a file is there, within the folder."""
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and (folder / path).is_file()


def doubts(entry: Entry, verdict: Verdict | None, said: str) -> Iterator[Attention]:
    """What the summary itself says that needs eyes."""
    if verdict is None:
        yield attend(DOUBTFUL, NO_VERDICT)
    elif verdict.verdict != PASS:
        words = f"{verdict.verdict}: {'; '.join(verdict.reasons)}"
        yield attend(UNFIT if verdict.verdict == FAIL else DOUBTFUL, words)
    if entry.target_reached is False:
        yield attend(NOTED, "the share of tissue asked for is not reached")
    if entry.broken_tiles:
        yield attend(NOTED, pluralize(entry.broken_tiles, "broken tile"))
    if said:
        yield attend(NOTED, said)


def attend(urgency: int, words: str) -> Attention:
    return Attention(urgency=urgency, words=words)


def with_attention(entry: Entry, notes: Iterable[Attention], file: str = NONE) -> Entry:
    """The entry with what needs eyes, the most urgent first."""
    ordered = sorted(notes, key=lambda note: note.urgency)
    unknown = dict.fromkeys(FIGURES) if file in (MISSING, UNREADABLE) else {}
    return entry.model_copy(update={"attention": ordered, "file": file, **unknown})


def urgency_key(entry: Entry) -> tuple[float, float, str]:
    """Orders slides by how soon a person should look at them."""
    urgency = math.inf if entry.urgency is None else entry.urgency
    return (urgency, math.inf if entry.represented is None else entry.represented, entry.source)


def group(entries: Iterable[Entry]) -> list[Group]:
    """Slides by reason, the most frequent first."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        found.setdefault(entry.reason, []).append(entry.source)
    return [Group(reason=reason, slides=found[reason]) for reason in sorted(found, key=lambda key: -len(found[key]))]


def total(entries: Sequence[Entry]) -> Totals:
    """The sums."""
    read = [entry for entry in entries if entry.file == READ]
    bytes_in, bytes_out = (sum(getattr(entry, name) or 0 for entry in read) for name in ("bytes_in", "bytes_out"))
    verdicts = Counter(entry.verdict for entry in read)
    measured = [(entry.tissue_mm2, entry.represented) for entry in read]
    return Totals(
        slides=len(entries),
        summaries=len(read),
        statuses=in_order(Counter(entry.status for entry in entries), (WRITTEN, SKIPPED, FAILED, NOT_TRIED)),
        verdicts={name: verdicts[name] for name in VERDICTS},
        attention=sum(bool(entry.attention) for entry in entries),
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        ratio=round(bytes_in / bytes_out, 2) if bytes_out else None,
        patches=sum(entry.patches or 0 for entry in read),
        tissue_patches=sum(entry.tissue_patches or 0 for entry in read),
        tissue_mm2=round(sum(area for area, share in measured if area and share is not None), 6),
        represented_mm2=round(sum(area * share for area, share in measured if area and share is not None), 6),
    )


def in_order(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    return {name: counts.get(name, 0) for name in names}
