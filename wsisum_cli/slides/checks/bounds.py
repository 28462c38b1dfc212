"""How much a tile asks for, found before it is decoded: decoders make room for whatever the headers of streams say."""

from __future__ import annotations

import struct

from wsisum_cli.slides import jpeg
from wsisum_cli.slides.checks.stream_sizes import (
    MAX_COMPONENTS,
    MAX_PARTS,
    MAX_PRECINCTS,
    count_precincts,
    image_size,
    read_jpeg2000,
)

#: TIFF compressions of streams that say their size themselves: JPEG 2000, PNG, WebP, JPEG XL, JPEG XR, LERC.
SIZED = {33003, 33004, 33005, 34712, 34933, 34927, 50001, 50002, 52546, 34934, 22610, 34887}
#: Others whose output tifffile bounds by the size of a tile: none, LZW, Deflate, PackBits, LZMA, Zstandard.
BOUNDED = {1, 5, 8, 32946, 32773, 34925, 34926, 50000}


JPEG_COMPRESSIONS = {7, 33007, 34892}
JPEG2000 = {33003, 33004, 33005, 34712}


def check_tile(data: bytes, compression: int, most: int, tables: bytes | None = None) -> None:
    """Raise ValueError when a tile's own header tells of more than `most` px, of no size, or of more work than that.

    `tables` are the TIFF's JPEGTables.
    """
    if compression in JPEG_COMPRESSIONS:
        stream = jpeg.complete_stream(data, tables, rgb=False).stream
        size = jpeg.frame_size(stream)
        if not size:
            raise ValueError("its header does not say how large it is")
        check_size(size[1], size[0], most)
        jpeg.check_scans(stream, size[0] * size[1])
    elif compression in SIZED:
        try:
            width, height = image_size(data)
            cuts = count_cuts(data) if compression in JPEG2000 else (1, 1, 0)
        except (struct.error, LookupError, ValueError) as error:
            raise ValueError(f"its header does not say how large it is ({error})") from error
        check_size(width, height, most)
        check_cuts(*cuts)


def check_size(width: int, height: int, most: int) -> None:
    if min(width, height) < 1 or width * height > most:
        raise ValueError(f"it is an image of {width} x {height} px, expected at most {most} px")


def count_cuts(data: bytes) -> tuple[int, int, int]:
    """Components, tiles and precincts of a JPEG 2000 stream. Raises struct.error, LookupError, ValueError."""
    found = read_jpeg2000(data)
    return found.components, found.parts, count_precincts(data)


def check_cuts(components: int, parts: int, precincts: int) -> None:
    """Raise ValueError for a stream that is cut so small that decoders allocate far more than its px."""
    if components > MAX_COMPONENTS:
        raise ValueError(f"it has {components} components, expected at most {MAX_COMPONENTS}")
    if parts > MAX_PARTS or precincts > MAX_PRECINCTS:
        raise ValueError(f"it is cut into more than {MAX_PARTS} tiles, or {MAX_PRECINCTS} precincts")
