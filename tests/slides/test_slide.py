"""Every layout opens as what it is, with the pixels that OpenSlide sees; damage is told, never met with a crash."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import draw
import imagecodecs
import numpy as np
import openslide
import pydicom
import pytest
import simplejpeg
import tifffile
import vendors
from draw import Image
from PIL import Image as PillowImage
from PIL import ImageCms

from wsisum_cli.errors import BrokenSlideError, MppError, NotASlideError, SlideError, TileError
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.header import clean_model
from wsisum_cli.slides.patches import Reading, cut_patch
from wsisum_cli.slides.pixels import shrunk
from wsisum_cli.slides.pyramid import Level, choose_scale, describe_error, downsample
from wsisum_cli.slides.slide import (
    GLASS,
    Slide,
    averaging_factor,
    open_pyramid,
    open_slide,
    read_level,
    read_overview,
    settle_mpp,
)
from wsisum_cli.slides.tiff import TiffPyramid

WIDTH, HEIGHT, MPP = 1600, 1088, 0.25
BY_TILE = f"tifffile {tifffile.__version__}"
BY_FRAME = f"pydicom {pydicom.__version__}"
BY_REGION = f"openslide {openslide.__library_version__}"

Writer = Callable[[Path, Image], None]


@dataclass(frozen=True)
class Layout:
    """How a file is written, and what we say of it."""

    write: Writer
    vendor: str
    mpp_source: str
    levels: tuple[int, ...]  # downsamples
    scanner: str | None = None
    reader: str = BY_TILE
    padded: int = 1  # the image is filled up to multiples of this many px


APERIO = {
    f"aperio-{'rgb' if rgb else 'ycbcr'}-{'tables' if tables else 'whole'}.svs": Layout(
        partial(vendors.write_aperio_jpeg, tables=tables, rgb=rgb), "aperio", "Aperio MPP", (1, 4, 16)
    )
    for rgb in (True, False)
    for tables in (True, False)
}
NDPI = {"vendor": "hamamatsu", "mpp_source": "TIFF resolution tags", "levels": (1, 2, 4), "scanner": "NanoZoomer"}
PHILIPS = {"vendor": "philips", "mpp_source": "Philips DICOM_PIXEL_SPACING", "levels": (1, 2, 4)}
LAYOUTS: dict[str, Layout] = {
    **APERIO,
    "aperio-33003.svs": Layout(partial(vendors.write_aperio_j2k, ycbcr=True), "aperio", "Aperio MPP", (1, 4, 16)),
    "aperio-33005.svs": Layout(partial(vendors.write_aperio_j2k, ycbcr=False), "aperio", "Aperio MPP", (1, 4, 16)),
    "hamamatsu.ndpi": Layout(vendors.write_ndpi, **NDPI),
    "hamamatsu-large.ndpi": Layout(vendors.write_ndpi_large, **NDPI),
    "philips.tiff": Layout(vendors.write_philips, **PHILIPS),
    "philips-sparse.tiff": Layout(partial(vendors.write_philips, sparse=True, tile=256), **PHILIPS),
    "leica.scn": Layout(vendors.write_scn, "leica", "TIFF resolution tags", (1, 4, 16), "Leica SCN400"),
    "ventana.bif": Layout(vendors.write_bif, "ventana", "Ventana ScanRes", (1, 2, 4), padded=256),
    "mirax.mrxs": Layout(
        vendors.write_mrxs, "mirax", "mirax header by OpenSlide", (1, 2, 4), reader=BY_REGION, padded=1024
    ),
    "drawn.svs": Layout(draw.write_svs, "aperio", "Aperio MPP", (1, 4, 16)),
    "drawn-rgb.svs": Layout(partial(draw.write_svs, rgb_jpeg=True), "aperio", "Aperio MPP", (1, 4, 16)),
    "drawn.tiff": Layout(partial(draw.write_tiff, mpp=MPP), "generic-tiff", "TIFF resolution tags", (1, 4, 16)),
    "drawn.ome.tiff": Layout(draw.write_ome_tiff, "ome-tiff", "OME PhysicalSize", (1, 4, 16)),
}
REAL = (
    "fixtures/CMU-1-Small-Region.svs",
    "fixtures/tcga-cr-7395-01a-01-ts1.svs",
    "fixtures/camelyon-jpeg.dcm",
    "fixtures/camelyon-jpeg2000.dcm",
    "slides/stomach/stomach-metaplasia.svs",
    "slides/duodenum/duodenum-lymphangiectasia.svs",
    "slides/lung/lung-scc-3.svs",
    "slides/colon/tubular-adenoma.ome.tiff",
    "slides/pancreas/pdac-tru-cut-3.tiff",
)


@pytest.fixture(scope="module")
def image() -> Image:
    drawn = draw.draw_tissue(WIDTH, HEIGHT, seed=2, kinds=("stroma", "tumour", "lymphoid"))
    drawn[:512, :512] = 242  # bare glass, which a sparse file leaves out
    return drawn


@pytest.fixture(scope="module")
def small(image: Image) -> Image:
    return np.ascontiguousarray(image[400:900, 700:1400])


@pytest.fixture(scope="module")
def slides(image: Image, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    for name, layout in LAYOUTS.items():
        layout.write(folder / name, image)
    return {name: folder / name for name in LAYOUTS}


# --- the same pixels as OpenSlide's


def difference(one: Image, other: Image) -> float:
    """Mean absolute difference in grey levels."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other).mean())


