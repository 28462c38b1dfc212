"""Pixels of the kept patches, as they are stored: the slide's own tiles, or one new JPEG stream a patch."""

from __future__ import annotations

from typing import Any

import numpy as np

from wsisum_cli import jpeg
from wsisum_cli.damage import Damage
from wsisum_cli.errors import BrokenSlideError, SlideError
from wsisum_cli.grid import MAX_PULL, Grid, pull
from wsisum_cli.patch import Reading, read_patches
from wsisum_cli.pyramid import Pyramid
from wsisum_cli.slide import Slide
from wsisum_cli.summary import SourceTiles

Pixels = SourceTiles | list[bytes]  # the source's tiles that cover the kept patches, or one JPEG stream a patch


def kept_pixels(
    slide: Slide, grid: Grid, rows: np.ndarray, mode: str, quality: int, damage: Damage, threads: int
) -> Pixels:
    """Pixels of the (K,) `rows` of the grid. `mode` is source, jpeg, or auto: copied where that is allowed and cheap.

    Raises SlideError or one of its children.
    """
    kept = grid.coords[rows]
    copyable = slide.pyramid.copies_jpeg(grid.reading.level)
    if mode == "source" and not copyable:
        raise SlideError(
            f"{slide.name}: its tiles are not JPEG that can be copied; use --pixels auto or jpeg",
            "no JPEG tiles",
        )
    cheap = pull(kept, grid.patch_size_level0, grid.reading) <= MAX_PULL
    if copyable and (mode == "source" or (mode == "auto" and cheap)):
        tiles = copy_tiles(slide.pyramid, grid.reading, kept)
        if all(jpeg.frame_size(tile) == tiles.side and jpeg.holds_only_pixels(tile) for tile in tiles.streams):
            return tiles
        if mode == "source":
            raise SlideError(
                f"{slide.name}: its tiles hold more than pixels (comments, or data of another program), which may "
                "name a patient, or have odd sizes; use --pixels auto or jpeg",
                "no plain JPEG tiles",
            )
    return encode_kept(slide, grid.reading, kept, quality, damage, threads)


def encode_kept(
    slide: Slide, reading: Reading, kept: np.ndarray, quality: int, damage: Damage, threads: int
) -> list[bytes]:
    """One new JPEG stream a patch. Raises BrokenSlideError."""
    streams: dict[int, bytes] = {}
    for found, patches in read_patches(slide.pyramid, kept, reading, damage, threads):
        for row, patch in zip(found.tolist(), patches, strict=True):
            streams[row] = jpeg.encode(patch, quality)
    if len(streams) < len(kept):
        raise BrokenSlideError(f"{slide.name}: a patch of the given features cannot be read; fetch the file again")
    return [streams[row] for row in range(len(kept))]


def copy_tiles(pyramid: Pyramid, reading: Reading, kept: np.ndarray) -> SourceTiles:
    """Every tile that the kept patches touch, once, row by row of tiles. Raises TileError when one is broken."""
    level = pyramid.levels[reading.level]
    touched = {tile for x, y in kept.tolist() for tile in reading.tiles(x, y)}
    tiles = [
        (tile, encoded)
        for tile in sorted(touched, key=lambda at: (at[1], at[0]))
        if (encoded := pyramid.encoded_tile(reading.level, *tile)) is not None
    ]
    for tile, _ in tiles:
        pyramid.tile(reading.level, *tile, reading.shrink)  # given features may lie where nothing can be decoded
    return SourceTiles(
        positions=np.array([tile for tile, _ in tiles], np.int32).reshape(-1, 2),
        spliced=np.array([encoded.spliced for _, encoded in tiles], np.int32),
        streams=[encoded.stream for _, encoded in tiles],
        side=(level.tile_height, level.tile_width),
    )


def describe_pixels(pixels: Pixels, quality: int) -> dict[str, Any]:
    """The attribute `pixels`, without what encoding cost the features."""
    if isinstance(pixels, SourceTiles):
        return {"mode": "source", "tiles": len(pixels.streams)}
    return {"mode": "jpeg", "quality": quality, "subsampling": "4:4:4"}
