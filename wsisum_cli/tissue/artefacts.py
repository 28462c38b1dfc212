"""Patches that may show something else than tissue in focus: pen, blur, folds, bubbles, glass, darkness, lost pixels.

`measure` takes a dozen plain statistics of each patch while its pixels are at hand. `classify` looks at those of all
patches of a slide at once, because blur and thickness show only beside the rest of the slide. No model is asked.
A patch that gets a kind is suspect: it stays tissue. Only what `holds_nothing` is removed.

Colours are judged by optical density, as in `mask`: ink lets through other light than any stain. A black marker and the
rim of a bubble take the same from all three channels, which no stain does. Haematoxylin with eosin and haematoxylin
with DAB both pass, and so does carbon in a lung. Blocks of strongly compressed JPEG are no defect of the tissue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.errors import BrokenSlideError

if TYPE_CHECKING:
    from wsisum_cli.slides.damage import Damage
    from wsisum_cli.slides.slide import Slide
    from wsisum_cli.tissue.grid import Grid

# What reads slides is imported where it is used: a summary needs the names of kinds alone.

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]
Values = NDArray[np.floating[Any]]  # one a patch
Steps = NDArray[np.int16]  # of a Laplacian
Mask = NDArray[np.bool_]
Kinds = NDArray[np.uint8]
Statistics = NDArray[np.float32]

#: Kinds by code; files hold the codes.
KINDS = ("tissue", "pen", "blurred", "fold", "bubble", "blank", "black", "corrupt")
TISSUE, PEN, BLURRED, FOLD, BUBBLE, BLANK, BLACK, CORRUPT = range(len(KINDS))

STATISTICS = (
    *("ink", "soot", "grey", "black"),  # shares of the patch
    *("level", "spread", "range"),  # of the darkest channel: median; range of all but 2 % at either end, and of all
    *("detail", "focus"),  # contrast of details of 2 µm, grey levels; log2 of its ratio to that of 4 µm
    *("dense_focus", "pale_focus"),  # the latter within the densest third of the patch, and within the palest fifth
    *("red", "green", "blue"),  # optical density of the channel that a third of the patch exceeds, thousandths
    "constant",  # share of the patch that is of exactly one colour
)

TOGETHER = 8  # patches that are measured at once; more no longer fit a core's cache

# Pixel sizes at which things are looked at, µm: details, colours without single nuclei, layers of tissue.
DETAIL_MPP, COLOUR_MPP, LAYER_MPP = 1.0, 4.0, 8.0

# Optical densities in thousandths, as in `tissue`.
GLASS = 245
STAIN, INK = 18, 300
NAVY_INK = 550  # haematoxylin may look like it, but without any gap is paler
RED_INK = 750  # red cells and clots have its hue, and let more green through
FAINTEST_GREY, SOOT = 100, 700
COLOURLESS = 0.25  # most that the highest may be above the lowest, over the lowest
THINNEST = 30
_DENSITIES = (1000 * np.log10((GLASS + 1) / (np.arange(256) + 1.0))).clip(0).astype(np.float32)

# Grey levels.
NIGHT = 24  # darker is no colour
FLAT, BRIGHT = 12, 180  # pale tissue spreads over 20 and more
NOISE = 3  # so much steps differ by without a reason

# Shares of a patch. Blood clots look like red ink up to 0.06, carbon in a lung like soot up to 0.1.
MOST_INK, MOST_SOOT, MOST_GREY, MOST_NIGHT, MOST_CONSTANT = 0.16, 0.3, 0.012, 0.25, 0.05
ALL_OF_IT = 0.98
FAINTEST_DETAIL, FAINT_DETAIL = 2.5, 6.0  # grey levels; the noise of a camera stays below the first

# Beside the other patches of the slide.
FEWEST_BESIDE = 16  # patches that a slide's own measure is taken from
# A hue or a grey that more of the slide has is a stain, such as light green, silver, or iron on nuclei.
MOST_PENNED, MOST_GREYED, MOST_OF_FEW = 0.3, 0.15, 0.6
FEWEST_OF_STAIN = 4  # patches
BLURRED_FOCUS, BLURRED_DETAIL, SMOOTH = -0.75, 0.5, 0.15
DENSE = 90  # percentile of the thickness that counts as one layer of dense tissue
THICK, THICK_AND_BLURRED = 1.05, -0.3
# Beside the dense parts of the slide's other patches, and beside the pale part of the patch itself.
LIFTED, LIFTED_BESIDE_PALE = -0.4, -0.15
DENSEST, PALEST = 1 / 3, 1 / 5


@dataclass(frozen=True)
class Artefacts:
    """The patches of a slide that hold no information: glass, unscanned black, pixels that no decoder can give."""

    coords: NDArray[np.int32]  # (A, 2) x, y in level-0 px
    kind: Kinds  # (A,) codes of `KINDS`, none of them 0
    looked_at: int = 0  # patches that were judged
    ignored: bool = False  # whether they are among the tissue all the same, as formats before 1.3 had it at times

    def as_dict(self) -> dict[str, Any]:
        return {
            "count": len(self.kind),
            "kinds": count_kinds(self.kind),
            "looked_at": self.looked_at,
            "ignored": self.ignored,
        }


NO_ARTEFACTS = Artefacts(np.empty((0, 2), np.int32), np.empty(0, np.uint8))


@dataclass(frozen=True)
class Judgement:
    """Patches of a slide once judged: those that stay tissue, which of them are suspect, and what was removed."""

    rows: NDArray[np.int64]  # (M,) ascending, of the N patches
    suspect: Kinds  # (M,) codes of `KINDS`, 0 where nothing speaks against a patch
    removed: Artefacts


def count_kinds(kinds: Kinds) -> dict[str, int]:
    """How many of (N,) codes are of each kind, by name; tissue is left out."""
    counts = np.bincount(kinds[kinds > 0], minlength=len(KINDS))
    return {name: int(count) for name, count in zip(KINDS, counts, strict=True) if count}


def kinds_of(patches: Image, mpp: float) -> Kinds:
    """What each of some patches of a slide shows: (B,) codes of `KINDS`, of (B, P, P, 3) RGB at `mpp` µm per px."""
    return classify(measure(patches, mpp))


def measure(patches: Image | Sequence[Image], mpp: float) -> Statistics:
    """(B, S) float32, a column for each of `STATISTICS`, of (B, P, P, 3) uint8 RGB patches at `mpp` µm per px."""
    if not len(patches):
        return np.empty((0, len(STATISTICS)), np.float32)
    patches = np.asarray(patches)
    return np.concatenate([_measure(patches[at : at + TOGETHER], mpp) for at in range(0, len(patches), TOGETHER)])


def classify(statistics: Statistics, fair: Mask | None = None) -> Kinds:
    """(N,) codes of `KINDS` from the (N, S) statistics of all patches of a slide.

    Where these are not all, `fair` (N,) marks those that were not picked for what they show, and tell what is usual.
    What shows several kinds has the last of those below. Blur and folds are found beside at least 16 other patches.
    """
    of = _by_name(statistics)
    fair = np.ones(len(statistics), bool) if fair is None else fair
    certain = {
        BLANK: (of["spread"] < FLAT) & (of["level"] > BRIGHT) & (of["detail"] < FAINT_DETAIL),
        CORRUPT: of["constant"] > MOST_CONSTANT,
        PEN: _unless_stain((of["ink"] > MOST_INK) | (of["soot"] > MOST_SOOT), fair, MOST_PENNED),
        BLACK: of["black"] > MOST_NIGHT,
    }
    clean = ~np.any(list(certain.values()), axis=0)
    kinds = np.zeros(len(statistics), np.uint8)
    if np.count_nonzero(clean) >= FEWEST_BESIDE:
        kinds[_folds(of, clean)] = FOLD
        kinds[_blurred(of, clean)] = BLURRED
    for kind, found in {BUBBLE: _unless_stain(of["grey"] > MOST_GREY, fair, MOST_GREYED), **certain}.items():
        kinds[found] = kind
    return kinds


def _unless_stain(found: Mask, fair: Mask, most: float) -> Mask:
    """The same patches, (N,), or none where more than `most` of the `fair` ones have that colour: it is the stain's.

    On a slide of few patches most of them must have it.
    """
    count = np.count_nonzero(fair)
    least = most if count >= FEWEST_BESIDE else MOST_OF_FEW
    of_stain = count >= FEWEST_OF_STAIN and found[fair].mean() > least
    return np.zeros_like(found) if of_stain else found


def holds_nothing(statistics: Statistics) -> Mask:
    """(N,) whether a patch certainly holds no information, from its statistics alone.

    Glass without a speck, black without a grain, or one colour all over, which a decoder puts for lost data.
    """
    of = _by_name(statistics)
    even = (of["range"] < FLAT) & (of["detail"] < FAINTEST_DETAIL)
    glass, night = of["level"] > BRIGHT, of["black"] > ALL_OF_IT
    return np.asarray(even & (glass | night) | (of["constant"] > ALL_OF_IT))


def _by_name(statistics: Statistics) -> dict[str, NDArray[np.float64]]:
    return dict(zip(STATISTICS, statistics.astype(np.float64).T, strict=True))


def _blurred(of: dict[str, NDArray[np.float64]], clean: Mask) -> Mask:
    """Details are fainter than in the slide's other patches, the finer ones more so; or there are none."""
    focus = of["focus"] - np.median(of["focus"][clean])
    detail = of["detail"] / max(float(np.median(of["detail"][clean])), 1e-9)
    return np.asarray((focus < BLURRED_FOCUS) & (detail < BLURRED_DETAIL) | (detail < SMOOTH))


