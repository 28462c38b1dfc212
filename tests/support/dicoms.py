"""Writes small DICOM slides and the files that lie beside them, as scanners and converters do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import UID, generate_uid

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
ANNOTATIONS = "1.2.840.10008.5.1.4.1.1.91.1"
MM = 0.00025  # per px: 0.25 µm


@dataclass(frozen=True)
class Slide:
    """What all files of one slide share."""

    name: str = "a"
    patient: str = "P1"
    frame_of_reference: str | None = "same"
    container: str = "C1"

    def uid(self, what: str) -> str:
        return str(generate_uid(entropy_srcs=[self.name, what]))


def jpeg(tile: np.ndarray, quality: int = 95, rgb: bool = False, subsampling: str = "444") -> bytes:
    colours = {"colorspace": "rgb", "outcolorspace": "rgb"} if rgb else {"subsampling": subsampling}
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), quality, **colours))


def rle(tile: np.ndarray) -> bytes:
    from pydicom.pixels.encoders.base import EncodeRunner
    from pydicom.pixels.encoders.native import _encode_frame

    runner = EncodeRunner(UID("1.2.840.10008.1.2.5"))
    runner.set_options(
        rows=tile.shape[0],
        columns=tile.shape[1],
        samples_per_pixel=3,
        bits_allocated=8,
        bits_stored=8,
        pixel_representation=0,
        photometric_interpretation="RGB",
        number_of_frames=1,
        planar_configuration=0,
    )
    return bytes(_encode_frame(tile.tobytes(), runner))


#: Codec -> transfer syntax, photometric interpretation, and how a tile becomes a frame.
CODECS: dict[str, tuple[str, str, Any]] = {
    "jpeg": ("1.2.840.10008.1.2.4.50", "YBR_FULL_422", lambda tile: jpeg(tile, subsampling="422")),
    "jpeg-444": ("1.2.840.10008.1.2.4.50", "YBR_FULL", jpeg),
    "jpeg-rgb": ("1.2.840.10008.1.2.4.50", "RGB", lambda tile: jpeg(tile, rgb=True)),
    "jpeg-mislabelled": ("1.2.840.10008.1.2.4.50", "RGB", lambda tile: jpeg(tile, subsampling="420")),
    "jpeg2000": ("1.2.840.10008.1.2.4.90", "YBR_RCT", lambda tile: imagecodecs.jpeg2k_encode(tile, level=0, mct=True)),
    "jpeg2000-plain": (
        "1.2.840.10008.1.2.4.90",
        "RGB",
        lambda tile: imagecodecs.jpeg2k_encode(tile, level=0, mct=False),
    ),
    "jpegls": ("1.2.840.10008.1.2.4.80", "RGB", imagecodecs.jpegls_encode),
    "rle": ("1.2.840.10008.1.2.5", "RGB", rle),
    "raw": ("1.2.840.10008.1.2.1", "RGB", lambda tile: tile.tobytes()),
    "raw-implicit": ("1.2.840.10008.1.2", "RGB", lambda tile: tile.tobytes()),
    "raw-planar": ("1.2.840.10008.1.2.1", "RGB", lambda tile: np.moveaxis(tile, 2, 0).tobytes()),
}


def cut_tiles(pixels: np.ndarray, side: int) -> list[np.ndarray]:
    """Row by row, filled up to whole tiles."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
    return [
        np.ascontiguousarray(padded[y : y + side, x : x + side])
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]


def dataset_of(slide: Slide, stored: str = WHOLE_SLIDE, instance: str = "") -> Dataset:
    """What every file of a slide says."""
    dataset = Dataset()
    dataset.SOPClassUID = stored
    dataset.SOPInstanceUID = slide.uid(instance or "level")
    dataset.PatientName, dataset.PatientID = "DOE^JANE", slide.patient
    dataset.StudyInstanceUID = slide.uid("study")
    dataset.SeriesInstanceUID = slide.uid("series")
    if slide.frame_of_reference:
        dataset.FrameOfReferenceUID = slide.uid(slide.frame_of_reference)
    dataset.ContainerIdentifier = slide.container
    return dataset


