"""Slides of the TIFF family, read tile by tile: tifffile knows the layout, imagecodecs and simplejpeg the pixels."""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsisum_cli import jpeg
from wsisum_cli.errors import NotASlideError, SlideError, TileError
from wsisum_cli.pyramid import EncodedTile, Level, Pyramid, downsample
from wsisum_cli.scanner import identify

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

JPEG_COMPRESSIONS = {6, 7, 33007, 34892}
APERIO_YCBCR = 33003  # JPEG 2000 whose components are YCbCr, which the stream itself does not say
PHOTOMETRIC_RGB = 2
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
        try:
            self._tif: TiffFile = tifffile.TiffFile(path)
        except tifffile.TiffFileError as error:
            raise NeedsOpenSlideError(f"not a TIFF file: {error}") from error
        # tifffile meets damaged files with any exception there is; all of them mean one thing.
        except Exception as error:
            raise SlideError(f"{path.name}: damaged TIFF structure ({error}); fetch the file again") from error
        try:
            self._open()
        except BaseException:
            self._tif.close()
            raise
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._lock = threading.Lock()
        self._size = os.fstat(self._file.fileno()).st_size

    def _open(self) -> None:
        self._pages = level_pages(self._tif, self.path)
        first = self._pages[0]
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
                encoded = self.encoded_tile(level, column, row)
                return None if encoded is None else jpeg.decode(encoded.stream, shrink)
            data = self._segment(level, column, row)
            return None if data is None else shrunk(decode_other(page, data), shrink)
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
            return EncodedTile(page.jpegheader + jpeg.ended(data), len(page.jpegheader))
        return jpeg.complete(data, page.jpegtables, page.photometric == PHOTOMETRIC_RGB)

    def copies_jpeg(self, level: int) -> bool:
        """Stripes of an NDPI and RGB streams that a marker declares YCbCr are left to be encoded anew."""
        page = self._pages[level]
        if page.compression not in JPEG_COMPRESSIONS or page.jpegheader is not None:
            return False
        if page.photometric != PHOTOMETRIC_RGB:
            return True
        first = next((i for i, count in enumerate(page.databytecounts) if count), None)
        if first is None:
            return False
        data = self._read(page.dataoffsets[first], min(page.databytecounts[first], 4096))
        return jpeg.is_rgb_copyable(data)

    def close(self) -> None:
        self._file.close()
        self._tif.close()

    def _segment(self, level: int, column: int, row: int) -> bytes | None:
        page = self._pages[level]
        index = row * self.levels[level].columns + column
        if index >= len(page.dataoffsets):
            raise TileError(self._where(level, column, row, "is missing from the tile table"))
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if not offset or not count:
            return None
        if offset + count > self._size:
            found = f"ends at byte {offset + count} of a file of {self._size}"
            raise TileError(self._where(level, column, row, f"{found}; the file is cut short"))
        return self._read(offset, count)

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
        series = [s for s in tif.series if s.name.lower() not in NOT_THE_SLIDE]
    # tifffile gives up on odd vendor headers in many ways; OpenSlide may still know the file.
    except Exception as error:
        raise NeedsOpenSlideError(f"no image series found: {error}") from error
    if not series:
        raise NotASlideError(f"{path.name}: holds label and macro images only", "label or macro image")
    if tif.is_scn and sum(bool(s.levels[1:]) for s in series) > 1:
        raise NeedsOpenSlideError("SCN file of several areas")
    main = max(series, key=lambda s: s.levels[0].shape[0] * s.levels[0].shape[1] if s.ndim == 3 else 0)
    check_brightfield_rgb(main, path)
    pages: list[Any] = [level.pages[0] for level in main.levels]
    usable = [p for p in pages if p is not None and p.is_tiled and p.tilewidth and p.tilelength]
    if pages[0] not in usable:
        raise NeedsOpenSlideError("not tiled")
    if not hasattr(pages[0].compression, "name"):
        raise NeedsOpenSlideError(f"TIFF compression {int(pages[0].compression)} is unknown")
    return usable


def check_brightfield_rgb(series: TiffPageSeries, path: Path) -> None:
    page: Any = series.pages[0]
    if series.ndim != 3 or series.shape[2] != 3 or series.dtype != np.uint8:
        raise NotASlideError(
            f"{path.name}: expected one RGB image of 8 bits, found axes {series.axes}, shape {series.shape}, "
            f"{series.dtype}; only brightfield slides can be summarized",
            "not brightfield RGB",
        )
    if page.planarconfig == 2:
        raise NeedsOpenSlideError("colour planes are stored apart")


def has_overlaps(tif: TiffFile) -> bool:
    """Whether a Ventana file's tiles overlap, as OverlapX and OverlapY of its EncodeInfo say."""
    infos = (bytes(page.aspage().tags.valueof(700, default=b"") or b"") for page in tif.pages)
    return any(re.search(rb'Overlap[XY]="(?!0+")', info) for info in infos)


def decode_other(page: TiffPage, data: bytes) -> np.ndarray:
    """A tile of any compression but JPEG as (H, W, 3) uint8 RGB."""
    import cv2

    decoded, _, _ = page.decode(data, 0, jpegtables=page.jpegtables)
    if decoded is None:
        raise ValueError("no pixels in it")
    pixels = np.asarray(decoded).reshape(decoded.shape[-3:])
    if page.compression == APERIO_YCBCR:
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels[..., (0, 2, 1)]), cv2.COLOR_YCrCb2RGB)
    return pixels


def shrunk(pixels: np.ndarray, shrink: int) -> np.ndarray:
    """Area average by a whole factor, for compressions that cannot decode smaller."""
    if shrink == 1:
        return pixels
    import cv2

    height, width = pixels.shape[0] // shrink, pixels.shape[1] // shrink
    area = pixels[: height * shrink, : width * shrink]
    return np.asarray(cv2.resize(area, (width, height), interpolation=cv2.INTER_AREA))
