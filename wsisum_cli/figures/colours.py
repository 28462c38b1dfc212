"""Colours of figures: of ink, of weights, of figures on a scale, of kinds. For colour-blind eyes too."""

from __future__ import annotations

import numpy as np

Colour = tuple[int, int, int]


def hues(text: str) -> tuple[Colour, ...]:
    """Colours of hexadecimal words."""
    return tuple((value >> 16, value >> 8 & 255, value & 255) for value in (int(word, 16) for word in text.split()))


INK: Colour = (28, 30, 34)
GREY: Colour = (104, 108, 116)
HAIRLINE: Colour = (208, 210, 214)
WHITE: Colour = (255, 255, 255)
#: From light to heavy. Its lightness rises throughout, and no stain of the field has these hues.
RAMP = np.array([(24, 78, 160), (0, 134, 168), (24, 176, 112), (150, 208, 48), (255, 226, 32)], float)

#: Matplotlib's viridis: dark is low. Even steps of lightness, also where red and green look alike.
VIRIDIS = np.array(
    [
        *((68, 1, 84), (72, 36, 117), (65, 68, 135), (53, 95, 141), (42, 120, 142), (33, 145, 140)),
        *((34, 168, 132), (68, 191, 112), (122, 209, 81), (189, 223, 38), (253, 231, 37)),
    ],
    float,
)

#: Kinds without an order. The first seven are Okabe and Ito's; each further one lies as far as can be from all before
#: it, in Oklab, as people see it with and without red or green.
KINDS = hues(
    "0072b2 e69f00 009e73 cc79a7 56b4e9 d55e00 f0e442 5a1e00 2d0096 e1e1ff "
    "a50f5a 5a1eff 00e1a5 8778ff 5a005a 2d5a00 a5ffc3 d200b4 3c4b87 ff4b69 "
    "000fd2 875a87 005a5a ff78d2 a5d269 b4c3ff a55a4b 96b496 b40000 69ff87 "
    "4b69e1 0f3c2d a5e1d2 4b2da5 c369d2 78003c f0783c 3c2d78 a5784b 69c369 "
    "9696ff 5a8787 693cd2 e1c32d 783c3c d2b4d2 ffb4a5 96a5c3 f000a5 698700"
)


def kind_colour(number: int) -> Colour:
    """Of a kind by its number from 0: always the same; past the fiftieth they come again."""
    return KINDS[number % len(KINDS)]


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
