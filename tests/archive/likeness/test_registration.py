"""Overviews laid on each other: found however they lie, and different tissue is not."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from draw import draw_tissue

from wsisum_cli.archive.likeness.duplicates import SAME_BLOCK, SAME_GLASS, judge
from wsisum_cli.archive.likeness.registration import Alignment, Picture, align, correlate, turn_of
from wsisum_cli.slides import jpeg

MPP = 8.0


@cache
def overview(seed: int = 3) -> np.ndarray:
    """(H, W, 3) uint8, of a drawn slide, with glass around it."""
    drawn = draw_tissue(1500, 1200, seed)
    return np.asarray(np.pad(drawn, ((60, 60), (60, 60), (0, 0)), constant_values=244)[::2, ::2])


def turned(pixels: np.ndarray, degrees: float, zoom: float = 1.0) -> np.ndarray:
    """Turned counter-clockwise about the middle, as cv2 has it, on glass that has room for it."""
    height, width = pixels.shape[:2]
    side = int(1.5 * zoom * max(height, width))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, zoom)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    return np.asarray(cv2.warpAffine(pixels, matrix, (side, side), borderValue=(244, 244, 244)))


def aligned(first: np.ndarray, second: np.ndarray, mpp: float = MPP) -> Alignment:
    found = align(Picture(first, MPP), Picture(second, mpp))
    assert found is not None
    return found


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 7, 133])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_same_glass_is_found_however_it_lies(degrees: float, mirrored: bool):
    second = turned(overview(), -degrees)
    if mirrored:
        second = np.ascontiguousarray(turned(np.ascontiguousarray(overview()[:, ::-1]), -degrees))
    found = aligned(overview(), second)
    assert judge(found) == SAME_GLASS
    assert found.mirrored == mirrored
    assert abs((found.turn - degrees + 180) % 360 - 180) < 1
    assert found.correlation > 0.9
    assert found.overlap > 0.95


def test_other_colours_and_compression_do_not_hide_it():
    paler = (255 - 0.7 * (255 - overview().astype(float)) * [0.8, 1.0, 0.9]).astype(np.uint8)
    found = aligned(overview(), jpeg.decode(jpeg.encode(paler, 70)))
    assert judge(found) == SAME_GLASS


def test_a_part_of_the_glass_is_found_in_the_whole():
    height, width = overview().shape[:2]
    found = aligned(overview(), overview()[height // 20 :, : width - width // 5])
    assert judge(found) == SAME_GLASS
    assert found.overlap > 0.95


def test_a_wrong_pixel_size_shows_in_the_scale():
    found = aligned(overview(), overview(), mpp=1.5 * MPP)
    assert found.scale == pytest.approx(1.5, abs=0.02)
    assert found.correlation > 0.9


def test_other_tissue_is_not_the_same_glass():
    found = align(Picture(overview(3), MPP), Picture(overview(4), MPP))
    assert found is None or judge(found) is None


@pytest.mark.parametrize(("shared", "bent"), [(3.0, 1.0), (3.0, 4.0), (5.0, 1.0)])
def test_the_next_section_of_a_block_is_not_called_the_same_glass(shared: float, bent: float):
    """It has the outline and the structure of the other coarser than `shared` px, a little bent, and its own cells."""
    rng = np.random.default_rng(2)
    own, cells = overview(3).astype(np.float32), np.roll(overview(4), 40, 0).astype(np.float32)
    section = cv2.GaussianBlur(own, (0, 0), shared)
    section += np.where(section < 235, cells - cv2.GaussianBlur(cells, (0, 0), shared), 0)
    height, width = own.shape[:2]
    shift = [cv2.resize(rng.normal(0, bent, (9, 9)).astype(np.float32), (width, height)) for _ in "xy"]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    section = cv2.remap(section, x + shift[0], y + shift[1], cv2.INTER_LINEAR, borderValue=(244, 244, 244))
    found = aligned(overview(3), np.clip(section, 0, 255).astype(np.uint8))
    assert found.overlap > 0.9
    assert judge(found) == SAME_BLOCK


def test_glass_alone_is_like_nothing():
    blank = np.full((200, 300, 3), 255, np.uint8)
    assert align(Picture(blank, MPP), Picture(overview(), MPP)) is None
    assert align(Picture(blank, MPP), Picture(blank, MPP)) is None


def test_the_order_of_two_slides_does_not_matter():
    one, other = aligned(overview(), turned(overview(), -30)), aligned(turned(overview(), -30), overview())
    assert one.turn == pytest.approx(360 - other.turn, abs=0.5)
    assert one.correlation == pytest.approx(other.correlation, abs=0.05)


def test_alignment_is_the_same_each_time():
    one, again = (aligned(overview(), turned(overview(), -30)) for _ in range(2))
    assert np.array_equal(one.matrix, again.matrix)
    assert (one.correlation, one.matches) == (again.correlation, again.matches)


def test_correlation_of_constants_is_0():
    assert correlate(np.ones(5), np.arange(5.0)) == 0
    assert correlate(np.arange(5.0), 3 - 2 * np.arange(5.0)) == pytest.approx(-1)


def test_turn_is_clockwise_as_people_see_it():
    clockwise = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])  # the x axis, to the right, goes down
    assert turn_of(clockwise, False) == 90
