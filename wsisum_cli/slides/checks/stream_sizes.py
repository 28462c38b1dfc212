"""What the header of a compressed image says of its size, before anything is decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from wsisum_cli.slides import jpeg

PNG, JXL_BOX = b"\x89PNG\r\n\x1a\n", b"\0\0\0\x0cJXL "
JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
JPEG2000_START = b"\xff\x4f\xff\x51"  # the first two markers, ITU-T T.800
JPEGLS_FRAME = 0xF7  # marker, ITU-T T.87
MAX_PARTS = 1024  # tiles that a JPEG 2000 stream may be cut into


@dataclass(frozen=True)
class Jpeg2000Header:
    """The segment SIZ of a codestream."""

    width: int
    height: int
    components: int
    parts: int  # tiles that the image is cut into
    steps: bytes  # px of the image a sample, across and down, of each component; cut short where the stream is


def read_jpeg2000(data: bytes) -> Jpeg2000Header:
    """Of a codestream, bare or in the boxes of a JP2 file. Raises struct.error, ValueError."""
    at = data.index(JPEG2000_START) + 8
    right, lower, left, upper, across, down, from_left, from_upper, components = struct.unpack_from(">8IH", data, at)
    if not across or not down:
        raise ValueError("tiles of no size")
    parts = -(-(right - from_left) // across) * -(-(lower - from_upper) // down)
    sampled = data[at + 34 : at + 34 + 3 * components]
    steps = bytes(step for index, step in enumerate(sampled) if index % 3)
    return Jpeg2000Header(right - left, lower - upper, components, parts, steps)


def jpeg2000_rgb_size(data: bytes) -> tuple[int, ...]:
    """Height and width of a codestream of three components, empty for any other.

    Also empty where the image is cut into so many tiles that decoders allocate far more than its px.
    """
    try:
        found = read_jpeg2000(data)
    except (struct.error, ValueError):
        return ()
    return (found.height, found.width) if found.components == 3 and found.parts <= MAX_PARTS else ()


def is_subsampled_jpeg2000(data: bytes) -> bool:
    """Whether some component is smaller than the image; False for what is no codestream."""
    try:
        return any(step != 1 for step in read_jpeg2000(data).steps)
    except (struct.error, ValueError):
        return False


def jpegls_rgb_size(data: bytes) -> tuple[int, ...]:
    """Height and width of a stream of three components, empty for any other."""
    return rgb_size(jpeg.header_markers(data).get(JPEGLS_FRAME, b""))


def jpeg_rgb_size(data: bytes) -> tuple[int, ...]:
    """Height and width of a stream of three components, empty for any other."""
    markers = jpeg.header_markers(data)
    return jpeg.frame_size(data) and rgb_size(next(markers[code] for code in jpeg.FRAMES if code in markers))


def rgb_size(frame: bytes) -> tuple[int, ...]:
    """Height and width in a frame header; empty unless it has three components of 8 bits."""
    fits = len(frame) >= 6 and (frame[0], frame[5]) == (8, 3)
    return struct.unpack(">HH", frame[1:5]) if fits else ()


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height of a stream of any coding but JPEG. Raises struct.error, LookupError, ValueError."""
    if data[:8] == PNG:
        return struct.unpack_from(">II", data, 16)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return webp_size(data)
    if data[:2] == b"\xff\x0a":
        return jxl_size(data[2:])
    if data[:8] == JXL_BOX:
        return jxl_size(data[data.index(b"\xff\x0a", 12) + 2 :])
    if data[:6] == b"Lerc2 ":
        (version,) = struct.unpack_from("<i", data, 6)
        height, width = struct.unpack_from("<ii", data, 14 if version >= 3 else 10)
        return abs(width), abs(height)
    if data[:10] == b"CntZImage ":
        height, width = struct.unpack_from("<ii", data, 18)
        return abs(width), abs(height)
    if data[:3] == b"II\xbc":
        return jxr_size(data)
    found = read_jpeg2000(data)
    return found.width, found.height


def webp_size(data: bytes) -> tuple[int, int]:
    """RFC 9649."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def jxl_size(data: bytes) -> tuple[int, int]:
    """The size header of a JPEG XL codestream (ISO/IEC 18181-1), whose bits come lowest first."""
    bits, at = int.from_bytes(data[:16], "little"), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return bits >> (at - count) & (1 << count) - 1

    def side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    small = take(1)
    height, ratio = side(), take(3)
    if ratio:
        across, down = JXL_RATIOS[ratio - 1]
        return height * across // down, height
    return side(), height


def jxr_size(data: bytes) -> tuple[int, int]:
    """JPEG XR (ITU-T T.832): a directory like a TIFF's."""
    (offset,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, offset)
    entries = [struct.unpack_from("<HHII", data, offset + 2 + 12 * index) for index in range(count)]
    sides = {tag: value & (0xFFFF if kind == 3 else 0xFFFFFFFF) for tag, kind, _, value in entries}
    return sides[0xBC80], sides[0xBC81]
