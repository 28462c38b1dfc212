"""Colours of figures: of ink, of weights, of figures on a scale, of kinds. For colour-blind eyes too."""

from __future__ import annotations

import numpy as np

Colour = tuple[int, int, int]

INK: Colour = (28, 30, 34)
GREY: Colour = (104, 108, 116)
HAIRLINE: Colour = (208, 210, 214)
WHITE: Colour = (255, 255, 255)
#: From light to heavy. Its lightness rises throughout, and no stain of the field has these hues.
RAMP = np.array([(24, 78, 160), (0, 134, 168), (24, 176, 112), (150, 208, 48), (255, 226, 32)], float)


def colours_of(weights: np.ndarray) -> list[Colour]:
    """By the logarithm, because few patches stand for much of the tissue and many for little."""
    scaled = np.log(np.maximum(weights, 1e-9))
    low, high = scaled.min(), scaled.max()
    return ramp_colours((scaled - low) / (high - low) if high > low else np.ones(len(weights)))


def ramp_colours(shares: np.ndarray, ramp: np.ndarray = RAMP) -> list[Colour]:
    """Colours at 0..1 of the ramp."""
    at = np.linspace(0, 1, len(ramp))
    mixed = np.stack([np.interp(shares, at, channel) for channel in ramp.T], axis=1).round().astype(int)
    return [(red, green, blue) for red, green, blue in mixed.tolist()]
