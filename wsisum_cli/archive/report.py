"""report.json and report.csv beside the outputs: one row per slide, and the timings that outputs leave out."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter

from wsisum_cli.archive.outcome import Outcome, with_shared_words
from wsisum_cli.archive.state.shard import Shard, parse_shard
from wsisum_cli.errors import UsageError
from wsisum_cli.exports import tables
from wsisum_cli.summary.container import writing_aside
from wsisum_cli.summary.limits.metadata import parse_json

JSON_NAME, CSV_NAME = "report.json", "report.csv"
SHARD_NAME = re.compile(r"report\.(\d{1,6})-of-(\d{1,6})\.json")
ENCODER = json.JSONEncoder(ensure_ascii=False)
SLIDES, END = b' "slides": [\n', b" ]\n"  # lines of report.json around the rows
STAGES = ("fetch", "tissue", "features", "selection", "pixels", "embedding", "draws", "hash", "write")
COLUMNS = (
    *("source", "status", "reason", "message", "summary", "bytes_in", "bytes_out", "ratio", "patches"),
    *("tissue_patches", "coverage", "pixels", "provider", "broken_tiles", "features"),
    *("reconstruction", "embedding_cosine", "verdict", "artefacts", "suspect", "bound"),
    *("target_reached", "represented", "tissue_mm2", "largest_unrepresented_mm2", "known", "earlier"),
    *("bytes_fetched", "former"),
)


def write_report(folder: Path, outcomes: Sequence[Outcome], run: Mapping[str, Any], shard: Shard | None = None) -> None:
    """Write both reports. `run` holds facts of the whole run: times, options, versions.

    Rows of earlier runs are listed and not counted.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.source)
    counts = Counter(outcome.status for outcome in outcomes if not outcome.earlier)
    totals = {status: counts.get(status, 0) for status in ("written", "skipped", "failed")}
    named_json, named_csv = report_names(shard)
    replace_file(folder / named_json, as_json(ordered, {**run, "counts": totals}))
    replace_file(folder / named_csv, as_csv(ordered))


def report_names(shard: Shard | None) -> tuple[str, str]:
    """The names of both reports; every shard has its own."""
    if shard is None:
        return JSON_NAME, CSV_NAME
    stem = f"report.{shard.number}-of-{shard.count}"
    return f"{stem}.json", f"{stem}.csv"


def as_json(outcomes: Iterable[Outcome], facts: Mapping[str, Any]) -> Iterator[str]:
    """The report as JSON in pieces, a line for each slide: indented, a large one would be twice the size."""
    head = json.dumps(facts, indent=1, ensure_ascii=False)
    yield head.removesuffix("\n}") + ",\n" + SLIDES.decode().removesuffix("\n")
    separator = "\n  "
    for outcome in outcomes:
        yield separator + ENCODER.encode(outcome.as_dict())
        separator = ",\n  "
    yield f"\n{END.decode()}}}\n"


def as_csv(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """The report as CSV, row by row."""
    rows = (outcome.as_dict() for outcome in outcomes)
    cells = ([*(row[name] for name in COLUMNS), *(row["seconds"].get(stage) for stage in STAGES)] for row in rows)
    head = [*COLUMNS, *(f"seconds_{stage}" for stage in STAGES)]
    return tables.csv_lines(itertools.chain([head], cells))


def replace_file(path: Path, pieces: Iterable[str]) -> None:
    # File names need not be valid UTF-8; JSON escapes the invalid bytes and reads them back unchanged.
    with writing_aside(path) as aside, open(aside, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(pieces)


@dataclass(frozen=True)
class Report:
    """A report that was read: facts of the run, one outcome per slide, and the slides that were not reached."""

    facts: Mapping[str, Any]
    outcomes: Sequence[Outcome]
    not_tried: Sequence[str]


def read_report(folder: Path, shard: Shard | None = None) -> Report | None:
    """The report of the last run; None where there is none. Raises UsageError when it cannot be read."""
    name, _ = report_names(shard)
    try:
        with open(folder / name, "rb") as file:
            facts, outcomes = read_rows(file)
        not_tried = TypeAdapter(list[str]).validate_python(facts.pop("not_tried", []))
        return Report(facts, outcomes, not_tried)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{name}: expected the report of a run, found something else; run again") from error


def read_rows(file: BinaryIO) -> tuple[dict[str, Any], list[Outcome]]:
    """The facts of a report, and its rows, whatever its layout. Raises ValueError and others for what is no report."""
    try:
        return read_lines(file)
    except ValueError:  # it was laid out by somebody else
        file.seek(0)
        facts = parse_json(file.read())
        return facts, [outcome_in(row) for row in facts.pop("slides")]


def read_lines(file: BinaryIO) -> tuple[dict[str, Any], list[Outcome]]:
    """The same of a report as `as_json` lays it out: parsed as a whole, a hundred thousand rows take gigabytes."""
    head = list(until(SLIDES, file))
    outcomes = [outcome_in(parse_json(line.rstrip(b",\n"))) for line in until(END, file)]
    facts = parse_json(b"".join([*head, SLIDES, END, *file]))
    if facts.pop("slides"):
        raise ValueError("expected a line for each slide")
    return facts, outcomes


def until(end: bytes, file: BinaryIO) -> Iterator[bytes]:
    """The lines before one; that one is read as well. Raises ValueError where it does not come."""
    for line in file:
        if line == end:
            return
        yield line
    raise ValueError(f"expected a line {end.decode().strip()}")


def outcome_in(row: dict[str, Any]) -> Outcome:
    row.pop("ratio", None)
    return Outcome(**with_shared_words(row))


def shards_reported(folder: Path) -> list[Shard]:
    """The shards that have a report in a folder."""
    found = (SHARD_NAME.fullmatch(path.name) for path in folder.glob("report.*-of-*.json"))
    return sorted(parse_shard(f"{one[1]}/{one[2]}") for one in found if one is not None)
