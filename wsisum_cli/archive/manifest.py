"""The manifest: a CSV with options for single slides."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from wsisum_cli.archive.scope.filters import file_of
from wsisum_cli.errors import UsageError
from wsisum_cli.exports.tables import read_rows
from wsisum_cli.slides.header import micrometres
from wsisum_cli.slides.slide import PLAUSIBLE_MPP

#: The columns that a run uses, and how like one of them a column of another name may be.
COLUMNS = ("slide", "mpp", "mask", "name", "known")
ALIKE = 0.66
MAX_NAME = 200  # characters; file systems take 255 bytes
ANY_FAILURE = "yes"
MOST_SHOWN = 5  # rows that match nothing, in a message


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
    exact: Set[str] = frozenset()  # rows that are spelt as a file is, where `unmatched` has looked

    @cached_property
    def _alike(self) -> Mapping[str, Sequence[str]]:
        """The rows by what another spelling of them may be."""
        found: dict[str, list[str]] = {}
        for key in self.entries:
            found.setdefault(as_path(key), []).append(key)
        return found

    @cached_property
    def _named_slides(self) -> Mapping[str, Sequence[str]]:
        """The rows of slides in files of several, `FILE#N`, by the file."""
        found: dict[str, list[str]] = {}
        for key in self.entries:
            file = file_of(key)
            if file != key:
                found.setdefault(as_path(file), []).append(key)
        return found

    def slides_of_files(self, names: Sequence[str]) -> list[str]:
        """The rows of slides in a file, which may go by any of these paths, or by its name."""
        places = dict.fromkeys(composed(place) for name in names for place in (name, PurePosixPath(name).name))
        return [key for place in places for key in self._named_slides.get(place, ())]

    def names_slides_in(self, relative: Path) -> bool:
        """Whether it has a name for a slide in this file, which may hold several."""
        return any(self.entries[key].name for key in self.slides_of_files([relative.as_posix()]))

    def entry(self, relative: Path) -> Entry:
        return self.row(relative) or NOTHING_SAID

    def row(self, relative: Path) -> Entry | None:
        """The row of a slide, by its path or name; None without one."""
        key = self._key(relative.as_posix())
        return None if key is None else self.entries[self.use(key)]

    def _key(self, path: str) -> str | None:
        """A row that is spelt as the file wins over one that is only alike; where two are alike neither counts."""
        for name in (path, PurePosixPath(path).name) if self.entries else ():
            if name in self.entries:
                return name
            alike = [key for key in self._alike.get(composed(name), ()) if key not in self.exact]
            if len(alike) == 1:
                return alike[0]
        return None

    def use(self, key: str) -> str:
        """Note that a row is of use."""
        self.unused.discard(key)
        return key

    def unmatched(self, names: Sequence[str]) -> dict[str, str]:
        """The rows that mean none of these paths, each with the reason. Rows that are spelt as a file are its alone."""
        there = {place for name in names for place in (name, PurePosixPath(name).name)}
        self.exact = self.entries.keys() & there
        spelt = {composed(place) for place in there}
        closest: dict[str, str] = {}
        for name in names:
            for place in (name, PurePosixPath(name).name):
                closest.setdefault(composed(place).casefold(), name)
        found: dict[str, str] = {}
        for key in self.entries.keys() - self.exact:
            twins = [twin for twin in self._alike[as_path(key)] if twin not in self.exact]
            if as_path(key) not in spelt and (file_of(key) == key or as_path(file_of(key)) not in spelt):
                found[key] = why_unmatched(key, closest)
            elif len(twins) > 1:
                found[key] = "another row is of the same slide"
        return dict(sorted(found.items()))

    def shared(self, names: Sequence[str]) -> dict[str, str]:
        """The rows that mean several of these paths, as they give a name alone, each with the reason."""
        counts: Counter[str] = Counter()
        for name in set(names):
            key = self._key(name)
            counts.update([*([] if key is None else [key]), *self.slides_of_files([name])])
        return {key: f"the name of {counts[key]} files; give the path" for key in sorted(counts) if counts[key] > 1}


def as_path(key: str) -> str:
    """The path that a row means, which other systems write with backslashes, `./` or accents apart."""
    return PurePosixPath(composed(key).replace("\\", "/")).as_posix()


def composed(text: str) -> str:
    """Text with one code for each accented letter: some systems, and some programs, write two."""
    return unicodedata.normalize("NFC", text)


def visible(name: str) -> str:
    """A name in which letters and accents that are apart can be told from composed ones."""
    return "".join(f"\\u{ord(c):04x}" if unicodedata.combining(c) else c for c in name)


def why_unmatched(key: str, closest: Mapping[str, str]) -> str:
    """Why a row matches no file. `closest`: paths of files, by path and by name in lower case."""
    path = as_path(key)
    if PureWindowsPath(key).is_absolute() or PurePosixPath(key).is_absolute():
        return "expected a path within the archive, not an absolute one"
    near = closest.get(path.casefold()) or closest.get(PurePosixPath(path).name.casefold())
    return f"did you mean {visible(near)}?" if near else "no such file"


def refuse_unclear(found: Mapping[str, str]) -> None:
    """Raise UsageError for rows that mean no one slide, so that what they say would be lost or of another.

    `found`: these rows, each with the reason.
    """
    if not found:
        return
    first = [f"{visible(key)} ({why})" for key, why in list(found.items())[:MOST_SHOWN]]
    more = f", and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    raise UsageError(
        f"the manifest: expected rows of slides of the archive, found {len(found)} that match none, or several: "
        f"{', '.join(first)}{more}; correct or remove them: nobody knows for which slides the rules would hold"
    )


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
