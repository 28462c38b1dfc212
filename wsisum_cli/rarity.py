"""Tissue that the kept patches serve worst: what a rarity quota is spent on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsisum_cli.similarity import ONE, Cosines

#: The worst served patches that are looked at, of all.
WORST = 1_024
#: A patch's want counts by this power of what its best cosine lacks to 1: groups before single patches, the worst
#: served before both.
POWER = 3


def pick_rare(served: Cosines, rows: np.ndarray, kept: Sequence[int], count: int) -> list[int]:
    """Up to `count` rows of `served` (P, N) more, that lower the wants of the worst served patches most.

    `rows` (P,) says which of the N patches the pool holds. Every second pick is the worst served patch itself, which
    raises the minimum.
    """
    best = served[list(kept)].max(axis=0)
    place = np.full(served.shape[1], -1)
    place[rows] = np.arange(len(rows))
    new: list[int] = []
    while len(new) < count:
        worst = np.argsort(best, kind="stable")[:WORST]
        worst = worst[best[worst] < ONE]
        able = place[worst][place[worst] >= 0]
        able = able[~np.isin(able, [*kept, *new])]
        if not len(able):
            break
        turn = 0 if len(new) % 2 == 0 else int(_relief(served[np.ix_(able, worst)], best[worst]).argmax())
        top = int(able[turn])
        new.append(top)
        best = np.maximum(best, served[top])
    return new


def _relief(served: Cosines, best: np.ndarray) -> np.ndarray:
    """What each row takes off the wants of the patches, (A,) from (A, W) and (W,); exact."""
    return np.asarray((_wants(best)[None] - _wants(np.maximum(served, best))).sum(axis=1))


def _wants(best: np.ndarray) -> np.ndarray:
    lack = (ONE - best.astype(np.int64)) >> 5  # at most 2^10, so that sums of powers are exact
    return np.asarray(lack**POWER)
