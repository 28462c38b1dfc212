"""Select the kept patches, their representatives and weights, from all tissue patches.

Selectors are interchangeable: `wsisum` (see `selection.wsisum`), `facility`, WSISum's own search `attempts`, and the
baselines. For those in `NESTED`, the picks for K are the first K of the picks for K + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.embedding import ReconstructionScore
from wsisum_cli.features.similarity import nearest
from wsisum_cli.features.vectors import Features, Rows, checked
from wsisum_cli.selection.baselines import (
    pick_attempts,
    pick_attention,
    pick_cluster,
    pick_entropy,
    pick_location,
    pick_random,
)
from wsisum_cli.selection.facility import greedy
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.prefixes import Prefixes, prefixes_of
from wsisum_cli.selection.weights import fit_weights
from wsisum_cli.selection.wsisum import pick_in_rounds

#: tissue_patches, keep -> rows (K,) of N, in order of picking.
Selector = Callable[[TissuePatches, int], Rows]


@dataclass(frozen=True)
class Selection:
    """The K kept patches of N, and the representative of every patch.

    `rows` (K,) int64: rows of N, in order of picking.
    `weights` (K,) float64: make the weighted mean closest to the slide's mean; they sum to 1.
    `counts` (K,) int64: how many of the N patches each represents, itself included.
    `representative` (N,) int32: which of the K represents the patch, 0..K-1.
    `similarity` (N,) float32: cosine to the representative.
    `prefixes`: the representatives for every smaller K.
    """

    rows: Rows
    weights: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    prefixes: Prefixes
    representative: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float32]


def pick(tissue_patches: TissuePatches, keep: int, selector: str = "wsisum") -> Rows:
    """Pick `keep` of the N patches: rows (K,) in order of picking; suspect ones last, where they are not needed.

    `selector` is one of `SELECTORS`. Raises ValueError when `keep` is not in 1..N, the selector is unknown, or the
    features are empty, not finite, or do not match the coords; UsageError or ModelError if a needed model is unusable.
    """
    features = checked(tissue_patches.features)
    count, places, clusters = len(features), len(tissue_patches.coords), len(tissue_patches.candidates.cluster)
    if selector not in SELECTORS:
        raise ValueError(f"no selector {selector!r}; choose one of {', '.join(SELECTORS)}")
    if not 1 <= keep <= count:
        raise ValueError(f"keep must be in 1..{count}, the number of tissue patches; found {keep}")
    if not count == places == clusters:
        raise ValueError(
            f"features, coords and clusters must have the same length; found {count}, {places} and {clusters}"
        )
    pickable = tissue_patches.pickable
    if selector in POOLED or len(pickable) == count:
        return SELECTORS[selector](tissue_patches, keep)
    if selector in NESTED:
        order = SELECTORS[selector](tissue_patches, count)
        may = np.isin(order, pickable)
        return np.concatenate([order[may], order[~may]])[:keep]
    picked = pickable[SELECTORS[selector](tissue_patches.of(pickable), min(keep, len(pickable)))]
    return _with_worst_covered(features, picked, keep)


def weigh(features: Features, rows: Rows) -> Selection:
    """Find each patch's representative, the most similar of the picked `rows` (K,), and fit their weights."""
    features = checked(features)
    prefixes = prefixes_of(features, rows)
    representative, similarity = prefixes.of(len(rows))
    counts = np.bincount(representative, minlength=len(rows))
    weights = fit_weights(features[rows], features.mean(axis=0, dtype=np.float64), counts)
    return Selection(rows, weights, counts, prefixes, representative, similarity)


def select(tissue_patches: TissuePatches, keep: int, selector: str = "wsisum") -> Selection:
    """Run `pick`, then `weigh`."""
    return weigh(tissue_patches.features, pick(tissue_patches, keep, selector))


def pick_wsisum(tissue_patches: TissuePatches, keep: int) -> Rows:
    """Facility location with a rarity quota and swaps. Beyond the pool, the worst covered patches follow."""
    features = checked(tissue_patches.features)
    summarizer, score = tissue_patches.models.summarizer, None
    if summarizer is not None:
        candidates = tissue_patches.candidates.rows
        score = ReconstructionScore(summarizer, tissue_patches.tokens, candidates, tissue_patches.threads)
    return _with_worst_covered(
        features, pick_in_rounds(features, tissue_patches.pool, keep, tissue_patches.rare, score), keep
    )


def pick_facility(tissue_patches: TissuePatches, keep: int) -> Rows:
    """Greedy facility location over all patches. Beyond the pool, the worst covered patches follow."""
    pool = tissue_patches.pool
    return _with_worst_covered(tissue_patches.features, pool.rows[greedy(pool.served, keep)], keep)


def _with_worst_covered(features: Features, picked: Rows, keep: int) -> Rows:
    if len(picked) == keep:
        return picked
    _, similarity = nearest(features, features[picked])
    similarity[picked] = np.inf
    return np.concatenate([picked, np.argsort(similarity, kind="stable")[: keep - len(picked)]])


#: All selectors; the first is the default.
SELECTORS: dict[str, Selector] = {
    "wsisum": pick_wsisum,
    "facility": pick_facility,
    "attempts": pick_attempts,
    "random": pick_random,
    "cluster": pick_cluster,
    "location": pick_location,
    "entropy": pick_entropy,
    "attention": pick_attention,
}

#: Selectors that pick from `TissuePatches.pool`, which holds no suspects that something clean stands for.
POOLED = frozenset({"wsisum", "facility"})

#: Selectors whose picks for K are the first K of the picks for any larger number.
NESTED = frozenset({"wsisum", "facility", "random", "entropy", "attention"})
