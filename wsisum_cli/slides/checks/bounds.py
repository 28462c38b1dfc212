"""How much a file asks for, found before anything is decoded: pages of a TIFF, planes of an OME-XML, px of a tile.

Decoders and tifffile make room for whatever headers say, and follow chains of pages wherever they lead.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

from wsisum_cli.errors import SlideError
from wsisum_cli.slides.checks.stream_sizes import image_size

#: Pages of one file; slides have a dozen, stacks of planes a few thousand.
MAX_PAGES = 20_000
NDPI_TAG = 65420  # of files whose offsets take 8 bytes though they are no BigTIFF
PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
SIZES = re.compile(r"\bSize[ZCT]\s*=\s*[\"']\s*(\d{1,18})\s*[\"']")
#: TIFF compressions of streams that say their size themselves: JPEG 2000, PNG, WebP, JPEG XL, JPEG XR, LERC.
SIZED = {33003, 33004, 33005, 34712, 34933, 34927, 50001, 50002, 52546, 34934, 22610, 34887}
#: Others whose output tifffile bounds by the size of a tile: none, LZW, Deflate, PackBits, LZMA, Zstandard.
BOUNDED = {1, 5, 8, 32946, 32773, 34925, 34926, 50000}


def check_pages(path: Path) -> None:
    """Raise SlideError when the pages of a TIFF follow each other in a ring, or are too many. OSError passes."""
    with open(path, "rb") as file:
        seen: set[int] = set()
        try:
            offset, walk = first_page(file)
            while offset:
                if offset in seen:
                    raise SlideError(f"{path.name}: damaged TIFF structure, its pages lead in a ring; fetch it again")
                if len(seen) == MAX_PAGES:
                    raise SlideError(f"{path.name}: expected a slide of at most {MAX_PAGES} pages, found more")
                seen.add(offset)
                offset = next_page(file, offset, *walk)
        except (struct.error, ValueError):  # no TIFF, or one cut short: what opens it will say so
            return


def first_page(file: BinaryIO) -> tuple[int, tuple[str, bool, bool]]:
    """Offset of the first page, and how pages are laid out: byte order, BigTIFF, offsets of NDPI."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        raise struct.error("no TIFF")
    (version,) = struct.unpack_from(order + "H", head, 2)
    if version == 43:
        return struct.unpack_from(order + "Q", head, 8)[0], (order, True, False)
    (offset,) = struct.unpack_from(order + "I", head, 4)
    file.seek(offset)
    (count,) = struct.unpack(order + "H", file.read(2))
    tags = [struct.unpack(order + "H", file.read(12)[:2])[0] for _ in range(count)]
    return offset, (order, False, order == "<" and NDPI_TAG in tags)


def next_page(file: BinaryIO, offset: int, order: str, big: bool, ndpi: bool) -> int:
    """Offset of the page behind the one at `offset`, 0 for none. Raises struct.error beyond the file."""
    file.seek(offset)
    (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    file.seek(offset + (8 + 20 * count if big else 2 + 12 * count) if count < 1 << 40 else 1 << 60)
    following: int = struct.unpack(order + ("Q" if big or ndpi else "I"), file.read(8 if big or ndpi else 4))[0]
    return following if following < 1 << 60 else 0


def check_planes(ome_xml: str, name: str) -> None:
    """Raise SlideError when an image of an OME-XML has more planes than a file has pages."""
    for pixels in PIXELS.findall(ome_xml):
        planes = 1
        for size in SIZES.findall(pixels):
            planes *= max(1, int(size))
        if planes > MAX_PAGES:
            raise SlideError(
                f"{name}: damaged OME-XML, it tells of {planes} planes, expected at most {MAX_PAGES}; export it again"
            )


def check_tile(data: bytes, compression: int, most: int) -> None:
    """Raise ValueError when a tile's own header tells of more than `most` px, or of no size."""
    if compression not in SIZED:
        return
    try:
        width, height = image_size(data)
    except (struct.error, LookupError, ValueError) as error:
        raise ValueError("its header does not say how large it is") from error
    if width * height > most:
        raise ValueError(f"it is an image of {width} x {height} px, expected at most {most} px")