def _folds(of: dict[str, NDArray[np.float64]], clean: Mask) -> Mask:
    """The dense part of the patch lies above the focus.

    It is more blurred than the dense parts of other patches, and than the pale part of its own, where as a rule it has
    the nuclei and is sharper. A patch without a pale part is blurred as a whole, and denser in all three channels than
    the slide's dense tissue. Density alone tells nothing: keratin, scars and clots are as dense as two layers.
    """
    channels = [of[name] for name in ("red", "green", "blue")]
    least = np.min([density / max(np.percentile(density[clean], DENSE), THINNEST) for density in channels], axis=0)
    focus, dense = (of[name] - np.percentile(of[name][clean], 25) for name in ("focus", "dense_focus"))
    lifted = (dense < LIFTED) & (of["dense_focus"] - of["pale_focus"] < LIFTED_BESIDE_PALE)
    return np.asarray(lifted | (least > THICK) & (np.maximum(focus, dense) < THICK_AND_BLURRED))


def _measure(patches: Image, mpp: float) -> Statistics:
    """(B, S) of (B, P, P, 3), all of them at once where OpenCV allows it: a call for each patch takes longer."""
    import cv2

    side = patches.shape[1]
    sharp = _averaged(patches, side * mpp / DETAIL_MPP)
    colours = _averaged(sharp, side * mpp / COLOUR_MPP)
    layers = _averaged(colours, side * mpp / LAYER_MPP)
    grey = np.asarray(cv2.cvtColor(_piled(sharp), cv2.COLOR_RGB2GRAY), np.uint8).reshape(sharp[..., 0].shape)
    fine, coarse = _steps(grey), _steps(_averaged(grey, sharp.shape[1] / 2))
    density = _DENSITIES[layers].reshape(len(patches), -1, 3)
    parts = (*_levels(colours), *_focus(fine, coarse), *_focus_by_density(fine, coarse, density), *_layers(density))
    return np.stack([*_colours(colours), *parts, _constant(grey, fine)], axis=1).astype(np.float32)


