"""Faint tissue: what is hardly darker than glass, and what is there although nobody calls it tissue.

Fat, membranes and counterstained sections without a signal are hardly darker than glass, some hardly coloured. They are
found by what no pixel shows alone. A net has details all over, which glass has not. A film has edges: the shade of the
lamp, vignetting and the glare around dense tissue fade out, and a section ends. Seams between the parts of a stitched
scan are edges too, but straight ones.

How faint is measured on the slide's own glass: its light (see `glass.shading`) and its noise. What is neither, and
neither fades out, is left out, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.tissue.glass import shading

Mask = NDArray[np.bool_]
Image = NDArray[np.uint8]
Plane = NDArray[np.float32]
Half = NDArray[np.float16]
Share = NDArray[np.float64]

COARSEST = 16.0  # µm per px; edges and details are not seen in coarser overviews

# Optical densities in thousandths.
LEAST = 6.0  # 1.4 %, of which JPEG leaves something
LEAST_COLOUR = 2.5
BEYOND_NOISE = 4.0  # standard deviations
LEAST_NET, NET_BEYOND_NOISE = 2.0, 3.0  # contrast of details; beside the upper quartile of what glass has
NET_STEP = 4.0  # from one pixel to the next
FILM, GREY_FILM = 14.0, 30.0  # with a colour, and without; glare reaches 12, dried drops 17
THICKEST_GREY = 150.0  # a smooth grey is ink, not a film
CLEAR = 25.0  # no glare reaches it
PALE = 8.0  # a film that is no tissue for certain, but no glass either; glare with an edge reaches 8 in 0.4 of its area

# Shares.
STEEP = 0.6  # of the height of an edge, within `EDGE_UM`
SHARP = 0.7  # of the edge of a film
FREE = 0.15  # of the edge of a film, where no other tissue lies beside it
PALE_SHARP = 0.85  # of the edge of a pale film
ALONE = 0.9  # the same, of a piece that lies on glass
STRAIGHT = 0.4  # of the edge, level or upright: a seam
HALF = 0.5
CALM = 2.0  # how often the noise of glass exceeds that of its paler half, where something else is counted into it
UNIT = 16  # sixteenths
FEWEST = 100  # pixels of glass
BAND = 256  # rows

# Sizes.
SMOOTH_UM, GRAIN_UM, EDGE_UM = 24.0, 56.0, 32.0
GAP_UM, WIDTH_UM, RIM_UM = 64.0, 64.0, 40.0  # half the width of cells of fat, of the thinnest piece, of a rim
HALO_UM = 150.0  # around tissue, where glass has glare
RUN_UM = 240.0  # of an edge that is straight
NET_MM2, PIECE_MM2, GREY_PIECE_MM2 = 0.01, 0.03, 0.1
GREY_ISLE_MM2 = 1.0  # alone on glass, without a colour: what is smaller may be dust or glue, which reach 0.4


@dataclass(frozen=True)
class Faint:
    """What the colours and the grain of a slide leave out, each (H, W) bool."""

    tissue: Mask
    unexplained: Mask  # neither tissue, nor glass, nor a shadow


@dataclass(frozen=True)
class _Light:
    """What is left of the light beside glass, each (H, W); optical densities in thousandths."""

    density: Half  # mean of the channels'
    colour: Half  # how far these are apart
    contrast: Half  # of details
    step: Half  # between neighbouring pixels
    excess: Image  # of density or colour, whichever is more, over what glass may have; sixteenths
    tint: float  # least colour that is one
    net: float  # least contrast of tissue
    #: Least density and colour by the paler half of the glass, where those are far less.
    calm: tuple[float, float] | None


@dataclass(frozen=True)
class _Pieces:
    """What is seen beside the mask, by connected piece; the background is the first."""

    labels: NDArray[np.int32]  # (H, W)
    mm2: Share  # (count,)
    free: Share  # (count,) share of its edge that has no tissue beside it
    within: NDArray[np.intp]  # flat places of all its pixels
    edge: NDArray[np.intp]
    free_edge: NDArray[np.intp]

    def share(self, where: Mask, of: NDArray[np.intp]) -> Share:
        """(count,) of the pixels of each piece at these places, 0 where it has none of them."""
        piece = self.labels.ravel()[of]
        found = np.bincount(piece[where], minlength=len(self.mm2))
        return np.asarray(found / np.maximum(np.bincount(piece, minlength=len(self.mm2)), 1))


def find_faint(smooth: Image, glass: NDArray[np.float64], mask: Image, barred: Mask, mpp: float) -> Faint:
    """Look for faint tissue in a smoothed overview, (H, W, 3) uint8 RGB, outside the (H, W) mask of tissue.

    `barred`, (H, W), is ink and black, which are neither tissue nor unexplained.
    """
    nothing = np.zeros(mask.shape, bool)
    if mpp > COARSEST or min(mask.shape) < 4:
        return Faint(nothing, nothing)
    light = _light(smooth, glass, mask, mpp)
    solid = _solid(light.density, mask, barred)
    seen = light.excess > UNIT
    body = _body(seen, mask, _grown(solid, RIM_UM, mpp), mpp)
    tissue, unexplained = _sorted(body, seen, light, mask, mpp) if body.any() else (nothing, nothing)
    if light.calm is not None:
        unexplained = unexplained | (_pale_beside(light, light.calm, mask, solid, mpp) & ~tissue)
    return Faint(tissue, unexplained | (_wide_pieces(solid & ~_grown(barred, RIM_UM, mpp), mpp) & (mask == 0)))


def _pale_beside(light: _Light, calm: tuple[float, float], mask: Image, solid: Mask, mpp: float) -> Mask:
    """(H, W) bool: what nobody knows, where it covers so much of the glass that it was counted into the noise."""
    least, tint = calm
    excess = np.maximum(_sixteenths(light.density, least), _sixteenths(light.colour, tint))
    again, seen = replace(light, excess=excess, tint=tint, calm=None), excess > UNIT
    body = _body(seen, mask, _grown(solid, RIM_UM, mpp), mpp)
    return np.logical_or(*_sorted(body, seen, again, mask, mpp)) if body.any() else np.zeros(mask.shape, bool)


def _solid(density: Half, mask: Image, barred: Mask) -> Mask:
    """(H, W) bool: ink, dust and black, which are dark all over; single septa and nuclei are not."""
    import cv2

    solid = _u8(((density > THICKEST_GREY) & (mask == 0)) | barred)
    return _u8(cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))) > 0


def _grown(where: Mask, by_um: float, mpp: float) -> Mask:
    import cv2

    return _u8(cv2.dilate(_u8(where), np.ones(_window(2 * by_um, mpp), np.uint8))) > 0


def _wide_pieces(where: Mask, mpp: float) -> Mask:
    """(H, W) bool: without hairs and dust."""
    import cv2

    wide = _u8(cv2.morphologyEx(_u8(where), cv2.MORPH_OPEN, _disc(RIM_UM, mpp)))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(wide, connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] * mpp**2 / 1e6 > PIECE_MM2
    large[0] = False  # the background
    return np.asarray(large[labels])


def _light(smooth: Image, glass: NDArray[np.float64], mask: Image, mpp: float) -> _Light:

    lamp, edge = shading(smooth, glass), _window(GRAIN_UM, mpp)[0] + 8
    table = (1000 * np.log10((glass + 1)[:, None] / (np.arange(256) + 1.0))).astype(np.float32)
    planes = []
    for top in range(0, len(smooth), BAND):  # because densities take many times the memory of the overview
        before = min(top, edge)
        rows = slice(top - before, min(len(smooth), top + BAND + edge))
        found = _band(smooth[rows], table, _lamp_of(lamp, rows, smooth.shape), mpp)
        planes.append([plane[before : before + BAND].astype(np.float16) for plane in found])
    density, colour, contrast, step = (np.concatenate(parts) for parts in zip(*planes, strict=True))
    bare = ~_grown(mask > 0, HALO_UM, mpp) & (np.abs(density) < np.float16(2 * LEAST))
    shade, tint = (_upper(plane[bare]) for plane in (density, colour))
    least = max(LEAST, _upper_of_paler(density[bare])), max(LEAST_COLOUR, _upper_of_paler(colour[bare]))
    calm = least if shade > CALM * least[0] or tint > CALM * least[1] else None
    net = max(LEAST_NET, NET_BEYOND_NOISE * _quartiles(contrast[bare])[2])
    excess = np.maximum(_sixteenths(density, max(LEAST, shade)), _sixteenths(colour, max(LEAST, tint)))
    return _Light(density, colour, contrast, step, excess, max(LEAST_COLOUR, tint), net, calm)


def _lamp_of(lamp: Plane, rows: slice, shape: tuple[int, ...]) -> Plane:
    """Some rows of the lamp's shading, (R, W, 3), of an overview of this shape; it has the shading in few pixels."""
    import cv2

    scale = lamp.shape[1] / shape[1], lamp.shape[0] / shape[0]
    x = ((np.arange(shape[1], dtype=np.float32) + 0.5) * scale[0] - 0.5).clip(0, lamp.shape[1] - 1)
    y = ((np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) * scale[1] - 0.5).clip(0, lamp.shape[0] - 1)
    across = np.broadcast_to(x, (len(y), len(x))).astype(np.float32)
    down = np.broadcast_to(y[:, None], (len(y), len(x))).astype(np.float32)
    return np.asarray(cv2.remap(lamp, across, down, cv2.INTER_LINEAR), np.float32)


