"""The plain loop that scripts write: read a region, resize it, encode a batch, all in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openslide
from readers import choose_window

from wsisum_cli.models.card import Card
from wsisum_cli.slides.pixels import resize
from wsisum_cli.tissue.grid import Grid

BATCHES = (8, 16, 32, 64)


class PlainEncoder:
    """The encoder's graph in one session that uses all cores, as ONNX Runtime does unless told otherwise."""

    def __init__(self, model: Path, card: Card) -> None:
        self._session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        self._input, self._card = self._session.get_inputs()[0], card
        self.batch_size = fastest(self, card.patch_size)

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """Features (B, D) of patches (B, P, P, 3)."""
        return np.asarray(self._session.run(None, {self._input.name: self._prepared(patches)})[0])

    def _prepared(self, patches: np.ndarray) -> np.ndarray:
        """As the graph takes them: uint8, or normalised float32 (B, 3, P, P)."""
        if self._input.type == "tensor(uint8)":
            return patches
        mean, std = np.array(self._card.mean, np.float32), np.array(self._card.std, np.float32)
        normalised = (patches.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def fastest(encode: Callable[[np.ndarray], Any], side: int) -> int:
    """The batch size that takes the least time a patch on this machine."""

    def seconds(size: int) -> float:
        patches = np.full((size, side, side, 3), 200, np.uint8)
        encode(patches)
        started = time.perf_counter()
        for _ in range(BATCHES[-1] // size):
            encode(patches)
        return time.perf_counter() - started

    return min(BATCHES, key=seconds)


def encode_plainly(path: Path, grid: Grid, encode: PlainEncoder) -> np.ndarray:
    """Features (N, D) of the grid's patches, in their order."""
    side = grid.reading.patch_size
    found: list[np.ndarray] = []
    batch: list[np.ndarray] = []
    with openslide.OpenSlide(path) as slide:
        window = choose_window(slide.level_downsamples, grid)
        for x, y in grid.coords.tolist():
            region = slide.read_region((x, y), window.level, (window.side, window.side)).convert("RGB")
            batch.append(resize(np.asarray(region), side, side))
            if len(batch) == encode.batch_size:
                found.append(encode(np.stack(batch)))
                batch = []
    if batch:
        found.append(encode(np.stack(batch)))
    return np.concatenate(found)
