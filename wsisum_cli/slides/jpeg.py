"""JPEG streams: complete them, decode them smaller, encode them. Markers as in ITU-T T.81."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain

import numpy as np

from wsisum_cli.slides.pyramid import MAX_TILE_PIXELS, EncodedTile

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
#: Adobe's APP14 marker with transform 0: three components are RGB, not YCbCr.
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
#: A JFIF marker: three components are YCbCr.
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that give the size and name the components
SEQUENTIAL = {0xC0, 0xC1}
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}  # markers that stand alone; before the first scan none is of use
SCAN = 0xDA
#: Baseline, extended and progressive frames, scans, tables, restart interval, JFIF's and Adobe's colour marks.
PIXEL_MARKERS = {0xC0, 0xC1, 0xC2, SCAN, 0xDB, 0xC4, 0xDD, 0xE0, 0xEE}
#: In entropy-coded data 0xFF stands before 0, or is a restart marker's; any other begins the next segment.
NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
#: What libjpeg says of bytes between the last px and the end marker. Some encoders leave them; nothing is lost.
PADDED = "extraneous bytes before marker 0xd9"
QUALITY = 90
MAX_SCANS = 100  # of a progressive image; encoders make about ten
MAX_SCANNED = 1 << 28  # px of an image times its scans: 16 of the largest tile
#: Grey levels by which RGB taken for YCbCr leaves the range on average, and by which rounding may leave it.
MUCH_BEYOND, LITTLE_BEYOND = 8.0, 2.0
WEAK_CHROMA = 32.0  # mean distance of chroma from 128; RGB of anything light is farther


def header_segments(stream: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker code, payload, and where the segment ends, up to and with the header of the first scan."""
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        code = stream[at + 1]
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        if code in WITHOUT_LENGTH:
            return
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        yield code, stream[at + 4 : end], end
        if code == SCAN:  # entropy-coded data follow
            return
        at = end


def header_markers(stream: bytes) -> dict[int, bytes]:
    """Marker code -> payload of the segments before the first scan; a repeated marker keeps its last payload."""
    return {code: payload for code, payload, _ in header_segments(stream)}


def is_one_scan(stream: bytes) -> bool:
    """Whether a decoder reads the first scan alone: it has all components of a sequential frame."""
    segments = [(code, payload) for code, payload, _ in header_segments(stream)]
    frames = [(code, payload) for code, payload in segments if code in FRAMES]
    if len(frames) != 1 or frames[0][0] not in SEQUENTIAL or segments[-1][0] != SCAN:
        return False
    (_, frame), (_, scan) = frames[0], segments[-1]
    return len(frame) > 5 and bool(scan) and scan[0] == frame[5]


def frame_size(stream: bytes) -> tuple[int, ...]:
    """Height and width in the frame header; empty where it has none, or several."""
    frames = [payload for code, payload, _ in header_segments(stream) if code in FRAMES]
    return struct.unpack(">HH", frames[0][1:5]) if len(frames) == 1 and len(frames[0]) >= 5 else ()


def holds_only_pixels(stream: bytes) -> bool:
    """Whether every byte serves the pixels: no comment, no data of other programs, no table that nothing uses, nothing
    between the last px and the end, or behind it.

    What does not can name a patient, and would be copied with a tile.
    """
    segments = list(all_segments(stream))
    if not segments or segments[-1] != (EOI[1], b""):
        return False
    if not all(is_plain(code, data) for code, data in segments) or not are_used_once(segments):
        return False
    return is_filled(stream)


