"""How people see colours."""

from __future__ import annotations

import numpy as np

from wsisum_cli.figures.colour import LUMA


def lightness(colour: tuple[int, ...]) -> float:
    return float(np.array(colour) @ LUMA)


def oklab(colours: np.ndarray) -> np.ndarray:
    """(N, 3) sRGB 0..255 to Ottosson's space, in which distances are those that people see."""
    linear = np.where(colours <= 10.3, colours / 255 / 12.92, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    cones = [(0.41222, 0.53633, 0.05145), (0.21190, 0.68070, 0.10740), (0.08830, 0.28172, 0.62998)]
    opponents = [(0.21045, 0.79362, -0.00407), (1.97800, -2.42859, 0.45059), (0.02590, 0.78277, -0.80868)]
    return np.asarray(np.cbrt(linear @ np.array(cones).T) @ np.array(opponents).T)
