"""Features of tissue with groups of unequal size, and the figures of some of its patches."""

from __future__ import annotations

import numpy as np

from wsisum_cli.features.embedding import Tokens
from wsisum_cli.quality.measures import measure_selection
from wsisum_cli.quality.random_draws import Draws
from wsisum_cli.quality.verdict import Chance, compare_with_chance
from wsisum_cli.selection.prefixes import prefixes_of
from wsisum_cli.selection.selectors import weigh


def tissue(patches: int = 600, seed: int = 0, areas: bool = False) -> Tokens:
    """Groups of unequal size, with some noise; few and each in one area with `areas`, else mixed."""
    rng = np.random.default_rng(seed)
    group = np.sort(rng.geometric(0.3, patches).clip(max=8)) if areas else rng.geometric(0.08, patches).clip(max=40)
    features = rng.normal(size=(41, 12))[group] + 0.7 * rng.normal(size=(patches, 12))
    side = int(np.ceil(np.sqrt(patches)))
    coords = np.stack([np.arange(patches) % side, np.arange(patches) // side], axis=1) * 64
    return Tokens(features.astype(np.float32), coords, 64)


def figures(tokens: Tokens, cluster: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Figures by name of the patches at `rows`."""
    return vars(measure_selection(tokens.features, weigh(tokens.features, rows), cluster))


def chance_of(tokens: Tokens, picked: np.ndarray, cosine: float, draws: Draws, keep: int) -> Chance | None:
    """How the first `keep` of the `picked` rows compare with draws."""
    return compare_with_chance(prefixes_of(tokens.features, picked), cosine, draws, keep)
