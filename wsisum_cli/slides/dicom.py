"""The two facts of a DICOM header that tell slides from their labels and from one another. DICOM PS3.5, PS3.3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HEADER = 1 << 16  # bytes; both elements stand near the beginning of a data set
IMAGE_TYPE = b"\x08\x00\x08\x00CS"
SERIES_UID = b"\x20\x00\x0e\x00UI"
ASSOCIATED = ("label", "overview", "thumbnail", "localizer")  # flavours of ImageType beside VOLUME


@dataclass(frozen=True)
class DicomHeader:
    series: str | None  # SeriesInstanceUID; the levels of one slide share it
    associated: str | None  # label, overview, thumbnail or localizer; None for the slide's own pixels


def read_header(path: Path) -> DicomHeader:
    with open(path, "rb") as file:
        head = file.read(HEADER)
    flavours = (element(head, IMAGE_TYPE) or "").lower().split("\\")
    return DicomHeader(element(head, SERIES_UID), next((name for name in ASSOCIATED if name in flavours), None))


def element(head: bytes, tag: bytes) -> str | None:
    """Value of an element in explicit VR, little endian, as whole-slide images are stored."""
    at = head.find(tag)
    if at < 0:
        return None
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].decode("ascii", "replace").strip(" \0")
