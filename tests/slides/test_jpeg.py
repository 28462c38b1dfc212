from __future__ import annotations

import io
import zipfile
from pathlib import Path

import draw
import imagecodecs
import numpy as np
import pytest
import vendors
from PIL import Image

from wsisum_cli.slides.jpeg import (
    ADOBE_RGB,
    EOI,
    JFIF,
    SOI,
    decode,
    encode,
    frame_size,
    holds_only_pixels,
    is_one_scan,
    is_rgb,
    is_subsampled,
    looks_rgb,
    rule_rgb,
    settle_colour,
    with_colour,
)

ADOBE_YCBCR = ADOBE_RGB[:-1] + b"\1"


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


@pytest.mark.parametrize("marker", [b"\xff\x01", b"\xff\xd0"])
def test_a_comment_with_another_header_hides_no_scans(marker: bytes):
    """Behind a marker without a length, a parser that expects one reads a comment as the header."""
    stream = encode(np.zeros((16, 16, 3), np.uint8))
    hidden = stream[2 : stream.index(b"\xff\xda") + 14]
    comment = b"\xff\xfe" + (len(hidden) + 2).to_bytes(2, "big") + hidden
    assert is_one_scan(stream)
    assert not is_one_scan(stream[:2] + marker + comment + stream[2:])


def test_a_header_that_stops_short_has_no_scan():
    stream = encode(np.zeros((16, 16, 3), np.uint8))
    assert not is_one_scan(stream[: stream.index(b"\xff\xda")])
    assert not is_one_scan(stream[:2] + b"garbage")


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


# --- colour


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return draw.draw_tissue(256, 256, seed=4, kinds=("stroma", "tumour"))


def unmarked(pixels: np.ndarray, rgb: bool, subsampling: str = "444") -> bytes:
    """A stream that does not say what its components are."""
    if rgb:
        return vendors.without_colour_marks(vendors.jpeg(pixels, rgb=True))
    return vendors.without_colour_marks(bytes(imagecodecs.jpeg8_encode(pixels, 90, subsampling=subsampling)))


def marked(stream: bytes, mark: bytes) -> bytes:
    return SOI + mark + stream[2:]


@pytest.mark.parametrize("says_rgb", [True, False])
@pytest.mark.parametrize("jfif", [True, False])
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440"])
def test_rgb_needs_container_marker_and_sampling(tissue, says_rgb: bool, jfif: bool, subsampling: str):
    stream = unmarked(tissue, rgb=False, subsampling=subsampling)
    stream = marked(stream, JFIF) if jfif else stream
    assert is_subsampled(stream) == (subsampling != "444")
    assert rule_rgb(stream, says_rgb) == (says_rgb and not jfif and subsampling == "444")


@pytest.mark.parametrize("mark", [b"", JFIF, ADOBE_YCBCR, ADOBE_RGB], ids=["none", "jfif", "adobe", "adobe-rgb"])
@pytest.mark.parametrize("subsampling", ["444", "420"])
@pytest.mark.parametrize("says_rgb", [True, False])
def test_contradicting_streams_show_what_was_stored(tissue, mark: bytes, subsampling: str, says_rgb: bool):
    stream = marked(unmarked(tissue, rgb=False, subsampling=subsampling), mark)
    agree = says_rgb and subsampling == "444" and mark in (b"", ADOBE_RGB)  # only the whole slide's colours can tell
    rgb, by_pixels = settle_colour([stream], says_rgb)
    assert rgb == agree
    assert by_pixels == (says_rgb and subsampling == "444" and mark == ADOBE_YCBCR)
    shown = with_colour(stream, rgb)
    assert is_rgb(shown) == rgb
    assert agree or np.abs(decode(shown).astype(int) - tissue).mean() < 6


@pytest.mark.parametrize("mark", [JFIF, ADOBE_YCBCR, ADOBE_RGB, b""], ids=["jfif", "adobe", "adobe-rgb", "none"])
def test_stored_rgb_is_shown_as_rgb_whatever_its_marks(tissue, mark: bytes):
    stream = marked(unmarked(tissue, rgb=True), mark)
    assert settle_colour([stream], says_rgb=True) == (True, mark == JFIF)
    if mark == ADOBE_RGB:
        assert settle_colour([stream], says_rgb=False) == (True, True)


def test_pixels_that_say_nothing_leave_it_to_the_rule():
    grey = np.full((64, 64, 3), 128, np.uint8)  # the same in both
    stream = marked(unmarked(grey, rgb=False), ADOBE_YCBCR)
    assert settle_colour([stream[:-9]], says_rgb=True) == (True, False)  # a stream that cannot be decoded


def test_components_of_real_tiles_are_told_apart(shared: Path):
    with zipfile.ZipFile(shared / "tiles" / "atlas-he-0.5mpp.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][::30]
        tiles = [np.asarray(imagecodecs.jpeg8_decode(archive.read(name))) for name in names]
    told = [(looks_rgb(unmarked(tile, rgb=True)), looks_rgb(unmarked(tile, rgb=False))) for tile in tiles]
    assert not any(rgb is False or ycbcr is True for rgb, ycbcr in told)
    assert sum(pair == (True, False) for pair in told) > 0.95 * len(told)
