"""Features of tissue with groups of unequal size."""

from __future__ import annotations

import numpy as np

from wsisum_cli.features.embedding import Tokens


def tissue(patches: int = 600, seed: int = 0) -> Tokens:
    """Groups of unequal size, with some noise."""
    rng = np.random.default_rng(seed)
    group = np.minimum(rng.geometric(0.08, patches), 40)
    features = rng.normal(size=(41, 12))[group] + 0.7 * rng.normal(size=(patches, 12))
    side = int(np.ceil(np.sqrt(patches)))
    coords = np.stack([np.arange(patches) % side, np.arange(patches) // side], axis=1) * 64
    return Tokens(features.astype(np.float32), coords, 64)
