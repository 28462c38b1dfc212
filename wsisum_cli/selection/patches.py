"""The tissue patches of a slide, the input of every selector."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from wsisum_cli.features.embedding import Tokens
from wsisum_cli.features.vectors import Coords, Features
from wsisum_cli.models.choice import NO_MODELS, SlideModels
from wsisum_cli.selection.candidates import Candidates
from wsisum_cli.selection.facility import Pool, pool_of


@dataclass(frozen=True)
class TissuePatches:
    """All N tissue patches, and what selectors need.

    `features` (N, D); `coords` (N, 2) level-0 px; `candidates` is their clustered sample. `patch_size_level0` is the
    side of a patch, which models need; `models` are those that match the features, none by default. `seed` decides
    every draw. `rare`, 0 to 1, is the fraction of kept patches reserved for rare tissue, which the others cover
    worst; None: the default.
    """

    features: Features
    coords: Coords
    candidates: Candidates
    seed: int = 0
    patch_size_level0: int = 1
    models: SlideModels = NO_MODELS
    rare: float | None = None

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.features, self.coords, self.patch_size_level0)

    @cached_property
    def pool(self) -> Pool:
        """The pool of facility location. Computed once; takes 80 MB, or 4 kB per patch above 20,000 patches."""
        return pool_of(self.features, self.candidates.cluster, self.seed)
