"""The selector "wsisum": facility location with a rarity quota and swaps, level by level.

The patches of a smaller K are a prefix of those of a larger one, whatever K is asked for: patches are settled in
levels of 32, 64, 128, ... and a level is worked out in full, also where K asks for part of it only. What earlier
levels hold stays. Within a level

1. patches are picked greedily and swapped against others as long as that serves the tissue better;
2. a quota goes to what the rest serve worst, and past the first level some more until that is served better than by
   any of 200 random draws;
3. patches are swapped against others that serve about as well, so that the weighted mean comes nearer to the slide's.
   That may cost what the level covers better than plain facility location does, and no more than `SPENT`; past the
   first level up to `AMPLE`, and of the minimum what random draws do not reach either, where the mean is still further
   than `NEAR` of what random draws of as many miss it by, until it is `NEAR_ENOUGH`;
4. where a summarizer is at hand the same is done once more, for `FOR_SCORE` beyond, so that it makes the candidates
   again better from the kept patches, and its embedding of these comes nearer to that of all candidates;
5. they are put into the order in which each begins well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsisum_cli.features.similarity import ONE, Cosines, total, two_best
from wsisum_cli.features.vectors import Features, Rows, one_thread
from wsisum_cli.selection.facility import Pool, greedy
from wsisum_cli.selection.rarity import pick_rare, usual_share
from wsisum_cli.selection.swaps import Score, chance_error, chance_minimum, improve, losses, tune_mean, tune_score
from wsisum_cli.selection.weights import fit_mean, mean_error

FIRST_ROUND = 32
#: Coverage that the weighted mean may cost in a level at least, and at most.
LEAST_SPENT, SPENT = 0.0002, 0.0003
#: The same where the mean stays far from the slide's; what is far, and from what on it is near enough: errors with
#: fitted weights, as shares of that of random draws weighted by counts.
AMPLE, NEAR, NEAR_ENOUGH = 0.006, 0.27, 0.25
#: Coverage that a better score may cost beyond.
FOR_SCORE = 0.0002
#: Coverage that a level less one may lose, for a mean that is nearer.
SPARED = 0.0004
#: Patches of a level, past the first, that may be given up for what is served worst.
GIVEN_UP = 1 / 16


@dataclass(frozen=True)
class Round:
    """What is settled once a level is worked out, as places in the pool."""

    order: list[int]  # as they are kept
    plain: list[int]  # as plain facility location would have it, to as many
    rare: int  # how many of them were picked for what the rest serve worst


@dataclass(frozen=True)
class SearchSpace:
    """What every level is worked out on: features (P, D) of the pool and the mean (D,) of the slide, float64; the share
    that goes to rare tissue, None for the usual one; and how choices (B, K) of rows are scored, None where not.
    """

    features: np.ndarray
    mean: np.ndarray
    pool: Pool
    rare: float | None
    score: Score | None


def pick_in_rounds(
    features: Features, pool: Pool, keep: int, rare: float | None = None, score: Score | None = None
) -> Rows:
    """Rows (K,) of features (N, D) in order of picking; fewer where the pool holds fewer.

    `rare` is the share that goes to what the rest serve worst, None for the usual one. With a `score` of choices (B, K)
    of rows, swaps raise that as well.
    """
    round_ = Round([], [], 0)
    mean = features.mean(axis=0, dtype=np.float64)
    space = SearchSpace(features[pool.rows].astype(np.float64), mean, pool, rare, score)
    with one_thread():
        while len(round_.order) < min(keep, len(pool.rows)):
            round_ = next_round(space, round_)
    return pool.rows[round_.order[:keep]]


def next_round(space: SearchSpace, before: Round) -> Round:
    """As many patches again as `before`."""
    earlier, pool, served = before.order, space.pool, space.pool.served
    size = min(max(len(earlier), FIRST_ROUND), len(pool.rows) - len(earlier))
    plain = [*before.plain, *greedy(served, size, before.plain)]
    central, rare = cover_tissue(space, before, size)
    settled = before.rare + len(rare)
    by_chance = chance_minimum(pool, len(earlier) + size) if earlier else None
    if by_chance is not None:
        central, rare = raise_minimum(space, earlier, central, rare, by_chance + 1)
    fixed = [*earlier, *rare]
    if len(earlier) + size < len(pool.rows):
        central = approach_mean(space, fixed, central, plain, by_chance)
    ordered = greedy(served, len(central), earlier, central)
    ordered = move_spare_last(served, fixed, ordered, fitted_weights(space, [*fixed, *ordered])[len(fixed) :])
    return Round([*earlier, *interleave(ordered, rare)], plain, settled)


def cover_tissue(space: SearchSpace, before: Round, size: int) -> tuple[list[int], list[int]]:
    """So many more patches than `before` that serve the tissue best: central ones, and the quota of rare ones."""
    earlier, served, rows = before.order, space.pool.served, space.pool.rows
    share = usual_share(served.shape[1], len(earlier) + size) if space.rare is None else space.rare
    quota = round(size * share)
    central = improve(served, earlier, greedy(served, size - quota, earlier))
    rare = pick_rare(served, rows, [*earlier, *central], quota - quota // 2, before.rare)
    central = improve(served, [*earlier, *rare], central, passes=1)
    turn = before.rare + len(rare)
    return central, rare + pick_rare(served, rows, [*earlier, *rare, *central], quota - len(rare), turn)


def raise_minimum(
    space: SearchSpace, earlier: Sequence[int], central: list[int], rare: list[int], wanted: int
) -> tuple[list[int], list[int]]:
    """Give up the least needed of `central` for what is served worst, until that is served as well as `wanted`."""
    served, rows = space.pool.served, space.pool.rows
    for _ in range(round(GIVEN_UP * len(central))):
        kept = [*earlier, *rare, *central]
        if int(served[kept].max(axis=0).min()) >= wanted:
            break
        worst = pick_rare(served, rows, kept, 1, turn=1)
        if not worst:
            break
        central = greedy(served, len(central) - 1, [*earlier, *rare, *worst], central)
        rare = [*rare, *worst]
    return central, rare


def approach_mean(
    space: SearchSpace, fixed: Sequence[int], central: list[int], plain: Sequence[int], by_chance: int | None
) -> list[int]:
    """Others instead of `central`, whose weighted mean and score are better.

    `plain` is what plain facility location would have, of as many; `by_chance` how well random draws serve the worst
    served, None where no more may be spent on a mean that stays far.
    """
    features, mean, pool, served = space.features, space.mean, space.pool, space.pool.served
    unit = ONE * served.shape[1]
    now = total(served[[*fixed, *central]].max(axis=0))
    spare = now - total(served[plain].max(axis=0))
    floor = now - int(min(max(spare, LEAST_SPENT * unit), SPENT * unit))
    central = tune_mean(features, mean, pool, fixed, central, floor)
    if by_chance is not None:
        central = settle_mean(space, fixed, central, now - int(AMPLE * unit), by_chance + 1)
        floor = min(floor, total(served[[*fixed, *central]].max(axis=0)))
    if space.score is not None:
        central = tune_score(space.score, features, mean, pool, fixed, central, floor - int(FOR_SCORE * unit))
    return central


def settle_mean(space: SearchSpace, fixed: Sequence[int], central: list[int], floor: int, lowest: int) -> list[int]:
    """Others instead of `central` where their mean is far from the slide's; the minimum may fall to `lowest`."""
    features, mean, pool = space.features, space.mean, space.pool
    kept = [*fixed, *central]
    chance = chance_error(features, mean, pool, len(kept))
    if mean_error(features[kept], fitted_weights(space, kept), mean) <= NEAR * chance:
        return central
    return tune_mean(features, mean, pool, fixed, central, floor, lowest, NEAR_ENOUGH * chance)


