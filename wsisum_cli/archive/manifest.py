"""The manifest: a CSV with options for single slides."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from wsisum_cli.errors import UsageError
from wsisum_cli.exports.tables import read_rows
from wsisum_cli.slides.header import micrometres
from wsisum_cli.slides.slide import PLAUSIBLE_MPP

#: The columns that a run uses, and how like one of them a column of another name may be.
COLUMNS = ("slide", "mpp", "mask", "name", "known")
ALIKE = 0.66
MAX_NAME = 200  # characters; file systems take 255 bytes
ANY_FAILURE = "yes"


@dataclass(frozen=True)
class Entry:
    """One row of a manifest."""

    mpp: float | None = None  # µm; wins over what the file states
    mask: Path | None = None
    name: str | None = None
    about: Mapping[str, str] = field(default_factory=dict)  # columns of the user's own, such as case
    known: str | None = None  # the reason for which it is known to fail, in lower case; `ANY_FAILURE` for any


NOTHING_SAID = Entry()


@dataclass
class Manifest:
    """Manifest rows, keyed by path within the archive or by file name."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    columns: Sequence[str] = ()  # of the user's own, in order

    @cached_property
    def files_of_named_slides(self) -> frozenset[str]:
        """The files that hold slides with a name, `FILE#N`, as the rows call them."""
        named = (key.rpartition("#") for key, entry in self.entries.items() if entry.name)
        return frozenset(file for file, _, number in named if number.isdigit())

    def names_slides_in(self, relative: Path) -> bool:
        """Whether it has a name for a slide in this file, which may hold several."""
        return not self.files_of_named_slides.isdisjoint((relative.as_posix(), relative.name))

    def entry(self, relative: Path) -> Entry:
        for key in (relative.as_posix(), relative.name) if self.entries else ():
            if key in self.entries:
                self.unused.discard(key)
                return self.entries[key]
        return NOTHING_SAID


def read_manifest(path: Path) -> Manifest:
    """Read a CSV with these columns; all but slide may be missing or empty.

    Mask paths are relative to the manifest, and absolute in the entries: other machines may read them. Further columns,
    such as case or date, are kept as they are. Raises UsageError, also for a column that looks like a misspelt one.
    """
    entries: dict[str, Entry] = {}
    try:
        rows = read_rows(path)
        _, found = next(rows, (0, []))
        columns = own_columns(path, found)
        for line, cells in rows:
            row = dict(zip(found, cells, strict=False))
            slide = row.get("slide", "").strip()
            if not slide or slide in entries:
                what = f"{slide} is listed twice" if slide else "the slide column is empty"
                raise UsageError(f"{path.name}, line {line}: {what}")
            entries[slide] = manifest_entry(row, path, line, columns)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path.name}: the manifest cannot be read ({error})") from error
    return Manifest(entries, set(entries), columns)


def own_columns(path: Path, found: list[str]) -> list[str]:
    """The columns that are the user's own. Raises UsageError."""
    own = [column for column in found if column not in COLUMNS]
    if COLUMNS[0] not in found or len(set(found)) < len(found) or "" in found:
        named = ", ".join(found)[:MAX_NAME] or "none"
        raise UsageError(f"{path.name}: expected the column slide, and no column twice; found {named}")
    for column in own:
        if meant := get_close_matches(column.strip().lower(), COLUMNS, 1, ALIKE):
            raise UsageError(f"{path.name}: expected a column of your own or {meant[0]}, found {column}; rename it")
    return own


def manifest_entry(row: Mapping[str, str], path: Path, line: int, own: Sequence[str] = ()) -> Entry:
    values = {key: value.strip() for key, value in row.items()}
    mask = path.absolute().parent / values["mask"] if values.get("mask") else None
    if mask is not None and not mask.is_file():
        raise UsageError(f"{path.name}, line {line}: mask {values['mask']} not found")
    name = values.get("name") or None
    if name and (set(name) & set("/\\") or name.startswith(".") or not name.isprintable() or len(name) > MAX_NAME):
        raise UsageError(f"{path.name}, line {line}: the name {name!r} is not a plain file name; choose another")
    mpp = micrometres(values["mpp"], "um") if values.get("mpp") else None
    if values.get("mpp") and mpp is None:
        raise UsageError(f"{path.name}, line {line}: the mpp {values['mpp']!r} is not a number of µm")
    low, high = PLAUSIBLE_MPP
    if mpp is not None and not low <= mpp <= high:
        raise UsageError(f"{path.name}, line {line}: a pixel size of {mpp:g} µm is outside {low:g} to {high:g}")
    about = {column: values.get(column, "") for column in own}
    return Entry(mpp, mask, name, about, values.get("known", "").casefold() or None)
