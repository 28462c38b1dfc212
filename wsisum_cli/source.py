"""The files that make up one slide on disk, and what identifies them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

BLOCK = 4 << 20


@dataclass(frozen=True)
class Source:
    """One slide on disk."""

    path: Path  # the file to open
    files: tuple[Path, ...]  # all of its files, `path` first, the others in order of their paths

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def modified(self) -> int:
        """Time of the last change, ns since 1970."""
        return max(file.stat().st_mtime_ns for file in self.files)

    @cached_property
    def sha256(self) -> str:
        """Of the file; of all files one after the other where there are several."""
        digest = hashlib.sha256()
        for path in self.files:
            with open(path, "rb", buffering=0) as file:
                while block := file.read(BLOCK):
                    digest.update(block)
        return digest.hexdigest()


def find_source(path: Path, siblings: tuple[Path, ...] = ()) -> Source:
    """`path` with what belongs to it: the folder of an MRXS, the images of a VMS, and `siblings` (a DICOM series).

    Raises OSError.
    """
    folder = companion(path)
    inside = sorted(p for p in folder.rglob("*") if p.is_file()) if folder else []
    return Source(path, (path, *inside, *named_images(path), *siblings))


def companion(path: Path) -> Path | None:
    """The folder beside an MRXS that holds its pixels, None for other slides and where it is missing."""
    folder = path.with_suffix("")
    return folder if path.suffix.lower() == ".mrxs" and folder.is_dir() else None


def named_images(path: Path) -> list[Path]:
    """The files beside a VMS or VMU that its text names: they hold its pixels. None for other slides."""
    if path.suffix.lower() not in (".vms", ".vmu"):
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    named = {line.partition("=")[2].strip() for line in lines} - {path.name}
    return sorted(beside for beside in path.parent.iterdir() if beside.name in named and beside.is_file())


def sha256_of(path: Path) -> str:
    return Source(path, (path,)).sha256