def _band(rows: Image, table: Plane, lamp: Plane, mpp: float) -> tuple[Plane, Plane, Plane, Plane]:
    """Density, colour, contrast and step of some rows, each (R, W)."""
    import cv2

    red, green, blue = (cv2.LUT(rows[..., c], table[c]) - lamp[..., c] for c in range(3))
    fine, window = (red + green + blue) / 3, _window(SMOOTH_UM, mpp)
    apart = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    details = fine - cv2.GaussianBlur(fine, (0, 0), 2.0)
    contrast = np.sqrt(np.maximum(cv2.blur(details * details, _window(GRAIN_UM, mpp)), 0))
    step = np.asarray(cv2.morphologyEx(fine, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)), np.float32)
    return cv2.blur(fine, window), cv2.blur(apart, window), contrast, step


def _sixteenths(plane: Half, unit: float) -> Image:
    return _u8(np.clip(plane * np.float16(UNIT / unit), 0, 255))


def _quartiles(values: Half) -> tuple[float, float, float]:
    """Of what glass has, from some of its pixels; zeros where there is hardly any."""
    if len(values) < FEWEST:
        return 0.0, 0.0, 0.0
    some = values[:: 1 + len(values) // 100_000].astype(np.float64)
    low, middle, high = np.percentile(some, (25, 50, 75))
    return float(low), float(middle), float(high)


def _upper(values: Half) -> float:
    """What the noise of glass does not reach."""
    low, middle, high = _quartiles(values)
    return middle + BEYOND_NOISE * (high - low) / 1.35


def _upper_of_paler(values: Half) -> float:
    """The same by the paler half alone, which what covers less than half of the glass hardly changes."""
    if len(values) < FEWEST:
        return 0.0
    some = values[:: 1 + len(values) // 100_000].astype(np.float64)
    tenth, quarter = np.percentile(some, (10, 25))
    deviation = (quarter - tenth) / 0.607
    return float(quarter + (0.674 + BEYOND_NOISE) * deviation)


def _body(seen: Mask, mask: Image, solid: Mask, mpp: float) -> Image:
    """What is seen beside the mask, (H, W) uint8: cells of fat filled, without hairs, dust and the rim of tissue."""
    import cv2

    closed = cv2.morphologyEx(_u8(seen & ~solid) | mask, cv2.MORPH_CLOSE, _disc(GAP_UM, mpp))
    closed[solid] = 0
    wide = _u8(cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(WIDTH_UM, mpp)))
    wide[mask > 0] = 0
    return _u8(cv2.morphologyEx(wide, cv2.MORPH_OPEN, _disc(RIM_UM, mpp)))


def _sorted(body: Image, seen: Mask, light: _Light, mask: Image, mpp: float) -> tuple[Mask, Mask]:
    """The pieces that are tissue, and those of which nobody knows what they are, each (H, W) bool."""
    pieces = _pieces(body, mask, mpp)
    dense, colour, contrast, step = (
        plane.ravel()[pieces.within] for plane in (light.density, light.colour, light.contrast, light.step)
    )
    coloured, rough, stepped, filled, dark = (
        pieces.share(where, pieces.within) > HALF
        for where in (
            *(colour > light.tint, contrast > light.net, step > NET_STEP),
            *(seen.ravel()[pieces.within], dense > CLEAR),
        )
    )
    grey = pieces.share((dense > GREY_FILM) & (dense < THICKEST_GREY), pieces.within) > HALF
    stray = ~coloured & (pieces.free > ALONE) & (pieces.mm2 < GREY_ISLE_MM2)
    net = rough & stepped & filled & (pieces.mm2 > NET_MM2)
    film = pieces.share(np.maximum(dense, colour) > FILM, pieces.within) > HALF
    film &= pieces.mm2 > np.where(coloured, PIECE_MM2, GREY_PIECE_MM2)
    sharp = _sharp_ends(pieces, light.excess, mask.shape, mpp)
    film &= sharp > SHARP
    pale = pieces.share(np.maximum(dense, colour) > PALE, pieces.within) > HALF
    pale &= (sharp > PALE_SHARP) & (pieces.mm2 > np.where(coloured, PIECE_MM2, GREY_PIECE_MM2))
    tissue = (net | (film & (coloured | grey))) & ~stray
    doubtful = film | pale | ((dark | (rough & (filled | stepped))) & (pieces.mm2 > PIECE_MM2))
    for kinds in (tissue, doubtful):
        kinds[0] = False  # the background
    return tissue[pieces.labels], (doubtful & ~tissue)[pieces.labels]


def _pieces(body: Image, mask: Image, mpp: float) -> _Pieces:
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(body, connectivity=4)
    within = np.flatnonzero(body)
    edge = within[cv2.erode(body, np.ones((3, 3), np.uint8)).ravel()[within] == 0]
    free_edge = edge[~_grown(mask > 0, EDGE_UM, mpp).ravel()[edge]]
    edges, free_edges = (np.bincount(labels.ravel()[of], minlength=count) for of in (edge, free_edge))
    mm2 = np.asarray(stats[:, cv2.CC_STAT_AREA] * mpp**2 / 1e6, np.float64)
    return _Pieces(np.asarray(labels), mm2, free_edges / np.maximum(edges, 1), within, edge, free_edge)


def _sharp_ends(pieces: _Pieces, excess: Image, shape: tuple[int, ...], mpp: float) -> Share:
    """(count,) share of its edge, without other tissue beside it, at which a piece ends; 0 if it ends at a seam."""
    steep = _steep(excess, mpp).ravel()[pieces.free_edge]
    straight = _straight(pieces.edge, shape, mpp).ravel()[pieces.free_edge]
    seam = pieces.share(straight, pieces.free_edge) > STRAIGHT
    return np.where(seam | (pieces.free <= FREE), 0.0, pieces.share(steep, pieces.free_edge))


def _steep(excess: Image, mpp: float) -> Mask:
    """(H, W) bool: where most of the height is gained within the width of an edge."""
    import cv2

    window = np.ones(_window(2 * EDGE_UM, mpp), np.uint8)
    low, high = cv2.erode(excess, window), cv2.dilate(excess, window)
    return np.asarray(cv2.subtract(high, low) > STEEP * high.astype(np.float32))


def _straight(edge: NDArray[np.intp], shape: tuple[int, ...], mpp: float) -> Mask:
    """(H, W) bool: where the edge runs level or upright for a while."""
    import cv2

    run = 2 * round(RUN_UM / mpp / 2) + 1
    lines = np.zeros(shape, np.uint8)
    lines.ravel()[edge] = 1
    level, upright = (
        cv2.morphologyEx(lines, cv2.MORPH_OPEN, np.ones(shape, np.uint8)) for shape in ((1, run), (run, 1))
    )
    return np.asarray((_u8(level) > 0) | (_u8(upright) > 0))


def _window(side_um: float, mpp: float) -> tuple[int, int]:
    side = 2 * max(1, round(side_um / mpp / 2)) + 1
    return side, side


def _disc(radius_um: float, mpp: float) -> Image:
    import cv2

    side = 2 * round(radius_um / mpp) + 1
    return _u8(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))


def _u8(array: Any) -> Image:
    return np.asarray(array, np.uint8)
