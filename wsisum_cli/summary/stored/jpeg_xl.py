"""JPEG streams as JPEG XL files from which they can be restored byte for byte (ISO/IEC 18181-2, the box `jbrd`).

A decoder makes room for whatever the headers of a file say. So a file is only decoded where it is what an encoder makes
of a tile: one still image of three components and modest size, from a JPEG of few markers, and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from wsisum_cli.errors import CodecError
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.checks.stream_sizes import Bits, jxl_sides

#: Of `pixels.recompressed`.
JXL = "jxl"
SIGNATURE, FILE_TYPE, REBUILD = b"JXL ", b"ftyp", b"jbrd"
WHOLE, PART, LAST = b"jxlc", b"jxlp", 1 << 31  # the codestream in one box, or in numbered ones, the last of them marked
MOST_BOXES = 8
MOST_PIXELS = 1 << 22  # of an image; decoding takes 7 to 15 bytes for each
#: Bytes of a JPEG stream for each px, and beside them: more than any encoder makes of noise.
BYTES_PER_PX, FREE_BYTES = 8, 1 << 16
#: Markers of a JPEG stream; those of comments and of other programs, each of which takes up to 64 kB; and scans.
MOST_MARKERS, MOST_DATA, MOST_SCANS = 200, 8, 16
MARKERS, ENDING, SCANNING, APPLICATIONS, COMMENT = 0xC0, 0xD9, 0xDA, range(0xE0, 0xF0), 0xFE
BETWEEN = 0xFF  # stands for bytes between segments
NO_FLAGS, NO_SMOOTHING = 0, 128  # of a frame


def transcode(stream: bytes) -> bytes | None:
    """A JPEG stream as a JPEG XL file; None where not every byte would come back.

    One thread and the encoder's own effort, so that the same stream gives the same file. Raises CodecError where the
    codec is missing.
    """
    try:
        packed = bytes(codec().jpegxl_encode_jpeg(stream, usecontainer=True, numthreads=1))
        return packed if restore(packed, len(stream)) == stream else None
    except (RuntimeError, ValueError):  # of the codec, and of what is read again
        return None


def codec() -> Any:
    """The library, where it can do this. Raises CodecError."""
    import imagecodecs

    # A build without a codec has functions that raise when they are called.
    if not imagecodecs.JPEGXL.available:
        raise CodecError(
            f"imagecodecs {imagecodecs.__version__}: expected one with JPEG XL, found none; install a full one (pip "
            "install --force-reinstall imagecodecs)"
        )
    return imagecodecs


def restore(packed: bytes, length: int, side: tuple[int, int] | None = None) -> bytes:
    """The JPEG stream of `length` bytes in a JPEG XL file. Raises ValueError for any other, before it takes memory.

    `side` (height, width) is what the image must have; None where the file says so.
    """
    size = file_size(packed)
    px = size[0] * size[1]
    if side not in (None, size) or not 0 < px <= MOST_PIXELS:
        raise ValueError(f"it is an image of {size}, expected {side or f'at most {MOST_PIXELS} px'} (height, width)")
    if not 0 < length <= FREE_BYTES + BYTES_PER_PX * px:
        raise ValueError(f"a JPEG of {px} px cannot take {length} bytes")
    try:
        stream = bytes(codec().jpegxl_decode_jpeg(packed, numthreads=1, out=length))
    except RuntimeError as error:  # what the codec raises for any fault
        raise ValueError("its JPEG XL data are damaged") from error
    if len(stream) != length or jpeg.frame_size(stream) != size:
        raise ValueError(f"it holds {len(stream)} bytes of another JPEG stream, expected {length}")
    return stream


def file_size(packed: bytes) -> tuple[int, int]:
    """Height and width of the image in a file that is what an encoder makes of a tile. Raises ValueError for others."""
    boxes = list(read_boxes(packed))
    kinds = [kind for kind, _ in boxes]
    parts = [data for kind, data in boxes if kind == PART]
    rest = [REBUILD, *([PART] * len(parts) or [WHOLE])]
    if kinds[:2] != [SIGNATURE, FILE_TYPE] or sorted(kinds[2:]) != rest:
        raise ValueError("it is not a JPEG XL file made from a JPEG")
    numbers = [at | (LAST if at == len(parts) - 1 else 0) for at in range(len(parts))]
    if [part[:4] for part in parts] != [struct.pack(">I", number) for number in numbers]:
        raise ValueError("parts of its codestream are missing")
    found = dict(boxes)
    check_markers(found[REBUILD])
    return codestream_size(b"".join(part[4:] for part in parts) or found.get(WHOLE, b""))


def read_boxes(packed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and contents of each box. Raises ValueError."""
    at = 0
    for _ in range(MOST_BOXES):
        if at == len(packed):
            return
        size, kind = struct.unpack(">I4s", packed[at : at + 8].ljust(8, b"\0"))
        end = at + size if size else len(packed)  # the last box need not say
        if not at + 8 <= end <= len(packed):
            raise ValueError("a box of it reaches beyond its end")
        yield kind, packed[at + 8 : end]
        at = end
    raise ValueError(f"it has more than {MOST_BOXES} boxes")


def codestream_size(codestream: bytes) -> tuple[int, int]:
    """Height and width of a codestream whose headers are those of a transcoded JPEG. Raises ValueError for others.

    Fields as in ISO/IEC 18181-1: image metadata, then the header of the only frame, which covers the image.
    """
    if codestream[:2] != b"\xff\x0a":
        raise ValueError("it has no codestream")
    bits = Bits(codestream[2:])
    width, height = jxl_sides(bits)
    plain = [bits.take(count) for count in (1, 1, 1, 2)] == [0] * 4  # no default, no extra fields; 8 bits
    bits.take(1)  # whether 16 bits are enough for buffers
    plain &= [bits.take(count) for count in (2, 1, 1, 2, 1)] == [0, 0, 1, 0, 1]  # no alpha, no XYB; sRGB
    bits.align()
    plain &= [bits.take(count) for count in (1, 2, 1)] == [0] * 3  # a regular frame of cosines
    plain &= take_u64(bits) in (NO_FLAGS, NO_SMOOTHING)
    if bits.take(1):  # YCbCr
        bits.take(6)  # how each component is subsampled
    plain &= [bits.take(count) for count in (2, 2, 1, 2, 1)] == [0, 0, 0, 0, 1]  # whole, in one pass, and the last
    if not plain:
        raise ValueError("its codestream is not a transcoded JPEG with three components")
    return height, width


def take_u64(bits: Bits) -> int | None:
    """A number of up to 8 bits in the coding of 64; None for a longer one."""
    choice = bits.take(2)
    return None if choice == 3 else (0, 1, 17)[choice] + bits.take((0, 4, 8)[choice])


def check_markers(rebuild: bytes) -> None:
    """Raise ValueError where the JPEG stream has many markers or scans: each takes memory, or time."""
    bits = Bits(rebuild, -(-MOST_MARKERS * 6 // 8) + 1)
    bits.take(1)  # whether it is grey
    markers = [MARKERS + bits.take(6)]
    while markers[-1] != ENDING and len(markers) < MOST_MARKERS:
        markers.append(MARKERS + bits.take(6))
    data = sum(marker in APPLICATIONS or marker in (COMMENT, BETWEEN) for marker in markers)
    if markers[-1] != ENDING or data > MOST_DATA or markers.count(SCANNING) > MOST_SCANS:
        raise ValueError("its JPEG has too many markers, scans or application segments")
