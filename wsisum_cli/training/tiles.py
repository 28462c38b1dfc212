"""Tiles to learn from: ZIP files of JPEG tiles, one a slide or one for many, decoded once."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from wsisum_cli import jpeg
from wsisum_cli.errors import UsageError

SIDE = 256  # px
SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Tiles:
    """Tiles of several slides.

    `pixels` (N, 256, 256, 3) uint8 RGB, which may be a memory map; `slide` (N,) int32: the slide that each was
    cut from, an index of `slides`, their names in order.
    """

    pixels: npt.NDArray[np.uint8]
    slide: npt.NDArray[np.int32]
    slides: list[str]


def find_tiles(sources: Sequence[Path]) -> list[tuple[Path, str, str]]:
    """ZIP file, member and slide of every tile, in order of slide and member.

    A ZIP file with folders holds a slide in each; one without is a slide itself, called by its place among `sources`,
    which are ZIP files and folders of them. Raises UsageError when there are none, or a file is no ZIP file.
    """
    archives: list[tuple[Path, str]] = []
    for source in sources:
        inside = sorted(source.rglob("*.zip")) if source.is_dir() else []
        archives += [(path, path.relative_to(source).with_suffix("").as_posix()) for path in inside]
        archives += [] if source.is_dir() else [(source, source.stem)]
    found = []
    for path, name in archives:
        with readable(path), zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                place = PurePosixPath(member)
                if place.suffix.lower() in SUFFIXES:
                    found.append((path, member, "/".join(place.parts[:-1]) or name))
    if not found:
        raise UsageError(f"{', '.join(path.name for path in sources)}: no ZIP files of JPEG tiles found")
    return sorted(found, key=lambda tile: (tile[2], tile[1]))


@contextmanager
def readable(path: Path, member: str = "") -> Iterator[None]:
    """Whatever damage raises comes out as UsageError that names the file."""
    try:
        yield
    # A ZIP file damaged, cut short, encrypted, or packed in a way that Python does not know; a JPEG that is none.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        if member:
            expected, remedy = f"expected a JPEG tile as {member}", "make the file again, or leave the tile out"
        else:
            expected, remedy = "expected a ZIP file of JPEG tiles", "give one, or take the file out of the folder"
        raise UsageError(f"{path.name}: {expected}, found one that cannot be read ({error}); {remedy}") from error


def read_tiles(sources: Sequence[Path]) -> Tiles:
    """Decode all tiles, 5,000 to the GB. Smaller ones are left out, larger ones cut.

    Raises UsageError when none is left, or one is broken.
    """
    found = find_tiles(sources)
    pixels: npt.NDArray[np.uint8] = np.empty((len(found), SIDE, SIDE, 3), np.uint8)
    owner: list[str] = []
    with ExitStack() as opened:
        archives = {path: opened.enter_context(zipfile.ZipFile(path)) for path in {path for path, _, _ in found}}
        for path, member, slide in found:
            with readable(path, member):
                tile = jpeg.decode(archives[path].read(member))
            if min(tile.shape[:2]) >= SIDE:
                pixels[len(owner)] = tile[:SIDE, :SIDE]
                owner.append(slide)
    if not owner:
        raise UsageError(f"{found[0][0].name}: no tile of {SIDE} px or more on each side")
    names, number = np.unique(owner, return_inverse=True)
    return Tiles(pixels[: len(owner)], number.astype(np.int32), names.tolist())
