"""The representative of each tissue patch for every prefix of the kept patches.

With it a summary can be trimmed to its first patches without the slide, and the coverage of every K is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.similarity import cosines
from wsisum_cli.features.vectors import Features, blocks, checked, one_thread, unit_rows


@dataclass(frozen=True)
class Prefixes:
    """For each of N patches, the picks that are more similar to it than all earlier picks, in order of picking.

    `patch` (R,) int64 ascends over 0..N-1, each at least once; `pick` (R,) int32, 0..K-1, starts at 0 for each patch
    and ascends; `similarity` (R,) float32, the cosine to the pick, rises with it.
    """

    patch: npt.NDArray[np.int64]
    pick: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float32]

    def of(self, keep: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """The representative of each patch among the first `keep` picks, (N,), and the cosine to it, (N,)."""
        inside = np.flatnonzero(self.pick < keep)
        last = inside[np.flatnonzero(np.diff(self.patch[inside], append=-1))]
        return self.pick[last], self.similarity[last]

    def earlier(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """All but the last entry of each patch, as stored in a summary: counts (N,), picks and cosines (R - N,)."""
        last = np.diff(self.patch, append=-1) != 0
        counts = np.bincount(self.patch[~last], minlength=int(last.sum()))
        return counts.astype(np.int32), self.pick[~last], self.similarity[~last]

    def cut(self, keep: int) -> Prefixes:
        """The prefixes of the first `keep` picks alone."""
        inside = self.pick < keep
        return Prefixes(self.patch[inside], self.pick[inside], self.similarity[inside])


def join(
    counts: npt.NDArray[np.integer],
    picks: npt.NDArray[np.int32],
    cosines_to: npt.NDArray[np.floating],
    representative: npt.NDArray[np.int32],
    similarity: npt.NDArray[np.floating],
) -> Prefixes:
    """Rebuild from the arrays of `Prefixes.earlier` and the last entry of each patch (N,)."""
    ends = np.cumsum(counts)  # where the last entry of each patch is inserted
    patch = np.repeat(np.arange(len(counts)), counts.astype(np.int64) + 1)
    return Prefixes(patch, np.insert(picks, ends, representative), np.insert(cosines_to, ends, similarity))


def prefixes_of(features: Features, rows: npt.NDArray[np.integer]) -> Prefixes:
    """Compute the prefixes of features (N, D) and picked `rows` (K,), in order of picking.

    A picked patch represents itself, even if another equals it. Other ties go to the earlier pick.
    """
    features = checked(features)
    kept = unit_rows(features[rows])
    turn = np.full(len(features), len(rows), np.int64)  # turn at which a patch is picked itself
    turn[rows] = np.arange(len(rows))
    found = []
    with one_thread():
        for block in blocks(len(features)):
            found.append(_of_block(cosines(unit_rows(features[block]), kept), turn[block], block.start))
    return Prefixes(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _of_block(
    similar: npt.NDArray[np.float32], turn: npt.NDArray[np.int64], first: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The entries of one block, from cosines (B, K); `turn` (B,) says when a patch is picked itself."""
    count = similar.shape[1]
    best = np.maximum.accumulate(similar, axis=1)
    better = np.ones(similar.shape, bool)
    better[:, 1:] = similar[:, 1:] > best[:, :-1]
    better &= np.arange(count) <= turn[:, None]  # after its own pick nothing else represents it
    own = np.flatnonzero(turn < count)
    better[own, turn[own]] = True
    patch, pick = np.nonzero(better)
    return patch + first, pick.astype(np.int32), similar[patch, pick]
