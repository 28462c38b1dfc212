"""What a lower level lacks comes from finer ones; what no level holds is counted; some empty tiles are glass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import draw
import numpy as np
import pytest
import tifffile
import vendors

from wsisum_cli.errors import BrokenSlideError, TileError
from wsisum_cli.slides.checks.repair import PartlyReadError
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import plan_reading
from wsisum_cli.slides.slide import Overview, Slide, open_slide, read_level, read_overview
from wsisum_cli.summary.pixels import StoredPixels
from wsisum_cli.tissue.grid import Grid

Image = draw.Image
SIDE = 256


@pytest.fixture(scope="module")
def image() -> Image:
    return draw.draw_tissue(4096, 3072, seed=6, kinds=("stroma", "tumour", "lymphoid"))


@pytest.fixture(scope="module")
def slide_file(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Levels 1, 1/4 and 1/16; at 8 µm the overview is read from 1/16."""
    path = tmp_path_factory.mktemp("whole") / "a.svs"
    draw.write_svs(path, image, tile=SIDE, factors=(4, 16))
    return path


def level_tags(path: Path, index: int) -> tuple[Any, Any, int]:
    """Offsets, byte counts and columns of a level."""
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.series[0].levels[index].pages[0]
        return page.tags["TileOffsets"], page.tags["TileByteCounts"], -(-page.imagewidth // page.tilewidth)


def set_tiles(path: Path, index: int, numbers: set[int] | None, offset: bool = False) -> None:
    """Set the byte counts of tiles (None for all of a level) to zero, and their offsets too where wanted."""
    offsets, counts, _ = level_tags(path, index)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page: Any = tiff.series[0].levels[index].pages[0]
        for name, values in (("TileByteCounts", counts.value), ("TileOffsets", offsets.value)):
            if name == "TileByteCounts" or offset:
                new = [0 if numbers is None or n in numbers else value for n, value in enumerate(values)]
                page.tags[name].overwrite(new)


def spoil_tiles(path: Path, index: int, numbers: set[int]) -> None:
    offsets, _, _ = level_tags(path, index)
    with path.open("r+b") as file:
        for number in numbers:
            file.seek(offsets.value[number])
            file.write(b"\x11" * 64)


def copy_of(slide_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "a.svs"
    path.write_bytes(slide_file.read_bytes())
    return path


def overview_of(path: Path) -> tuple[Overview, Damage, Slide]:
    damage = Damage()
    with open_slide(path, 0.25) as slide:
        return read_overview(slide, damage, 2), damage, slide


def difference(one: Image, other: Image) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("levels", [{2}, {1, 2}])
@pytest.mark.parametrize("how", ["zero-length", "never written", "undecodable"])
def test_the_overview_shows_what_a_low_level_lacks(how: str, levels: set[int], slide_file: Path, tmp_path: Path):
    path = copy_of(slide_file, tmp_path)
    for index in levels:
        count = len(level_tags(path, index)[0].value)
        numbers = set(range(count // 2, count)) if count > 1 else {0}
        if how == "undecodable":
            spoil_tiles(path, index, numbers)
        else:
            set_tiles(path, index, numbers, offset=how == "never written")
    whole, _, _ = overview_of(slide_file)
    found, damage, slide = overview_of(path)
    assert damage.count == 0
    assert difference(found.pixels, whole.pixels) < 3
    assert any("finer levels stood in" in note or "level 2 is not used" in note for note in slide.all_notes)


def test_repaired_tiles_are_like_those_they_stand_for(slide_file: Path, tmp_path: Path):
    path = copy_of(slide_file, tmp_path)
    set_tiles(path, 1, None)
    with open_slide(slide_file) as whole, open_slide(path) as slide:
        for shrink in (1, 2, 8):
            for column, row in ((0, 0), (3, 2), (1, 1)):
                expected, found = (each.pyramid.tile(1, column, row, shrink) for each in (whole, slide))
                assert expected is not None
                assert found is not None
                assert difference(found, expected[: found.shape[0], : found.shape[1]]) < 6
        with pytest.raises(TileError):
            slide.pyramid.encoded_tile(1, 0, 0)


def test_only_what_no_level_holds_is_counted(slide_file: Path, tmp_path: Path):
    path = copy_of(slide_file, tmp_path)
    for index in (1, 2):
        set_tiles(path, index, None)
    spoil_tiles(path, 0, {17})
    whole, _, _ = overview_of(slide_file)
    found, damage, slide = overview_of(path)
    assert damage.positions == [(0, 1, 1)]
    assert difference(found.pixels, whole.pixels) < 4
    with pytest.raises(TileError):  # patches that lie there are left out, not shown as glass
        slide.pyramid.tile(1, 0, 0)


def test_parts_that_were_read_come_with_the_error(slide_file: Path, tmp_path: Path):
    path = copy_of(slide_file, tmp_path)
    set_tiles(path, 1, None)
    spoil_tiles(path, 0, {17})
    with open_slide(path) as slide, pytest.raises(PartlyReadError) as caught:
        slide.pyramid.tile(1, 0, 0)
    assert list(caught.value.lost) == [(0, 1, 1)]
    assert caught.value.read == 15
    assert caught.value.pixels[64:128, 64:128].min() == 255


def test_damage_past_five_percent_still_fails(slide_file: Path, tmp_path: Path):
    path = copy_of(slide_file, tmp_path)
    for index in (1, 2):
        set_tiles(path, index, None)
    spoil_tiles(path, 0, set(range(16, 32)))
    with pytest.raises(BrokenSlideError, match="16 of "):
        overview_of(path)


# --- empty tiles of level 0


def write_small(path: Path, image: Image, gdal: bool = False) -> None:
    """16 tiles at level 0, as an SVS, an OME-TIFF or a plain TIFF, with the tag of GDAL where wanted."""
    small = np.ascontiguousarray(image[:1024, :1024])
    if path.suffix == ".svs":
        draw.write_svs(path, small, tile=SIDE, factors=(4,))
    elif ".ome" in path.suffixes:
        draw.write_ome_tiff(path, small)
    else:
        tags = [(42113, "s", 0, "0", True)] * gdal
        with tifffile.TiffWriter(path) as tiff:
            for level in (small, draw.reduce(small, 4)):
                lower = int(level is not small)
                tiff.write(level, subfiletype=lower, tile=(SIDE, SIDE), compression="deflate", extratags=tags)


@pytest.mark.parametrize("name", ["a.svs", "a.tif", "a.ome.tif"])
@pytest.mark.parametrize("offset", [False, True])
def test_an_empty_tile_of_level_0_is_damage(name: str, offset: bool, image: Image, tmp_path: Path):
    path = tmp_path / name
    write_small(path, image)
    set_tiles(path, 0, {5}, offset)
    with open_slide(path, 0.25) as slide, pytest.raises(TileError, match="row 1 of level 0 has no bytes"):
        slide.pyramid.tile(0, 1, 1)


def test_a_file_whose_writing_was_interrupted_fails(image: Image, tmp_path: Path):
    """The tables of tiles hold zeros from some tile on, and the lower levels were never written."""
    path = tmp_path / "a.tif"
    write_small(path, image)
    set_tiles(path, 0, set(range(9, 16)), offset=True)
    set_tiles(path, 1, None, offset=True)
    with pytest.raises(BrokenSlideError, match=r"7 of 16 tiles cannot be read.* has no bytes, as where writing was in"):
        overview_of(path)


def test_an_empty_tile_of_gdal_is_glass_with_a_note(image: Image, tmp_path: Path):
    path = tmp_path / "a.tif"
    write_small(path, image, gdal=True)
    with open_slide(path, 0.25) as slide:
        assert slide.all_notes == []
    set_tiles(path, 0, {5, 6}, offset=True)
    with open_slide(path, 0.25) as slide:
        assert slide.pyramid.tile(0, 1, 1) is None
        assert slide.all_notes == [
            "2 of 16 tiles of level 0 were never written and are taken for bare glass, as GDAL may leave it out; "
            "look at the overview"
        ]
    write_small(path, image, gdal=True)
    set_tiles(path, 0, {5})  # GDAL writes no offset without bytes
    with open_slide(path, 0.25) as slide, pytest.raises(TileError, match="has no bytes"):
        slide.pyramid.tile(0, 1, 1)


def test_a_low_tile_over_bare_glass_is_glass_too(image: Image, tmp_path: Path):
    glass = image.copy()
    glass[:1024, :1024] = 244
    vendors.write_philips(tmp_path / "a.tiff", glass, sparse=True, tile=SIDE)
    with open_slide(tmp_path / "a.tiff") as slide:
        assert slide.pyramid.tile(0, 0, 0) is None
        assert slide.pyramid.tile(1, 0, 0) is None
        assert slide.pyramid.tile(2, 0, 0) is None
        damage = Damage()
        assert read_level(slide.pyramid, 2, 1, damage, 1)[:200, :200].min() == 255
        assert (damage.count, slide.all_notes) == (0, [])


# --- copies


@pytest.mark.parametrize("broken", [False, True])
def test_a_repaired_tile_is_encoded_and_not_copied(broken: bool, slide_file: Path, tmp_path: Path):
    path = copy_of(slide_file, tmp_path)
    if broken:
        spoil_tiles(path, 1, {0})
    with open_slide(path) as slide:
        coords = np.array([[0, 0], [1024, 1024]], np.int32)
        grid = Grid(coords, 1024, plan_reading(slide.levels, 1024, SIDE, 0.1), aligned=True)
        assert (grid.reading.level, slide.pyramid.copies_jpeg(1)) == (1, True)

        def stored(mode: str) -> object:
            return StoredPixels(slide, grid, mode, 90, Damage(), 1).of(np.arange(2))

        assert isinstance(stored("auto"), list) == broken
        if broken:
            with pytest.raises(TileError):
                stored("source")
