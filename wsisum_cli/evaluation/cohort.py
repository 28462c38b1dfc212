"""A CSV of slides, patients and labels -> the cohort that slides are classified in."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from wsisum_cli.errors import UsageError
from wsisum_cli.slides.source import output_stem

#: What the columns are called here, in wsisum's own tables and in CLAM's.
SLIDE, PATIENT = ("slide", "slide_id"), ("patient", "case", "case_id")
LISTED = 5  # names that a message shows


@dataclass(frozen=True)
class Cohort:
    """The S labelled slides, ascending by name.

    `labels` (S,) int64 are places in `classes`, which ascend by name. `unlabelled` counts rows without a label.
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
    """The cohort of a CSV with the columns slide (slide_id) and `column`, and by choice patient (case, case_id).

    `known` are the slides that have features; a file name of a slide serves where its stem is known. `patient_of` says
    whose a slide is where there is no such column; where its cell is empty a slide is a patient of its own. Rows whose
    label is empty are left out. Raises UsageError when the file is missing or no CSV, a column is missing, a slide has
    no features or two rows, or there is one class only.
    """
    rows = _read_rows(path)
    slide, label, patient = _columns(path, rows, column)
    labelled = [row for row in rows if (row[label] or "").strip()]
    names = _match(path, [(row[slide] or "").strip() for row in labelled], known)
    found = {}
    for name, row in zip(names, labelled, strict=True):
        own = patient_of(name) if patient is None else (row[patient] or "").strip() or name
        found[name] = (own, (row[label] or "").strip())
    classes = sorted({text for _, text in found.values()})
    if len(classes) < 2:
        listed = f"only {classes[0]!r}" if classes else "no label"
        raise UsageError(
            f"{path.name}: expected two classes or more in {column!r}, found {listed}; name another --label"
        )
    slides = sorted(found)
    labels = np.array([classes.index(found[name][1]) for name in slides], np.int64)
    patients = tuple(found[name][0] for name in slides)
    return Cohort(tuple(slides), patients, labels, tuple(classes), len(rows) - len(labelled))


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"{path.name}: cannot be read ({error.strerror}); give a CSV of labels") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path.name}: not a CSV file in UTF-8 ({error}); save it as one") from None
    if not rows:
        raise UsageError(f"{path.name}: expected a row for each slide below the names of the columns, found none")
    return rows


def _columns(path: Path, rows: Sequence[Mapping[str, str]], column: str) -> tuple[str, str, str | None]:
    """What the columns of slide, label and patient are called, None where there is none of patients."""
    there = [name for name in rows[0] if name is not None]
    slide = next((name for name in SLIDE if name in there), None)
    if slide is None or column not in there:
        wanted = SLIDE[0] if slide is None else column
        raise UsageError(
            f"{path.name}: expected a column {wanted!r}, found {', '.join(there)}; "
            + ("name it so" if slide is None else "name one of these as --label")
        )
    return slide, column, next((name for name in PATIENT if name in there and name != column), None)


def _match(path: Path, names: Sequence[str], known: Collection[str]) -> list[str]:
    """Each name as it is known. Raises UsageError for those that are not, and for what is named twice."""
    matched = [next((stem for stem in _stems(name) if stem in known), name) for name in names]
    missing = [name for name, as_known in zip(names, matched, strict=True) if as_known not in known]
    if missing:
        raise UsageError(
            f"{path.name}: {len(missing)} of {len(names)} slides have no features ({_listed(missing)}); "
            "make them with `wsisum features`, or take these rows out"
        )
    twice = [name for name, count in Counter(matched).items() if count > 1]
    if twice:
        raise UsageError(f"{path.name}: expected one row for each slide, found more of {_listed(twice)}; leave one")
    return matched


def _stems(name: str) -> list[str]:
    """What features of a slide may be called: as is said, or as its file without one suffix or both."""
    if not name:
        return []
    path = PurePosixPath(name)
    return [name, path.with_suffix("").as_posix(), output_stem(path).as_posix()]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
