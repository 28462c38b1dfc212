"""Figures to colours, with ends and ticks that people can read. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wsisum_cli.figures.colours import RAMP, VIRIDIS, Colour, ramp_colours

STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # between ticks of cosines
MOST_STEPS = 8
LEAST = 1e-6  # share of the tissue; less is not told apart


@dataclass(frozen=True)
class Scale:
    """From the first of its `ticks` to the last, which rise; what lies outside has the colour of that end."""

    name: str
    ticks: tuple[float, ...]
    words: tuple[str, ...]  # of each tick
    ramp: np.ndarray
    logarithmic: bool = False

    def share(self, values: np.ndarray) -> np.ndarray:
        """(N,) 0..1: where on the scale each of the (N,) values lies."""
        values, ends = np.asarray(values, float), np.array([self.ticks[0], self.ticks[-1]])
        if self.logarithmic:
            values, ends = np.log(np.maximum(values, LEAST)), np.log(ends)
        return np.asarray(np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1))

    def colours(self, values: np.ndarray) -> list[Colour]:
        return ramp_colours(self.share(values), self.ramp)


def coverage_scale(similarity: np.ndarray, below: float = 0.01) -> Scale:
    """Of cosines (N,). The lowest, this share of all, may lie below it, so that a few do not take the contrast."""
    similarity = np.asarray(similarity, float)
    low, high = float(np.percentile(similarity, 100 * below)), float(similarity.max())
    step = next((step for step in STEPS if high - low <= MOST_STEPS * step), STEPS[-1])
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    ticks = [round(step * number, 2) for number in range(min(first, last - 1), last + 1)]
    decimals = 2 if step < 0.1 else 1
    words = [f"{tick:.{decimals}f}" for tick in ticks]
    if similarity.min() < ticks[0] - 1e-3:  # float16 is off by half of that
        words[0] = f"< {words[0]}"
    return Scale("cosine to the nearest kept patch", tuple(ticks), tuple(words), VIRIDIS)


def weight_scale(weights: np.ndarray) -> Scale:
    """Of shares of the tissue (K,), logarithmic: few patches stand for much of it and many for little. Shares of
    nothing, which fitted weights may be, lie below it.
    """
    weights = np.asarray(weights, float)
    some = weights[weights > LEAST] if (weights > LEAST).any() else np.array([LEAST])
    high = min(float(some.max()), 1.0)
    low = min(float(some.min()), 0.5)  # a scale has two ends, also where one patch stands for all
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
