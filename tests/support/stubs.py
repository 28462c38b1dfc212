"""Summaries for figures, without a file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from wsisum_cli.summary.writer import TissueMap

SIDE = 512  # level-0 px of a patch


TISSUE = (214, 150, 196)


class Stub:
    """What `draw_summary` needs of a summary: one flat colour for each patch, patches on a regular grid."""

    def __init__(self, count: int = 5, size: tuple[int, int] = (400, 300), downsample: int = 32) -> None:
        width, height = size
        self.name = "stub.ozx"
        self.file = io.BytesIO(bytes(1_500_000))
        self.overview = np.full((height, width, 3), TISSUE, np.uint8)
        columns = max(1, width * downsample // SIDE)
        self.coords = np.array([divmod(i, columns)[::-1] for i in range(count)], np.int32) * SIDE
        weights = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
        self.weights = weights / weights.sum()
        self.patches: list[np.ndarray] = [np.full((256, 256, 3), self.colour(row), np.uint8) for row in range(count)]
        self.attributes: dict[str, Any] = {
            "source": {
                "name": "stub.svs",
                "width": width * downsample,
                "height": height * downsample,
                "mpp": 0.25,
                "bytes": 30_000_000,
            },
            "patch": {"patch_size_level0": SIDE},
            "tissue_patches": 1234,
            "quality": {"coverage": 0.93},
            "encoder": {"name": "texture", "version": "1"},
        }

    @staticmethod
    def colour(row: int) -> tuple[int, int, int]:
        return (40 + row % 200, 90, 230 - row // 2 % 200)


class Mapped(Stub):
    """A stub all of whose overview is tissue; its kept patches are the first of the tissue."""

    def __init__(self, count: int = 5, size: tuple[int, int] = (400, 300), downsample: int = 32) -> None:
        super().__init__(count, size, downsample)
        columns, rows = (max(1, side * downsample // SIDE) for side in size)
        coords = np.array([(x, y) for y in range(rows) for x in range(columns)], np.int32) * SIDE
        number = np.arange(len(coords))
        self.tissue = TissueMap(
            coords,
            (number % count).astype(np.int32),
            (1 - 0.5 * number / max(1, len(number) - 1)).astype(np.float16),
            (number // 40).astype(np.int16),
        )
        self.cluster = self.tissue.cluster[:count]
        self.arrays: dict[str, np.ndarray] = {}
        self.attributes["source"]["sha256"] = "cd" * 32
        self.attributes["encoder"]["sha256"] = "ab" * 32
        self.attributes["features"] = {"origin": "computed"}
        self.attributes["options"] = {"selector": "facility", "seed": 0}
        self.attributes["quality"] = {"coverage": 0.93, "coverage_p05": 0.8, "coverage_min": 0.7}

    def optional(self, name: str) -> np.ndarray | None:
        return self.arrays.get(name)
