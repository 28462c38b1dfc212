"""Slides of the TIFF family, read tile by tile: tifffile knows the layout, imagecodecs and simplejpeg the pixels."""

from __future__ import annotations

import logging
import os
import re
import threading
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsisum_cli.errors import NotASlideError, SlideError, TileError
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.header import identify
from wsisum_cli.slides.pixels import from_ycbcr, shrunk
from wsisum_cli.slides.pyramid import MAX_TILE_PIXELS, EncodedTile, Level, Pyramid, describe_error, downsample

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

JPEG_COMPRESSIONS = {7, 33007, 34892}
APERIO_YCBCR = 33003  # JPEG 2000 whose components are YCbCr, which the stream itself does not say
APERIO_RGB = 33005  # JPEG 2000 of RGB
PHOTOMETRIC_RGB, PHOTOMETRIC_YCBCR = 2, 6
NDPI_LENS = 65421  # magnification; negative for the macro (-1) and the map of focus points (-2)
COLOUR_TILES = 12  # of a level, whose pixels decide where its marks contradict each other
HEAD = 1 << 16  # bytes that hold the markers before the first scan
SIZ = b"\xff\x51"  # JPEG 2000 marker (ITU-T T.800): size of the image and of its components
SPARSE_VENDORS = {"philips", "hamamatsu"}  # whose tiles without bytes are bare glass
#: Formats in which a tile with neither offset nor bytes was never written (GDAL's SPARSE_OK). A count of zero at an
#: offset is damage there, as is any tile without bytes in the others.
SPARSE_FORMATS = {"generic-tiff", "ome-tiff"}
NOT_THE_SLIDE = {"label", "macro", "thumbnail", "map"}


class NeedsOpenSlideError(Exception):
    """The file is a TIFF, but not one whose tiles make the image by lying side by side."""


