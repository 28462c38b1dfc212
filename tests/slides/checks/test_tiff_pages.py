"""The pages of a TIFF are counted before they are followed."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
import vendors
from draw import draw_tissue, write_svs

from wsisum_cli.errors import NotASlideError, SlideError
from wsisum_cli.slides.checks import tiff_pages
from wsisum_cli.slides.checks.tiff_pages import check_pages


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
    monkeypatch.setattr(tiff_pages, "MAX_PAGES", 29)
    with pytest.raises(SlideError, match="at most 29 pages"):
        check_pages(path)


@pytest.mark.parametrize("junk", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0+" + b"\xff" * 40, b"junk" * 9])
def test_what_is_no_tiff_is_left_to_what_opens_it(tmp_path: Path, junk: bytes):
    path = tmp_path / "a.tif"
    path.write_bytes(junk)
    check_pages(path)


def write_stack(path: Path, pages: int = 3, **options: object) -> list[int]:
    """Offsets of the pages of a small TIFF."""
    with tifffile.TiffWriter(path, **options) as writer:  # type: ignore[arg-type]
        for _ in range(pages):
            writer.write(np.zeros((16, 24), np.uint8), metadata=None)
    with tifffile.TiffFile(path) as tif:
        return [page.offset for page in tif.pages]


def test_the_sizes_of_the_pages_are_told(tmp_path: Path):
    for options in ({}, {"bigtiff": True}, {"byteorder": ">"}):
        write_stack(tmp_path / "a.tif", **options)
        assert check_pages(tmp_path / "a.tif") == [(24, 16)] * 3


def test_a_ring_behind_a_page_cut_short_is_refused(tmp_path: Path):
    """tifffile takes the last bytes of the file for where the next page begins."""
    path = tmp_path / "a.tif"
    first = write_stack(path, 1)[0]
    data = bytearray(path.read_bytes())
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, len(data))
    data += struct.pack("<HI", 4000, first)
    path.write_bytes(data)
    with pytest.raises(SlideError, match="its pages lead in a ring"):
        check_pages(path)


def with_tag(path: Path, tag: tuple[int, int, int, int], copies: int = 1) -> None:
    """Add a page of such tags in front."""
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    struct.pack_into("<I", data, 4, len(data))
    data += struct.pack("<H", copies) + struct.pack("<HHII", *tag) * copies + struct.pack("<I", first)
    path.write_bytes(data)


def test_tags_that_ask_for_the_same_bytes_again_and_again_are_refused(tmp_path: Path):
    path = tmp_path / "a.tif"
    write_stack(path)
    path.write_bytes(path.read_bytes() + bytes(1 << 17))
    with_tag(path, (270, 2, 1 << 17, 0), 4000)
    with pytest.raises(SlideError, match="its tags ask for more than 128 MiB"):
        check_pages(path)


def test_tags_without_bytes_in_the_file_are_left_to_what_opens_it(tmp_path: Path):
    path = tmp_path / "a.tif"
    write_stack(path)
    with_tag(path, (270, 2, 1 << 31, 0))
    assert check_pages(path) == [(0, 0), *[(24, 16)] * 3]


def test_pages_within_pages_without_end_are_refused(tmp_path: Path):
    path = tmp_path / "a.tif"
    write_stack(path)
    place = path.stat().st_size
    with_tag(path, (330, 4, 1, place), 2)  # each is the page itself, twice
    with pytest.raises(SlideError, match=r"lead in a ring|at most 20000 pages"):
        check_pages(path)


def test_a_page_of_too_many_sub_pages_is_refused(tmp_path: Path):
    path = tmp_path / "a.tif"
    write_stack(path)
    with_tag(path, (330, 4, 101, 8))
    with pytest.raises(SlideError, match="at most 100 sub-pages, found 101"):
        check_pages(path)


@pytest.mark.parametrize("tag", [33628, 33629, 34412, 34361])
def test_stacks_of_microscopes_are_no_slides(tmp_path: Path, tag: int):
    path = tmp_path / "a.tif"
    write_stack(path)
    with_tag(path, (tag, 4, 2_000_000_000, 8))
    with pytest.raises(NotASlideError, match=r"a\.tif: a stack of images of a microscope"):
        check_pages(path)
