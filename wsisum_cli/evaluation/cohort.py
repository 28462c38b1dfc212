"""Read the cohort from a CSV of slides, patients and labels."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from wsisum_cli.errors import UsageError
from wsisum_cli.exports.tables import read_rows
from wsisum_cli.slides.source import output_stem

#: Column names here, in wsisum's own tables, and in CLAM's.
SLIDE, PATIENT = ("slide", "slide_id"), ("patient", "case", "case_id")
LISTED = 5  # names listed in a message


@dataclass(frozen=True)
class Cohort:
    """The S labelled slides, ascending by name.

    `labels` (S,) int64 are indices into `classes`, which ascend by name. `unlabelled` counts rows without a label.
    """

    slides: tuple[str, ...]
    patients: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    unlabelled: int = 0


def read_labels(
    path: Path,
    known: Collection[str],
    column: str = "label",
    patient_of: Callable[[str], str] = lambda slide: slide,
) -> Cohort:
    """Read a CSV with the columns slide (slide_id) and `column`, and optionally patient (case, case_id).

    `known` are the slides with features; a slide's file name matches by its stem. `patient_of` gives the patient if
    there is no such column; a slide with an empty cell is its own patient. Rows with an empty label are skipped. Raises
    UsageError when the file is missing or not CSV, a column is missing, a slide has no features or two rows, or there
    is only one class.
    """
    names_of_columns, rows = _read_rows(path)
    slide, label, patient = _columns(path, names_of_columns, column)
    labelled = [row for row in rows if row.get(label, "").strip()]
    names = _match(path, [row.get(slide, "").strip() for row in labelled], known)
    found = {}
    for name, row in zip(names, labelled, strict=True):
        own = patient_of(name) if patient is None else row.get(patient, "").strip() or name
        found[name] = (own, row[label].strip())
    classes = sorted({text for _, text in found.values()})
    if len(classes) < 2:
        listed = f"only {classes[0]!r}" if classes else "no label"
        raise UsageError(
            f"{path.name}: expected at least two classes in {column!r}, found {listed}; use another --label"
        )
    slides = sorted(found)
    labels = np.array([classes.index(found[name][1]) for name in slides], np.int64)
    patients = tuple(found[name][0] for name in slides)
    return Cohort(tuple(slides), patients, labels, tuple(classes), len(rows) - len(labelled))


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The names of the columns, and the rows by them; short rows lack some."""
    try:
        columns, *found = [cells for _, cells in read_rows(path)] or [[]]
    except OSError as error:
        raise UsageError(f"{path.name}: cannot be read ({error.strerror}); give a CSV of labels") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path.name}: not a CSV file in UTF-8 ({error}); save it as one") from None
    if not found:
        raise UsageError(f"{path.name}: expected a header and a row for each slide, found no rows")
    return columns, [dict(zip(columns, cells, strict=False)) for cells in found]


def _columns(path: Path, there: Sequence[str], column: str) -> tuple[str, str, str | None]:
    """Names of the slide, label and patient columns; the last is None if there is no patient column."""
    slide = next((name for name in SLIDE if name in there), None)
    if slide is None or column not in there:
        wanted = SLIDE[0] if slide is None else column
        raise UsageError(
            f"{path.name}: expected a column {wanted!r}, found {', '.join(there)}; "
            + ("rename it" if slide is None else "use one of these as --label")
        )
    return slide, column, next((name for name in PATIENT if name in there and name != column), None)


def _match(path: Path, names: Sequence[str], known: Collection[str]) -> list[str]:
    """Match names to known slides. Raises UsageError for unknown and duplicate names."""
    matched = [next((stem for stem in _stems(name) if stem in known), name) for name in names]
    missing = [name for name, as_known in zip(names, matched, strict=True) if as_known not in known]
    if missing:
        raise UsageError(
            f"{path.name}: {len(missing)} of {len(names)} slides have no features ({_listed(missing)}); "
            "make them with `wsisum features`, or remove these rows"
        )
    twice = [name for name, count in Counter(matched).items() if count > 1]
    if twice:
        raise UsageError(f"{path.name}: expected one row for each slide, found several for {_listed(twice)}; keep one")
    return matched


def _stems(name: str) -> list[str]:
    """Possible names of a slide's features: the given name, or the file name without one or both suffixes."""
    if not name:
        return []
    path = PurePosixPath(name)
    return [name, path.with_suffix("").as_posix(), output_stem(path).as_posix()]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
