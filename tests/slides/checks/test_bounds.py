"""What a file asks for is known, and bounded, before anything is decoded."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
import vendors
from draw import draw_tissue, write_svs
from streams import STREAMS

from wsisum_cli.errors import SlideError
from wsisum_cli.slides.checks import bounds
from wsisum_cli.slides.checks.bounds import check_pages, check_planes, check_tile


@pytest.mark.parametrize("codec", STREAMS)
def test_a_tile_larger_than_it_says_is_refused(codec: str):
    stream = bytes(STREAMS[codec]())
    check_tile(stream, 34712, 300 * 37)
    with pytest.raises(ValueError, match="an image of 300 x 37 px, expected at most 11099 px"):
        check_tile(stream, 34712, 300 * 37 - 1)
    with pytest.raises(ValueError, match="does not say how large"):
        check_tile(stream[1:12], 34712, 300 * 37)


def test_the_last_page_of_each_kind_of_tiff_is_found(tmp_path: Path):
    image = draw_tissue(1024, 768, 0)
    write_svs(tmp_path / "a.svs", image)
    vendors.write_ndpi(tmp_path / "a.ndpi", image)
    tifffile.imwrite(tmp_path / "big.tif", image, bigtiff=True, tile=(256, 256))
    tifffile.imwrite(tmp_path / "swapped.tif", image, byteorder=">", tile=(256, 256))
    for path in tmp_path.iterdir():
        check_pages(path)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
def test_pages_in_a_ring_are_refused(tmp_path: Path, options: dict[str, object]):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, **options) as writer:  # type: ignore[arg-type]
        for _ in range(3):
            writer.write(np.zeros((16, 16), np.uint8))
    with tifffile.TiffFile(path) as tif:
        second, last, order = tif.pages[1].offset, tif.pages[2].offset, tif.byteorder
        big = tif.is_bigtiff
    check_pages(path)
    with open(path, "rb+") as file:
        file.seek(last)
        (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
        file.seek(last + (8 + 20 * count if big else 2 + 12 * count))
        file.write(struct.pack(order + ("Q" if big else "I"), second))
    with pytest.raises(SlideError, match=r"a\.tif: damaged TIFF structure, its pages lead in a ring"):
        check_pages(path)


def test_too_many_pages_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((30, 16, 16), np.uint8), photometric="minisblack", metadata=None)
    check_pages(path)
    monkeypatch.setattr(bounds, "MAX_PAGES", 29)
    with pytest.raises(SlideError, match="at most 29 pages"):
        check_pages(path)


@pytest.mark.parametrize("junk", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0+" + b"\xff" * 40, b"junk" * 9])
def test_what_is_no_tiff_is_left_to_what_opens_it(tmp_path: Path, junk: bytes):
    path = tmp_path / "a.tif"
    path.write_bytes(junk)
    check_pages(path)


def test_planes_that_no_file_holds_are_refused():
    said = '<OME><Image><Pixels ID="P:0" SizeX="9" SizeC="3" SizeZ="{}" SizeT="1"><TiffData/></Pixels></Image></OME>'
    check_planes(said.format(100), "a.ome.tif")
    check_planes("", "a.ome.tif")
    with pytest.raises(SlideError, match="of 6000000000 planes"):
        check_planes(said.format(2 * 10**9), "a.ome.tif")
