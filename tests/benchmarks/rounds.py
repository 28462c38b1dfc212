"""Timing of rivals in turns, and ratios with their spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

Work = Callable[[], Any]


@dataclass(frozen=True)
class Spent:
    """Seconds of one round: wall clock, and CPU of this process and all its threads."""

    wall: float
    cpu: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    def __mul__(self, times: float) -> Spent:
        return Spent(self.wall * times, self.cpu * times)


Rounds = Sequence[Spent]


@dataclass(frozen=True)
class Ratio:
    """Median of the ratios of each round, with the least and the greatest of them."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.greatest:.2f})"


def spend(work: Work) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def alternate(works: Mapping[str, Work], rounds: int) -> dict[str, list[Spent]]:
    """Run every work once a round. Each round begins with the next one, so that none always comes first."""
    return alternate_made({name: partial(returned, work) for name, work in works.items()}, rounds)


def returned(work: Work) -> Work:
    return work


def alternate_made(makers: Mapping[str, Callable[[], Work]], rounds: int) -> dict[str, list[Spent]]:
    """The same, of works that are made anew for each round; making them takes no time."""
    names = list(makers)
    found: dict[str, list[Spent]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            work = makers[name]()
            found[name].append(spend(work))
    return found


def seconds(rounds: Rounds, clock: str = "wall") -> list[float]:
    return [float(getattr(spent, clock)) for spent in rounds]


def median(rounds: Rounds, clock: str = "wall") -> float:
    return statistics.median(seconds(rounds, clock))


def ratio(above: Rounds, below: Rounds, clock: str = "wall") -> Ratio:
    """How many times `below` is in `above`, round by round."""
    each = [a / b for a, b in zip(seconds(above, clock), seconds(below, clock), strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))


def added(*parts: Rounds) -> list[Spent]:
    """The sum of each round."""
    return [sum(round_, Spent(0.0, 0.0)) for round_ in zip(*parts, strict=True)]


def scaled(rounds: Rounds, times: float) -> list[Spent]:
    return [spent * times for spent in rounds]