class TiffPyramid(Pyramid):
    """Raises NotASlideError, SlideError, or NeedsOpenSlideError when another reader should try."""

    def __init__(self, path: Path) -> None:
        import tifffile

        # tifffile logs what it finds odd; what matters of it is raised or checked here.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        self.path = path
        self.reader = f"tifffile {tifffile.__version__}"
        with ExitStack() as opened:
            try:
                self._file = opened.enter_context(open(path, "rb", buffering=0))
                self._lock = threading.Lock()
                self._size = os.fstat(self._file.fileno()).st_size
                self._tif: TiffFile = opened.enter_context(tifffile.TiffFile(path))
                self._open()
            except (SlideError, NeedsOpenSlideError):
                raise
            except tifffile.TiffFileError as error:
                raise NeedsOpenSlideError(f"not a TIFF file: {describe_error(error, path)}") from error
            except OSError as error:
                raise SlideError(f"{path.name}: cannot be read ({describe_error(error, path)})") from error
            # tifffile meets damaged files with any exception there is; all of them mean one thing.
            except Exception as error:
                found = describe_error(error, path)
                raise SlideError(f"{path.name}: damaged TIFF structure ({found}); fetch the file again") from error
            self._opened = opened.pop_all()

    def _open(self) -> None:
        self._pages = level_pages(self._tif, self.path)
        settled = [self._settle_colour(page) for page in self._pages]
        self._rgb = [rgb for rgb, _ in settled]
        self._declared = [self._declares_colour(*pair) for pair in zip(self._pages, self._rgb, strict=True)]
        self.notes = tuple(
            f"level {level}: the JPEG tiles contradict the TIFF about their colours; the pixels decided"
            for level, (_, by_pixels) in enumerate(settled)
            if by_pixels
        )
        first = self._pages[0]
        if first.compression == APERIO_YCBCR and is_subsampled(self._first_tile(first)):
            raise NeedsOpenSlideError("JPEG 2000 with chroma subsampling")
        scanner = identify(self._tif, first)
        self.vendor, self.scanner = scanner.vendor, scanner.model
        self.mpp, self.mpp_source = scanner.mpp, scanner.mpp_source
        profile = first.tags.valueof(34675)
        self.icc_profile = bytes(profile) if profile else None
        self.levels = tuple(
            Level(
                page.imagewidth,
                page.imagelength,
                page.tilewidth,
                page.tilelength,
                downsample(first.imagewidth, first.imagelength, page.imagewidth, page.imagelength),
            )
            for page in self._pages
        )

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> np.ndarray | None:
        page = self._pages[level]
        try:
            if page.compression in JPEG_COMPRESSIONS:
                pixels = self._jpeg_tile(level, column, row, shrink)
            else:
                data = self._segment(level, column, row)
                pixels = None if data is None else shrunk(decode_other(page, data), shrink)
            return None if pixels is None else pixels[: page.tilelength // shrink, : page.tilewidth // shrink]
        except TileError:
            raise
        # Decoders meet damaged streams with exceptions of their own; each means that this tile is broken.
        except Exception as error:
            raise TileError(self._where(level, column, row, f"cannot be decoded ({error})")) from error

    def encoded_tile(self, level: int, column: int, row: int) -> EncodedTile | None:
        page = self._pages[level]
        data = self._segment(level, column, row)
        if data is None:
            return None
        if page.jpegheader is not None:  # NDPI: one stream a level, cut at its restart markers
            return EncodedTile(page.jpegheader + jpeg.end_stream(data), len(page.jpegheader))
        return jpeg.complete_stream(data, page.jpegtables, self._rgb[level])

    def copies_jpeg(self, level: int) -> bool:
        """Stripes of an NDPI, and streams whose marks are wrong about their colours, are encoded anew."""
        page = self._pages[level]
        return page.compression in JPEG_COMPRESSIONS and page.jpegheader is None and self._declared[level]

    def close(self) -> None:
        self._opened.close()

    def _jpeg_tile(self, level: int, column: int, row: int, shrink: int) -> np.ndarray | None:
        encoded = self.encoded_tile(level, column, row)
        if encoded is None:
            return None
        stream = encoded.stream if self._declared[level] else jpeg.with_colour(encoded.stream, self._rgb[level])
        return jpeg.decode(stream, shrink)

    def _settle_colour(self, page: TiffPage) -> tuple[bool, bool]:
        """Whether the tiles' components are RGB, and whether only their pixels could tell."""
        says_rgb = page.photometric == PHOTOMETRIC_RGB
        if page.compression not in JPEG_COMPRESSIONS or page.jpegheader is not None:
            return says_rgb, False
        chosen = self._spread_tiles(page)
        streams = (self._read(page.dataoffsets[i], page.databytecounts[i]) for i in chosen)
        complete = (jpeg.complete_stream(stream, page.jpegtables, rgb=False).stream for stream in streams)
        return jpeg.settle_colour(complete, says_rgb) if chosen else (says_rgb, False)

    def _declares_colour(self, page: TiffPage, rgb: bool) -> bool:
        """Whether a decoder given a tile alone takes its colours for what they are."""
        if page.compression not in JPEG_COMPRESSIONS or page.jpegheader is not None:
            return True
        return jpeg.is_rgb(jpeg.complete_stream(self._first_tile(page), page.jpegtables, rgb).stream) == rgb

    def _spread_tiles(self, page: TiffPage) -> list[int]:
        """Numbers of up to `COLOUR_TILES` tiles that the file holds, spread over the page."""
        offsets, counts = np.array(page.dataoffsets), np.array(page.databytecounts)
        stored = np.flatnonzero((offsets > 0) & (counts > 0) & (offsets + counts <= self._size))
        chosen = np.linspace(0, len(stored) - 1, min(COLOUR_TILES, len(stored))).round().astype(int)
        return [int(index) for index in stored[chosen]]

    def _first_tile(self, page: TiffPage) -> bytes:
        """The first bytes of the first tile that the file stores."""
        first = next((index for index, count in enumerate(page.databytecounts) if count), 0)
        return self._read(page.dataoffsets[first], min(page.databytecounts[first], HEAD))

    def _segment(self, level: int, column: int, row: int) -> bytes | None:
        page = self._pages[level]
        index = row * self.levels[level].columns + column
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if not offset or not count:
            if self._is_glass(level, column, row):
                return None
            raise TileError(self._where(level, column, row, "has no bytes"))
        if offset + count > self._size:
            found = f"ends at byte {offset + count} of a file of {self._size}"
            raise TileError(self._where(level, column, row, f"{found}; the file is cut short"))
        return self._read(offset, count)

    def _is_glass(self, level: int, column: int, row: int) -> bool:
        """Whether a tile without bytes is one that the writer left out because nothing was scanned there.

        At lower levels, one below which level 0 stores nothing either.
        """
        at, first = self.levels[level], self.levels[0]
        across, down = at.tile_width * at.downsample, at.tile_height * at.downsample
        columns = slice(int(column * across) // first.tile_width, -(-int((column + 1) * across) // first.tile_width))
        rows = slice(int(row * down) // first.tile_height, -(-int((row + 1) * down) // first.tile_height))
        return bool(self._left_out[rows, columns].all())

    @cached_property
    def _left_out(self) -> np.ndarray:
        """(rows, columns) bool of level 0: tiles that stand for bare glass, as far as the format has such tiles."""
        first = self.levels[0]
        tiles = first.rows * first.columns
        offsets, counts = (
            np.array(each[:tiles]) for each in (self._pages[0].dataoffsets, self._pages[0].databytecounts)
        )
        if self.vendor in SPARSE_VENDORS:
            left_out = (offsets == 0) | (counts == 0)
        else:
            left_out = (offsets == 0) & (counts == 0) & (self.vendor in SPARSE_FORMATS)
        return np.asarray(left_out.reshape(first.rows, first.columns), bool)

    def _read(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)

    def _where(self, level: int, column: int, row: int, what: str) -> str:
        return f"{self.path.name}: tile at column {column}, row {row} of level {level} {what}"


def level_pages(tif: TiffFile, path: Path) -> list[TiffPage]:
    """The pages of the slide's levels, largest first; labels, macros and thumbnails are not among them."""
    if tif.is_bif and has_overlaps(tif):
        raise NeedsOpenSlideError("BIF tiles overlap")
    try:
        series = [s for s in tif.series if not is_associated(s, tif)]
    # tifffile gives up on odd vendor headers in many ways; OpenSlide may still know the file.
    except Exception as error:
        raise NeedsOpenSlideError(f"no image series found: {error}") from error
    if not series:
        raise NotASlideError(f"{path.name}: holds label and macro images only", "label or macro image")
    if tif.is_scn and sum(bool(s.levels[1:]) for s in series) > 1:
        raise NeedsOpenSlideError("SCN file of several areas")
    main = max(series, key=lambda s: s.levels[0].shape[0] * s.levels[0].shape[1] if s.ndim == 3 else 0)
    pages: list[Any] = [level.pages[0] for level in main.levels]
    if pages[0] is None:
        raise SlideError(f"{path.name}: damaged TIFF structure (no image); fetch the file again")
    check_brightfield_rgb(main, pages[0], path)
    obstacle = why_not_by_tile(pages[0])
    if obstacle:
        raise NeedsOpenSlideError(obstacle)
    return [page for page in pages if page is not None and page.shape[2:] == (3,) and why_not_by_tile(page) is None]


def is_associated(series: TiffPageSeries, tif: TiffFile) -> bool:
    """Whether a series is a label, macro, map or thumbnail."""
    if tif.is_ndpi:  # whose series tifffile names by what the user typed in
        page = series.levels[0].pages[0]
        return page is not None and float(page.aspage().tags.valueof(NDPI_LENS, default=1)) <= 0
    return series.name.lower() in NOT_THE_SLIDE


def check_brightfield_rgb(series: TiffPageSeries, page: TiffPage, path: Path) -> None:
    colour = series.ndim == 3 and series.dtype == np.uint8 and page.photometric > 1  # 0 and 1 are grey
    if colour and page.is_tiled and (page.planarconfig == 2 or page.samplesperpixel == 4):
        return  # OpenSlide decides
    if series.ndim != 3 or series.shape[2] != 3 or series.dtype != np.uint8:
        raise NotASlideError(
            f"{path.name}: expected one RGB image of 8 bits, found axes {series.axes}, shape {series.shape}, "
            f"{series.dtype}; only brightfield slides can be summarized",
            "not brightfield RGB",
        )


def why_not_by_tile(page: TiffPage) -> str | None:
    """What keeps the page from being read tile by tile, None when nothing does."""
    import tifffile

    coded = int(page.compression)
    if page.planarconfig == 2:
        return "colour planes are stored apart"
    if page.samplesperpixel != 3:
        return f"{page.samplesperpixel} samples per pixel"
    if not page.is_tiled or not page.tilewidth or not page.tilelength:
        return "not tiled"
    if page.tilewidth * page.tilelength > MAX_TILE_PIXELS:
        return f"tiles of {page.tilewidth} x {page.tilelength} px"
    if coded not in tifffile.TIFF.DECOMPRESSORS:
        return f"TIFF compression {coded} is unknown"
    if coded not in {APERIO_YCBCR, APERIO_RGB} and not is_known_colour(page):
        return f"photometric interpretation {int(page.photometric)} with TIFF compression {coded}"
    tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    if min(len(page.dataoffsets), len(page.databytecounts)) < tiles:
        return f"{len(page.dataoffsets)} tiles in the table, {tiles} expected"
    return None


def is_known_colour(page: TiffPage) -> bool:
    if page.photometric == PHOTOMETRIC_YCBCR:
        return page.compression in JPEG_COMPRESSIONS
    return page.photometric == PHOTOMETRIC_RGB


def is_subsampled(stream: bytes) -> bool:
    """Whether a JPEG 2000 codestream has components smaller than the image."""
    at = stream.find(SIZ)
    if at < 0:
        return False
    count = int.from_bytes(stream[at + 38 : at + 40], "big")
    return any(step != 1 for i in range(count) for step in stream[at + 41 + 3 * i : at + 43 + 3 * i])


def has_overlaps(tif: TiffFile) -> bool:
    """Whether a Ventana file's tiles overlap, as OverlapX and OverlapY of its EncodeInfo say."""
    infos = (bytes(page.aspage().tags.valueof(700, default=b"") or b"") for page in tif.pages)
    return any(re.search(rb'Overlap[XY]="(?!0+")', info) for info in infos)


def decode_other(page: TiffPage, data: bytes) -> np.ndarray:
    """A tile of any compression but JPEG as (H, W, 3) uint8 RGB."""
    decoded, _, _ = page.decode(data, 0, jpegtables=page.jpegtables)
    if decoded is None:
        raise ValueError("no pixels in it")
    pixels = np.asarray(decoded).reshape(decoded.shape[-3:])
    if page.compression == APERIO_YCBCR:
        return from_ycbcr(pixels)
    return pixels
