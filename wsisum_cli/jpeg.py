"""JPEG streams: complete them, decode them smaller, encode them. Markers as in ITU-T T.81."""

from __future__ import annotations

import numpy as np

from wsisum_cli.pyramid import EncodedTile

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
#: Adobe's APP14 marker with transform 0: three components are RGB, not YCbCr.
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
QUALITY = 90


def header_markers(stream: bytes) -> dict[int, bytes]:
    """Marker code -> payload of the segments before the first scan; a repeated marker keeps its last payload."""
    found: dict[int, bytes] = {}
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        code = stream[at + 1]
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        found[code] = stream[at + 4 : at + 2 + length]
        if code == 0xDA:  # start of scan: entropy-coded data follow
            break
        at += 2 + length
    return found


def is_rgb_copyable(stream: bytes) -> bool:
    """Whether an APP14 marker would be believed: decoders trust a JFIF marker more, and that means YCbCr."""
    return 0xE0 not in header_markers(stream)


def complete(stream: bytes, tables: bytes | None, rgb: bool) -> EncodedTile:
    """An abbreviated stream with its shared tables spliced in, so that any decoder reads it by itself.

    `tables` is the TIFF's JPEGTables; `rgb` says that the file calls the components RGB.
    """
    insert = b""
    if tables:
        insert += tables.removeprefix(SOI).removesuffix(EOI)
    if rgb and 0xEE not in header_markers(stream):
        insert += ADOBE_RGB
    return EncodedTile(stream[:2] + insert + stream[2:], len(insert))


def ended(data: bytes) -> bytes:
    """Entropy-coded data between two restart markers, ended as a stream of their own."""
    if data[-2:-1] == b"\xff" and 0xD0 <= data[-1] <= 0xD9:
        data = data[:-2]
    return data + EOI


def decode(stream: bytes, shrink: int = 1) -> np.ndarray:
    """A complete stream as (H, W, 3) uint8 RGB, each side divided by `shrink` (1, 2, 4 or 8) inside the DCT.

    Raises ValueError for a damaged or truncated stream.
    """
    import simplejpeg

    if shrink == 1:
        return np.asarray(simplejpeg.decode_jpeg(stream))
    height, width, *_ = simplejpeg.decode_jpeg_header(stream)
    # All three limits are needed: without them simplejpeg decodes at full size and does not say so.
    small = simplejpeg.decode_jpeg(stream, min_height=height // shrink, min_width=width // shrink, min_factor=shrink)
    return np.asarray(small)


def encode(pixels: np.ndarray, quality: int = QUALITY) -> bytes:
    """(H, W, 3) uint8 RGB as JPEG without chroma subsampling, which would cost 10 dB on H&E."""
    import imagecodecs

    encoded = imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=quality, subsampling="444", optimize=True)
    return bytes(encoded)
