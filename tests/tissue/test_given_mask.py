"""Masks of tissue made elsewhere are read into the frame of the overview, or refused with what is wrong."""

from __future__ import annotations

import json
import struct
import zlib

import cv2
import numpy as np
import pytest

from wsisum_cli.errors import MaskError
from wsisum_cli.tissue import given_mask
from wsisum_cli.tissue.given_mask import read_mask

TISSUE = cv2.ellipse(np.zeros((400, 500), np.uint8), (200, 200), (130, 80), 20, 0, 360, 1, -1) > 0


def test_a_png_of_another_size_is_brought_to_the_overview(tmp_path):
    path = tmp_path / "mask.png"
    for scale in (0.25, 0.5, 1.0, 3.0):
        cv2.imwrite(str(path), cv2.resize(TISSUE.astype(np.uint8) * 255, None, fx=scale, fy=scale))
        mask = read_mask(path, TISSUE.shape, 32.0)
        assert mask.shape == TISSUE.shape
        assert mask.dtype == bool
        assert (mask == TISSUE).mean() > 0.99


MARKS = TISSUE.astype(np.uint8)
FULL = np.full_like(MARKS, 255)
ENCODINGS = {
    "one": MARKS,
    "grey": MARKS * 255,
    "sixteen bits": MARKS.astype(np.uint16) * 256,
    "rgb": np.dstack([0 * MARKS, 0 * MARKS, MARKS * 7]),
    "opaque": np.dstack([MARKS * 255, 0 * MARKS, 0 * MARKS, FULL]),
    "white on nothing": np.dstack([MARKS * 255] * 4),
    "black on nothing": np.dstack([0 * MARKS, 0 * MARKS, 0 * MARKS, MARKS * 255]),
    "transparent white": np.dstack([FULL, FULL, FULL, MARKS * 255]),
}


@pytest.mark.parametrize("pixels", ENCODINGS.values(), ids=ENCODINGS)
def test_every_way_to_mark_pixels_is_understood(tmp_path, pixels):
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), pixels)
    assert np.array_equal(read_mask(path, TISSUE.shape, 32.0), TISSUE)


def png(colour_type, palette, depth=8):
    """TISSUE as a PNG that OpenCV does not write."""
    rows = np.packbits(TISSUE, axis=1) if depth == 1 else TISSUE.astype(np.uint8)
    height, width = TISSUE.shape
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [(b"IHDR", header), *palette, (b"IDAT", pixels), (b"IEND", b"")]
    written = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + written


@pytest.mark.parametrize("depth", [1, 8])
@pytest.mark.parametrize(
    ("colour_type", "palette"),
    [
        (0, []),
        (3, [(b"PLTE", bytes([0, 0, 0, 200, 30, 30]))]),
        (3, [(b"PLTE", bytes([255, 255, 255, 200, 30, 30])), (b"tRNS", bytes([0, 255]))]),
    ],
    ids=["grey", "palette", "transparent palette"],
)
def test_a_palette_counts_by_its_colours(tmp_path, colour_type, palette, depth):
    path = tmp_path / "mask.png"
    path.write_bytes(png(colour_type, palette, depth))
    assert np.array_equal(read_mask(path, TISSUE.shape, 32.0), TISSUE)


SQUARE = [[320, 320], [1600, 320], [1600, 1600], [320, 1600], [320, 320]]
HOLE = [[640, 640], [960, 640], [960, 960], [640, 960], [640, 640]]
FAR = [[2400, 2400], [2720, 2400], [2720, 2720], [2400, 2720], [2400, 2400]]
POLYGON = {"type": "Polygon", "coordinates": [SQUARE, HOLE]}
FEATURE = {"type": "Feature", "geometry": POLYGON, "properties": {"objectType": "annotation"}}


