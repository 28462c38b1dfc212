"""Tissue too faint to be called tissue is said to be there; glass is not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from draw import MPP, draw_tissue, reduce
from numpy.typing import NDArray

from wsisum_cli.tissue.mask import Survey, survey_overview

NOTED = 0.05  # of the tissue's area, above which a summary has a note
DOWNSAMPLE, SIDE = 32, 2400
GLASS = 243


@cache
def drawn() -> tuple[NDArray[np.uint8], ...]:
    return tuple(draw_tissue(SIDE, SIDE, seed) for seed in (0, 1))


def overview(strength: float, glass: int) -> NDArray[np.uint8]:
    """Two pieces of drawn tissue, one of them at this strength of the stain, and so many widths of glass beside it."""
    stained, other = (image.astype(np.float32) for image in drawn())
    empty = np.full((SIDE, SIDE * glass, 3), GLASS, np.float32)
    image = np.hstack([stained, GLASS + strength * (other - other.max(axis=(0, 1))), empty])
    noisy = image + np.random.default_rng(0).normal(0, 1.5, image.shape).astype(np.float32)
    return reduce(np.clip(noisy, 0, 255).astype(np.uint8), DOWNSAMPLE)


def survey(strength: float, glass: int) -> Survey:
    return survey_overview(overview(strength, glass), MPP * DOWNSAMPLE)


@pytest.mark.parametrize(("strength", "glass"), [(0.08, 2), (0.05, 0)], ids=["beside-glass", "as-much-as-glass"])
def test_faint_tissue_is_noted_and_not_called_tissue(strength: float, glass: int):
    """What is found as tissue decides the bytes of a summary; a note does not."""
    found, clear = survey(strength, glass), survey(0.0, glass)
    assert clear.unexplained_share <= NOTED < found.unexplained_share
    assert found.tissue.sum() < 1.05 * clear.tissue.sum()
