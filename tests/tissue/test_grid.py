"""Where patches are laid: inside the slide, over the tissue, and along the tiles where that is possible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsisum_cli.errors import MppError, NotASlideError
from wsisum_cli.models.card import Card
from wsisum_cli.slides.patches import plan_reading
from wsisum_cli.slides.pyramid import Level, downsample
from wsisum_cli.tissue.grid import (
    MAX_PULL,
    MIN_TISSUE,
    STEPS,
    Grid,
    accumulate,
    aligned_size,
    exact_side,
    lay_grid,
    pull,
    share_of,
)

ENCODER = Card(name="e", patch_size=256, mpp=0.5, mean=(0, 0, 0), std=(1, 1, 1), dims=4, licence="MIT", sha256="0" * 64)
TILES = (240, 256, 512, 1024)
PYRAMIDS = ((1,), (1, 2, 4), (1, 4, 16), (1, 2, 4, 16))


def make_levels(
    width: int, height: int, tile: int | tuple[int, int], factors: Sequence[int] = (1, 4, 16)
) -> list[Level]:
    across, down = (tile, tile) if isinstance(tile, int) else tile
    levels = []
    for factor in factors:
        small = max(1, width // factor), max(1, height // factor)
        levels.append(Level(*small, across, down, downsample(width, height, *small)))
    return levels


def all_tissue(levels: Sequence[Level], scale: float = 32.0) -> np.ndarray:
    return np.ones((round(levels[0].height / scale), round(levels[0].width / scale)), bool)


def lay(
    mpp: float, tile: int | tuple[int, int] = 256, align: bool = True, size: tuple[int, int] = (6000, 5000)
) -> Grid:
    levels = make_levels(*size, tile)
    return lay_grid(levels, mpp, all_tissue(levels), 32.0, ENCODER, align)


def brute_share(mask: np.ndarray, scale: float, size: int, column: int, row: int) -> float:
    """Tissue within one patch: every mask px by the area that it has in common with the patch."""

    def common(count: int, index: int) -> np.ndarray:
        edges = np.arange(count + 1) * scale
        begin, end = index * size, (index + 1) * size
        return np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin), 0, None)

    area = np.outer(common(mask.shape[0], row), common(mask.shape[1], column))
    return float(area[mask].sum() / size**2)


# -- every grid ----------------------------------------------------------------------------------------------


@st.composite
def scans(draw: st.DrawFn) -> tuple[list[Level], float, np.ndarray, float, bool]:
    width, height = draw(st.integers(300, 9000)), draw(st.integers(300, 9000))
    levels = make_levels(width, height, draw(st.sampled_from(TILES)), draw(st.sampled_from(PYRAMIDS)))
    scale = draw(st.floats(8, 80))
    share, seed = draw(st.sampled_from((0.0, 0.1, 0.3, 0.7, 1.0))), draw(st.integers(0, 99))
    shape = max(1, round(height / scale)), max(1, round(width / scale))
    mask = np.random.default_rng(seed).random(shape) < share
    return levels, draw(st.floats(0.1, 0.55)), mask, scale, draw(st.booleans())


@given(scans())
@settings(max_examples=150, deadline=None)
def test_patches_lie_inside_apart_in_rows_and_on_tissue(scan: tuple[list[Level], float, np.ndarray, float, bool]):
    levels, mpp, mask, scale, align = scan
    try:
        grid = lay_grid(levels, mpp, mask, scale, ENCODER, align)
    except NotASlideError:
        side = exact_side(mpp, ENCODER)
        assert min(levels[0].width, levels[0].height) < round(side)
        return
    size, coords = grid.patch_size_level0, grid.coords
    assert coords.dtype == np.int32
    assert coords.shape == (len(coords), 2)
    assert (coords >= 0).all()
    assert (coords + size <= (levels[0].width, levels[0].height)).all()
    x, y = coords.T.astype(int)
    if not grid.aligned:
        assert np.isin(x % size, np.arange(STEPS) * size // STEPS).all()
    assert len(np.unique(y % size)) <= 1
    assert ((np.diff(x) >= size) | (np.diff(y) > 0)).all()
    places = [(y, x) for x, y in coords.tolist()]
    assert places == sorted(set(places))
    assert abs(size / exact_side(mpp, ENCODER) - 1) <= ENCODER.mpp_tolerance + 0.5 / size
    shares = {tuple(at): brute_share(mask, scale, size, *(at / size)) for at in coords[:: max(1, len(coords) // 5)]}
    assert all(share >= MIN_TISSUE - 1e-6 for share in shares.values())


@given(scans())
@settings(max_examples=60, deadline=None)
def test_patches_called_aligned_share_no_tile_in_part(scan: tuple[list[Level], float, np.ndarray, float, bool]):
    levels, mpp, mask, scale, align = scan
    try:
        grid = lay_grid(levels, mpp, np.ones_like(mask), scale, ENCODER, align)
    except NotASlideError:
        return
    if not grid.aligned:
        return
    size, reading = grid.patch_size_level0, grid.reading
    tile = reading.tile_width * reading.scale
    for x, y in grid.coords[:40].tolist():
        columns, rows = zip(*reading.tiles(x, y), strict=True)
        if size >= tile:
            assert (min(columns) * tile, (max(columns) + 1) * tile) == (x, x + size)
            assert (min(rows) * tile, (max(rows) + 1) * tile) == (y, y + size)
        else:
            assert len(columns) == 1


@given(scans())
@settings(max_examples=40, deadline=None)
def test_patches_are_worth_no_less_than_those_of_one_fixed_grid(
    scan: tuple[list[Level], float, np.ndarray, float, bool],
):
    levels, mpp, mask, scale, align = scan
    try:
        grid = lay_grid(levels, mpp, mask, scale, ENCODER, align)
    except NotASlideError:
        return
    size = grid.patch_size_level0
    columns, rows = levels[0].width // size, levels[0].height // size
    fixed = [brute_share(mask, scale, size, column, row) for row in range(rows) for column in range(columns)]
    laid = [brute_share(mask, scale, size, *(at / size)) for at in grid.coords]
    worth = sum(max(share - MIN_TISSUE, 0) for share in fixed)
    assert sum(laid) - MIN_TISSUE * len(laid) >= worth - 1e-5 * (len(fixed) + 1)


@pytest.mark.parametrize("offset", [0, 64, 200, 300])
def test_a_block_of_tissue_gets_as_many_patches_as_fit_wherever_it_lies(offset: int):
    levels = make_levels(4096, 4096, 240)
    mask = np.zeros((512, 512), bool)  # 8 px each
    mask[offset // 8 : offset // 8 + 128, offset // 8 : offset // 8 + 192] = True
    grid = lay_grid(levels, 0.25, mask, 8.0, ENCODER, False)
    assert len(grid.coords) == 2 * 3
    shares = [brute_share(mask, 8.0, 512, *(at / 512)) for at in grid.coords]
    assert sum(shares) >= 0.9 * 6


def test_rows_begin_where_their_own_tissue_begins():
    levels = make_levels(4096, 1024, 240)
    mask = np.zeros((128, 512), bool)
    mask[:64, 8:72] = True
    mask[64:, 24:152] = True
    grid = lay_grid(levels, 0.25, mask, 8.0, ENCODER, False)
    assert grid.coords.tolist() == [[64, 0], [192, 512], [704, 512]]


def test_aligned_patches_move_by_whole_tiles():
    levels = make_levels(4096, 1024, 256)
    mask = np.zeros((128, 512), bool)
    mask[:64, 32:96] = True  # from 256 to 768 px
    grid = lay_grid(levels, 0.25, mask, 8.0, ENCODER, True)
    assert grid.aligned
    assert grid.coords.tolist() == [[256, 0]]


@given(st.integers(0, 999), st.floats(1, 70), st.integers(20, 300), st.integers(1, 9), st.integers(1, 9))
@example(0, 8.0, 64, 4, 4)
@settings(max_examples=60, deadline=None)
def test_the_share_of_tissue_is_that_of_the_area(seed: int, scale: float, size: int, columns: int, rows: int):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 40, 2)) < 0.5
    found = share_of(accumulate(mask), scale, size, np.arange(columns) * size, np.arange(rows) * size)
    assert found.shape == (rows, columns)
    expected = [[brute_share(mask, scale, size, column, row) for column in range(columns)] for row in range(rows)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_large_mask_is_summed_exactly():
    mask = np.ones((4096, 4000), bool)
    assert (share_of(accumulate(mask), 32.0, 512, np.arange(250) * 512, np.arange(256) * 512) == 1).all()


# -- alignment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mpp", "tile", "expected"),
    [
        (0.25, 256, 512),  # two tiles a side
        (0.25, 240, 480),  # 6 % less than 512
        (0.2738, 256, 512),  # 9.5 % more than 467.5
        (0.25, 512, 512),
        (0.25, 1024, 512),  # half a tile
        (0.5, 256, 256),
        (0.5, 240, 240),
        (0.5, 512, 256),
        (0.55, 256, 256),  # just within the tolerance
        (0.125, 256, 1024),
        (0.23, 256, 512),  # 8 % less than 556.5
        (0.17, 256, 768),  # three tiles a side
    ],
)
def test_patches_end_where_tiles_end_within_the_tolerance(mpp: float, tile: int, expected: int):
    grid = lay(mpp, tile)
    assert grid.patch_size_level0 == expected
    assert grid.aligned
    assert pull(grid.coords, expected, grid.reading) <= 1.25  # tiles of several patches are cut at the slide's edge


@pytest.mark.parametrize(
    ("mpp", "tile", "expected"),
    [
        (0.285, 256, 449),  # 512 would be 14 % more
        (0.25, 300, 512),  # 600 would be 17 % more
        (0.25, (256, 240), 512),  # no square of these tiles is small
        (0.5, 700, 256),  # a third of a tile is no whole number of px
    ],
)
def test_patches_keep_their_size_out_of_tolerance(mpp: float, tile: int | tuple[int, int], expected: int):
    grid = lay(mpp, tile)
    assert grid.patch_size_level0 == expected
    assert not grid.aligned


def test_patches_keep_their_size_where_tiles_are_not_copied():
    grid = lay(0.25, 240, align=False)
    assert grid.patch_size_level0 == 512
    assert not grid.aligned
    assert lay(0.25, 256, align=False).aligned


def test_alignment_looks_at_the_level_that_is_read():
    levels = make_levels(12000, 12000, 256, (1, 2, 4))
    grid = lay_grid(levels, 0.125, all_tissue(levels), 32.0, ENCODER, align=True)
    assert (grid.reading.level, grid.reading.shrink, grid.patch_size_level0) == (2, 1, 1024)
    assert grid.aligned


def test_a_slide_that_holds_one_patch_is_not_too_small_for_alignment():
    levels = make_levels(480, 480, 256)
    assert aligned_size(levels, exact_side(0.2738, ENCODER), ENCODER) is None
    assert lay(0.2738, 256, size=(480, 480)).coords.tolist() == [[0, 0]]


def test_tiles_of_a_level_that_is_no_whole_reduction_are_not_aligned_to():
    levels = [Level(10000, 8000, 256, 256, 1.0), Level(4800, 3840, 256, 256, 10000 / 4800)]
    grid = lay_grid(levels, 0.25, all_tissue(levels), 32.0, ENCODER, align=True)
    assert (grid.reading.level, grid.patch_size_level0, grid.aligned) == (1, 512, False)


# -- pull ----------------------------------------------------------------------------------------------------


def test_one_unaligned_patch_pulls_what_the_design_measured():
    reading = plan_reading(make_levels(9600, 9600, 240), 512, 256, 0.0)
    alone = [pull(np.array([[x, y]]), 512, reading) for y in range(0, 9000, 512) for x in range(0, 9000, 512)]
    assert np.mean(alone) == pytest.approx(2.2, abs=0.25)
    assert min(alone) == pytest.approx(9 * 240**2 / 512**2)
    assert max(alone) == pytest.approx(16 * 240**2 / 512**2)
    assert max(alone) > MAX_PULL


def test_neighbours_share_their_tiles():
    reading = plan_reading(make_levels(9600, 9600, 240), 512, 256, 0.0)
    side = np.arange(0, 9 * 512, 512)
    together = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    assert pull(together, 512, reading) == pytest.approx(1, abs=0.1)


def test_half_a_tile_pulls_four_times_its_area_alone():
    grid = lay(0.25, 1024)
    assert pull(grid.coords[:1], 512, grid.reading) == 4
    assert pull(grid.coords[:0], 512, grid.reading) == 1


# -- what cannot be laid -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mpp", [0.5501, 0.7, 1.0])
def test_a_slide_coarser_than_the_encoder_is_refused(mpp: float):
    levels = make_levels(6000, 5000, 256)
    with pytest.raises(MppError, match=r"B12\.svs: .*0\.55 or finer") as caught:
        lay_grid(levels, mpp, all_tissue(levels), 32.0, ENCODER, True, "B12.svs")
    assert caught.value.reason == "too coarse for the encoder"


def test_a_slide_at_the_tolerance_is_taken():
    assert lay(0.55).patch_size_level0 == 256
    assert lay(0.55, align=False).patch_size_level0 == 233


@pytest.mark.parametrize("size", [(511, 4000), (4000, 511), (1, 1)])
def test_a_slide_smaller_than_one_patch_is_no_slide(size: tuple[int, int]):
    levels = make_levels(*size, 256, (1,))
    with pytest.raises(NotASlideError, match=r"B12\.svs: .*takes 512 px") as caught:
        lay_grid(levels, 0.25, np.ones((4, 4), bool), 128.0, ENCODER, True, "B12.svs")
    assert caught.value.reason == "too small"


def test_a_slide_of_one_patch_has_one():
    assert lay(0.25, size=(512, 600)).coords.tolist() == [[0, 0]]


def test_no_tissue_gives_no_patches():
    levels = make_levels(6000, 5000, 256)
    grid = lay_grid(levels, 0.25, np.zeros((156, 188), bool), 32.0, ENCODER, True)
    assert grid.coords.shape == (0, 2)
    assert grid.coords.dtype == np.int32


def test_a_quarter_of_tissue_is_enough_and_less_is_not():
    levels = make_levels(1024, 512, 256)
    mask = np.zeros((16, 32), bool)
    mask[:8, :8] = True  # a quarter of the first patch
    mask[:8, 16:24] = True
    mask[0, 16] = False  # just less of the second
    assert lay_grid(levels, 0.25, mask, 32.0, ENCODER, True).coords.tolist() == [[0, 0]]


def test_a_mask_smaller_than_the_slide_ends_where_it_ends():
    levels = make_levels(6000, 5000, 256)
    grid = lay_grid(levels, 0.25, np.ones((16, 16), bool), 32.0, ENCODER, True)
    assert grid.coords.tolist() == [[0, 0]]
