"""The rarity quota: patches for tissue that the kept patches cover worst."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsisum_cli.features.similarity import ONE, Cosines

#: Number of worst covered patches to consider.
WORST = 1_024
#: Smallest and largest default quota, and from how many tissue patches per kept one the largest applies.
LEAST, MOST, AT_MOST = 1 / 32, 1 / 8, 256
#: Size of a rare spot: a patch is rare if only this many patches, itself included, are similar to it.
SPOT = 3
#: One turn in this many, the second, goes to the worst covered patch.
TURNS = 8


def usual_share(patches: int, kept: int) -> float:
    """Default fraction of the `kept` patches reserved for rare tissue.

    The more patches each kept one represents, the more easily a small spot is lost, and the less one more patch of
    common tissue matters.
    """
    return min(max(MOST * patches / kept / AT_MOST, LEAST), MOST)


def pick_rare(served: Cosines, rows: np.ndarray, kept: Sequence[int], count: int, turn: int = 0) -> list[int]:
    """Pick up to `count` more rows of `served` (P, N) for the patches that are covered worst.

    `rows` (P,) are the patches in the pool. Turns are counted from `turn`. Most turns pick the badly covered patch
    least similar to others, as in a small spot of foreign tissue; one in `TURNS` picks the worst covered, which raises
    the minimum.
    """
    best = served[list(kept)].max(axis=0)
    place = np.full(served.shape[1], -1)
    place[rows] = np.arange(len(rows))
    new: list[int] = []
    while len(new) < count:
        worst = np.argsort(best, kind="stable")[:WORST]
        worst = worst[best[worst] < ONE]
        eligible = place[worst][place[worst] >= 0]
        eligible = eligible[~np.isin(eligible, [*kept, *new])]
        if not len(eligible):
            break
        choice = 0 if (turn + len(new)) % TURNS == 1 else int(_likeness(served[eligible]).argmin())
        new.append(int(eligible[choice]))
        best = np.maximum(best, served[new[-1]])
    return new


def _likeness(served: Cosines) -> np.ndarray:
    """Cosine (A,) of each row of (A, N) to the most similar patch outside its own spot."""
    beyond = min(SPOT, served.shape[1] - 1)
    return np.asarray(np.partition(served, -1 - beyond, axis=1)[:, -1 - beyond])
