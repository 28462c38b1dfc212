"""What a summary keeps of the slide's overview: an image any viewer opens, and a finer one in JPEG."""

from __future__ import annotations

import numpy as np

PORTABLE_SIDE = 512  # px; lossless pixels cost ten times those of the JPEG overview, so the portable image is small
GLASS = 255
MIN_GLASS = 190  # darker pixels beside the tissue are dust, ink or debris: kept, so that a viewer sees them
TISSUE_MARGIN = 5  # px around tissue that are left as scanned
DROPPED_BITS = 2  # of eight: the eye does not miss them in an overview, and they cost a third of the bytes


def blank_glass(overview: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with bright pixels far from `tissue` (H, W) bool set to white, which costs no bytes."""
    import cv2

    near = cv2.dilate(tissue.astype(np.uint8), np.ones((2 * TISSUE_MARGIN + 1,) * 2, np.uint8)) > 0
    blank = ~near & (overview.min(axis=2) >= MIN_GLASS)
    return np.where(blank[..., None], np.uint8(GLASS), overview)


def portable_image(overview: np.ndarray) -> np.ndarray:
    """The overview at most `PORTABLE_SIDE` px a side, with the lowest bits rounded away."""
    import cv2

    factor = PORTABLE_SIDE / max(overview.shape[:2])
    if factor < 1:
        size = (max(1, round(overview.shape[1] * factor)), max(1, round(overview.shape[0] * factor)))
        overview = cv2.resize(overview, size, interpolation=cv2.INTER_AREA)
    step = 1 << DROPPED_BITS
    rounded = (overview.astype(np.uint16) + step // 2) // step * step
    return np.asarray(np.where(overview == GLASS, GLASS, np.minimum(rounded, GLASS - step + 1)), np.uint8)


def is_finer(overview: np.ndarray) -> bool:
    """Whether the overview shows more than the portable image does."""
    height, width = overview.shape[:2]
    return bool(max(height, width) > PORTABLE_SIDE)
