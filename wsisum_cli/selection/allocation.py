"""A budget of bytes shared among many slides: how many of its first picks each one keeps.

Greedy by represented area per byte, over the concave hull of each slide's curve: the linear relaxation of the multiple
choice knapsack problem (Sinha and Zoltners, Operations Research 1979), whose optimum bounds every other choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from wsisum_cli.selection.budget import LEAST

Curves = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """What a slide gains and costs with its first 1, 2, ... K picks.

    `gain` (K,), mm² of tissue represented, never falls. `cost` (K,), bytes of the summary, rises.
    """

    gain: Curves
    cost: Curves


@dataclass(frozen=True)
class Allocation:
    """Picks that each slide keeps, what they represent and cost together, and the most that could be represented."""

    keep: list[int]
    gain: float  # mm²
    cost: float  # bytes
    bound: float  # mm²; no choice within the budget represents more


@dataclass(frozen=True)
class Step:
    """From one corner of a slide's hull to the next."""

    slide: int
    start: int  # rows of the curve
    end: int
    gain: float
    cost: float


def allocate(curves: Sequence[Curve], budget: float, least: int = LEAST) -> Allocation | None:
    """Share `budget` bytes; None if `least` picks of each slide, or all it has, cost more.

    A larger budget never represents less. Ties go to the slide that comes first.
    """
    rows = [min(least, len(curve.cost)) - 1 for curve in curves]
    gain = float(sum(curve.gain[row] for curve, row in zip(curves, rows, strict=True)))
    cost = float(sum(curve.cost[row] for curve, row in zip(curves, rows, strict=True)))
    if cost > budget:
        return None
    steps = [step for slide, curve in enumerate(curves) for step in hull_steps(slide, curve, rows[slide])]
    for step in sorted(steps, key=lambda step: (-step.gain / step.cost, step.slide, step.start)):
        if cost + step.cost <= budget:
            rows[step.slide], gain, cost = step.end, gain + step.gain, cost + step.cost
            continue
        bound = gain + step.gain * (budget - cost) / step.cost
        curve, before = curves[step.slide], rows[step.slide]
        after = last_within(curve, before, step.end, budget - cost)
        rows[step.slide] = after
        gain, cost = gain + curve.gain[after] - curve.gain[before], cost + curve.cost[after] - curve.cost[before]
        return Allocation([row + 1 for row in rows], gain, cost, bound)
    return Allocation([row + 1 for row in rows], gain, cost, gain)


def last_within(curve: Curve, start: int, end: int, room: float) -> int:
    """The fewest picks that gain as much as any between `start` and `end` for at most `room` more bytes; as rows."""
    fitting = start + np.flatnonzero(curve.cost[start : end + 1] - curve.cost[start] <= room)
    return int(fitting[np.argmax(curve.gain[fitting])])


def hull_steps(slide: int, curve: Curve, start: int) -> Iterator[Step]:
    """The rising part of the upper concave hull of a curve from a row on; each step gains less per byte."""
    corners: list[int] = []
    for row in range(start, len(curve.cost)):
        while len(corners) > 1 and is_below(curve, corners[-2], corners[-1], row):
            corners.pop()
        corners.append(row)
    for first, last in pairwise(corners):
        gain, cost = curve.gain[last] - curve.gain[first], curve.cost[last] - curve.cost[first]
        if gain > 0:
            yield Step(slide, first, last, float(gain), float(cost))


def is_below(curve: Curve, first: int, middle: int, last: int) -> bool:
    """Whether the middle row lies on or below the line from the first to the last."""
    gain, cost = curve.gain, curve.cost
    rises = (gain[middle] - gain[first]) * (cost[last] - cost[first])
    return bool(rises <= (gain[last] - gain[first]) * (cost[middle] - cost[first]))
