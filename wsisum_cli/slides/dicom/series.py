"""Which DICOM files are one slide, and what the others are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsisum_cli.errors import NotASlideError, SlideError, WsisumError
from wsisum_cli.slides.dicom.elements import MAGIC, PREAMBLE, check_syntax, parsing, read_elements, read_meta, values_of

if TYPE_CHECKING:
    from pydicom import Dataset

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
ASSOCIATED = ("LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER")  # values of ImageType beside VOLUME
#: Kinds of files that a slide has beside it.
BESIDE = frozenset({*(f"{name.lower()} image" for name in ASSOCIATED), "Microscopy Bulk Simple Annotations"})
#: What tells slides apart. Their values end in a digest.
IDENTITY = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
SLIDE_IDENTITY = ("FrameOfReferenceUID", "ContainerIdentifier", "PyramidUID")
KIND = ("SOPClassUID", "ImageType", "SpecimenLabelInImage")
LAST_OF_HEADER = 0x00480010  # the tag of SpecimenLabelInImage, which comes last of these


@dataclass(frozen=True)
class Header:
    """What sorts a file among others."""

    path: Path
    kind: str | None  # what it shows instead of a slide, in words; None for a slide's own pixels
    series: str  # digest: equal for all images of one series; empty for what belongs to none
    slide: str  # digest: equal for the levels of one slide


def is_dicom(path: Path) -> bool:
    """By content, whatever the file is called; False for what cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:
        return False


def read_header(path: Path) -> Header:
    """Raises SlideError when the file cannot be read or is no DICOM file."""
    with parsing(path), open(path, "rb") as file:
        if file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] != MAGIC:
            raise SlideError(f"{path.name}: expected DICM at byte {PREAMBLE}, found none; it is not a DICOM file")
        meta, head = read_meta(file)
        stored = str(meta.get("MediaStorageSOPClassUID", WHOLE_SLIDE))
        if stored != WHOLE_SLIDE:
            return Header(path, name_of_class(stored), "", "")
        check_syntax(path, meta, parsed_only=True)
        dataset = read_elements(head, meta, (*KIND, *IDENTITY, *SLIDE_IDENTITY), LAST_OF_HEADER)
        series = [str(dataset.get(keyword, "")) for keyword in IDENTITY]
        slide = [*series, *(str(dataset.get(keyword, "")) for keyword in SLIDE_IDENTITY)]
        if not series[-1]:
            return Header(path, kind_of(dataset), "", str(path))
        return Header(path, kind_of(dataset), digest(series), digest(slide))


def kind_of(dataset: Dataset) -> str | None:
    """Of a data set that calls itself a whole-slide image."""
    stored = str(dataset.get("SOPClassUID", WHOLE_SLIDE))
    if stored != WHOLE_SLIDE:
        return name_of_class(stored)
    flavours = {str(value).upper() for value in values_of(dataset.get("ImageType"))}
    associated = next((name for name in ASSOCIATED if name in flavours), None)
    if associated:
        return f"{associated.lower()} image"
    label = str(dataset.get("SpecimenLabelInImage", "NO" if "VOLUME" in flavours else "")).upper()
    if label == "YES":
        return "label image" if "VOLUME" not in flavours else "image with its label"
    return None if label == "NO" else "image of unstated type"


def name_of_class(uid: str) -> str:
    """The kind of object in the standard's words, never the file's own."""
    from pydicom.uid import UID

    name = UID(uid).name  # the UID itself where the standard has no name for it
    return "an unknown kind of object" if name == uid else name.removesuffix(" Storage")


def digest(values: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(values).encode("utf-8", "replace")).hexdigest()


def is_beside_slide(path: Path) -> bool:
    """Whether a file holds the label, the overview, the thumbnail or annotations of a slide, and can be read."""
    try:
        return is_dicom(path) and read_header(path).kind in BESIDE
    except (WsisumError, OSError):
        return False


def refuse_other_images(path: Path) -> None:
    """Raise NotASlideError for a label, an overview, and whatever else is not a slide; SlideError for damage."""
    kind = read_header(path).kind
    if kind is None:
        return
    if kind.endswith(" image"):
        raise NotASlideError(f"{path.name}: a DICOM {kind}, not the slide itself", kind)
    raise NotASlideError(f"{path.name}: a DICOM file, but no whole-slide image: {kind}")


def group_series(paths: Iterable[Path]) -> list[list[Path]]:
    """DICOM files of one folder, those of one slide together; what is no slide stands alone."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        header = header_or_none(path)
        groups.setdefault(header.slide if header and header.kind is None else str(path), []).append(path)
    return list(groups.values())


def find_series(path: Path) -> list[Path]:
    """All files of the slide that `path` belongs to: it may be a level of it, its label or its overview.

    `path` alone where it belongs to none in its folder, or may belong to several.
    """
    own = header_or_none(path)
    if own is None or not own.series:
        return [path]
    beside = sorted(p for p in path.parent.iterdir() if not p.name.startswith(".") and p.is_file() and is_dicom(p))
    headers = [header for found in {*beside, path} if (header := header_or_none(found)) is not None]
    slides = {h.slide for h in headers if h.kind is None and h.series == own.series}
    slide = own.slide if own.kind is None else slides.pop() if len(slides) == 1 else None
    return sorted(h.path for h in headers if h.kind is None and h.slide == slide) or [path]


def header_or_none(path: Path) -> Header | None:
    try:
        return read_header(path)
    except SlideError:
        return None
