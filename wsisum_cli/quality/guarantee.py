"""The smallest tissue region that is guaranteed to be represented: computed, not asserted.

"Every tissue area of at least X mm² has a patch within cosine Y of a kept one." Badly covered patches, those below Y,
are joined to regions with their eight neighbours on the grid. A connected area one patch larger than the largest such
region must contain a well covered patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Coords

#: mm² per µm².
MM2 = 1e-6

#: Cells along the side of a patch, in which the area of overlapping patches is counted.
CELLS = 4

#: Distance in patch sides from which on a whole patch fits between two patches.
REACH = 2 - 1e-6
Place = tuple[float, float, int]  # x, y in patch sides, number


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


#: Cosines for which a summary records the area.
STATED = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def guaranteed(
    coords: Coords,
    patch_size_level0: float,
    mpp: float,
    similarity: npt.NDArray[np.floating],
    whole_sides: bool = False,
) -> dict[str, Any]:
    """The attribute `guarantee`: areas at the 5th percentile of all cosines and at the round cosines `STATED`.

    Similarities are rounded to float16, as a summary stores them.
    """
    stored = similarity.astype(np.float16).astype(np.float64)
    found = guarantee(coords, patch_size_level0, mpp, stored, whole_sides)
    cosine = round(float(np.percentile(stored, 5)), 4)
    areas = {f"{at:g}": round(found.area(at), 6) for at in STATED}
    return {"cosine": cosine, "area_mm2": round(found.area(cosine), 6), "areas_mm2": areas}


def guarantee(
    coords: Coords,
    patch_size_level0: float,
    mpp: float,
    similarity: npt.NDArray[np.floating],
    whole_sides: bool = False,
) -> Guarantee:
    """Compute the guarantee from positions (N, 2) in level-0 px and each patch's cosine (N,) to its nearest kept one.

    `mpp` is µm per px at level 0. Patches need not lie on one grid: neighbours are those between which no whole patch
    fits. With `whole_sides` positions are rounded to whole patch sides, as before format 1.3.
    """
    places = (coords - coords.min(axis=0)) / patch_size_level0
    order = np.argsort(similarity, kind="stable")
    sizes = _growth((np.rint(places) if whole_sides else places)[order])
    cosine = similarity[order].astype(np.float64)
    last = np.searchsorted(cosine, cosine, side="right") - 1  # equal cosines are added together
    return Guarantee(cosine, sizes[last], (patch_size_level0 * mpp) ** 2 * MM2)


def covered_mm2(coords: Coords, patch_size_level0: float, mpp: float) -> float:
    """Area in mm² that patches at `coords` (N, 2) cover together; what several cover counts once.

    Patches of given features may overlap.
    """
    whole = (patch_size_level0 * mpp) ** 2 * MM2
    corners = np.rint((coords - coords.min(axis=0, initial=0)) * (CELLS / patch_size_level0)).astype(np.int64)
    cells = (corners[:, None, None] + np.moveaxis(np.indices((CELLS, CELLS)), 0, -1)).reshape(-1, 2)
    covered = len(np.unique(cells[:, 0] * (cells[:, 1].max(initial=0) + 1) + cells[:, 1]))
    return whole * len(coords) if covered == len(cells) else whole * covered / CELLS**2


def connected(places: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """The region (N,) of each place (N, 2), in patch sides, named after its first place."""
    parent = list(range(len(places)))
    cells: dict[tuple[int, int], list[Place]] = {}
    for number, (x, y) in enumerate((places - places.min(axis=0, initial=0)).tolist()):
        for near in _neighbours(cells, x, y):
            roots = sorted((_root(parent, near), _root(parent, number)))
            parent[roots[1]] = roots[0]
        cells.setdefault((int(x), int(y)), []).append((x, y, number))
    return np.array([_root(parent, number) for number in range(len(places))], np.int64)


def _growth(places: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Size of the largest region after adding each place (N, 2), in patch sides, by union-find."""
    cells: dict[tuple[int, int], list[Place]] = {}
    parent, size = list(range(len(places))), [1] * len(places)
    largest, growth = 0, np.empty(len(places), np.int64)
    for number, (x, y) in enumerate(places.tolist()):
        top = number
        for near in _neighbours(cells, x, y):
            if (other := _root(parent, near)) != top:
                top, other = (top, other) if size[top] >= size[other] else (other, top)
                parent[other] = top
                size[top] += size[other]
        cells.setdefault((int(x), int(y)), []).append((x, y, number))
        largest = max(largest, size[top])
        growth[number] = largest
    return growth


def _neighbours(cells: dict[tuple[int, int], list[Place]], x: float, y: float) -> Iterator[int]:
    """Numbers of the places nearer than `REACH` in x and in y, among those in `cells` of one side."""
    for cell in ((int(x) + dx, int(y) + dy) for dx in range(-2, 3) for dy in range(-2, 3)):
        for other_x, other_y, number in cells.get(cell, ()):
            if abs(other_x - x) < REACH and abs(other_y - y) < REACH:
                yield number


def _root(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number
