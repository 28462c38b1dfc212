"""The verdict on a summary: PASS, REVIEW or FAIL.

Two questions are answered apart, and the worse answer is the verdict. *Representative*: how much of the tissue do the
kept patches represent, and how large is the largest region that they do not? *Well chosen*: are the patches better than
random draws of as many? Both answers never get worse when a patch is added to nested picks. A third question, whether
the file is intact, is for `wsisum_cli.verification`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsisum_cli.errors import UsageError
from wsisum_cli.quality.random_draws import FEWER, Draws
from wsisum_cli.quality.represented import share_curve
from wsisum_cli.selection.budget import coverage_curve
from wsisum_cli.selection.prefixes import Prefixes

VERDICTS = (PASS, REVIEW, FAIL) = ("PASS", "REVIEW", "FAIL")

#: Limits of the verdict: where a figure passes, and past which it fails. `represented`: share of the tissue.
#: `largest_mm2`: the largest unrepresented region. `chance`: percentile among random draws of as many patches.
LIMITS: dict[str, tuple[float, float]] = {"represented": (0.9, 0.7), "largest_mm2": (1.0, 10.0), "chance": (99, 95)}
#: Figures that a user may ask a value of.
VALUES = ("coverage", "coverage_p05", "coverage_min", "weighted_cosine", "composition")
#: Figures for which lower is better.
DISTANCES = {"composition", "largest_mm2"}
#: Figures that differ by less are equal: they were summed in another order.
EQUAL = 1e-5
#: Fewer patches than this beat at most `HARDLY` percent of random draws: one or two good ones say little of the rest.
FEW, HARDLY = 8, 98
#: Coverage below which patches are not all the same.
ALL_ALIKE = 0.999


@dataclass(frozen=True)
class Thresholds:
    """`limits`: as `LIMITS`. `values`: figure of `VALUES` -> value that it must reach, or for a distance not exceed;
    empty by default, since cosines depend on the encoder.
    """

    limits: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(LIMITS))
    values: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"limits": {name: list(pair) for name, pair in self.limits.items()}, "values": dict(self.values)}


@dataclass(frozen=True)
class Chance:
    """How the patches compare with random draws: the best of the numbers of patches at which draws were made.

    `keep` is that number, and `percentile` the share of draws, in percent, that are not better there: in coverage and
    in represented tissue, the lower of the two. `alike`: all draws have the same coverage, so that no choice matters.
    """

    percentile: int
    keep: int
    alike: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {"percentile": self.percentile, "keep": self.keep, "alike": self.alike}


@dataclass(frozen=True)
class LeftOut:
    """Tissue that the slide shows, and that a mask or given features leave out.

    `share` is of all tissue; None where nobody measured it. `at_most`: the figures are upper bounds. `masked`: a mask
    chose the tissue, so that the summary stands for that part alone.
    """

    share: float | None
    largest_mm2: float = 0.0
    masked: bool = False
    at_most: bool = False


@dataclass(frozen=True)
class Figures:
    """What a verdict is reached from.

    `represented`: share of the tissue; None where the file does not say, as before format 1.4. `largest_mm2`: the
    largest unrepresented region. `says_little`: of `likeness`. `chance`: None without draws. `quality`: the figures of
    `VALUES`. `complete`: all tissue is kept. `partial`: the features cover little of the tissue. `left_out`: None
    where the tissue was found in the slide, and all of it has patches.
    """

    represented: float | None
    largest_mm2: float
    says_little: bool
    chance: Chance | None
    quality: Mapping[str, float | None]
    complete: bool = False
    partial: bool = False
    left_out: LeftOut | None = None


@dataclass(frozen=True)
class Verdict:
    """`representative` and `well_chosen` are the two answers, `verdict` the worse of them; `reasons` say what does not
    pass.
    """

    verdict: str
    representative: str
    well_chosen: str
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "representative": self.representative,
            "well_chosen": self.well_chosen,
            "reasons": list(self.reasons),
        }


def judge(figures: Figures, thresholds: Thresholds | None = None) -> Verdict:
    """Reach the verdict."""
    thresholds = thresholds or Thresholds()
    representative = _worst([*_judge_represented(figures, thresholds), *_judge_values(figures, thresholds)])
    well_chosen = _worst(_judge_choice(figures, thresholds))
    worst = max(representative[0], well_chosen[0], key=VERDICTS.index)
    return Verdict(worst, representative[0], well_chosen[0], (*representative[1], *well_chosen[1]))


def _worst(answers: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
    """The worst of some answers, and what they say."""
    worst = max((answer for answer, _ in answers), key=VERDICTS.index, default=PASS)
    return worst, [text for _, text in answers]


def _judge_represented(figures: Figures, thresholds: Thresholds) -> list[tuple[str, str]]:
    if figures.represented is None:
        text = "the summary was written before represented tissue was recorded; verify it with --source to measure it"
        return [(REVIEW, text)]
    found = _judge_left_out(figures.left_out, thresholds)
    share, largest = figures.represented, figures.largest_mm2
    counted = ""
    if (missing := counted_left_out(figures.left_out)) is not None:
        share, largest = share * (1 - (missing.share or 0)), max(largest, missing.largest_mm2)
        counted = ", as what the given features leave out counts" if missing.share else ""
    if figures.partial:
        found.append((REVIEW, "the given features cover little of the tissue; the figures are of that part alone"))
    if figures.says_little and not figures.complete:
        text = "adjacent patches are hardly more alike than random ones: the features say little about this slide"
        found.append((REVIEW, text))
    answer, wanted = _place(share, thresholds.limits["represented"])
    if answer != PASS:
        text = f"{percent(share)} of the tissue is represented{counted}; {asks_for(answer)} {percent(wanted)}"
        found.append((answer, text))
    answer, wanted = _place(-largest, tuple(-limit for limit in thresholds.limits["largest_mm2"]))
    if answer != PASS:
        shown = np.ceil(largest * 100) / 100  # rounded up: what exceeds a limit is never printed as the limit
        text = f"the largest unrepresented area is {shown:g} mm²; {asks_for(answer)} at most {-wanted:g} mm²"
        found.append((answer, text))
    return found


def counted_left_out(left_out: LeftOut | None) -> LeftOut | None:
    """What is left out where it counts as tissue that nothing represents: all that nobody chose to leave out."""
    counts = left_out is not None and left_out.share is not None and not (left_out.masked or left_out.at_most)
    return left_out if counts else None


def _judge_left_out(left_out: LeftOut | None, thresholds: Thresholds) -> list[tuple[str, str]]:
    """REVIEW where a mask leaves out more than may be unrepresented, or perhaps does."""
    if left_out is None or counted_left_out(left_out) is not None:
        return []
    by = "the mask leaves" if left_out.masked else "the given features leave"
    if left_out.share is None:
        return [(REVIEW, f"the file does not say how much tissue {by} out; verify it with --source to measure it")]
    most, largest = 1 - thresholds.limits["represented"][0], thresholds.limits["largest_mm2"][0]
    if left_out.share <= most + EQUAL and left_out.largest_mm2 <= largest + EQUAL:
        return []
    missing = percent_up(left_out.share)
    if left_out.at_most:
        return [(REVIEW, f"{by} out up to {missing} of the tissue; verify the file with --source to measure it")]
    return [
        (REVIEW, f"{by} out {missing} of the tissue that the slide shows; the figures are of the masked part alone")
    ]


def _judge_values(figures: Figures, thresholds: Thresholds) -> list[tuple[str, str]]:
    found = []
    for name, wanted in thresholds.values.items():
        value = figures.quality.get(name)
        if value is not None and (value > wanted if name in DISTANCES else value < wanted):
            found.append((FAIL, f"{name} is {value:.4f}; you asked for {wanted:g}"))
    return found


def _judge_choice(figures: Figures, thresholds: Thresholds) -> list[tuple[str, str]]:
    chance = figures.chance
    if figures.complete or figures.represented is None:  # which is a reason for REVIEW already
        return []
    if chance is None:
        return [(REVIEW, "there are no random draws to compare with")]
    if chance.alike:
        return [(REVIEW, "every random draw has the same coverage: the features do not tell patches apart")]
    answer, _ = _place(chance.percentile, thresholds.limits["chance"])
    if answer == PASS:
        return []
    words = "no better than" if answer == FAIL else "hardly better than"
    text = f"the patches are {words} random ones: they beat at most {chance.percentile} % of random draws of as many"
    return [(answer, text)]


def _place(value: float, limits: Sequence[float]) -> tuple[str, float]:
    """The answer to a figure for which higher is better, and the limit that it does not reach."""
    passes, fails = limits
    if value >= passes - EQUAL:
        return PASS, passes
    return (REVIEW, passes) if value >= fails - EQUAL else (FAIL, fails)


def asks_for(answer: str) -> str:
    return "PASS needs" if answer == REVIEW else "REVIEW needs"


def percent(share: float) -> str:
    """A share in percent, rounded down: what does not reach a limit is never printed as the limit."""
    return f"{floored(share) * 100:.1f} %".replace(".0 %", " %")


def percent_up(share: float) -> str:
    """A share in percent, rounded up, of what is missing."""
    return percent(1 - floored(1 - share))


def floored(share: float) -> float:
    """A share rounded down to a tenth of a percent."""
    return float(np.floor(share * 1000 + 1e-6) / 1000)


def area(mm2: float) -> str:
    """An area in mm², with two digits that matter."""
    return f"{mm2:.1f} mm²" if mm2 >= 1 else f"{mm2:.2g} mm²"


def compare_with_chance(prefixes: Prefixes, cosine: float | None, draws: Draws, keep: int) -> Chance | None:
    """Compare the first `keep` picks with random draws. `cosine`: at which patches are alike; None: unknown.

    The best number of patches counts, among those at which every summary has draws, so that the answer cannot get worse
    when patches are added: picks that once beat chance are not chosen worse because more follow. None without draws.
    """
    curves = {"coverage": coverage_curve(prefixes, keep)}
    if cosine is not None and "represented" in draws.figures:
        curves["represented"] = share_curve(prefixes, keep, cosine)
    every = int(prefixes.patch[-1]) + 1

    def beaten(number: int) -> int:
        most = 100 if number >= FEW or number == every else HARDLY
        found = (percentile(float(curve[number - 1]), draws.exactly(name, number)) for name, curve in curves.items())
        return min(most, *found)

    found = [(beaten(number), number) for number in draws.keep if number <= keep and number in (*FEWER, every)]
    if not found:
        return None
    best, number = max(found)
    quantiles = draws.exactly("coverage", draws.keep[0])
    alike = bool(quantiles[0] == quantiles[-1] and float(curves["coverage"][-1]) < ALL_ALIKE)
    return Chance(best, number, alike and every > 1)


def percentile(value: float, quantiles: np.ndarray) -> int:
    """Percentage of draws that are not better, in whole percent, from their `quantiles` (101,)."""
    return max(int(np.searchsorted(quantiles, value + EQUAL, side="right")) - 1, 0)


def read_thresholds(texts: Iterable[str]) -> Thresholds:
    """Parse texts such as `represented=0.95/0.8`, a limit, and `coverage>=0.9`, a value. Raises UsageError."""
    limits, values = dict(LIMITS), {}
    for text in texts:
        pair = re.fullmatch(r"(\w+)=([\d.]+)(?:/([\d.]+))?", text)
        value = re.fullmatch(r"(\w+)(>=|<=)([\d.]+)", text)
        try:
            if pair is not None and pair[1] in LIMITS:
                limits[pair[1]] = _read_limits(pair[1], float(pair[2]), float(pair[3] or pair[2]))
            elif value is not None and value[1] in VALUES and (value[2] == "<=") == (value[1] in DISTANCES):
                values[value[1]] = float(value[3])
            else:
                raise ValueError
        except ValueError:
            raise UsageError(
                f"--threshold {text}: expected NAME=PASS/FAIL, such as represented=0.95/0.8, largest_mm2=0.5/4 or "
                f"chance=99/95, or a value, such as 'coverage>=0.9' or 'composition<=0.2'; names of values are "
                f"{', '.join(VALUES)}"
            ) from None
    return Thresholds(limits, values)


def _read_limits(name: str, passes: float, fails: float) -> tuple[float, float]:
    """Raises ValueError for limits in the wrong order or out of range."""
    highest = {"represented": 1.0, "chance": 100.0}.get(name, 1e9)
    ordered = passes <= fails if name in DISTANCES else passes >= fails
    if not ordered or max(passes, fails) > highest:
        raise ValueError
    return passes, fails


def stored_thresholds(stored: Mapping[str, Any]) -> Thresholds:
    """Read thresholds as `Thresholds.as_dict` wrote them. Without limits, before format 1.4, the defaults apply."""
    if stored.get("limits") is None:
        return Thresholds(values={name: value for name, value in stored["values"].items() if name in VALUES})
    limits = {name: (pair[0], pair[1]) for name, pair in stored["limits"].items()}
    return Thresholds({**LIMITS, **limits}, stored["values"])
