from __future__ import annotations

import numpy as np
import pytest

from wsisum_cli.slides.jpeg import ADOBE_RGB, EOI, JFIF, SOI, encode, frame_size, holds_only_pixels


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


def test_what_stands_behind_the_end_is_not(stream: bytes):
    assert not holds_only_pixels(stream + b"DOE^JANE")


@pytest.mark.parametrize("broken", [b"", SOI, SOI + EOI, b"DOE^JANE"])
def test_what_is_no_stream_is_not(broken: bytes):
    assert not holds_only_pixels(broken)
