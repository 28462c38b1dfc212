"""The overviews in a summary: an image any viewer opens, and a finer one in JPEG."""

from __future__ import annotations

import numpy as np

from wsisum_cli.slides import jpeg
from wsisum_cli.slides.pixels import grown, resize

PORTABLE_SIDE = 512  # px; lossless pixels take ten times the bytes of JPEG, so the portable image is small
GLASS = 255
MIN_GLASS = 190  # darker background pixels are dust, ink or debris, and are kept visible
TISSUE_MARGIN = 5  # px around tissue that are kept as scanned
DROPPED_BITS = 2  # of eight: invisible in an overview, but a third of the bytes
OVERVIEW_QUALITY = 85  # of the JPEG
#: Bytes of the overview over those of the kept pixels, above which it is made coarser; and bytes that are always fine.
MOST_SHARE, FREE_BYTES = 0.1, 65_536
#: Factors by which its sides may be divided.
SHRINKS = (1.0, 1.2, 1.4, 1.7, 2.0)
FEWEST_PX = 4  # across a patch; with fewer, a patch could no longer be compared with the overview
LEAST_SIDE = 768  # px, of the longer side, below which it is not made coarser


class OverviewSizes:
    """The overview of a slide in all sizes in which it may be stored; each is encoded once."""

    def __init__(self, finest: np.ndarray, mpp: float, patch_um: float) -> None:
        self._finest, self._mpp, self._patch_px = finest, mpp, patch_um / mpp
        self._pixels: dict[float, np.ndarray] = {}
        self._bytes: dict[float, int] = {}

    def within(self, kept: int) -> tuple[np.ndarray, float]:
        """The finest (H, W, 3) that is small beside `kept` bytes of patches, or else the coarsest; and its mpp."""
        sides = self._finest.shape[:2]
        fine = min(max(sides) / LEAST_SIDE, self._patch_px / FEWEST_PX)
        shrinks = [shrink for shrink in SHRINKS if shrink == 1 or shrink <= fine]
        most = max(FREE_BYTES, MOST_SHARE * kept)
        shrink = next((shrink for shrink in shrinks[:-1] if self._size(shrink) <= most), shrinks[-1])
        return self._at(shrink), self._mpp * shrink

    def _at(self, shrink: float) -> np.ndarray:
        if shrink not in self._pixels:
            sides = (max(1, round(side / shrink)) for side in self._finest.shape[:2])
            self._pixels[shrink] = self._finest if shrink == 1 else resize(self._finest, *sides)
        return self._pixels[shrink]

    def _size(self, shrink: float) -> int:
        if shrink not in self._bytes:
            self._bytes[shrink] = len(jpeg.encode(self._at(shrink), OVERVIEW_QUALITY))
        return self._bytes[shrink]


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
