"""What only some summaries hold, and how a notebook shows any: `Summary` has these properties."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.extras.notebook import as_html
from wsisum_cli.summary.extras.tissue_features import PACKED, TISSUE_FEATURES, PackedFeatures, join_packed
from wsisum_cli.summary.writer import REEMBEDDED


class Additions:
    """Arrays that were added to a summary, or stored because somebody asked for them. They raise SummaryError."""

    name: str

    if TYPE_CHECKING:  # of the summary

        @cached_property
        def record(self) -> Attributes: ...
        @cached_property
        def embedding(self) -> np.ndarray: ...
        @cached_property
        def overview(self) -> np.ndarray: ...
        def array(self, name: str) -> np.ndarray: ...

    @cached_property
    def reembedded(self) -> tuple[np.ndarray, ...]:
        """(K, E) float16 features by each encoder of the attribute `reembedded`; nothing else rests on them."""
        return tuple(self.array(f"{REEMBEDDED}/{place}") for place in range(len(self.record.reembedded or ())))

    @cached_property
    def tissue_features(self) -> np.ndarray | None:
        """(N, D) float32 features of all tissue patches, unpacked from a few bytes each; None where there are none."""
        return None if (packed := self.packed_features) is None else packed.unpack(self.embedding)

    @cached_property
    def packed_features(self) -> PackedFeatures | None:
        """The same, packed."""
        if self.record.tissue_features is None:
            return None
        codes, basis, scale = (self.array(f"{TISSUE_FEATURES}/{name}") for name in PACKED)
        try:
            return join_packed(codes, basis, scale, self.record.tissue_patches, len(self.embedding))
        except ValueError as error:
            raise SummaryError(f"{self.name}: {error}; run wsisum verify on it") from error

    def _repr_html_(self) -> str:
        return as_html(self)
