"""Summaries for figures, without a file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from records import base_attributes

from wsisum_cli.errors import SummaryError
from wsisum_cli.quality.likeness import Likeness
from wsisum_cli.quality.represented import TissuePlaces, describe_represented
from wsisum_cli.summary.attribute_checks import parse_attributes
from wsisum_cli.summary.attributes import Attributes
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
        self.counts = np.diff(np.linspace(0, 1234, count + 1).astype(int)).astype(np.int32)
        self.patches: list[np.ndarray] = [np.full((256, 256, 3), self.colour(row), np.uint8) for row in range(count)]
        self.attributes: dict[str, Any] = base_attributes()
        self.attributes["source"] |= {
            "name": "stub.svs",
            "width": width * downsample,
            "height": height * downsample,
            "bytes": 30_000_000,
        }
        self.attributes["patch"]["patch_size_level0"] = SIDE
        self.attributes["tissue_patches"] = 1234
        self.attributes["encoder"]["name"] = "texture"
        self.attributes["options"]["selector"] = "facility"

    @property
    def record(self) -> Attributes:
        """The attributes as typed data, as `Summary.record` has them."""
        try:
            return parse_attributes(self.attributes)
        except ValueError as error:
            raise SummaryError(f"{self.name}: the attributes are wrong") from error

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
        self.counts = np.bincount(self.tissue.representative, minlength=count).astype(np.int32)
        self.cluster = self.tissue.cluster[:count]
        self.arrays: dict[str, np.ndarray] = {}
        self.represent(0.75)

    def represent(self, cosine: float, unread: int = 0) -> None:
        """Record what is represented from this cosine on, as format 1.4 does."""
        places = TissuePlaces(self.tissue.coords, SIDE, self.attributes["source"]["mpp"], unread)
        likeness, tissue = Likeness(cosine, 10, 0.9), self.tissue
        section = describe_represented(places, likeness, tissue.representative, tissue.similarity, None)
        self.attributes |= {"represented": section, "format_version": "1.4"}

    def optional(self, name: str) -> np.ndarray | None:
        return self.arrays.get(name)
