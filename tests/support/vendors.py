"""Writes small slides in the file layouts of scanner vendors, for tests.

Each function takes the image of level 0, (height, width, 3) uint8, and makes a file which OpenSlide and
tifffile open as that vendor's. The layouts follow what those two readers look for, and real files where
one is at hand; they carry no more of the vendors' metadata than that.
"""

from __future__ import annotations

import base64
import functools
import io
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import cv2
import imagecodecs
import numpy as np
import tifffile
from draw import Image, draw_label, draw_macro, reduce
from PIL import Image as PillowImage

MPP = 0.25
PLAIN: dict[str, Any] = {"metadata": None, "software": None}
STRIPS: dict[str, Any] = {"compression": "jpeg", "photometric": "rgb", "rowsperstrip": 16}


def pyramid(image: Image, factors: tuple[int, ...]) -> list[Image]:
    return [image if factor == 1 else reduce(image, factor) for factor in factors]


def tiles(level: Image, side: int) -> Iterator[Image]:
    """The level's tiles in rows from the top left, those at the edge filled up with their last px."""
    height, width = level.shape[:2]
    padded = np.pad(level, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
    for y in range(0, padded.shape[0], side):
        for x in range(0, padded.shape[1], side):
            yield np.ascontiguousarray(padded[y : y + side, x : x + side])


# --- JPEG and JPEG 2000 streams


def jpeg(image: Image, quality: int = 90, rgb: bool = False) -> bytes:
    """A complete JPEG: YCbCr 4:2:0, or RGB stored as it is."""
    if rgb:
        stream = imagecodecs.jpeg8_encode(image, quality, colorspace="rgb", outcolorspace="rgb")
    else:
        stream = imagecodecs.jpeg8_encode(image, quality, subsampling="420")
    return bytes(stream)


def jpeg_segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Each marker and its segment, marker included; the last is the scan with all that follows it."""
    at = 2
    while True:
        marker, length = struct.unpack_from(">HH", stream, at)
        if marker == 0xFFDA:
            yield marker, stream[at:]
            return
        yield marker, stream[at : at + 2 + length]
        at += 2 + length


def split_tables(stream: bytes) -> tuple[bytes, bytes]:
    """A JPEG as Aperio stores it: its tables as a stream of their own, and the rest without them."""
    tables: list[bytes] = []
    rest: list[bytes] = []
    for marker, segment in jpeg_segments(stream):
        (tables if marker in (0xFFDB, 0xFFC4) else rest).append(segment)
    return b"\xff\xd8" + b"".join(tables) + b"\xff\xd9", b"\xff\xd8" + b"".join(rest)


def without_colour_marks(stream: bytes) -> bytes:
    """A JPEG that does not say whether it is RGB: no APP segments, and components 0, 1, 2."""
    parts = [b"\xff\xd8"]
    for marker, segment in jpeg_segments(stream):
        body = bytearray(segment)
        if marker == 0xFFC0:
            body[10:19:3] = bytes(range(3))
        elif marker == 0xFFDA:
            body[5:11:2] = bytes(range(3))
        if not 0xFFE0 <= marker <= 0xFFEF:
            parts.append(bytes(body))
    return b"".join(parts)


def jpeg2000(image: Image, ycbcr: bool, psnr: int = 44) -> bytes:
    """A JPEG 2000 codestream: RGB with component transform, or YCbCr components without."""
    if ycbcr:
        components = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
        image = np.ascontiguousarray(components, np.uint8)
    return bytes(imagecodecs.jpeg2k_encode(image, psnr, codecformat="j2k", mct=not ycbcr, reversible=False))


# --- Aperio


def _write_aperio(
    path: Path,
    image: Image,
    tile: int,
    mpp: float | None,
    codec: str,
    encode: Callable[[Image], bytes],
    **options: Any,
) -> None:
    """An SVS of levels 1, 1/4 and 1/16, thumbnail, label and macro; `options` are tifffile's."""
    height, width = image.shape[:2]
    head = "Aperio Image Library v11.2.1\r\n"
    size = f"{width}x{height} [0,0 {width}x{height}] ({tile}x{tile}) "
    tail = codec + (f"|AppMag = {10 / mpp:g}|MPP = {mpp:.4f}" if mpp else "")
    thumbnail, macro = reduce(image, max(1, max(image.shape) // 512)), draw_macro(image)
    with tifffile.TiffWriter(path) as tiff:
        for index, level in enumerate(pyramid(image, (1, 4, 16))):
            streams = [encode(each) for each in tiles(level, tile)]
            to = f"-> {level.shape[1]}x{level.shape[0]} " if index else ""
            described: dict[str, Any] = {"description": head + size + to + tail, "subfiletype": 0}
            layout: dict[str, Any] = {"shape": level.shape, "dtype": "uint8", "tile": (tile, tile)}
            tiff.write(iter(streams), **layout, **described, **options, **PLAIN)
            if not index:
                to = f"-> {thumbnail.shape[1]}x{thumbnail.shape[0]} - {tail}"
                tiff.write(thumbnail, description=head + size + to, subfiletype=0, **STRIPS, **PLAIN)
        lzw = {**STRIPS, "compression": "lzw"}
        tiff.write(draw_label(), description=f"{head}label 400x400", subfiletype=1, **lzw, **PLAIN)
        to = f"macro {macro.shape[1]}x{macro.shape[0]}"
        tiff.write(macro, description=head + to, subfiletype=9, **STRIPS, **PLAIN)


def write_aperio_jpeg(
    path: Path,
    image: Image,
    tile: int = 240,
    tables: bool = True,
    rgb: bool = True,
    mpp: float | None = MPP,
    quality: int = 90,
) -> None:
    """Aperio SVS with JPEG tiles: RGB 4:4:4 or YCbCr 4:2:0, their tables shared (tag 347) or in each tile.

    As in native files, nothing in the JPEG streams says which of the two they are; only the TIFF's
    photometric interpretation does.
    """

    def encode(each: Image) -> bytes:
        stream = without_colour_marks(jpeg(each, quality, rgb))
        return split_tables(stream)[1] if tables else stream

    blank = without_colour_marks(jpeg(np.zeros((tile, tile, 3), np.uint8), quality, rgb))
    options: dict[str, Any] = {"compression": "jpeg", "photometric": "rgb" if rgb else "ycbcr"}
    options |= {"jpegtables": split_tables(blank)[0]} if tables else {}
    options |= {"compressionargs": {"outcolorspace": "rgb"}} if rgb else {"subsampling": (2, 2)}
    codec = f"JPEG/{'RGB' if rgb else 'YCC'} Q={quality}"
    _write_aperio(path, image, tile, mpp, codec, encode, **options)


def write_aperio_j2k(path: Path, image: Image, ycbcr: bool, tile: int = 256, mpp: float | None = MPP) -> None:
    """Aperio SVS with JPEG 2000 tiles: YCbCr components (compression 33003) or RGB (33005).

    Photometric interpretation is RGB in both, as native files have it. Native 33003 halves the width of
    the chroma components; here they are whole.
    """
    compression = 33003 if ycbcr else 33005
    encode = functools.partial(jpeg2000, ycbcr=ycbcr)
    codec = "J2K/YUV16 Q=70" if ycbcr else "J2K/KDU Q=70"
    _write_aperio(path, image, tile, mpp, codec, encode, compression=compression, photometric="rgb")


# --- Hamamatsu NDPI: a classic TIFF whose offsets have 64 bits, so tifffile cannot write it

ASCII, SHORT, LONG, RATIONAL, SLONG, FLOAT = 2, 3, 4, 5, 9, 11
FORMATS = {SHORT: "H", LONG: "I", RATIONAL: "II", SLONG: "i", FLOAT: "f"}


@dataclass(frozen=True)
class Field:
    """One entry of an image file directory; a rational's values come in pairs."""

    tag: int
    kind: int
    values: tuple[Any, ...] | str | int | float

    def packed(self) -> tuple[int, bytes]:
        """How many values there are, and their bytes."""
        if isinstance(self.values, str):
            text = self.values.encode("ascii") + b"\0"
            return len(text), text
        values = self.values if isinstance(self.values, tuple) else (self.values,)
        count = len(values) // len(FORMATS[self.kind])
        return count, struct.pack("<" + FORMATS[self.kind] * count, *values)


@dataclass(frozen=True)
class NdpiPage:
    """One image of an NDPI file: its JPEG, where that lies, and what its directory says."""

    image: Image
    stream: bytes
    lens: float
    mpp: float
    offset: int = 0
    text: str = "LABEL"  # typed in by the user

    def fields(self) -> list[Field]:
        height, width = self.image.shape[:2]
        dots = (round(1e8 / self.mpp), 10_000)
        starts = restart_starts(self.stream)
        found = [
            *(Field(tag, LONG, value) for tag, value in ((254, 0), (256, width), (257, height))),
            Field(258, SHORT, (8, 8, 8)),
            *(Field(tag, SHORT, value) for tag, value in ((259, 7), (262, 6), (277, 3), (284, 1), (296, 3))),
            Field(271, ASCII, "Hamamatsu"),
            Field(272, ASCII, "NanoZoomer"),
            *(Field(tag, LONG, value) for tag, value in ((278, height), (279, len(self.stream)))),
            *(Field(tag, RATIONAL, dots) for tag in (282, 283)),
            Field(305, ASCII, "NDP.scan"),
            Field(530, SHORT, (2, 1)),
            Field(65420, LONG, 1),
            Field(65421, FLOAT, self.lens),
            *(Field(tag, SLONG, 0) for tag in (65422, 65423, 65424)),
            Field(65427, ASCII, self.text),
            Field(65449, ASCII, f"Created=2020/01/01\r\nReference={self.text}\r\nObjective.Lens.Magnificant=40\r\n"),
        ]
        if len(starts) > 1:
            found.append(Field(65426, LONG, tuple(starts)))
            found.append(Field(65432, LONG, (0,) * len(starts)))
        return found


def restart_starts(stream: bytes) -> list[int]:
    """Where the scan's data begins and where it goes on after restart markers, from the stream's start."""
    scan = len(stream) - len(list(jpeg_segments(stream))[-1][1])
    begin = scan + 2 + int.from_bytes(stream[scan + 2 : scan + 4], "big")
    data = np.frombuffer(stream, np.uint8, offset=begin)
    restarts = np.flatnonzero((data[:-1] == 0xFF) & (data[1:] >= 0xD0) & (data[1:] <= 0xD7))
    return [begin, *(restarts + begin + 2).tolist()]


def _restarting_jpeg(image: Image, interval: int | None, quality: int = 90) -> bytes:
    """A JPEG 4:2:2 with a restart marker every so many MCUs of 16 x 8 px; None for no markers."""
    stream = io.BytesIO()
    options = {"restart_marker_blocks": interval} if interval else {}
    PillowImage.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=1, **options)
    return stream.getvalue()


def _directory(fields: Iterable[Field], stream_at: int, at: int, following: bool) -> bytes:
    """A directory that lies at `at`, with the values that do not fit into it and, maybe, a next one.

    Its entries are those of a classic TIFF; the high halves of their values and offsets come in a list of
    their own after the (8-byte) offset of the next directory.
    """
    entries = sorted([*fields, Field(273, LONG, stream_at & 0xFFFFFFFF)], key=lambda field: field.tag)
    size = 2 + 16 * len(entries) + 8
    low, high, outside = [], [], b""
    for field in entries:
        count, value = field.packed()
        top = stream_at >> 32 if field.tag == 273 else 0
        if len(value) > 4 or field.kind == ASCII:
            offset = at + size + len(outside)
            outside += value + b"\0" * (len(value) % 2)
            value, top = struct.pack("<I", offset & 0xFFFFFFFF), offset >> 32
        low.append(struct.pack("<HHI", field.tag, field.kind, count) + value.ljust(4, b"\0"))
        high.append(struct.pack("<I", top))
    end = at + size + len(outside)
    return b"".join([struct.pack("<H", len(entries)), *low, struct.pack("<Q", end if following else 0), *high, outside])


def _ndpi_pages(image: Image, mpp: float, label: Image | None, text: str) -> list[NdpiPage]:
    pages = []
    for factor in (1, 2, 4):
        level = image if factor == 1 else reduce(image, factor)
        blocks = level.shape[1] // 16
        interval = max(n for n in range(1, 17) if blocks % n == 0)
        stream = _restarting_jpeg(level, interval)
        pages.append(NdpiPage(level, stream, 10 / mpp / factor, mpp * factor, text=text))
    macro = draw_macro(image, label)
    pages.append(NdpiPage(macro, _restarting_jpeg(macro, None), -1.0, mpp * image.shape[1] / macro.shape[1], text=text))
    return pages


def _write_ndpi_pages(file: BinaryIO, pages: list[NdpiPage], begin: int) -> None:
    """Streams first, each aligned to two bytes, then the directories in a row."""
    at = begin
    placed = []
    for page in pages:
        placed.append(replace(page, offset=at))
        at += len(page.stream) + len(page.stream) % 2
    file.write(b"II*\0" + struct.pack("<Q", at))
    for page in placed:
        file.seek(page.offset)
        file.write(page.stream)
    file.seek(at)
    for page in placed:
        directory = _directory(page.fields(), page.offset, file.tell(), page is not placed[-1])
        file.write(directory)


def write_ndpi(
    path: Path, image: Image, mpp: float = MPP, begin: int = 12, label: Image | None = None, text: str = "LABEL"
) -> None:
    """Hamamatsu NDPI of levels 1, 1/2 and 1/4 and a macro; the name should end in ".ndpi".

    Each level is one JPEG with restart markers, which divide it into tiles 8 px high. Only whole tiles
    exist on all levels: the image is cut at its right and lower edge to multiples of 64 and 32 px.
    `begin` is where image data begins in the file, `text` what a user typed in.
    """
    height, width = image.shape[:2]
    whole = np.ascontiguousarray(image[: height // 32 * 32, : width // 64 * 64])
    with path.open("wb") as file:
        _write_ndpi_pages(file, _ndpi_pages(whole, mpp, label, text), begin)


def write_ndpi_large(path: Path, image: Image, mpp: float = MPP) -> None:
    """NDPI with everything beyond 4 GiB; the file begins with a hole, so it takes no space."""
    write_ndpi(path, image, mpp, begin=2**32 + 4096)


# --- Philips


def _philips_attribute(name: str, kind: str, value: str, group: str = "0x301D") -> str:
    return f'<Attribute Name="{name}" Group="{group}" Element="0x1001" PMSVR="{kind}">{value}</Attribute>'


def _philips_object(kind: str, attributes: Iterable[str]) -> str:
    return f'<DataObject ObjectType="{kind}">{"".join(attributes)}</DataObject>'


def _philips_description(
    shapes: list[tuple[int, ...]], factors: tuple[int, ...], mpp: float, text: str = "LABEL"
) -> str:
    """What the first directory says: one image, and the pixel spacing of each level in mm."""

    def spacing(factor: int) -> str:
        side = f"&quot;{mpp * factor / 1000:.8g}&quot;"
        return _philips_attribute("DICOM_PIXEL_SPACING", "IDoubleArray", f"{side} {side}", "0x0028")

    levels = "".join(
        _philips_object(
            "PixelDataRepresentation",
            [
                spacing(factor),
                _philips_attribute("PIIM_PIXEL_DATA_REPRESENTATION_COLUMNS", "IUInt32", str(shape[1])),
                _philips_attribute("PIIM_PIXEL_DATA_REPRESENTATION_NUMBER", "IUInt16", str(index)),
                _philips_attribute("PIIM_PIXEL_DATA_REPRESENTATION_ROWS", "IUInt32", str(shape[0])),
            ],
        )
        for index, (shape, factor) in enumerate(zip(shapes, factors, strict=True))
    )
    sequence = f"<Array>{levels}</Array>"
    magnifications = ",".join(f"{10 / mpp / factor:g}" for factor in factors)
    derivation = f"tiff-useBigTIFF=1-useRgb=0-levels={magnifications}-processing=0-q90"
    scanned = _philips_object(
        "DPScannedImage",
        [
            _philips_attribute("DICOM_DERIVATION_DESCRIPTION", "IString", derivation, "0x0008"),
            spacing(1),
            _philips_attribute("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", "IDataObjectArray", sequence),
            _philips_attribute("PIM_DP_IMAGE_TYPE", "IString", "WSI"),
        ],
    )
    barcode = base64.b64encode(text.encode()).decode()
    root = [
        _philips_attribute("PIM_DP_SOURCE_FILE", "IString", text),
        _philips_attribute("DICOM_MANUFACTURER", "IString", "PHILIPS", "0x0008"),
        _philips_attribute("PIM_DP_SCANNED_IMAGES", "IDataObjectArray", f"<Array>{scanned}</Array>"),
        _philips_attribute("PIM_DP_UFS_BARCODE", "IString", barcode),
    ]
    return '<?xml version="1.0" encoding="UTF-8" ?>\n' + _philips_object("DPUfsImport", root)


def write_philips(
    path: Path,
    image: Image,
    mpp: float = MPP,
    tile: int = 512,
    sparse: bool = False,
    label: Image | None = None,
    text: str = "LABEL",
) -> None:
    """Philips TIFF of levels 1, 1/2 and 1/4, a macro and a label.

    As in native files the lower levels are filled up to whole tiles. `sparse` leaves tiles without
    contrast (bare glass) out: their offset and byte count are 0.
    """
    factors = (1, 2, 4)
    levels = [np.pad(each, _to_whole_tiles(each, tile), mode="edge") for each in pyramid(image, factors)]
    levels[0] = image
    description = _philips_description([each.shape for each in levels], factors, mpp, text)
    pixels: dict[str, Any] = {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for index, level in enumerate(levels):
            streams = [b"" if sparse and each.std((0, 1)).max() < 3 else jpeg(each) for each in tiles(level, tile)]
            tiff.write(
                iter(streams),
                shape=level.shape,
                dtype="uint8",
                tile=(tile, tile),
                description="" if index else description,
                software="Philips DP v1.0",
                subfiletype=int(index > 0),
                metadata=None,
                **pixels,
            )
        for name, extra in (("Macro", draw_macro(image, label)), ("Label", draw_label() if label is None else label)):
            tiff.write(extra, description=name, subfiletype=1, **STRIPS, **PLAIN)
    if sparse:
        _clear_offsets_of_empty_tiles(path)


def _clear_offsets_of_empty_tiles(path: Path) -> None:
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            assert isinstance(page, tifffile.TiffPage)
            if tag := page.tags.get("TileOffsets"):
                sizes = page.tags["TileByteCounts"].value
                tag.overwrite([at if size else 0 for at, size in zip(tag.value, sizes, strict=True)])


def _to_whole_tiles(image: Image, tile: int) -> tuple[tuple[int, int], ...]:
    """What np.pad has to add."""
    height, width = image.shape[:2]
    return (0, -height % tile), (0, -width % tile), (0, 0)


# --- Leica SCN


def _scn_image(
    name: str,
    levels: list[Image],
    first: int,
    view: tuple[int, int, int, int],
    objective: float,
) -> str:
    """One image of the collection; `view` is its x, y, width and height on the glass in nm."""
    dimensions = "".join(
        f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{index}" ifd="{first + index}"/>'
        for index, level in enumerate(levels)
    )
    height, width = levels[0].shape[:2]
    x, y, across, down = view
    return (
        f'<image name="{name}"><creationDate>2020-01-01T00:00:00Z</creationDate>'
        f'<device model="Leica SCN400" version="1.5"/>'
        f'<pixels sizeX="{width}" sizeY="{height}" firstIFD="{first}" lastIFD="{first + len(levels) - 1}">'
        f"{dimensions}</pixels>"
        f'<view sizeX="{across}" sizeY="{down}" offsetX="{x}" offsetY="{y}" spacingZ="0"/>'
        f"<scanSettings><objectiveSettings><objective>{objective:g}</objective></objectiveSettings>"
        f"<illuminationSettings><numericalAperture>0.65</numericalAperture>"
        f"<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
    )


def _on_glass(image: Image, margin: int) -> Image:
    height, width = image.shape[:2]
    glass = np.full((height + 2 * margin, width + 2 * margin, 3), 242, np.uint8)
    glass[margin : margin + height, margin : margin + width] = image
    return glass


def write_scn(path: Path, image: Image, mpp: float = MPP, tile: int = 256, margin: int = 512) -> None:
    """Leica SCN: a macro of the whole glass first, then the image at levels 1, 1/4 and 1/16.

    The image lies `margin` px from the glass's left and upper edge; OpenSlide's level 0 is the glass, and
    its bounds are the image.
    """
    height, width = image.shape[:2]
    levels = pyramid(image, (1, 4, 16))
    macro = reduce(_on_glass(image, margin), 16)
    nm = mpp * 1000
    glass = (round((width + 2 * margin) * nm), round((height + 2 * margin) * nm))
    view = (round(margin * nm), round(margin * nm), round(width * nm), round(height * nm))
    barcode = base64.b64encode(b"LABEL").decode()
    description = (
        '<?xml version="1.0" encoding="utf-8"?>'
        '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="LABEL" sizeX="{glass[0]}" sizeY="{glass[1]}"><barcode>{barcode}</barcode>'
        + _scn_image("macro", [macro], 0, (0, 0, *glass), 0.6)
        + _scn_image("main", levels, 1, view, 10 / mpp)
        + "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for index, level in enumerate([macro, *levels]):
            dots = 1e4 / (mpp * width / level.shape[1]) if index else 1e4 / (mpp * 16)
            tiff.write(
                level,
                tile=(tile, tile),
                description="" if index else description,
                resolution=(dots, dots),
                resolutionunit="CENTIMETER",
                photometric="rgb",
                compression="jpeg",
                subsampling=(2, 2),
                compressionargs={"level": 90},
                **PLAIN,
            )


# --- Ventana BIF


def _bif_tile_number(column: int, row: int, columns: int, rows: int) -> int:
    """How the scanner counted: from 1, rows from the bottom up, every other one from right to left."""
    up = rows - 1 - row
    return 1 + up * columns + (columns - 1 - column if up % 2 else column)


def _bif_joints(columns: int, rows: int) -> str:
    """Every pair of neighbouring tiles, none of which overlap."""

    def joint(direction: Literal["RIGHT", "UP"], one: int, two: int) -> str:
        return (
            f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{direction}" '
            f'Tile1="{one}" Tile2="{two}" OverlapX="0" OverlapY="0"/>'
        )

    def number(column: int, row: int) -> int:
        return _bif_tile_number(column, row, columns, rows)

    across = [joint("RIGHT", number(x, y), number(x + 1, y)) for y in range(rows) for x in range(columns - 1)]
    up = [joint("UP", number(x, y), number(x, y - 1)) for y in range(1, rows) for x in range(columns)]
    return "".join(across + up)


def _bif_encode_info(columns: int, rows: int, tile: int) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><EncodeInfo Ver="2"><SlideStitchInfo>'
        f'<ImageInfo AOIScanned="1" AOIIndex="0" NumRows="{rows}" NumCols="{columns}" '
        f'Width="{tile}" Height="{tile}" Pos-X="0" Pos-Y="0">{_bif_joints(columns, rows)}</ImageInfo>'
        f'</SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    ).encode()


def write_bif(path: Path, image: Image, mpp: float = MPP, tile: int = 256) -> None:
    """Ventana BIF of levels 1, 1/2 and 1/4, a label image and a thumbnail; no tiles overlap.

    The image is filled up to whole tiles, as a scanner's is; it has to be at least 2 x 2 of them.
    """
    whole = np.pad(image, _to_whole_tiles(image, tile), mode="edge")
    rows, columns = whole.shape[0] // tile, whole.shape[1] // tile
    power = 10 / mpp
    iscan = f'<iScan Magnification="{power:g}" ScanRes="{mpp:g}" UnitNumber="2000000" Mode="1"/>'.encode()
    xmp = {"label": iscan, "level": _bif_encode_info(columns, rows, tile)}
    tags = {name: [(700, 1, len(text), text, True)] for name, text in xmp.items()}
    plain: dict[str, Any] = {"metadata": None, "software": "ScanOutputManager 1.1.0.15854"}
    pixels: dict[str, Any] = {
        "tile": (tile, tile),
        "photometric": "rgb",
        "compression": "jpeg",
        "subsampling": (2, 2),
        "compressionargs": {"level": 90},
    }
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        label = draw_macro(image)
        tiff.write(label, description="Label_Image", extratags=tags["label"], **STRIPS, **plain)
        tiff.write(reduce(whole, 8), description="Thumbnail", **STRIPS, **plain)
        for index, level in enumerate(pyramid(whole, (1, 2, 4))):
            description = f"level={index} mag={power / 2**index:g} quality=95"
            extra = tags["level"] if not index else ()
            tiff.write(level, description=description, extratags=extra, **pixels, **plain)


# --- MIRAX: a folder of its own; OpenSlide reads it, tifffile does not


def _mirax_slidedat(columns: int, rows: int, tile: int, mpp: float) -> str:
    """Slidedat.ini for three levels, each half the one before, and a macro."""
    sections = [f"LAYER_0_LEVEL_{index}_SECTION" for index in range(3)]
    lines = ["[GENERAL]", "SLIDE_ID = LABEL", f"IMAGENUMBER_X = {columns}", f"IMAGENUMBER_Y = {rows}"]
    lines += [f"OBJECTIVE_MAGNIFICATION = {10 / mpp:g}", "[HIERARCHICAL]", "HIER_COUNT = 1"]
    lines += ["INDEXFILE = Index.dat", "HIER_0_NAME = Slide zoom level", "HIER_0_COUNT = 3"]
    lines += [f"HIER_0_VAL_{index}_SECTION = {name}" for index, name in enumerate(sections)]
    lines += ["NONHIER_COUNT = 1", "NONHIER_0_NAME = Scan data layer", "NONHIER_0_COUNT = 1"]
    lines += ["NONHIER_0_VAL_0 = ScanDataLayer_SlideThumbnail", "NONHIER_0_VAL_0_SECTION = MACRO"]
    for index, name in enumerate(sections):
        lines += [f"[{name}]", f"IMAGE_CONCAT_FACTOR = {min(index, 1)}", "OVERLAP_X = 0", "OVERLAP_Y = 0"]
        lines += [f"MICROMETER_PER_PIXEL_{axis} = {mpp * 2**index:g}" for axis in "XY"]
        lines += ["IMAGE_FILL_COLOR_BGR = 16777215", "IMAGE_FORMAT = JPEG"]
        lines += [f"DIGITIZER_{side} = {tile}" for side in ("WIDTH", "HEIGHT")]
    lines += [
        "[MACRO]",
        "THUMBNAIL_IMAGE_TYPE = JPEG",
        "[DATAFILE]",
        "FILE_COUNT = 1",
        "FILE_0 = Data0000.dat",
    ]
    return "\n".join(lines) + "\n"


def _mirax_index(levels: list[list[tuple[int, int, int]]], macro: tuple[int, int]) -> bytes:
    """Index.dat: for each level the images' number, offset and size in the data file; the macro's at last.

    Tables point to tables: the root to one pointer per level, that to a page of images.
    """
    head = b"01.02" + b"LABEL"
    roots_at = len(head)
    pointers_at = roots_at + 8
    at = pointers_at + 4 * (len(levels) + 1)
    pointers, pages = [], b""
    for images in levels:
        pointers.append(at + len(pages))
        records = b"".join(struct.pack("<4i", *image, 0) for image in images)
        pages += struct.pack("<4i", 0, pointers[-1] + 8, len(images), 0) + records
    pointers.append(at + len(pages))
    pages += struct.pack("<2i", 0, pointers[-1] + 8) + struct.pack("<7i", 1, 0, 0, 0, *macro, 0)
    roots = struct.pack("<2i", pointers_at, pointers_at + 4 * len(levels))
    return head + roots + struct.pack(f"<{len(pointers)}i", *pointers) + pages


def write_mrxs(path: Path, image: Image, mpp: float = MPP, tile: int = 256) -> None:
    """MIRAX of levels 1, 1/2 and 1/4 and a macro: `path` (NAME.mrxs) and the folder NAME beside it.

    The image is filled up to whole tiles of the lowest level; no tiles overlap.
    """
    folder = path.with_suffix("")
    folder.mkdir()
    whole = np.pad(image, _to_whole_tiles(image, tile * 4), mode="edge")
    rows, columns = whole.shape[0] // tile, whole.shape[1] // tile
    data, levels = b"", []
    for factor, level in zip((1, 2, 4), pyramid(whole, (1, 2, 4)), strict=True):
        images = []
        for index, each in enumerate(tiles(level, tile)):
            row, column = divmod(index, columns // factor)
            stream = jpeg(each)
            images.append(((row * columns + column) * factor, len(data), len(stream)))
            data += stream
        levels.append(images)
    macro = jpeg(draw_macro(image))
    path.write_bytes(macro)
    (folder / "Slidedat.ini").write_text(_mirax_slidedat(columns, rows, tile, mpp), encoding="utf-8")
    (folder / "Index.dat").write_bytes(_mirax_index(levels, (len(data), len(macro))))
    (folder / "Data0000.dat").write_bytes(data + macro)