def _piled(pixels: NDArray[Any]) -> NDArray[Any]:
    """Images (B, H, W, ...) as a single one, (B * H, W, ...), each below the other."""
    return pixels.reshape(-1, *pixels.shape[2:])


def _steps(grey: Image) -> Steps:
    """The Laplacian of each image (B, H, W): how much each px differs from its neighbours."""
    import cv2

    found = np.empty(grey.shape, np.int16)
    for image, into in zip(grey, found, strict=True):
        cv2.Laplacian(image, cv2.CV_16S, dst=into)
    return found


def _averaged(pixels: NDArray[Any], side: float) -> NDArray[Any]:
    """Images (B, H, H, ...), averaged to about `side` px, never enlarged."""
    import cv2

    whole = min(pixels.shape[1], max(4, round(side)))
    if pixels.shape[1] % whole == 0:  # no px of the result is of two images
        pile = cv2.resize(_piled(pixels), (whole, whole * len(pixels)), interpolation=cv2.INTER_AREA)
        return np.asarray(pile).reshape(len(pixels), whole, whole, *pixels.shape[3:])
    return np.stack([cv2.resize(each, (whole, whole), interpolation=cv2.INTER_AREA) for each in pixels])


def _colours(pixels: Image) -> tuple[Values, ...]:
    """Shares of ink, soot, grey and black, (B,) each."""
    red, green, blue = (_DENSITIES[pixels[..., channel]] for channel in range(3))
    low, high = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    colourless = high - low < COLOURLESS * low
    grey = colourless & (low > FAINTEST_GREY) & (low < SOOT)
    wide = _eroded(grey, 2)  # the rim of a bubble is wider than dust
    ink = _is_ink(red, green, blue) & (high - low > np.maximum(STAIN, 0.375 * low)) & (high > INK)
    soot, night = colourless & (low > SOOT), low > _DENSITIES[NIGHT]
    return tuple(_share(found) for found in (ink, soot, wide, night))


