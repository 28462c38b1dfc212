"""Patches that show no tissue, or none worth keeping: pen, blur, folds, bubbles, bare glass, darkness, broken pixels.

Two steps, arrays in, arrays out. `measure` takes a dozen plain statistics of each patch while its pixels are at hand;
`classify` looks at those of all patches of a slide at once, because what is blurred or thick is so beside the rest of
its slide. No model is asked. The rules spare tissue: what is doubtful is tissue.

Colours are judged by optical density, as in `tissue`: ink lets through other light than any stain, and what has no
colour at all (a black marker, the rim of a bubble) takes the same from all three channels, which no stain does.
Haematoxylin with eosin and haematoxylin with DAB both pass, and so does carbon in a lung.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.errors import BrokenSlideError
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import read_patches
from wsisum_cli.slides.slide import Slide
from wsisum_cli.tissue.grid import Grid

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]
Kinds = NDArray[np.uint8]
Statistics = NDArray[np.float32]

#: Kinds by code; files hold the codes.
KINDS = ("tissue", "pen", "blurred", "fold", "bubble", "blank", "black", "corrupt")
TISSUE, PEN, BLURRED, FOLD, BUBBLE, BLANK, BLACK, CORRUPT = range(len(KINDS))

STATISTICS = (
    *("ink", "soot", "grey", "black"),  # shares of the patch
    *("level", "spread"),  # of the darkest channel: median; range of all but 2 % at either end; grey levels
    *("detail", "focus"),  # contrast of details of 2 µm, grey levels; log2 of its ratio to that of 4 µm
    *("dense_focus", "pale_focus"),  # the latter within the densest third of the patch, and within the palest fifth
    *("red", "green", "blue"),  # optical density of the channel that a third of the patch exceeds, thousandths
    *("seam", "constant"),  # steps at edges of 4 or 8 px blocks over the next largest; share of the patch
)

# Pixel sizes at which things are looked at, µm: details, colours without single nuclei, layers of tissue.
DETAIL_MPP, COLOUR_MPP, LAYER_MPP = 1.0, 4.0, 8.0

# Optical densities in thousandths, as in `tissue`.
GLASS = 245
STAIN, INK = 18, 300
NAVY_INK = 550  # haematoxylin may look like it, but without any gap is paler
FAINTEST_GREY, SOOT = 100, 700
COLOURLESS = 0.25  # most that the highest may be above the lowest, over the lowest
THINNEST = 30
_DENSITIES = (1000 * np.log10((GLASS + 1) / (np.arange(256) + 1.0))).clip(0).astype(np.float32)

# Grey levels.
NIGHT = 24  # darker is no colour
FLAT, BRIGHT = 12, 180  # pale tissue spreads over 20 and more
NOISE = 3  # so much steps differ by without a reason

# Shares of a patch. Blood clots look like red ink up to 0.14, carbon in a lung like soot up to 0.1.
MOST_INK, MOST_SOOT, MOST_GREY, MOST_NIGHT, MOST_CONSTANT = 0.16, 0.3, 0.012, 0.25, 0.05
MOST_SEAM = 1.28  # JPEG of low quality reaches 1.27

# Beside the other patches of the slide.
FEWEST_BESIDE = 16  # patches that a slide's own measure is taken from
MOST_PENNED = 0.5  # a hue that more of the slide has is a stain, as the blue of Masson's trichrome
BLURRED_FOCUS, BLURRED_DETAIL, SMOOTH = -0.75, 0.5, 0.15
DENSE = 90  # percentile of the thickness that counts as one layer of dense tissue
THICK, RATHER_THICK, RATHER_BLURRED = 1.4, 1.05, -0.15
# Beside the dense parts of the slide's other patches, and beside the pale part of the patch itself.
LIFTED, LIFTED_BESIDE_PALE = -0.4, -0.15
DENSEST, PALEST = 1 / 3, 1 / 5


@dataclass(frozen=True)
class Artefacts:
    """The patches of a slide that are none of tissue."""

    coords: NDArray[np.int32]  # (A, 2) x, y in level-0 px
    kind: Kinds  # (A,) codes of `KINDS`, none of them 0
    looked_at: int = 0  # patches that were judged
    ignored: bool = False  # whether they are among the tissue all the same, because too little else was left

    def as_dict(self) -> dict[str, Any]:
        counts = np.bincount(self.kind, minlength=len(KINDS))
        kinds = {name: int(count) for name, count in zip(KINDS, counts, strict=True) if count}
        return {"count": len(self.kind), "kinds": kinds, "looked_at": self.looked_at, "ignored": self.ignored}


NO_ARTEFACTS = Artefacts(np.empty((0, 2), np.int32), np.empty(0, np.uint8))


def kinds_of(patches: Image, mpp: float) -> Kinds:
    """What each of some patches of one slide shows: (B,) codes of `KINDS`; (B, P, P, 3) RGB at `mpp` µm per px."""
    return classify(measure(patches, mpp))


def measure(patches: Iterable[Image], mpp: float) -> Statistics:
    """(B, S) float32, a column for each of `STATISTICS`, of (B, P, P, 3) uint8 RGB patches at `mpp` µm per px."""
    rows = [_measure(patch, mpp) for patch in patches]
    return np.array(rows, np.float32).reshape(len(rows), len(STATISTICS))


def classify(statistics: Statistics) -> Kinds:
    """(N,) codes of `KINDS` from the (N, S) statistics of all patches of a slide.

    What shows several kinds has the last of those below. Blur and folds are found beside at least 16 other patches.
    """
    of = dict(zip(STATISTICS, statistics.astype(np.float64).T, strict=True))
    certain = {
        BLANK: (of["spread"] < FLAT) & (of["level"] > BRIGHT),
        CORRUPT: (of["seam"] > MOST_SEAM) | (of["constant"] > MOST_CONSTANT),
        PEN: (of["ink"] > MOST_INK) | (of["soot"] > MOST_SOOT),
        BLACK: of["black"] > MOST_NIGHT,
    }
    if len(statistics) >= FEWEST_BESIDE and certain[PEN].mean() > MOST_PENNED:
        del certain[PEN]
    clean = ~np.any(list(certain.values()), axis=0)
    kinds = np.zeros(len(statistics), np.uint8)
    if np.count_nonzero(clean) >= FEWEST_BESIDE:
        kinds[_folds(of, clean)] = FOLD
        kinds[_blurred(of, clean)] = BLURRED
    for kind, found in {BUBBLE: of["grey"] > MOST_GREY, **certain}.items():
        kinds[found] = kind
    return kinds


def _blurred(of: dict[str, NDArray[np.float64]], clean: Mask) -> Mask:
    """Details are fainter than in the slide's other patches, the finer ones more so; or there are none."""
    focus = of["focus"] - np.median(of["focus"][clean])
    detail = of["detail"] / max(float(np.median(of["detail"][clean])), 1e-9)
    return np.asarray((focus < BLURRED_FOCUS) & (detail < BLURRED_DETAIL) | (detail < SMOOTH))


