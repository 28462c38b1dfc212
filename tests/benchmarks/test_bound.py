"""The bound that benchmarks hold coverage against: small cases, in which every choice can be looked at."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from bound import can_cover, greatest_coverage

from wsisum_cli.features.vectors import unit_rows


@pytest.mark.parametrize("seed", range(12))
def test_what_can_be_covered_is_what_the_best_of_all_choices_covers(seed):
    rng = np.random.default_rng(seed)
    patches, keep = int(rng.integers(8, 15)), int(rng.integers(1, 5))
    units = unit_rows(rng.normal(size=(patches, int(rng.integers(2, 6)))))
    served = (units @ units.T).astype(np.float32)
    best = max(float(served[list(kept)].max(axis=0).mean()) for kept in combinations(range(patches), keep))
    assert can_cover(served, keep, best - 1e-5)
    assert can_cover(served, keep, best + 1e-5) is False
    assert greatest_coverage(served, keep, best) > best - 1e-6
