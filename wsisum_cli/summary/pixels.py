"""Pixels of the kept patches as stored: the slide's own tiles, or one new JPEG stream per patch."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from wsisum_cli.errors import BrokenSlideError, SlideError, TileError
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import Tile, read_patches
from wsisum_cli.slides.pyramid import EncodedTile
from wsisum_cli.slides.slide import Slide
from wsisum_cli.summary.stored.jpeg_rows import most_restored
from wsisum_cli.summary.stored.jpeg_xl import transcode
from wsisum_cli.summary.writer import SourceTiles
from wsisum_cli.tissue.grid import MAX_PULL, Grid, pull

Pixels = SourceTiles | list[bytes]  # the source tiles that cover the kept patches, or one JPEG stream per patch


class StoredPixels:
    """Stored pixels of any patches of a grid. Each patch or tile is read only once.

    `mode` is source, jpeg, or auto: copy tiles where that is possible and cheap.
    """

    def __init__(self, slide: Slide, grid: Grid, mode: str, quality: int, damage: Damage, threads: int) -> None:
        self._slide, self._grid, self._mode, self._quality = slide, grid, mode, quality
        self._damage, self._threads = damage, threads
        self._streams: dict[int, bytes] = {}  # by row of the grid
        self._tiles: dict[Tile, EncodedTile | None] = {}
        self._plain: dict[bytes, bool] = {}  # by stream; to find out takes as long as to decode it
        self._transcoded: dict[bytes, bytes | None] = {}  # by stream; None where it does not come back

    def of(self, rows: np.ndarray) -> Pixels:
        """Pixels of the (K,) `rows` of the grid. Raises SlideError or a subclass."""
        slide, grid, mode = self._slide, self._grid, self._mode
        kept = grid.coords[rows]
        copyable = slide.pyramid.copies_jpeg(grid.reading.level)
        if mode == "source" and not copyable:
            raise SlideError(
                f"{slide.name}: its tiles are not JPEG and cannot be copied; use --pixels auto or jpeg",
                "no JPEG tiles",
            )
        cheap = pull(kept, grid.patch_size_level0, grid.reading) <= MAX_PULL
        if copyable and (mode == "source" or (mode == "auto" and cheap)):
            tiles = self._copied_or_none(kept, mode == "source")
            if tiles is not None and all(map(self._is_plain, tiles.streams)):
                return tiles
            if mode == "source":
                raise SlideError(
                    f"{slide.name}: its tiles hold more than pixels (comments or application data, which may name a "
                    "patient), or have odd sizes; use --pixels auto or jpeg",
                    "no plain JPEG tiles",
                )
        return self._encoded(rows)

    def recompressed(self, pixels: Pixels) -> tuple[Pixels, np.ndarray] | None:
        """Pixels as JPEG XL files, and the bytes (rows,) int32 of each JPEG stream, which comes back byte for byte.

        None where one does not, where nothing is saved, or where they hold more px than a reader makes room for.
        """
        streams = streams_of(pixels)
        missing = list(dict.fromkeys(stream for stream in streams if stream not in self._transcoded))
        with ThreadPoolExecutor(self._threads) as pool:
            self._transcoded |= zip(missing, pool.map(transcode, missing), strict=True)
        files = [found for stream in streams if (found := self._transcoded[stream]) is not None]
        size, px = sum(map(len, files)), sum(math.prod(jpeg.frame_size(stream)) for stream in streams)
        most = most_restored(size * 9 // 10)  # zstd may still shrink them
        if len(files) < len(streams) or size >= count_bytes(pixels) or px > most:
            return None
        stored = replace(pixels, streams=files) if isinstance(pixels, SourceTiles) else files
        return stored, np.array([len(stream) for stream in streams], np.int32)

    def _encoded(self, rows: np.ndarray) -> list[bytes]:
        """Encode one new JPEG stream per patch. Raises BrokenSlideError."""
        slide, missing = self._slide, np.array([row for row in rows.tolist() if row not in self._streams], np.int64)
        coords, reading = self._grid.coords[missing], self._grid.reading
        for found, patches in read_patches(slide.pyramid, coords, reading, self._damage, self._threads):
            for row, patch in zip(missing[found].tolist(), patches, strict=True):
                self._streams[row] = jpeg.encode(patch, self._quality)
        if any(row not in self._streams for row in missing.tolist()):
            raise BrokenSlideError(f"{slide.name}: a patch with existing features is unreadable; fetch the file again")
        return [self._streams[row] for row in rows.tolist()]

    def _copied_or_none(self, kept: np.ndarray, needed: bool) -> SourceTiles | None:
        """None where a tile cannot be copied, though its pixels may come from a finer level. Raises TileError."""
        try:
            return self._copied(kept)
        except TileError:
            if needed:
                raise
            return None

    def _copied(self, kept: np.ndarray) -> SourceTiles:
        """The tiles that the kept patches touch, each once, in row order. Raises TileError when one is broken."""
        reading = self._grid.reading
        touched = {tile for x, y in kept.tolist() for tile in reading.tiles(x, y)}
        ordered = sorted(touched, key=lambda at: (at[1], at[0]))
        tiles = [(at, encoded) for at in ordered if (encoded := self._tile(at)) is not None]
        return SourceTiles(
            positions=np.array([at for at, _ in tiles], np.int32).reshape(-1, 2),
            spliced=np.array([encoded.spliced for _, encoded in tiles], np.int32),
            streams=[encoded.stream for _, encoded in tiles],
        )

    def _is_plain(self, stream: bytes) -> bool:
        """Whether a tile has the size of all others, and nothing but pixels in it."""
        if stream not in self._plain:
            level = self._slide.pyramid.levels[self._grid.reading.level]
            side = (level.tile_height, level.tile_width)
            self._plain[stream] = jpeg.frame_size(stream) == side and jpeg.holds_only_pixels(stream)
        return self._plain[stream]

    def _tile(self, at: Tile) -> EncodedTile | None:
        """The encoded tile; None if the source does not store it."""
        if at not in self._tiles:
            pyramid, reading = self._slide.pyramid, self._grid.reading
            self._tiles[at] = pyramid.encoded_tile(reading.level, *at)
            if self._tiles[at] is not None:  # existing features may lie on undecodable tiles
                pyramid.tile(reading.level, *at, reading.shrink)
        return self._tiles[at]


def streams_of(pixels: Pixels) -> list[bytes]:
    return pixels.streams if isinstance(pixels, SourceTiles) else pixels


def count_bytes(pixels: Pixels) -> int:
    """Bytes of all streams."""
    return sum(map(len, streams_of(pixels)))


def describe_pixels(pixels: Pixels, quality: int) -> dict[str, Any]:
    """The attribute `pixels`, without the feature loss of re-encoding."""
    if isinstance(pixels, SourceTiles):
        return {"mode": "source", "tiles": len(pixels.streams)}
    return {"mode": "jpeg", "quality": quality, "subsampling": "4:4:4"}
