"""`catalogue.sqlite` beside the summaries: a row for each, so that questions over an archive open none of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli import __version__
from wsisum_cli.archive.inventory import summary_files
from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.state.ledger import read_state
from wsisum_cli.errors import UsageError
from wsisum_cli.pipeline.product import SUMMARIES, summary_figures
from wsisum_cli.slides.source import state_of
from wsisum_cli.summary.container import SUFFIX, writing_aside
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.summary.writer import DISCLAIMER

NAME = "catalogue.sqlite"
SCHEMA = 2  # raised where a column changes its meaning or goes; the file is then built anew
MEAN = "mean of the features"  # a slide embedding that every summary has

#: Column -> its type and constraints. docs/state.md says what each holds.
COLUMNS = {
    "summary": "TEXT PRIMARY KEY",
    "summary_bytes": "INTEGER NOT NULL",
    "summary_modified": "INTEGER NOT NULL",
    "slide": "TEXT",
    "name": "TEXT NOT NULL",
    "image": "INTEGER",
    "sha256": "TEXT NOT NULL",
    "bytes": "INTEGER NOT NULL",
    "files": "INTEGER NOT NULL",
    "vendor": "TEXT",
    "scanner": "TEXT",
    "width": "INTEGER",
    "height": "INTEGER",
    "mpp": "REAL",
    "mpp_source": "TEXT",
    "format_version": "TEXT NOT NULL",
    "wsisum": "TEXT",
    "encoder": "TEXT",
    "encoder_sha256": "TEXT",
    "summarizer_sha256": "TEXT",
    "slide_encoder": "TEXT",
    "slide_encoder_sha256": "TEXT",
    "selector": "TEXT",
    "options": "TEXT",
    "pixels": "TEXT",
    "patches": "INTEGER",
    "tissue_patches": "INTEGER",
    "tissue_mm2": "REAL",
    "represented": "REAL",
    "largest_unrepresented_mm2": "REAL",
    "coverage": "REAL",
    "verdict": "TEXT",
    "reasons": "TEXT",
    "bound": "TEXT",
    "target_reached": "INTEGER",
    "suspect": "INTEGER",
    "artefacts": "INTEGER",
    "broken_tiles": "INTEGER",
    "message": "TEXT",
    "embedding": "BLOB",
    "embedding_dims": "INTEGER",
    "embedding_of": "TEXT",
    "mean_features": "BLOB",
}
FIGURES = (
    *("pixels", "patches", "tissue_patches", "tissue_mm2", "represented", "largest_unrepresented_mm2", "coverage"),
    *("verdict", "bound", "target_reached", "suspect", "artefacts", "broken_tiles", "message"),
)
NAME_SLIDE = "UPDATE slides SET slide = ? WHERE summary = ? AND slide IS NOT ?"
INDEXES = ("sha256", "verdict", "slide")


@dataclass
class Indexed:
    """What became of a catalogue."""

    rows: int = 0
    read: int = 0  # summaries that were opened, as they are new or have changed
    removed: int = 0  # rows of summaries that are gone
    unreadable: dict[str, str] = field(default_factory=dict)  # summary -> why it has no row


def build_catalogue(folder: Path, outcomes: Sequence[Outcome] = ()) -> Indexed:
    """Write the catalogue of a folder, opening only summaries that are not in it as they are now.

    `outcomes` are those of a run that has just ended: the report is read only if they leave a summary without a slide.
    The old file stays until the new one is whole. Raises UsageError for a folder without summaries, OSError.
    """
    files = summary_files(folder)
    path = folder / NAME
    if not files and not path.is_file():
        raise UsageError(f"{folder.name}: expected summaries ({SUFFIX}), found none")
    try:
        with writing_aside(path) as aside:
            start(path, aside)
            with closing(connect(aside)) as database:
                found = update(database, folder, files, outcomes)
                database.commit()
    except sqlite3.Error as error:
        raise UsageError(f"{NAME}: could not be written ({error}); is the disk full?") from error
    return found


def current_rows(folder: Path, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of the summaries that are still as they were when they were indexed, by path within the folder.

    Empty without a catalogue that this version can use.
    """
    path, wanted = folder / NAME, ["summary", "summary_bytes", "summary_modified", *columns]
    if not path.is_file():
        return {}
    try:
        with closing(read_only(path)) as database:
            if not is_usable(database):
                return {}
            rows = [
                dict(zip(wanted, row, strict=True))
                for row in database.execute(f"SELECT {', '.join(wanted)} FROM slides")
            ]
    except sqlite3.Error:
        return {}
    return {
        row["summary"]: row
        for row in rows
        if state_or_none(folder / row["summary"]) == (row["summary_bytes"], row["summary_modified"])
    }


def state_or_none(path: Path) -> tuple[int, int] | None:
    try:
        return state_of(path)[:2]
    except OSError:
        return None


