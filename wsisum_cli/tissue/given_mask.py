"""Masks of tissue made elsewhere: a file comes in, a mask in the frame of an overview goes out."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.errors import MaskError

Mask = NDArray[np.bool_]
Image = NDArray[np.uint8]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: px of a mask as PNG, 32,768 a side: the most that OpenCV decodes.
MAX_MASK_PX = 1 << 30
MAX_MASK_BYTES = 1 << 30  # of its px once decoded, and of any file
MAX_INFLATION = 1040  # bytes that one of a PNG can stand for; deflate reaches 1,032
PNG_CHUNK, MAX_CHUNKS = 12, 1 << 18  # bytes of a chunk beside its data; a mask of 1 GiB has 131,072 of 8 kB
MAX_GEOJSON = 1 << 26  # bytes; a million corners take half as many
#: px of an overview that all polygons may span together: 1,000 that each span the largest overview.
MAX_SPANNED = 1000 << 24
TOO_LONG = "polygons that would take minutes to fill"
ROW_PX = 512  # px that one edge takes as long as where it crosses one row
#: Kind of a PNG -> channels as stored, and as decoded: palettes become colours.
CHANNELS = {0: (1, 1), 2: (3, 3), 3: (1, 4), 4: (2, 4), 6: (4, 4)}
MAX_PLACE = 1e5  # px of the overview from its corner, above or below: filling begins there
MAX_ASPECT_ERROR = 0.02
SUBPIXEL_BITS = 4


def read_mask(path: Path, shape: tuple[int, int], downsample: float) -> Mask:
    """Read a mask of tissue, made elsewhere, into the frame of an overview of `shape` (H, W): (H, W) bool.

    A PNG covers the whole slide at any size; what is neither black nor transparent is tissue. GeoJSON holds
    polygons in level-0 px, of which an overview px spans `downsample`; what lies in one, outside its holes,
    is tissue. Raises MaskError where the file is neither, does not fit, or marks nothing.
    """
    try:
        with path.open("rb") as file:
            data = file.read(len(PNG_SIGNATURE))
            most = MAX_MASK_BYTES if data == PNG_SIGNATURE else MAX_GEOJSON
            data += file.read(most)
    except OSError as error:
        raise MaskError(f"{path.name}: the mask cannot be read: {error.strerror}; check the path.") from error
    if len(data) > most:
        raise MaskError(f"{path.name}: expected a mask of at most {most} bytes, found more; export a coarser one.")
    if data.startswith(PNG_SIGNATURE):
        mask = _read_png(path, data, shape)
    elif path.suffix.lower() in (".json", ".geojson") or data.lstrip()[:1] in (b"{", b"["):
        mask = _read_geojson(path, data, shape, downsample)
    else:
        raise MaskError(f"{path.name}: expected a mask as PNG or GeoJSON, found neither; export it as one of them.")
    if not mask.any():
        raise MaskError(
            f"{path.name}: expected marked tissue, found none inside the slide; "
            "mark it with non-zero pixels (PNG) or with polygons in level-0 pixels (GeoJSON)."
        )
    return mask


def _read_png(path: Path, data: bytes, shape: tuple[int, int]) -> Mask:
    import cv2

    marked = _marked(_decode_png(path, data))
    (height, width), (rows, columns) = shape, marked.shape
    if abs(columns * height / (rows * width) - 1) > MAX_ASPECT_ERROR:
        raise MaskError(
            f"{path.name}: expected a mask with the slide's aspect ratio, {width / height:.3f} (within 2 %), "
            f"found {columns / rows:.3f} ({columns} x {rows} px); export it of the whole slide, not turned."
        )
    shrinks = rows > height or columns > width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    shown = marked.astype(np.uint8) * np.uint8(255)
    return np.asarray(cv2.resize(shown, (width, height), interpolation=method)) > 127


def _decode_png(path: Path, data: bytes) -> NDArray[Any]:
    """The pixels of a PNG, (H, W) or (H, W, 3 or 4)."""
    import cv2

    pixels = None
    _check_png(path, data)
    if b"IEND" in data[-64:]:  # a cut file would be decoded as far as it goes
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise MaskError(f"{path.name}: the PNG cannot be decoded ({error.err}); export a smaller one.") from error
    if pixels is None:
        raise MaskError(f"{path.name}: expected a PNG, found a damaged one of {len(data)} bytes; export it again.")
    return np.asarray(pixels)


def _check_png(path: Path, data: bytes) -> None:
    """Raise MaskError for a PNG that tells of more px than a mask has, or of more bytes than it has.

    It may be a few bytes for gigabytes: OpenCV makes room for a chunk of whatever length before it reads it.
    """
    if len(data) < 26 or data[12:16] != b"IHDR":
        return  # the decoder says that it is damaged
    width, height, depth, kind = struct.unpack_from(">IIBB", data, 16)
    stored, decoded = CHANNELS.get(kind, (1, 1))
    decoded *= 2 if depth == 16 else 1
    if width * height > MAX_MASK_PX or width * height * decoded > MAX_MASK_BYTES:
        raise MaskError(
            f"{path.name}: expected a mask of at most {MAX_MASK_PX} px and {MAX_MASK_BYTES >> 20} MiB, found "
            f"{width} x {height} px; export a coarser one."
        )
    if height * (width * stored * depth // 8) > MAX_INFLATION * len(data):
        raise MaskError(
            f"{path.name}: expected a PNG of {width} x {height} px, found a damaged one of {len(data)} bytes; export "
            "it again."
        )
    if not _has_whole_chunks(data):
        raise MaskError(f"{path.name}: expected a PNG, found a damaged one of {len(data)} bytes; export it again.")


def _has_whole_chunks(data: bytes) -> bool:
    """Whether the chunks of a PNG follow each other within the file, up to its end chunk."""
    at = len(PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + PNG_CHUNK > len(data):
            return False
        length, kind = struct.unpack_from(">I4s", data, at)
        at += PNG_CHUNK + length
        if kind == b"IEND":
            return bool(at <= len(data))
    return False


def _marked(pixels: NDArray[Any]) -> Mask:
    if pixels.ndim == 2:
        return np.asarray(pixels > 0)
    coloured = (pixels[..., 0] | pixels[..., 1] | pixels[..., 2]) > 0
    if pixels.shape[2] < 4:
        return np.asarray(coloured)
    opaque = pixels[..., 3] > 0
    marked = coloured & opaque
    # Black drawn on nothing is a mask as well; black everywhere is not.
    return np.asarray(marked if marked.any() or opaque.all() else opaque)


def _read_geojson(path: Path, data: bytes, shape: tuple[int, int], downsample: float) -> Mask:
    mask = np.zeros(shape, np.uint8)
    found = spanned = 0
    try:
        for polygon in _polygons(json.loads(data.decode("utf-8-sig"))):
            # Overview px are counted from their centres.
            spanned += _draw(mask, [np.array([p[:2] for p in ring], float) / downsample - 0.5 for ring in polygon])
            found += 1
            if spanned > MAX_SPANNED:
                raise ValueError(TOO_LONG)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise MaskError(
            f"{path.name}: expected GeoJSON with polygons in level-0 pixels, found something else ({error}); "
            "export the annotations again, as a FeatureCollection."
        ) from error
    if not found:
        raise MaskError(
            f"{path.name}: expected a Polygon or MultiPolygon, found none; draw the tissue as areas, not as points "
            "or lines."
        )
    return mask > 0


def _polygons(node: Any) -> Iterator[list[Any]]:
    """Every polygon below a GeoJSON node: an outer ring, then its holes."""
    if node is None:  # a feature may lack a geometry
        return
    if isinstance(node, list):
        parts = node
    elif node["type"] == "FeatureCollection":
        parts = node["features"]
    elif node["type"] == "GeometryCollection":
        parts = node["geometries"]
    elif node["type"] == "Feature":
        parts = [node["geometry"]]
    else:
        parts = []
        polygons = {"Polygon": [node.get("coordinates")], "MultiPolygon": node.get("coordinates")}
        yield from filter(None, polygons.get(node["type"], []))
    for part in parts:
        yield from _polygons(part)


def _draw(mask: Image, rings: list[NDArray[np.float64]]) -> int:
    """Fill a polygon into the mask, touching no more than it covers; each ring is (N, 2) x, y in mask px.

    Gives the px that it spans, with those that its edges count for: filling takes so long. Raises ValueError.
    """
    import cv2

    if any(ring.ndim != 2 or len(ring) < 3 or not (np.abs(ring) < MAX_PLACE).all() for ring in rings):
        raise ValueError("a ring of fewer than three points, or too far out")
    crossed = sum(float(np.abs(np.diff(ring[:, 1], append=ring[:1, 1])).sum()) for ring in rings)
    if crossed * ROW_PX > MAX_SPANNED:
        raise ValueError(TOO_LONG)
    corner, end = np.floor(rings[0].min(axis=0)), np.ceil(rings[0].max(axis=0)) + 1
    left, top = np.clip(corner, 0, mask.shape[::-1]).astype(int)
    right, bottom = np.clip(end, 0, mask.shape[::-1]).astype(int)
    if left >= right or top >= bottom:
        return 0
    canvas = np.zeros((bottom - top, right - left), np.uint8)
    scaled = [np.rint((ring - (left, top)) * 2**SUBPIXEL_BITS).astype(np.int32) for ring in rings]
    cv2.fillPoly(canvas, scaled, [1], shift=SUBPIXEL_BITS)
    mask[top:bottom, left:right] |= canvas
    return canvas.size + int(crossed * ROW_PX)
