"""Tiles to learn from: ZIP files of JPEG tiles, one a slide or one for many, or summary slides; decoded once."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from wsisum_cli.errors import UsageError
from wsisum_cli.slides import jpeg
from wsisum_cli.summary.container import SUFFIX, is_hidden
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.tissue.grid import ROUNDING

SIDE, MPP, TOLERANCE = 256, 0.5, 0.1  # px, µm per px, and what share of that a summary's patches may differ by
JPEGS = (".jpg", ".jpeg")
ZIP = ".zip"


@dataclass(frozen=True)
class Tiles:
    """Tiles of several slides.

    `pixels` (N, 256, 256, 3) uint8 RGB, which may be a memory map; `slide` (N,) int32: the slide that each was
    cut from, an index of `slides`, their names in order.
    """

    pixels: npt.NDArray[np.uint8]
    slide: npt.NDArray[np.int32]
    slides: list[str]


@dataclass(frozen=True, order=True)
class Tile:
    """Where a tile is: of a slide, a member of a ZIP file or a patch of a summary, whose number it is."""

    slide: str
    member: str
    path: Path


def find_tiles(sources: Sequence[Path]) -> list[Tile]:
    """Every tile of ZIP files, summary slides and folders of both, in order of slide and member.

    A ZIP file with folders holds a slide in each; one without, like a summary, is a slide itself, called by its place
    among `sources`. Raises UsageError when there are no tiles, a file is no ZIP file, or a summary has patches of
    another size; SummaryError.
    """
    found: list[Tile] = []
    for path, relative in files_of(sources):
        name = relative.with_suffix("").as_posix()
        found += in_summary(path, name) if path.suffix == SUFFIX else in_zip(path, name)
    if not found:
        names = ", ".join(path.name for path in sources)
        raise UsageError(f"{names}: expected ZIP files of JPEG tiles, or summary slides ({SUFFIX}), found none")
    return sorted(found)


def files_of(sources: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Files that may hold tiles, and where each lies within its source."""
    for source in sources:
        if not source.is_dir():
            yield source, Path(source.name)
            continue
        for path in sorted(source.rglob("*")):
            within = path.relative_to(source)
            if path.suffix in (ZIP, SUFFIX) and path.is_file() and not is_hidden(within):
                yield path, within


def in_zip(path: Path, name: str) -> list[Tile]:
    with readable(path), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    places = [(member, PurePosixPath(member)) for member in members]
    jpegs = [(member, place) for member, place in places if place.suffix.lower() in JPEGS]
    return [Tile("/".join(place.parts[:-1]) or name, member, path) for member, place in jpegs]


def in_summary(path: Path, name: str) -> list[Tile]:
    with open_summary(path) as summary:
        size, mpp = summary.record.patch.patch_size, summary.record.patch.mpp
        if size != SIDE or abs(mpp / MPP - 1) > TOLERANCE + ROUNDING:
            raise UsageError(
                f"{path.name}: expected patches of {SIDE} px at {MPP} µm per px, found {size} px at {mpp:.3g} µm; make "
                "the summary with an encoder that looks at such, as the shipped ones do"
            )
        return [Tile(name, f"{row:06d}", path) for row in range(len(summary.patches))]


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


def decoded(path: Path, members: Sequence[str]) -> Iterator[npt.NDArray[np.uint8]]:
    """Tiles of a file, (H, W, 3) each. Raises UsageError, SummaryError."""
    if path.suffix == SUFFIX:
        with open_summary(path) as summary:
            yield from (summary.patches[int(member)] for member in members)
        return
    with readable(path), zipfile.ZipFile(path) as archive:
        for member in members:
            with readable(path, member):
                tile = jpeg.decode(archive.read(member))
            yield tile


def read_tiles(sources: Sequence[Path]) -> Tiles:
    """Decode all tiles, 5,000 to the GB. Smaller ones are left out, larger ones cut.

    Raises UsageError when none is left, or one is broken; SummaryError.
    """
    found = find_tiles(sources)
    pixels: npt.NDArray[np.uint8] = np.empty((len(found), SIDE, SIDE, 3), np.uint8)
    owner: list[str] = []
    for path, of_path in groupby(found, key=attrgetter("path")):
        tiles = list(of_path)
        for tile, seen in zip(tiles, decoded(path, [tile.member for tile in tiles]), strict=True):
            if min(seen.shape[:2]) >= SIDE:
                pixels[len(owner)] = seen[:SIDE, :SIDE]
                owner.append(tile.slide)
    if not owner:
        raise UsageError(f"{found[0].path.name}: no tile of {SIDE} px or more on each side")
    names, number = np.unique(owner, return_inverse=True)
    return Tiles(pixels[: len(owner)], number.astype(np.int32), names.tolist())
