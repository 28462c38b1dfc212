"""Tissue that the kept patches serve worst: what a rarity quota is spent on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsisum_cli.features.similarity import ONE, Cosines

#: The worst served patches that are looked at, of all.
WORST = 1_024
#: The usual share of a level's patches, least and most, and from how many patches for each kept one on it is the most.
LEAST, MOST, AT_MOST = 1 / 32, 1 / 8, 256
#: Patches alike that make a rare spot: a patch is rare where all others but so many, itself included, are unlike it.
SPOT = 3
#: Of so many turns one, the second, goes to the patch that is served worst.
TURNS = 8


def usual_share(patches: int, kept: int) -> float:
    """The share of `kept` of so many patches that goes to rare tissue.

    The more patches a kept one stands for, the more easily a small spot is lost, and the less the tissue misses one
    more patch of what is common.
    """
    return min(max(MOST * patches / kept / AT_MOST, LEAST), MOST)


def pick_rare(served: Cosines, rows: np.ndarray, kept: Sequence[int], count: int, turn: int = 0) -> list[int]:
    """Up to `count` rows of `served` (P, N) more, for patches that are served worst.

    `rows` (P,) says which of the N patches the pool holds. By turns, counted from `turn` on: that of the badly served
    patches which others are least like, as in a small spot of foreign tissue; once in `TURNS` the worst served, which
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
        chosen = 0 if (turn + len(new)) % TURNS == 1 else int(_likeness(served[able]).argmin())
        new.append(int(able[chosen]))
        best = np.maximum(best, served[new[-1]])
    return new


def _likeness(served: Cosines) -> np.ndarray:
    """How like each row of (A, N) is what is most like it past its spot, (A,)."""
    beyond = min(SPOT, served.shape[1] - 1)
    return np.asarray(np.partition(served, -1 - beyond, axis=1)[:, -1 - beyond])
