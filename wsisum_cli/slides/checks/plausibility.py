"""Whether what is read can be the slide: its colours, and each lower level beside level 0.

Levels are compared at a few spots, those with the most structure among tiles spread over each level. Limits were set on
slides of five scanners, H&E and immunohistochemistry, and on the same slides coloured anew in 13 other stains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from wsisum_cli.errors import ColourError, TileError
from wsisum_cli.slides.checks.repair import assemble
from wsisum_cli.slides.checks.stains import Stain, measure_stain
from wsisum_cli.slides.jpeg import components_look_rgb
from wsisum_cli.slides.patches import Reading, cut_patch
from wsisum_cli.slides.pixels import aligned, from_ycbcr, shrunk, to_ycbcr
from wsisum_cli.slides.pyramid import Level, Pyramid

Spot = tuple[float, float]  # x, y of a centre in level-0 px
Converter = Callable[[np.ndarray], np.ndarray]

SAMPLED = 32  # tiles of a level that are looked at
SPOTS = 3  # that each level offers
COMPARED = 8  # at most, of which two levels are compared
SIDE = 64  # px of the lower level that a spot spans
CELL = 8  # px a side that are averaged before colours are compared
FINE_SIDE = 256  # px of level 0 at a spot, in which nuclei can be told from what is around them

#: Relative difference of a level's scale in x and y, where it is more than rounding to whole px.
MAX_SKEW, ROUNDING = 0.01, 1.5
#: Mean grey levels between cells. Below the first, levels agree; past the last, they do not, whatever the cause.
SAME_COLOUR, OTHER_CONTENT, OTHER_COLOUR = 3.0, 10.0, 40.0
SAME_TINT = 1.1  # the same between cells less their brightness; real levels differ by up to 1.03
EXPLAINED = 0.7  # share of a difference that is left where exchanged channels account for it
DARKER = 12.0  # grey levels below the lightest cells
ALIKE = 0.5  # correlation of brightness, below which a spot shows something else
FLAT = 5.0  # grey levels of standard deviation, below which a spot shows too little to compare
#: YCbCr shown as RGB: nearly all variance is in the first channel, which glass or pale tissue makes light.
LUMA_SHARE, LIGHT = 0.7, 140.0
#: RGB shown as YCbCr: light areas are magenta, at the end of the range of red and blue.
FULL, WEAK_GREEN, MAGENTA_SHARE = 248, 190, 0.02
CHANNELS = "red, green and blue"


@dataclass(frozen=True)
class Check:
    """What was found of a pyramid."""

    levels: tuple[int, ...]  # that agree with level 0, which is the first
    notes: tuple[str, ...]  # what a person should know; a clause each


@dataclass(frozen=True)
class Sample:
    """A part of a level."""

    left: int  # px of the level
    top: int
    shrink: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Pair:
    """What two levels show at the same spots."""

    lower: np.ndarray  # (N, 3) mean colours of cells
    upper: np.ndarray
    compared: int  # spots that show something
    mismatched: int  # spots at which they show different things


def check_pyramid(pyramid: Pyramid) -> Check:
    """Raises ColourError where level 0 cannot have the colours of a slide."""
    samples = [list(sample_level(pyramid, index)) for index in range(len(pyramid.levels))]
    spots = [find_spots(pyramid.levels[index], found) for index, found in enumerate(samples)]
    fault = transform_fault(as_cells([sample.pixels for sample in samples[0]]))
    if fault:
        raise colour_error(pyramid, f"level 0 shows {fault}")
    good, notes = [0], list(pyramid.notes)
    for index in range(1, len(pyramid.levels)):
        why = disagreement(pyramid, index, good[-1], choose_spots(spots, index, good[-1]))
        if why is None:
            good.append(index)
        else:
            notes.append(f"level {index} is not used: {why}")
    stain = measure_fine(pyramid, choose_spots(spots, good[-1], 0))
    odd = stain.note() if stain is not None else None
    return Check(tuple(good), (*notes, *([odd] if odd else [])))


def colour_error(pyramid: Pyramid, why: str) -> ColourError:
    return ColourError(
        f"{pyramid.path.name}: expected the colours of a stained slide, found that {why}; "
        "open the file in a viewer, and export it anew if it looks the same there"
    )


# --- where to look


def sample_level(pyramid: Pyramid, index: int) -> Iterator[Sample]:
    """Up to `SAMPLED` tiles spread over a level, decoded as small as can be; several together where they are low."""
    level = pyramid.levels[index]
    shrink = level.shrinks()[0]
    width, height = (side * -(-2 * SIDE // side) for side in (level.tile_width, level.tile_height))
    columns, rows = -(-level.width // width), -(-level.height // height)
    for number in np.unique(np.linspace(0, columns * rows - 1, min(SAMPLED, columns * rows)).round().astype(int)):
        left, top = int(number % columns) * width, int(number // columns) * height
        extent = min(width, level.width - left), min(height, level.height - top)
        if min(extent) >= shrink:
            shape = extent[1] // shrink, extent[0] // shrink
            found = assemble(pyramid, index, (left, top, shape[1] * shrink, shape[0] * shrink), shape)
            if found.stored:  # what cannot be read is counted where it is needed
                yield Sample(left, top, shrink, found.pixels)


def find_spots(level: Level, samples: list[Sample]) -> list[Spot]:
    """Centres of the windows with the most structure, at most one a sample."""
    found = []
    for sample in samples:
        best = most_structure(sample.pixels, max(1, SIDE // sample.shrink))
        if best is not None:
            deviation, x, y = best
            spot = (sample.left + x * sample.shrink, sample.top + y * sample.shrink)
            found.append((deviation, (spot[0] * level.downsample, spot[1] * level.downsample)))
    return [spot for _, spot in sorted(found, reverse=True)[:SPOTS]]


def most_structure(pixels: np.ndarray, side: int) -> tuple[float, float, float] | None:
    """Standard deviation of the liveliest square of `side` px, and x, y of its centre."""
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    if not rows or not columns:
        return None
    grey = pixels[: rows * side, : columns * side].astype(np.float32).mean(axis=2)
    deviation = grey.reshape(rows, side, columns, side).std(axis=(1, 3))
    row, column = np.unravel_index(int(deviation.argmax()), deviation.shape)
    return float(deviation.max()), (int(column) + 0.5) * side, (int(row) + 0.5) * side


def choose_spots(spots: list[list[Spot]], lower: int, upper: int) -> list[Spot]:
    """Those of both levels first, then of the others."""
    others = [index for index in range(len(spots)) if index not in (lower, upper)]
    ordered = [spot for index in dict.fromkeys((lower, upper, *others)) for spot in spots[index]]
    return ordered[:COMPARED]


# --- two levels beside each other


def disagreement(pyramid: Pyramid, lower: int, upper: int, spots: list[Spot]) -> str | None:
    """What makes a level unfit to stand for a finer one that is good. Raises ColourError where that one is wrong."""
    if is_skewed(pyramid.levels[0], pyramid.levels[lower]):
        return "it is not level 0 reduced alike in x and y"
    pair = compare(pyramid, lower, upper, spots)
    if spots and not len(pair.lower):
        return "nothing of it can be read where it was to be compared"
    difference = mean_difference(pair.lower, pair.upper)
    cause = exchange(pair)
    if cause is not None:
        stain = measure_fine(pyramid, spots)
        if not transform_fault(pair.lower) and not (stain is not None and stain.is_like_he):
            raise colour_error(pyramid, f"level {lower} has the colours of level {upper} with {cause}: one is wrong")
        return f"its colours are those of level {upper} with {cause}"
    if difference > OTHER_COLOUR:
        return f"its colours differ from those of level {upper} by {difference:.0f} grey levels"
    if pair.mismatched >= min(2, max(1, pair.compared)):
        return f"it shows something else than level {upper} at {pair.mismatched} of {pair.compared} spots"
    return None


def is_skewed(first: Level, level: Level) -> bool:
    x, y = first.width / level.width, first.height / level.height
    scale = (x + y) / 2
    by_rounding = max(abs(level.width - first.width / scale), abs(level.height - first.height / scale)) <= ROUNDING
    return not by_rounding and abs(x / y - 1) > MAX_SKEW


def compare(pyramid: Pyramid, lower: int, upper: int, spots: list[Spot]) -> Pair:
    """Spots that cannot be read are left out."""
    pairs = [pair for spot in spots if (pair := windows(pyramid, lower, upper, spot)) is not None]
    pairs = [aligned(*pair) for pair in pairs]
    shown = [shows_other(*pair) for pair in pairs]
    lowers, uppers = as_cells([pair[0] for pair in pairs], CELL), as_cells([pair[1] for pair in pairs], CELL)
    return Pair(lowers, uppers, sum(other is not None for other in shown), sum(other is True for other in shown))


def windows(pyramid: Pyramid, lower: int, upper: int, spot: Spot) -> tuple[np.ndarray, np.ndarray] | None:
    """The same square of two levels, both as px of the lower."""
    level = pyramid.levels[lower]
    side = min(SIDE, level.width, level.height)
    extent = side * level.downsample
    try:
        return window(pyramid, lower, spot, extent, side), window(pyramid, upper, spot, extent, side)
    except TileError:
        return None


def window(pyramid: Pyramid, index: int, spot: Spot, extent: float, side: int) -> np.ndarray:
    """(side, side, 3) of the square of `extent` level-0 px around a spot. Raises TileError."""
    level = pyramid.levels[index]
    fits = [s for s in level.shrinks() if s * level.downsample * side <= extent * (1 + 1e-6)]
    shrink = fits[0] if fits else 1
    scale = level.downsample * shrink
    tile = (level.tile_width // shrink, level.tile_height // shrink)
    as_read = max(1, round(extent / scale))
    reading = Reading(index, shrink, scale, as_read, side, *tile, level.width // shrink, level.height // shrink)
    x, y = (max(0, round(at - extent / 2)) for at in spot)
    return cut_patch(reading, x, y, lambda at: pyramid.tile(index, *at, shrink))


def shows_other(lower: np.ndarray, upper: np.ndarray) -> bool | None:
    """Whether two squares show different things; None where neither shows enough to tell."""
    difference = mean_difference(as_cells([lower], CELL), as_cells([upper], CELL))
    a, b = (shrunk(pixels, 2).astype(np.float64).mean(axis=2).ravel() for pixels in (lower, upper))
    if max(a.std(), b.std()) < FLAT:
        return None if difference < OTHER_CONTENT else True
    if min(a.std(), b.std()) < 1e-3:
        return difference > OTHER_CONTENT
    return difference > OTHER_CONTENT and float(np.corrcoef(a, b)[0, 1]) < ALIKE


def exchange(pair: Pair) -> str | None:
    """What was done to the colours of one level and not of the other, in words; None where nothing of the kind was."""
    tints = tinted(pair)
    orders = {f"{CHANNELS} in the order {order}": tints.upper[:, list(order)] for order in permutations(range(3))}
    spaces = {"YCbCr shown as RGB": ycbcr(pair.upper, to_ycbcr), "RGB shown as YCbCr": ycbcr(pair.upper, from_ycbcr)}
    return explained(pair, spaces, SAME_COLOUR) or explained(tints, orders, SAME_TINT)


def explained(pair: Pair, causes: Mapping[str, np.ndarray], same: float) -> str | None:
    """The cause that turns the colours of the upper level into those of the lower, which are farther than `same`."""
    difference = mean_difference(pair.lower, pair.upper)
    left = {cause: mean_difference(pair.lower, changed) for cause, changed in causes.items()}
    best = min(left, key=lambda cause: left[cause])
    return best if difference > same and left[best] < EXPLAINED * difference else None


def tinted(pair: Pair) -> Pair:
    """The cells darker than glass, less their brightness, so that colours weigh and not what focus and scale change."""
    grey = np.minimum(pair.lower.mean(axis=1), pair.upper.mean(axis=1))
    dark = grey < (np.percentile(grey, 98) - DARKER if len(grey) else 0)
    lower, upper = (cells[dark] - cells[dark].mean(axis=1, keepdims=True) for cells in (pair.lower, pair.upper))
    return replace(pair, lower=lower, upper=upper)


def ycbcr(cells: np.ndarray, convert: Converter) -> np.ndarray:
    return np.asarray(convert(cells.round().astype(np.uint8)[None])[0], np.float32) if len(cells) else cells


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean()) if len(one) else 0.0


def as_cells(images: list[np.ndarray], side: int = 1) -> np.ndarray:
    """(N, 3) float32: the mean colours of squares of `side` px, of all images."""
    cells = [shrunk(pixels, side).reshape(-1, 3) for pixels in images if pixels.size]
    return np.concatenate(cells).astype(np.float32) if cells else np.empty((0, 3), np.float32)


# --- colours


def transform_fault(colours: np.ndarray) -> str | None:
    """What (N, 3) colours of a level show instead of RGB, in words; None where they can be a slide's."""
    if not len(colours):
        return None
    variance = colours.var(axis=0)
    luma = variance[0] > LUMA_SHARE * variance.sum()
    light = float(np.percentile(colours[:, 0], 99)) > LIGHT
    if luma and light and components_look_rgb(colours) is False:
        return "YCbCr as if it were RGB"
    red, green, blue = colours.T
    magenta = (red >= FULL) & (blue >= FULL) & (green <= WEAK_GREEN)
    return "RGB as if it were YCbCr" if magenta.mean() > MAGENTA_SHARE else None


def measure_fine(pyramid: Pyramid, spots: list[Spot]) -> Stain | None:
    """The stain of level 0 at the spots; None where too little is stained."""
    found = [fine for spot in spots if (fine := fine_window(pyramid, spot)) is not None]
    return measure_stain(found) if found else None


def fine_window(pyramid: Pyramid, spot: Spot) -> np.ndarray | None:
    side = min(FINE_SIDE, pyramid.levels[0].width, pyramid.levels[0].height)
    try:
        return window(pyramid, 0, spot, side, side)
    except TileError:
        return None
