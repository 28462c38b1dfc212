"""What the header of a compressed image says of its size, before anything is decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from wsisum_cli.slides import jpeg

PNG, JXL_BOX, LERC = b"\x89PNG\r\n\x1a\n", b"\0\0\0\x0cJXL ", b"Lerc2 "
JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
JPEG2000_START = b"\xff\x4f\xff\x51"  # the first two markers, ITU-T T.800
JPEGLS_FRAME = 0xF7  # marker, ITU-T T.87
MAX_PARTS = 1024  # tiles that a JPEG 2000 stream may be cut into
MAX_SEGMENTS = 10_000  # of its headers
MAX_COMPONENTS = 4  # red, green, blue and alpha
#: Precincts of a component of a JPEG 2000 stream; of 64 px a side, the largest tile has 5,500 at all resolutions.
MAX_PRECINCTS = 1 << 15
LEVELS, STYLE, PART, DATA = 0xFF52, 0xFF53, 0xFF90, 0xFF93  # markers COD, COC, SOT, SOD
JXR_CODESTREAM, JXR_OFFSET = b"WMPHOTO\0", 0xBCC0


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


def count_precincts(data: bytes) -> int:
    """The most precincts that one component has at all its resolutions. Raises struct.error, ValueError."""
    found = read_jpeg2000(data)
    return max((precincts(found, *coding) for coding in codings(data)), default=0)


def precincts(found: Jpeg2000Header, levels: int, sizes: bytes) -> int:
    """`sizes` has a byte a resolution: powers of two, across and down. None at all means that there is one precinct."""
    total = 0
    for resolution in range(min(levels, 32) + 1 if sizes else 0):
        size = sizes[min(resolution, len(sizes) - 1)]
        width, height = (-(-side >> (levels - resolution)) for side in (found.width, found.height))
        total += -(-max(1, width) >> (size & 15)) * -(-max(1, height) >> (size >> 4))
    return total


def codings(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Levels, and sizes of precincts, of each marker that says them, in the main header and those of the parts."""
    wide = 2 if read_jpeg2000(data).components > 256 else 1
    at = data.index(JPEG2000_START) + 2
    part, length = 0, 0  # where the current part begins, and its bytes; 0 for up to the end
    for _ in range(MAX_SEGMENTS):
        marker, size = struct.unpack_from(">HH", data, at)
        if marker == PART:
            part, length = at, struct.unpack_from(">I", data, at + 6)[0]
        if marker == LEVELS:
            yield data[at + 9], data[at + 14 : at + 2 + size] if data[at + 4] & 1 else b""
        if marker == STYLE:
            yield data[at + 5 + wide], data[at + 10 + wide : at + 2 + size] if data[at + 4 + wide] & 1 else b""
        if marker != DATA:
            at += 2 + size
        elif length and part + length + 12 <= len(data) and length > 12:
            at = part + length
        else:
            return
        if data[at : at + 2] == b"\xff\xd9":
            return
    raise ValueError("more segments than a tile has")


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
    """Width and height of a stream of any coding but JPEG. Raises struct.error, LookupError, ValueError.

    LERC of its first version is none of them: it does not say how many images follow one another.
    """
    if data[:8] == PNG:
        return struct.unpack_from(">II", data, 16)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return webp_size(data)
    if data[:2] == b"\xff\x0a":
        return jxl_size(data[2:])
    if data[:8] == JXL_BOX:
        return jxl_size(data[data.index(b"\xff\x0a", 12) + 2 :])
    if data[:6] == LERC:
        return lerc_size(data)
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


def lerc_size(data: bytes) -> tuple[int, int]:
    """Width of the first image, and the height of all that follow one another, times the values a px has."""
    at, width, height = 0, 0, 0
    while data[at : at + 6] == LERC:
        (version,) = struct.unpack_from("<i", data, at + 6)
        fields = struct.unpack_from("<6i", data, at + (14 if version >= 3 else 10))
        rows, columns, depth = fields[0], fields[1], fields[2] if version >= 4 else 1
        (size,) = struct.unpack_from("<i", data, at + (14 if version >= 3 else 10) + (20 if version >= 4 else 16))
        if min(rows, columns, depth, size) < 1:
            raise ValueError("no size")
        width, height = (
            width or columns,
            height + -(-rows * columns * -(-depth // MAX_COMPONENTS) // (width or columns)),
        )
        at += size
    return width, height


class Bits:
    """Bits of the header of a JPEG XL codestream, lowest first; zeros behind its end."""

    def __init__(self, data: bytes, most: int = 64) -> None:
        self._bits, self._at = int.from_bytes(data[:most], "little"), 0

    def take(self, count: int) -> int:
        self._at += count
        return self._bits >> (self._at - count) & (1 << count) - 1

    def align(self) -> None:
        """Go on at the next whole byte."""
        self._at = -(-self._at // 8) * 8


def jxl_sides(bits: Bits) -> tuple[int, int]:
    """Width and height by the size header (ISO/IEC 18181-1), which is taken from `bits`."""
    small = bits.take(1)

    def side() -> int:
        return 8 * (1 + bits.take(5)) if small else 1 + bits.take((9, 13, 18, 30)[bits.take(2)])

    height, ratio = side(), bits.take(3)
    if ratio:
        across, down = JXL_RATIOS[ratio - 1]
        return height * across // down, height
    return side(), height


def jxl_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG XL codestream behind its signature.

    Raises ValueError for moving pictures, whose number of images nothing says, and for many channels.
    """
    bits = Bits(data)
    size = jxl_sides(bits)
    if bits.take(1):  # metadata by default
        return size
    if bits.take(1):  # extra fields
        bits.take(3)  # orientation
        if bits.take(1):
            jxl_sides(bits)  # by which it is to be shown
        if bits.take(1) or bits.take(1):
            raise ValueError("a preview, or a moving picture")
    if jxl_channels(bits) >= MAX_COMPONENTS:
        raise ValueError("many channels beside its colours")
    return size


def jxl_channels(bits: Bits) -> int:
    """Channels beside the colours, by metadata that begin with the bits of a sample."""
    floating = bits.take(1)
    if bits.take(2) == 3:  # a number of bits of its own
        bits.take(6)
    if floating:
        bits.take(4)
    bits.take(1)  # whether 16 bits are enough for buffers
    choice = bits.take(2)
    return choice if choice < 2 else 2 + bits.take(4) if choice == 2 else 1 + bits.take(12)


def jxr_size(data: bytes) -> tuple[int, int]:
    """JPEG XR (ITU-T T.832): of its codestream, which a directory like a TIFF's points to."""
    (offset,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, offset)
    entries = [struct.unpack_from("<HHII", data, offset + 2 + 12 * index) for index in range(count)]
    at = {tag: value for tag, _, _, value in entries}[JXR_OFFSET]
    if data[at : at + 8] != JXR_CODESTREAM:
        raise ValueError("no codestream")
    short = data[at + 10] & 0x80
    width, height = struct.unpack_from(">HH" if short else ">II", data, at + 12)
    return width + 1, height + 1
