"""The tissue patches of a slide, as those see them who pick from them."""

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
    """All N tissue patches, and what helps to choose among them.

    `features` (N, D); `coords` (N, 2) level-0 px; `candidates` the clustered sample of them. `patch_size_level0` is
    the side of a patch, which models need; `models` are those that serve these features, by default none. `seed`
    decides every draw. `rare`, 0 to 1, is the share of the kept patches that goes to what the others serve worst;
    None: the usual one.
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
        """Those that facility location picks from. Made once; 80 MB, past 20,000 patches 4 kB for each."""
        return pool_of(self.features, self.candidates.cluster, self.seed)
