"""Pixel sizes in every spelling that headers have, and who scanned a slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import draw
import numpy as np
import pytest
import tifffile

from wsisum_cli.slides.header import micrometres, number, rational
from wsisum_cli.slides.slide import open_slide

Image = draw.Image


@pytest.fixture(scope="module")
def small() -> Image:
    return draw.draw_tissue(600, 500, seed=3, kinds=("stroma", "tumour"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.25", 0.25),
        ("0,250000", 0.25),
        (" 2.5e-1 ", 0.25),
        ("2,5E-01", 0.25),
        ('"0.25"', 0.25),
        (".25", 0.25),
        ("25.", 25.0),
        (b"0.25\x81", 0.25),
        (0.25, 0.25),
        ("+0.25", 0.25),
        ("-1", -1.0),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("", None),
        ("µm", None),
        (None, None),
    ],
)
def test_numbers(text: Any, value: float | None):
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("0.25 µm", "0.25 \u03bcm", "0.25um", "0,25 um", "0.25 micron", "0.25 Microns", "0.25 micrometers"),
        *("250 nm", "0.00025 mm", "2.5e-5 cm", "2.5E-7 m", "250000 pm", "0.25 \u00c2\u00b5m", "0.25 \ufffdm"),
        "0.25 \\u00B5m",
        "0.0000098425197 inch",
    ],
)
def test_lengths(text: str):
    assert micrometres(text) == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize(("text", "unit"), [("0.25", None), ("0.25", "pixel"), ("0.25 furlong", "um"), ("um", "um")])
def test_what_is_no_length(text: str, unit: str | None):
    assert micrometres(text, unit) is None


@pytest.mark.parametrize(
    ("value", "expected"), [((40_000, 1), 4e4), ((1, 0), 0.0), (4e4, 4e4), (None, 0.0), ((0, 0), 0.0)]
)
def test_rationals(value: Any, expected: float):
    assert rational(value) == expected


def write(path: Path, image: Image, **options: Any) -> Path:
    settings: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "metadata": None, "compression": "lzw"}
    tifffile.imwrite(path, image, **settings | options)
    return path


def aperio(mpp: str) -> str:
    return f"Aperio Image Library v12.0.15 \r\n600x500 (256x256) JPEG/RGB Q=70|AppMag = 40|MPP = {mpp}|Left = 25,1"


@pytest.mark.parametrize("mpp", ["0,250000", "0.25", "2.5e-1", "0.25 µm"])
def test_aperio_spellings(mpp: str, small: Image, tmp_path: Path):
    with open_slide(write(tmp_path / "a.svs", small, description=aperio(mpp).encode("latin-1"))) as slide:
        assert (slide.mpp, slide.mpp_source, slide.pyramid.vendor) == (0.25, "Aperio MPP", "aperio")


def test_header_bytes_that_are_no_text(small: Image, tmp_path: Path):
    head = b"Aperio Format Scanned By KFBIO\r\n600x500 (256x256), JPEG/RGB Q=30|MPP = 0.250000|Used = .:\x8d\x81,"
    with open_slide(write(tmp_path / "a.svs", small, description=head)) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "Aperio MPP")


def ome(size: str, unit: str = "") -> bytes:
    sizes = "".join(f'PhysicalSize{axis}="{size}" ' + unit.format(axis=axis) for axis in "XY") if size else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image '
        'ID="Image:0" Name="s"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" SizeX="600" SizeY="500" SizeC="3" '
        f'SizeZ="1" SizeT="1" Type="uint8" Interleaved="true" {sizes}><Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    ).encode()


@pytest.mark.parametrize(
    ("size", "unit"),
    [
        ("0.25", ""),
        ("0,25", ""),
        ("0.25", 'PhysicalSize{axis}Unit="\u00b5m" '),
        ("0.25", 'PhysicalSize{axis}Unit="\u03bcm" '),
        ("250", 'PhysicalSize{axis}Unit="nm" '),
        ("2.5E-4", 'PhysicalSize{axis}Unit="mm" '),
        ("0.25", 'PhysicalSize{axis}Unit="micron" '),
    ],
)
def test_ome_spellings(size: str, unit: str, small: Image, tmp_path: Path):
    with open_slide(write(tmp_path / "a.ome.tif", small, description=ome(size, unit))) as slide:
        assert (slide.mpp, slide.mpp_source) == (pytest.approx(0.25), "OME PhysicalSize")


@pytest.mark.parametrize("size", ["", "0", "unknown"])
def test_resolution_tags_stand_in_for_a_missing_physical_size(size: str, small: Image, tmp_path: Path):
    tags: dict[str, Any] = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    with open_slide(write(tmp_path / "a.ome.tif", small, description=ome(size), **tags)) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "TIFF resolution tags")


def test_unit_that_imagej_writes(small: Image, tmp_path: Path):
    tags: dict[str, Any] = {
        "resolution": (4, 4),
        "resolutionunit": "NONE",
        "description": "ImageJ=1.53\nunit=\\u00B5m\n",
    }
    with open_slide(write(tmp_path / "a.tif", small, **tags)) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "TIFF resolution tags")


def test_resolution_in_inches(small: Image, tmp_path: Path):
    tags: dict[str, Any] = {"resolution": (101_600, 101_600), "resolutionunit": "INCH"}
    with open_slide(write(tmp_path / "a.tif", small, **tags)) as slide:
        assert slide.mpp == pytest.approx(0.25)


# --- what a person gives beside it


def stating(path: Path, image: Image, x: float, y: float) -> Path:
    return write(path, image, resolution=(1e4 / x, 1e4 / y), resolutionunit="CENTIMETER")


def test_a_manifest_wins_over_the_header_and_says_so(small: Image, tmp_path: Path):
    path = stating(tmp_path / "a.tif", small, 0.5, 0.5)
    with open_slide(path, 0.25, mpp_wins=True) as slide:
        assert (slide.mpp, slide.mpp_source, slide.mpp_stated) == (0.25, "manifest", 0.5)
        assert slide.notes == (
            "the manifest's pixel size of 0.25 µm is used, though the file states 0.5 µm (TIFF resolution tags)",
        )
    with open_slide(path, 0.49, mpp_wins=True) as slide:
        assert (slide.mpp, slide.mpp_stated, slide.notes) == (0.49, 0.5, ())


def test_a_size_for_all_slides_fills_gaps_alone(small: Image, tmp_path: Path):
    with open_slide(stating(tmp_path / "a.tif", small, 0.5, 0.5), 0.25) as slide:
        assert (slide.mpp, slide.mpp_source, slide.mpp_stated) == (0.5, "TIFF resolution tags", None)
        assert "0.5 µm (TIFF resolution tags) is used, not the 0.25 µm of --mpp" in slide.notes[0]


@pytest.mark.parametrize("given", [None, 0.25])
@pytest.mark.parametrize("sides", [(0.25, 0.26), (0.26, 0.25), (0.25, 0.5)])
def test_pixels_that_are_not_square_are_resampled(
    sides: tuple[float, float], given: float | None, small: Image, tmp_path: Path
):
    path = stating(tmp_path / "a.tif", small, *sides)
    if given is None and sides[1] == 0.5:
        with pytest.raises(ValueError, match=r"^a\.tif: pixels of 0\.25 x 0\.5 µm are not square; if that is right"):
            open_slide(path).__enter__()
        return
    with open_slide(path, given, mpp_wins=given is not None) as slide:
        width, height = round(600 * sides[0] / 0.25), round(500 * sides[1] / 0.25)
        assert (slide.size, slide.mpp) == ((width, height), pytest.approx(0.25))
        assert "resampled to squares" in slide.notes[0]
        expected = draw.cv2.resize(small, (width, height), interpolation=draw.cv2.INTER_LINEAR)
        tile = slide.pyramid.tile(0, 0, 0)
        assert tile is not None
        error = np.abs(tile.astype(int) - expected[: tile.shape[0], : tile.shape[1]]).mean()
        assert error < 6
        assert not slide.pyramid.copies_jpeg(0)
