"""The manifest: a CSV with options for single slides."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsisum_cli.errors import UsageError
from wsisum_cli.slides.header import micrometres
from wsisum_cli.slides.slide import PLAUSIBLE_MPP

MAX_NAME = 200  # characters; file systems take 255 bytes
COLUMNS = ("slide", "mpp", "mask", "name", "known")
ANY_FAILURE = "yes"


@dataclass(frozen=True)
class Entry:
    """One row of a manifest."""

    mpp: float | None = None  # µm; wins over what the file states
    mask: Path | None = None
    name: str | None = None
    known: str | None = None  # the reason for which it is known to fail, in lower case; `ANY_FAILURE` for any


@dataclass
class Manifest:
    """Manifest rows, keyed by path within the archive or by file name."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)

    def entry(self, relative: Path) -> Entry:
        for key in (relative.as_posix(), relative.name):
            if key in self.entries:
                self.unused.discard(key)
                return self.entries[key]
        return Entry()


def read_manifest(path: Path) -> Manifest:
    """Read a CSV with these columns; all but slide may be missing or empty.

    Mask paths are relative to the manifest. Raises UsageError.
    """
    entries: dict[str, Entry] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "slide" not in (reader.fieldnames or ()) or set(reader.fieldnames or ()) - set(COLUMNS):
                found = ", ".join(reader.fieldnames or ()) or "none"
                raise UsageError(f"{path.name}: expected the columns {', '.join(COLUMNS)}; found {found}")
            for row in reader:
                slide = (row["slide"] or "").strip()
                if not slide or slide in entries:
                    what = f"{slide} is listed twice" if slide else "the slide column is empty"
                    raise UsageError(f"{path.name}, line {reader.line_num}: {what}")
                entries[slide] = manifest_entry(row, path, reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path.name}: the manifest cannot be read ({error})") from error
    return Manifest(entries, set(entries))


def manifest_entry(row: Mapping[str, str | None], path: Path, line: int) -> Entry:
    values = {key: (value or "").strip() for key, value in row.items() if key}
    mask = path.parent / values["mask"] if values.get("mask") else None
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
    return Entry(mpp, mask, name, values.get("known", "").casefold() or None)
