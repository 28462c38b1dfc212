"""One DICOM file of a slide: a level, or some frames of one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsisum_cli.errors import SlideError
from wsisum_cli.slides.dicom.elements import (
    RAW,
    SYNTAXES,
    check_syntax,
    first_item,
    numbers,
    parsing,
    read_elements,
    read_meta,
)
from wsisum_cli.slides.dicom.frames import PIXEL_DATA, FrameFile, find_frames, fragments
from wsisum_cli.slides.header import clean_model, positive
from wsisum_cli.slides.pyramid import MAX_TILE_PIXELS

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_SIDE = 1 << 20  # px of a level
MAX_TILES = 1 << 22  # of a level; a slide of 200,000 px a side has 700,000 tiles of 240 px

MATRIX = (
    *("SOPClassUID", "SOPInstanceUID", "ManufacturerModelName", "NumberOfFrames", "Rows", "Columns"),
    *("TotalPixelMatrixColumns", "TotalPixelMatrixRows", "ImagedVolumeWidth", "ImagedVolumeHeight"),
    *("TotalPixelMatrixOriginSequence", "ImageOrientationSlide", "PixelSpacing", "DimensionOrganizationType"),
    *("ConcatenationUID", "ConcatenationFrameOffsetNumber", "InConcatenationTotalNumber", "OpticalPathSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PhotometricInterpretation"),
    *("SamplesPerPixel", "BitsAllocated", "BitsStored", "PlanarConfiguration"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)

Pair = tuple[float, float]


@dataclass(frozen=True)
class Instance:
    """One open file of a slide: a level, or some frames of one."""

    name: str
    uid: str
    codec: str
    file: FrameFile
    spans: np.ndarray  # (frames, 2) where each begins, and where it ends at the latest
    positions: np.ndarray | None  # (frames, 3) left and upper px, z in µm; None where frames fill the grid in order
    width: int
    height: int
    tile_width: int
    tile_height: int
    colour: tuple[int, int, int]  # samples, bits allocated and stored
    photometric: str
    planar: bool  # colour planes one after the other
    spacing: Pair | None  # mm per px in x and y
    extent: Pair | None  # mm that the header says were imaged in x and y
    orientation: tuple[float, ...] | None
    origin: tuple[float, ...] | None  # mm
    optical_paths: int
    concatenation: tuple[str, int, int]  # what it is a share of, its first frame, how many shares there are
    model: str | None
    icc_profile: bytes | None

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        return -(-self.width // self.tile_width), -(-self.height // self.tile_height)

    def frame(self, index: int) -> bytes:
        """As it is stored. Raises ValueError."""
        start, end = self.spans[index].tolist()
        if self.codec == RAW:
            return self.file.read(start, end - start)
        return b"".join(fragments(self.file, start, end, 8 * self.tile_width * self.tile_height + (1 << 20)))


def open_instance(path: Path, opened: ExitStack) -> Instance:
    """The file stays open until `opened` closes. Raises SlideError."""
    with parsing(path):
        file = opened.enter_context(path.open("rb"))
        meta, head = read_meta(file)
        codec = SYNTAXES[check_syntax(path, meta)]
        dataset = read_elements(head, meta, MATRIX, PIXEL_DATA - 1)
        frames = int(dataset.get("NumberOfFrames") or 1)
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        width = int(dataset.get("TotalPixelMatrixColumns") or (columns if frames == 1 else 0))
        height = int(dataset.get("TotalPixelMatrixRows") or (rows if frames == 1 else 0))
        store = FrameFile(file)
        check_size(path, (width, height), (columns, rows), frames, store.size)
        organized = str(dataset.get("DimensionOrganizationType", ""))
        in_order = organized == "TILED_FULL" or not dataset.get("PerFrameFunctionalGroupsSequence")
        measures = first_item(dataset, "SharedFunctionalGroupsSequence", "PixelMeasuresSequence")
        if measures is None and not in_order:
            measures = first_item(dataset, "PerFrameFunctionalGroupsSequence", "PixelMeasuresSequence")
        spacing = numbers(measures, "PixelSpacing") or numbers(dataset, "PixelSpacing")
        extent = numbers(dataset, "ImagedVolumeWidth", "ImagedVolumeHeight")
        corner = first_item(dataset, "TotalPixelMatrixOriginSequence")
        optics = dataset.get("OpticalPathSequence") or []
        return Instance(
            name=path.name,
            uid=str(dataset.get("SOPInstanceUID", "")),
            codec=codec,
            file=store,
            spans=find_frames(store, dataset, head.tell(), meta, frames),
            positions=None if in_order else frame_positions(dataset),
            width=width,
            height=height,
            tile_width=columns,
            tile_height=rows,
            colour=(int(dataset.SamplesPerPixel), int(dataset.BitsAllocated), int(dataset.BitsStored)),
            photometric=str(dataset.PhotometricInterpretation),
            planar=int(dataset.get("PlanarConfiguration") or 0) == 1,
            # The distance between rows, which is y, comes first.
            spacing=positive((spacing[1], spacing[0])) if spacing and len(spacing) == 2 else None,
            extent=positive((extent[0], extent[1])) if extent and len(extent) == 2 else None,
            orientation=numbers(dataset, "ImageOrientationSlide"),
            origin=numbers(corner, "XOffsetInSlideCoordinateSystem", "YOffsetInSlideCoordinateSystem"),
            optical_paths=len(optics),
            concatenation=(
                str(dataset.get("ConcatenationUID", "")),
                int(dataset.get("ConcatenationFrameOffsetNumber") or 0),
                int(dataset.get("InConcatenationTotalNumber") or 0),
            ),
            model=clean_model(str(dataset.get("ManufacturerModelName", ""))),
            icc_profile=bytes(optics[0].get("ICCProfile") or b"") or None if optics else None,
        )


def check_size(path: Path, matrix: tuple[int, int], tile: tuple[int, int], frames: int, size: int) -> None:
    """Raises SlideError for sizes that no slide has: what follows allocates by them."""
    tiles = -(-matrix[0] // max(1, tile[0])) * -(-matrix[1] // max(1, tile[1]))
    possible = (
        all(0 < side <= MAX_SIDE for side in matrix)
        and all(side > 0 for side in tile)
        and tile[0] * tile[1] <= MAX_TILE_PIXELS
        and tiles <= MAX_TILES
        and 0 < frames <= size
    )
    if not possible:
        found = f"{matrix[0]} x {matrix[1]} px in {frames} frames of {tile[0]} x {tile[1]} px"
        raise SlideError(f"{path.name}: damaged DICOM header, it claims {found}; fetch the file again")


def frame_positions(dataset: Dataset) -> np.ndarray:
    """(frames, 3) left and upper px counted from 0, and z in µm."""
    planes = [first_item(item, "PlanePositionSlideSequence") for item in dataset.PerFrameFunctionalGroupsSequence]
    keywords = ("ColumnPositionInTotalImagePixelMatrix", "RowPositionInTotalImagePixelMatrix")
    z = [numbers(plane, "ZOffsetInSlideCoordinateSystem") or (0.0,) for plane in planes]
    corners = np.array([numbers(plane, *keywords) for plane in planes], np.float64).reshape(-1, 2) - 1
    return np.hstack([corners, np.array(z, np.float64)])
