"""The verdict on a summary from all its figures: PASS, REVIEW or FAIL.

Each figure gets its percentile among random draws of as many patches: the share of draws that are not better. The worst
figure decides the verdict. A figure passes at its first threshold or above, and fails below its second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsisum_cli.errors import UsageError
from wsisum_cli.quality.random_draws import Draws

PASS, REVIEW, FAIL = "PASS", "REVIEW", "FAIL"

#: Percentiles among random draws at which a figure passes, and below which it fails. Only coverage can fail: the mean
#: and embedding of a large uniform draw come close to those of the slide, and no selection can beat that.
PERCENTILES: dict[str, tuple[float, float]] = {
    "coverage": (99, 90),
    "coverage_p05": (99, 50),
    "coverage_min": (90, 25),
    "weighted_cosine": (90, 0),
    "composition": (50, 0),
}
#: Figures that differ by less are equal: they were summed in another order.
EQUAL = 1e-5
#: Coverage below which patches are not all the same.
ALL_ALIKE = 0.999
#: Figures for which lower is better.
DISTANCES = {"composition"}


@dataclass(frozen=True)
class Thresholds:
    """`percentiles`: figure -> (pass at or above, fail below). `values`: figure -> value it must reach, or for a
    distance not exceed, regardless of random draws; empty by default, since cosines depend on the encoder.
    """

    percentiles: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(PERCENTILES))
    values: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "percentiles": {name: list(pair) for name, pair in self.percentiles.items()},
            "values": dict(self.values),
        }


@dataclass(frozen=True)
class Verdict:
    """`percentiles`: figure -> 0..100, None without draws to compare with. `reasons`: why figures do not pass."""

    verdict: str
    percentiles: Mapping[str, int | None]
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "percentiles": dict(self.percentiles), "reasons": list(self.reasons)}


def stored_thresholds(stored: Mapping[str, Any]) -> Thresholds:
    """Read thresholds as `Thresholds.as_dict` wrote them."""
    return Thresholds({name: (pair[0], pair[1]) for name, pair in stored["percentiles"].items()}, stored["values"])


def judge(
    quality: Mapping[str, float | None], draws: Draws, keep: int, thresholds: Thresholds | None = None
) -> Verdict:
    """Judge the figures of `keep` patches, ignoring those that are None."""
    thresholds = thresholds or Thresholds()
    percentiles: dict[str, int | None] = {}
    drawn = draws.number(keep)
    failing: list[str] = []
    doubtful: list[str] = []
    for name, (passes, fails) in thresholds.percentiles.items():
        value, quantiles = quality.get(name), draws.of(name, keep)
        if value is None:
            continue
        found = None if quantiles is None else percentile(value, quantiles, name in DISTANCES)
        percentiles[name] = found
        if found is not None and found < passes:
            # Larger draws score higher, so they can only raise doubts, not fail a figure.
            fair = drawn == keep
            wanted, reasons = (fails, failing) if found < fails and fair else (passes, doubtful)
            of_these = "random draws" if fair else f"random draws of {drawn} patches"
            reasons.append(f"{name} is at percentile {found} of {of_these}, {wanted:g} is asked for")
        elif quantiles is not None and quantiles[0] == quantiles[-1] and name == "coverage" and value < ALL_ALIKE:
            doubtful.append("every random draw has the same coverage: the features tell nothing apart")
        least = thresholds.values.get(name)
        if least is not None and (value > least if name in DISTANCES else value < least):
            failing.append(f"{name} is {value:.4f}, {least:g} is asked for")
    verdict = FAIL if failing else REVIEW if doubtful else PASS
    return Verdict(verdict, percentiles, (*failing, *doubtful))


def percentile(value: float, quantiles: np.ndarray, less_is_better: bool = False) -> int:
    """Percentage of draws that are not better, in whole percent, from their `quantiles` (101,)."""
    value += -EQUAL if less_is_better else EQUAL
    if less_is_better:
        value, quantiles = -value, -quantiles[::-1]
    return max(int(np.searchsorted(quantiles, value, side="right")) - 1, 0)


def read_thresholds(texts: Iterable[str]) -> Thresholds:
    """Parse texts such as `coverage=95/40`, percentiles, and `coverage>=0.9`, a value. Raises UsageError."""
    percentiles, values = dict(PERCENTILES), {}
    for text in texts:
        pair = re.fullmatch(r"(\w+)=([\d.]+)/([\d.]+)", text)
        value = re.fullmatch(r"(\w+)(>=|<=)([\d.]+)", text)
        name = (pair or value or [None, text])[1]
        try:
            if name not in PERCENTILES:
                raise ValueError
            if pair is not None:
                percentiles[name] = (float(pair[2]), float(pair[3]))
                if not 100 >= percentiles[name][0] >= percentiles[name][1] >= 0:
                    raise ValueError
            elif value is not None and (value[2] == "<=") == (name in DISTANCES):
                values[name] = float(value[3])
            else:
                raise ValueError
        except ValueError:
            raise UsageError(
                f"--threshold {text}: expected NAME=PASS/FAIL in percentiles, such as coverage=95/40, or a value, such "
                f"as 'coverage>=0.9' or 'composition<=0.2'; the names are {', '.join(PERCENTILES)}"
            ) from None
    return Thresholds(percentiles, values)