def all_segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker code and payload of every segment to the end marker; of the last one the bytes behind the image."""
    at = 2
    while at + 2 <= len(stream) and stream[at] == 0xFF:
        code = stream[at + 1]
        if code == EOI[1]:
            yield code, stream[at + 2 :].strip(b"\0")
            return
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        yield code, stream[at + 4 : end]
        marker = NEXT_MARKER.search(stream, end) if code == SCAN else None
        at = marker.start() if marker else end


def is_plain(code: int, data: bytes) -> bool:
    """Whether a segment is as long as what it is there for."""
    if code == 0xE0:
        return len(data) == 14 and data.startswith(b"JFIF\0") and data.endswith(b"\0\0")  # without a thumbnail
    if code == 0xEE:
        return len(data) == 12 and data.startswith(b"Adobe")
    if code == 0xDD:
        return len(data) == 2
    if code in (0xDB, 0xC4):
        return split_tables(code, data) is not None
    return code in PIXEL_MARKERS or (code, data) == (EOI[1], b"")


def split_tables(code: int, data: bytes) -> list[bytes] | None:
    """Each table of a DQT or DHT segment, its name first; None where bytes are left over or missing."""
    tables, at = [], 0
    while at < len(data):
        size = 17 + sum(data[at + 1 : at + 17]) if code == 0xC4 else 129 if data[at] >> 4 else 65
        tables.append(data[at : at + size])
        at += size
    return tables if at == len(data) else None


def are_used_once(segments: list[tuple[int, bytes]]) -> bool:
    """Whether each table is there once, and serves a component; one that does not could hold any text.

    The standard's own Huffman tables may stand by: libtiff writes them, and then better ones in each tile.
    """
    frames = [data for code, data in segments if code in FRAMES]
    scans = [data for code, data in segments if code == SCAN]
    if len(frames) != 1 or len(frames[0]) < 6 or len(frames[0]) != 6 + 3 * frames[0][5]:
        return False
    if any(len(scan) < 4 or len(scan) != 4 + 2 * scan[0] for scan in scans):
        return False
    chosen = [choice for scan in scans for choice in scan[2:-3:2]]
    huffman = {choice >> 4 for choice in chosen} | {0x10 | choice & 15 for choice in chosen}
    quantization = [table[0] & 15 for table in all_tables(segments, 0xDB)]
    own = [table[0] for table in all_tables(segments, 0xC4) if table not in standard_tables()]
    return sorted(quantization) == sorted(set(frames[0][8::3])) and len(own) == len(set(own)) and huffman >= set(own)


def all_tables(segments: Iterable[tuple[int, bytes]], code: int) -> list[bytes]:
    return [table for found, data in segments if found == code for table in split_tables(code, data) or ()]


@cache
def standard_tables() -> frozenset[bytes]:
    """The Huffman tables of ITU-T T.81, Annex K, which encoders use where they do not make their own."""
    import simplejpeg

    stream = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    return frozenset(all_tables(all_segments(stream), 0xC4))


def is_filled(stream: bytes) -> bool:
    """Whether px end where the scans do; a decoder skips what stands behind them."""
    import simplejpeg

    try:
        check_stream(stream)
        simplejpeg.decode_jpeg(stream)
    except ValueError:
        return False
    return True


def is_rgb(stream: bytes) -> bool:
    """Whether decoders take three components for RGB: by its JFIF marker, Adobe's, then the components' names."""
    return not has_jfif(stream) and marked_rgb(stream) is True


def has_jfif(stream: bytes) -> bool:
    return header_markers(stream).get(0xE0, b"").startswith(b"JFIF\0")


def marked_rgb(stream: bytes) -> bool | None:
    """What Adobe's marker says of three components, else their names; None where neither says anything."""
    markers = header_markers(stream)
    adobe = markers.get(0xEE, b"")
    if adobe.startswith(b"Adobe") and len(adobe) >= 12:
        return adobe[11] == 0
    return True if frame_header(stream)[6:15:3] == b"RGB" else None


def frame_header(stream: bytes) -> bytes:
    """Payload of the frame header; empty where there is none."""
    markers = header_markers(stream)
    return next((markers[code] for code in FRAMES if code in markers), b"")


def is_subsampled(stream: bytes) -> bool:
    """Whether any component has fewer samples than another."""
    return len(set(frame_header(stream)[7:16:3])) > 1


def rule_rgb(stream: bytes, says_rgb: bool) -> bool:
    """Whether three components are RGB: the container says so, no JFIF marker stands there, none is subsampled.

    `says_rgb` is what the container, a TIFF or DICOM file, says of the stream.
    """
    return says_rgb and not has_jfif(stream) and not is_subsampled(stream)


def settle_colour(streams: Iterable[bytes], says_rgb: bool) -> tuple[bool, bool]:
    """Whether the components are RGB, and whether container and stream contradict each other so that pixels decided.

    `streams` are complete ones of one level, at least one; the others are read only where pixels decide. Pixels that
    say nothing leave it to `rule_rgb`.
    """
    others = iter(streams)
    first = next(others)
    ruled, marked = rule_rgb(first, says_rgb), marked_rgb(first)
    if ruled == says_rgb and (marked is None or marked == says_rgb):
        return ruled, False
    seen = [found for stream in chain([first], others) if (found := looks_rgb(stream)) is not None]
    for_rgb, against = seen.count(True), seen.count(False)
    decided = ruled if for_rgb == against else for_rgb > against
    return decided, decided != ruled


def looks_rgb(stream: bytes) -> bool | None:
    """Whether a stream's components look like RGB; None where that is open."""
    try:
        return components_look_rgb(decode(redeclare_colour(stream, rgb=True)))
    except ValueError:
        return None


def components_look_rgb(components: np.ndarray) -> bool | None:
    """Whether (..., 3) components of a picture taken by transmitted light are RGB, not YCbCr; None where that is open.

    Light glass is near (240, 240, 240) in RGB and (240, 128, 128) in YCbCr. RGB taken for YCbCr leaves the range of
    8 bits; in YCbCr the second and third component stay near 128.
    """
    y, blue, red = np.moveaxis(components.astype(np.float32) - (0, 128, 128), -1, 0)
    shown = np.stack([y + 1.402 * red, y - 0.344 * blue - 0.714 * red, y + 1.772 * blue])
    beyond = float(np.maximum(np.maximum(shown - 255, -shown), 0).max(axis=0).mean())
    if beyond > MUCH_BEYOND:
        return True
    return False if beyond < LITTLE_BEYOND and np.abs([blue, red]).mean() < WEAK_CHROMA else None