def _eroded(found: Mask, side: int) -> Mask:
    """Masks (B, H, W) without what is narrower than `side` px."""
    import cv2

    kernel = np.ones((side, side), np.uint8)
    return np.stack([cv2.erode(mask, kernel) for mask in found.view(np.uint8)]).view(bool)


def _share(found: Mask) -> Values:
    """Share (B,) of the px of masks (B, H, W)."""
    return np.asarray(np.count_nonzero(found, axis=(1, 2)) / found[0].size)


def _is_ink(red: Plane, green: Plane, blue: Plane) -> Mask:
    """Hues that no stain has: a stain lets green through least, or no more than red (haematoxylin), blue (DAB)."""
    green_ink = (green < 0.85 * np.minimum(red, blue)) | ((green < 1.1 * blue) & (red > 1.3 * green))
    red_ink = (red < 0.25 * green) & (blue > 0.7 * green) & (green > RED_INK)
    blue_ink = (red > 1.1 * green) & (red > 2 * blue)  # haematoxylin lets red through at least as well as green
    paler = (blue > 0.2 * red) & (red < NAVY_INK)
    return green_ink | red_ink | (blue_ink & ~paler)


def _levels(pixels: Image) -> tuple[Values, Values, Values]:
    """Of the darkest channel, (B,) each: the median, the range of all but 2 % at either end, and of all."""
    least = np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])  # as min(axis=-1), ten times faster
    darkest = np.sort(least.reshape(len(pixels), -1), axis=1, kind="stable").astype(float)
    edge = darkest.shape[1] // 50
    middle = darkest[:, darkest.shape[1] // 2]
    return middle, darkest[:, -1 - edge] - darkest[:, edge], darkest[:, -1] - darkest[:, 0]


def _focus(fine: Steps, coarse: Steps) -> tuple[Values, Values]:
    """The standard deviation (B,) of the Laplacian, and how it compares with that at twice the pixel size."""
    sharp, soft = _contrast(fine), _contrast(coarse)
    return sharp, _ratio(sharp, soft)


def _ratio(fine: Values, coarse: Values) -> Values:
    return np.asarray(np.log2((fine + 0.1) / (coarse + 0.1)))


def _focus_by_density(fine: Steps, coarse: Steps, density: Plane) -> tuple[Values, Values]:
    """Of the densest and of the palest part, (B,) each; `density` (B, C, 3) of the cells of a square grid."""
    sharp, soft = (_details(steps, density.shape[1]) for steps in (fine, coarse))
    thickness = (density[..., 0] + density[..., 1] + density[..., 2]) / 3
    order = thickness.argsort(axis=1, kind="stable")
    cells = density.shape[1]
    dense, pale = order[:, -round(DENSEST * cells) :], order[:, : round(PALEST * cells)]
    return _ratio(*_means(sharp, soft, dense)), _ratio(*_means(sharp, soft, pale))


def _means(sharp: Plane, soft: Plane, cells: NDArray[np.intp]) -> tuple[Values, Values]:
    """Means (B,) of both over some of the cells, (B, M)."""
    return np.take_along_axis(sharp, cells, 1).mean(axis=1), np.take_along_axis(soft, cells, 1).mean(axis=1)


def _details(steps: Steps, cells: int) -> Plane:
    """How much there is of details, mean of each of so many cells: (B, cells)."""
    import cv2

    found = cv2.convertScaleAbs(_piled(steps)).astype(np.float32).reshape(steps.shape)
    return _averaged(found, round(cells**0.5)).reshape(len(steps), -1)


def _contrast(steps: Steps) -> Values:
    import cv2

    return np.array([cv2.meanStdDev(each)[1][0, 0] for each in steps])


def _layers(density: Plane) -> tuple[Values, ...]:
    """The density (B,) that a third of the cells exceed, of each channel."""
    place = 2 * density.shape[1] // 3
    found = np.partition(np.ascontiguousarray(density.transpose(2, 0, 1)), place, axis=2)[..., place]
    return found[0], found[1], found[2]


def _constant(grey: Image, steps: Steps) -> Values:
    """Share (B,) of one colour, neither glass nor night, over 7 px and more: what decoders put for lost data."""
    return _share(_eroded((steps == 0) & (grey > NIGHT) & (grey < BRIGHT + 20), 5))


#: (L,) rows of tissue and whether each is suspect, (L,) bool -> which would be kept, (K,) indices into these.
Pick = Callable[[np.ndarray, np.ndarray], np.ndarray]


FEWEST, LEAST = 8, 0.05  # patches, and share of them, without which removing the rest is itself suspicious


SAMPLE = 64  # patches


class StatisticsRecorder:
    """Statistics of the patches of a grid, taken as their pixels pass by; may be called from several threads."""

    def __init__(self, slide: Slide, grid: Grid) -> None:
        self.statistics = np.zeros((len(grid.coords), len(STATISTICS)), np.float32)
        self._mpp = slide.mpp * grid.patch_size_level0 / grid.reading.patch_size

    def __call__(self, rows: np.ndarray, pixels: np.ndarray) -> None:
        self.statistics[rows] = measure(pixels, self._mpp)


def judge(coords: np.ndarray, statistics: Statistics) -> Judgement:
    """All patches of a slide, at (N, 2) coords, by their (N, S) statistics.

    Only what certainly holds no information is removed. Where hardly anything else would be left, fewer than 8 patches
    or 5 %, that certainty is doubtful: nothing is removed, and all of it is suspect.
    """
    return split_artefacts(coords, classify(statistics), holds_nothing(statistics))


def split_artefacts(coords: np.ndarray, kinds: Kinds, empty: Mask) -> Judgement:
    """The same by the (N,) codes of patches, and whether they hold nothing at all, (N,) bool."""
    removed = np.flatnonzero(empty & (kinds > 0))
    if len(kinds) - len(removed) < max(FEWEST, LEAST * len(kinds)):
        removed = removed[:0]
    rows = np.setdiff1d(np.arange(len(kinds)), removed)
    return Judgement(rows, kinds[rows], Artefacts(coords[removed].astype(np.int32), kinds[removed], len(kinds)))


def judge_picked(slide: Slide, grid: Grid, pick: Pick, damage: Damage, threads: int, guarded: bool) -> Judgement:
    """As `judge`, where nothing of the slide has been read: it looks at a sample and at what would be kept.

    Picks on broken tiles are left out. Where `guarded`, empty ones are removed and suspect ones marked, then others are
    picked in their place, until all can be kept. The sample, evenly spread, shows what the slide is like. Raises
    BrokenSlideError.
    """
    from wsisum_cli.slides.patches import read_patches

    recorder, count = StatisticsRecorder(slide, grid), len(grid.coords)
    kinds, empty, seen = np.zeros(count, np.uint8), np.zeros(count, bool), np.zeros(count, bool)
    sample = np.isin(np.arange(count), np.linspace(0, count - 1, SAMPLE).astype(int))

    def look(rows: np.ndarray) -> None:
        for read, pixels in read_patches(slide.pyramid, grid.coords[rows], grid.reading, damage, threads):
            seen[rows[read]] = True
            if guarded:
                recorder(rows[read], pixels)
        damage.check(slide.name)

    if guarded:
        look(np.flatnonzero(sample))
    readable, judged = np.arange(count), Judgement(np.arange(count), kinds.copy(), NO_ARTEFACTS)
    while True:
        picked = judged.rows[pick(judged.rows, judged.suspect > 0)]
        look(picked[~seen[picked]])
        readable = np.setdiff1d(readable, picked[~seen[picked]])
        if not len(readable):
            raise BrokenSlideError(f"{slide.name}: not one patch of the given features can be read")
        if guarded:  # what was marked stays marked, also where the slide is known better by now
            kinds[seen] = np.where(kinds[seen] > 0, kinds[seen], classify(recorder.statistics[seen], sample[seen]))
            empty[seen] |= holds_nothing(recorder.statistics[seen])
        found = split_artefacts(grid.coords[readable], kinds[readable], empty[readable])
        rows = readable[found.rows]
        settled = np.array_equal(rows, judged.rows) and np.array_equal(found.suspect, judged.suspect)
        looked_at = int(seen.sum()) if guarded else 0
        judged = Judgement(rows, found.suspect, replace(found.removed, looked_at=looked_at))
        if settled:
            return judged
