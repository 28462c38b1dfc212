"""The tissue patches of a slide, the input of every selector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.embedding import Tokens
from wsisum_cli.features.vectors import Coords, Features, Rows
from wsisum_cli.models.choice import NO_MODELS, SlideModels
from wsisum_cli.selection.candidates import Candidates
from wsisum_cli.selection.facility import Pool, pool_of
from wsisum_cli.selection.suspects import pickable_rows


@dataclass(frozen=True)
class TissuePatches:
    """All N tissue patches, and what selectors need.

    `features` (N, D); `coords` (N, 2) level-0 px; `candidates` is their clustered sample. `patch_size_level0` is the
    side of a patch, which models need; `models` are those that match the features, none by default. `seed` decides
    every draw. `rare`, 0 to 1, is the fraction of kept patches reserved for rare tissue, which the others cover
    worst; None: the default. `suspect` (N,) bool marks tissue that may be pen, a fold or out of focus; it is picked
    only where no clean patch stands for it; None where nobody looked. `threads` changes nothing but the time.
    """

    features: Features
    coords: Coords
    candidates: Candidates
    seed: int = 0
    patch_size_level0: int = 1
    models: SlideModels = NO_MODELS
    rare: float | None = None
    suspect: npt.NDArray[np.bool_] | None = None
    threads: int = 1

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.features, self.coords, self.patch_size_level0)

    @cached_property
    def pickable(self) -> Rows:
        """Ascending rows that may be picked before any other: all but suspects that something clean stands for."""
        return pickable_rows(self.suspect, self.coords, self.patch_size_level0)

    def of(self, rows: Rows) -> TissuePatches:
        """Some of the patches alone, as if there were no others; `rows` ascend."""
        labels = np.unique(self.candidates.cluster[rows], return_inverse=True)[1].astype(np.int16)  # without gaps
        candidates = Candidates(np.flatnonzero(np.isin(rows, self.candidates.rows)), labels)
        return replace(
            self, features=self.features[rows], coords=self.coords[rows], candidates=candidates, suspect=None
        )

    @cached_property
    def pool(self) -> Pool:
        """The pool of facility location. Computed once; takes 80 MB, or 4 kB per patch above 20,000 patches."""
        return pool_of(self.features, self.candidates.cluster, self.seed, self.pickable)

    def free_pool(self) -> None:
        """Forget the pool; it is computed again where it is asked for."""
        self.__dict__.pop("pool", None)