def read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def is_usable(database: sqlite3.Connection) -> bool:
    """Whether a catalogue is of this schema."""
    known = dict(database.execute("SELECT key, value FROM about"))
    columns = [row[1] for row in database.execute("PRAGMA table_info(slides)")]
    return known.get("schema") == str(SCHEMA) and columns == list(COLUMNS)


def start(path: Path, aside: Path) -> None:
    """Begin with the catalogue that is there; with an empty one where that is of another schema, or damaged."""
    if path.is_file():
        try:
            with closing(read_only(path)) as old:
                whole = old.execute("PRAGMA quick_check").fetchone() == ("ok",)
                if whole and is_usable(old):
                    with closing(connect(aside)) as new:
                        old.backup(new)
                    return
        except sqlite3.Error:
            aside.unlink(missing_ok=True)
    with closing(connect(aside)) as new:
        new.execute(f"CREATE TABLE slides ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})")
        new.execute("CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        for column in INDEXES:
            new.execute(f"CREATE INDEX slides_{column} ON slides ({column})")
        new.commit()


def connect(path: Path) -> sqlite3.Connection:
    """A database that only this process knows: it needs no journal, since the file is renamed when it is whole."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = OFF")
    return database


def update(database: sqlite3.Connection, folder: Path, files: list[str], outcomes: Sequence[Outcome]) -> Indexed:
    """Bring the rows up to date with the files."""
    about = {"schema": str(SCHEMA), "wsisum": __version__, "disclaimer": DISCLAIMER}
    database.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())
    known = {row[0]: row[1:] for row in database.execute("SELECT summary, summary_bytes, summary_modified FROM slides")}
    found = Indexed()
    for path in files:
        state, text = state_of(folder / path)[:2], storable(path)
        if known.pop(text, None) == state:
            continue
        found.read += 1
        database.execute("DELETE FROM slides WHERE summary = ?", (text,))
        try:
            with open_summary(folder / path) as summary:
                row = row_of(text, state, summary)
        # One file that somebody made to do harm never costs the catalogue.
        except Exception as error:  # noqa: BLE001
            found.unreadable[path] = str(error) or type(error).__name__
            continue
        places = ", ".join("?" * len(COLUMNS))
        database.execute(f"INSERT INTO slides VALUES ({places})", [row.get(name) for name in COLUMNS])
    database.executemany("DELETE FROM slides WHERE summary = ?", [(path,) for path in known])
    found.removed = len(known)
    database.executemany(NAME_SLIDE, slide_names(outcomes))
    if not outcomes or database.execute("SELECT 1 FROM slides WHERE slide IS NULL LIMIT 1").fetchone():
        report = read_state(folder, SUMMARIES.noun)
        database.executemany(NAME_SLIDE, slide_names(() if report is None else report.outcomes))
    found.rows = database.execute("SELECT count(*) FROM slides").fetchone()[0]
    return found


def slide_names(outcomes: Iterable[Outcome]) -> Iterator[tuple[str, str, str]]:
    """Where a run found the slide of each summary."""
    for outcome in outcomes:
        if outcome.summary:
            source = storable(outcome.source)
            yield source, storable(outcome.summary), source


def storable(path: str) -> str:
    """A path as text that a database takes: file names need not be valid UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def row_of(path: str, state: tuple[int, int], summary: Summary) -> dict[str, Any]:
    """The row of one summary. Raises SummaryError."""
    record = summary.record
    source, verdict = record.source, record.verdict
    embedding, embedding_of = embedding_in(summary)
    figures = summary_figures(record)
    return {
        "summary": path,
        "summary_bytes": state[0],
        "summary_modified": state[1],
        "name": source.name,
        **{name: getattr(source, name) for name in ("image", "sha256", "bytes", "files", "vendor", "scanner")},
        **{name: getattr(source, name) for name in ("width", "height", "mpp", "mpp_source")},
        "format_version": record.format_version,
        "wsisum": record.versions.get("wsisum"),
        "encoder": record.encoder.name,
        "encoder_sha256": record.features_encoder,
        **{f"{name}_sha256": card.sha256 for name, card in record.used_models.items()},
        "selector": record.options.selector,
        "options": json.dumps(record.options.model_dump(exclude_unset=True), sort_keys=True),
        **{name: figures[name] for name in FIGURES},
        "reasons": "; ".join(verdict.reasons) if verdict is not None else None,
        "embedding": np.ascontiguousarray(embedding, "<f4").tobytes(),
        "embedding_dims": len(embedding),
        "embedding_of": embedding_of,
        "slide_encoder": record.slide_encoder.name if record.slide_encoder is not None else None,
        "mean_features": np.ascontiguousarray(summary.embedding, "<f4").tobytes(),
    }


def embedding_in(summary: Summary) -> tuple[np.ndarray, str]:
    """The slide embedding, and what made it: the slide encoder's sha256, or in words."""
    used = summary.record.used_models.get("slide_encoder")
    found = summary.slide_embedding
    if used is not None and found is not None:
        return np.asarray(found).ravel(), used.sha256
    return np.asarray(summary.embedding).ravel(), MEAN
