"""Real slides pass, whatever their stain and glass; exchanged channels and levels of something else do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path

import cv2
import draw
import numpy as np
import pytest
import spoil
from array_pyramid import ArrayPyramid, Change, ChangedPyramid, Image

from wsisum_cli.errors import ColourError, TileError
from wsisum_cli.slides.checks.plausibility import check_pyramid, transform_fault
from wsisum_cli.slides.pixels import from_ycbcr, to_ycbcr
from wsisum_cli.slides.pyramid import Pyramid
from wsisum_cli.slides.slide import open_pyramid, open_slide

SLIDES = {
    "slides/stomach/stomach-metaplasia.svs": 2,
    "slides/duodenum/duodenum-lymphangiectasia.svs": 3,
    "slides/lung/lung-scc-3.svs": 3,
    "slides/colon/tubular-adenoma.ome.tiff": 3,
    "slides/pancreas/pdac-tru-cut-3.tiff": 3,
    "fixtures/tcga-cr-7395-01a-01-ts1.svs": 2,
    "problems/openslide-vips-small.tiff": 3,
    "problems/vips-webp.tif": 3,
}
JPEG2000 = ("slides/lung/lung-scc-3.svs", "fixtures/tcga-cr-7395-01a-01-ts1.svs")
ONE_LEVEL = (
    "fixtures/CMU-1-Small-Region.svs",
    "fixtures/camelyon-jpeg.dcm",
    "problems/qupath032-bioformats670-he.ome.tif",
    "problems/qupath032-bioformats670-ki67.ome.tif",
)
ORDERS: dict[str, Change] = {
    "".join("RGB"[i] for i in order): lambda tile, order=order: tile[..., list(order)]  # type: ignore[misc]
    for order in list(permutations(range(3)))[1:]
}
SPACES: dict[str, Change] = {"ycbcr-as-rgb": to_ycbcr, "rgb-as-ycbcr": from_ycbcr}
#: Two stains in place of haematoxylin and eosin (vectors of ImageJ's colour deconvolution).
STAINS = {
    "light green": ((0.65, 0.70, 0.29), (0.946, 0.109, 0.304)),
    "methyl green": ((0.98, 0.14, 0.13), (0.093, 0.954, 0.283)),
    "silver": ((0.6, 0.57, 0.56), (0.6, 0.57, 0.56)),
    "DAB": ((0.65, 0.70, 0.29), (0.27, 0.57, 0.78)),
    "DAB all over": ((0.27, 0.57, 0.78), (0.27, 0.57, 0.78)),
    "PAS": ((0.65, 0.70, 0.29), (0.175, 0.972, 0.154)),
    "Alcian blue": ((0.874, 0.457, 0.159), (0.214, 0.851, 0.478)),
    "orange G": ((0.65, 0.70, 0.29), (0.11, 0.21, 0.97)),
    "AEC": ((0.65, 0.70, 0.29), (0.274, 0.679, 0.680)),
    "azan": ((0.853, 0.509, 0.113), (0.071, 0.977, 0.198)),
    "Giemsa": ((0.834, 0.514, 0.196), (0.092, 0.954, 0.283)),
    "Feulgen": ((0.464, 0.83, 0.308), (0.947, 0.253, 0.196)),
}


@pytest.fixture(scope="module")
def tissue(shared: Path) -> Image:
    """1,280 x 1,024 px of stomach, some of it glass."""
    with open_slide(shared / "slides" / "stomach" / "stomach-metaplasia.svs") as slide:
        tiles = [[slide.pyramid.tile(0, column, row) for column in range(14, 19)] for row in range(12, 16)]
    return np.ascontiguousarray(np.vstack([np.hstack(row) for row in tiles]))  # type: ignore[arg-type]


def levels_of(image: Image, factors: tuple[int, ...] = (1, 4, 8)) -> list[Image]:
    return [image if factor == 1 else draw.reduce(image, factor) for factor in factors]


@contextmanager
def opened(path: Path) -> Iterator[Pyramid]:
    pyramid = open_pyramid(path)
    try:
        yield pyramid
    finally:
        pyramid.close()


# --- real slides


@pytest.mark.parametrize("name", [*SLIDES, *ONE_LEVEL])
def test_real_slides_pass(name: str, shared: Path):
    with opened(shared / name) as pyramid:
        found = check_pyramid(pyramid)
        assert found.levels == tuple(range(SLIDES.get(name, 1)))
        assert found.notes == ()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (name, change)
        for name in SLIDES
        for change in ("BGR", "GRB", *SPACES)
        if change == "BGR" or name not in JPEG2000  # which takes long to decode
    ],
)
def test_a_level_in_other_colours_is_caught(name: str, change: str, shared: Path):
    changed = (ORDERS | SPACES)[change]
    with opened(shared / name) as pyramid:
        with pytest.raises(ColourError, match="colours"):
            check_pyramid(ChangedPyramid(pyramid, {0}, changed))
        lowest = len(pyramid.levels) - 1
        found = check_pyramid(ChangedPyramid(pyramid, {lowest}, changed))
        assert found.levels == tuple(range(lowest))
        assert found.notes[0].startswith(
            f"level {lowest} is not used: its colours are those of level {lowest - 1} with"
        )


@pytest.mark.parametrize("change", SPACES)
@pytest.mark.parametrize("name", ONE_LEVEL)
def test_a_slide_in_another_colour_space_is_refused(name: str, change: str, shared: Path):
    with opened(shared / name) as pyramid, pytest.raises(ColourError, match=r"YCbCr") as caught:
        check_pyramid(ChangedPyramid(pyramid, {0}, SPACES[change]))
    assert caught.value.reason == "implausible colours"
    assert str(caught.value).count(pyramid.path.name) == 1


@pytest.mark.parametrize("change", ORDERS)
def test_swapped_channels_of_all_levels_are_noted_on_he(change: str, tissue: Image):
    pyramid = ArrayPyramid(levels_of(np.ascontiguousarray(ORDERS[change](tissue))))
    assert "look at the overview" in check_pyramid(pyramid).notes[0]


# --- stains and glass that a check must bear


@pytest.mark.parametrize("stain", STAINS)
def test_other_stains_pass(stain: str, tissue: Image):
    density = -np.log10((tissue.astype(np.float32) + 1) / 244)
    he = np.array([np.array(v) / np.linalg.norm(v) for v in ((0.644, 0.717, 0.267), (0.093, 0.954, 0.283))])
    amount = np.clip(density.reshape(-1, 3) @ np.linalg.pinv(he), 0, None)
    vectors = np.array([np.array(v) / np.linalg.norm(v) for v in STAINS[stain]])
    coloured = np.clip(244 * 10 ** -(amount @ vectors) - 1, 0, 255).round().astype(np.uint8).reshape(tissue.shape)
    assert check_pyramid(ArrayPyramid(levels_of(coloured))).levels == (0, 1, 2)


def washed(image: Image, colour: tuple[int, int, int]) -> Image:
    return np.asarray((image.astype(np.float32) * np.array(colour) / 243).clip(0, 255).round(), np.uint8)


@pytest.mark.parametrize("glass", [(236, 205, 222), (240, 232, 200), (205, 205, 210), (225, 235, 245), (170, 160, 165)])
def test_tinted_and_dim_glass_passes(glass: tuple[int, int, int], tissue: Image):
    assert check_pyramid(ArrayPyramid(levels_of(washed(tissue, glass)))).levels == (0, 1, 2)


@pytest.mark.parametrize("gamma", [0.6, 1.6, 2.4])
def test_pale_and_dark_stains_pass(gamma: float, tissue: Image):
    image = np.asarray((255 * (tissue / 255.0) ** gamma).round(), np.uint8)
    assert check_pyramid(ArrayPyramid(levels_of(image))).levels == (0, 1, 2)


def test_a_slide_without_glass_passes(tissue: Image):
    dense = np.tile(tissue[500:1012, 700:1212], (3, 4, 1))
    for image in (dense, spoil.as_ihc(dense), washed(dense, (240, 170, 190))):
        assert check_pyramid(ArrayPyramid(levels_of(image))).levels == (0, 1, 2)


@pytest.mark.parametrize("grey", [0, 20, 128, 200, 243, 255])
def test_an_empty_slide_passes(grey: int):
    image = np.full((1024, 1024, 3), grey, np.uint8)
    assert check_pyramid(ArrayPyramid(levels_of(image))).levels == (0, 1, 2)


# --- levels


@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("kind", ["blank", "mirrored", "another", "narrow", "moved", "black"])
def test_a_level_that_shows_something_else_is_not_used(kind: str, index: int, tissue: Image):
    levels = levels_of(tissue)
    level = levels[index]
    levels[index] = {
        "blank": np.full_like(level, 244),
        "black": np.zeros_like(level),
        "mirrored": np.ascontiguousarray(level[:, ::-1]),
        "another": draw.draw_tissue(level.shape[1], level.shape[0], seed=5, kinds=("tumour",)),
        "narrow": np.ascontiguousarray(level[:, : level.shape[1] * 2 // 3]),
        "moved": np.roll(level, level.shape[1] // 3, axis=1),
    }[kind]
    found = check_pyramid(ArrayPyramid(levels))
    assert found.levels == tuple(i for i in range(3) if i != index)
    assert found.notes[0].startswith(f"level {index} is not used: ")


def test_what_scanners_do_to_lower_levels_is_borne(tissue: Image):
    height, width = tissue.shape[:2]
    sharpened = cv2.addWeighted(
        draw.reduce(tissue, 4), 1.5, cv2.GaussianBlur(draw.reduce(tissue, 4), (0, 0), 2), -0.5, 0
    )
    for level in (
        np.ascontiguousarray(tissue[::4, ::4]),  # picked, not averaged
        sharpened,
        np.asarray((draw.reduce(tissue, 4) * 0.95 + 4).round(), np.uint8),
        np.roll(draw.reduce(tissue, 4), (1, -1), axis=(0, 1)),
        cv2.resize(tissue, (width // 4 + 1, height // 4 + 1), interpolation=cv2.INTER_AREA),
        cv2.resize(tissue, (round(width / 2.7), round(height / 2.7)), interpolation=cv2.INTER_AREA),
    ):
        assert check_pyramid(ArrayPyramid([tissue, np.asarray(level, np.uint8)])).levels == (0, 1)


def test_a_level_not_used_is_read_from_finer_ones(tissue: Image, tmp_path: Path):
    draw.write_svs(tmp_path / "a.svs", tissue, factors=(4,))
    with open_slide(tmp_path / "a.svs") as slide:
        assert [level.usable for level in slide.levels] == [True, True]
        changed = ChangedPyramid(slide.pyramid, {1}, to_ycbcr)
        assert check_pyramid(changed).levels == (0,)


def test_a_level_is_held_against_one_that_can_be_read(tissue: Image):
    def lost(_tile: Image) -> Image:
        raise TileError("lost")

    pyramid = ArrayPyramid(levels_of(tissue))
    found = check_pyramid(ChangedPyramid(ChangedPyramid(pyramid, {1}, lost), {2}, to_ycbcr))
    assert found.levels == (0,)
    assert found.notes[0] == "level 1 is not used: nothing of it can be read where it was to be compared"


def test_lower_levels_of_a_series_in_another_colour_space_are_not_used(shared: Path):
    folder = shared / "problems" / "dicom-series-wsidicomizer"
    level0 = max(folder.glob("*.dcm"), key=lambda path: path.stat().st_size)
    with opened(level0) as pyramid:
        found = check_pyramid(pyramid)
        assert 0 in found.levels
        for index in found.levels[1:]:
            tile = pyramid.tile(index, 0, 0)
            assert tile is not None
            assert transform_fault(tile.reshape(-1, 3).astype(np.float32)) is None
