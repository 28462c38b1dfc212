"""The same tissue as other stains show it: haematoxylin and eosin are taken apart and given other colours.

Every recolouring takes and gives (H, W, 3) uint8 RGB. Glass stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from spoil import HE, as_image

Image = NDArray[np.uint8]
Recolouring = Callable[[Image], Image]

WHITE = 245.0

#: Optical densities of red, green and blue, as a unit of stain has them: Ruifrok and Johnston (2001), and Landini's
#: colour deconvolution for ImageJ.
STAINS = {
    "haematoxylin": (0.650, 0.704, 0.286),
    "eosin": (0.072, 0.990, 0.105),
    "dab": (0.268, 0.570, 0.776),
    "light green": (0.947, 0.254, 0.197),
    "methyl green": (0.980, 0.144, 0.133),
    "methylene blue": (0.835, 0.514, 0.196),
    "schiff": (0.175, 0.972, 0.155),
    "alcian blue": (0.875, 0.458, 0.158),
    "aniline blue": (0.800, 0.591, 0.105),
    "ponceau": (0.100, 0.737, 0.668),
    "fast red": (0.214, 0.851, 0.478),
    "orange g": (0.107, 0.368, 0.924),
    "silver": (0.590, 0.575, 0.567),
    "iron haematoxylin": (0.560, 0.590, 0.580),
    "prussian blue": (0.850, 0.480, 0.220),
    "congo red": (0.130, 0.830, 0.540),
}


def recoloured(image: Image, nuclei: tuple[str, float], rest: tuple[str, float]) -> Image:
    """The stains in place of haematoxylin and of eosin, each with how much of it."""
    density = -np.log10(np.maximum(image.astype(np.float32), 1) / WHITE)
    amount = np.maximum(density @ np.linalg.inv(HE).astype(np.float32), 0)
    vectors = np.array([np.multiply(STAINS[name], strength) for name, strength in (nuclei, rest)], np.float32)
    light = WHITE * 10 ** -(amount[..., :2] @ vectors)
    return as_image(np.where((density <= 0).all(axis=2, keepdims=True), image, light))


#: By name: what stains nuclei, what stains the rest, and how strongly beside haematoxylin and eosin.
RECOLOURINGS: dict[str, Recolouring] = {
    name: partial(recoloured, nuclei=nuclei, rest=rest)
    for name, (nuclei, rest) in {
        "light green": (("light green", 1.0), ("light green", 1.0)),
        "methyl green": (("methyl green", 1.0), ("methyl green", 0.6)),
        "silver": (("silver", 1.2), ("silver", 0.8)),
        "reticulin": (("silver", 0.4), ("silver", 1.0)),
        "grocott": (("silver", 0.8), ("light green", 0.8)),
        "goldner": (("iron haematoxylin", 1.0), ("light green", 1.0)),
        "masson": (("iron haematoxylin", 1.0), ("aniline blue", 1.0)),
        "van gieson": (("iron haematoxylin", 1.0), ("ponceau", 0.8)),
        "pale ihc": (("haematoxylin", 0.5), ("haematoxylin", 0.2)),
        "negative ihc": (("haematoxylin", 0.6), ("dab", 0.15)),
        "dab all over": (("dab", 2.0), ("dab", 2.0)),
        "ihc": (("haematoxylin", 1.0), ("dab", 1.0)),
        "giemsa": (("methylene blue", 1.0), ("eosin", 0.6)),
        "pas": (("haematoxylin", 0.8), ("schiff", 0.8)),
        "alcian blue": (("fast red", 0.6), ("alcian blue", 0.7)),
        "perls": (("fast red", 0.8), ("prussian blue", 0.5)),
        "pale fat": (("haematoxylin", 0.35), ("eosin", 0.35)),
    }.items()
}
