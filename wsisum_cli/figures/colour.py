"""Colours of figures: ink, weights, scales and categories. Safe for colour-blind readers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]


def hues(text: str) -> tuple[Colour, ...]:
    """Parse hexadecimal colours."""
    return tuple((value >> 16, value >> 8 & 255, value & 255) for value in (int(word, 16) for word in text.split()))


INK: Colour = (28, 30, 34)
GREY: Colour = (104, 108, 116)
HAIRLINE: Colour = (208, 210, 214)
WHITE: Colour = (255, 255, 255)
#: Of tissue with and without a look-alike among the kept patches. They differ in lightness, and as blue and yellow do.
REPRESENTED: Colour = (170, 196, 226)
UNREPRESENTED: Colour = (255, 64, 0)
OTHERS: Colour = (150, 152, 156)  # of categories too small for a colour of their own
RARE: Colour = (213, 94, 0)  # of patches that represent hardly any tissue but themselves
UNWEIGHTED: Colour = (176, 178, 184)  # of patches without weight that do represent tissue
LABEL: Colour = (255, 232, 130)
#: From low to high weight. Lightness rises throughout, and no common stain has these hues.
RAMP = np.array([(24, 78, 160), (0, 134, 168), (24, 176, 112), (150, 208, 48), (255, 226, 32)], float)

#: Matplotlib's viridis: dark is low. Lightness steps are even, also for red-green blindness.
VIRIDIS = np.array(
    [
        *((68, 1, 84), (72, 36, 117), (65, 68, 135), (53, 95, 141), (42, 120, 142), (33, 145, 140)),
        *((34, 168, 132), (68, 191, 112), (122, 209, 81), (189, 223, 38), (253, 231, 37)),
    ],
    float,
)

#: Categorical colours. The first seven are Okabe and Ito's; each further one is as far as possible from all earlier
#: ones in Oklab, with normal and with red-green deficient vision.
KINDS = hues(
    "0072b2 e69f00 009e73 cc79a7 56b4e9 d55e00 f0e442 5a1e00 2d0096 e1e1ff "
    "a50f5a 5a1eff 00e1a5 8778ff 5a005a 2d5a00 a5ffc3 d200b4 3c4b87 ff4b69 "
    "000fd2 875a87 005a5a ff78d2 a5d269 b4c3ff a55a4b 96b496 b40000 69ff87 "
    "4b69e1 0f3c2d a5e1d2 4b2da5 c369d2 78003c f0783c 3c2d78 a5784b 69c369 "
    "9696ff 5a8787 693cd2 e1c32d 783c3c d2b4d2 ffb4a5 96a5c3 f000a5 698700"
)


LEAST = 1e-6  # share of the tissue; smaller shares look the same


def kind_colour(number: int) -> Colour:
    """Colour of a category number, from 0; always the same, repeating after fifty."""
    return KINDS[number % len(KINDS)]


FLOOR = 1 / 4  # of an equal weight for each patch; smaller weights look the same


def weight_limits(weights: np.ndarray) -> tuple[float, float]:
    """The weights with the first and the last colour. The first is not below `FLOOR`, so that tiny weights, which
    fitting may give, do not cost the others their contrast.
    """
    weights = np.asarray(weights, float)
    high = max(float(weights.max()), LEAST)
    low = max(float(weights.min()), FLOOR / len(weights))
    return min(low, high), high


def colours_of(weights: np.ndarray, limits: tuple[float, float] | None = None) -> list[Colour]:
    """Colours by the logarithm of the weights, between `limits`, by default theirs."""
    low, high = np.log(limits or weight_limits(weights))
    scaled = np.clip(np.log(np.maximum(weights, LEAST)), low, high)
    return ramp_colours((scaled - low) / (high - low) if high > low else np.ones(len(weights)))


def ramp_colours(shares: np.ndarray, ramp: np.ndarray = RAMP) -> list[Colour]:
    """Colours at positions 0..1 of a ramp."""
    at = np.linspace(0, 1, len(ramp))
    mixed = np.stack([np.interp(shares, at, channel) for channel in ramp.T], axis=1).round().astype(int)
    return [(red, green, blue) for red, green, blue in mixed.tolist()]


STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # between ticks on a cosine scale

MOST_STEPS = 8


@dataclass(frozen=True)
class Scale:
    """A colour scale from the first of its ascending `ticks` to the last; values outside get the colour of that end."""

    name: str
    ticks: tuple[float, ...]
    words: tuple[str, ...]  # label of each tick
    ramp: np.ndarray
    logarithmic: bool = False

    def share(self, values: np.ndarray) -> np.ndarray:
        """Position 0..1 on the scale of each of the (N,) values."""
        values, ends = np.asarray(values, float), np.array([self.ticks[0], self.ticks[-1]])
        if self.logarithmic:
            values, ends = np.log(np.maximum(values, LEAST)), np.log(ends)
        return np.asarray(np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1))

    def colours(self, values: np.ndarray) -> list[Colour]:
        return ramp_colours(self.share(values), self.ramp)


def coverage_scale(similarity: np.ndarray, below: float = 0.01) -> Scale:
    """Scale for cosines (N,). The lowest fraction `below` may lie below it, so that outliers do not cost contrast."""
    similarity = np.asarray(similarity, float)
    low, high = float(np.percentile(similarity, 100 * below)), float(similarity.max())
    step = next((step for step in STEPS if high - low <= MOST_STEPS * step), STEPS[-1])
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    ticks = [round(step * number, 2) for number in range(min(first, last - 1), last + 1)]
    decimals = 2 if step < 0.1 else 1
    words = [f"{tick:.{decimals}f}" for tick in ticks]
    if similarity.min() < ticks[0] - 1e-3:  # twice the rounding error of float16
        words[0] = f"< {words[0]}"
    return Scale("cosine to the nearest kept patch", tuple(ticks), tuple(words), VIRIDIS)


def weight_scale(weights: np.ndarray) -> Scale:
    """Logarithmic scale for weights (K,): few patches represent much of the tissue, many represent little. Weights
    of zero, which fitting may give, lie below it.
    """
    weights = np.asarray(weights, float)
    some = weights[weights > LEAST] if (weights > LEAST).any() else np.array([LEAST])
    high = min(float(some.max()), 1.0)
    low = min(float(some.min()), 0.5)  # a scale needs two ends, even if one patch represents all
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) <= 3 else (1,)
    marks = [step * 10.0**power for power in powers for step in steps]
    first = max(mark for mark in marks if mark <= low * 1.000001)
    last = min((mark for mark in marks if mark >= high * 0.999999 and mark > first * 1.1), default=10 * first)
    ticks = tuple(mark for mark in marks if first <= mark <= last)
    words = [f"{100 * tick:.6g} %" for tick in ticks]
    if weights.min() < first * 0.999999:
        words[0] = f"< {words[0]}"
    return Scale("weight: share in the slide's mean, logarithmic", ticks, tuple(words), RAMP, logarithmic=True)


OPACITY = 0.6


PALE = 0.85  # lightness, 0..1, behind a legend's colours if nothing is tinted


LUMA = np.array([0.299, 0.587, 0.114])


def squares(coords: np.ndarray, side: float, slide: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 4) int left, upper, right, lower px of patches on a map of the slide of `size` (width, height) px.

    Neighbours share edges; boxes are at least 1 px wide and lie on the map. `coords` (N, 2), `side` and `slide`
    (width, height) are in level-0 px.
    """
    scale, places = np.array(size) / slide, np.asarray(coords, float)
    upper_left = np.clip(np.rint(places * scale), 0, np.array(size) - 1)
    lower_right = np.clip(np.rint((places + side) * scale), upper_left + 1, size)
    return np.hstack([upper_left, lower_right]).astype(int)


