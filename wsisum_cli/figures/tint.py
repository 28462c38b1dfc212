"""Squares of colour over an overview, through which the tissue shows. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsisum_cli.figures.colours import Colour

OPACITY = 0.6
PALE = 0.85  # lightness, 0..1, on which a legend's colours stand where nothing is tinted
LUMA = np.array([0.299, 0.587, 0.114])


def squares(coords: np.ndarray, side: float, slide: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """(N, 4) int left, upper, right, lower px of patches on a map of `size` (width, height) px of the whole slide.

    Neighbours share their edges; none is thinner than 1 px, and all lie on the map. `coords` (N, 2), `side` and `slide`
    (width, height) are level-0 px.
    """
    scale, places = np.array(size) / slide, np.asarray(coords, float)
    upper_left = np.clip(np.rint(places * scale), 0, np.array(size) - 1)
    lower_right = np.clip(np.rint((places + side) * scale), upper_left + 1, size)
    return np.hstack([upper_left, lower_right]).astype(int)


def tinted(pixels: np.ndarray, boxes: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """(H, W, 3) uint8 with the (N, 4) `boxes` coloured; of their own colours only the lightness shows through."""
    made = pixels.copy()
    for (left, upper, right, lower), colour in zip(boxes.tolist(), colours, strict=True):
        part = pixels[upper:lower, left:right]
        made[upper:lower, left:right] = over(part @ LUMA, colour)
    return made


def over(lightness: np.ndarray, colour: Colour) -> np.ndarray:
    """(..., 3) uint8: `colour` over (...) lightness 0..255."""
    mixed = OPACITY * np.array(colour, float) + (1 - OPACITY) * np.asarray(lightness)[..., None]
    return np.asarray(np.rint(mixed), np.uint8)


def ground(pixels: np.ndarray, boxes: np.ndarray) -> float:
    """Mean lightness 0..255 of what the `boxes` tint: on this a legend shows the colours as the map does."""
    if not len(boxes):
        return 255 * PALE
    means = [float((pixels[upper:lower, left:right] @ LUMA).mean()) for left, upper, right, lower in boxes.tolist()]
    return float(np.mean(means))


def as_seen(colour: Colour, lightness: float) -> Colour:
    """What becomes of a colour over tissue of this mean lightness."""
    red, green, blue = over(np.array(lightness), colour).tolist()
    return red, green, blue
