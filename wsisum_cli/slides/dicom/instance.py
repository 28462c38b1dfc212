"""One DICOM file of a slide: a level, or some frames of one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsisum_cli.slides.dicom.elements import (
    RAW,
    SYNTAXES,
    DamageError,
    HeaderFile,
    check_syntax,
    first_item,
    numbers,
    parsing,
    read_elements,
    read_meta,
    skip_or_read_items,
)
from wsisum_cli.slides.dicom.frames import PIXEL_DATA, FrameFile, find_frames, fragments
from wsisum_cli.slides.header import clean_model, positive
from wsisum_cli.slides.pyramid import MAX_TILE_PIXELS

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_SIDE = 1 << 20  # px of a level
MAX_TILES = 1 << 22  # of a level; a slide of 200,000 px a side has 700,000 tiles of 240 px

MIN_SPARSE = 100  # bytes at least that a file has for each frame whose place it tells
PER_FRAME = 0x52009230  # the tag of PerFrameFunctionalGroupsSequence
ELEMENTS = (
    *("SOPClassUID", "SOPInstanceUID", "ManufacturerModelName", "NumberOfFrames", "Rows", "Columns"),
    *("TotalPixelMatrixColumns", "TotalPixelMatrixRows", "ImagedVolumeWidth", "ImagedVolumeHeight"),
    *("TotalPixelMatrixOriginSequence", "ImageOrientationSlide", "PixelSpacing", "DimensionOrganizationType"),
    *("ConcatenationUID", "ConcatenationFrameOffsetNumber", "InConcatenationTotalNumber", "OpticalPathSequence"),
    *("SharedFunctionalGroupsSequence", "PhotometricInterpretation"),
    *("SamplesPerPixel", "BitsAllocated", "BitsStored", "PlanarConfiguration"),
)
OFFSETS = ("ExtendedOffsetTable",)
PLACES = ("ColumnPositionInTotalImagePixelMatrix", "RowPositionInTotalImagePixelMatrix")

Pair = tuple[float, float]


@dataclass(frozen=True)
class Matrix:
    """A level's px and how tiles divide them."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    frames: int  # in this file

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        return -(-self.width // self.tile_width), -(-self.height // self.tile_height)


@dataclass(frozen=True)
class Area:
    """What of the glass the px show."""

    spacing: Pair | None  # mm per px in x and y
    extent: Pair | None  # mm that the header says were imaged in x and y
    orientation: tuple[float, ...] | None
    origin: tuple[float, ...] | None  # mm


@dataclass(frozen=True)
class Colour:
    """What the values of a px are."""

    samples: int
    bits: tuple[int, int]  # allocated, and stored
    photometric: str
    planar: bool  # colour planes one after the other
    optical_paths: int
    icc_profile: bytes | None


@dataclass(frozen=True)
class Instance:
    """An open file."""

    name: str
    uid: str
    model: str | None  # of the scanner
    codec: str
    matrix: Matrix
    area: Area
    colour: Colour
    concatenation: tuple[str, int, int]  # what it is a share of, its first frame, how many shares there are
    file: FrameFile
    spans: np.ndarray  # (frames, 2) where each begins, and where it ends at the latest
    positions: np.ndarray | None  # (frames, 3) left and upper px, z in µm; None where frames fill the grid in order

    def frame(self, index: int) -> bytes:
        """As it is stored. Raises ValueError."""
        start, end = self.spans[index].tolist()
        if self.codec == RAW:
            return self.file.read(start, end - start)
        limit = 8 * self.matrix.tile_width * self.matrix.tile_height + (1 << 20)
        return b"".join(fragments(self.file, start, end, limit))


def open_instance(path: Path, opened: ExitStack) -> Instance:
    """The file stays open until `opened` closes. Raises SlideError."""
    with parsing(path):
        file = opened.enter_context(path.open("rb"))
        store = FrameFile(file)
        meta, head = read_meta(file)
        codec = SYNTAXES[check_syntax(path, meta)]
        dataset = read_elements(head, meta, ELEMENTS, PER_FRAME - 1)
        matrix = read_matrix(dataset, store.size)
        positions, spacing = read_positions(head, meta, dataset, matrix.frames, store.size)
        tables = read_elements(head, meta, OFFSETS, PIXEL_DATA - 1)
        dataset.update(tables)
        return Instance(
            name=path.name,
            uid=str(dataset.get("SOPInstanceUID", "")),
            model=clean_model(str(dataset.get("ManufacturerModelName", ""))),
            codec=codec,
            matrix=matrix,
            area=read_area(dataset, spacing),
            colour=read_colour(dataset),
            concatenation=(
                str(dataset.get("ConcatenationUID", "")),
                int(dataset.get("ConcatenationFrameOffsetNumber") or 0),
                int(dataset.get("InConcatenationTotalNumber") or 0),
            ),
            file=store,
            spans=find_frames(store, dataset, head, meta, matrix.frames),
            positions=positions,
        )


def read_matrix(dataset: Dataset, size: int) -> Matrix:
    """Raises DamageError for sizes that no slide has: what follows allocates by them."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    width = int(dataset.get("TotalPixelMatrixColumns") or (columns if frames == 1 else 0))
    height = int(dataset.get("TotalPixelMatrixRows") or (rows if frames == 1 else 0))
    matrix = Matrix(width, height, columns, rows, frames)
    sides = min(columns, rows, width, height) > 0 and max(width, height) <= MAX_SIDE
    if not sides or columns * rows > MAX_TILE_PIXELS or np.prod(matrix.grid) > MAX_TILES or not 0 < frames <= size:
        raise DamageError(f"it claims {width} x {height} px in {frames} frames of {columns} x {rows} px")
    return matrix


def read_area(dataset: Dataset, per_frame: tuple[float, ...] | None) -> Area:
    """`per_frame` is the PixelSpacing of the first frame where the header gives one for each."""
    measures = first_item(dataset, "SharedFunctionalGroupsSequence", "PixelMeasuresSequence")
    spacing = numbers(measures, "PixelSpacing") or per_frame or numbers(dataset, "PixelSpacing")
    extent = numbers(dataset, "ImagedVolumeWidth", "ImagedVolumeHeight")
    corner = first_item(dataset, "TotalPixelMatrixOriginSequence")
    return Area(
        # The distance between rows, which is y, comes first.
        spacing=positive((spacing[1], spacing[0])) if spacing and len(spacing) == 2 else None,
        extent=positive((extent[0], extent[1])) if extent and len(extent) == 2 else None,
        orientation=numbers(dataset, "ImageOrientationSlide"),
        origin=numbers(corner, "XOffsetInSlideCoordinateSystem", "YOffsetInSlideCoordinateSystem"),
    )


def read_colour(dataset: Dataset) -> Colour:
    optics = dataset.get("OpticalPathSequence") or []
    return Colour(
        samples=int(dataset.SamplesPerPixel),
        bits=(int(dataset.BitsAllocated), int(dataset.BitsStored)),
        photometric=str(dataset.PhotometricInterpretation),
        planar=int(dataset.get("PlanarConfiguration") or 0) == 1,
        optical_paths=len(optics),
        icc_profile=bytes(optics[0].get("ICCProfile") or b"") or None if optics else None,
    )


def read_positions(
    head: HeaderFile, meta: Dataset, dataset: Dataset, frames: int, size: int
) -> tuple[np.ndarray | None, tuple[float, ...] | None]:
    """(frames, 3) left and upper px counted from 0, and z in µm; and the first frame's PixelSpacing.

    None where frames fill the grid in order. Raises DamageError.
    """
    wanted = str(dataset.get("DimensionOrganizationType", "")) != "TILED_FULL"
    head.allow(min(frames, size // MIN_SPARSE))
    positions: list[tuple[float, ...]] = []
    spacing: tuple[float, ...] | None = None
    for item in skip_or_read_items(head, meta, PER_FRAME, wanted):
        if len(positions) == frames:
            raise DamageError(f"it places more than its {frames} frames")
        if wanted:
            plane = first_item(item, "PlanePositionSlideSequence")
            z = numbers(plane, "ZOffsetInSlideCoordinateSystem") or (0.0,)
            positions.append((*(numbers(plane, *PLACES) or (0.0, 0.0)), *z))  # counted from 1: 0 lies off the grid
            spacing = spacing or numbers(first_item(item, "PixelMeasuresSequence"), "PixelSpacing")
    return (np.array(positions, np.float64) - (1, 1, 0) if positions else None), spacing
