"""What a summary keeps of the slide's overview: an image any viewer opens, and a finer one in JPEG."""

from __future__ import annotations

import numpy as np

from wsisum_cli.slides.pixels import grown, resize

PORTABLE_SIDE = 512  # px; lossless pixels cost ten times those of the JPEG overview, so the portable image is small
GLASS = 255
MIN_GLASS = 190  # darker pixels beside the tissue are dust, ink or debris: kept, so that a viewer sees them
TISSUE_MARGIN = 5  # px around tissue that are left as scanned
DROPPED_BITS = 2  # of eight: the eye does not miss them in an overview, and they cost a third of the bytes


def blank_glass(overview: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with bright pixels far from `tissue` (H, W) bool set to white, which costs no bytes."""
    blank = ~grown(tissue, TISSUE_MARGIN) & (overview.min(axis=2) >= MIN_GLASS)
    return np.where(blank[..., None], np.uint8(GLASS), overview)


def portable_image(overview: np.ndarray) -> np.ndarray:
    """The overview at most `PORTABLE_SIDE` px a side, with the lowest bits rounded away."""
    factor = min(1.0, PORTABLE_SIDE / max(overview.shape[:2]))
    overview = resize(overview, *(max(1, round(side * factor)) for side in overview.shape[:2]))
    step = 1 << DROPPED_BITS
    rounded = (overview.astype(np.uint16) + step // 2) // step * step
    return np.asarray(np.where(overview == GLASS, GLASS, np.minimum(rounded, GLASS - step + 1)), np.uint8)


def is_finer(overview: np.ndarray) -> bool:
    """Whether the overview shows more than the portable image does."""
    height, width = overview.shape[:2]
    return bool(max(height, width) > PORTABLE_SIDE)
