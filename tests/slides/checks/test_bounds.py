"""What a tile asks for is known, and bounded, before it is decoded."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from streams import STREAMS

from wsisum_cli.slides.checks.bounds import check_tile
from wsisum_cli.slides.checks.stream_sizes import count_precincts, image_size, read_jpeg2000
from wsisum_cli.slides.jpeg import MAX_SCANS

JPEG, JPEG2000, LERC, WEBP = 7, 33005, 34887, 50001
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("codec", STREAMS)
def test_a_tile_larger_than_it_says_is_refused(codec: str):
    stream, compression = bytes(STREAMS[codec]()), JPEG2000 if "2000" in codec else WEBP
    check_tile(stream, compression, 300 * 37)
    with pytest.raises(ValueError, match="an image of 300 x 37 px, expected at most 11099 px"):
        check_tile(stream, compression, 300 * 37 - 1)
    with pytest.raises(ValueError, match="does not say how large"):
        check_tile(stream[1:12], compression, 300 * 37)


def test_a_jpeg_larger_than_its_tile_is_refused():
    stream = bytes(imagecodecs.jpeg8_encode(PIXELS))
    check_tile(stream, JPEG, 64 * 64)
    at = stream.index(b"\xff\xc0")
    bomb = stream[: at + 5] + struct.pack(">HH", 65_500, 65_500) + stream[at + 9 :]
    with pytest.raises(ValueError, match="an image of 65500 x 65500 px, expected at most 4096"):
        check_tile(bomb, JPEG, 64 * 64)
    with pytest.raises(ValueError, match="does not say how large"):
        check_tile(stream[:at] + stream[at + 19 :], JPEG, 64 * 64)
    with pytest.raises(ValueError, match="does not say how large"):  # one size in the tables, another in the tile
        check_tile(stream, JPEG, 64 * 64, b"\xff\xd8" + bomb[at : at + 19] + b"\xff\xd9")


def test_a_jpeg_of_too_many_scans_is_refused():
    written = io.BytesIO()
    Image.fromarray(PIXELS).save(written, "JPEG", progressive=True)
    stream = written.getvalue()
    check_tile(stream, JPEG, 64 * 64)
    scan = stream.rindex(b"\xff\xda")
    with pytest.raises(ValueError, match="more than 100 scans"):
        check_tile(stream[:-2] + MAX_SCANS * stream[scan:-2] + b"\xff\xd9", JPEG, 64 * 64)


def jpeg2000(**options: object) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k", **options))


def with_precincts(stream: bytes, size: int) -> bytes:
    """The stream with precincts of 2 ** `size` px a side, as its header says."""
    at = stream.index(b"\xff\x52")
    (length,) = struct.unpack_from(">H", stream, at + 2)
    coding = bytearray(stream[at : at + 2 + length])
    levels, coding[4] = coding[9], coding[4] | 1
    coding += bytes([size << 4 | size]) * (levels + 1)
    struct.pack_into(">H", coding, 2, len(coding) - 2)
    return stream[:at] + bytes(coding) + stream[at + 2 + length :]


def test_jpeg2000_of_tiny_precincts_is_refused():
    stream = jpeg2000()
    assert count_precincts(stream) == 0
    large = with_size(with_precincts(stream, 0), 4096)
    assert count_precincts(large) > 4096 * 4096
    with pytest.raises(ValueError, match="precincts"):
        check_tile(large, JPEG2000, 1 << 24)
    check_tile(with_precincts(stream, 5), JPEG2000, 64 * 64)
    assert count_precincts(with_precincts(stream, 5)) > 4


def with_size(stream: bytes, side: int) -> bytes:
    """The stream with another size in its header, of the image and of its one part."""
    at = stream.index(b"\xff\x51") + 6
    changed = bytearray(stream)
    struct.pack_into(">2I", changed, at, side, side)
    struct.pack_into(">2I", changed, at + 16, side, side)
    return bytes(changed)


def with_parts(stream: bytes) -> bytes:
    changed = bytearray(stream)
    struct.pack_into(">2I", changed, stream.index(b"\xff\x51") + 22, 1, 1)
    return bytes(changed)


def with_components(stream: bytes) -> bytes:
    changed = bytearray(stream)
    struct.pack_into(">H", changed, stream.index(b"\xff\x51") + 38, 16_384)
    return bytes(changed)


@pytest.mark.parametrize("change", [with_parts, with_components])
def test_jpeg2000_cut_small_or_of_many_components_is_refused(change: Callable[[bytes], bytes]):
    stream = jpeg2000()
    check_tile(stream, JPEG2000, 64 * 64)
    assert read_jpeg2000(change(stream)) != read_jpeg2000(stream)
    with pytest.raises(ValueError, match=r"more than 1024 tiles|16384 components"):
        check_tile(change(stream), JPEG2000, 64 * 64)


def test_all_images_of_a_lerc_stream_count():
    stream = bytes(imagecodecs.lerc_encode(PIXELS))
    width, height = image_size(stream)
    assert width * height == 64 * 64
    assert image_size(3 * stream) == (64, 192)
    with pytest.raises(ValueError, match="an image of 64 x 6400 px"):
        check_tile(100 * stream, LERC, 4 * 64 * 64)


def test_moving_pictures_of_jpeg_xl_are_refused():
    frames = np.stack([PIXELS] * 3)
    moving = bytes(imagecodecs.jpegxl_encode(frames, photometric="rgb", planar=False))
    with pytest.raises(ValueError, match="moving picture"):
        image_size(moving)
