"""A retention plan: for each slide of an archive, whether its original may leave fast storage, and why.

The plan is a table for people and their own programs. Nothing here deletes or moves a slide.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.walk import SourceIndex, relative_name
from wsisum_cli.errors import UsageError
from wsisum_cli.exports.tables import as_csv
from wsisum_cli.quality.verdict import FAIL, PASS, VERDICTS
from wsisum_cli.slides.source import Source
from wsisum_cli.summary.container import writing_aside
from wsisum_cli.verification.finding import Verification

#: What to do with an original.
DECISIONS = (COLD, REVIEW, KEEP) = ("cold storage", "review", "keep")
DISCLAIMER = (
    "This plan deletes and moves nothing. Whether an original may go is decided by the law, the rules of the archive "
    "and a person. A summary does not replace a slide for diagnosis."
)
COLUMNS = (
    *("slide", "decision", "reason", "bytes", "sha256", "modified", "summary", "summary_sha256", "verdict"),
    *("represented", "largest_unrepresented_mm2"),
)
ABOUT = "about this plan"  # the decision in its last row
#: The longest that a unit of time can be, in days, so that a slide is never taken for older than it is.
DAYS = {"d": 1, "w": 7, "m": 31, "y": 366}
DATE = "date"  # a column of the manifest


@dataclass(frozen=True)
class Rules:
    """What keeps an original although its summary stands for it."""

    required: str = PASS
    newer: timedelta | None = None
    where: Sequence[tuple[str, str]] = ()  # column of the manifest, value


@dataclass(frozen=True)
class Row:
    """The plan for one slide."""

    slide: str  # path within the archive
    decision: str
    reason: str
    source: Source | None = None
    summaries: Sequence[Verification] = ()
    digests: Sequence[str] = ()  # sha256 of the summaries
    about: Mapping[str, str] = field(default_factory=dict)  # the user's own columns


def parse_age(text: str) -> timedelta:
    """Parse an age such as 90d, 6w, 18m or 2y. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,5})\s*([dwmy])", text.strip().lower())
    if found is None:
        raise UsageError(f"--keep-newer {text}: expected an age such as 90d, 6w, 18m or 2y")
    return timedelta(days=int(found[1]) * DAYS[found[2]])


def parse_where(texts: Sequence[str], manifest: Manifest) -> list[tuple[str, str]]:
    """Parse conditions such as use=teaching. Raises UsageError, also where the manifest lacks the column."""
    found = []
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column or not value:
            raise UsageError(f"--keep-where {text}: expected COLUMN=VALUE, such as use=teaching")
        if column not in manifest.columns:
            there = ", ".join(manifest.columns) or "none of your own"
            raise UsageError(f"--keep-where {text}: expected a column of the manifest, which has {there}")
        found.append((column, value))
    return found


def check_columns(manifest: Manifest) -> None:
    """Raises UsageError where a column of the manifest has the name of one of the plan."""
    for column in set(manifest.columns) & set(COLUMNS):
        raise UsageError(
            f"the manifest has a column {column}, and the plan writes a column of that name; rename it in the manifest"
        )


def plan_retention(
    index: SourceIndex, results: Sequence[tuple[Path, Verification]], manifest: Manifest, rules: Rules, today: date
) -> list[Row]:
    """A row for each slide of the archive, by path. `results`: verified with their slides, after `index.find`."""
    found: dict[Path, list[tuple[Path, Verification]]] = {}
    for path, result in results:
        for slide in index.copies(path):
            found.setdefault(slide, []).append((path, result))
    rows = [row_of(index, source, found.get(source.path, []), manifest, rules, today) for source in index.sources]
    unread = [Row(o.source, KEEP, f"it could not be looked at: {o.reason}") for o in index.unread]
    return sorted([*rows, *unread], key=lambda row: row.slide)


def row_of(
    index: SourceIndex,
    source: Source,
    found: Sequence[tuple[Path, Verification]],
    manifest: Manifest,
    rules: Rules,
    today: date,
) -> Row:
    name = relative_name(source.path, index.root)
    about = manifest.entry(Path(name)).about
    summaries = [result for _, result in found]
    decision, reason = judge(index.left_of(source.path), summaries, rules.required)
    if decision != KEEP and (why := next(kept_by_rules(source, about, rules, today), None)) is not None:
        decision, reason = KEEP, why
    return Row(name, decision, reason, source, summaries, [digest_of(path) for path, _ in found], about)