def _folds(of: dict[str, NDArray[np.float64]], clean: Mask) -> Mask:
    """All three channels are denser than in the slide's dense tissue; layers out of focus need be so less.

    Nuclei raise red most, eosin and blood hardly raise it: what raises all alike is more than one layer. Of pale tissue
    two layers are no denser than one of other tissue, but lie above the focus: the dense part of a patch is then more
    blurred than its pale part, where as a rule it has the nuclei and is sharper.
    """
    channels = [of[name] for name in ("red", "green", "blue")]
    least = np.min([density / max(np.percentile(density[clean], DENSE), THINNEST) for density in channels], axis=0)
    focus = of["focus"] - np.percentile(of["focus"][clean], 25)
    lifted = of["dense_focus"] - np.percentile(of["dense_focus"][clean], 25) < LIFTED
    lifted &= of["dense_focus"] - of["pale_focus"] < LIFTED_BESIDE_PALE
    return np.asarray((least > THICK) | (least > RATHER_THICK) & (focus < RATHER_BLURRED) | lifted)


def _measure(patch: Image, mpp: float) -> tuple[float, ...]:
    import cv2

    sharp = _averaged(patch, len(patch) * mpp / DETAIL_MPP)
    colours = _averaged(sharp, len(patch) * mpp / COLOUR_MPP)
    layers = _averaged(colours, len(patch) * mpp / LAYER_MPP)
    grey = np.asarray(cv2.cvtColor(sharp, cv2.COLOR_RGB2GRAY), np.uint8)
    density = _DENSITIES[layers].reshape(-1, 3)
    parts = (*_levels(colours), *_focus(grey), *_focus_by_density(grey, density), *_layers(density))
    return (*_colours(colours), *parts, _seams(patch), _constant(grey))


