"""Pixels as (H, W, 3) uint8 RGB arrays: resized, averaged, compared. OpenCV lives here, and in `tissue`."""

from __future__ import annotations

import numpy as np

MAX_PSNR = 100.0  # dB, of equal images: JSON knows no infinity


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area average where the image gets smaller, linear interpolation where it gets larger."""
    if pixels.shape[:2] == (height, width):
        return pixels
    import cv2

    method = cv2.INTER_AREA if pixels.shape[0] >= height else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method))


def shrunk(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Averaged by a whole factor, for what cannot be decoded smaller; at least one px is left."""
    if factor == 1:
        return pixels
    height, width = max(1, pixels.shape[0] // factor), max(1, pixels.shape[1] // factor)
    return resize(pixels[: height * factor, : width * factor], height, width)


def from_ycbcr(pixels: np.ndarray) -> np.ndarray:
    """Y, Cb, Cr of full range (ITU-T T.871, as JFIF has it) to RGB."""
    import cv2

    y_cr_cb = np.ascontiguousarray(pixels[..., (0, 2, 1)])
    return np.asarray(cv2.cvtColor(y_cr_cb, cv2.COLOR_YCrCb2RGB))


def to_ycbcr(pixels: np.ndarray) -> np.ndarray:
    """RGB to Y, Cb, Cr of full range."""
    import cv2

    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2YCrCb)[..., (0, 2, 1)])


def aligned(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two squares of the same size without an eighth at each side, `other` moved by up to as much to fit `one`."""
    import cv2

    height, width = one.shape[:2]
    y, x = height // 8, width // 8
    inner = one[y : height - y, x : width - x]
    template, image = (cv2.cvtColor(np.ascontiguousarray(each), cv2.COLOR_RGB2GRAY) for each in (inner, other))
    if template.std() > 1 and image.std() > 1:
        found = cv2.matchTemplate(image, template, cv2.TM_CCOEFF_NORMED)
        _, _, _, (x, y) = cv2.minMaxLoc(found)
    return inner, other[y : y + inner.shape[0], x : x + inner.shape[1]]


def grown(mask: np.ndarray, margin: int) -> np.ndarray:
    """(H, W) bool with every marked px spread to a square that reaches `margin` px further."""
    import cv2

    square = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), square)) > 0


def likeness(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """PSNR in dB over all channels, and SSIM (Wang et al. 2004) of the grey images, of (H, W, 3) uint8."""
    import cv2

    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    psnr = min(10 * np.log10(255**2 / error), MAX_PSNR) if error else MAX_PSNR
    x, y = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64) for image in (a, b))

    def blur(image: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.GaussianBlur(image, (11, 11), 1.5))

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    ssim = structure / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(psnr), float(ssim.mean())
