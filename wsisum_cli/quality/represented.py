"""How much of the tissue the kept patches represent, and where the rest lies.

The share never falls when a patch is added, because every tissue patch keeps its best cosine or gets a better one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Coords, Features, Rows
from wsisum_cli.quality.guarantee import MM2, connected, covered_mm2
from wsisum_cli.quality.likeness import Likeness
from wsisum_cli.selection.budget import GUESS
from wsisum_cli.selection.prefixes import Prefixes, prefixes_of

#: Share of the tissue that the default number of patches represents, and that advice aims at.
WANTED = 0.95
#: Unrepresented regions that a summary lists, largest first.
LISTED = 20


@dataclass(frozen=True)
class TissuePlaces:
    """Where the tissue lies: coords (N, 2) in level-0 px, the patch side in level-0 px, and µm per level-0 px.

    `unread` more tissue patches could not be read. They count as tissue that nothing represents. `twice`: area that
    several patches cover counts for each of them, as before format 2.0.
    """

    coords: Coords
    patch_size_level0: int
    mpp: float
    unread: int = 0
    twice: bool = False

    @property
    def patch_mm2(self) -> float:
        return (self.patch_size_level0 * self.mpp) ** 2 * MM2

    @cached_property
    def tissue_mm2(self) -> float:
        """Area of all tissue, read or not."""
        return self.area(np.arange(len(self.coords))) + self.unread * self.patch_mm2

    def area(self, rows: npt.NDArray[np.integer]) -> float:
        """Area in mm² of some of the patches."""
        if self.twice:
            return len(rows) * self.patch_mm2
        return covered_mm2(self.coords[rows], self.patch_size_level0, self.mpp)

    @property
    def count(self) -> int:
        """All tissue patches, read or not."""
        return len(self.coords) + self.unread


def is_represented(similarity: npt.NDArray[np.floating], cosine: float) -> npt.NDArray[np.bool_]:
    """Whether each similarity reaches `cosine`, once it is rounded to float16 as a summary stores it."""
    return np.asarray(similarity.astype(np.float16) >= cosine)


def share_of(similarity: npt.NDArray[np.floating], cosine: float, unread: int = 0) -> float:
    """The share of the tissue, 0..1, that is represented, from each patch's similarity (N,) to its representative."""
    return float(np.count_nonzero(is_represented(similarity, cosine)) / (len(similarity) + unread))


def share_curve(prefixes: Prefixes, keep: int, cosine: float, unread: int = 0) -> npt.NDArray[np.float64]:
    """The share (K,) that the first 1, 2, ... `keep` picks represent. It never falls."""
    reached = is_represented(prefixes.similarity, cosine)
    patch, pick = prefixes.patch[reached], prefixes.pick[reached]
    first = np.diff(patch, prepend=-1) != 0  # cosines of a patch rise, so this pick is the first to represent it
    gained = np.bincount(pick[first], minlength=keep)[:keep]
    return np.asarray(np.cumsum(gained) / (prefixes.patch[-1] + 1 + unread), np.float64)


def describe_represented(
    places: TissuePlaces,
    likeness: Likeness,
    representative: npt.NDArray[np.integer],
    similarity: npt.NDArray[np.floating],
    needed: int | None,
) -> dict[str, Any]:
    """The attribute `represented`, from the representative (N,) of each tissue patch and its similarity (N,) to it.

    `needed`: fewest patches that would represent most of the tissue; None where not known.
    """
    share = share_of(similarity, likeness.cosine, places.unread)
    missing = np.flatnonzero(~is_represented(similarity, likeness.cosine))
    regions = unrepresented(places, missing)
    return {
        "share": round(share, 6),
        "mm2": round(share * places.tissue_mm2, 6),
        "tissue_mm2": round(places.tissue_mm2, 6),
        "unread": places.unread,
        "patch_mm2": round(places.patch_mm2, 9),
        "cosine": likeness.cosine,
        "pairs": likeness.pairs,
        "contrast": likeness.contrast,
        "needed": needed,
        "region_count": len(regions),
        "regions": [describe_region(places, rows, representative, similarity) for rows in regions[:LISTED]],
    }


def unrepresented(places: TissuePlaces, missing: npt.NDArray[np.integer]) -> list[npt.NDArray[np.int64]]:
    """Connected regions of the `missing` rows (M,), each as ascending rows: largest first, then the first in order."""
    if not len(missing):
        return []
    labels = connected(places.coords[missing] / places.patch_size_level0)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    regions = [np.asarray(missing[rows], np.int64) for rows in np.split(order, starts[1:])]
    return sorted(regions, key=lambda rows: (-places.area(rows), int(rows[0])))


def describe_region(
    places: TissuePlaces,
    rows: npt.NDArray[np.int64],
    representative: npt.NDArray[np.integer],
    similarity: npt.NDArray[np.floating],
) -> dict[str, Any]:
    """Size and position of a region, and the kept patch that most of it is nearest to."""
    corner = places.coords[rows].min(axis=0)
    extent = places.coords[rows].max(axis=0) + places.patch_size_level0 - corner
    return {
        "patches": len(rows),
        "mm2": round(places.area(rows), 6),
        "x": int(corner[0]),
        "y": int(corner[1]),
        "width": int(extent[0]),
        "height": int(extent[1]),
        "nearest": int(np.bincount(representative[rows]).argmax()),
        "cosine": round(float(similarity[rows].astype(np.float16).astype(np.float64).mean()), 4),
    }


def fewest_picks(
    picks: Callable[[int], Rows], features: Features, cosine: float, share: float, most: int, unread: int = 0
) -> int | None:
    """Fewest nested picks that represent `share` of the tissue; None if `most` do not.

    `picks` gives the first picks, as many as asked for, as rows of features (N, D); more of them are asked for only
    where fewer do not suffice.
    """
    most, keep = min(most, len(features)), 0
    while keep < most:
        keep = min(max(2 * keep, GUESS), most)
        curve = share_curve(prefixes_of(features, picks(keep)), keep, cosine, unread)
        if (found := fewest_for(curve, share)) is not None:
            return found
    return None


def fewest_for(curve: Sequence[float] | npt.NDArray[np.float64], share: float) -> int | None:
    """The smallest number of patches that represents `share`, from the curve (K,); None if none does."""
    reached = np.flatnonzero(np.asarray(curve) >= share)
    return int(reached[0]) + 1 if len(reached) else None