def _averaged(pixels: Image, side: float) -> Image:
    """Averaged to about `side` px, never enlarged."""
    import cv2

    whole = min(len(pixels), max(4, round(side)))
    return np.asarray(cv2.resize(pixels, (whole, whole), interpolation=cv2.INTER_AREA))


def _colours(pixels: Image) -> tuple[float, ...]:
    """Shares of ink, soot, grey and black."""
    import cv2

    red, green, blue = (_DENSITIES[channel] for channel in cv2.split(pixels))
    low, high = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    colourless = high - low < COLOURLESS * low
    grey = (colourless & (low > FAINTEST_GREY) & (low < SOOT)).view(np.uint8)
    wide = np.asarray(cv2.erode(grey, np.ones((2, 2), np.uint8)))  # the rim of a bubble is wider than dust
    ink = _is_ink(red, green, blue) & (high - low > np.maximum(STAIN, 0.375 * low)) & (high > INK)
    soot, night = colourless & (low > SOOT), low > _DENSITIES[NIGHT]
    count = low.size
    return tuple(np.count_nonzero(share) / count for share in (ink, soot, wide, night))


def _is_ink(red: Plane, green: Plane, blue: Plane) -> Mask:
    """Hues that no stain has: a stain lets green through least, or no more than red (haematoxylin), blue (DAB)."""
    green_ink = (green < 0.85 * np.minimum(red, blue)) | ((green < 1.1 * blue) & (red > 1.3 * green))
    red_ink = (red < 0.25 * green) & (blue > 0.65 * green)
    blue_ink = (red > 1.1 * green) & (red > 2 * blue)  # haematoxylin lets red through at least as well as green
    paler = (blue > 0.2 * red) & (red < NAVY_INK)
    return green_ink | red_ink | (blue_ink & ~paler)


def _levels(pixels: Image) -> tuple[float, float]:
    darkest = np.sort(pixels.min(axis=2), axis=None)
    edge = len(darkest) // 50
    return float(darkest[len(darkest) // 2]), float(darkest[-1 - edge]) - float(darkest[edge])


def _focus(grey: Image) -> tuple[float, float]:
    """The standard deviation of the Laplacian, and how it compares with that at twice the pixel size."""
    fine, coarse = _contrast(grey), _contrast(_averaged(grey, len(grey) / 2))
    return fine, _ratio(fine, coarse)


def _ratio(fine: float, coarse: float) -> float:
    return float(np.log2((fine + 0.1) / (coarse + 0.1)))


def _focus_by_density(grey: Image, density: NDArray[np.float32]) -> tuple[float, float]:
    """Of the densest and of the palest part; `density` (C, 3) of the cells of a square grid over the patch."""
    fine, coarse = (_details(image, len(density)) for image in (grey, _averaged(grey, len(grey) / 2)))
    order = density.mean(axis=1).argsort(kind="stable")
    dense, pale = order[-round(DENSEST * len(order)) :], order[: round(PALEST * len(order))]
    return _ratio(fine[dense].mean(), coarse[dense].mean()), _ratio(fine[pale].mean(), coarse[pale].mean())


def _details(grey: Image, cells: int) -> Plane:
    """How much there is of details, mean of each of so many cells."""
    import cv2

    side = round(cells**0.5)
    found = cv2.convertScaleAbs(cv2.Laplacian(grey, cv2.CV_16S)).astype(np.float32)
    return np.asarray(cv2.resize(found, (side, side), interpolation=cv2.INTER_AREA), np.float32).ravel()


def _contrast(grey: Image) -> float:
    import cv2

    return float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0, 0])