def fitted_weights(space: SearchSpace, kept: Sequence[int]) -> np.ndarray:
    """Those (K,) that bring the weighted mean of `kept` nearest to the slide's."""
    return fit_mean(space.features[list(kept)], space.mean, np.full(len(kept), 1 / len(kept)))


def move_spare_last(served: Cosines, others: Sequence[int], central: list[int], weights: np.ndarray) -> list[int]:
    """Of the `central` ones that are least missed, that of least weight is moved to the end.

    A level less one, such as 63, has then nothing that it serves worse than the level has, and its mean is as near.
    Least missed are those without which the minimum stays as it is, and the coverage within `SPARED` of the best.
    """
    first, best, second = two_best(served[[*others, *central]])
    needed = set((first[second < best.min()] - len(others)).tolist())
    able = [place for place in range(len(central) - 1, -1, -1) if place not in needed]
    if not able:
        return central
    lost = losses(first, best, second, len(others) + len(central))[len(others) :]
    most = min(lost[place] for place in able) + SPARED * ONE * served.shape[1]
    place = min((place for place in able if lost[place] <= most), key=lambda place: weights[place])
    return [*central[:place], *central[place + 1 :], central[place]]


def interleave(central: Sequence[int], rare: Sequence[int]) -> list[int]:
    """`rare` ones spread evenly over the first half of the order, so that part of a level serves rare tissue too."""
    size = len(central) + len(rare)
    if len(rare) * 4 > size:
        return [*central, *rare]
    places = {(turn + 1) * size // (2 * len(rare)) - 1: row for turn, row in enumerate(rare)}
    following = iter(central)
    return [places[place] if place in places else next(following) for place in range(size)]
