"""Paints artefacts on patches of tissue: what a scanner, a technician or a bad disk do to them.

Every painter takes one (P, P, 3) uint8 patch at about 0.5 µm per px and a generator, and gives another patch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]
Painter = Callable[[Image, np.random.Generator], Image]

#: What light is left where the ink of a marker is thick.
INKS = {"blue": (38, 62, 150), "green": (30, 120, 70), "red": (190, 30, 40), "black": (28, 28, 34)}
#: Stain directions: haematoxylin, eosin, residual; and DAB in eosin's place (Ruifrok and Johnston, 2001).
HE = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
H_DAB = np.array([[0.650, 0.704, 0.286], [0.268, 0.570, 0.776], [0.268, 0.570, 0.776]])


def as_image(values: NDArray[np.floating]) -> Image:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def scanned(patch: Image, rng: np.random.Generator, noise: float = 1.2) -> Image:
    """With a camera's noise, and once through JPEG."""
    noisy = as_image(patch + rng.normal(0, noise, patch.shape))
    return np.asarray(imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(noisy, level=85)), np.uint8)


def half_plane(side: int, rng: np.random.Generator, share: float, softness: float) -> Plane:
    """1 on a part of the patch of about that share, cut off by a straight edge of any direction."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    edge = np.quantile(along, share)
    return np.asarray(np.clip((edge - along) / softness + 0.5, 0, 1), np.float32)


def pen(patch: Image, rng: np.random.Generator, colour: str | None = None) -> Image:
    """A marker's stroke over half of the patch or more, through which more or less of the tissue shows."""
    ink = np.array(INKS[colour or rng.choice(list(INKS))], np.float32)
    cover = half_plane(len(patch), rng, rng.uniform(0.5, 1.0) if rng.random() < 0.5 else 1.0, 12)[..., None]
    opaque, streaks = rng.uniform(0.2, 0.9), rng.uniform(0.9, 1.1, (8, 8, 1)).astype(np.float32)
    streaks = cv2.resize(streaks, patch.shape[:2], interpolation=cv2.INTER_CUBIC)[..., None]
    through = patch * (ink / 255) ** 0.9
    covered = ((1 - opaque) * through + opaque * ink) * streaks
    return scanned(as_image(patch * (1 - cover) + covered * cover), rng)


def blurred(patch: Image, rng: np.random.Generator, sigma: float | None = None) -> Image:
    """Out of focus by 1.25 to 3 µm of standard deviation."""
    return scanned(np.asarray(cv2.GaussianBlur(patch, (0, 0), sigma or rng.uniform(2.5, 6))), rng)


def fold(patch: Image, rng: np.random.Generator) -> Image:
    """A band of two or three layers of tissue, a little out of focus, with a dark edge."""
    side = len(patch)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    across = x * np.cos(angle) + y * np.sin(angle) + 8 * np.sin(y / rng.uniform(20, 50))
    centre, half = np.quantile(across, rng.uniform(0.35, 0.65)), side * rng.uniform(0.2, 0.4)
    cover = np.clip((half - np.abs(across - centre)) / 4 + 0.5, 0, 1)[..., None]
    edge = np.exp(-(((np.abs(across - centre) - half) / 5) ** 2))[..., None]
    layers = patch.astype(np.float32) / 245
    for turned in (patch[::-1], patch[:, ::-1])[: rng.integers(1, 3)]:
        layers = layers * (turned.astype(np.float32) / 245)
    folded = cv2.GaussianBlur(layers, (0, 0), 1.5) * 245 * (1 - 0.3 * edge)
    return scanned(as_image(patch * (1 - cover) + folded * cover), rng)


def bubble(patch: Image, rng: np.random.Generator) -> Image:
    """The rim of an air bubble under the cover slip: a dark and a bright ring; the tissue inside out of focus."""
    side = len(patch)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    radius, angle = side * rng.uniform(0.6, 4), rng.uniform(0, 2 * np.pi)
    middle = side / 2 + rng.uniform(-0.15, 0.15, 2) * side + radius * np.array([np.cos(angle), np.sin(angle)])
    depth = radius - np.hypot(x - middle[0], y - middle[1])  # px inside the rim
    width = rng.uniform(12, 30)
    dark = np.exp(-(((depth - width) / width) ** 2)) * rng.uniform(0.5, 0.8)
    bright = np.exp(-(((depth - 3.2 * width) / (0.7 * width)) ** 2)) * rng.uniform(0.3, 0.7)
    inside = np.clip(depth / 4, 0, 1)[..., None]
    soft = cv2.GaussianBlur(patch, (0, 0), 5).astype(np.float32)
    rim = (patch * (1 - inside) + soft * inside) * (1 - dark[..., None])
    return scanned(as_image(rim + (250 - rim) * bright[..., None]), rng)


def blank(patch: Image, rng: np.random.Generator) -> Image:
    shade = np.linspace(0, rng.uniform(0, 5), patch.shape[1], dtype=np.float32)[None, :, None]
    return scanned(as_image(np.full(patch.shape, rng.uniform(232, 250, 3) * [1, 1, 1], np.float32) - shade), rng)


def black(patch: Image, rng: np.random.Generator) -> Image:
    return scanned(as_image(np.full(patch.shape, rng.uniform(0, 14), np.float32)), rng)


def corrupt(patch: Image, rng: np.random.Generator) -> Image:
    """What libjpeg makes of a stream some of whose bytes are not its own."""
    level = int(rng.integers(40, 90))
    for _ in range(200):
        stream = bytearray(imagecodecs.jpeg8_encode(patch, level=level))
        start = bytes(stream).index(b"\xff\xda") + 14
        for at in rng.integers(start, start + (len(stream) - start) // 2, 12).tolist():
            stream[at] = int(rng.integers(0, 255))
        try:
            spoilt = np.asarray(imagecodecs.jpeg8_decode(bytes(stream)), np.uint8)
        except imagecodecs.Jpeg8Error:
            continue
        changed = (np.abs(spoilt.astype(int) - patch).max(axis=2) > 60).mean()
        if spoilt.shape == patch.shape and changed > 0.25:
            return spoilt
    raise AssertionError("no damage that can be decoded")


def cut_off(patch: Image, rng: np.random.Generator) -> Image:
    """The upper part as it was, below it the grey of coefficients that are not there."""
    spoilt = patch.copy()
    spoilt[int(rng.uniform(0.2, 0.6) * len(patch)) // 8 * 8 :] = 128
    return spoilt


def as_ihc(patch: Image, strength: float = 1.6) -> Image:
    """The same tissue as if it were stained with haematoxylin and DAB."""
    density = -np.log10(np.maximum(patch.astype(np.float64), 1) / 245)
    amount = np.maximum(density @ np.linalg.inv(HE), 0) * (1, strength, 0)
    return as_image(245 * 10 ** -(amount @ H_DAB))


PAINTERS: dict[str, Painter] = {
    "pen": pen,
    "blurred": blurred,
    "fold": fold,
    "bubble": bubble,
    "blank": blank,
    "black": black,
    "corrupt": corrupt,
}


def break_tile(path: Path, column: int, row: int) -> None:
    """Overwrite one tile of level 0, as a bad sector does."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        index = row * -(-page.imagewidth // page.tilewidth) + column
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
