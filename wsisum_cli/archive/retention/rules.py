"""A user's rules: which originals stay although their summaries stand for them.

A rule that cannot be answered for a slide keeps it, and a rule that can hold for no slide is refused: a slip of the
pen must not let a slide go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from wsisum_cli.archive.manifest import Manifest, composed
from wsisum_cli.archive.state.record import FIRST_KNOWN
from wsisum_cli.errors import UsageError
from wsisum_cli.quality.verdict import PASS
from wsisum_cli.slides.source import Source

#: The longest that a unit of time can be, in days, so that a slide is never taken for older than it is.
DAYS = {"d": 1, "w": 7, "m": 31, "y": 366}
MOST_DAYS = 366 * 200
DATE = "date"  # a column of the manifest
#: Of a date, with a time of the day that does not matter.
WRITTEN_DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ][0-9:.,+Zz-]*)?")
BETWEEN_VALUES = re.compile(r"[;,/|\n]")
#: No slide was scanned before; earlier dates stand for none.
FIRST_YEAR = 1990
MOST_VALUES = 10  # that a message names
NO_DATE = "no usable date"

#: The user's own columns for one slide; None where the manifest has no row for it.
About = Mapping[str, str] | None


@dataclass(frozen=True)
class Age:
    """How old a slide must be to go."""

    text: str  # as the user wrote it
    span: timedelta


@dataclass(frozen=True)
class Rules:
    """What keeps an original although its summary stands for it."""

    required: str = PASS
    newer: Age | None = None
    where: Sequence[tuple[str, str]] = ()  # column of the manifest, value
    date: str | None = None  # column of the manifest that holds dates; None where the files' times count

    @property
    def are_any(self) -> bool:
        return self.newer is not None or bool(self.where)

    @property
    def need_row(self) -> bool:
        """Whether a slide must be in the manifest for the rules to be answered."""
        return bool(self.where) or (self.newer is not None and self.date is not None)


def make_rules(required: str, newer: str | None, where: Sequence[str], manifest: Manifest | None) -> Rules:
    """The rules that options ask for. Raises UsageError, also for a rule that can hold for no slide of the manifest."""
    conditions = parse_where(where, manifest or Manifest())
    if newer is None:
        return Rules(required, None, conditions)
    return Rules(required, parse_age(newer), conditions, None if manifest is None else date_column(manifest))


def parse_age(text: str) -> Age:
    """Parse an age such as 90d, 6w, 18m or 2y. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,5})\s*([dwmy])", text.strip().lower())
    if found is None:
        raise UsageError(f"--keep-newer {text}: expected an age such as 90d, 6w, 18m or 2y")
    days = int(found[1]) * DAYS[found[2]]
    if days > MOST_DAYS:
        raise UsageError(f"--keep-newer {text}: expected at most 200 years")
    return Age(found[1] + found[2], timedelta(days=days))


def date_column(manifest: Manifest) -> str:
    """The column of the manifest that holds dates. Raises UsageError unless there is one."""
    if found := column_of(DATE, "--keep-newer", manifest):
        return found
    raise UsageError(
        f"--keep-newer: expected a column date in the manifest, found {named(manifest.columns)}; rename the column "
        "that holds the dates, or add an empty column date to go by the time of each file"
    )


def column_of(wanted: str, option: str, manifest: Manifest) -> str | None:
    """The column of this name, however it is spelt. Raises UsageError where there are two."""
    found = [column for column in manifest.columns if plain(column) == plain(wanted)]
    if len(found) > 1:
        raise UsageError(f"{option}: expected one column {wanted} in the manifest, found {named(found)}; remove one")
    return found[0] if found else None


def parse_where(texts: Sequence[str], manifest: Manifest) -> list[tuple[str, str]]:
    """Parse conditions such as use=teaching. Raises UsageError, also where no row of the manifest has the value."""
    found = []
    for text in texts:
        option, (name, equals, value) = f"--keep-where {text}", text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UsageError(f"{option}: expected COLUMN=VALUE, such as use=teaching")
        column = column_of(name, option, manifest)
        if column is None:
            raise UsageError(f"{option}: expected a column of the manifest, found {named(manifest.columns)}")
        values = dict.fromkeys(entry.about.get(column, "").strip() for entry in manifest.entries.values())
        if not any(has_value(cell, value) for cell in values):
            there = named(list(filter(None, values)))
            raise UsageError(f"{option}: expected a value that a row has in {column}, found {there}")
        found.append((column, value))
    return found


def named(values: Sequence[str]) -> str:
    """The first of some names or values, for a message."""
    more = f" and {len(values) - MOST_VALUES} more" if len(values) > MOST_VALUES else ""
    return ", ".join(f"{value:.60}" for value in values[:MOST_VALUES]) + more or "none"


def plain(text: str) -> str:
    """What two spellings of one value share: case, composed characters and spaces do not matter."""
    return composed(" ".join(composed(text).split()).casefold())


def has_value(cell: str, value: str) -> bool:
    """Whether a cell holds a value, alone or among others."""
    return plain(value) in map(plain, (cell, *BETWEEN_VALUES.split(cell)))


def kept_by_rules(source: Source, abouts: Sequence[About], rules: Rules, today: date) -> Iterator[str]:
    """Why the rules keep a file; `abouts` are of its slides. Raises OSError."""
    for about in abouts:
        if about is None and rules.need_row:
            yield "not in the manifest"
            return
        for column, value in rules.where:
            if has_value((about or {}).get(column, ""), value):
                yield f"{column} is {value}"
        if rules.newer is not None:
            yield from kept_by_date(source, (about or {}).get(rules.date or "", "").strip(), rules.newer, today)


def kept_by_date(source: Source, given: str, newer: Age, today: date) -> Iterator[str]:
    """Why a slide is not known to be old enough. `given`: its date in the manifest; empty where the file's counts."""
    when, wrong = given_date(given) if given else file_date(source)
    if when is None:
        yield f"{NO_DATE}: {wrong}"
    elif when > today:
        yield f"{NO_DATE}: {when} is in the future"
    elif when > today - newer.span:
        yield f"newer than {newer.text}, by {'the date in the manifest' if given else 'the file'}"


def given_date(given: str) -> tuple[date | None, str]:
    """A date that a user gave, or what is wrong with it."""
    found = WRITTEN_DATE.fullmatch(given)
    try:
        when = date.fromisoformat(found[1]) if found else None
    except ValueError:
        when = None
    if when is None:
        return None, f"{given!r:.40} is not a date such as 2024-03-31"
    return (when, "") if when.year >= FIRST_YEAR else (None, f"{when} is before {FIRST_YEAR}")


def file_date(source: Source) -> tuple[date | None, str]:
    """The date on which a slide was last written, or why nobody knows. Raises OSError."""
    if source.modified < FIRST_KNOWN:
        return None, "the time of the file is before 1981, as of files whose time was lost"
    return datetime.fromtimestamp(source.modified / 1e9, UTC).date(), ""
