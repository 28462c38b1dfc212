"""A pyramidal TIFF of the slide's size that holds the kept patches, and the overview as its lowest level.

Where nothing is stored, there are stripes and the words "not stored": white would pass for glass, and an enlarged
overview for tissue out of focus. On the overview, what is not stored is pale grey, so that people see it and programs
that look for coloured tissue find what is stored.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.exports.about import statement
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.tiff.structure import Page, write_pages
from wsisum_cli.figures.canvas import Canvas, enlarged
from wsisum_cli.figures.colour import LUMA
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.patches import GLASS, Tile, paste
from wsisum_cli.slides.pixels import resize
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.limits.plain_text import printable
from wsisum_cli.summary.reader import SourcePatches, Summary

TILE = 256  # px a side, of levels whose tiles are made here
SIDE_UNIT = 16  # px; the sides of a TIFF's tiles are multiples
BLOCK = 8  # px; JPEG encodes squares of this side, each by itself where chroma is not subsampled
CACHED = 128  # decoded patches
OVERVIEW_QUALITY, BLANK_QUALITY = 90, 80
#: A patch that is shown enlarged is smooth, and needs few bytes; its own pixels are one level below.
ENLARGED_QUALITY = 80
#: Where squares of JPEG do not fall onto each other, a second encoding costs pixels; at this quality next to none.
ANEW_QUALITY = 98
FIELD, STRIPE, WORDS = (222, 222, 222), (205, 205, 205), (120, 120, 120)
BLANK_TEXT, TEXT_SIZE = "not stored", 24
PALE = (200, 236)  # grey levels of black and white on the overview where nothing is stored: too near for a threshold


def write_tiff(summary: Summary, path: Path, _options: ExportOptions) -> None:
    """Write the TIFF to `path`. Raises SummaryError."""
    record = summary.record
    stored = stored_page(summary)
    is_level0 = stored is not None and stored.width == record.source.width
    pages = [page for page in (None if is_level0 else resized_page(summary), stored) if page is not None]
    overview = overview_page(record, with_rest_grey(record, summary.overview, summary.coords))
    levels = [*pages, *([overview] if overview.width < pages[-1].width else [])]
    description = ome_xml(record, about_levels(record, stored, is_level0))
    try:
        write_pages(path, levels, description, summary.icc_profile)
    except OverflowError as error:
        raise SummaryError(f"{summary.name}: its tiles take more than 4 GB; export it to zarr instead") from error


def stored_page(summary: Summary) -> Page | None:
    """The level whose pixels are stored; None where they are finer than level 0, as of patches that were enlarged."""
    patches = summary.patches
    tiles = tiles_page(summary, patches) if isinstance(patches, SourcePatches) else None
    return tiles or patches_page(summary)


def tiles_page(summary: Summary, patches: SourcePatches) -> Page | None:
    """The scanner's tiles where they lay, byte for byte; None where a TIFF cannot hold them so."""
    record = summary.record
    reading = patches.reading
    height, width = reading.tile_height * reading.shrink, reading.tile_width * reading.shrink
    streams = [patches.shard.stream(row) for row in range(len(patches.shard))]
    models = {(jpeg.is_rgb(stream), jpeg.subsampling(stream)) for stream in streams}
    if len(models) > 1 or height != width or width % SIDE_UNIT:
        return None
    rgb, subsampled = models.pop()
    if subsampled is None:
        return None
    tiles: dict[Tile, bytes] = {(c, r): s for (c, r), s in zip(patches.positions.tolist(), streams, strict=True)}
    glass = jpeg.encode_alike(np.full((width, width, 3), GLASS, np.uint8), rgb, subsampled)
    touched = {tile for x, y in summary.coords.tolist() for tile in patches.reading.tiles(x, y)}
    tiles |= dict.fromkeys(touched - set(tiles), glass)  # the source does not store them, which means glass
    blank = jpeg.encode_alike(blank_tile(width), rgb, subsampled, BLANK_QUALITY)
    downsample = patches.reading.scale / patches.reading.shrink
    size = level_size(record, downsample)
    return Page(*size, width, tiles, blank, record.source.mpp * downsample, rgb, subsampled)


