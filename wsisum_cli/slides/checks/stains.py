"""Whether the colours of a stain speak for channels in their order.

Limits were set on 49 slides of H&E and 4 of immunohistochemistry, each in all six orders of its channels. In H&E green
is absorbed most, and dark nuclei absorb relatively more red than what is around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

WHITE = 245.0  # grey levels of glass
DARKEST = 2.0  # grey levels, below which optical density tells nothing
#: Optical density of each grey level of 8 bits.
DENSITIES = np.clip(-np.log10(np.maximum(np.arange(256), DARKEST) / WHITE), 0, None)
#: Optical density, of all channels together, from which a px counts as stained.
STAINED = 0.3
MIN_STAINED = 500  # px of a slide
BLOCK, MIN_IN_BLOCK = 64, 50  # px a side in which dark px are compared with light ones; stained px that takes

#: Shares of the optical density: of green in H&E at least, and in any common stain.
GREEN_IN_HE, WEAKEST_GREEN = 0.43, 0.29
#: More red than blue in dark px of H&E: where channels are surely in their order, and where they surely are not.
SURE_SLOPE, SWAPPED_SLOPE = 0.01, -0.02
#: Red over green: by more than any haematoxylin, and by so much where dark px also turn to another channel.
REDDEST, RED, TURNING = 0.19, 0.08, 0.03
BLUEST = 0.16  # blue over green, by more than diaminobenzidine

SWAPPED = "dark parts are redder than light ones, as in H&E whose red and blue are swapped; look at the overview"
MOSTLY = "it is mostly {}, as some stains are and swapped channels; look at the overview"


@dataclass(frozen=True)
class Stain:
    """How stained px absorb light. Shares are of the optical density of red, green and blue together."""

    shares: np.ndarray  # (3,) of red, green and blue
    contrast: np.ndarray  # (3,) of dark px less those of light px
    nearby: float  # more red than blue in dark px than in light px within the same block

    @property
    def slope(self) -> float:
        """How much more red than blue dark px absorb than light ones."""
        return float(self.contrast[0] - self.contrast[2])

    @property
    def is_like_he(self) -> bool:
        """Whether it is H&E whose channels are surely in their order."""
        return bool(self.shares[1] >= GREEN_IN_HE) and self.slope >= SURE_SLOPE

    def note(self) -> str | None:
        """What is odd about it, though some slides have it; None where nothing is."""
        red, green, blue = (float(share) for share in self.shares)
        turning = float(max(self.contrast[1:]) - self.contrast[0]) >= TURNING
        if green < WEAKEST_GREEN:
            return MOSTLY.format("green or yellow")
        if red - green >= REDDEST or (red - green >= RED and turning):
            return MOSTLY.format("green or blue")
        if blue - green >= BLUEST:
            return MOSTLY.format("yellow")
        return SWAPPED if green >= GREEN_IN_HE and self.slope + self.nearby <= SWAPPED_SLOPE else None


def measure_stain(windows: list[np.ndarray]) -> Stain | None:
    """Of (H, W, 3) uint8 parts of level 0; None where too little is stained."""
    shares, totals = stained_px([window.reshape(-1, 3) for window in windows])
    if len(totals) < MIN_STAINED:
        return None
    low, high = np.percentile(totals, (30, 90))
    contrast = shares[totals >= high].mean(axis=0) - shares[totals <= low].mean(axis=0)
    return Stain(shares.mean(axis=0), contrast, nearby_slope(windows))


def stained_px(colours: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Shares (N, 3) and optical density (N,) of the stained among (., 3) uint8 colours."""
    density = DENSITIES[np.concatenate(colours)]
    totals = density[:, 0] + density[:, 1] + density[:, 2]
    stained = totals > STAINED
    return density[stained] / totals[stained][:, None], totals[stained]


def nearby_slope(windows: list[np.ndarray]) -> float:
    """`Stain.nearby`; 0 where no block holds enough."""
    darker, redder = [], []
    for block in blocks_of(windows):
        shares, totals = stained_px([block.reshape(-1, 3)])
        if len(totals) >= MIN_IN_BLOCK:
            excess = shares[:, 0] - shares[:, 2]
            darker.append(totals - totals.mean())
            redder.append(excess - excess.mean())
    if not darker:
        return 0.0
    dark, red = np.concatenate(darker), np.concatenate(redder)
    low, high = np.percentile(dark, (20, 90))
    return float(red[dark >= high].mean() - red[dark <= low].mean())


def blocks_of(windows: list[np.ndarray]) -> Iterator[np.ndarray]:
    for window in windows:
        for top in range(0, window.shape[0] - BLOCK + 1, BLOCK):
            for left in range(0, window.shape[1] - BLOCK + 1, BLOCK):
                yield window[top : top + BLOCK, left : left + BLOCK]
