"""The selector "wsisum": facility location with a rarity quota and swaps, level by level.

The patches of a smaller K are a prefix of those of a larger one, whatever K is asked for: patches are settled in
levels of 32, 64, 128, ... and a level is worked out in full, also where K asks for part of it only. What earlier
levels hold stays. Within a level

1. patches are picked greedily and swapped against others as long as that serves the tissue better;
2. a quota goes to what the rest serve worst;
3. patches are swapped against others that serve about as well, so that the weighted mean comes nearer to the slide's.
   That may cost what the level covers better than plain facility location does, and no more than `SPENT`;
4. where a summarizer is at hand the same is done once more, at no further cost, so that it makes the candidates again
   better from the kept patches, and its embedding of these comes nearer to that of all candidates;
5. they are put into the order in which each begins well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsisum_cli.facility import Pool, greedy
from wsisum_cli.rarity import RARE, pick_rare
from wsisum_cli.sampling import Features, Rows, one_thread
from wsisum_cli.scoring import Score, tune_score
from wsisum_cli.similarity import ONE, Cosines, total
from wsisum_cli.swaps import improve
from wsisum_cli.tuning import tune_mean

FIRST_LEVEL = 32
#: Coverage that the weighted mean may cost in a level at least, and at most.
LEAST_SPENT, SPENT = 0.0008, 0.001


@dataclass(frozen=True)
class Level:
    """What is settled once a level is worked out, as places in the pool."""

    order: list[int]  # as they are kept
    plain: list[int]  # as plain facility location would have it, to as many
    rare: int  # how many of them were picked for what the rest serve worst


@dataclass(frozen=True)
class Ground:
    """What every level is worked out on: features (P, D) of the pool and the mean (D,) of the slide, float64; the share
    that goes to rare tissue; and how choices (B, K) of rows are scored, None where they are not.
    """

    features: np.ndarray
    mean: np.ndarray
    pool: Pool
    rare: float
    score: Score | None


def pick_levels(features: Features, pool: Pool, keep: int, rare: float = RARE, score: Score | None = None) -> Rows:
    """Rows (K,) of features (N, D) in order of picking; fewer where the pool holds fewer.

    `rare` is the share that goes to what the rest serve worst. With a `score` of choices (B, K) of rows, swaps raise
    that as well.
    """
    level = Level([], [], 0)
    mean = features.mean(axis=0, dtype=np.float64)
    ground = Ground(features[pool.rows].astype(np.float64), mean, pool, rare, score)
    with one_thread():
        while len(level.order) < min(keep, len(pool.rows)):
            level = next_level(ground, level)
    return pool.rows[level.order[:keep]]


def next_level(ground: Ground, before: Level) -> Level:
    """As many patches again as `before`."""
    features, mean, pool, score = ground.features, ground.mean, ground.pool, ground.score
    earlier, served = before.order, pool.served
    size = min(max(len(earlier), FIRST_LEVEL), len(pool.rows) - len(earlier))
    plain = [*before.plain, *greedy(served, size, before.plain)]
    quota = round(size * ground.rare)
    central = improve(served, earlier, greedy(served, size - quota, earlier))
    rare = pick_rare(served, pool.rows, [*earlier, *central], quota - quota // 2, before.rare)
    central = improve(served, [*earlier, *rare], central, passes=1)
    turn = before.rare + len(rare)
    rare += pick_rare(served, pool.rows, [*earlier, *rare, *central], quota - len(rare), turn)
    if len(earlier) + size < len(pool.rows):
        now = total(served[[*earlier, *rare, *central]].max(axis=0))
        spare = now - total(served[plain].max(axis=0))
        unit = ONE * served.shape[1]
        floor = now - int(min(max(spare, LEAST_SPENT * unit), SPENT * unit))
        central = tune_mean(features, mean, pool, [*earlier, *rare], central, floor)
        if score is not None:
            central = tune_score(score, features, mean, pool, [*earlier, *rare], central, floor)
    ordered = spare_last(served, [*earlier, *rare], greedy(served, len(central), earlier, central))
    return Level([*earlier, *interleave(ordered, rare)], plain, before.rare + len(rare))


def spare_last(served: Cosines, others: Sequence[int], central: list[int]) -> list[int]:
    """The last of `central` (in order) without which the minimum stays as it is moved to the end.

    A level less one, such as 63, has then nothing that it serves worse than the level has.
    """
    lowest = served[[*others, *central]].max(axis=0).min()
    for place in range(len(central) - 1, -1, -1):
        rest = [*central[:place], *central[place + 1 :]]
        if len(others) + len(rest) and served[[*others, *rest]].max(axis=0).min() >= lowest:
            return [*rest, central[place]]
    return central


def interleave(central: Sequence[int], rare: Sequence[int]) -> list[int]:
    """`rare` ones spread evenly over the first half of the order, so that part of a level serves rare tissue too."""
    size = len(central) + len(rare)
    if len(rare) * 4 > size:
        return [*central, *rare]
    places = {(turn + 1) * size // (2 * len(rare)) - 1: row for turn, row in enumerate(rare)}
    following = iter(central)
    return [places[place] if place in places else next(following) for place in range(size)]
