"""Draws a small archive of pyramidal slides: `python tests/draw.py FOLDER`.

Nothing here is tissue. The images follow the look of H&E at 0.25 µm per px closely enough that tissue
detection, encoding and clustering have something to find: two ragged fragments on glass, each a patchwork
of tissue types that differ in colour, texture and in the size, shape and density of their nuclei.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

MPP = 0.25
#: Structure is drawn at this many px, one µm; only nuclei and grain are drawn at full resolution.
COARSE = 4

# What light is left of each stain's densest value, per channel (natural optical density of 2.3 times the
# stain's direction): haematoxylin takes red and green, eosin takes green.
HAEMATOXYLIN = 2.3 * np.array([0.60, 0.70, 0.36])
EOSIN = 2.3 * np.array([0.12, 0.80, 0.40])
GLASS = np.array([244.0, 242.0, 244.0])
PENS = {"blue": (38, 62, 150), "black": (28, 28, 34)}

Plane = NDArray[np.float32]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Layer:
    """One tissue type over the whole frame: stain densities in 0..255 at 1 µm per px, and its nuclei.

    `nuclei` is (n, 4): x, y in full-resolution px, the angle of the long axis in radians, and the row of
    `NUCLEI` that says what they look like.
    """

    haematoxylin: Plane
    eosin: Plane
    nuclei: NDArray[np.float64]


@dataclass(frozen=True)
class Nucleus:
    """The look of one type of nucleus; lengths in full-resolution px."""

    length: float
    width: float
    density: float
    grain: float


NUCLEI = {
    "round": Nucleus(26, 24, 205, 22),
    "lymphocyte": Nucleus(24, 23, 240, 14),
    "columnar": Nucleus(34, 19, 205, 18),
    "spindle": Nucleus(48, 11, 190, 14),
    "tumour": Nucleus(42, 34, 150, 30),
}
NUCLEUS_ROW = {name: row for row, name in enumerate(NUCLEI)}
ANGLES, VARIANTS = 16, 4


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], wavelength: float) -> Plane:
    """Noise without structure finer than `wavelength` px, of mean 0 and standard deviation about 1."""
    rows, cols = (int(np.ceil(side / wavelength)) + 3 for side in shape)
    knots = rng.standard_normal((rows, cols)).astype(np.float32)
    big = cv2.resize(knots, (int(cols * wavelength) + 1, int(rows * wavelength) + 1), interpolation=cv2.INTER_CUBIC)
    start = int(wavelength)
    return 1.4 * big[start : start + shape[0], start : start + shape[1]]


def soften(plane: NDArray[Any], sigma: float) -> Plane:
    return np.asarray(cv2.GaussianBlur(plane.astype(np.float32), (0, 0), sigma), np.float32)


def cell_walls(rng: np.random.Generator, shape: tuple[int, int], spacing: float) -> Plane:
    """The distance of each px to the nearest wall between cells `spacing` px across (a Voronoi diagram)."""
    seeds = np.full(shape, 255, np.uint8)
    points = jittered_points(rng, shape, spacing, 0.35).astype(int)
    seeds[points[:, 1], points[:, 0]] = 0
    _, owner = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    inside = np.full(shape, 255, np.uint8)
    inside[:, 1:][owner[:, 1:] != owner[:, :-1]] = 0
    inside[1:][owner[1:] != owner[:-1]] = 0
    return np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 5), np.float32)


def jittered_points(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float, jitter: float
) -> NDArray[np.float64]:
    """(n, 2) x, y inside `shape`, on a hexagonal grid shaken by `jitter` times its spacing."""
    rows, cols = int(shape[0] / (0.866 * spacing)) + 2, int(shape[1] / spacing) + 2
    row, col = np.mgrid[:rows, :cols].reshape(2, -1)
    points = np.stack([(col + 0.5 * (row % 2)) * spacing, row * 0.866 * spacing], 1)
    points += rng.uniform(-jitter, jitter, points.shape) * spacing
    inside = (points >= 0).all(1) & (points[:, 0] < shape[1]) & (points[:, 1] < shape[0])
    kept = points[inside]
    return kept if len(kept) else np.array([[shape[1] / 2, shape[0] / 2]])


def fibres(rng: np.random.Generator, shape: tuple[int, int], wavelength: float, waviness: float) -> tuple[Plane, Plane]:
    """Bundles of wavy fibres in -1..1, and their direction in radians, px by px."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    across = x * np.sin(angle) - y * np.cos(angle)
    across += waviness * (4 * smooth_noise(rng, shape, 320) + smooth_noise(rng, shape, 80))
    slope_y, slope_x = np.gradient(soften(across, 3))
    strands = np.sin(across * (2 * np.pi / wavelength) + 1.5 * smooth_noise(rng, shape, 12))
    return strands, np.arctan2(slope_x, -slope_y)


