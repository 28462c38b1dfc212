"""Features are computed again from the stored pixels, in several threads."""

from __future__ import annotations

import numpy as np
import pytest
from summaries import STUB

from wsisum_cli.verification.content import encode_batches


@pytest.mark.parametrize("count", [1, STUB.batch_size, 2 * STUB.batch_size + 3])
def test_features_keep_their_order_in_any_number_of_threads(count: int):
    side = STUB.card.patch_size
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(encode_batches(STUB, pixels, threads), STUB(pixels))
