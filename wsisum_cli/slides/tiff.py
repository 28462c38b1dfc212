"""Slides of the TIFF family, read tile by tile: tifffile knows the layout, imagecodecs and simplejpeg the pixels."""

from __future__ import annotations

import logging
import os
import re
import threading
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsisum_cli.errors import NotASlideError, SeveralSlidesError, SlideError, TileError
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.checks.bounds import BOUNDED, JPEG_COMPRESSIONS, SIZED, check_tile
from wsisum_cli.slides.checks.stream_sizes import is_subsampled_jpeg2000
from wsisum_cli.slides.checks.tiff_pages import check_pages
from wsisum_cli.slides.checks.xml_text import check_description
from wsisum_cli.slides.header import identify
from wsisum_cli.slides.images import choose_slides
from wsisum_cli.slides.layout import Planes, TiffImage, list_tiff_images, select_planes
from wsisum_cli.slides.pixels import from_ycbcr, shrunk
from wsisum_cli.slides.pyramid import MAX_TILE_PIXELS, EncodedTile, Level, Pyramid, describe_error, downsample

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

APERIO_YCBCR = 33003  # JPEG 2000 whose components are YCbCr, which the stream itself does not say
APERIO_RGB = 33005  # JPEG 2000 of RGB
PHOTOMETRIC_GREY, PHOTOMETRIC_RGB, PHOTOMETRIC_YCBCR = 1, 2, 6
LERC, LERC_PARAMETERS = 34887, 50674  # a compression, and a tag: version, and what else its streams are compressed by
MAX_OVERSIZE = 4  # px in a tile's stream over those that it shows; edges may be padded
COLOUR_TILES = 12  # of a level, whose pixels decide where its marks contradict each other
HEAD = 1 << 16  # bytes that hold the markers before the first scan
ASSOCIATED_ALPHA = 1  # TIFF 6.0 ExtraSamples: colours are multiplied by the alpha channel
UNASSOCIATED_ALPHA = 2
SPARSE_VENDORS = {"philips", "hamamatsu"}  # whose tiles without bytes are bare glass
#: GDAL leaves out empty tiles on request (SPARSE_OK), with neither offset nor bytes. Nothing in a file says whether it
#: was asked to, so these tags, or its block before the first page, are taken for it, with a note. In all other files
#: such tiles are damage: an interrupted writer leaves the same behind.
GDAL_TAGS = {42112, 42113}  # metadata, and the value of pixels without data
GDAL_BLOCK = b"GDAL_STRUCTURAL_METADATA_SIZE="
#: The tag Software of a TIFF that a summary was exported to. It looks like a slide and is none.
EXPORT_SOFTWARE = "wsisum export of a summary"


class NeedsOpenSlideError(Exception):
    """The file is a TIFF, but not one whose tiles make the image by lying side by side."""

    #: Width and height in px of the slide; None where the tiles do not tell.
    size: tuple[int, int] | None = None