def reading_of(slide: Slide, index: int, shrink: int, side: int) -> Reading:
    """Squares of `side` px as read, left as they are."""
    level = slide.levels[index]
    tile = (level.tile_width // shrink, level.tile_height // shrink)
    scale = level.downsample * shrink
    return Reading(index, shrink, scale, side, side, *tile, level.width // shrink, level.height // shrink)


def seen_by_openslide(other: openslide.OpenSlide, index: int, corner: tuple[int, int], size: int) -> Image:
    """A square at `corner` of a level, in the frame of what was scanned; nothing scanned is white."""
    step = other.level_downsamples[index]
    if not step.is_integer():  # OpenSlide would place the square between px
        left, upper = corner
        return whole_level(other, index)[upper : upper + size, left : left + size]
    begin = [int(other.properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy"]
    at = tuple(round(px * step) + offset for px, offset in zip(corner, begin, strict=True))
    region = np.array(other.read_region(at, index, (size, size)))
    region[region[..., 3] == 0] = GLASS
    return np.ascontiguousarray(region[..., :3])


@lru_cache(maxsize=1)
def whole_level(other: openslide.OpenSlide, index: int) -> Image:
    return np.array(other.read_region((0, 0), index, other.level_dimensions[index]))[..., :3]


def assert_same_pixels(slide: Slide, other: openslide.OpenSlide, index: int, shrink: int) -> None:
    """Upper left, centre, right and lower edge, lower right corner."""
    level = slide.levels[index]
    theirs = [i for i, step in enumerate(other.level_downsamples) if abs(step / level.downsample - 1) < 0.01]
    side = min(100, level.width // shrink, level.height // shrink)
    reading = reading_of(slide, index, shrink, side)
    middle, (right, lower) = (slide.size[0] // 2, slide.size[1] // 2), slide.size
    for x, y in ((0, 0), middle, (right, middle[1]), (middle[0], lower), (right, lower)):
        ours = cut_patch(reading, x, y, lambda at: slide.pyramid.tile(index, *at, shrink))
        left, upper = reading.corner(x, y)
        found = seen_by_openslide(other, theirs[0], (left * shrink, upper * shrink), side * shrink)
        assert difference(ours, shrunk(found, shrink)) < 2, (index, shrink, left, upper)


def assert_same_levels(slide: Slide, other: openslide.OpenSlide) -> None:
    for index, level in enumerate(slide.levels[:2]):
        if index < other.level_count:  # of OME-TIFF, OpenSlide sees one level only
            for shrink in level.shrinks() if index == 0 else (1, 2):
                assert_same_pixels(slide, other, index, shrink)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_give_the_pixels_of_openslide(name: str, slides: dict[str, Path]) -> None:
    with open_slide(slides[name]) as slide, openslide.OpenSlide(slides[name]) as other:
        assert_same_levels(slide, other)


@pytest.mark.parametrize("name", REAL)
def test_real_slides_give_the_pixels_of_openslide(name: str, shared: Path) -> None:
    path = shared / name
    with open_slide(path, MPP) as slide, openslide.OpenSlide(path) as other:
        assert slide.pyramid.reader == (BY_FRAME if path.suffix == ".dcm" else BY_TILE)
        assert_same_levels(slide, other)


@pytest.mark.parametrize("name", LAYOUTS)
def test_whole_levels_show_what_was_drawn(name: str, slides: dict[str, Path], image: Image) -> None:
    with open_slide(slides[name]) as slide:
        for index, level in enumerate(slide.levels):
            factor = LAYOUTS[name].levels[index]
            found = read_level(slide.pyramid, index, 1, Damage(), threads=2)
            assert found.shape == (level.height, level.width, 3)
            drawn = draw.reduce(image, factor)
            scanned = (slice(drawn.shape[0]), slice(512 // factor, drawn.shape[1]))  # left of it some store nothing
            assert difference(found[scanned], drawn[scanned]) < 6


# --- what is recorded


@pytest.mark.parametrize("name", LAYOUTS)
def test_facts(name: str, slides: dict[str, Path]) -> None:
    layout = LAYOUTS[name]
    with open_slide(slides[name]) as slide:
        pyramid = slide.pyramid
        assert (pyramid.reader, pyramid.vendor, pyramid.scanner) == (layout.reader, layout.vendor, layout.scanner)
        assert slide.mpp == pytest.approx(MPP, rel=1e-6)
        assert slide.mpp_source == layout.mpp_source
        assert [level.downsample for level in slide.levels] == list(layout.levels)
        # the slide itself: no label, macro or thumbnail is as large
        assert slide.size == tuple(-(-side // layout.padded) * layout.padded for side in (WIDTH, HEIGHT))
        assert slide.name == name
        assert pyramid.icc_profile is None


@pytest.mark.parametrize("name", LAYOUTS)
def test_jpeg_tiles_that_are_handed_out_are_complete(name: str, slides: dict[str, Path]) -> None:
    with open_slide(slides[name]) as slide:
        copies = slide.pyramid.copies_jpeg(0)
        assert copies == (LAYOUTS[name].reader == BY_TILE and "3300" not in name and "ndpi" not in name)
        level = slide.levels[0]
        at = level.columns - 1, level.rows - 2
        encoded = slide.pyramid.encoded_tile(0, *at) if copies else None
        if encoded is not None:
            tile = slide.pyramid.tile(0, *at)
            np.testing.assert_array_equal(imagecodecs.jpeg8_decode(encoded.stream), tile)
            assert encoded.stream[:2] + encoded.stream[2 + encoded.spliced :] in slides[name].read_bytes()


def test_real_slides_keep_their_colour_profile(shared: Path) -> None:
    path = shared / "fixtures" / "tcga-cr-7395-01a-01-ts1.svs"
    with open_slide(path, MPP) as slide, openslide.OpenSlide(path) as other:
        assert slide.pyramid.icc_profile is not None
        assert slide.pyramid.icc_profile == other.color_profile.tobytes()


def test_colour_profile_is_kept(small: Image, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_tiled(tmp_path / "a.tif", small, iccprofile=profile)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.pyramid.icc_profile == profile


@pytest.mark.parametrize("typed_in", ["Macro", "label", "Thumbnail"])
def test_what_users_type_into_an_ndpi_hides_no_slide(typed_in: str, small: Image, tmp_path: Path) -> None:
    path = tmp_path / "a.ndpi"
    vendors.write_ndpi(path, small)
    path.write_bytes(path.read_bytes().replace(b"LABEL\0", typed_in.encode()[:5] + b"\0"))
    with open_slide(path) as slide:
        assert slide.size == (640, 480)


def test_label_alone_is_no_slide(shared: Path, tmp_path: Path) -> None:
    head = "Aperio Image Library v12.0.15 \r\nlabel 400x400"
    tifffile.imwrite(tmp_path / "a.svs", draw.draw_label(), description=head, metadata=None, photometric="rgb")
    for path in (tmp_path / "a.svs", shared / "fixtures" / "dicom-label-image.dcm"):
        with pytest.raises(SlideError), open_slide(path, MPP):
            pass
    with pytest.raises(NotASlideError, match="label"), open_slide(shared / "fixtures" / "dicom-label-image.dcm", MPP):
        pass


def test_tiles_left_out_are_glass(slides: dict[str, Path]) -> None:
    with open_slide(slides["philips-sparse.tiff"]) as slide:
        assert slide.pyramid.tile(0, 0, 0) is None
        assert slide.pyramid.encoded_tile(0, 1, 1) is None
        damage = Damage()
        assert read_level(slide.pyramid, 0, 4, damage, 1)[:128, :128].min() == GLASS
        assert damage.count == 0


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ("NanoZoomer S360", "NanoZoomer S360"),
        ("C13210-01", "C13210-01"),
        (None, None),
        ("", None),
        ("SN: 1234; operator jane.doe", None),
        ("x" * 80, None),
    ],
)
def test_scanner_is_a_model_or_nothing(found: str | None, kept: str | None) -> None:
    assert clean_model(found) == kept


def test_leica_model_is_the_first_part(small: Image, tmp_path: Path) -> None:
    path = tmp_path / "a.scn"
    vendors.write_scn(path, small, margin=256)
    path.write_bytes(
        path.read_bytes().replace(b'model="Leica SCN400" version="1.5"', b'model="Leica SCN;SN12345" vers=" "')
    )
    with open_slide(path) as slide:
        assert slide.pyramid.scanner == "Leica SCN"


def test_overlapping_tiles_are_left_to_openslide(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "a.bif"
    vendors.write_bif(path, image)
    path.write_bytes(path.read_bytes().replace(b'OverlapX="0"', b'OverlapX="8"'))
    with open_slide(path) as slide:
        assert (slide.pyramid.reader, slide.pyramid.vendor) == (BY_REGION, "ventana")
        assert slide.size[0] < 7 * 256


# --- pixel size


@pytest.mark.parametrize("write", [partial(draw.write_svs, mpp=None), draw.write_tiff])
def test_missing_pixel_size(write: Writer, small: Image, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write(path, small)
    with pytest.raises(MppError, match=r"^a\.svs: no pixel size in the file; pass --mpp, or list it in --manifest$"):
        with_open(path)
    with open_slide(path, 0.5) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "given")


@pytest.mark.parametrize("mpp", [0.049, 10.1, 352.8])
def test_implausible_pixel_size(mpp: float, small: Image, tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    draw.write_tiff(path, small, mpp)
    with pytest.raises(MppError, match=r"outside 0\.05 to 10; pass --mpp") as caught:
        with_open(path)
    assert caught.value.reason == "implausible pixel size"
    with open_slide(path, 0.5) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "given")


def test_stated_pixel_size_is_believed(slides: dict[str, Path]) -> None:
    with open_slide(slides["drawn.svs"], 0.5) as slide:
        assert (slide.mpp, slide.mpp_source) == (MPP, "Aperio MPP")


def test_a_slide_longer_than_any_glass(monkeypatch: pytest.MonkeyPatch, small: Image, tmp_path: Path) -> None:
    """As damaged headers tell of; its tiles would never come to an end."""
    write_tiled(tmp_path / "a.tif", small)
    with open_slide(tmp_path / "a.tif", 0.5):
        pass
    monkeypatch.setattr("wsisum_cli.slides.slide.MAX_EXTENT_UM", 100.0)
    with (
        pytest.raises(SlideError, match=r"a\.tif: damaged header, \d+ px"),
        open_slide(tmp_path / "a.tif", 0.5),
    ):
        pass


@pytest.mark.parametrize("mpp", [0.0, -1.0, 0.01, 11.0, float("nan"), float("inf")])
def test_given_pixel_size_is_plausible_too(mpp: float) -> None:
    with pytest.raises(MppError, match="given"):
        settle_mpp(stating(None), mpp)


def test_nearly_square_pixels_are_taken_for_square() -> None:
    assert settle_mpp(stating((0.25, 0.252)), None) == (pytest.approx(0.251), "stated")


def test_philips_states_the_height_of_pixels_first(small: Image, tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    vendors.write_philips(path, small)
    stated, odd = b"&quot;0.00025&quot; &quot;0.00025&quot;", b"&quot;0.00026&quot; &quot;0.00025&quot;"
    path.write_bytes(path.read_bytes().replace(stated, odd))
    with open_slide(path) as slide:
        assert slide.pyramid.mpp == pytest.approx((0.25, 0.25))
        assert "pixels of 0.25 x 0.26 µm" in slide.notes[0]


def test_no_pixel_size_is_made_of_resolution_tags_of_an_svs(small: Image, tmp_path: Path) -> None:
    head = "Aperio Image Library v12.0.15 \r\n700x500 (256x256) JPEG/RGB Q=70"
    write_tiled(tmp_path / "a.svs", small, description=head)
    with pytest.raises(MppError, match="no pixel size"):
        with_open(tmp_path / "a.svs")


def stating(mpp: tuple[float, float] | None) -> Any:
    """What of a pyramid tells its pixel size."""
    return SimpleNamespace(path=Path("a.svs"), mpp=mpp, mpp_source="stated")


def with_open(path: Path, mpp: float | None = None) -> None:
    with open_slide(path, mpp):
        pass


# --- encodings beside the vendors'


def write_tiled(path: Path, image: Image, **options: Any) -> None:
    settings: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
    settings |= {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, **settings | options)


def write_streams(path: Path, image: Image, encode: Callable[[Image], bytes], **options: Any) -> None:
    """JPEG tiles as `encode` makes them, whatever the TIFF says of them."""
    streams = iter([encode(each) for each in vendors.tiles(image, 256)])
    layout: dict[str, Any] = {"shape": image.shape, "dtype": "uint8", "compression": "jpeg"}
    write_tiled(path, streams, **layout | options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "lzw"},
        {"compression": "lzw", "predictor": 2},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": 2},
        {"compression": "zstd"},
        {"compression": "webp"},
        {"compression": "lerc"},
        {"compression": "jpegxl"},
        {"compression": "jpeg2000"},
        {"compression": "lzw", "bigtiff": True},
        {"compression": "lzw", "byteorder": ">"},
        {"compression": "lzw", "tile": (1024, 1024)},
        {"compression": "lzw", "tile": (240, 272)},
    ],
    ids=str,
)
def test_lossless_encodings(options: dict[str, Any], small: Image, tmp_path: Path) -> None:
    write_tiled(tmp_path / "a.tif", small, **options)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.pyramid.reader == BY_TILE
        assert not slide.pyramid.copies_jpeg(0)
        np.testing.assert_array_equal(read_level(slide.pyramid, 0, 1, Damage(), 1), small)
        half = read_level(slide.pyramid, 0, 2, Damage(), 1)
        assert difference(half, shrunk(small, 2)) < 0.5


def test_jpeg_tiles_larger_than_the_slide(small: Image, tmp_path: Path) -> None:
    write_tiled(tmp_path / "a.tif", small, compression="jpeg", tile=(1024, 1024))
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.size == (700, 500)
        assert difference(read_level(slide.pyramid, 0, 1, Damage(), 1), small) < 3


def test_planes_stored_apart_are_read(small: Image, tmp_path: Path) -> None:
    write_tiled(tmp_path / "a.tif", small.transpose(2, 0, 1).copy(), planarconfig="separate", compression="lzw")
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.pyramid.reader == BY_TILE
        assert not slide.pyramid.copies_jpeg(0)
        np.testing.assert_array_equal(read_level(slide.pyramid, 0, 1, Damage(), 1), small)


@pytest.mark.parametrize("kind", ["16 bits", "grey", "stack", "fluorescence"])
def test_what_is_no_brightfield_rgb(kind: str, small: Image, tmp_path: Path) -> None:
    images: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "16 bits": (small.astype(np.uint16) * 256, {}),
        "grey": (small[..., 1].copy(), {"photometric": "minisblack"}),
        "stack": (np.stack([small, small]), {}),
        "fluorescence": (np.stack([small[..., 0]] * 4), {"photometric": "minisblack", "planarconfig": "separate"}),
    }
    pixels, options = images[kind]
    write_tiled(tmp_path / "a.tif", pixels, compression="lzw", **options)
    with pytest.raises(NotASlideError, match=r"^a\.tif: expected one RGB image of 8 bits") as caught:
        with_open(tmp_path / "a.tif")
    assert caught.value.reason == "not brightfield RGB"


@pytest.mark.parametrize("within", ["deflate", "zstd"])
def test_lerc_that_is_compressed_once_more_is_refused(within: str, small: Image, tmp_path: Path) -> None:
    write_tiled(tmp_path / "a.tif", small, compression="lerc", compressionargs={"compression": within})
    with pytest.raises(SlideError, match=r"^a\.tif: not readable by tile \(LERC compressed once more; export"):
        with_open(tmp_path / "a.tif")


def test_photograph_is_no_slide(small: Image, tmp_path: Path) -> None:
    write_tiled(tmp_path / "a.tif", small, tile=None, compression="jpeg")
    with pytest.raises(SlideError, match=r"^a\.tif: not readable by tile \(not tiled\), and no reader can open it"):
        with_open(tmp_path / "a.tif")


# --- JPEG


def rgb_jpeg(pixels: Image) -> bytes:
    """RGB stored as it is, without a word of it."""
    return vendors.without_colour_marks(vendors.jpeg(pixels, rgb=True))


def ycbcr_jpeg(pixels: Image) -> bytes:
    return vendors.without_colour_marks(vendors.jpeg(pixels))


def marked(encode: Callable[[Image], bytes], mark: bytes, pixels: Image) -> bytes:
    stream = encode(pixels)
    return stream[:2] + mark + stream[2:]


ADOBE_YCBCR = jpeg.ADOBE_RGB[:-1] + b"\1"
RGB = {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}}
YCBCR = {"photometric": "ycbcr", "subsampling": (2, 2)}


@pytest.mark.parametrize(
    ("encode", "options", "copies"),
    [
        (rgb_jpeg, RGB, True),
        (partial(marked, rgb_jpeg, jpeg.ADOBE_RGB), RGB, True),
        (partial(marked, rgb_jpeg, jpeg.JFIF), RGB, False),
        (partial(marked, rgb_jpeg, ADOBE_YCBCR), RGB, False),
        (ycbcr_jpeg, YCBCR, True),
        (partial(marked, ycbcr_jpeg, jpeg.JFIF), YCBCR, True),
        (partial(marked, ycbcr_jpeg, ADOBE_YCBCR), YCBCR, True),
        (partial(marked, ycbcr_jpeg, jpeg.ADOBE_RGB), YCBCR, False),
    ],
    ids=["rgb", "rgb-adobe", "rgb-jfif", "rgb-wrong", "ycbcr", "ycbcr-jfif", "ycbcr-adobe", "ycbcr-wrong"],
)
def test_colours_are_those_stored_whatever_the_marks_say(
    encode: Callable[[Image], bytes], options: dict[str, Any], copies: bool, small: Image, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    write_streams(path, small, encode, **options)
    with open_slide(path) as slide, openslide.OpenSlide(path) as other:
        found = read_level(slide.pyramid, 0, 1, Damage(), 1)
        assert slide.pyramid.copies_jpeg(0) == copies
        theirs = np.array(other.read_region((0, 0), 0, (700, 500)))[..., :3]
    assert difference(found, small) < 3
    assert difference(found, theirs) < 0.01


@pytest.mark.parametrize("stain", ["he", "ki67"])
def test_exported_ome_tiff_has_the_colours_of_tifffile(stain: str, shared: Path) -> None:
    path = shared / "problems" / f"qupath032-bioformats670-{stain}.ome.tif"
    with open_slide(path) as slide:
        found = read_level(slide.pyramid, 0, 1, Damage(), 1)
        assert difference(found, tifffile.imread(path)) == 0
        assert slide.pyramid.copies_jpeg(0)
        encoded = slide.pyramid.encoded_tile(0, 0, 0)
        assert encoded is not None
        tile = np.asarray(imagecodecs.jpeg8_decode(encoded.stream))
        np.testing.assert_array_equal(tile, slide.pyramid.tile(0, 0, 0))


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_chroma_subsampling_and_sizes(subsampling: str, shrink: int, small: Image) -> None:
    limit = 5 if subsampling == "411" else 2.5 if shrink == 8 else 2  # coarser than its luma, chroma is enlarged
    for height, width in ((256, 256), (240, 240), (8, 160), (61, 43)):
        pixels = np.ascontiguousarray(small[:height, :width])
        stream = bytes(imagecodecs.jpeg8_encode(pixels, 90, subsampling=subsampling))
        found = jpeg.decode(stream, shrink)
        assert found.shape == (-(-height // shrink), -(-width // shrink), 3)
        whole = (slice(height // shrink), slice(width // shrink))
        assert difference(found[whole], shrunk(jpeg.decode(stream), shrink)[whole]) < limit


def test_progressive_jpeg(small: Image) -> None:
    stream = io.BytesIO()
    PillowImage.fromarray(small).save(stream, "JPEG", progressive=True, quality=90)
    assert difference(jpeg.decode(stream.getvalue()), small) < 3
    assert not jpeg.is_rgb(stream.getvalue())


@pytest.mark.parametrize("shrink", [1, 2])
def test_bytes_that_pad_a_stream_do_no_harm(shrink: int, small: Image) -> None:
    stream = vendors.jpeg(small)
    expected = jpeg.decode(stream, shrink)
    for padded in (stream[:-2] + bytes(range(40)) + stream[-2:], stream + bytes(33)):
        np.testing.assert_array_equal(jpeg.decode(padded, shrink), expected)
    with pytest.raises(ValueError, match="extraneous"):  # the decoder is stricter than we are
        simplejpeg.decode_jpeg(stream[:-2] + bytes(range(40)) + stream[-2:])


@pytest.mark.parametrize("kept", [0, 1, 2, 30, 700, 0.5, 0.98])
@pytest.mark.parametrize("end", [b"", jpeg.EOI])
def test_truncated_streams_are_refused(kept: float, end: bytes, small: Image) -> None:
    stream = vendors.jpeg(small)
    cut = stream[: int(kept * len(stream)) if isinstance(kept, float) else kept] + end
    for shrink in (1, 8):
        with pytest.raises(ValueError, match=r"."):
            jpeg.decode(cut, shrink)


# --- levels


def test_tiles_shrink_by_what_divides_them() -> None:
    assert Level(1000, 1000, 250, 250, 1.0).shrinks() == (2, 1)
    assert Level(1000, 1000, 240, 256, 1.0).shrinks() == (8, 4, 2, 1)
    assert Level(1000, 1000, 255, 256, 1.0).shrinks() == (1,)
    assert (Level(1000, 1001, 250, 250, 1.0).columns, Level(1000, 1001, 250, 250, 1.0).rows) == (4, 5)


def test_downsample_is_whole_where_it_was_meant_so() -> None:
    assert downsample(4443, 3567, 2221, 1783) == 2.0
    assert downsample(46_000, 32_914, 11_500, 8228) == 4.0
    assert downsample(1000, 1000, 700, 700) == pytest.approx(1.4286, abs=1e-4)


def test_cheapest_way_to_read_is_never_too_coarse() -> None:
    levels = tuple(Level(40_000 // d, 40_000 // d, 240, 240, float(d)) for d in (1, 4, 16))
    assert choose_scale(levels, 2.0) == (0, 2, 2.0)
    assert choose_scale(levels, 4.0) == (1, 1, 4.0)
    assert choose_scale(levels, 32.0) == (2, 2, 32.0)
    assert choose_scale(levels, 3.9) == (0, 2, 2.0)
    assert choose_scale(levels, 3.9, tolerance=0.05) == (1, 1, 4.0)
    assert choose_scale(levels, 0.5) == (0, 1, 1.0)


def test_overview_of_a_slide_without_low_levels(image: Image, tmp_path: Path) -> None:
    write_tiled(tmp_path / "a.tif", image, compression="jpeg")
    with open_slide(tmp_path / "a.tif") as slide:
        overview = read_overview(slide, Damage())
        level = slide.levels[0]
        assert [averaging_factor(level, 8, factor) for factor in (1.0, 3.9, 4.0, 1000.0)] == [1, 2, 4, 32]
    assert overview.pixels.shape == (34, 50, 3)
    assert (overview.downsample, overview.mpp) == (32.0, 8.0)
    expected = cv2.resize(image, (50, 34), interpolation=cv2.INTER_AREA)
    assert difference(overview.pixels, np.asarray(expected, np.uint8)) < 2


def test_overview_is_bounded(small: Image, tmp_path: Path) -> None:
    write_tiled(tmp_path / "a.tif", small, compression="jpeg")
    with open_slide(tmp_path / "a.tif", 0.25) as slide:
        coarse = Slide("a", slide.pyramid, 8.0, "given")
        assert read_overview(coarse, Damage()).pixels.shape == small.shape


# --- damage


def flip_tiles(path: Path, tiles: list[tuple[int, int]]) -> None:
    """Make the tiles at (column, row) of level 0 undecodable."""
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.series[0].levels[0].pages[0]
        columns = -(-page.imagewidth // page.tilewidth)
        places = [page.dataoffsets[row * columns + column] for column, row in tiles]
    with path.open("r+b") as file:
        for offset in places:
            file.seek(offset)
            file.write(b"\0" * 64)


@pytest.fixture(scope="module")
def wide(image: Image) -> Image:
    return np.tile(image[:800, :800], (2, 3, 1))  # 10 x 7 tiles of 240 px


def test_a_few_broken_tiles_are_noted_and_left_as_glass(wide: Image, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    draw.write_svs(path, wide)
    flip_tiles(path, [(3, 2), (9, 6)])
    with open_slide(path) as slide:
        damage = Damage()
        found = read_level(slide.pyramid, 0, 1, damage, threads=2)
        with pytest.raises(TileError, match=r"^a\.svs: tile at column 3, row 2 of level 0 cannot be decoded"):
            slide.pyramid.tile(0, 3, 2)
    assert damage.positions == [(0, 3, 2), (0, 9, 6)]
    assert damage.count == 2
    assert found[480:720, 720:960].min() == GLASS
    found[480:720, 720:960] = wide[480:720, 720:960]
    assert difference(found, wide) < 6


def test_past_five_percent_the_slide_is_broken(wide: Image, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    draw.write_svs(path, wide)
    flip_tiles(path, [(8, 5), (2, 3), (4, 1), (4, 2)])
    expected = r"^a\.svs: 4 of 70 tiles cannot be read, more than 5%; first: tile at column 2, row 3 of level 0 "
    with open_slide(path) as slide, pytest.raises(BrokenSlideError, match=expected):
        read_level(slide.pyramid, 0, 1, Damage(), threads=2)


def test_damage_lists_the_first_and_counts_all() -> None:
    damage = Damage()
    for column in reversed(range(30)):
        damage.note(0, column, 0, f"a.svs: tile {column}")
        damage.note(0, column, 0, f"a.svs: tile {column}")  # met again by another patch
    assert damage.count == 30
    assert damage.positions == [(0, column, 0) for column in range(20)]
    for _ in range(569):
        damage.tried()
    with pytest.raises(BrokenSlideError, match=r"^a\.svs: 30 of 599 .*; first: tile 0; fetch the file again$"):
        damage.check("a.svs")
    damage.tried()
    damage.check("a.svs")  # 5 % and no more


def test_copy_cut_short(wide: Image, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    draw.write_svs(path, wide)
    draw.cut_short(path)
    with open_slide(path) as slide:
        with pytest.raises(TileError, match="cut short"):
            slide.pyramid.tile(0, 9, 6)
        with pytest.raises(BrokenSlideError, match=r"28|42 of 70 tiles .* cut short; fetch the file again"):
            read_level(slide.pyramid, 0, 1, Damage(), threads=2)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "large" not in name])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_files_that_end_early(name: str, kept: float, slides: dict[str, Path], tmp_path: Path) -> None:
    whole = slides[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(kept * len(whole))])
    assert_read_or_refused(path)


OTHERS = {
    "empty.svs": b"",
    "notes.svs": b"lung-2 was copied from a failing disk\n" * 9,
    "random.tiff": np.random.default_rng(0).bytes(5000),
    "random.ndpi": b"II*\0" + np.random.default_rng(1).bytes(5000),
    "header.svs": b"II*\0\x08\0\0\0",
    "loop.tif": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "bigtiff.svs": b"II+\0\x08\0\0\0" + b"\xff" * 40,
    "random.mrxs": np.random.default_rng(2).bytes(5000),
    "empty.mrxs": b"",
    "random.vms": b"[Virtual Microscope Specimen]\nNoLayers=1\n",
    "random.dcm": bytes(128) + b"DICM" + np.random.default_rng(3).bytes(5000),
    "empty.dcm": b"",
    "photo.scn": b"\xff\xd8\xff\xe0 a photograph",
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_that_are_no_slides(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(OTHERS[name])
    assert not assert_read_or_refused(tmp_path / name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["x.svs", "x.dcm", "x.mrxs"])
def test_folder_and_nothing(name: str, tmp_path: Path) -> None:
    assert not assert_read_or_refused(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(NotASlideError, match=r"^x\..*: a folder, not a file"):
        with_open(tmp_path / name)


def refusal(path: Path) -> str | None:
    """What is said of a slide that cannot be read; any exception but ours gets through."""
    try:
        with open_slide(path, MPP) as slide:
            read_overview(slide, Damage())
    except SlideError as error:
        return str(error)
    return None


def assert_read_or_refused(path: Path) -> bool:
    """Whether the slide is read; if not, the message begins with its name and has no folder in it."""
    message = refusal(path)
    if message is not None:
        assert message.startswith(f"{path.name}: ")
        assert str(path.parent) not in message
        assert path.parent.name not in message
    return message is None


def test_fixtures_are_read_or_refused(shared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = {path.name for path in sorted((shared / "fixtures").iterdir()) if assert_read_or_refused(path)}
    assert capfd.readouterr() == ("", "")
    assert found == {
        "CMU-1-Small-Region.svs",
        "boxes.tiff",
        "boxes_0.dcm",
        "camelyon-jpeg.dcm",
        "camelyon-jpeg2000.dcm",
        "fluorescence-dapi.ndpi",  # found dark later on
        "small.svs",  # found too small later on
        "small_dicom.dcm",
        "tcga-cr-7395-01a-01-ts1.svs",
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["a.svs", "a.ndpi", "a.tiff", "a.scn", "a.bif", "a.ome.tiff"])
def test_flipped_header_bytes(
    name: str, seed: int, headers: dict[str, tuple[bytes, list[int]]], tmp_path: Path
) -> None:
    whole, places = headers[name]
    rng = np.random.default_rng(seed)
    for _ in range(4):
        damaged = bytearray(whole)
        for at in rng.choice(places, 2):
            damaged[at] = rng.integers(256)
        (tmp_path / name).write_bytes(damaged)
        assert_read_or_refused(tmp_path / name)


@pytest.fixture(scope="module")
def headers(small: Image, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, list[int]]]:
    """Bytes of a file of each TIFF layout, and the positions in it that hold tags or their values."""
    folder = tmp_path_factory.mktemp("headers")
    writers: dict[str, Writer] = {
        "a.svs": vendors.write_aperio_jpeg,
        "a.ndpi": vendors.write_ndpi,
        "a.tiff": partial(vendors.write_philips, tile=256),
        "a.scn": partial(vendors.write_scn, margin=256),
        "a.bif": vendors.write_bif,
        "a.ome.tiff": draw.write_ome_tiff,
    }
    found = {}
    for name, write in writers.items():
        write(folder / name, small)
        found[name] = (folder / name).read_bytes(), header_bytes(folder / name)
    return found


def header_bytes(path: Path) -> list[int]:
    places = set(range(16))
    with tifffile.TiffFile(path) as tiff:
        for page in tiff.pages:
            tags = page.aspage().tags
            places.update(range(page.offset, page.offset + 16 * len(tags)))
            for tag in tags:
                places.update(range(tag.valueoffset, tag.valueoffset + min(tag.valuebytecount, 300)))
    return sorted(places)


def test_broken_regions_of_openslide_stay_where_they_are(image: Image, tmp_path: Path) -> None:
    """After one error OpenSlide's handle refuses everything; other tiles must not suffer, in whatever thread."""
    path = tmp_path / "a.mrxs"
    vendors.write_mrxs(path, np.tile(image, (2, 1, 1)))
    data = tmp_path / "a" / "Data0000.dat"
    streams = data.read_bytes()
    data.write_bytes(b"\0" * 64 + streams[64:])  # its first image: the upper left of level 0

    def is_readable(at: tuple[int, int]) -> bool:
        try:
            pyramid.tile(0, *at)
        except TileError:
            return False
        return True

    with open_slide(path) as slide, ThreadPoolExecutor(4) as pool:
        pyramid, level = slide.pyramid, slide.levels[0]
        places = [(column, row) for row in range(level.rows) for column in range(level.columns)] * 3
        readable = dict(zip(places, pool.map(is_readable, places), strict=True))
    assert [at for at, fine in readable.items() if not fine] == [(0, 0)]


def test_huge_tiles_are_not_allocated(small: Image, tmp_path: Path) -> None:
    write_tiled(tmp_path / "a.tif", small, compression="jpeg")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages.first.tags["TileWidth"].overwrite(60_000)
        tiff.pages.first.tags["TileLength"].overwrite(60_000)
    with pytest.raises(SlideError, match="tiles of 60000 x 60000 px"):
        with_open(tmp_path / "a.tif")
    stream = bytearray(vendors.jpeg(small))
    at = stream.index(b"\xff\xc0")
    stream[at + 5 : at + 9] = b"\x40\x00\x40\x00"
    with pytest.raises(ValueError, match="no tile"):
        jpeg.decode(bytes(stream))


def test_missing_parts_of_a_slide_are_named_without_their_folder(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "a.mrxs"
    vendors.write_mrxs(path, image)
    (tmp_path / "a" / "Index.dat").unlink()
    assert not assert_read_or_refused(path)


def test_messages_keep_folders_out() -> None:
    path = Path("/archive/jane.doe/a.svs")
    assert (
        describe_error(FileNotFoundError(2, "No such file or directory", str(path)), path)
        == "No such file or directory"
    )
    assert describe_error(ValueError("can't open /archive/jane.doe/a/Data.dat"), path) == "can't open a/Data.dat"
    assert describe_error(ValueError("odd"), Path("a.svs")) == "odd"


def test_files_are_closed(slides: dict[str, Path]) -> None:
    pyramid = open_pyramid(slides["drawn.svs"])
    assert isinstance(pyramid, TiffPyramid)
    pyramid.close()
    with pytest.raises(TileError):
        pyramid.tile(0, 0, 0)


def test_padding_of_edge_tiles_does_not_darken_the_overview(tmp_path: Path):
    """Encoders pad the last tiles with black; the slide is glass up to its odd edge."""
    glass = np.full((1003, 1507, 3), 240, np.uint8)
    draw.write_svs(tmp_path / "glass.svs", glass, tile=256, factors=())
    with open_slide(tmp_path / "glass.svs") as slide:
        overview = read_overview(slide, Damage())
    assert overview.pixels.min() > 235
