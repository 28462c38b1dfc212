"""The overviews in a summary: an image any viewer opens, and a finer one in JPEG."""

from __future__ import annotations

import numpy as np

from wsisum_cli.slides.pixels import grown, resize

PORTABLE_SIDE = 512  # px; lossless pixels take ten times the bytes of JPEG, so the portable image is small
GLASS = 255
MIN_GLASS = 190  # darker background pixels are dust, ink or debris, and are kept visible
TISSUE_MARGIN = 5  # px around tissue that are kept as scanned
DROPPED_BITS = 2  # of eight: invisible in an overview, but a third of the bytes


def blank_glass(overview: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Set bright pixels far from `tissue`, (H, W) bool, to white, which takes no bytes; (H, W, 3) uint8."""
    blank = ~grown(tissue, TISSUE_MARGIN) & (overview.min(axis=2) >= MIN_GLASS)
    return np.where(blank[..., None], np.uint8(GLASS), overview)


def portable_image(overview: np.ndarray) -> np.ndarray:
    """The overview scaled to at most `PORTABLE_SIDE` px per side, with the lowest bits rounded away."""
    factor = min(1.0, PORTABLE_SIDE / max(overview.shape[:2]))
    overview = resize(overview, *(max(1, round(side * factor)) for side in overview.shape[:2]))
    step = 1 << DROPPED_BITS
    rounded = (overview.astype(np.uint16) + step // 2) // step * step
    return np.asarray(np.where(overview == GLASS, GLASS, np.minimum(rounded, GLASS - step + 1)), np.uint8)


def is_finer(overview: np.ndarray) -> bool:
    """Whether the overview is larger than the portable image."""
    height, width = overview.shape[:2]
    return bool(max(height, width) > PORTABLE_SIDE)