def _layers(density: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(np.sort(density, axis=0)[2 * len(density) // 3].tolist())


def _seams(patch: Image) -> float:
    """How much larger steps at one phase of 4 or 8 px are than at others: JPEG blocks, decoded at half or full size."""
    import cv2

    green = np.ascontiguousarray(patch[..., 1])
    across = cv2.reduce(cv2.absdiff(green[:, 1:], green[:, :-1]), 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    down = cv2.reduce(cv2.absdiff(green[1:], green[:-1]), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    worst = 1.0
    for steps in (across / len(patch), down / len(patch)):
        for period in (4, 8):
            # Without the largest of each phase, which may be the edge of a stroke, or of what was scanned.
            phases = np.sort(steps[: len(steps) // period * period].reshape(-1, period), axis=0)[:-1].mean(axis=0)
            second, first = np.sort(phases)[-2:] + NOISE
            worst = max(worst, float(first / second))
    return worst


def _constant(grey: Image) -> float:
    """Share that is of one colour, neither glass nor night, over 7 px and more: what decoders put for lost data."""
    import cv2

    same = (cv2.Laplacian(grey, cv2.CV_16S) == 0) & (grey > NIGHT) & (grey < BRIGHT + 20)
    return float(cv2.erode(same.view(np.uint8), np.ones((5, 5), np.uint8)).mean())


#: (L,) rows that are left -> which of them would be kept, (K,) indices into these.
Pick = Callable[[np.ndarray], np.ndarray]


FEWEST, LEAST = 8, 0.05  # patches, and share of them, that are left at least


SAMPLE = 64  # patches


class StatisticsRecorder:
    """Statistics of the patches of a grid, taken as their pixels pass by; may be called from several threads."""

    def __init__(self, slide: Slide, grid: Grid) -> None:
        self.statistics = np.zeros((len(grid.coords), len(STATISTICS)), np.float32)
        self._mpp = slide.mpp * grid.patch_size_level0 / grid.reading.patch_size

    def __call__(self, rows: np.ndarray, pixels: np.ndarray) -> None:
        self.statistics[rows] = measure(pixels, self._mpp)


def split_artefacts(coords: np.ndarray, kinds: Kinds) -> tuple[np.ndarray, Artefacts]:
    """The (M,) ascending rows that stay tissue of the (N, 2) coords, and the artefacts; `kinds` (N,) are codes.

    Where hardly anything would be left, fewer than 8 patches or 5 %, all stay, and the artefacts are marked as ignored.
    """
    found, ignored = np.flatnonzero(kinds), too_few(kinds)
    artefacts = Artefacts(coords[found].astype(np.int32), kinds[found], len(kinds), ignored)
    return np.arange(len(kinds)) if ignored else np.flatnonzero(kinds == 0), artefacts


def too_few(kinds: Kinds) -> bool:
    """Whether something is to be left out, and hardly anything else is there."""
    clean = np.count_nonzero(kinds == 0)
    return bool(clean < len(kinds) and clean < max(FEWEST, LEAST * len(kinds)))


def split_picked_artefacts(
    slide: Slide, grid: Grid, pick: Pick, damage: Damage, threads: int, guarded: bool
) -> tuple[np.ndarray, Artefacts]:
    """As `part`, where nothing of the slide has been read: no more is looked at than a sample and what would be kept.

    Picks on broken tiles are left out, and artefacts where `guarded`; then others are picked in their place, until all
    can be kept. The sample, evenly spread, shows what the slide is like. Raises BrokenSlideError.
    """
    watch, count = StatisticsRecorder(slide, grid), len(grid.coords)
    kinds, seen = np.zeros(count, np.uint8), np.zeros(count, bool)

    def look(rows: np.ndarray) -> None:
        for read, pixels in read_patches(slide.pyramid, grid.coords[rows], grid.reading, damage, threads):
            seen[rows[read]] = True
            if guarded:
                watch(rows[read], pixels)
        damage.check(slide.name)

    if guarded:
        look(np.unique(np.linspace(0, count - 1, SAMPLE).astype(int)))
    rows = left = np.arange(count)
    while True:
        picked = rows[pick(rows)]
        look(picked[~seen[picked]])
        left = np.setdiff1d(left, picked[~seen[picked]])
        if not len(left):
            raise BrokenSlideError(f"{slide.name}: not one patch of the given features can be read")
        if guarded:  # what was left out stays out, also where the slide is known better by now
            kinds[seen] = np.where(kinds[seen] > 0, kinds[seen], classify(watch.statistics[seen]))
        found, artefacts = split_artefacts(grid.coords[left], kinds[left])
        if np.array_equal(left[found], rows):
            return rows, replace(artefacts, looked_at=int(seen.sum()) if guarded else 0)
        rows = left[found]
