"""The overview of a summary: how large it may be beside the patches."""

from __future__ import annotations

import numpy as np
import pytest

from wsisum_cli.slides import jpeg
from wsisum_cli.summary.overview import FREE_BYTES, LEAST_SIDE, MOST_SHARE, OVERVIEW_QUALITY, SHRINKS, OverviewSizes

MPP, PATCH = 8.0, 128.0  # µm, of a px and of a patch


def noise(height: int, width: int) -> np.ndarray:
    """An overview that takes many bytes."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def bytes_of(pixels: np.ndarray) -> int:
    return len(jpeg.encode(pixels, OVERVIEW_QUALITY))


@pytest.mark.parametrize("share", [3.0, 0.8, 0.6, 0.4, 0.01])
def test_it_is_the_finest_that_is_small_beside_the_patches(share: float):
    finest = noise(1500, 2100)
    kept = int(share * bytes_of(finest) / MOST_SHARE)
    pixels, mpp = OverviewSizes(finest, MPP, PATCH).within(kept)
    shrink = mpp / MPP
    assert shrink in SHRINKS
    assert pixels.shape == (round(1500 / shrink), round(2100 / shrink), 3)
    assert bytes_of(pixels) <= MOST_SHARE * kept or shrink == SHRINKS[-1]
    finer = [other for other in SHRINKS if other < shrink]
    if finer:
        pixels, _ = OverviewSizes(finest, MPP, PATCH).within(int(bytes_of(pixels) / MOST_SHARE) + 1)
        assert pixels.shape[0] <= round(1500 / finer[-1])


def test_more_patches_never_get_a_coarser_overview():
    sizes = OverviewSizes(noise(1200, 2100), MPP, PATCH)
    found = [sizes.within(kept)[1] for kept in range(0, 60_000_000, 1_000_000)]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 3


def test_a_small_one_stays_as_it_is():
    finest = noise(300, LEAST_SIDE)
    assert bytes_of(finest) > FREE_BYTES
    pixels, mpp = OverviewSizes(finest, MPP, PATCH).within(0)
    assert mpp == MPP
    assert pixels is finest


def test_one_of_few_bytes_stays_as_it_is():
    finest = np.full((2100, 2100, 3), 255, np.uint8)
    assert bytes_of(finest) < FREE_BYTES
    assert OverviewSizes(finest, MPP, PATCH).within(0)[1] == MPP


def test_it_stays_large_enough_to_look_at():
    pixels, mpp = OverviewSizes(noise(300, 3 * LEAST_SIDE // 2), MPP, PATCH).within(0)
    assert max(pixels.shape) >= LEAST_SIDE
    assert mpp == MPP * 1.4


def test_patches_keep_px_enough_to_be_found_again():
    pixels, mpp = OverviewSizes(noise(1500, 2100), MPP, 6 * MPP).within(0)
    assert mpp == MPP * 1.4  # 6 px across a patch; 4 at least
    assert OverviewSizes(noise(1500, 2100), MPP, 3 * MPP).within(0)[1] == MPP
    assert pixels.shape[1] == 1500
