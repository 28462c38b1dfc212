"""report.json and report.csv beside the outputs: one row per slide, and the timings that outputs leave out."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.errors import UsageError
from wsisum_cli.summary.container import writing_aside
from wsisum_cli.summary.reader import parse_json

JSON_NAME, CSV_NAME = "report.json", "report.csv"
STAGES = ("fetch", "tissue", "features", "selection", "pixels", "embedding", "draws", "hash", "write")
COLUMNS = (
    *("source", "status", "reason", "message", "summary", "bytes_in", "bytes_out", "ratio", "patches"),
    *("tissue_patches", "coverage", "pixels", "provider", "broken_tiles", "features"),
    *("reconstruction", "embedding_cosine", "verdict", "artefacts", "suspect", "bound"),
    *("target_reached", "represented", "tissue_mm2", "largest_unrepresented_mm2", "bytes_fetched"),
)


def write_report(folder: Path, outcomes: Sequence[Outcome], run: Mapping[str, Any]) -> None:
    """Write both reports. `run` holds facts of the whole run: times, options, versions."""
    rows = [outcome.as_dict() for outcome in sorted(outcomes, key=lambda outcome: outcome.source)]
    counts = Counter(outcome.status for outcome in outcomes)
    totals = {status: counts.get(status, 0) for status in ("written", "skipped", "failed")}
    text = json.dumps({**run, "counts": totals, "slides": rows}, indent=1, ensure_ascii=False)
    replace_file(folder / JSON_NAME, text + "\n")
    replace_file(folder / CSV_NAME, as_csv(rows))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"seconds_{stage}" for stage in STAGES)])
    for row in rows:
        seconds = row["seconds"]
        writer.writerow([*(row[name] for name in COLUMNS), *(seconds.get(stage) for stage in STAGES)])
    return table.getvalue()


def replace_file(path: Path, text: str) -> None:
    # File names need not be valid UTF-8; JSON escapes the invalid bytes and reads them back unchanged.
    with writing_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


@dataclass(frozen=True)
class Report:
    """A report that was read: facts of the run, one outcome per slide, and the slides that were not reached."""

    facts: Mapping[str, Any]
    outcomes: Sequence[Outcome]
    not_tried: Sequence[str]


def read_report(folder: Path) -> Report | None:
    """The report of the last run; None where there is none. Raises UsageError when it cannot be read."""
    try:
        report = parse_json((folder / JSON_NAME).read_bytes())
        rows = [{key: value for key, value in row.items() if key != "ratio"} for row in report.pop("slides")]
        not_tried = TypeAdapter(list[str]).validate_python(report.pop("not_tried", []))
        return Report(report, [Outcome(**row) for row in rows], not_tried)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{JSON_NAME}: expected the report of a run, found something else; run again") from error


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """Outcomes of the last run by source; empty when there is no readable report."""
    try:
        report = read_report(folder)
    except UsageError:
        return {}
    return {} if report is None else {outcome.source: outcome for outcome in report.outcomes}