def judge(left: Sequence[str], summaries: Sequence[Verification], required: str) -> tuple[str, str]:
    """The decision and its reason, by the summaries alone. The worst summary decides."""
    if not summaries:
        return KEEP, "no summary"
    if left:
        return KEEP, f"{len(left)} of its slides have no summary: {', '.join(left)}"
    for result in summaries:
        if not result.ok:
            bad = next(finding for finding in result.findings if finding.severity != "info")
            return KEEP, f"{result.path}: {bad.message}"
    below = [result for result in summaries if not result.meets(required)]
    for result in below:
        if result.verdict is None:
            return KEEP, f"{result.path}: no verdict"
        if result.verdict.verdict == FAIL:
            return KEEP, f"FAIL: {'; '.join(result.verdict.reasons)}"
    for result in below:
        return REVIEW, why_below(result)
    return COLD, f"{worst_verdict(summaries)}, intact, and compared with the slide"


def why_below(result: Verification) -> str:
    """Why a verdict that is not FAIL is not enough."""
    assert result.verdict is not None
    if result.by_default is not None and result.verdict.verdict == PASS:
        default = result.by_default
        return f"{default.verdict} by the default thresholds: {'; '.join(default.reasons)}"
    return f"{result.verdict.verdict}: {'; '.join(result.verdict.reasons)}"


def worst_verdict(summaries: Sequence[Verification]) -> str:
    """The worst verdict of the summaries of a file; empty where one has none."""
    found = [result.verdict.verdict if result.verdict else "" for result in summaries]
    return "" if "" in found or not found else max(found, key=VERDICTS.index)


def kept_by_rules(source: Source, about: Mapping[str, str], rules: Rules, today: date) -> Iterator[str]:
    """Why the rules keep a slide whose summary stands for it."""
    for column, value in rules.where:
        if about.get(column, "").strip().casefold() == value.strip().casefold():
            yield f"{column} is {value}"
    if rules.newer is None:
        return
    given = about.get(DATE, "").strip()
    try:
        when = date.fromisoformat(given[:10]) if given else modified(source).date()
    except ValueError:
        yield f"the date {given!r:.40} is not a date such as 2024-03-31"
        return
    if when > today - rules.newer:
        yield f"newer than {rules.newer.days} days, by {'the date in the manifest' if given else 'the file'}"


def modified(source: Source) -> datetime:
    return datetime.fromtimestamp(source.modified / 1e9, UTC)


def totals(rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """How many slides get each decision, and their bytes."""
    found = {decision: [row for row in rows if row.decision == decision] for decision in DECISIONS}
    return {name: (len(some), sum(row.source.bytes for row in some if row.source)) for name, some in found.items()}


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plan_table(rows: Sequence[Row], columns: Sequence[str], today: date) -> bytes:
    """The plan as CSV in UTF-8. Its last row has the sha256 of all bytes before that row."""
    body = [[*cells(row).values(), *(row.about.get(column, "") for column in columns)] for row in rows]
    table = encode([[*COLUMNS, *columns], *body])
    about = {"decision": ABOUT, "reason": DISCLAIMER, "modified": today.isoformat()}
    about["sha256"] = hashlib.sha256(table).hexdigest()
    return table + encode([[*(about.get(column, "") for column in COLUMNS), *("" for _ in columns)]])


def encode(rows: Sequence[Sequence[object]]) -> bytes:
    # File names need not be valid UTF-8.
    return as_csv(rows).encode(errors="backslashreplace")


def cells(row: Row) -> dict[str, object]:
    sections = [result.record.represented if result.record else None for result in row.summaries]
    known = [section for section in sections if section is not None]
    whole = bool(known) and len(known) == len(sections)
    shares = [section.share for section in known]
    largest = [section.regions[0].mm2 if section.regions else 0.0 for section in known]
    return {
        "slide": row.slide,
        "decision": row.decision,
        "reason": row.reason,
        "bytes": row.source.bytes if row.source else "",
        "sha256": row.source.sha256 if row.source else "",
        "modified": modified(row.source).isoformat(timespec="seconds") if row.source else "",
        "summary": ";".join(result.path for result in row.summaries),
        "summary_sha256": ";".join(row.digests),
        "verdict": worst_verdict(row.summaries),
        "represented": min(shares) if whole else "",
        "largest_unrepresented_mm2": max(largest) if whole else "",
    }


def write_plan(path: Path, table: bytes) -> None:
    """Write the plan aside and rename it. Raises UsageError when it cannot be written."""
    try:
        with writing_aside(path) as aside:
            aside.write_bytes(table)
    except OSError as error:
        raise UsageError(f"{path}: the plan cannot be written ({error.strerror})") from error
