"""Mean difference of the pixels of every real file to another library's, in grey levels.

`python tests/benchmarks/colours.py` reads windows spread over level 0 of all slides beside the project, or of the files
given, and prints a Markdown table. Exits with 1 where a file differs by `MOST` or more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import zarr

from wsisum_cli.errors import WsisumError
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.dicom.series import is_dicom
from wsisum_cli.slides.patches import Reading, read_patches
from wsisum_cli.slides.pyramid import Pyramid
from wsisum_cli.slides.slide import open_pyramid
from wsisum_cli.slides.source import find_source

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]
from references import by_czi_reader, by_openslide, by_pydicom, by_wsidicom  # noqa: E402

SHARED = Path(__file__).parents[2].parent / "shared"
FOLDERS = ("slides", "fixtures", "problems")
SUFFIXES = {".svs", ".tif", ".tiff", ".ndpi", ".dcm", ".czi"}
HOSTILE = "hostile"  # files that other libraries would not survive
SIDE, WINDOWS = 256, 64
MOST = 2.0  # grey levels

Window = Callable[[int, int, int], np.ndarray]  # x, y and side to (H, W, 3)


@dataclass(frozen=True)
class Row:
    """One file."""

    name: str
    reader: str
    reference: str
    mean: float | None = None  # of all windows; None where nothing was compared
    largest: float | None = None  # of one window

    def __str__(self) -> str:
        figures = "| |" if self.mean is None else f"| {self.mean:.2f} | {self.largest:.2f}"
        return f"| {self.name} | {self.reader} | {self.reference} {figures} |"


def tiff_window(path: Path, plane: int | None) -> Window:
    """By tifffile, which decodes the chunks that a window touches; `plane` is a focal plane, from 1."""
    level = zarr.open_array(tifffile.imread(path, aszarr=True, series=0, level=0), mode="r")
    rows_first = level.shape[-1] in (3, 4)
    before = () if plane is None else (plane - 1,)

    def cut(x: int, y: int, side: int) -> np.ndarray:
        part = (slice(y, y + side), slice(x, x + side))
        if rows_first:
            return np.asarray(level[(*before, *part)])[..., :3]
        return np.moveaxis(np.asarray(level[(*before, slice(None), *part)]), 0, 2)

    return cut


def whole_window(pixels: np.ndarray) -> Window:
    return lambda x, y, side: pixels[y : y + side, x : x + side]


def find_reference(path: Path, plane: int | None) -> tuple[str, Window]:
    """The other library. Raises whatever it does."""
    if path.suffix == ".czi":
        return "pylibCZIrw", whole_window(by_czi_reader(path))
    if not is_dicom(path):
        return "tifffile", tiff_window(path, plane)
    files = find_source(path).files
    for read in (by_wsidicom, *((by_pydicom, by_openslide) if len(files) == 1 else ())):
        try:
            return read.__name__.removeprefix("by_"), whole_window(read(*files))
        except Exception as error:  # noqa: BLE001 - each library has its own; the last one's is raised
            last = error
    raise last


def compare(path: Path, name: str) -> Row:
    try:
        pyramid = open_pyramid(path)
    except WsisumError as error:
        return Row(name, f"not read: {error.reason}", "")
    try:
        reference, window = find_reference(path, pyramid.focal_plane and pyramid.focal_plane[0])
        found = differences(pyramid, window)
        if not found:
            return Row(name, pyramid.reader, "none of its windows can be read")
        return Row(name, pyramid.reader, reference, float(np.mean(found)), float(np.max(found)))
    except Exception as error:  # noqa: BLE001 - other libraries end in whatever they like
        return Row(name, pyramid.reader, f"none: {type(error).__name__}")
    finally:
        pyramid.close()


def differences(pyramid: Pyramid, window: Window) -> list[float]:
    """Of up to `WINDOWS` squares spread over level 0."""
    level = pyramid.levels[0]
    side = min(SIDE, level.width, level.height)
    columns, lines = level.width // side, level.height // side
    chosen = np.unique(np.linspace(0, columns * lines - 1, WINDOWS).round().astype(int))
    coords = np.stack([chosen % columns * side, chosen // columns * side], axis=1)
    reading = Reading(0, 1, 1.0, side, side, level.tile_width, level.tile_height, level.width, level.height)
    return [
        float(np.abs(patch.astype(np.float64) - window(x, y, side)).mean())
        for rows, patches in read_patches(pyramid, coords, reading, Damage())
        for (x, y), patch in zip(coords[rows].tolist(), patches, strict=True)
    ]


def find_files() -> list[Path]:
    files = [path for folder in FOLDERS for path in sorted((SHARED / folder).rglob("*"))]
    slides = [path for path in files if path.suffix in SUFFIXES and HOSTILE not in path.parts]
    return [path for path in slides if find_source(path).path == path]  # of a series, the first file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="slides; all real ones beside the project by default")
    files = parser.parse_args().files or find_files()
    print("| file | reader | reference | mean difference | largest of a window |\n|---|---|---|---|---|")
    worst = 0.0
    for path in files:
        row = compare(path, path.relative_to(SHARED).as_posix() if path.is_relative_to(SHARED) else path.name)
        worst = max(worst, row.mean or 0.0)
        print(row, flush=True)
    return int(worst >= MOST)


if __name__ == "__main__":
    sys.exit(main())
