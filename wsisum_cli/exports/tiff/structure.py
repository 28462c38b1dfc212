"""The structure of a pyramidal TIFF of JPEG tiles, of which many may be one and the same. As in TIFF 6.0.

The pages are a chain, largest first, as OpenSlide and libvips expect a pyramid. The first one also names the others as
its SubIFDs, as Bio-Formats expects it of an OME-TIFF.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

from wsisum_cli.slides.patches import Tile
from wsisum_cli.slides.tiff import EXPORT_SOFTWARE

JPEG_COMPRESSION, RGB, YCBCR, CENTIMETRE = 7, 2, 6, 3
SHORT, LONG, RATIONAL, ASCII, UNDEFINED = 3, 4, 5, 2, 7  # types of a TIFF's values
FORMATS = {SHORT: "H", LONG: "I", RATIONAL: "I"}
MOST_BYTES = 2**32 - 1  # offsets are 32 bits, which every reader takes
Entry = tuple[int, int, bytes]  # type, count, value


@dataclass(frozen=True)
class Page:
    """One level of the pyramid."""

    width: int  # px
    height: int
    tile: int  # px a side, a multiple of 16
    tiles: Mapping[Tile, bytes]  # by column and row: complete JPEG streams, all of one colour model
    blank: bytes  # the stream of all other tiles
    mpp: float  # µm per px
    rgb: bool = False  # whether the components are RGB, not YCbCr
    subsampling: tuple[int, int] = (1, 1)  # of chroma, horizontal and vertical

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        return -(-self.width // self.tile), -(-self.height // self.tile)


def write_pages(path: Path, pages: Sequence[Page], description: str, icc_profile: bytes | None) -> None:
    """Write the levels, largest first, to a new file and sync it. Raises OverflowError past 4 GB."""
    with open(path, "xb") as file:
        file.write(b"II*\0" + bytes(4))
        places = [put_tiles(file, page) for page in pages]
        extra = {270: text(description), **({} if icc_profile is None else {34675: (UNDEFINED, icc_profile)})}
        tags = [tags_of(page, *place, index > 0) for index, (page, place) in enumerate(zip(pages, places, strict=True))]
        tags[0] |= {tag: (kind, len(data), data) for tag, (kind, data) in extra.items()}
        if len(pages) > 1:
            tags[0][330] = values(LONG, [0] * (len(pages) - 1))  # its size is known before the places are
        offsets = directory_offsets(file.tell(), tags)
        if len(pages) > 1:
            tags[0][330] = values(LONG, offsets[1:])
        for offset, following, entries in zip(offsets, [*offsets[1:], 0], tags, strict=True):
            file.write(bytes(offset - file.tell()))
            file.write(directory(entries, offset, following))
        if file.tell() > MOST_BYTES:
            raise OverflowError
        file.seek(4)
        file.write(struct.pack("<I", offsets[0]))
        file.flush()
        os.fsync(file.fileno())


def put_tiles(file: IO[bytes], page: Page) -> tuple[list[int], list[int]]:
    """Write the streams of a page, each different one once; offset and size of each tile, row by row."""
    columns, rows = page.grid
    if 8 * columns * rows > MOST_BYTES:
        raise OverflowError
    known: dict[bytes, int] = {}
    offsets, sizes = [], []
    for at in ((column, row) for row in range(rows) for column in range(columns)):
        stream = page.tiles.get(at, page.blank)
        if stream not in known:
            known[stream] = file.tell()
            file.write(stream)
        offsets.append(known[stream])
        sizes.append(len(stream))
    if file.tell() > MOST_BYTES:
        raise OverflowError
    return offsets, sizes


def tags_of(page: Page, offsets: list[int], sizes: list[int], is_reduced: bool) -> dict[int, Entry]:
    """The tags of a page."""
    per_centimetre = Fraction(1e4 / page.mpp).limit_denominator(10_000)
    resolution = values(RATIONAL, [per_centimetre.numerator, per_centimetre.denominator])
    tags = {
        254: values(LONG, [int(is_reduced)]),
        256: values(LONG, [page.width]),
        257: values(LONG, [page.height]),
        258: values(SHORT, [8, 8, 8]),
        259: values(SHORT, [JPEG_COMPRESSION]),
        262: values(SHORT, [RGB if page.rgb else YCBCR]),
        277: values(SHORT, [3]),
        282: resolution,
        283: resolution,
        284: values(SHORT, [1]),
        296: values(SHORT, [CENTIMETRE]),
        305: (ASCII, len(EXPORT_SOFTWARE) + 1, EXPORT_SOFTWARE.encode() + b"\0"),
        322: values(LONG, [page.tile]),
        323: values(LONG, [page.tile]),
        324: values(LONG, offsets),
        325: values(LONG, sizes),
    }
    return tags if page.rgb else {**tags, 530: values(SHORT, page.subsampling)}


def values(kind: int, numbers: Iterable[int]) -> Entry:
    found = list(numbers)
    data = struct.pack(f"<{len(found)}{FORMATS[kind]}", *found)
    return kind, len(found) // (2 if kind == RATIONAL else 1), data


def text(words: str) -> tuple[int, bytes]:
    """Text in ASCII, which is all that TIFF has; the rest as references of XML."""
    return ASCII, words.encode("ascii", "xmlcharrefreplace") + b"\0"


def directory_offsets(start: int, tags: Sequence[Mapping[int, Entry]]) -> list[int]:
    """Where each directory begins, from the first even byte at or behind `start`."""
    return list(_offsets(start, tags))


def _offsets(at: int, tags: Sequence[Mapping[int, Entry]]) -> Iterator[int]:
    for entries in tags:
        at += at % 2
        yield at
        at += len(directory(entries, at, 0))


def directory(entries: Mapping[int, Entry], offset: int, following: int) -> bytes:
    """A directory that begins at `offset`, with the values that it points to behind it."""
    at = offset + 2 + 12 * len(entries) + 4
    head, behind = struct.pack("<H", len(entries)), b""
    for tag, (kind, count, data) in sorted(entries.items()):
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", at + len(behind))
        head += struct.pack("<HHI", tag, kind, count) + place
        behind += b"" if len(data) <= 4 else data + bytes(len(data) % 2)
    return head + struct.pack("<I", following) + behind