@pytest.mark.parametrize(
    "geojson",
    [
        POLYGON,
        FEATURE,
        [FEATURE],
        {"type": "FeatureCollection", "features": [FEATURE]},
        {"type": "GeometryCollection", "geometries": [POLYGON, {"type": "Point", "coordinates": [9, 9]}]},
        {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE]]},
        [
            FEATURE,
            {"type": "Feature", "geometry": None},
            {"type": "LineString", "coordinates": [[0, 0], [9, 9]]},
        ],
        {"type": "Polygon", "coordinates": [[[*p, 0] for p in SQUARE], HOLE]},
    ],
)
def test_every_kind_of_geojson_is_drawn_with_its_holes(tmp_path, geojson):
    path = tmp_path / "mask.geojson"
    path.write_text(json.dumps(geojson), encoding="utf-8-sig")
    mask = read_mask(path, (100, 120), 32.0)
    expected = np.zeros((100, 120), bool)
    expected[10:50, 10:50] = True
    expected[20:30, 20:30] = False
    inner = cv2.erode(expected.astype(np.uint8), np.ones((3, 3))) > 0
    outer = cv2.dilate(expected.astype(np.uint8), np.ones((3, 3))) > 0
    assert mask[inner].all()
    assert not mask[~outer].any()
    assert not mask[22:28, 22:28].any()


def test_polygons_add_up_and_may_leave_the_slide(tmp_path):
    path = tmp_path / "mask.json"
    large = [[-1e6, -1e6], [1e6, -1e6], [1e6, 64], [-1e6, 64]]
    over_the_hole = {"type": "Polygon", "coordinates": [HOLE]}
    far = {"type": "MultiPolygon", "coordinates": [[FAR], [large]]}
    path.write_text(json.dumps([POLYGON, over_the_hole, far]))
    mask = read_mask(path, (100, 120), 32.0)
    assert mask[12:48, 12:48].all()
    assert mask[76:84, 76:84].all()
    assert mask[0].all()
    assert not mask[55:70].any()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.png", None, "cannot be read"),
        ("empty.png", b"", "found neither"),
        ("photo.jpg", b"\xff\xd8\xff\xe0", "found neither"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "damaged"),
        ("half.png", png(0, [])[:600], "damaged"),
        ("noise.png", b"\x89PNG\r\n\x1a\n" + b"x" * 99 + b"IEND", "damaged"),
        ("empty.geojson", b"", "GeoJSON"),
        ("cut.geojson", b'{"type": "Polygon"', "GeoJSON"),
        ("latin.geojson", b'{"type": "\xe9"}', "GeoJSON"),
        ("number.geojson", b"3", "GeoJSON"),
        ("deep.geojson", b"[" * 100_000, "GeoJSON"),
        ("untyped.geojson", b'{"coordinates": []}', "GeoJSON"),
        (
            "text.geojson",
            b'{"type": "Polygon", "coordinates": [[["a", "b"], ["c", "d"], ["e", "f"]]]}',
            "GeoJSON",
        ),
        ("flat.geojson", b'{"type": "Polygon", "coordinates": [1, 2, 3]}', "GeoJSON"),
        ("short.geojson", b'{"type": "Polygon", "coordinates": [[[0, 0], [9, 9]]]}', "fewer than three"),
        ("nan.geojson", b'{"type": "Polygon", "coordinates": [[[0, 0], [9, NaN], [9, 9]]]}', "too far out"),
        ("huge.geojson", b'{"type": "Polygon", "coordinates": [[[0, 0], [1e30, 0], [9, 9]]]}', "too far out"),
        ("none.geojson", b'{"type": "FeatureCollection", "features": []}', "Polygon"),
        ("point.geojson", b'{"type": "Point", "coordinates": [1, 2]}', "Polygon"),
        (
            "outside.geojson",
            b'{"type": "Polygon", "coordinates": [[[-90, -90], [-50, -90], [-50, -50]]]}',
            "found none inside",
        ),
    ],
)
def test_a_mask_that_cannot_be_used_says_which_and_why(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MaskError, match=message) as caught:
        read_mask(path, (100, 120), 32.0)
    assert str(caught.value).startswith(f"{name}: ")
    assert caught.value.reason == "mask does not fit"


