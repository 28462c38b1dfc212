"""The selector "wsisum": facility location with a rarity quota and swaps, in rounds.

The patches for a smaller K are always a prefix of those for a larger one: patches are picked in rounds up to 32, 64,
128, ..., and each round is completed even if K needs only part of it. Patches of earlier rounds stay. Each round

1. picks patches greedily and swaps them as long as that represents the tissue better;
2. spends a quota on the worst covered tissue; after the first round it spends more, until the minimum is better than
   in any of 200 random draws;
3. swaps patches for others that cover about as well, so that the weighted mean comes closer to the slide's. This may
   cost the coverage gained over plain facility location, at most `SPENT`. After the first round, if the error of the
   mean is still more than `NEAR` times that of random draws, it may cost up to `AMPLE`, and the minimum may fall to
   just above that of random draws, until the error is `NEAR_ENOUGH` times theirs;
4. with a summarizer, swaps again, for a further cost of `FOR_SCORE`, so that the candidates are reconstructed better
   from the kept patches, and the embedding of these comes closer to that of all candidates;
5. orders the patches so that every prefix is good.
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
#: Least and most coverage that the weighted mean may cost in a round.
LEAST_SPENT, SPENT = 0.0002, 0.0003
#: Coverage it may cost if the mean stays far from the slide's; the error that counts as far, and the one that is close
#: enough: errors with fitted weights, relative to that of random draws weighted by counts.
AMPLE, NEAR, NEAR_ENOUGH = 0.006, 0.27, 0.25
#: Further coverage that a better score may cost.
FOR_SCORE = 0.0002
#: Coverage that a round without its last patch may lose for a closer mean.
SPARED = 0.0004
#: Fraction of the patches of a round, after the first, that may be given up for the worst covered tissue.
GIVEN_UP = 1 / 16


@dataclass(frozen=True)
class Round:
    """The result of a round, as rows of the pool."""

    order: list[int]  # kept patches in order of picking
    plain: list[int]  # as many patches by plain facility location
    rare: int  # how many kept patches the rarity quota picked


@dataclass(frozen=True)
class SearchSpace:
    """The input of every round: features (P, D) of the pool and the slide's mean (D,), float64; the fraction reserved
    for rare tissue, None for the default; and a score of choices (B, K) of rows, None for no score.
    """

    features: np.ndarray
    mean: np.ndarray
    pool: Pool
    rare: float | None
    score: Score | None


def pick_in_rounds(
    features: Features, pool: Pool, keep: int, rare: float | None = None, score: Score | None = None
) -> Rows:
    """Pick rows (K,) of features (N, D), in order of picking; fewer if the pool holds fewer.

    `rare` is the fraction reserved for rare tissue, None for the default. With a `score` of choices (B, K) of rows,
    swaps raise it as well.
    """
    round_ = Round([], [], 0)
    mean = features.mean(axis=0, dtype=np.float64)
    space = SearchSpace(features[pool.rows].astype(np.float64), mean, pool, rare, score)
    with one_thread():
        while len(round_.order) < min(keep, len(pool.rows)):
            round_ = next_round(space, round_)
    return pool.rows[round_.order[:keep]]


def next_round(space: SearchSpace, before: Round) -> Round:
    """Double the number of patches of the round `before`."""
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
    """Pick `size` more patches that cover the tissue best: central ones, and the quota of rare ones."""
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
    """Replace the least needed `central` patches by the worst covered ones, until the minimum reaches `wanted`."""
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
    """Replace `central` patches so that the weighted mean and the score improve.

    `plain` are as many patches by plain facility location; `by_chance` is the minimum of random draws, None if no
    extra coverage may be spent on a mean that stays far.
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
    """Replace `central` patches if the mean is far from the slide's; the minimum may fall to `lowest`."""
    features, mean, pool = space.features, space.mean, space.pool
    kept = [*fixed, *central]
    chance = chance_error(features, mean, pool, len(kept))
    if mean_error(features[kept], fitted_weights(space, kept), mean) <= NEAR * chance:
        return central
    return tune_mean(features, mean, pool, fixed, central, floor, lowest, NEAR_ENOUGH * chance)


def fitted_weights(space: SearchSpace, kept: Sequence[int]) -> np.ndarray:
    """Weights (K,) that bring the weighted mean of `kept` closest to the slide's mean."""
    return fit_mean(space.features[list(kept)], space.mean, np.full(len(kept), 1 / len(kept)))


def move_spare_last(served: Cosines, others: Sequence[int], central: list[int], weights: np.ndarray) -> list[int]:
    """Move the `central` patch of least weight, among those needed least, to the end.

    A round without its last patch, such as 63, then has the same minimum and an equally close mean. Needed least are
    patches whose removal keeps the minimum, and keeps coverage within `SPARED` of the best.
    """
    first, best, second = two_best(served[[*others, *central]])
    needed = set((first[second < best.min()] - len(others)).tolist())
    spare = [place for place in range(len(central) - 1, -1, -1) if place not in needed]
    if not spare:
        return central
    lost = losses(first, best, second, len(others) + len(central))[len(others) :]
    most = min(lost[place] for place in spare) + SPARED * ONE * served.shape[1]
    place = min((place for place in spare if lost[place] <= most), key=lambda place: weights[place])
    return [*central[:place], *central[place + 1 :], central[place]]


def interleave(central: Sequence[int], rare: Sequence[int]) -> list[int]:
    """Spread `rare` patches evenly over the first half, so that part of a round covers rare tissue too."""
    size = len(central) + len(rare)
    if len(rare) * 4 > size:
        return [*central, *rare]
    places = {(turn + 1) * size // (2 * len(rare)) - 1: row for turn, row in enumerate(rare)}
    following = iter(central)
    return [places[place] if place in places else next(following) for place in range(size)]
