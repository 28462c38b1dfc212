"""Level 0 of a slide as (H, W, 3), read by other libraries than the package does, to compare its pixels with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pydicom
import tifffile
import wsidicom

#: A reader: a file to its pixels.
Reference = Callable[[Path], np.ndarray]


def by_tifffile(path: Path, index: int = 0, plane: int | None = None) -> np.ndarray:
    """Of a series, and of a focal plane of it; colours alone."""
    with tifffile.TiffFile(path) as tiff:
        pixels = tiff.series[index].levels[0].asarray()
    pixels = pixels if plane is None else pixels[plane]
    return (np.moveaxis(pixels, 0, 2) if pixels.shape[0] == 3 else pixels)[..., :3]


def by_openslide(path: Path) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def by_wsidicom(path: Path, *others: Path) -> np.ndarray:
    """Of a file, or of all files of a series."""
    with wsidicom.WsiDicom.open([path, *others]) as slide:
        size = slide.levels.base_level.size
        return np.asarray(slide.read_region((0, 0), 0, (size.width, size.height)))


def by_pydicom(path: Path) -> np.ndarray:
    """Frames row by row."""
    from pydicom.pixels import iter_pixels

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of UIDs that are too long
        header = pydicom.dcmread(path, stop_before_pixels=True)
        frames = list(iter_pixels(path))
    canvas = np.zeros((header.TotalPixelMatrixRows, header.TotalPixelMatrixColumns, 3), np.uint8)
    side, columns = header.Rows, -(-canvas.shape[1] // header.Columns)
    for index, frame in enumerate(frames):
        y, x = index // columns * side, index % columns * side
        part = canvas[y : y + side, x : x + side]
        part[:] = frame[: part.shape[0], : part.shape[1]]
    return canvas


def by_czi_reader(path: Path) -> np.ndarray:
    from pylibCZIrw import czi

    with czi.open_czi(str(path)) as document:
        return np.asarray(document.read(plane={"C": 0, "Z": 0, "T": 0}))[..., ::-1]
