"""The pixels of a DICOM frame."""

from __future__ import annotations

import numpy as np

from wsisum_cli.slides import jpeg
from wsisum_cli.slides.checks.bounds import check_cuts, count_cuts
from wsisum_cli.slides.checks.stream_sizes import (
    JPEG2000_START,
    jpeg2000_rgb_size,
    jpeg_rgb_size,
    jpegls_rgb_size,
)
from wsisum_cli.slides.dicom.elements import JPEG, JPEG2000, RAW, RLE
from wsisum_cli.slides.dicom.instance import Instance
from wsisum_cli.slides.pixels import from_ycbcr, shrunk
from wsisum_cli.slides.pyramid import EncodedTile

PLAIN = {RAW, RLE}


def decode_frame(instance: Instance, data: bytes, least: tuple[int, int], shrink: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB, each side divided by `shrink`. Raises whatever the decoder does.

    `least` is the height and width on the level: at its right and lower edge a frame may be cut to them.
    """
    if instance.codec == JPEG:
        check_stream(instance, least, jpeg_rgb_size(data))
        if is_declared(data, instance.colour.photometric):
            return jpeg.decode(declare_colour(data, instance.colour.photometric).stream, shrink)
        return jpeg.decode(jpeg.redeclare_colour(data, holds_rgb(data, instance.colour.photometric)), shrink)
    pixels = decode_plain(instance, data) if instance.codec in PLAIN else decode_stream(instance, data, least)
    if instance.colour.photometric.startswith("YBR_FULL"):
        pixels = from_ycbcr(pixels)
    return shrunk(pixels, shrink)


def decode_plain(instance: Instance, data: bytes) -> np.ndarray:
    """Of codings that know no size."""
    shape = (instance.matrix.tile_height, instance.matrix.tile_width)
    planar = instance.colour.planar
    if instance.codec == RLE:  # which always stores colour planes one after the other
        import imagecodecs

        # With a size, a frame of runs that stand for more ends in an error, before it fills the memory.
        data, planar = bytes(imagecodecs.dicomrle_decode(data, "<u1", out=3 * shape[0] * shape[1])), True
    pixels = np.frombuffer(data, np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels.reshape(3, *shape), 0, 2)) if planar else pixels.reshape(*shape, 3)


def decode_stream(instance: Instance, data: bytes, least: tuple[int, int]) -> np.ndarray:
    import imagecodecs

    if instance.codec == JPEG2000:
        data = data[max(0, data.find(JPEG2000_START)) :]  # without the boxes of a JP2 file around it
        size = jpeg2000_rgb_size(data)
    else:
        size = jpegls_rgb_size(data)
    check_stream(instance, least, size)
    if instance.codec == JPEG2000:
        check_cuts(*count_cuts(data))
    decode = imagecodecs.jpeg2k_decode if instance.codec == JPEG2000 else imagecodecs.jpegls_decode
    pixels = np.asarray(decode(data))
    if pixels.shape != (*size, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"expected RGB of 8 bits, found shape {pixels.shape}, {pixels.dtype}")
    return pixels


def check_stream(instance: Instance, least: tuple[int, int], size: tuple[int, ...]) -> None:
    """Decoders allocate what a stream tells them to. Raises ValueError."""
    most = (instance.matrix.tile_height, instance.matrix.tile_width)
    if not size or any(not low <= side <= high for low, side, high in zip(least, size, most, strict=True)):
        found = f"{size[1]} x {size[0]} px" if size else "no such stream"
        raise ValueError(f"expected {most[1]} x {most[0]} px of RGB, found {found}")


def is_declared(stream: bytes, photometric: str) -> bool:
    """Whether any decoder sees the colours meant, given the stream alone or with Adobe's marker for RGB in front."""
    rgb = holds_rgb(stream, photometric)
    return jpeg.is_rgb(jpeg.complete_stream(stream, None, rgb).stream) == rgb


def declare_colour(stream: bytes, photometric: str) -> EncodedTile:
    """The stream, marked for decoders to see the colours meant. Raises ValueError where another mark denies them."""
    if not is_declared(stream, photometric):
        raise ValueError("its stream and its header contradict each other on colour")
    return jpeg.complete_stream(stream, None, holds_rgb(stream, photometric))


def holds_rgb(stream: bytes, photometric: str) -> bool:
    """Whether three components are RGB: the rule of all containers, and no Adobe marker says YCbCr."""
    adobe = jpeg.header_markers(stream).get(0xEE, b"")
    says_ycbcr = adobe.startswith(b"Adobe") and adobe[11:12] > b"\0"
    return jpeg.rule_rgb(stream, photometric == "RGB") and not says_ycbcr
