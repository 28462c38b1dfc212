"""The smallest tissue region that is guaranteed to be represented: computed, not asserted.

"Every tissue area of at least X mm² has a patch within cosine Y of a kept one." Badly covered patches, those below Y,
are joined to regions with their eight neighbours on the grid. A connected area one patch larger than the largest such
region must contain a well covered patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Coords

#: mm² per µm².
MM2 = 1e-6


@dataclass(frozen=True)
class Guarantee:
    """The region size from which each cosine is guaranteed.

    `cosine` (N,) float64 ascends; `largest` (N,) int64 is the number of patches in the largest region whose patches all
    have at most that cosine. `patch_mm2` is the area of a patch.
    """

    cosine: npt.NDArray[np.float64]
    largest: npt.NDArray[np.int64]
    patch_mm2: float

    def area(self, cosine: float) -> float:
        """Smallest area in mm² that always holds a patch of at least `cosine`; more than all tissue if none does."""
        below = int(np.searchsorted(self.cosine, cosine, side="left"))
        return (1 + (int(self.largest[below - 1]) if below else 0)) * self.patch_mm2

    def cosine_of(self, area: float) -> float:
        """Highest cosine reached by a patch in every region of at least `area` mm²; -1 below one patch."""
        patches = int(np.floor(area / self.patch_mm2 + 1e-9))  # whole patches in such an area
        if patches < 1:
            return -1.0
        too_large = np.flatnonzero(self.largest >= patches)
        return float(self.cosine[too_large[0] if len(too_large) else -1])


#: Cosines for which a summary records the area.
STATED = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def guaranteed(
    coords: Coords, patch_size_level0: float, mpp: float, similarity: npt.NDArray[np.floating]
) -> dict[str, Any]:
    """The attribute `guarantee`: areas at the 5th percentile of all cosines and at the round cosines `STATED`.

    Similarities are rounded to float16, as a summary stores them.
    """
    stored = similarity.astype(np.float16).astype(np.float64)
    found = guarantee(coords, patch_size_level0, mpp, stored)
    cosine = round(float(np.percentile(stored, 5)), 4)
    areas = {f"{at:g}": round(found.area(at), 6) for at in STATED}
    return {"cosine": cosine, "area_mm2": round(found.area(cosine), 6), "areas_mm2": areas}


def guarantee(coords: Coords, patch_size_level0: float, mpp: float, similarity: npt.NDArray[np.floating]) -> Guarantee:
    """Compute the guarantee from positions (N, 2) in level-0 px and each patch's cosine (N,) to its nearest kept one.

    `mpp` is µm per px at level 0. Patches need not lie on one grid: neighbours are those whose positions, in whole
    patch sides, differ by at most one.
    """
    places = np.rint((coords - coords.min(axis=0)) / patch_size_level0).astype(np.int64)
    order = np.argsort(similarity, kind="stable")
    sizes = _growth([(int(x), int(y)) for x, y in places[order]])
    cosine = similarity[order].astype(np.float64)
    last = np.searchsorted(cosine, cosine, side="right") - 1  # equal cosines are added together
    return Guarantee(cosine, sizes[last], (patch_size_level0 * mpp) ** 2 * MM2)


def _growth(places: list[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Size of the largest region after adding each place, by union-find."""
    region: dict[tuple[int, int], int] = {}
    parent, size = list(range(len(places))), [1] * len(places)
    largest, growth = 0, np.empty(len(places), np.int64)
    for number, (x, y) in enumerate(places):
        top = number
        for near in ((x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
            if near in region and (other := _root(parent, region[near])) != top:
                top, other = (top, other) if size[top] >= size[other] else (other, top)
                parent[other] = top
                size[top] += size[other]
        region.setdefault((x, y), number)
        largest = max(largest, size[top])
        growth[number] = largest
    return growth


def _root(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number
