"""Each vendor's layout opens in OpenSlide and in tifffile as what it is, with the pixels that were drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile
import vendors
from draw import Image, draw_tissue

WIDTH, HEIGHT, MPP = 1536, 1024, 0.25
SPOTS = ((0, 0), (400, 300), (1200, 500), (WIDTH - 200, HEIGHT - 200))
Writer = Callable[[Path, Image], None]


@pytest.fixture(scope="module")
def image() -> Image:
    return draw_tissue(WIDTH, HEIGHT, seed=2, kinds=("stroma", "tumour", "lymphoid"))


APERIO = {
    f"{'rgb' if rgb else 'ycbcr'}-{'tables' if tables else 'whole'}": partial(
        vendors.write_aperio_jpeg, tables=tables, rgb=rgb
    )
    for rgb in (True, False)
    for tables in (True, False)
}
WRITERS: dict[str, tuple[Writer, str, str]] = {
    **{f"aperio-{name}.svs": (writer, "aperio", "svs") for name, writer in APERIO.items()},
    "aperio-j2k-ycbcr.svs": (partial(vendors.write_aperio_j2k, ycbcr=True), "aperio", "svs"),
    "aperio-j2k-rgb.svs": (partial(vendors.write_aperio_j2k, ycbcr=False), "aperio", "svs"),
    "hamamatsu.ndpi": (vendors.write_ndpi, "hamamatsu", "ndpi"),
    "hamamatsu-large.ndpi": (vendors.write_ndpi_large, "hamamatsu", "ndpi"),
    "philips.tiff": (vendors.write_philips, "philips", "philips"),
    "leica.scn": (vendors.write_scn, "leica", "scn"),
    "ventana.bif": (vendors.write_bif, "ventana", "bif"),
    "mirax.mrxs": (vendors.write_mrxs, "mirax", ""),
}
TIFFS = [name for name in WRITERS if name != "mirax.mrxs"]


@pytest.fixture(scope="module")
def slides(image: Image, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vendors")
    for name, (writer, _, _) in WRITERS.items():
        writer(folder / name, image)
    return {name: folder / name for name in WRITERS}


def difference(found: Image, expected: Image) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found.astype(float) - expected).mean())


def main_pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The pages of the largest pyramid, level 0 first."""
    series = max(tiff.series, key=lambda one: one.size)
    return [level.keyframe for level in series.levels]


@pytest.mark.parametrize("name", WRITERS)
def test_openslide_reads_what_was_drawn(name: str, slides: dict[str, Path], image: Image) -> None:
    with openslide.OpenSlide(slides[name]) as slide:
        properties = slide.properties
        assert properties["openslide.vendor"] == WRITERS[name][1]
        assert float(properties["openslide.mpp-x"]) == pytest.approx(MPP, rel=1e-6)
        assert float(properties["openslide.mpp-y"]) == pytest.approx(MPP, rel=1e-6)
        assert float(properties["openslide.objective-power"]) == 40
        assert "macro" in slide.associated_images
        assert slide.level_count >= 3  # of NDPI, OpenSlide makes more from the smallest
        left, upper = (int(properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
        for x, y in SPOTS:
            region = np.array(slide.read_region((left + x, upper + y), 0, (200, 200)))
            assert region[..., 3].min() == 255
            assert difference(region[..., :3], image[y : y + 200, x : x + 200]) < 6


@pytest.mark.parametrize("name", WRITERS)
def test_openslide_reads_lower_levels(name: str, slides: dict[str, Path], image: Image) -> None:
    with openslide.OpenSlide(slides[name]) as slide:
        factor = round(slide.level_downsamples[1])
        left, upper = (int(slide.properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
        region = np.array(slide.read_region((left, upper), 1, (WIDTH // factor, HEIGHT // factor)))
    expected = cv2.resize(image, (WIDTH // factor, HEIGHT // factor), interpolation=cv2.INTER_AREA)
    assert difference(region[..., :3], np.asarray(expected, np.uint8)) < 6


@pytest.mark.parametrize("name", TIFFS)
def test_tifffile_reads_what_was_drawn(name: str, slides: dict[str, Path], image: Image) -> None:
    with tifffile.TiffFile(slides[name]) as tiff:
        assert getattr(tiff, f"is_{WRITERS[name][2]}")
        pages = main_pages(tiff)
        assert len(pages) == 3
        found = pages[0].asarray()
    if name == "aperio-j2k-ycbcr.svs":  # tifffile leaves these components as they are
        found = np.asarray(cv2.cvtColor(found[..., [0, 2, 1]], cv2.COLOR_YCrCb2RGB), np.uint8)
    assert difference(found, image) < 6


@pytest.mark.parametrize(("rgb", "photometric"), [(True, 2), (False, 6)])
def test_aperio_tiles_are_abbreviated_and_say_no_colour_space(
    rgb: bool, photometric: int, slides: dict[str, Path]
) -> None:
    with tifffile.TiffFile(slides[f"aperio-{'rgb' if rgb else 'ycbcr'}-tables.svs"]) as tiff:
        page = tiff.pages.first
        assert page.photometric == photometric
        assert page.jpegtables is not None
        tiff.filehandle.seek(page.dataoffsets[0])
        stream = tiff.filehandle.read(page.databytecounts[0])
    markers = [marker for marker, _ in vendors.jpeg_segments(stream)]
    assert markers == [0xFFC0, 0xFFDA]


def test_aperio_jpeg2000_says_how_colour_is_stored(slides: dict[str, Path]) -> None:
    for name, compression in (("ycbcr", 33003), ("rgb", 33005)):
        with tifffile.TiffFile(slides[f"aperio-j2k-{name}.svs"]) as tiff:
            assert tiff.pages.first.compression == compression


def test_ndpi_tiles_lie_between_restart_markers(slides: dict[str, Path]) -> None:
    with tifffile.TiffFile(slides["hamamatsu.ndpi"]) as tiff:
        page = tiff.pages.first
        assert (page.tilelength, page.tilewidth) == (8, 256)
        assert len(page.dataoffsets) == (HEIGHT // 8) * (WIDTH // 256)


def test_large_ndpi_lies_beyond_4_gib_and_takes_no_space(slides: dict[str, Path]) -> None:
    path = slides["hamamatsu-large.ndpi"]
    with tifffile.TiffFile(path) as tiff:
        assert all(page.offset > 2**32 for page in tiff.pages)
        assert all(min(page.dataoffsets) > 2**32 for page in tiff.pages)
    if hasattr(path.stat(), "st_blocks"):
        assert path.stat().st_blocks * 512 < 2**24


def test_philips_may_be_sparse(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "sparse.tiff"
    bare = image.copy()
    bare[:256, :256] = 242
    vendors.write_philips(path, bare, tile=256, sparse=True)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_philips
        assert tiff.pages.first.databytecounts[0] == 0
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "philips"
        assert np.array(slide.read_region((0, 0), 0, (256, 256)))[..., 3].max() == 0
        region = np.array(slide.read_region((512, 512), 0, (256, 256)))
        assert difference(region[..., :3], bare[512:768, 512:768]) < 6


def test_leica_image_lies_inside_the_glass(slides: dict[str, Path]) -> None:
    with openslide.OpenSlide(slides["leica.scn"]) as slide:
        assert slide.dimensions == (WIDTH + 1024, HEIGHT + 1024)
        bounds = [int(slide.properties[f"openslide.bounds-{side}"]) for side in ("x", "y", "width", "height")]
    assert bounds == [512, 512, WIDTH, HEIGHT]
