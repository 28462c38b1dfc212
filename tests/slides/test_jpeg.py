from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from wsisum_cli.slides.jpeg import ADOBE_RGB, EOI, JFIF, SOI, decode, encode, frame_size, holds_only_pixels


@pytest.fixture(scope="module")
def stream() -> bytes:
    return encode(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))


def segment(code: int, payload: bytes) -> bytes:
    return bytes([0xFF, code]) + (len(payload) + 2).to_bytes(2, "big") + payload


def test_frame_size(stream: bytes):
    assert frame_size(stream) == (48, 64)
    assert frame_size(SOI + EOI) == ()
    assert frame_size(b"no JPEG at all") == ()


def test_pixels_and_colour_marks_are_only_pixels(stream: bytes):
    assert holds_only_pixels(stream)
    rest = stream[2:]
    assert holds_only_pixels(SOI + ADOBE_RGB + rest)
    assert holds_only_pixels(SOI + JFIF + rest)
    assert holds_only_pixels(stream + b"\0\0")


@pytest.mark.parametrize("code", [0xFE, 0xE1, 0xE2, 0xED, 0xEF])
def test_comments_and_application_data_are_not(stream: bytes, code: int):
    assert not holds_only_pixels(SOI + segment(code, b"DOE^JANE") + stream[2:])
    assert not holds_only_pixels(stream[:-2] + segment(code, b"DOE^JANE") + EOI)


@pytest.mark.parametrize(
    "long", [segment(0xE0, b"JFIF\0" + b"DOE^JANE" * 3), segment(0xEE, b"Adobe" + b"DOE^JANE" * 3)]
)
def test_colour_marks_with_more_in_them_are_not(stream: bytes, long: bytes):
    assert not holds_only_pixels(SOI + long + stream[2:])


def test_text_before_the_end_is_not(stream: bytes):
    """A decoder skips it."""
    hidden = stream[:-2] + b"DOE^JANE S20-1234" + EOI
    assert np.array_equal(decode(hidden), decode(stream))
    assert not holds_only_pixels(hidden)


def test_text_in_a_number_of_lines_is_not(stream: bytes):
    assert not holds_only_pixels(stream[:-2] + segment(0xDC, b"\0\x30DOE^JANE") + EOI)


def test_text_in_a_table_is_not(stream: bytes):
    """Behind its numbers, as a table that nothing uses, or in one that is given again."""
    text = b"DOE^JANE".ljust(64)
    first = stream.index(b"\xff\xdb")
    end = first + 2 + int.from_bytes(stream[first + 2 : first + 4], "big")
    used = stream[first + 4 : end]
    for payload in (used + b"DOE^JANE", used + b"\3" + text, b"\0" + text + used):
        assert not holds_only_pixels(stream[:first] + segment(0xDB, payload) + stream[end:])
    counts = bytes([0] * 7 + [64] + [0] * 8)
    assert not holds_only_pixels(stream[:2] + segment(0xC4, b"\x03" + counts + text) + stream[2:])
    assert not holds_only_pixels(stream[:2] + segment(0xC4, b"\x00" + counts + text) + stream[2:])


def test_a_progressive_image_is_decoded():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    progressive = io.BytesIO()
    Image.fromarray(pixels).save(progressive, "JPEG", progressive=True)
    assert decode(progressive.getvalue()).shape == (48, 64, 3)


def test_images_of_endless_scans_are_refused():
    """Each scan of a few bytes takes as long to decode as the whole image."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    progressive = io.BytesIO()
    Image.fromarray(pixels).save(progressive, "JPEG", progressive=True)
    stream = progressive.getvalue()
    last = stream.rindex(b"\xff\xda")
    with pytest.raises(ValueError, match="more than 100 scans"):
        decode(stream[:-2] + stream[last:-2] * 100 + EOI)


def test_what_stands_behind_the_end_is_not(stream: bytes):
    assert not holds_only_pixels(stream + b"DOE^JANE")


@pytest.mark.parametrize("broken", [b"", SOI, SOI + EOI, b"DOE^JANE"])
def test_what_is_no_stream_is_not(broken: bytes):
    assert not holds_only_pixels(broken)
