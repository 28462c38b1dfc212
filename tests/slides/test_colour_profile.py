"""Colour profiles keep what turns colours into others, and nothing else."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from wsisum_cli.slides.colour_profile import HEADER, colour_tables, only_numbers
from wsisum_cli.slides.slide import open_pyramid


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def as_lab(profile: bytes) -> np.ndarray:
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform: Any = ImageCms.buildTransform(opened, ImageCms.createProfile("LAB"), "RGB", "LAB")
    return np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))


def with_tag(profile: bytes, tag: bytes, data: bytes) -> bytes:
    """The profile with one more tag."""
    (count,) = struct.unpack_from(">I", profile, HEADER)
    table = bytearray(profile[HEADER + 4 : HEADER + 4 + 12 * count])
    for index in range(count):
        (offset,) = struct.unpack_from(">I", table, 12 * index + 4)
        struct.pack_into(">I", table, 12 * index + 4, offset + 12)
    body = profile[HEADER + 4 + 12 * count :]
    table += struct.pack(">4sII", tag, HEADER + 4 + 12 * (count + 1) + len(body), len(data))
    whole = profile[:HEADER] + struct.pack(">I", count + 1) + bytes(table) + body + data
    return struct.pack(">I", len(whole)) + whole[4:]


PLANTED = b"DOE^JANE S20-1234"


def test_colours_are_the_same():
    cleaned = colour_tables(srgb())
    assert cleaned is not None
    assert np.array_equal(as_lab(cleaned), as_lab(srgb()))
    assert colour_tables(cleaned) == cleaned


@pytest.mark.parametrize("name", ["tcga-cr-7395-01a-01-ts1.svs", "boxes.tiff", "boxes_0.dcm"])
def test_colours_of_real_profiles_are_the_same(shared: Path, name: str):
    pyramid = open_pyramid(shared / "fixtures" / name)
    profile = pyramid.icc_profile
    pyramid.close()
    assert profile is not None
    cleaned = colour_tables(profile)
    assert cleaned is not None
    assert np.array_equal(as_lab(cleaned), as_lab(profile))
    said = ImageCms.ImageCmsProfile(io.BytesIO(cleaned)).profile
    assert (said.profile_description, said.copyright) == ("colour profile", "colour profile")
    assert str(said.creation_date) == "2000-01-01 00:00:00"


def test_text_and_dates_go():
    profile = bytearray(srgb())
    profile[24:36] = struct.pack(">6H", 1961, 4, 12, 1, 2, 3)
    profile[4:8] = profile[40:44] = profile[48:52] = profile[80:84] = b"JANE"
    profile[84:100] = b"S20-1234S20-1234"
    planted = with_tag(bytes(profile), b"priv", b"text\0\0\0\0" + PLANTED)
    planted = with_tag(planted, b"targ", b"text\0\0\0\0" + PLANTED)
    assert np.array_equal(as_lab(planted), as_lab(srgb()))
    cleaned = colour_tables(planted)
    assert cleaned == colour_tables(srgb())
    assert cleaned is not None
    assert not any(word in cleaned for word in (b"JANE", b"S20", struct.pack(">HHH", 1961, 4, 12)))


def test_text_behind_the_numbers_of_a_table_goes():
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 563) + PLANTED
    planted = with_tag(srgb(), b"kTRC", curve)
    cleaned = colour_tables(planted)
    assert cleaned is not None
    assert b"kTRC" in cleaned
    assert PLANTED not in cleaned


def curves(count: int) -> bytes:
    return count * (b"para" + bytes(4) + struct.pack(">HHi", 0, 0, 1 << 16))


def table_of(forward: bool, planted: bytes = b"") -> bytes:
    """Data of type mAB or mBA: all five parts, with `planted` behind each."""
    head, parts, offsets = 32, b"", []
    clut = bytes([2, 2, 2] + 13 * [0]) + b"\2\0\0\0" + np.arange(24, dtype=">u2").tobytes()
    matrix = struct.pack(">12i", *(1 << 16 if n in (0, 4, 8) else 0 for n in range(12)))
    for part in (curves(3), matrix, curves(3), clut, curves(3)):
        offsets.append(head + len(parts))
        parts += part + planted
    kind = b"mAB " if forward else b"mBA "
    return kind + bytes(4) + b"\3\3\0\0" + struct.pack(">5I", *offsets) + parts


@pytest.mark.parametrize("forward", [True, False])
def test_text_between_the_parts_of_a_table_goes(forward: bool):
    tag = b"A2B0" if forward else b"B2A0"
    plain, planted = (colour_tables(with_tag(srgb(), tag, table_of(forward, text))) for text in (b"", 4 * PLANTED[:16]))
    assert plain is not None
    assert planted is not None
    assert tag in planted
    assert PLANTED[:8] not in planted
    assert only_numbers(table_of(forward)) == table_of(forward)[8:]
    assert table_of(forward)[8:] in plain


def test_a_table_that_is_cut_short_is_no_profile():
    assert colour_tables(with_tag(srgb(), b"A2B0", table_of(True)[:-4])) is None


def test_what_is_no_profile_of_colours_is_left_out():
    profile = srgb()
    cut_short = (profile[:100], profile[:140], profile[:HEADER] + b"\xff\xff\xff\xff")
    for junk in (b"", b"a colour profile", bytes(4000), *cut_short, profile.replace(b"RGB ", b"JANE")):
        assert colour_tables(junk) is None


def test_damaged_profiles_never_raise():
    rng = np.random.default_rng(0)
    profile = np.frombuffer(srgb(), np.uint8)
    for _ in range(2000):
        damaged = profile.copy()
        damaged[rng.integers(0, len(damaged), 4)] = rng.integers(0, 256, 4)
        colour_tables(damaged.tobytes())


def test_no_profile_stays_none():
    assert colour_tables(None) is None
