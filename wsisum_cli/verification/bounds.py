"""Figures of features that a summary does not hold -> findings: bounds that follow from those that it does hold.

Of every tissue patch the cosine to its representative is stored, and the representatives' features are. Angles between
vectors add up at most, so both bound the cosine of any two tissue patches. The yardstick and the random draws must lie
within what follows; a forger can still move them inside, which only the slide shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.features.vectors import unit_rows
from wsisum_cli.quality.likeness import FEW_PAIRS, RANDOM_PAIRS, STRICTEST, adjacent, contrast, nearest_places
from wsisum_cli.quality.random_draws import SHARES, Draws
from wsisum_cli.summary.attributes import JpegPixels, Represented
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.writer import ROOT
from wsisum_cli.verification.finding import Finding
from wsisum_cli.verification.kept import tissue_rows

Angles = NDArray[np.float64]
Rows = NDArray[np.integer]

HALF_STEP = 2.0**-11  # by which rounding to float16 changes a cosine at most
TOLERANCE = 5e-3  # of medians and shares: float16 features and other processors
NOISE = 0.02  # of medians of random draws, which are few
TRIMMED = 0.03  # more for summaries that were cut: features of the pixels cut off are gone
DRAWN, SEED = 96, 0  # random draws whose bounds are taken
LOWEST = 23  # of these in order; it lies above the median of a thousand draws in less than 1 of 1,000,000 cases
#: Kept patches above which bounds take too long, and tissue patches that those of draws are taken from.
MOST_KEPT, SAMPLED = 2_048, 4_096
MOST_DRAWN, MOST_SIZES = 1_024, 32  # patches of a draw, and numbers of patches, whose bounds are taken
#: Figures that can only rise while a draw gets more patches, each of which is nested in the next.
RISING = ("coverage", "coverage_p05", "coverage_min", "represented")
ROUNDED = 2e-6


@dataclass(frozen=True)
class Angled:
    """Tissue patches as angles, in radians: (N,) to the representative at least and at most, (K, K) between those."""

    least: Angles
    most: Angles
    kept: Angles
    representative: Rows  # (N,)

    def cosines(self, first: Rows, second: Rows) -> tuple[Angles, Angles]:
        """Bounds (P,) of the cosine of each pair of rows: at least and at most."""
        between = self.kept[self.representative[first], self.representative[second]]
        far = between + self.most[first] + self.most[second]
        near = np.maximum.reduce(
            [
                between - self.most[first] - self.most[second],
                self.least[first] - self.most[second],
                self.least[second] - self.most[first],
            ]
        )
        return np.cos(np.minimum(far, np.pi)), np.cos(np.clip(near, 0, np.pi))


def angles_of(summary: Summary, slack: float = 0.0) -> Angled:
    """The angles; `slack` is added for the kept patches, whose features were others before they were stored."""
    units = unit_rows(summary.features)
    similarity = summary.tissue.similarity.astype(np.float64)
    least, most = (np.arccos(np.clip(similarity + step, -1, 1)) for step in (HALF_STEP, -HALF_STEP))
    rows = tissue_rows(summary)
    least[rows], most[rows] = 0.0, slack
    kept = np.arccos(np.clip(units @ units.T, -1, 1))
    np.fill_diagonal(kept, 0.0)
    return Angled(least, most, kept, summary.tissue.representative)


def check_yardstick(summary: Summary) -> Iterator[Finding]:
    """The cosine at which patches count as alike is one that adjacent patches of this tissue can have."""
    stated = summary.record.represented
    if stated is None or len(summary.tissue.coords) < 2 or len(summary.features) > MOST_KEPT:
        return
    places = summary.tissue.coords / summary.record.patch.patch_size_level0
    first, second = adjacent(places)
    pairs = len(first)
    if pairs < FEW_PAIRS:
        first, second, pairs = *nearest_places(places), 0
    if stated.pairs != pairs:
        message = "represented.pairs is not the number of adjacent patches of the tissue map"
        yield Finding("quality-differs", message, ROOT, str(pairs), str(stated.pairs))
        return
    tissue, most = angles_of(summary, loss_angle(summary)), TOLERANCE + trimmed(summary)
    low, high = (float(np.median(bound)) for bound in tissue.cosines(first, second))
    if not min(low, STRICTEST) - most <= stated.cosine <= high + most:
        message = "represented.cosine is none that adjacent patches of this tissue can have"
        yield Finding("quality-differs", message, ROOT, f"{low:.4f} to {high:.4f}", f"{stated.cosine:.4f}")
    yield from check_contrast(tissue, stated, first, second, most)


def check_contrast(tissue: Angled, stated: Represented, first: Rows, second: Rows, most: float) -> Iterator[Finding]:
    """How often adjacent patches are more alike than random ones is what this tissue can give."""
    one, other = np.random.default_rng(0).integers(0, len(tissue.least), (2, RANDOM_PAIRS))
    apart = one != other
    near, chance = tissue.cosines(first, second), tissue.cosines(one[apart], other[apart])
    low, high = contrast(near[0], chance[1]), contrast(near[1], chance[0])
    if not low - most <= stated.contrast <= high + most:
        message = "represented.contrast is none that this tissue can have"
        yield Finding("quality-differs", message, ROOT, f"{low:.4f} to {high:.4f}", f"{stated.contrast:.4f}")


def loss_angle(summary: Summary) -> float:
    """The angle, in radians, by which storing pixels anew changed features of kept patches at most."""
    pixels = summary.record.pixels
    cosine = pixels.feature_cosine_min if isinstance(pixels, JpegPixels) else None
    return 0.0 if cosine is None else float(np.arccos(np.clip(cosine, -1, 1)))


def trimmed(summary: Summary) -> float:
    return 0.0 if summary.record.trimmed_from is None else TRIMMED


def check_draws(summary: Summary) -> Iterator[Finding]:
    """Random draws of more patches are no worse, and none are worse than this tissue allows."""
    stated = summary.record.represented
    if summary.record.revision < 4 or stated is None or (draws := summary.draws) is None:
        return
    every = len(summary.tissue.coords)
    yield from check_rising(draws)
    sizes = tuple(number for number in draws.keep if number <= min(MOST_DRAWN, every))[:MOST_SIZES]
    if not sizes or len(summary.features) > MOST_KEPT:
        return
    floors = lowest_draws(angles_of(summary), sizes, stated.cosine)
    for name, lowest in floors.items():
        if name not in draws.figures:
            continue
        for number, floor in zip(sizes, lowest, strict=True):
            median = float(draws.exactly(name, number)[len(SHARES) // 2])
            if median < floor - NOISE - trimmed(summary):
                message = f"{name} of random draws of {number} patches is lower than this tissue allows"
                yield Finding("draws-differ", message, "reference/draws", f"at least {floor:.4f}", f"{median:.4f}")
                return


def check_rising(draws: Draws) -> Iterator[Finding]:
    for name in (name for name in RISING if name in draws.figures):
        quantiles = np.stack([draws.exactly(name, number) for number in draws.keep]).astype(np.float64)
        fallen = np.flatnonzero((np.diff(quantiles, axis=0) < -ROUNDED).any(axis=1))
        if len(fallen):
            fewer, more = draws.keep[fallen[0]], draws.keep[fallen[0] + 1]
            message = f"{name} of random draws of {more} patches is lower than of {fewer}, which they hold"
            yield Finding("draws-differ", message, "reference/draws")
            return


def lowest_draws(tissue: Angled, sizes: tuple[int, ...], alike: float) -> dict[str, list[float]]:
    """A floor for the median of random draws of each size, of coverage and of represented tissue."""
    rng, every = np.random.default_rng(SEED), len(tissue.least)
    sample = np.sort(rng.permutation(every)[:SAMPLED])
    representative, most = tissue.representative[sample], tissue.most[sample]
    coverage, represented = np.empty((len(sizes), DRAWN)), np.empty((len(sizes), DRAWN))
    counts = np.array(sizes)
    for draw in range(DRAWN):
        drawn = rng.permutation(every)[: sizes[-1]]
        reach = tissue.kept[:, tissue.representative[drawn]] + tissue.most[drawn]  # (K, M) to each drawn patch
        nearest = np.minimum.accumulate(reach, axis=1)[:, counts - 1].T  # (S, K) of the first so many
        cosine = np.cos(np.minimum(nearest.take(representative, axis=1) + most, np.pi))
        place = np.full(every, every)
        place[drawn] = np.arange(len(drawn))
        cosine[place[sample] < counts[:, None]] = 1.0  # what is drawn itself
        coverage[:, draw] = cosine.mean(axis=1)
        represented[:, draw] = (cosine >= alike + TOLERANCE).mean(axis=1)  # stored cosines are rounded
    # Not the median of so few draws: it is above that of a thousand half of the time.
    low = {
        name: np.sort(found, axis=1)[:, LOWEST]
        for name, found in (("coverage", coverage), ("represented", represented))
    }
    return {name: found.tolist() for name, found in low.items()}
