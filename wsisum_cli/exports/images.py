"""Pixels of the kept patches as image files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.exports.folders import put
from wsisum_cli.exports.options import AUTO, FULL, JPEG, PNG
from wsisum_cli.figures.canvas import save_png, stored_mpp
from wsisum_cli.slides.patches import Reading, Tile, cut_patch
from wsisum_cli.summary.reader import SourcePatches, Summary


@dataclass(frozen=True)
class PatchImages:
    """How the patches of a summary are written."""

    suffix: str
    mpp: float  # µm per px of the files
    write: Callable[[int, Path], None]  # the patch of this row, to a new file


def choose_images(summary: Summary, images: str) -> PatchImages:
    """How to write the patches; `images` is one of `options.IMAGES`. Raises SummaryError where there are none such."""
    patches, record = summary.patches, summary.record
    tiles = patches if isinstance(patches, SourcePatches) else None
    if images == JPEG and tiles is not None:
        raise SummaryError(
            f"{summary.name}: expected one JPEG stream for each patch, found the scanner's tiles, which are no "
            "patches; use --images png or full"
        )
    if tiles is None and images in (AUTO, JPEG):
        return PatchImages(".jpg", record.patch.mpp, lambda row, path: put(path, patches.shard.stream(row)))
    if tiles is not None and images == FULL:
        return PatchImages(
            ".png", stored_mpp(record), lambda row, path: save_png(path, at_full_resolution(tiles, summary, row))
        )
    return PatchImages(".png", record.patch.mpp, lambda row, path: save_png(path, patches[row]))


def best_images(summary: Summary) -> PatchImages:
    """PNG at the resolution at which the pixels are stored."""
    return choose_images(summary, FULL if isinstance(summary.patches, SourcePatches) else PNG)


def at_full_resolution(patches: SourcePatches, summary: Summary, row: int) -> np.ndarray:
    """The patch as the scanner's tiles show it, not reduced to what the encoder sees: (S, S, 3) uint8 RGB."""
    rows: dict[Tile, int] = {(c, r): index for index, (c, r) in enumerate(patches.positions.tolist())}

    def tile(at: Tile) -> np.ndarray | None:
        return patches.shard.decoded(rows[at]) if at in rows else None

    x, y = summary.coords[row].tolist()
    return cut_patch(unreduced(patches.reading), x, y, tile)


def unreduced(reading: Reading) -> Reading:
    """The same reading without decoding smaller and without resizing."""
    factor, side = reading.shrink, reading.side * reading.shrink
    return replace(
        reading,
        shrink=1,
        scale=reading.scale / factor,
        side=side,
        patch_size=side,
        tile_width=reading.tile_width * factor,
        tile_height=reading.tile_height * factor,
        width=reading.width * factor,
        height=reading.height * factor,
    )