class TiffPyramid(Pyramid):
    """Raises NotASlideError, SlideError, or NeedsOpenSlideError when another reader should try.

    `image` says which of several slides in the file to open, from 1; SeveralSlidesError where it has to and does not.
    """

    def __init__(self, path: Path, image: int | None = None) -> None:
        import tifffile

        # tifffile logs what it finds odd; what matters of it is raised or checked here.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        self.path, self.image = path, image
        self.reader = f"tifffile {tifffile.__version__}"
        with ExitStack() as opened:
            try:
                self._file = opened.enter_context(open(path, "rb", buffering=0))
                self._lock = threading.Lock()
                self._size = os.fstat(self._file.fileno()).st_size
                pages = check_pages(path)
                self._tif: TiffFile = opened.enter_context(tifffile.TiffFile(path))
                check_description(self._tif.pages.first.description, pages, path)
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
        self._planes = level_planes(self._tif, self.path, self.image)
        self._pages = [planes.pages[0] for planes in self._planes]
        self.focal_plane = self._planes[0].focal
        settled = [self._settle_colour(page) for page in self._pages]
        self._rgb = [rgb for rgb, _ in settled]
        self._declared = [self._declares_colour(*pair) for pair in zip(self._pages, self._rgb, strict=True)]
        self.notes = tuple(
            f"level {level}: the JPEG tiles contradict the TIFF about their colours; the pixels decided"
            for level, (_, by_pixels) in enumerate(settled)
            if by_pixels
        )
        first = self._pages[0]
        if first.compression == APERIO_YCBCR and is_subsampled_jpeg2000(self._first_tile(first)):
            raise NeedsOpenSlideError("JPEG 2000 with chroma subsampling")
        scanner = identify(self._tif, first)
        self.vendor, self.scanner = scanner.vendor, scanner.model
        self.mpp, self.mpp_source = scanner.mpp, scanner.mpp_source
        self._by_gdal = self.vendor not in SPARSE_VENDORS and is_by_gdal(first, self._read(0, HEAD))
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
        if self._by_gdal and self._left_out.any():
            self.notes = (*self.notes, left_out_words(self._left_out))

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> np.ndarray | None:
        page = self._pages[level]
        try:
            if self._planes[level].stored_apart:
                joined = self._joined_tile(level, column, row)
                pixels = None if joined is None else shrunk(joined, shrink)
            elif page.compression in JPEG_COMPRESSIONS:
                pixels = self._jpeg_tile(level, column, row, shrink)
            else:
                data = self._segment(level, column, row)
                pixels = None if data is None else shrunk(decode_other(page, data), shrink)
            if pixels is None:
                return None
            if pixels.ndim != 3 or pixels.shape[2] != 3:
                raise ValueError(f"expected RGB, found shape {pixels.shape}")
            return pixels[: page.tilelength // shrink, : page.tilewidth // shrink]
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
        if self._planes[level].stored_apart:
            return False
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
        if page.compression not in JPEG_COMPRESSIONS or page.jpegheader is not None or page.samplesperpixel != 3:
            return says_rgb, False
        chosen = self._spread_tiles(page)
        streams = (self._read(page.dataoffsets[i], page.databytecounts[i]) for i in chosen)
        complete = (jpeg.complete_stream(stream, page.jpegtables, rgb=False).stream for stream in streams)
        return jpeg.settle_colour(complete, says_rgb) if chosen else (says_rgb, False)

    def _declares_colour(self, page: TiffPage, rgb: bool) -> bool:
        """Whether a decoder given a tile alone takes its colours for what they are."""
        if page.compression not in JPEG_COMPRESSIONS or page.jpegheader is not None or page.samplesperpixel != 3:
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

    def _joined_tile(self, level: int, column: int, row: int) -> np.ndarray | None:
        """A tile whose colours are stored apart, or with an alpha channel, as (H, W, 3); None where there is none."""
        pages = self._planes[level].pages
        apart = pages[0].planarconfig == 2
        places = [(page, plane) for page in pages for plane in range(page.samplesperpixel if apart else 1)]
        segments = [(page, self._segment(level, column, row, page, plane)) for page, plane in places]
        if all(data is None for _, data in segments):
            return None
        if any(data is None for _, data in segments):
            raise TileError(self._where(level, column, row, "lacks a colour"))
        planes = [decode_other(page, data) for page, data in segments if data is not None]
        return over_glass(np.concatenate(planes, axis=2), pages[0].extrasamples)

    def _segment(self, level: int, column: int, row: int, page: TiffPage | None = None, plane: int = 0) -> bytes | None:
        """The bytes of a tile; of colour plane `plane` of `page` where these are stored apart."""
        page, grid = page or self._pages[level], self.levels[level]
        index = (plane * grid.rows + row) * grid.columns + column
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if not offset or not count:
            if self._is_glass(level, column, row):
                return None
            raise TileError(self._where(level, column, row, "has no bytes, as where writing was interrupted"))
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
            left_out = (offsets == 0) & (counts == 0) & self._by_gdal
        return np.asarray(left_out.reshape(first.rows, first.columns), bool)

    def _read(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)

    def _where(self, level: int, column: int, row: int, what: str) -> str:
        return f"{self.path.name}: tile at column {column}, row {row} of level {level} {what}"


def level_planes(tif: TiffFile, path: Path, number: int | None) -> list[Planes]:
    """Where the levels of a slide lie, largest first; all slides of the file are checked before one is taken.

    `number` says which of several slides, from 1.
    """
    if tif.pages.first.software == EXPORT_SOFTWARE:
        raise NotASlideError(f"{path.name}: an export of a summary, expected a slide; use the slide itself")
    slides = list_slides(tif, path)
    planes = [brightfield_planes(slide, path) for slide in slides]
    if number is None and len(slides) > 1:
        raise SeveralSlidesError(path.name, len(slides))
    if number is not None and not 1 <= number <= len(slides):
        raise SlideError(f"{path.name}: expected slide {number} of the file, found {len(slides)}")
    slide, first = slides[(number or 1) - 1], planes[(number or 1) - 1]
    refuse_other_files(tif, slide, first, path)
    refuse_two_pixel_sizes(slide, slides, path)
    obstacle = why_not_by_tile(first.pages[0])
    if obstacle:
        error = NeedsOpenSlideError(obstacle)
        error.size = (slide.image.width, slide.image.height)
        raise error
    if not any(count for page in first.pages for count in page.databytecounts):
        raise SlideError(f"{path.name}: the file stores no tile of the slide at all; fetch the file again", "no pixels")
    lower = [select_planes(level, slide.ome) for level in slide.levels[1:]]
    return [first, *(found for found in lower if found is not None and is_read_like(found, first))]


def list_slides(tif: TiffFile, path: Path) -> list[TiffImage]:
    """The images of a TIFF that are slides; labels, macros and thumbnails are not."""
    if tif.is_bif and has_overlaps(tif):
        raise NeedsOpenSlideError("BIF tiles overlap")
    try:
        images = list_tiff_images(tif)
    # tifffile gives up on odd vendor headers in many ways; OpenSlide may still know the file.
    except Exception as error:
        raise NeedsOpenSlideError(f"no image series found: {error}") from error
    slides = choose_slides([item.image for item in images], path.name)
    if tif.is_scn and len(slides) > 1:
        raise NeedsOpenSlideError("SCN file of several areas")
    return [images[slide.index] for slide in slides]


def brightfield_planes(slide: TiffImage, path: Path) -> Planes:
    """The pages of level 0. Raises NotASlideError unless they hold brightfield RGB of 8 bits."""
    if slide.levels and slide.levels[0].pages[0] is None:
        raise SlideError(f"{path.name}: damaged TIFF structure (no image); fetch the file again")
    if not slide.levels and slide.image.dtype == "uint8":
        raise SlideError(
            f"{path.name}: the pages of its image of {slide.image.width} x {slide.image.height} px are not where the "
            "header says; fetch the file again, with all files of the slide",
            "pages missing",
        )
    planes = select_planes(slide.levels[0], slide.ome) if slide.levels else None
    if planes is None or slide.image.dtype != "uint8" or not is_colour(planes):
        image = slide.image
        raise NotASlideError(
            f"{path.name}: expected one RGB image of 8 bits, found axes {image.axes}, shape {image.shape}, "
            f"{image.dtype}; only brightfield slides can be summarized",
            "not brightfield RGB",
        )
    return planes


def is_colour(planes: Planes) -> bool:
    page = planes.pages[0]
    if len(planes.pages) == 3:
        return all(plane.photometric == PHOTOMETRIC_GREY and plane.samplesperpixel == 1 for plane in planes.pages)
    if page.planarconfig == 2 and not page.is_tiled:
        return False  # as cameras of fluorescence microscopes store their channels
    return page.photometric > 1 and page.samplesperpixel in (3, 4)  # 0 and 1 are grey


def refuse_other_files(tif: TiffFile, slide: TiffImage, planes: Planes, path: Path) -> None:
    """Raise SlideError for an OME-TIFF whose pages lie in another file: offsets are looked up in this one."""
    if any(page.parent is not tif for page in planes.pages):
        raise SlideError(
            f"{path.name}: the pixels of its image of {slide.image.width} x {slide.image.height} px lie in another "
            "file; export the slide into one file",
            "several files",
        )


def refuse_two_pixel_sizes(slide: TiffImage, slides: list[TiffImage], path: Path) -> None:
    """Raise SlideError where slides of one size in px state several pixel sizes: headers are looked up by that size."""
    size = (slide.image.width, slide.image.height)
    alike = [other.image for other in slides if (other.image.width, other.image.height) == size]
    if len({image.pixel_size for image in alike}) > 1:
        raise SlideError(
            f"{path.name}: {len(alike)} of its slides have {size[0]} x {size[1]} px and state several pixel sizes; "
            "export each into a file of its own",
            "several pixel sizes",
        )


def is_by_gdal(page: TiffPage, head: bytes) -> bool:
    """Whether GDAL wrote a file, of which `page` is level 0 and `head` the first bytes."""
    return not GDAL_TAGS.isdisjoint(tag.code for tag in page.tags) or GDAL_BLOCK in head[:64]


def left_out_words(left_out: np.ndarray) -> str:
    """What to say of the tiles of level 0 that GDAL may have left out, `left_out` (rows, columns) bool."""
    return (
        f"{np.count_nonzero(left_out)} of {left_out.size} tiles of level 0 were never written and are taken for bare "
        "glass, as GDAL may leave it out; look at the overview"
    )


def is_read_like(planes: Planes, first: Planes) -> bool:
    """Whether a lower level is stored as level 0 is, and can be read by tile."""
    same = len(planes.pages) == len(first.pages) and planes.focal == first.focal
    page = planes.pages[0]
    return same and page.dtype == np.uint8 and is_colour(planes) and why_not_by_tile(page) is None


def why_not_by_tile(page: TiffPage) -> str | None:
    """What keeps the page from being read tile by tile, None when nothing does."""
    import tifffile

    coded = int(page.compression)
    if page.samplesperpixel not in (1, 3, 4):
        return f"{page.samplesperpixel} samples per pixel"
    if not page.is_tiled or not page.tilewidth or not page.tilelength:
        return "not tiled"
    if page.planarconfig not in (1, 2):
        return "planar configuration unknown"
    if page.imagedepth != 1 or page.tiledepth != 1:
        return f"{page.imagedepth} planes in one image"
    if page.tilewidth * page.tilelength > MAX_TILE_PIXELS:
        return f"tiles of {page.tilewidth} x {page.tilelength} px"
    if coded not in tifffile.TIFF.DECOMPRESSORS or coded not in JPEG_COMPRESSIONS | SIZED | BOUNDED:
        return f"TIFF compression {coded} is unknown"
    if coded == LERC and any(page.tags.valueof(LERC_PARAMETERS, default=(0, 0))[1:]):
        # Its tiles do not say how large they are.
        return "LERC compressed once more; export it with another compression"
    if coded not in {APERIO_YCBCR, APERIO_RGB} and not is_known_colour(page):
        return f"photometric interpretation {int(page.photometric)} with TIFF compression {coded}"
    tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength)
    tiles *= page.samplesperpixel if page.planarconfig == 2 else 1
    if min(len(page.dataoffsets), len(page.databytecounts)) < tiles:
        return f"{len(page.dataoffsets)} tiles in the table, {tiles} expected"
    return None


