"""Swaps: a kept patch given up for another, as long as that serves the tissue better.

As k-medoids by PAM, where each candidate is tried against all kept patches at once (FasterPAM: Schubert and
Rousseeuw, Information Systems 101:101804, 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.similarity import Cosines, two_best

#: How often all candidates are tried at most.
PASSES = 2


def improve(served: Cosines, fixed: Sequence[int], free: Sequence[int], passes: int = PASSES) -> list[int]:
    """Rows of `served` (P, N) in the place of `free` ones, so that with the `fixed` ones they serve at least as well.

    The first candidate that improves is taken, in the order of rows; the same swaps everywhere.
    """
    kept = [*fixed, *free]
    if not free or len(kept) == len(served):
        return list(free)
    state = _State(served, kept)
    for _ in range(passes):
        swapped = False
        for row in range(len(served)):
            if row not in state.members and state.try_swap(row, len(fixed)):
                swapped = True
        if not swapped:
            break
    return state.kept[len(fixed) :]


def losses(first: npt.NDArray[np.intp], best: Cosines, second: Cosines, kept: int) -> npt.NDArray[np.float64]:
    """What the tissue loses without each of so many kept patches, from `two_best` of theirs; exact."""
    change = best.astype(np.int32) - second
    return np.asarray(np.bincount(first, weights=change, minlength=kept), np.float64)


class _State:
    """For each patch the best and the second best of the kept ones."""

    def __init__(self, served: Cosines, kept: list[int]) -> None:
        self.served = served
        self.kept = kept
        self.members = set(kept)
        self.rank()

    def rank(self) -> None:
        self.first, self.best, self.second = two_best(self.served[self.kept])
        self.losses = losses(self.first, self.best, self.second, len(self.kept))

    def try_swap(self, row: int, fixed: int) -> bool:
        """Give up the kept patch, past the first `fixed`, whose loss `row` makes good most, if it does."""
        candidate = self.served[row]
        nearer = np.flatnonzero(candidate > self.second)
        if not len(nearer):
            return False
        # Past those patches nothing changes: what they would fall back on is better than the candidate.
        own, value = self.first[nearer], candidate[nearer].astype(np.int32)
        best, second = self.best[nearer].astype(np.int32), self.second[nearer].astype(np.int32)
        gain = float(np.maximum(value - best, 0).sum(dtype=np.int64))
        spared = np.bincount(own, weights=np.minimum(value, best) - second, minlength=len(self.kept))
        change = gain + spared - self.losses
        place = fixed + int(change[fixed:].argmax())
        if change[place] <= 0:
            return False
        self.members.remove(self.kept[place])
        self.members.add(row)
        self.kept[place] = row
        self.rank()
        return True
