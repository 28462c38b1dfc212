from __future__ import annotations

import numpy as np
import pytest

from wsisum_cli.slides.pixels import MAX_PSNR, from_ycbcr, grown, likeness, resize, shrunk


def striped() -> np.ndarray:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[::2] = 200
    return pixels


def test_resize_keeps_what_fits_and_averages_what_is_larger():
    pixels = striped()
    assert resize(pixels, 8, 8) is pixels
    assert (resize(pixels, 4, 4) == 100).all()
    assert resize(pixels, 12, 16).shape == (12, 16, 3)


def test_shrunk_drops_what_does_not_divide_and_leaves_a_pixel():
    assert shrunk(striped(), 1).shape == (8, 8, 3)
    assert shrunk(striped(), 3).shape == (2, 2, 3)
    assert shrunk(striped()[:2, :2], 8).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("ycbcr", "rgb"), [((0, 128, 128), (0, 0, 0)), ((255, 128, 128), (255, 255, 255)), ((76, 85, 255), (254, 0, 0))]
)
def test_ycbcr_is_of_full_range(ycbcr: tuple[int, int, int], rgb: tuple[int, int, int]):
    found = from_ycbcr(np.full((2, 2, 3), ycbcr, np.uint8))
    assert np.abs(found.astype(int) - rgb).max() <= 1


def test_grown_reaches_a_margin_further():
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    assert grown(mask, 2).sum() == 25


def test_likeness_of_equal_and_of_noisy_images():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert likeness(image, image) == (MAX_PSNR, pytest.approx(1))
    noisy = np.clip(image.astype(int) + 10, 0, 255).astype(np.uint8)
    psnr, ssim = likeness(image, noisy)
    assert 27 < psnr < 30
    assert ssim < 1