def test_a_png_of_another_shape_and_an_empty_one_are_refused(tmp_path):
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), np.full((100, 120), 255, np.uint8))
    assert read_mask(path, (200, 242), 32.0).all()  # within 2 %
    for shape in ((200, 250), (120, 100)):
        with pytest.raises(MaskError, match="aspect ratio"):
            read_mask(path, shape, 32.0)
    cv2.imwrite(str(path), np.zeros((100, 120), np.uint8))
    with pytest.raises(MaskError, match="found none"):
        read_mask(path, (100, 120), 32.0)


def header(width, height, depth=8, kind=0):
    """A PNG that ends after the head of its px."""
    fields = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunk = struct.pack(">I", 13) + fields + struct.pack(">I", zlib.crc32(fields))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND"


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ((1 << 31, 1 << 31), "at most"),
        ((32_769, 32_768), "at most"),
        ((20_000, 20_000, 8, 2), "at most"),
        ((20_000, 20_000, 8, 3), "at most"),
        ((16_384, 16_384, 16, 6), "at most"),
        ((32_768, 32_768, 1, 0), "damaged one"),  # within the limits, and of 60 bytes
        ((4_000, 4_000), "damaged one"),
    ],
)
def test_pngs_of_more_px_than_masks_have_are_not_decoded(tmp_path, monkeypatch, picture, said):
    monkeypatch.setattr(cv2, "imdecode", lambda *args: pytest.fail("decoded"))
    path = tmp_path / "mask.png"
    path.write_bytes(header(*picture))
    with pytest.raises(MaskError, match=said):
        read_mask(path, (100, 100), 32.0)


@pytest.mark.parametrize("length", [0x78000036, 0xFFFF0000, 1000])
def test_a_chunk_longer_than_its_png_is_not_decoded(tmp_path, monkeypatch, length):
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), np.full((60, 80), 255, np.uint8))
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.index(b"IDAT") - 4, length)
    path.write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *args: pytest.fail("decoded"))
    with pytest.raises(MaskError, match="damaged one"):
        read_mask(path, (60, 80), 32.0)


def test_a_blank_png_is_as_small_as_png_can_be(tmp_path):
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), np.full((8000, 8000), 255, np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert read_mask(path, (100, 100), 32.0).all()


def test_polygons_that_take_too_long_to_draw_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "mask.json"
    path.write_text(json.dumps([POLYGON] * 20))
    assert read_mask(path, (100, 120), 32.0).any()
    monkeypatch.setattr(given_mask, "MAX_SPANNED", 500_000)
    with pytest.raises(MaskError, match="take minutes to fill"):
        read_mask(path, (100, 120), 32.0)


def test_numbers_that_no_float_holds_are_refused(tmp_path):
    path = tmp_path / "mask.json"
    path.write_text(json.dumps(POLYGON).replace("640", "1" + "0" * 400))
    with pytest.raises(MaskError, match="GeoJSON"):
        read_mask(path, (100, 120), 32.0)


def test_files_larger_than_any_mask_are_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(given_mask, "MAX_GEOJSON", 100)
    path = tmp_path / "mask.json"
    path.write_text(json.dumps(POLYGON))
    with pytest.raises(MaskError, match="at most 100 bytes"):
        read_mask(path, (100, 120), 32.0)


def test_a_ring_whose_edges_cross_too_many_rows_is_refused_before_it_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "fillPoly", lambda *args, **options: pytest.fail("drawn"))
    path = tmp_path / "mask.json"
    zigzag = [[n % 3000, 64_000 * (n % 2)] for n in range(20_000)]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [zigzag]}))
    with pytest.raises(MaskError, match="take minutes to fill"):
        read_mask(path, (2000, 120), 32.0)
