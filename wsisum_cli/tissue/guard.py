"""Artefacts kept out of the tissue, as the pixels of all patches pass by, or by looking at what would be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from wsisum_cli.errors import BrokenSlideError
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import read_patches
from wsisum_cli.slides.slide import Slide
from wsisum_cli.tissue.artefacts import STATISTICS, Artefacts, Kinds, classify, measure
from wsisum_cli.tissue.grid import Grid

#: (L,) rows that are left -> which of them would be kept, (K,) indices into these.
Pick = Callable[[np.ndarray], np.ndarray]

FEWEST, LEAST = 8, 0.05  # patches, and share of them, that are left at least
SAMPLE = 64  # patches


class Watch:
    """Statistics of the patches of a grid, taken as their pixels pass by; may be called from several threads."""

    def __init__(self, slide: Slide, grid: Grid) -> None:
        self.statistics = np.zeros((len(grid.coords), len(STATISTICS)), np.float32)
        self._mpp = slide.mpp * grid.patch_size_level0 / grid.reading.patch_size

    def __call__(self, rows: np.ndarray, pixels: np.ndarray) -> None:
        self.statistics[rows] = measure(pixels, self._mpp)


def part(coords: np.ndarray, kinds: Kinds) -> tuple[np.ndarray, Artefacts]:
    """The (M,) ascending rows that stay tissue of the (N, 2) coords, and the artefacts; `kinds` (N,) are codes.

    Where hardly anything would be left, fewer than 8 patches or 5 %, all stay, and the artefacts are marked as ignored.
    """
    found, ignored = np.flatnonzero(kinds), too_few(kinds)
    artefacts = Artefacts(coords[found].astype(np.int32), kinds[found], len(kinds), ignored)
    return np.arange(len(kinds)) if ignored else np.flatnonzero(kinds == 0), artefacts


def too_few(kinds: Kinds) -> bool:
    """Whether something is to be left out, and hardly anything else is there."""
    clean = np.count_nonzero(kinds == 0)
    return bool(clean < len(kinds) and clean < max(FEWEST, LEAST * len(kinds)))


def part_picked(
    slide: Slide, grid: Grid, pick: Pick, damage: Damage, threads: int, guarded: bool
) -> tuple[np.ndarray, Artefacts]:
    """As `part`, where nothing of the slide has been read: no more is looked at than a sample and what would be kept.

    Picks on broken tiles are left out, and artefacts where `guarded`; then others are picked in their place, until all
    can be kept. The sample, evenly spread, shows what the slide is like. Raises BrokenSlideError.
    """
    watch, count = Watch(slide, grid), len(grid.coords)
    kinds, seen = np.zeros(count, np.uint8), np.zeros(count, bool)

    def look(rows: np.ndarray) -> None:
        for read, pixels in read_patches(slide.pyramid, grid.coords[rows], grid.reading, damage, threads):
            seen[rows[read]] = True
            if guarded:
                watch(rows[read], pixels)
        damage.check(slide.name)

    if guarded:
        look(np.unique(np.linspace(0, count - 1, SAMPLE).astype(int)))
    rows = left = np.arange(count)
    while True:
        picked = rows[pick(rows)]
        look(picked[~seen[picked]])
        left = np.setdiff1d(left, picked[~seen[picked]])
        if not len(left):
            raise BrokenSlideError(f"{slide.name}: not one patch of the given features can be read")
        if guarded:  # what was left out stays out, also where the slide is known better by now
            kinds[seen] = np.where(kinds[seen] > 0, kinds[seen], classify(watch.statistics[seen]))
        found, artefacts = part(grid.coords[left], kinds[left])
        if np.array_equal(left[found], rows):
            return rows, replace(artefacts, looked_at=int(seen.sum()) if guarded else 0)
        rows = left[found]