def image_of(
    slide: Slide,
    size: tuple[int, int],
    tile: int,
    photometric: str = "RGB",
    flavour: str = "VOLUME",
    spacing: float | None = MM,
) -> Dataset:
    """A whole-slide image without its frames; `size` is width and height, `spacing` mm per px."""
    dataset = dataset_of(slide, instance=f"{flavour} {size}")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", flavour, "NONE"]
    dataset.Modality = "SM"
    dataset.ManufacturerModelName = "Scanner 3"
    dataset.Rows = dataset.Columns = tile
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = size
    dataset.DimensionOrganizationType = "TILED_FULL"
    dataset.PhotometricInterpretation = photometric
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 3, 8, 8, 7
    dataset.PixelRepresentation = dataset.PlanarConfiguration = 0
    dataset.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    dataset.SpecimenLabelInImage = "YES" if flavour in ("LABEL", "OVERVIEW") else "NO"
    dataset.OpticalPathSequence = [Dataset()]
    dataset.OpticalPathSequence[0].ICCProfile = b"profile!"
    if spacing:
        measures, shared = Dataset(), Dataset()
        measures.PixelSpacing = [spacing, spacing]
        shared.PixelMeasuresSequence = [measures]
        dataset.SharedFunctionalGroupsSequence = [shared]
    return dataset


def place(dataset: Dataset, corners: Sequence[tuple[int, int]], z: Sequence[float] = ()) -> None:
    """Say where each frame lies, from upper left corners counted from 0."""
    groups = []
    for index, (x, y) in enumerate(corners):
        plane, group = Dataset(), Dataset()
        plane.ColumnPositionInTotalImagePixelMatrix, plane.RowPositionInTotalImagePixelMatrix = x + 1, y + 1
        plane.ZOffsetInSlideCoordinateSystem = z[index] if z else 0.0
        group.PlanePositionSlideSequence = [plane]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.DimensionOrganizationType = "TILED_SPARSE"


def save(path: Path, dataset: Dataset, frames: Sequence[bytes], syntax: str, table: str = "basic") -> Path:
    """`table` is basic, extended or none; with `fragments` each frame lies in two items."""
    dataset.NumberOfFrames = len(frames)
    if syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"):
        data = b"".join(frames)
        dataset.PixelData = data + b"\0" * (len(data) % 2)
    elif table == "extended":
        encoded = encapsulate_extended(list(frames))
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encoded
    else:
        per_frame = 2 if table.startswith("fragments") else 1
        dataset.PixelData = encapsulate(list(frames), fragments_per_frame=per_frame, has_bot="none" not in table)
    dataset["PixelData"].VR = "OB"
    return save_elements(path, dataset, syntax)


def save_elements(path: Path, dataset: Dataset, syntax: str = "1.2.840.10008.1.2.1") -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_level(
    path: Path,
    pixels: np.ndarray,
    slide: Slide = Slide(),
    *,
    codec: str = "jpeg",
    tile: int = 64,
    spacing: float | None = MM,
    table: str = "basic",
    flavour: str = "VOLUME",
    **changes: Any,
) -> Path:
    """`changes` are elements by keyword; one that is None is left out."""
    syntax, photometric, encode = CODECS[codec]
    height, width = pixels.shape[:2]
    dataset = image_of(slide, (width, height), tile, photometric, flavour, spacing)
    dataset.PlanarConfiguration = int(codec == "raw-planar")
    change(dataset, changes)
    return save(path, dataset, [encode(each) for each in cut_tiles(pixels, tile)], syntax, table)


def change(dataset: Dataset, changes: dict[str, Any]) -> None:
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)


def write_annotations(path: Path, slide: Slide) -> Path:
    """An annotation object that refers to a slide's series, and says so before it says which series is its own."""
    dataset = dataset_of(slide, ANNOTATIONS, "annotations")
    reference = Dataset()
    reference.SeriesInstanceUID = slide.uid("series")
    dataset.ReferencedSeriesSequence = [reference]
    dataset.SeriesInstanceUID = slide.uid("annotations")
    return save_elements(path, dataset)


def write_series(folder: Path, pixels: np.ndarray, slide: Slide = Slide(), **options: Any) -> dict[str, Path]:
    """Two levels, a label, an overview, a thumbnail and annotations."""
    half = pixels[: pixels.shape[0] // 2 * 2 : 2, : pixels.shape[1] // 2 * 2 : 2]
    blank = np.full((64, 64, 3), 90, np.uint8)
    spacing = options.pop("spacing", MM)
    return {
        "full": write_level(folder / f"{slide.name}-3.dcm", pixels, slide, spacing=spacing, **options),
        "half": write_level(folder / f"{slide.name}-2.dcm", half, slide, spacing=2 * spacing, **options),
        "label": write_level(folder / f"{slide.name}-1.dcm", blank, slide, flavour="LABEL", spacing=None),
        "overview": write_level(folder / f"{slide.name}-4.dcm", blank, slide, flavour="OVERVIEW", spacing=None),
        "thumbnail": write_level(folder / f"{slide.name}-5.dcm", blank, slide, flavour="THUMBNAIL"),
        "annotations": write_annotations(folder / f"{slide.name}-0.dcm", slide),
    }
