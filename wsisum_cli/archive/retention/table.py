"""The file that holds a plan: a CSV that carries its own checksum, and never replaces another file."""

from __future__ import annotations

import csv
import hashlib
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.retention.plan import Row, worst_verdict
from wsisum_cli.archive.retention.standing import COLD
from wsisum_cli.errors import UsageError
from wsisum_cli.exports.tables import as_csv, read_rows
from wsisum_cli.summary.container import writing_aside

DISCLAIMER = (
    "This plan deletes and moves nothing. Whether an original may go is decided by the law, the rules of the archive "
    "and a person. A summary does not replace a slide for diagnosis."
)
COLUMNS = (
    *("slide", "decision", "reason", "files", "bytes", "sha256", "modified", "summary", "summary_sha256", "verdict"),
    *("represented", "largest_unrepresented_mm2"),
)
BEGINNING = b"slide,decision,reason,"  # of every plan, also of those before `files` was a column
ABOUT = "about this plan"  # the decision in its last two rows
SEPARATOR, ESCAPE = ";", "\\"  # between the summaries of one slide


def check_columns(manifest: Manifest) -> None:
    """Raises UsageError where a column of the manifest has the name of one of the plan."""
    for column in set(manifest.columns) & set(COLUMNS):
        raise UsageError(
            f"the manifest has a column {column}, and the plan writes a column of that name; rename it in the manifest"
        )


def plan_table(rows: Sequence[Row], columns: Sequence[str], today: date, made: str = "") -> bytes:
    """The plan as CSV in UTF-8. Its last row has the sha256 of all bytes before that row, the one above it `made`.

    `made` says how the plan was made: rules, thresholds, versions. `columns` are the user's own.
    """
    body = [[*cells(row).values(), *(row.about.get(column, "") for column in columns)] for row in rows]
    table = encode([[*COLUMNS, *columns], *body, about_row({"reason": made}, columns)])
    about = {"reason": DISCLAIMER, "modified": today.isoformat(), "sha256": hashlib.sha256(table).hexdigest()}
    return table + encode([about_row(about, columns)])


def about_row(values: dict[str, str], columns: Sequence[str]) -> list[str]:
    values = {"decision": ABOUT} | values
    return [*(values.get(column, "") for column in COLUMNS), *("" for _ in columns)]


def encode(rows: Sequence[Sequence[object]]) -> bytes:
    # File names need not be valid UTF-8.
    return as_csv(rows).encode(errors="backslashreplace")


def cells(row: Row) -> dict[str, object]:
    shares = [one.represented for one in row.summaries if one.represented is not None]
    largest = [one.largest_mm2 for one in row.summaries if one.largest_mm2 is not None]
    whole = bool(row.summaries) and len(shares) == len(row.summaries)
    facts = row.source
    return {
        "slide": row.slide,
        "decision": row.decision,
        "reason": row.reason,
        "files": facts.files if facts else "",
        "bytes": facts.bytes if facts else "",
        "sha256": facts.sha256 if facts else "",
        "modified": facts.modified.isoformat(timespec="seconds") if facts else "",
        "summary": SEPARATOR.join(escaped(one.summary) for one in row.summaries),
        "summary_sha256": SEPARATOR.join(one.sha256 for one in row.summaries),
        "verdict": worst_verdict(row.summaries),
        "represented": min(shares) if whole else "",
        "largest_unrepresented_mm2": max(largest) if whole else "",
    }


def escaped(name: str) -> str:
    """A name with a backslash before each separator and backslash that it holds."""
    return name.replace(ESCAPE, ESCAPE * 2).replace(SEPARATOR, ESCAPE + SEPARATOR)


def refuse_other_file(path: Path) -> None:
    """Raise UsageError for a file that must not be replaced: one that is no plan, or a plan that somebody edited."""
    if path.suffix.lower() != ".csv":
        raise UsageError(f"{path.name}: expected the name of a CSV file, ending in .csv")
    try:
        with open(path, "rb") as file:
            found = file.read(len(BEGINNING))
            if found == BEGINNING:
                found += file.read()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{path.name}: the plan cannot be written ({error.strerror})") from error
    if not found.startswith(BEGINNING):
        raise UsageError(f"{path.name}: expected a plan, or a new file, found another file; choose another name")
    if not is_as_written(found):
        raise UsageError(
            f"{path.name}: expected a plan as it was written, found one that was edited since (its checksum does not "
            "hold); move it away, or choose another name"
        )


def is_as_written(table: bytes) -> bool:
    """Whether the checksum of a plan holds."""
    start = table.rstrip(b"\n").rfind(b"\n") + 1
    digest = hashlib.sha256(table[:start]).hexdigest()
    return f",{ABOUT},".encode() in table[start:] and f",{digest},".encode() in table[start:]


def released(path: Path) -> dict[str, str]:
    """The slides that a plan sends to cold storage: their paths in the archive by sha256.

    Raises UsageError for a file that is no plan, or a plan that was edited.
    """
    try:
        table = path.read_bytes()
        rows = list(read_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path.name}: the plan cannot be read ({error})") from error
    if not table.startswith(BEGINNING) or not is_as_written(table):
        raise UsageError(
            f"{path.name}: expected a plan of wsisum verify --plan, found another file, or a plan that was edited since"
        )
    names = rows[0][1]
    found = (dict(zip(names, cells, strict=False)) for _, cells in rows[1:])
    return {row["sha256"]: row["slide"] for row in found if row["decision"] == COLD and row["sha256"]}


def check_place(path: Path) -> None:
    """Raise UsageError where a plan cannot be written, before hours are spent on it."""
    refuse_other_file(path)
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise UsageError(f"{path}: the plan cannot be written ({error.strerror})") from error


def write_plan(path: Path, table: bytes) -> None:
    """Write the plan aside and rename it. Raises UsageError when it cannot be written."""
    refuse_other_file(path)  # somebody may have put one there meanwhile
    try:
        with writing_aside(path) as aside:
            aside.write_bytes(table)
    except OSError as error:
        raise UsageError(f"{path}: the plan cannot be written ({error.strerror})") from error
