"""The glass of a slide: its colour, and how the light of the lamp falls on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Image = NDArray[np.uint8]

# Grey levels.
WHITE = 254  # what scanners and stitchers write where they scanned nothing
DEFAULT_GLASS = 243
DIMMEST_GLASS = 160
FLAT = 6  # within 80 µm; pale tissue has 10 and more

MIN_GLASS = 0.002  # of the overview
MIN_TINTED = 0.3  # the same, for glass of a colour that pale tissue could have

# The light: a polynomial of the second degree, in optical density (thousandths).
SHRINK, MOST = 4, 30_000  # px of the overview, a side, to one of the fit at least; and px of the fit at most
NEAR, CLOSE = 8.0, 5.0  # how far glass may be from its colour to begin with, and from the fit
FEWEST, ROUNDS = 400, 8


def glass_colour(smooth: Image) -> NDArray[np.float64]:
    """The colour (3,) of clear glass: the brightest of the common colours of what is bright, flat and grey.

    Pure white does not count while there is any other glass: it is what stitchers fill gaps with.
    """
    import cv2

    height, width = smooth.shape[:2]
    half_size = max(1, round(width / 2)), max(1, round(height / 2))
    half = _u8(cv2.resize(smooth, half_size, interpolation=cv2.INTER_AREA))
    red, green, blue = (_u8(channel) for channel in cv2.split(half))
    square = np.ones((5, 5), np.uint8)
    flat = _u8(cv2.subtract(cv2.dilate(green, square), cv2.erode(green, square))) <= FLAT
    lowest, highest = cv2.min(red, blue), cv2.max(cv2.max(red, green), blue)
    # Lamps and cameras tint glass a little pink or blue, and more towards yellow.
    grey = (cv2.subtract(lowest, green) <= 8) & (cv2.subtract(highest, red) <= 12)
    grey &= cv2.subtract(highest, blue) <= 24
    white = _u8(cv2.min(lowest, green)) >= WHITE
    flat &= ~white & (green >= DIMMEST_GLASS)
    for which, share in ((flat & grey, MIN_GLASS), (white, MIN_GLASS), (flat, MIN_TINTED)):
        if np.count_nonzero(which) > share * which.size:
            return _brightest_common(half[which])
    return np.full(3, DEFAULT_GLASS, np.float64)


def shading(smooth: Image, glass: NDArray[np.float64]) -> NDArray[np.float32]:
    """How much darker the lamp makes the glass, (h, w, 3) optical density in thousandths, of the whole in few pixels.

    The fit begins with glass of the common colour and takes in what is near to it, step by step, so that it follows
    slow vignetting but never jumps over an edge to a film of tissue. Zeros where there is too little glass.
    """
    import cv2

    shrink = max(SHRINK, (smooth.shape[0] * smooth.shape[1] / MOST) ** 0.5)
    height, width = (max(1, int(side / shrink)) for side in smooth.shape[:2])
    small = _u8(cv2.resize(smooth, (width, height), interpolation=cv2.INTER_AREA))
    density = (1000 * np.log10((glass + 1) / (small + 1.0))).reshape(-1, 3)
    usable = small.reshape(-1, 3).min(axis=1) < WHITE
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].reshape(2, -1)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    fitted, near = np.zeros_like(density), usable & (np.abs(density).max(axis=1) < NEAR)
    for _ in range(ROUNDS):
        if np.count_nonzero(near) < FEWEST:
            return np.zeros((height, width, 3), np.float32)
        factors = np.round(np.linalg.lstsq(terms[near], density[near], rcond=None)[0], 3)  # alike on all machines
        fitted = terms @ factors
        before, near = near, usable & (np.abs(density - fitted).max(axis=1) < CLOSE)
        if np.array_equal(before, near):
            break
    # Beyond the glass it was taken from, a polynomial says anything.
    seen = fitted[near] if near.any() else np.zeros((1, 3))
    return np.clip(fitted, seen.min(axis=0), seen.max(axis=0)).reshape(height, width, 3).astype(np.float32)


def _brightest_common(pixels: Image) -> NDArray[np.float64]:
    """The median of the brightest common shade in (N, 3) pixels."""
    counts = np.convolve(np.bincount(pixels[:, 1], minlength=256), np.ones(5), mode="same")
    top = int(np.flatnonzero(counts >= 0.2 * counts.max())[-1])
    near = np.abs(pixels[:, 1].astype(np.int16) - top) <= 5
    return np.asarray(np.median(pixels[near], axis=0), np.float64)


def _u8(array: Any) -> Image:
    return np.asarray(array, np.uint8)