def level_size(record: Attributes, downsample: float) -> tuple[int, int]:
    """Width and height of a level in px, as the slide most likely has them."""
    reading = record.patch.reading
    if reading.level == 0:
        return record.source.width, record.source.height
    sides = ((record.source.width, reading.width), (record.source.height, reading.height))
    width, height = (
        min(max(round(side / downsample), read * reading.shrink), (read + 1) * reading.shrink - 1)
        for side, read in sides
    )
    return width, height


@dataclass(frozen=True)
class Placed:
    """Where the kept patches lie on a level."""

    width: int  # px of the level
    height: int
    corners: np.ndarray  # (K, 2) int x, y of the upper left corners, px
    side: int  # px


def patches_page(summary: Summary) -> Page | None:
    """The stored patches at their own resolution; None where that is finer than level 0, as for enlarged patches.

    A patch that is just one tile is copied. Elsewhere tiles are put together from the stored pixels and encoded again.
    """
    record = summary.record
    scale = record.patch.patch_size_level0 / record.patch.patch_size
    if scale < 1:
        return None
    exact = summary.coords / scale
    width, height = reduced_size((record.source.width, record.source.height), scale)
    placed = Placed(width, height, np.rint(exact).astype(int), record.patch.patch_size)
    falls_together = not (exact % BLOCK).any()
    streams = own_streams(summary)
    quality = getattr(record.pixels, "quality", ANEW_QUALITY) if falls_together else ANEW_QUALITY
    return composed_page(summary, placed, quality, record.source.mpp * scale, streams)