def tinted(pixels: np.ndarray, boxes: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Colour the (N, 4) `boxes` of (H, W, 3) uint8 pixels; only the lightness of the pixels shows through."""
    image = pixels.copy()
    for (left, upper, right, lower), colour in zip(boxes.tolist(), colours, strict=True):
        part = pixels[upper:lower, left:right]
        image[upper:lower, left:right] = over(part @ LUMA, colour)
    return image


def over(lightness: np.ndarray, colour: Colour) -> np.ndarray:
    """Blend `colour` over lightness (...) 0..255; returns (..., 3) uint8."""
    mixed = OPACITY * np.array(colour, float) + (1 - OPACITY) * np.asarray(lightness)[..., None]
    return np.asarray(np.rint(mixed), np.uint8)


def ground(pixels: np.ndarray, boxes: np.ndarray) -> float:
    """Mean lightness 0..255 under the `boxes`, so that a legend shows the colours as on the map."""
    if not len(boxes):
        return 255 * PALE
    means = [float((pixels[upper:lower, left:right] @ LUMA).mean()) for left, upper, right, lower in boxes.tolist()]
    return float(np.mean(means))


def as_seen(colour: Colour, lightness: float) -> Colour:
    """A colour as it appears over tissue of this mean lightness."""
    red, green, blue = over(np.array(lightness), colour).tolist()
    return red, green, blue