def nuclei_at(points: NDArray[np.float64], angle: NDArray[np.floating[Any]], name: str) -> NDArray[np.float64]:
    """(n, 4) nuclei from points in coarse px."""
    row = np.full(len(points), NUCLEUS_ROW[name], float)
    return np.column_stack([points * COARSE, np.broadcast_to(angle, row.shape), row])


def scattered_nuclei(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float, name: str, angle: Plane | None = None
) -> NDArray[np.float64]:
    """Nuclei about `spacing` µm apart, along `angle` where it is given, else any way round."""
    points = jittered_points(rng, shape, spacing, 0.45)
    if angle is None:
        return nuclei_at(points, rng.uniform(0, np.pi, len(points)), name)
    return nuclei_at(points, angle[points[:, 1].astype(int), points[:, 0].astype(int)], name)


def stroma(rng: np.random.Generator, shape: tuple[int, int]) -> Layer:
    strands, angle = fibres(rng, shape, 9, 14)
    gaps = np.clip(smooth_noise(rng, shape, 14) + 0.8 * strands - 1.5, 0, 1)
    eosin = (74 + 22 * strands + 10 * smooth_noise(rng, shape, 40)) * (1 - 0.9 * gaps)
    return Layer(
        np.asarray(10 * (1 - gaps), np.float32),
        np.asarray(eosin, np.float32),
        scattered_nuclei(rng, shape, 34, "spindle", angle),
    )


def muscle(rng: np.random.Generator, shape: tuple[int, int]) -> Layer:
    strands, angle = fibres(rng, shape, 15, 9)
    clefts = np.clip(-3 * strands - 2.3 + 0.7 * smooth_noise(rng, shape, 25), 0, 0.8)
    eosin = (112 + 16 * strands + 8 * smooth_noise(rng, shape, 6)) * (1 - clefts)
    return Layer(np.full(shape, 14, np.float32), eosin, scattered_nuclei(rng, shape, 42, "spindle", angle))


def lymphoid(rng: np.random.Generator, shape: tuple[int, int]) -> Layer:
    haematoxylin = 46 + 12 * smooth_noise(rng, shape, 5)
    eosin = 46 + 14 * smooth_noise(rng, shape, 7)
    return Layer(haematoxylin, eosin, scattered_nuclei(rng, shape, 7.4, "lymphocyte"))


def tumour(rng: np.random.Generator, shape: tuple[int, int]) -> Layer:
    walls = cell_walls(rng, shape, 17)
    eosin = 70 + 8 * smooth_noise(rng, shape, 5) + 22 * np.exp(-walls)
    haematoxylin = 40 + 10 * smooth_noise(rng, shape, 9)
    return Layer(haematoxylin, eosin, scattered_nuclei(rng, shape, 15.5, "tumour"))


