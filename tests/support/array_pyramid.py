"""A pyramid whose levels are arrays, and one whose levels are shown with other colours than they have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.slides.checks.repair import WrappedPyramid
from wsisum_cli.slides.pixels import shrunk
from wsisum_cli.slides.pyramid import Level, Pyramid, downsample

Image = NDArray[np.uint8]
Change = Callable[[Image], Image]


class ArrayPyramid(Pyramid):
    """Tiles of 256 px of the arrays given, level 0 first."""

    path, reader, vendor, scanner, icc_profile = Path("array.svs"), "arrays", "none", None, None
    mpp, mpp_source = (0.25, 0.25), "stated"

    def __init__(self, images: Sequence[Image], tile: int = 256) -> None:
        self._images = images
        height, width = images[0].shape[:2]
        self.levels = tuple(
            Level(image.shape[1], image.shape[0], tile, tile, downsample(width, height, *image.shape[1::-1]))
            for image in images
        )

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> Image:
        side = self.levels[level].tile_width
        part = self._images[level][row * side : (row + 1) * side, column * side : (column + 1) * side]
        return np.ascontiguousarray(shrunk(part, shrink))

    def close(self) -> None:
        pass


class ChangedPyramid(WrappedPyramid):
    """Some levels of another pyramid with their pixels changed."""

    def __init__(self, pyramid: Pyramid, levels: Collection[int], change: Change) -> None:
        super().__init__(pyramid)
        self._changed, self._change = levels, change

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> Image | None:
        tile = self.inner.tile(level, column, row, shrink)
        return tile if tile is None or level not in self._changed else np.ascontiguousarray(self._change(tile))
