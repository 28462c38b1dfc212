"""A retention plan: for each slide of an archive, whether its original may leave fast storage, and why.

The plan is a table for people and their own programs. Nothing here deletes or moves a slide.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path, PurePosixPath

from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.scope.filters import file_of
from wsisum_cli.archive.walk import SourceIndex, relative_name
from wsisum_cli.errors import UsageError
from wsisum_cli.exports.tables import as_csv
from wsisum_cli.quality.verdict import FAIL, PASS, VERDICTS, Thresholds
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
HEADER = ",".join(COLUMNS).encode()
ABOUT = "about this plan"  # the decision in its last row
#: The longest that a unit of time can be, in days, so that a slide is never taken for older than it is.
DAYS = {"d": 1, "w": 7, "m": 31, "y": 366}
MOST_DAYS = 366 * 200
DATE = "date"  # a column of the manifest


@dataclass(frozen=True)
class Rules:
    """What keeps an original although its summary stands for it."""

    required: str = PASS
    newer: timedelta | None = None
    where: Sequence[tuple[str, str]] = ()  # column of the manifest, value


@dataclass(frozen=True)
class Verified:
    """A summary that was compared with its slide: its path, what was found, and its sha256 at that time."""

    path: Path
    result: Verification
    sha256: str


@dataclass(frozen=True)
class SourceFacts:
    """What identifies a slide on disk."""

    bytes: int
    sha256: str
    modified: datetime


@dataclass(frozen=True)
class Row:
    """The plan for one slide."""

    slide: str  # path within the archive
    decision: str
    reason: str
    source: SourceFacts | None = None  # None where it could not be read
    summaries: Sequence[Verification] = ()
    digests: Sequence[str] = ()  # sha256 of the summaries
    about: Mapping[str, str] = field(default_factory=dict)  # the user's own columns


def parse_age(text: str) -> timedelta:
    """Parse an age such as 90d, 6w, 18m or 2y. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,5})\s*([dwmy])", text.strip().lower())
    if found is None:
        raise UsageError(f"--keep-newer {text}: expected an age such as 90d, 6w, 18m or 2y")
    days = int(found[1]) * DAYS[found[2]]
    if days > MOST_DAYS:
        raise UsageError(f"--keep-newer {text}: expected at most 200 years")
    return timedelta(days=days)


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
    index: SourceIndex, results: Sequence[Verified], manifest: Manifest, rules: Rules, today: date
) -> list[Row]:
    """A row for each slide of the archive, by path. `results`: verified with their slides, after `index.find`."""
    found: dict[Path, list[Verified]] = {}
    for one in results:
        for slide in index.copies(one.path):
            found.setdefault(slide, []).append(one)
    rows = [row_of(index, source, found.get(source.path, []), manifest, rules, today) for source in index.sources]
    unread = [Row(o.source, KEEP, f"it could not be looked at: {o.reason}") for o in index.unread]
    return sorted([*rows, *unread], key=lambda row: row.slide)


def row_of(
    index: SourceIndex,
    source: Source,
    found: Sequence[Verified],
    manifest: Manifest,
    rules: Rules,
    today: date,
) -> Row:
    name = relative_name(source.path, index.root)
    abouts = abouts_of(name, manifest)
    summaries = [one.result for one in found]
    decision, reason = judge(index.left_of(source.path), summaries, rules.required)
    about = {column: joined(one.get(column, "") for one in abouts) for column in manifest.columns}
    try:
        if decision == COLD and not is_as_verified(source, summaries):
            decision, reason = KEEP, "it changed while the plan was made; run again"
        if decision != KEEP:
            why = (words for one in abouts for words in kept_by_rules(source, one, rules, today))
            decision, reason = next(((KEEP, words) for words in why), (decision, reason))
        facts = SourceFacts(source.bytes, source.sha256, modified(source))
    except OSError as error:
        return Row(name, KEEP, f"it cannot be read ({error.strerror})", None, summaries, about=about)
    return Row(name, decision, reason, facts, summaries, [one.sha256 for one in found], about)


def abouts_of(name: str, manifest: Manifest) -> list[Mapping[str, str]]:
    """The user's own columns for a file, and for each of its slides where the manifest names these."""
    of_file = (name, PurePosixPath(name).name)
    slides = [key for key in manifest.entries if file_of(key) != key and file_of(key) in of_file]
    return [manifest.entry(Path(name)).about, *(manifest.entry(Path(key)).about for key in slides)]


def joined(values: Iterable[str]) -> str:
    """What the slides of a file have in a column."""
    return "; ".join(dict.fromkeys(value for value in values if value))


def is_as_verified(source: Source, summaries: Sequence[Verification]) -> bool:
    """Whether the slide on disk is the one that the summaries were compared with. Raises OSError."""
    digest = source.sha256  # hashed again if the file has changed
    return all(result.record is not None and result.record.source.sha256 == digest for result in summaries)


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
    return COLD, f"{worst_verdict(summaries)}, intact, and compared with the slide{lenience(summaries)}"


def lenience(summaries: Sequence[Verification]) -> str:
    """A clause on thresholds other than the default ones; empty where these were used."""
    used = [result.thresholds for result in summaries if result.thresholds != Thresholds()]
    if not used:
        return ""
    limits = ", ".join(f"{name} {low:g}/{high:g}" for name, (low, high) in sorted(used[0].limits.items()))
    values = "".join(f", {name} {value:g}" for name, value in sorted(used[0].values.items()))
    return f", by thresholds other than the default: {limits}{values}"


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
    given = next((value for column, value in about.items() if column.strip().casefold() == DATE), "").strip()
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
        "modified": row.source.modified.isoformat(timespec="seconds") if row.source else "",
        "summary": ";".join(result.path for result in row.summaries),
        "summary_sha256": ";".join(row.digests),
        "verdict": worst_verdict(row.summaries),
        "represented": min(shares) if whole else "",
        "largest_unrepresented_mm2": max(largest) if whole else "",
    }


def refuse_other_file(path: Path) -> None:
    """Raise UsageError for a file that is no plan: a slide that was named by mistake must not be replaced."""
    if path.suffix.lower() != ".csv":
        raise UsageError(f"{path.name}: expected the name of a CSV file, ending in .csv")
    try:
        with open(path, "rb") as file:
            found = file.read(len(HEADER))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{path.name}: the plan cannot be written ({error.strerror})") from error
    if found != HEADER:
        raise UsageError(f"{path.name}: expected a plan, or a new file, found another file; choose another name")


def write_plan(path: Path, table: bytes) -> None:
    """Write the plan aside and rename it. Raises UsageError when it cannot be written."""
    try:
        with writing_aside(path) as aside:
            aside.write_bytes(table)
    except OSError as error:
        raise UsageError(f"{path}: the plan cannot be written ({error.strerror})") from error