def fat(rng: np.random.Generator, shape: tuple[int, int]) -> Layer:
    walls = cell_walls(rng, shape, 62)
    membrane = np.clip((0.82 - soften(walls > 1, 5)) * 9, 0, 1)
    points = jittered_points(rng, shape, 55, 0.45)
    nearby = walls[points[:, 1].astype(int), points[:, 0].astype(int)] < 6
    nuclei = nuclei_at(points[nearby], rng.uniform(0, np.pi, int(nearby.sum())), "spindle")
    return Layer(np.float32(10) * membrane, np.float32(66) * membrane, nuclei)


def glands(rng: np.random.Generator, shape: tuple[int, int]) -> Layer:
    """Rings of mucous columnar cells around a lumen, in a loose stroma full of round cells."""
    loose = smooth_noise(rng, shape, 8)
    haematoxylin = 24 + 8 * loose
    eosin = 74 + 20 * loose
    nuclei = [scattered_nuclei(rng, shape, 13, "round")]
    mucus = cell_walls(rng, shape, 8)
    keep = np.ones(shape, np.uint8)
    for centre in jittered_points(rng, shape, 100, 0.15):
        outline = _gland_outline(rng, centre)
        _paint_gland(haematoxylin, eosin, keep, mucus, centre, outline)
        nuclei.append(_basal_nuclei(centre, outline))
    stray = nuclei[0]
    x, y = (stray[:, :2] / COARSE).astype(int).T
    nuclei[0] = stray[keep[y, x] > 0]
    return Layer(soften(haematoxylin, 0.7), soften(eosin, 0.7), np.concatenate(nuclei))


def _gland_outline(rng: np.random.Generator, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """(64, 2) x, y around a centre: an ellipse with lobes."""
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radius = rng.uniform(34, 46) * (1 + 0.07 * np.sin(3 * turn + rng.uniform(0, 6)))
    tilt, aspect = rng.uniform(0, np.pi), rng.uniform(0.72, 1.0)
    x, y = radius * np.cos(turn), radius * aspect * np.sin(turn)
    turned = [x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)]
    return np.asarray(centre + np.stack(turned, 1))


def _paint_gland(
    haematoxylin: Plane,
    eosin: Plane,
    keep: Image,
    mucus: Plane,
    centre: NDArray[np.float64],
    outline: NDArray[np.float64],
) -> None:
    left, upper = np.maximum(outline.min(0).astype(int) - 6, 0)
    right, lower = outline.max(0).astype(int) + 6
    window = np.s_[upper:lower, left:right]

    def disc(share: float) -> NDArray[np.bool_]:
        mask = np.zeros(haematoxylin[window].shape, np.uint8)
        points = centre + share * (outline - centre) - (left, upper)
        cv2.fillPoly(mask, [points.round().astype(np.int32)], 1)
        return mask > 0

    if not haematoxylin[window].size:
        return
    inside, cleft = disc(1.0), disc(1.10)
    membrane = np.exp(-mucus[window])
    keep[window][cleft] = 0
    for plane, base, wall in ((haematoxylin, 22, 62), (eosin, 40, 34)):
        plane[window][cleft] *= 0.12
        plane[window][inside] = (base + wall * membrane)[inside]
        rim = inside & ~disc(0.80)
        plane[window][rim] += 26
        plane[window][disc(0.34)] = 3


def _basal_nuclei(centre: NDArray[np.float64], outline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columnar nuclei along the base of a gland's cells, pointing at the lumen."""
    ring = centre + 0.88 * (outline - centre)
    length = np.linalg.norm(np.diff(ring, axis=0, append=ring[:1]), axis=1).sum()
    chosen = np.linspace(0, len(ring), int(length / 6.2), endpoint=False).astype(int)
    towards = ring[chosen] - centre
    return nuclei_at(ring[chosen], np.arctan2(towards[:, 1], towards[:, 0]), "columnar")


KINDS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Layer]] = {
    "glands": glands,
    "stroma": stroma,
    "lymphoid": lymphoid,
    "tumour": tumour,
    "muscle": muscle,
    "fat": fat,
}


