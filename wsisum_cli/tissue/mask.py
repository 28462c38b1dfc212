"""Overview -> tissue mask: arrays in, arrays out.

Tissue differs from glass first by colour, not by darkness. In optical density relative to the glass a shadow, a seam,
vignetting, dust and black ink add the same to all three channels; most stains do not. So a pixel is stained where the
densities of its channels differ, and the darker it is the more they must.

Some stains have no colour (silver), hardly any (a pale counterstain), or that of ink (light green). Then grain decides:
tissue has details of 20 to 60 µm wherever it lies, which strokes of a pen, shadows and glass have not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.tissue.faint import find_faint
from wsisum_cli.tissue.glass import glass_colour

Mask = NDArray[np.bool_]
Image = NDArray[np.uint8]

WORK_MPP = 8.0  # finer overviews are reduced to this: cells do not matter here

# Grey levels.
BLACK = 16

# Optical densities in thousandths.
STAIN = 18  # fat septa reach about 25, a scanner's glare around dense tissue 15
INK = 300
NAVY_INK = 550  # haematoxylin may look like it, but without any gap is paler
SHADED = 60  # 13 % darker than glass
DENSEST = 1500  # more is noise, and 20 times as much still fits into 16 bits
DARK = 300

# Grain: the contrast of details between 20 and 60 µm, in optical density.
COARSEST_GRAIN = 16.0  # µm per px; none is seen in coarser overviews
GRAIN = (1.5, 6.0)  # least that tissue must have, by the noise of the glass: twice as much
GRAIN_OF_TISSUE, GRAIN_OF_INK = 0.03, 0.04  # over the density; tissue has more than the first, ink less than the second
FAINTEST, FAINT = 9, (0.1, 0.15)  # least density of tissue, and over the usual one of what has grain: glare has less
GRAINY = 0.4  # share of a piece of tissue without its border
MOST_EVEN = 0.2  # the same, of a dark piece
EXPLAINED = (0.4, 0.95)  # share of a piece of tissue that colours find, where they leave out tissue of the same piece

# Sizes.
GRAIN_UM = 56.0  # window in which grain is looked at
BORDER_UM = 64.0  # whose contrast is that of an edge
MIN_PIECE_MM2, MIN_DARK_MM2 = 0.004, 0.15  # without its border; specks of ink and dust with grain reach 0.04
GAP_UM = 32.0  # half the width of the gaps that are closed
WINDOW_UM = 136.0
MIN_SHARE = 0.28  # of the window: a net of fat reaches 0.35, a hair 0.25
THREAD_UM = 32.0  # half the width of a hair
HOLE_MM2 = 0.02
CRUMB_MM2 = 0.008
STROKE_UM = 64.0  # half the width of the thinnest pen stroke
EDGE_UM = 24.0
HAZE_UM = 1500.0  # how far from a stroke its ink may have spread


@dataclass(frozen=True)
class _Colours:
    """What the colours alone say, each (H, W) bool."""

    stained: Mask
    ink: Mask  # the hue of red, green or blue ink, however faint
    stroke: Mask  # the same, strong
    dark: Mask  # without a colour, but not black
    void: Mask
    density: NDArray[np.int16]  # mean of the channels', thousandths


@dataclass(frozen=True)
class _Grain:
    """Where there are details, each (H, W) bool."""

    shaded: Mask  # darker than glass
    clearly_shaded: Mask  # and than the glare around tissue
    grainy: Mask
    even: Mask  # with as little contrast as ink


@dataclass(frozen=True)
class Survey:
    """What an overview shows, each (H, W) bool."""

    tissue: Mask
    unexplained: Mask  # neither tissue nor glass, shadow, ink or black, without dust and hairs

    @property
    def unexplained_share(self) -> float:
        """Area of the unexplained over that of the tissue; 0 where there is none of either."""
        return int(self.unexplained.sum()) / max(1, int(self.tissue.sum()))


def find_tissue(overview: Image, mpp: float) -> Mask:
    """The tissue alone of `survey_overview`, (H, W) bool."""
    return survey_overview(overview, mpp).tissue


def survey_overview(overview: Image, mpp: float) -> Survey:
    """Find tissue in an (H, W, 3) uint8 RGB overview of `mpp` µm per px (2 to 60), all False where there is none.

    Glass, stitching gaps and seams, black borders, ink, pen strokes, dust, hairs and crumbs below 0.008 mm² are left
    out; lumens and fat cells below 0.02 mm² are filled.
    """
    import cv2

    height, width = overview.shape[:2]
    if height == 0 or width == 0:
        return Survey(*np.zeros((2, height, width), bool))
    factor = min(1.0, mpp / WORK_MPP)
    if factor < 1:
        size = _scaled(overview.shape, factor)
        overview = _u8(cv2.resize(overview, size, interpolation=cv2.INTER_AREA))
    found = _find_tissue(overview, mpp / factor)
    return Survey(*(_u8(cv2.resize(_u8(part), (width, height), interpolation=cv2.INTER_NEAREST)) > 0 for part in found))


def shaded_share(overview: Image) -> float:
    """Share of an (H, W, 3) uint8 RGB overview that is clearly darker than its glass, and not black."""
    import cv2

    if not overview.size:
        return 0.0
    smooth = _u8(cv2.GaussianBlur(overview, (0, 0), 1.0))
    colours = _colours(smooth, glass_colour(smooth))
    return float(np.mean((colours.density > SHADED) & ~colours.void))


def is_brightfield(overview: Image) -> bool:
    """Whether an (H, W, 3) uint8 RGB overview shows a stained slide in transmitted light.

    False for fluorescence and other dark-field images and for grey photographs; empty glass is brightfield.
    """
    pixels = overview.reshape(-1, 3)
    pixels = np.sort(pixels[:: max(1, len(pixels) // 1_000_000)], axis=1)
    lit = pixels[pixels[:, 2] > 2 * BLACK]  # what is black may be a border
    if len(lit) < 0.01 * len(pixels):
        return False
    # Fluorescence lights few pixels, and those in one channel; black borders leave bright glass and tissue.
    if np.median(lit[:, 1]) < (80 if len(lit) > len(pixels) / 2 else 150):
        return False
    coloured = np.mean(lit[:, 2] - lit[:, 0] > 2)
    return bool(coloured > 0.001 or np.mean(lit[:, 2] < 128) < 0.02)


def _find_tissue(image: Image, mpp: float) -> tuple[Image, Mask]:
    """The mask of an overview at its working resolution, (H, W) uint8, 1 = tissue; and what is unexplained."""
    import cv2

    smooth = _u8(cv2.GaussianBlur(image, (0, 0), 1.0))
    glass = glass_colour(smooth)
    colours = _colours(smooth, glass)
    grain = _grain(colours.density, mpp)
    pens = _pens(colours, grain, mpp)
    barred = pens | colours.void
    mask = _u8(colours.stained & ~barred)
    mask = _u8(_closed(mask | _colourless(mask, grain, colours.dark, barred, mpp), mpp))
    mask[barred] = 0
    mask = _without_sparse(mask, mpp)
    faint = find_faint(smooth, glass, mask, barred | (colours.dark & grain.even), mpp)
    mask |= faint.tissue
    mask = _without_holes(mask, colours.dark & ~barred, mpp)
    mask = _without_crumbs(mask, mpp)
    return mask, faint.unexplained & (mask == 0)


def _u8(array: Any) -> Image:
    return np.asarray(array, np.uint8)


def _scaled(shape: tuple[int, ...], factor: float) -> tuple[int, int]:
    """The width and height of an image of `shape` (H, W, ...) at a smaller scale."""
    return max(1, round(shape[1] * factor)), max(1, round(shape[0] * factor))


def _disc(radius_um: float, mpp: float) -> Image:
    import cv2

    side = 2 * round(radius_um / mpp) + 1
    return _u8(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))


def _colours(smooth: Image, glass: NDArray[np.float64]) -> _Colours:
    # In bands, because densities take eight times the memory of the overview.
    bands = [_band(smooth[top : top + 256], glass) for top in range(0, len(smooth), 256)]
    return _Colours(*(np.concatenate(planes) for planes in zip(*bands, strict=True)))


def _band(smooth: Image, glass: NDArray[np.float64]) -> tuple[Mask, Mask, Mask, Mask, Mask, NDArray[np.int16]]:
    """The fields of `_Colours` for some rows, from their densities over the glass (none where brighter)."""
    levels = np.arange(256) + 1.0
    table = np.clip(1000 * np.log10((glass + 1)[:, None] / levels), 0, DENSEST).astype(np.int16)
    channels = [smooth[..., c] for c in range(3)]
    red, green, blue = (density[channel] for density, channel in zip(table, channels, strict=True))
    void = np.maximum(np.maximum(channels[0], channels[1]), channels[2]) < BLACK
    low = np.minimum(np.minimum(red, green), blue)
    high = np.maximum(np.maximum(red, green), blue)
    # Over its lowest density haematoxylin's highest is 1.4 more, DAB's 1.9, black ink's up to 0.3.
    stained = high - low > np.maximum(STAIN, 3 * low // 8)
    # Stains let green through least, or no more than red (haematoxylin) or blue (DAB). Black ink has no hue,
    # and needs no search.
    green_ink = 20 * green < 17 * np.minimum(red, blue)
    green_ink |= (10 * green < 11 * blue) & (10 * red > 13 * green)
    red_ink = (6 * red < green) & (3 * blue > 2 * green)
    blue_ink = (5 * red > 6 * green) & (red > 2 * blue)  # haematoxylin lets red through at least as well as green
    blue_ink |= (10 * red > 11 * green) & (red > 5 * blue)
    ink = stained & (green_ink | red_ink | blue_ink)
    navy = blue_ink & ~green_ink & (5 * blue > red)
    stroke = ink & (high > np.where(navy, NAVY_INK, INK))
    density = ((red.astype(np.int32) + green + blue) // 3).astype(np.int16)
    return stained, ink, stroke, (low > DARK) & ~stained, void, density


def _window(side_um: float, mpp: float) -> tuple[int, int]:
    side = 2 * max(1, round(side_um / mpp / 2)) + 1
    return side, side


def _grain(density: NDArray[np.int16], mpp: float) -> _Grain:
    import cv2

    if mpp > COARSEST_GRAIN:
        nowhere = np.zeros(density.shape, bool)
        return _Grain(nowhere, nowhere, nowhere, ~nowhere)
    window = _window(GRAIN_UM, mpp)
    edge, planes = window[0] + 8, []
    for top in range(0, len(density), 256):  # in bands, as colours
        before = min(top, edge)
        band = density[top - before : top + 256 + edge].astype(np.float32)
        mean = cv2.blur(band, window)
        details = band - cv2.GaussianBlur(band, (0, 0), 2.0)
        contrast = np.sqrt(np.maximum(cv2.blur(details * details, window), 0))
        planes.append([plane[before : before + 256].astype(np.float16) for plane in (contrast, mean)])
    contrast, mean = (np.concatenate(parts) for parts in zip(*planes, strict=True))
    glass = contrast[density <= FAINTEST]
    noise = float(np.percentile(glass[:: 1 + len(glass) // 100_000], 75)) if len(glass) else 0.0
    grainy = contrast > np.maximum(np.float16(np.clip(2 * noise, *GRAIN)), np.float16(GRAIN_OF_TISSUE) * mean)
    even = contrast < np.float16(GRAIN_OF_INK) * mean
    usual = float(np.median(density[grainy & (density > FAINTEST)])) if grainy.any() else 0.0
    shaded, clearly_shaded = (density > max(FAINTEST, share * usual) for share in FAINT)
    return _Grain(shaded, clearly_shaded, grainy, even)


def _colourless(mask: Image, grain: _Grain, dark: Mask, barred: Mask, mpp: float) -> Image:
    """Tissue that colours, (H, W) uint8, leave out: darker than glass, wider than a rim of glare, and grainy within."""
    seen = _closed(mask, mpp)
    return _unseen_pieces(_u8(grain.shaded & ~barred & ~seen), grain, dark, mpp) | _half_seen_pieces(
        _u8(grain.clearly_shaded & ~barred), seen, grain, mpp
    )


def _unseen_pieces(rest: Image, grain: _Grain, dark: Mask, mpp: float) -> Image:
    """Whole pieces that colours leave out; mostly dark ones, which may be ink or soot, if large and not even."""
    labels, inner, within = _pieces(rest, mpp)
    grainy, black, even = (
        np.bincount(labels[within & where], minlength=len(inner)) for where in (grain.grainy, dark, dark & grain.even)
    )
    mm2 = inner * mpp**2 / 1e6
    taken = (mm2 >= MIN_PIECE_MM2) & (grainy >= GRAINY * inner)
    taken &= (black <= inner / 2) | ((mm2 >= MIN_DARK_MM2) & (even <= MOST_EVEN * inner))
    taken[0] = False  # the background
    return _u8(taken[labels])


def _half_seen_pieces(body: Image, seen: Mask, grain: _Grain, mpp: float) -> Image:
    """What has grain in pieces of which colours find a part alone."""
    import cv2

    labels, inner, within = _pieces(body, mpp)
    area, found = (np.bincount(labels[where], minlength=len(inner)) for where in (body > 0, seen & (body > 0)))
    taken = (found >= EXPLAINED[0] * area) & (found < EXPLAINED[1] * area)
    taken[0] = False
    ink = _u8(cv2.erode(_u8(grain.even) & body, _disc(STROKE_UM, mpp)))  # without a colour
    near_ink = _u8(cv2.dilate(ink, _disc(2 * STROKE_UM, mpp))) > 0
    near_grain = _u8(cv2.dilate(_u8(grain.grainy & within), _disc(2 * BORDER_UM, mpp))) > 0
    return _u8(taken[labels] & near_grain & ~near_ink & (body > 0))


def _pieces(body: Image, mpp: float) -> tuple[NDArray[np.int32], NDArray[np.int64], Mask]:
    """Labels (H, W) of what is wider than a hair, how much of each lies within its border, and where that is."""
    import cv2

    wide = _u8(cv2.morphologyEx(body, cv2.MORPH_OPEN, _disc(THREAD_UM, mpp)))
    count, labels = cv2.connectedComponents(wide, connectivity=8)
    within = _u8(cv2.erode(wide, _disc(BORDER_UM, mpp))) > 0
    return np.asarray(labels, np.int32), np.bincount(labels[within], minlength=count), within


def _closed(mask: Image, mpp: float) -> Mask:
    import cv2

    return _u8(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(GAP_UM, mpp))) > 0


def _pens(colours: _Colours, grain: _Grain, mpp: float) -> Mask:
    """Solid strokes of ink, and what has their hue and lies near them.

    Ink on glass is even. What has the hue of ink and the grain of tissue is tissue, of that colour or under ink.
    """
    import cv2

    cores = _u8(cv2.erode(_u8(colours.stroke), _disc(STROKE_UM, mpp)))
    count, labels = cv2.connectedComponents(_u8(colours.stroke), connectivity=8)
    of_core, even = (np.bincount(labels[where], minlength=count) for where in (cores > 0, (cores > 0) & grain.even))
    strokes = _u8((even > 0.5 * of_core)[labels]) & cores
    if not strokes.any():
        return np.zeros(strokes.shape, bool)
    side = 2 * round(HAZE_UM / mpp) + 1
    near = _u8(cv2.dilate(strokes, np.ones((side, side), np.uint8)))
    grainy = ((of_core > 0) & (even <= 0.5 * of_core))[labels]
    return _u8(cv2.dilate(_u8(colours.ink & ~grainy) & near, _disc(EDGE_UM, mpp))) > 0


def _without_sparse(mask: Image, mpp: float) -> Image:
    """Leave out what has little else around it: threads and specks, but not the net of fat."""
    import cv2

    side = 2 * round(WINDOW_UM / mpp / 2) + 1
    share = _u8(cv2.blur(mask * np.uint8(255), (side, side), borderType=cv2.BORDER_REFLECT))
    return mask & _u8(share > 255 * MIN_SHARE)


def _without_holes(mask: Image, dark: Mask, mpp: float) -> Image:
    """Fill lumens, and pigment and folds too dark to show a colour."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    left, top, width, height, area = stats.T
    filled = area <= HOLE_MM2 * 1e6 / mpp**2
    filled |= np.bincount(labels[dark], minlength=count) > area / 2
    filled &= (left > 0) & (left + width < mask.shape[1]) & (top > 0) & (top + height < mask.shape[0])
    filled[0] = True  # the mask itself
    return _u8(filled[labels])


def _without_crumbs(mask: Image, mpp: float) -> Image:
    """Leave out pieces that are small, or nowhere wider than a hair."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    cores = _u8(cv2.erode(mask, _disc(THREAD_UM, mpp))) > 0
    kept = stats[:, cv2.CC_STAT_AREA] >= CRUMB_MM2 * 1e6 / mpp**2
    kept &= np.bincount(labels[cores], minlength=count) > 0
    kept[0] = False  # the background
    return _u8(kept[labels])
