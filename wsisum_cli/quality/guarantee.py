"""The smallest region of tissue that is guaranteed to be represented: computed, not asserted.

"Every tissue area of at least X mm² has a patch within cosine Y of a kept one." Badly served patches, those below Y,
are put together with their eight neighbours on the grid. An area of connected patches that is one patch larger than
the largest such region cannot be badly served throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Coords

#: mm² in a µm².
MM2 = 1e-6


@dataclass(frozen=True)
class Guarantee:
    """For how large a region each cosine is guaranteed.

    `cosine` (N,) float64 rises; `largest` (N,) int64 is the number of patches in the largest region of patches that
    are served with at most that cosine. `patch_mm2` is the area of a patch.
    """

    cosine: npt.NDArray[np.float64]
    largest: npt.NDArray[np.int64]
    patch_mm2: float

    def area(self, cosine: float) -> float:
        """mm² of the smallest region that surely has a patch of at least `cosine`; above all tissue where none has."""
        below = int(np.searchsorted(self.cosine, cosine, side="left"))
        return (1 + (int(self.largest[below - 1]) if below else 0)) * self.patch_mm2

    def cosine_of(self, area: float) -> float:
        """The highest cosine that every region of at least `area` mm² surely has a patch of; -1 below one patch."""
        patches = int(np.floor(area / self.patch_mm2 + 1e-9))  # whole patches that such an area holds at least
        if patches < 1:
            return -1.0
        too_large = np.flatnonzero(self.largest >= patches)
        return float(self.cosine[too_large[0] if len(too_large) else -1])


#: Cosines for which a summary states the area.
STATED = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def guaranteed(
    coords: Coords, patch_size_level0: float, mpp: float, similarity: npt.NDArray[np.floating]
) -> dict[str, Any]:
    """What a summary states: at the 5th percentile of all cosines, and at round ones that fewer regions reach.

    Similarities count as precisely as a summary stores them.
    """
    stored = similarity.astype(np.float16).astype(np.float64)
    found = guarantee(coords, patch_size_level0, mpp, stored)
    cosine = round(float(np.percentile(stored, 5)), 4)
    areas = {f"{at:g}": round(found.area(at), 6) for at in STATED}
    return {"cosine": cosine, "area_mm2": round(found.area(cosine), 6), "areas_mm2": areas}


def guarantee(coords: Coords, patch_size_level0: float, mpp: float, similarity: npt.NDArray[np.floating]) -> Guarantee:
    """From where all N patches lie, (N, 2) level-0 px, and the cosine (N,) of each to its nearest kept patch.

    `mpp` is µm per px at level 0. Patches need not lie on one grid; those are neighbours whose places, in whole
    sides of a patch, differ by one at most.
    """
    places = np.rint((coords - coords.min(axis=0)) / patch_size_level0).astype(np.int64)
    order = np.argsort(similarity, kind="stable")
    sizes = _growth([(int(x), int(y)) for x, y in places[order]])
    cosine = similarity[order].astype(np.float64)
    last = np.searchsorted(cosine, cosine, side="right") - 1  # equal ones come in together
    return Guarantee(cosine, sizes[last], (patch_size_level0 * mpp) ** 2 * MM2)


def _growth(places: list[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """The size of the largest region after each of the places has come in, by union and find."""
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
