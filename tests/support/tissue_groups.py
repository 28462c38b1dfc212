"""Features of tissue with groups of unequal size, and the figures of some of its patches."""

from __future__ import annotations

import numpy as np

from wsisum_cli.features.embedding import Tokens
from wsisum_cli.quality.measures import measure_selection
from wsisum_cli.selection.selectors import weigh


def tissue(patches: int = 600, seed: int = 0) -> Tokens:
    """Groups of unequal size, with some noise."""
    rng = np.random.default_rng(seed)
    group = np.minimum(rng.geometric(0.08, patches), 40)
    features = rng.normal(size=(41, 12))[group] + 0.7 * rng.normal(size=(patches, 12))
    side = int(np.ceil(np.sqrt(patches)))
    coords = np.stack([np.arange(patches) % side, np.arange(patches) // side], axis=1) * 64
    return Tokens(features.astype(np.float32), coords, 64)


def figures(tokens: Tokens, cluster: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Figures by name of the patches at `rows`."""
    return vars(measure_selection(tokens.features, weigh(tokens.features, rows), cluster))