def is_known_colour(page: TiffPage) -> bool:
    if page.samplesperpixel == 1:
        return page.photometric == PHOTOMETRIC_GREY
    if page.photometric == PHOTOMETRIC_YCBCR:
        return page.compression in JPEG_COMPRESSIONS and page.samplesperpixel == 3 and page.planarconfig == 1
    return page.photometric == PHOTOMETRIC_RGB


def has_overlaps(tif: TiffFile) -> bool:
    """Whether a Ventana file's tiles overlap, as OverlapX and OverlapY of its EncodeInfo say."""
    infos = (bytes(page.aspage().tags.valueof(700, default=b"") or b"") for page in tif.pages)
    return any(re.search(rb'Overlap[XY]="(?!0+")', info) for info in infos)


def over_glass(pixels: np.ndarray, extra: tuple[int, ...]) -> np.ndarray:
    """(H, W, 3) of (H, W, 3 or 4): what the alpha channel hides is white. `extra` is the TIFF's ExtraSamples."""
    colours = np.ascontiguousarray(pixels[..., :3])
    alpha = pixels[..., 3:]
    if not alpha.size or not extra or alpha.min() == 255:
        return colours
    share = alpha / 255.0
    if extra[0] == ASSOCIATED_ALPHA:
        return np.asarray((colours + 255 * (1 - share)).round().clip(0, 255), np.uint8)
    if extra[0] == UNASSOCIATED_ALPHA:
        return np.asarray((colours * share + 255 * (1 - share)).round(), np.uint8)
    return colours


def decode_other(page: TiffPage, data: bytes) -> np.ndarray:
    """A tile of any compression but RGB in JPEG as (H, W, samples) uint8."""
    check_tile(data, int(page.compression), MAX_OVERSIZE * page.tilewidth * page.tilelength, page.jpegtables)
    decoded, _, _ = page.decode(data, 0, jpegtables=page.jpegtables)
    if decoded is None:
        raise ValueError("no pixels in it")
    pixels = np.asarray(decoded).reshape(decoded.shape[-3:])
    if page.compression == APERIO_YCBCR:
        return from_ycbcr(pixels)
    return pixels