def redeclare_colour(stream: bytes, rgb: bool) -> bytes:
    """The stream with its colour marks replaced, so that a decoder takes its components for RGB or for YCbCr."""
    rest, at = b"", 2
    while stream[at : at + 1] == b"\xff" and stream[at + 1] in (*range(0xE0, 0xF0), 0xDB, 0xC4, 0xDD, 0xFE):
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at + 1] not in (0xE0, 0xEE):
            rest += stream[at:end]
        at = end
    return SOI + (ADOBE_RGB if rgb else JFIF) + rest + stream[at:]


def with_colour(stream: bytes, rgb: bool) -> bytes:
    """A complete stream that decoders take for RGB or YCbCr as `rgb` says; left alone where they do so already."""
    return stream if is_rgb(stream) == rgb else redeclare_colour(stream, rgb)


def complete_stream(stream: bytes, tables: bytes | None, rgb: bool) -> EncodedTile:
    """An abbreviated stream with its shared tables spliced in, so that any decoder reads it by itself.

    `tables` is the TIFF's JPEGTables; `rgb` says that the components are RGB.
    """
    insert = b""
    if tables:
        insert += tables.removeprefix(SOI).removesuffix(EOI)
    if rgb and 0xEE not in header_markers(stream):
        insert += ADOBE_RGB
    return EncodedTile(stream[:2] + insert + stream[2:], len(insert))


def end_stream(data: bytes) -> bytes:
    """Entropy-coded data between two restart markers, ended as a stream of their own."""
    if data[-2:-1] == b"\xff" and 0xD0 <= data[-1] <= 0xD9:
        data = data[:-2]
    return data + EOI


def decode(stream: bytes, shrink: int = 1) -> np.ndarray:
    """A complete stream as (H, W, 3) uint8 RGB, each side divided by `shrink` (1, 2, 4 or 8) inside the DCT.

    Raises ValueError for a damaged or truncated stream.
    """
    import simplejpeg

    limits = {}
    height, width = check_stream(stream)
    if shrink > 1:
        # All three limits are needed: without them simplejpeg decodes at full size and does not say so.
        limits = {"min_height": -(-height // shrink), "min_width": -(-width // shrink), "min_factor": shrink}
    try:
        return np.asarray(simplejpeg.decode_jpeg(stream, **limits))
    except ValueError as error:
        if PADDED not in str(error):
            raise
    return np.asarray(simplejpeg.decode_jpeg(stream, strict=False, **limits))


def check_stream(stream: bytes) -> tuple[int, int]:
    """Height and width. Raises ValueError for more px than a tile has, and for too many scans."""
    import simplejpeg

    height, width, *_ = simplejpeg.decode_jpeg_header(stream)
    if height * width > MAX_TILE_PIXELS:
        raise ValueError(f"{width} x {height} px are no tile")
    check_scans(stream, height * width)
    return height, width


def check_scans(stream: bytes, px: int) -> None:
    """Raise ValueError for an image of `px` px in more scans than encoders make: each takes as long as all of it."""
    scans = 1 if is_one_scan(stream) else stream.count(bytes((0xFF, SCAN)))
    most = min(MAX_SCANS, MAX_SCANNED // max(1, px))
    if scans > most:
        raise ValueError(f"it has more than {most} scans, each of which takes as long as a whole image")


def subsampling(stream: bytes) -> tuple[int, int] | None:
    """By how much chroma is subsampled, horizontally and vertically; None where it is not three components that are."""
    factors = [(byte >> 4, byte & 15) for byte in frame_header(stream)[7:16:3]]
    return factors[0] if len(factors) == 3 and factors[1:] == [(1, 1), (1, 1)] else None


def encode_alike(pixels: np.ndarray, rgb: bool, subsampled: tuple[int, int], quality: int = QUALITY) -> bytes:
    """(H, W, 3) uint8 RGB as JPEG of a colour model and subsampling as other streams have them."""
    import imagecodecs

    data, model = np.ascontiguousarray(pixels), "RGB" if rgb else "YCBCR"
    encoded = imagecodecs.jpeg8_encode(
        data, level=quality, colorspace="RGB", outcolorspace=model, subsampling=subsampled, optimize=True
    )
    return bytes(encoded)


def encode(pixels: np.ndarray, quality: int = QUALITY) -> bytes:
    """(H, W, 3) uint8 RGB as JPEG without chroma subsampling, which would cost 10 dB on H&E."""
    import imagecodecs

    encoded = imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=quality, subsampling="444", optimize=True)
    return bytes(encoded)
