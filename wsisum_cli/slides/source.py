"""The files that make up one slide on disk, and what identifies them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import TypeVar

from wsisum_cli.errors import ChangedSlideError
from wsisum_cli.slides.dicom.series import find_series, is_dicom

AnyPath = TypeVar("AnyPath", bound=PurePath)

BLOCK = 4 << 20
#: Suffixes of slides that have further files, beside DICOM.
WITH_OTHER_FILES = (".mrxs", ".vms", ".vmu")
MAX_LIST = 1 << 16  # characters of a VMS that are read for the names of its images

FileState = tuple[int, int, int]  # bytes, time of the last change in ns since 1970, inode
GONE: FileState = (-1, -1, -1)  # of a file that is not there, or not to be looked at


@dataclass(frozen=True)
class Source:
    """One slide on disk."""

    path: Path  # the file to open
    files: tuple[Path, ...]  # all of its files, `path` first, the others in order of their paths
    fetched: int | None = field(default=None, compare=False)  # bytes that came over the network; None of a local slide

    @contextmanager
    def staged(self, listen: Callable[[int, int], None] = lambda done, total: None) -> Iterator[Source]:
        """The slide on disk, as long as the block lasts. `listen` hears of bytes that arrive, done and in all.

        A slide on disk is that already.
        """
        del listen
        yield self

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def modified(self) -> int:
        """Time of the last change, ns since 1970."""
        return max(file.stat().st_mtime_ns for file in self.files)

    @property
    def states(self) -> tuple[FileState, ...]:
        """What tells whether a file was written to, or another one put in its place."""
        return tuple(map(state_of, self.files))

    @property
    def version(self) -> str:
        """By what a store tells these bytes from others; empty of a slide on disk, and where a store says nothing."""
        return ""

    @property
    def sha256(self) -> str:
        """Of the file; of all files one after the other where there are several.

        Files that have not changed since they were hashed are not read again.
        """
        states = self.states
        if states not in self._digests:
            self._digests[states] = hash_files(self.files)
        return self._digests[states]

    @property
    def added(self) -> list[Path]:
        """Files on disk that belong to the slide, too."""
        found = find_source(self.path).files
        # A label alone is no file of the slide that it leads to.
        return [path for path in found if path not in self.files] if self.path in found else []

    @cached_property
    def _digests(self) -> dict[tuple[FileState, ...], str]:
        return {}

    @contextmanager
    def unchanged(self, name: str) -> Iterator[Callable[[], None]]:
        """Raise ChangedSlideError at the end of the block, or in place of an error in it, when a file has changed.

        So does a file that has come to belong to the slide, such as a further level of a DICOM series. What is handed
        out does the same in between. `name` is how messages call the slide.
        """
        before = self.states

        def check() -> None:
            changed = [
                f"{path.name} {what_changed(old, new)}"
                for path, old, new in zip(self.files, before, self.states, strict=True)
                if old != new
            ]
            for what in changed or [f"{path.name} was added to it" for path in self.added]:
                raise ChangedSlideError(
                    f"{name}: expected a slide that stays as it is while it is read, but {what}; run again once "
                    "nothing writes to it"
                )

        try:
            yield check
        except Exception:
            check()
            raise
        check()


def watch(path: Path) -> Callable[[], None]:
    """A check that raises ChangedSlideError when a file, such as a mask, is not what it is now."""
    before = state_of(path)

    def check() -> None:
        if (now := state_of(path)) != before:
            raise ChangedSlideError(
                f"{path.name}: expected a file that stays as it is while it is read, but it "
                f"{what_changed(before, now)}; run again once nothing writes to it"
            )

    return check


def state_of(path: Path) -> FileState:
    try:
        found = path.stat()
    except OSError:
        return GONE
    return found.st_size, found.st_mtime_ns, found.st_ino


def what_changed(old: FileState, new: FileState) -> str:
    if new == GONE:
        return "is gone"
    if old[0] != new[0]:
        return f"had {old[0]} bytes and now has {new[0]}"
    return "was replaced" if old[2] != new[2] else "was written to"


def hash_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def find_source(path: Path) -> Source:
    """`path` with what belongs to it: the folder of an MRXS, the images of a VMS, the other levels of a DICOM slide.

    A label of a DICOM slide stands for the slide too, and is no file of it.
    Of a file that cannot be read, the file itself: opening it will say why.
    """
    try:
        if is_dicom(path):
            series = find_series(path)
            return Source(series[0], tuple(series))
        folder = companion(path)
        inside = sorted(p for p in folder.rglob("*") if p.is_file()) if folder else []
        return Source(path, (path, *inside, *named_images(path)))
    except OSError:
        return Source(path, (path,))


def companion(path: Path) -> Path | None:
    """The folder beside an MRXS that holds its pixels, None for other slides and where it is missing."""
    folder = path.with_suffix("")
    # os.path answers False where it may not look; Path.is_dir raises.
    return folder if path.suffix.lower() == ".mrxs" and os.path.isdir(folder) else None


def named_images(path: Path) -> list[Path]:
    """The files beside a VMS or VMU that its text names: they hold its pixels. None for other slides."""
    if path.suffix.lower() not in (".vms", ".vmu"):
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read(MAX_LIST).splitlines()
    named = {line.partition("=")[2].strip() for line in lines} - {path.name}
    return sorted(beside for beside in path.parent.iterdir() if beside.name in named and beside.is_file())


def output_stem(relative: AnyPath) -> AnyPath:
    """What a slide's outputs are called: it without its suffix, of OME-TIFF without both.

    Where DICOM files are called by their UID, its last number is no suffix.
    """
    if relative.suffix[1:].isdigit():
        return relative
    stem = relative.with_suffix("")
    return stem.with_suffix("") if stem.suffix.lower() == ".ome" else stem


def as_text(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 become U+FFFD, because JSON cannot hold them."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def sha256_of(path: Path) -> str:
    return Source(path, (path,)).sha256