def fragment_mask(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Two fragments with ragged outlines, 1 inside and 0 on glass."""
    rows, cols = shape
    y, x = np.mgrid[:rows, :cols].astype(np.float32)
    rough = 0.16 * smooth_noise(rng, shape, max(shape) / 9) + 0.05 * smooth_noise(rng, shape, max(shape) / 40)
    mask = np.zeros(shape, np.float32)
    for centre_x, radius_x in ((0.275, 0.225), (0.775, 0.165)):
        centre_y, radius_y = rng.uniform(0.50, 0.56), rng.uniform(0.34, 0.40)
        inside = 1 - np.hypot((x / cols - centre_x) / radius_x, (y / rows - centre_y) / radius_y) + rough
        mask = np.maximum(mask, np.clip(inside * min(shape) / 12, 0, 1))
    tears = soften(smooth_noise(rng, shape, 60) - 2.9, 1.5)
    return mask * (1 - np.clip(tears * 8, 0, 1))


def region_map(rng: np.random.Generator, shape: tuple[int, int], count: int) -> NDArray[np.int64]:
    """Which of `count` tissue types lies where: patches some hundreds of µm wide with wavy borders."""
    spacing = max(min(shape) / 4.5, 100)
    rows, cols = (int(side / spacing) + 3 for side in shape)
    kinds = rng.permutation(np.arange(rows * cols) % count).reshape(rows, cols)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x += 0.34 * spacing * smooth_noise(rng, shape, spacing * 0.7) + 5 * smooth_noise(rng, shape, 20)
    y += 0.34 * spacing * smooth_noise(rng, shape, spacing * 0.7) + 5 * smooth_noise(rng, shape, 20)
    row = np.clip(y / spacing + 0.5, 0, rows - 1).astype(int)
    col = np.clip(x / spacing + 0.5, 0, cols - 1).astype(int)
    return np.asarray(kinds[row, col])


def nucleus_sprites(rng: np.random.Generator, look: Nucleus) -> list[Image]:
    """Density stamps, `VARIANTS` for each of `ANGLES` directions in turn."""
    side = int(max(look.length, look.width) * 1.3) + 6
    sprites = []
    for index in range(ANGLES * VARIANTS):
        degrees = 180 * (index // VARIANTS) / ANGLES
        size = rng.uniform(0.82, 1.18)
        axes = (look.length * size / 2, look.width * size * rng.uniform(0.88, 1.1) / 2)
        shape = np.zeros((side * 4, side * 4), np.uint8)
        cv2.ellipse(shape, ((side * 2, side * 2), (axes[0] * 8, axes[1] * 8), degrees), 255, -1)
        mask = cv2.GaussianBlur(cv2.resize(shape, (side, side), interpolation=cv2.INTER_AREA), (0, 0), 0.8)
        depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
        rim = 26 * np.exp(-depth / 2)
        chromatin = rng.uniform(0.9, 1.06) * look.density + look.grain * smooth_noise(rng, (side, side), 4)
        sprites.append((np.clip(chromatin + rim, 0, 255) * (mask / 255.0)).astype(np.uint8))
    return sprites


def stamp_nuclei(rng: np.random.Generator, plane: Image, nuclei: NDArray[np.float64]) -> None:
    """Draw (n, 4) nuclei into a full-resolution density plane, darker over lighter."""
    banks = [nucleus_sprites(rng, look) for look in NUCLEI.values()]
    angle = np.round(nuclei[:, 2] / np.pi * ANGLES).astype(int) % ANGLES
    sprite = angle * VARIANTS + rng.integers(0, VARIANTS, len(nuclei))
    stamps = np.column_stack([nuclei[:, :2], nuclei[:, 3], sprite]).astype(int)
    for x, y, row, index in stamps.tolist():
        stamp = banks[row][index]
        left, upper = x - stamp.shape[1] // 2, y - stamp.shape[0] // 2
        if left < 0 or upper < 0:
            continue
        target = plane[upper : upper + stamp.shape[0], left : left + stamp.shape[1]]
        np.maximum(target, stamp[: target.shape[0], : target.shape[1]], out=target)


def grain(rng: np.random.Generator, shape: tuple[int, int], strength: float) -> Image:
    """Fine texture around 128, a square repeated over the frame."""
    side, margin = 1021, 16
    white = np.pad(rng.standard_normal((side, side)).astype(np.float32), margin, mode="wrap")
    noise = 4 * soften(white, 1.0) + 10 * soften(white[::-1], 4)
    square = np.clip(128 + strength * noise[margin:-margin, margin:-margin], 0, 255).astype(np.uint8)
    return np.tile(square, (shape[0] // side + 1, shape[1] // side + 1))[: shape[0], : shape[1]]


def _layers(
    rng: np.random.Generator, shape: tuple[int, int], kinds: Sequence[str]
) -> tuple[Plane, Plane, NDArray[np.float64]]:
    """The tissue types composed into coarse densities, and the nuclei that lie in tissue."""
    tissue = fragment_mask(rng, shape)
    region = region_map(rng, shape, len(kinds))
    haematoxylin, eosin = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    nuclei = []
    for index, kind in enumerate(kinds):
        layer = KINDS[kind](rng, shape)
        here = region == index
        share = soften(here, 1.5)  # borders are not cut with scissors
        haematoxylin += share * layer.haematoxylin
        eosin += share * layer.eosin
        x, y = (layer.nuclei[:, :2] / COARSE).astype(int).T
        x, y = np.clip(x, 0, shape[1] - 1), np.clip(y, 0, shape[0] - 1)
        nuclei.append(layer.nuclei[here[y, x] & (tissue[y, x] > 0.9)])
    return haematoxylin * tissue, eosin * tissue, np.concatenate(nuclei)


def _enlarge(plane: Plane, width: int, height: int) -> Image:
    small = np.clip(plane, 0, 255).astype(np.uint8)
    rows, cols = small.shape
    big = cv2.resize(small, (cols * COARSE, rows * COARSE), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(big[:height, :width])


def _transmit(haematoxylin: Image, eosin: Image, shading: Image) -> Image:
    """RGB of light through both stains (Beer-Lambert), by table."""
    density = np.arange(256)[:, None] / 255
    through_h = (255 * np.exp(-density * HAEMATOXYLIN)).round().astype(np.uint8)
    through_e = (GLASS * np.exp(-density * EOSIN)).round().astype(np.uint8)
    channels = []
    for channel in range(3):
        light = cv2.multiply(
            cv2.LUT(haematoxylin, through_h[:, channel]),
            cv2.LUT(eosin, through_e[:, channel]),
            scale=1 / 255,
        )
        channels.append(cv2.multiply(light, shading, scale=1 / 250))
    return np.asarray(cv2.merge(channels), np.uint8)


def draw_pen(image: Image, rng: np.random.Generator, colour: str) -> None:
    """A felt-tip stroke on the glass between the fragments and the upper edge, into the image itself."""
    height, width = image.shape[:2]
    x = np.linspace(0.06, 0.42, 24) * width
    y = (0.06 + 0.02 * np.sin(np.linspace(0, 5, 24) + rng.uniform(0, 2))) * height
    mask = np.zeros((height // COARSE + 1, width // COARSE + 1), np.uint8)
    points = np.stack([x, y], 1) / COARSE
    cv2.polylines(mask, [points.astype(np.int32)], False, 255, max(3, min(mask.shape) // 7), cv2.LINE_AA)
    streaks = np.clip(0.90 + 0.04 * smooth_noise(rng, mask.shape, 40), 0, 1)
    opacity = _enlarge(mask * streaks.astype(np.float32), width, height)
    rows = int(np.flatnonzero(opacity.any(1)).max()) + 1
    share = opacity[:rows, :, None] / np.float32(255)
    image[:rows] = (image[:rows] * (1 - share) + share * np.array(PENS[colour], np.float32)).round()


def draw_tissue(
    width: int, height: int, seed: int = 0, kinds: Sequence[str] = tuple(KINDS), pen: str | None = None
) -> Image:
    """(height, width, 3) uint8: H&E-like tissue on glass at 0.25 µm per px.

    `kinds` names the tissue types to use (keys of `KINDS`); `pen` draws a stroke, "blue" or "black".
    """
    rng = np.random.default_rng(seed)
    shape = (-(-height // COARSE), -(-width // COARSE))
    coarse_h, coarse_e, nuclei = _layers(rng, shape, kinds)
    haematoxylin, eosin = _enlarge(coarse_h, width, height), _enlarge(coarse_e, width, height)
    stamp_nuclei(rng, haematoxylin, nuclei)
    texture = grain(rng, (height, width), 14)
    strength = rng.uniform(0.9, 1.1, 2)
    cv2.multiply(haematoxylin, texture, dst=haematoxylin, scale=strength[0] / 128)
    cv2.multiply(eosin, texture[::-1], dst=eosin, scale=strength[1] / 128)
    shading = (246 + texture[:, ::-1] // 32).astype(np.uint8)
    image = _transmit(haematoxylin, eosin, shading)
    if pen:
        draw_pen(image, rng, pen)
    return image


def reduce(image: Image, factor: int) -> Image:
    """The image at 1/factor, by area averaging; what does not fill a whole px is dropped."""
    height, width = (max(1, side // factor) for side in image.shape[:2])
    whole = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def draw_label(side: int = 400) -> Image:
    image = np.full((side, side, 3), 238, np.uint8)
    cv2.putText(image, "LABEL", (side // 8, side // 2), cv2.FONT_HERSHEY_SIMPLEX, side / 160, (20, 20, 20), 3)
    return image


def draw_macro(image: Image, label: Image | None = None) -> Image:
    """The whole glass: its label at the left, the slide at the right."""
    slide = reduce(image, max(4, max(image.shape[:2]) // 800))
    small = cv2.resize(draw_label() if label is None else label, (slide.shape[0],) * 2, interpolation=cv2.INTER_AREA)
    return np.hstack([np.asarray(small, np.uint8), slide])


def jpeg_options(quality: int, rgb_jpeg: bool = False) -> dict[str, Any]:
    """What tifffile needs to write JPEG: YCbCr 4:2:0, or RGB stored as it is, 4:4:4."""
    if rgb_jpeg:
        return {
            "photometric": "rgb",
            "compression": "jpeg",
            "compressionargs": {"level": quality, "outcolorspace": "rgb"},
        }
    return {
        "photometric": "rgb",
        "compression": "jpeg",
        "subsampling": (2, 2),
        "compressionargs": {"level": quality},
    }


def write_svs(
    path: Path,
    image: Image,
    mpp: float | None = MPP,
    tile: int = 240,
    quality: int = 80,
    rgb_jpeg: bool = False,
    factors: Sequence[int] = (4, 16),
    facts: str = "",
) -> None:
    """An Aperio-like SVS: levels 1 and 1/factors, thumbnail, label and macro.

    `mpp` None leaves the pixel size out. `facts` goes to the end of the description, as in
    "|User = jane.doe".
    """
    height, width = image.shape[:2]
    head = f"Aperio Image Library v12.0.15 \r\n{width}x{height} [0,0 {width}x{height}] ({tile}x{tile}) "
    tail = f"JPEG/RGB Q={quality}" + (f"|AppMag = {10 / mpp:g}|MPP = {mpp:.4f}" if mpp else "") + facts
    thumbnail, macro = reduce(image, max(1, max(image.shape[:2]) // 1024)), draw_macro(image)
    pixels = {**jpeg_options(quality, rgb_jpeg), "tile": (tile, tile), "subfiletype": 0}
    plain: dict[str, Any] = {"metadata": None, "software": None}
    strips: dict[str, Any] = {"compression": "jpeg", "photometric": "rgb", "rowsperstrip": 16}
    lzw: dict[str, Any] = {"compression": "lzw", "photometric": "rgb", "rowsperstrip": 8}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(image, description=head + tail, **pixels, **plain)
        tiff.write(thumbnail, description=f"{head}-> thumbnail {tail}", subfiletype=0, **strips, **plain)
        for factor in factors:
            small = reduce(image, factor)
            size = f"-> {small.shape[1]}x{small.shape[0]} "
            tiff.write(small, description=head + size + tail, **pixels, **plain)
        head = head.split("\n")[0] + "\n"
        tiff.write(draw_label(), description=f"{head}label 400x400", subfiletype=1, **lzw, **plain)
        size = f"macro {macro.shape[1]}x{macro.shape[0]}"
        tiff.write(macro, description=head + size, subfiletype=9, **strips, **plain)


def write_tiff(path: Path, image: Image, mpp: float | None = None, quality: int = 80) -> None:
    """A plain pyramidal TIFF with 256 px JPEG tiles; `mpp` None leaves the pixel size out."""
    pixels: dict[str, Any] = {**jpeg_options(quality), "tile": (256, 256), "metadata": None, "software": None}
    if mpp:
        pixels |= {"resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for factor in (1, 4, 16):
            dots = 1e4 / (mpp * factor) if mpp else None
            level = image if factor == 1 else reduce(image, factor)
            resolution = (dots, dots) if dots else None
            tiff.write(level, subfiletype=int(factor > 1), resolution=resolution, **pixels)


def write_ome_tiff(path: Path, image: Image, mpp: float = MPP, quality: int = 80) -> None:
    """An OME-TIFF whose lower levels are SubIFDs, with 256 px JPEG tiles."""
    pixels = {**jpeg_options(quality), "tile": (256, 256)}
    metadata = {
        "axes": "YXS",
        "PhysicalSizeX": mpp,
        "PhysicalSizeY": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeYUnit": "µm",
        "UUID": "urn:uuid:00000000-0000-4000-8000-000000000000",
    }
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tiff:
        tiff.write(image, subifds=2, metadata=metadata, **pixels)
        for factor in (4, 16):
            tiff.write(reduce(image, factor), subfiletype=1, **pixels)


def cut_short(path: Path, kept: float = 0.4) -> None:
    """Leave a slide as a copy cut short does: it opens, and its later tiles lie past the file's end."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["TileOffsets"]
        size = path.stat().st_size
        first_lost = int(len(tag.value) * kept)
        tag.overwrite([at if i < first_lost else at + size for i, at in enumerate(tag.value)])


def draw_archive(folder: Path, seed: int = 0, size: tuple[int, int] = (6000, 5000)) -> None:
    """Five slides in nested folders, one of them corrupt, and a file that is no slide; `size` in px."""
    width, height = size
    for organ in ("stomach", "breast", "colon", "lung/resections", "lung/biopsies"):
        (folder / organ).mkdir(parents=True, exist_ok=True)
    image = draw_tissue(width, height, seed, pen="blue")
    write_svs(folder / "stomach" / "stomach-1.svs", image, tile=256)
    image = draw_tissue(width, height, seed + 1, ("fat", "stroma", "tumour", "lymphoid"))
    write_svs(folder / "breast" / "breast-1.svs", image, rgb_jpeg=True)
    image = draw_tissue(width, height, seed + 2, ("glands", "lymphoid", "muscle"))
    write_ome_tiff(folder / "colon" / "colon-1.ome.tiff", image)
    image = draw_tissue(width, height, seed + 3, ("tumour", "stroma", "lymphoid", "muscle"))
    write_tiff(folder / "lung" / "resections" / "lung-1.tiff", image)
    image = draw_tissue(width, height, seed + 4)
    write_svs(folder / "lung" / "biopsies" / "lung-2-broken.svs", image)
    cut_short(folder / "lung" / "biopsies" / "lung-2-broken.svs")
    (folder / "lung" / "notes.txt").write_text("lung-2 was copied from a failing disk\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    draw_archive(Path(sys.argv[1]))
