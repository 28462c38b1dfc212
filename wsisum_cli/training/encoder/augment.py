"""Random views of H&E tiles: what a slide's turning, cutting, staining, scanning and storing may do to them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from wsisum_cli.slides import jpeg

#: Optical density of haematoxylin, eosin and what is left: Ruifrok and Johnston (2001), rows of unit length.
STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)


@dataclass(frozen=True)
class Strength:
    """How far views may differ."""

    crop: tuple[int, int] = (108, 216)  # px of the tile that a view shows, from and to
    stain: float = 0.3  # relative change of each stain's amount
    background: float = 0.04  # optical density added to or taken from each stain
    brightness: float = 0.15
    blur: float = 0.25  # share of views
    jpeg: float = 0.15  # share of views


def draw_views(
    tiles: npt.NDArray[np.uint8], side: int, strength: Strength, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """One view (B, side, side, 3) of each tile (B, T, T, 3): turned by any angle, mirrored, cut, scaled.

    Some are blurred, some compressed. Colours stay, see `jitter_stains`.
    """
    views = np.empty((len(tiles), side, side, 3), np.uint8)
    for view, tile in zip(views, tiles, strict=True):
        cv2.warpAffine(tile, _placement(tile.shape[0], side, strength, rng), (side, side), view, _FLAGS, _BORDER)
        if rng.random() < strength.blur:
            cv2.GaussianBlur(view, (5, 5), rng.uniform(0.4, 1.4), view)
        if rng.random() < strength.jpeg:
            view[:] = jpeg.decode(jpeg.encode(view, int(rng.integers(40, 90))))
    return views


_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_BORDER = cv2.BORDER_REFLECT_101


def _placement(tile: int, side: int, strength: Strength, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The affine map from px of the view to px of the tile."""
    low, high = strength.crop
    shown = low * (high / low) ** rng.random()
    angle = rng.uniform(0, 2 * np.pi)
    scale = shown / side
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([rng.choice([-1.0, 1.0]), 1.0])
    slack = max(0.0, (tile - shown) / 2)
    centre = tile / 2 + rng.uniform(-slack, slack, 2)
    return np.column_stack([turn, centre - turn @ np.array([side / 2, side / 2])])


def lay(tile: npt.NDArray[np.uint8], side: int, scale: float, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The middle of a tile (T, T, 3) as (side, side, 3): turned by any angle, magnified by `scale`, mirrored or not.

    Beyond its edge it goes on mirrored.
    """
    turn = cv2.getRotationMatrix2D(
        ((tile.shape[1] - 1) / 2, (tile.shape[0] - 1) / 2), float(rng.uniform(0, 360)), scale
    )
    turn[:, 2] += (side - tile.shape[0]) / 2
    laid = np.empty((side, side, 3), np.uint8)
    cv2.warpAffine(tile, turn, (side, side), laid, cv2.INTER_LINEAR, _BORDER)
    return laid[:, ::-1] if rng.random() < 0.5 else laid


def jitter_stains(tiles: npt.NDArray[np.uint8], strength: Strength, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Tiles (B, H, W, 3) as if stained and scanned otherwise: amounts of haematoxylin and eosin, and the light."""
    changed = np.empty_like(tiles)
    for out, tile in zip(changed, tiles, strict=True):
        density = cv2.transform(cv2.LUT(tile, DENSITY), -_stain_change(strength, rng))
        cv2.convertScaleAbs(cv2.exp(density), out, 255)
    return changed


#: Optical density of each value of a pixel.
DENSITY = -np.log(np.maximum(np.arange(256), 1).astype(np.float32) / 255)


def _stain_change(strength: Strength, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The affine map (3, 4) from optical densities of R, G, B to changed ones."""
    amount = np.exp(rng.uniform(-strength.stain, strength.stain, 3))
    added = rng.uniform(-strength.background, strength.background, 3) @ STAINS
    light = rng.uniform(-strength.brightness, strength.brightness / 3)  # darker glass is common, whiter is not
    matrix = np.linalg.inv(STAINS) @ np.diag(amount) @ STAINS
    return np.column_stack([matrix.T, added - light])