def reduced_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Width and height of a level of this scale. Readers take the mean of the two ratios of sides for the scale, so
    that of all ways to round, the one that brings it nearest is chosen.
    """
    ways = [(max(1, width), max(1, height)) for width in around(size[0] / scale) for height in around(size[1] / scale)]
    return min(ways, key=lambda way: (abs(size[0] / way[0] + size[1] / way[1] - 2 * scale), -way[0], -way[1]))


def around(number: float) -> tuple[int, int]:
    return math.floor(number), math.ceil(number)


def own_streams(summary: Summary) -> Mapping[int, bytes]:
    """The JPEG streams that are one patch each, by row; empty in mode source."""
    if isinstance(summary.patches, SourcePatches):
        return {}
    return {row: summary.patches.shard.stream(row) for row in range(len(summary.patches))}


def resized_page(summary: Summary) -> Page:
    """Level 0, with the stored patches resized to it."""
    record = summary.record
    size0 = record.patch.patch_size_level0
    quality = ENLARGED_QUALITY if size0 > record.patch.patch_size else ANEW_QUALITY
    placed = Placed(record.source.width, record.source.height, summary.coords, size0)
    return composed_page(summary, placed, quality, record.source.mpp, {})


def composed_page(summary: Summary, placed: Placed, quality: int, mpp: float, streams: Mapping[int, bytes]) -> Page:
    """A level whose tiles are put together from patches; `streams` (by row) are copied where a patch is one tile."""
    tile = placed.side if streams and placed.side % SIDE_UNIT == 0 else TILE
    touching: dict[Tile, list[int]] = defaultdict(list)
    for row, (x, y) in enumerate(placed.corners.tolist()):
        for column in range(x // tile, (x + placed.side - 1) // tile + 1):
            for line in range(y // tile, (y + placed.side - 1) // tile + 1):
                touching[column, line].append(row)
    blank = blank_tile(tile)

    @lru_cache(maxsize=CACHED)
    def patch(row: int) -> np.ndarray:
        pixels, side = summary.patches[row], placed.side
        # Bicubic keeps details that a linear enlargement blurs: 5 dB when it is reduced again.
        return enlarged(pixels, (side, side)) if side > pixels.shape[0] else resize(pixels, side, side)

    def stream(at: Tile, rows: list[int]) -> bytes:
        corner = (at[0] * tile, at[1] * tile)
        if len(rows) == 1 and rows[0] in streams and placed.corners[rows[0]].tolist() == list(corner):
            return streams[rows[0]]
        canvas = blank.copy()
        for row in rows:
            paste(canvas, patch(row), *(placed.corners[row] - corner).tolist())
        return jpeg.encode(canvas, quality)

    in_order = sorted(touching.items(), key=lambda item: (item[0][1], item[0][0]))
    tiles = {at: stream(at, rows) for at, rows in in_order}
    return Page(placed.width, placed.height, tile, tiles, jpeg.encode(blank, BLANK_QUALITY), mpp)


def with_rest_grey(record: Attributes, overview: np.ndarray, coords: np.ndarray) -> np.ndarray:
    """The overview (H, W, 3) in pale grey, but for the kept patches at `coords` (K, 2)."""
    grey = overview @ np.array(LUMA) / 255
    low, high = PALE
    shown = np.repeat((low + (high - low) * grey).astype(np.uint8)[..., None], 3, axis=2)
    scale = np.array([overview.shape[1] / record.source.width, overview.shape[0] / record.source.height])
    corners = np.rint(coords * scale).astype(int)
    ends = np.maximum(np.rint((coords + record.patch.patch_size_level0) * scale).astype(int), corners + 1)
    for (x0, y0), (x1, y1) in zip(corners.tolist(), ends.tolist(), strict=True):
        shown[y0:y1, x0:x1] = overview[y0:y1, x0:x1]
    return shown


def overview_page(record: Attributes, overview: np.ndarray) -> Page:
    """The whole overview, encoded again."""
    height, width = overview.shape[:2]
    columns, rows = -(-width // TILE), -(-height // TILE)
    padded = np.pad(overview, ((0, rows * TILE - height), (0, columns * TILE - width), (0, 0)), mode="edge")
    tiles = {
        (column, row): jpeg.encode(
            padded[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE], OVERVIEW_QUALITY
        )
        for row in range(rows)
        for column in range(columns)
    }
    return Page(width, height, TILE, tiles, next(iter(tiles.values())), record.source.mpp * record.source.width / width)


def blank_tile(side: int) -> np.ndarray:
    """(side, side, 3) uint8: stripes that go on in the next tile, and the words "not stored"."""
    canvas = Canvas(side, side)
    period = side // 8
    y, x = np.mgrid[:side, :side]
    canvas.image(np.where(((x + y) % period < period // 2)[..., None], STRIPE, FIELD).astype(np.uint8), (0, 0))
    if side > 8 * TEXT_SIZE:
        canvas.text((side / 2, side / 2), BLANK_TEXT, TEXT_SIZE, WORDS, "mm")
    return canvas.pixels


def ome_xml(record: Attributes, levels: str) -> str:
    """The description: what the image is, its size, and the pixel size."""
    source = record.source
    name = (
        f"Summary of {printable(source.name)}: {record.patches} of {record.tissue_patches} tissue patches, not a slide"
    )
    about = f"{statement(record)} {levels}"
    sides = f'SizeX="{source.width}" SizeY="{source.height}" SizeZ="1" SizeC="3" SizeT="1"'
    pixel = f'PhysicalSizeX="{source.mpp!r}" PhysicalSizeY="{source.mpp!r}"'
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" Creator="wsisum">'
        f'<Image ID="Image:0" Name={quoteattr(name)}><Description>{escape(about)}</Description>'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" {sides} {pixel} Interleaved="true">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )


def about_levels(record: Attributes, stored: Page | None, is_level0: bool) -> str:
    """Which areas are missing, and where the stored pixels are."""
    words = f'Areas with stripes and the words "{BLANK_TEXT}" are missing. Only the lowest level, a small overview, '
    words += "shows them, in grey."
    if is_level0:
        return words
    if stored is None:
        return f"{words} The patches were stored at {record.patch.mpp:.3g} µm per pixel and are resized here."
    return f"{words} Level 0 is resized from level 1, which has the stored pixels, at {stored.mpp:.3g} µm per pixel."
