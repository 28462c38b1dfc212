"""The selector wsisum: levels, swaps, the rarity quota, and the tuning of the mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisum_cli.features.similarity import ONE, total
from wsisum_cli.selection import wsisum as levels
from wsisum_cli.selection.facility import Pool, greedy, pool_of
from wsisum_cli.selection.rarity import LEAST, MOST, pick_rare, usual_share
from wsisum_cli.selection.swaps import chance_error, chance_minimum, improve, tune_mean, tune_score
from wsisum_cli.selection.weights import fit_mean, mean_error
from wsisum_cli.selection.wsisum import FIRST_ROUND, SPARED, interleave, move_spare_last, pick_in_rounds, raise_minimum

quick = settings(max_examples=20, deadline=None, derandomize=True)


def gaussian(patches: int, dims: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(patches, dims)).astype(np.float32)


def tissue(patches: int, seed: int = 0, dims: int = 24) -> np.ndarray:
    """Groups of unequal size, with some noise."""
    rng = np.random.default_rng(seed)
    group = np.minimum(rng.geometric(0.08, patches), 40)
    return (gaussian(41, dims, seed)[group] + 0.7 * gaussian(patches, dims, seed + 1)).astype(np.float32)


def pooled(features: np.ndarray) -> Pool:
    return pool_of(features, np.zeros(len(features), np.int16), 0)


def coverage(pool: Pool, kept: list[int] | np.ndarray) -> int:
    return total(pool.served[list(kept)].max(axis=0))


# swaps


@given(st.integers(2, 60), st.integers(0, 99), st.data())
@quick
def test_swaps_keep_fixed_patches_and_never_cover_worse(patches, seed, data):
    pool = pooled(gaussian(patches, 6, seed))
    kept = np.random.default_rng(seed).permutation(patches)[: data.draw(st.integers(1, patches))].tolist()
    fixed = kept[: data.draw(st.integers(0, len(kept)))]
    free = improve(pool.served, fixed, kept[len(fixed) :], passes=9)
    assert len({*fixed, *free}) == len(kept)
    assert coverage(pool, [*fixed, *free]) >= coverage(pool, kept)


def test_result_is_optimal_for_single_swaps():
    pool = pooled(gaussian(40, 5, 3))
    kept = improve(pool.served, [], [0, 1, 2, 3], passes=99)
    reached = coverage(pool, kept)
    for place in range(4):
        for row in set(range(40)) - set(kept):
            assert coverage(pool, [*kept[:place], row, *kept[place + 1 :]]) <= reached


# rarity


@given(st.integers(1, 10**6), st.integers(1, 10**4))
@quick
def test_rare_share_grows_with_patches_per_kept_patch(patches, kept):
    share = usual_share(patches, kept)
    assert LEAST <= share <= MOST
    assert usual_share(patches + 1000, kept) >= share >= usual_share(patches, kept + 10)


def test_default_rare_share_depends_on_slide_size():
    assert [usual_share(patches, 64) for patches in (500, 4_096, 8_192, 16_384, 50_000)] == [
        1 / 32, 1 / 32, 1 / 16, 1 / 8, 1 / 8
    ]  # fmt: skip


def test_quota_alternates_between_small_spots_and_worst_covered():
    features = np.repeat(np.eye(6, dtype=np.float32), [50, 40, 9, 3, 2, 1], axis=0)
    features[90:99, 0] = -0.1  # the worst served, and many
    pool = pooled(features)
    found = [int(features[row].argmax()) for row in pick_rare(pool.served, pool.rows, [0, 50], 4)]
    assert found[1] == 2
    assert sorted([found[0], *found[2:]]) == [3, 4, 5]
    assert int(features[pick_rare(pool.served, pool.rows, [0, 50], 1, turn=9)[0]].argmax()) == 2


def test_fully_covered_tissue_has_no_rare_patches():
    pool = pooled(np.ones((9, 3), np.float32))
    assert pick_rare(pool.served, pool.rows, [0], 3) == []


def test_three_rare_patches_among_thousands_are_kept():
    rng = np.random.default_rng(5)
    features = tissue(4_000, 5, 48)
    features[[70, 71, 72]] = rng.normal(size=48) * 1.2 + 0.4 * rng.normal(size=(3, 48))
    rows = pick_in_rounds(features, pooled(features), 64)
    assert set(rows) & {70, 71, 72}


# the mean


def test_tuning_improves_the_mean_within_its_cost():
    features = tissue(600)
    pool = pooled(features)
    kept = greedy(pool.served, 20)
    double, mean = features.astype(float), features.mean(axis=0, dtype=float)
    floor = coverage(pool, kept) - int(0.002 * ONE * 600)
    tuned = tune_mean(double, mean, pool, kept[:5], kept[5:], floor)
    before, after = (
        [double[kept[:5] + rest], fit_mean(double[kept[:5] + rest], mean, np.full(20, 0.05))]
        for rest in (kept[5:], tuned)
    )
    assert mean_error(*after, mean) < 0.9 * mean_error(*before, mean)
    assert coverage(pool, kept[:5] + tuned) >= floor
    assert pool.served[kept[:5] + tuned].max(axis=0).min() >= pool.served[kept].max(axis=0).min()


# levels


@given(st.integers(1, 90), st.integers(0, 99), st.integers(1, 8))
@quick
def test_rounds_are_nested(patches, seed, dims):
    features = gaussian(patches, dims, seed)
    features[: patches // 3] = features[0]
    pool = pooled(features)
    most = pick_in_rounds(features, pool, patches)
    assert sorted(most) == list(range(patches))
    for keep in {1, patches // 2 + 1, min(patches, FIRST_ROUND + 1)}:
        assert np.array_equal(pick_in_rounds(features, pool, keep), most[:keep])


@pytest.mark.parametrize("seed", range(4))
def test_coverage_matches_facility_and_the_minimum_is_higher(seed):
    features = tissue(900, seed)
    pool = pooled(features)
    ours, plain = pick_in_rounds(features, pool, 64), greedy(pool.served, 64)
    assert coverage(pool, ours) > coverage(pool, plain) - 0.0005 * ONE * 900
    assert pool.served[ours].max(axis=0).min() >= pool.served[plain].max(axis=0).min()


def test_rare_option_sets_the_share():
    features = tissue(3000, 2)
    features[:3] = gaussian(1, 24, 9)  # a foreign spot
    features[:3, 0] += (0, 0.01, 0.02)
    pool = pooled(features)
    none, usual, much = (pick_in_rounds(features, pool, 32, rare) for rare in (0.0, None, 0.25))
    assert (none >= 3).all()
    assert (much < 3).any()
    assert len({tuple(picked) for picked in (none, usual, much)}) == 3


def test_scores_are_compared_only_within_a_call():
    features = tissue(300, 3)
    pool = pooled(features)
    mean = features.mean(axis=0, dtype=float)
    calls = []

    def score(choices: np.ndarray) -> np.ndarray:
        """The sum of the rows, and an offset that is another in each call."""
        calls.append(choices)
        return choices.sum(axis=1) + 1e6 * (-1) ** len(calls)

    kept = greedy(pool.served, 12)
    floor = coverage(pool, kept) - 3 * ONE
    better = tune_score(score, features.astype(float), mean, pool, [], kept, floor)
    assert sum(better) > sum(kept)
    assert coverage(pool, better) >= floor
    plain = tune_score(lambda choices: choices.sum(axis=1), features.astype(float), mean, pool, [], kept, floor)
    assert better == plain


def test_rare_patches_are_spread_and_none_is_lost():
    order = interleave(range(28), range(100, 104))
    assert [place for place, row in enumerate(order) if row >= 100] == [3, 7, 11, 15]
    assert [row for row in order if row < 100] == list(range(28))
    assert interleave([], [7]) == [7]
    assert interleave([1], [7]) == [1, 7]


def test_last_patch_does_not_set_the_minimum():
    features = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    pool = pooled(features)
    equal, of_0, of_2 = np.full(4, 0.25), np.array([0.1, 0.3, 0.3, 0.3]), np.array([0.3, 0.1, 0.3, 0.3])
    assert move_spare_last(pool.served, [], [0, 2, 1, 3], equal) == [0, 2, 3, 1]
    assert move_spare_last(pool.served, [], [0, 2, 1, 3], of_0) == [
        2,
        1,
        3,
        0,
    ]  # of those not needed that of least weight
    assert move_spare_last(pool.served, [], [0, 2, 1, 3], of_2) == [0, 2, 3, 1]  # but none that serves alone


def test_last_patch_hardly_matters():
    pool = pooled(tissue(200, 4))
    kept = greedy(pool.served, 12)
    lost = [coverage(pool, kept) - coverage(pool, [*kept[:place], *kept[place + 1 :]]) for place in range(12)]
    heavy_but_one = np.where(np.arange(12) == np.argmax(lost), 0.0, 0.5)
    last = move_spare_last(pool.served, [], kept, heavy_but_one)[-1]
    assert lost[kept.index(last)] <= min(lost) + SPARED * ONE * 200 < max(lost)


def test_minimum_is_raised_with_as_many_patches_as_needed():
    features = tissue(900, 6)
    pool = pooled(features)
    ground = levels.SearchSpace(features.astype(float), features.mean(axis=0, dtype=float), pool, None, None)
    earlier = greedy(pool.served, 32)
    central = greedy(pool.served, 32, earlier)

    def lowest(kept: list[int]) -> int:
        return int(pool.served[kept].max(axis=0).min())

    before = lowest([*earlier, *central])
    assert raise_minimum(ground, earlier, central, [], before) == (central, [])
    fewer, rare = raise_minimum(ground, earlier, central, [], before + 1)
    assert lowest([*earlier, *fewer, *rare]) > before
    assert (len(fewer), len(rare)) == (31, 1)
    fewer, rare = raise_minimum(ground, earlier, central, [], ONE)  # more than can be had
    assert (len(fewer), len(rare)) == (30, 2)
    assert set(fewer) < set(central)
    assert chance_minimum(pool, 16) < chance_minimum(pool, 256)


def test_goal_stops_the_tuning_and_may_lower_the_minimum():
    features = tissue(600)
    pool, mean = pooled(features), features.mean(axis=0, dtype=float)
    kept, own = greedy(pool.served, 40), features.astype(float)

    def tuned(goal: float, lowest: int | None = None) -> tuple[float, int]:
        floor = coverage(pool, kept) - int(0.01 * ONE * 600)
        rows = kept[:20] + tune_mean(own, mean, pool, kept[:20], kept[20:], floor, lowest, goal)
        weights = fit_mean(own[rows], mean, np.full(40, 1 / 40))
        return mean_error(own[rows], weights, mean), int(pool.served[rows].max(axis=0).min())

    start = mean_error(own[kept], fit_mean(own[kept], mean, np.full(40, 1 / 40)), mean)
    (best, lowest), (enough, _) = tuned(0), tuned(start / 2)
    assert best < enough <= start / 2
    assert lowest >= pool.served[kept].max(axis=0).min()
    assert tuned(0, lowest // 2)[0] <= best


def test_more_coverage_is_spent_when_the_mean_is_far(monkeypatch):
    features = gaussian(900, 256, 1) + np.float32(0.5)  # of so many dims that 64 patches cannot tell the mean
    pool, mean = pooled(features), features.mean(axis=0, dtype=np.float64)

    def found(near: float) -> tuple[float, float]:
        monkeypatch.setattr(levels, "NEAR", near)
        rows = pick_in_rounds(features, pool, 64)
        own = features[rows].astype(np.float64)
        return mean_error(own, fit_mean(own, mean, np.full(64, 1 / 64)), mean), coverage(pool, rows)

    (usual, covered), (ample, spent) = found(np.inf), found(0)
    assert ample < usual
    assert covered - spent < levels.AMPLE * ONE * 900
    chance = [chance_error(features.astype(np.float64), mean, pool, count) for count in (8, 64, 512)]
    assert chance == sorted(chance, reverse=True)
    assert usual < chance[1]


def test_score_rises_without_lowering_the_minimum():
    features = tissue(500, 2)
    pool = pooled(features)
    wanted = gaussian(1, 24, 8)[0]

    def score(choices: np.ndarray) -> np.ndarray:
        return np.asarray(features[choices].mean(axis=1) @ wanted, float)

    plain, scored = pick_in_rounds(features, pool, 64), pick_in_rounds(features, pool, 64, score=score)
    assert score(scored[None])[0] > score(plain[None])[0]
    assert coverage(pool, scored) > coverage(pool, plain) - levels.AMPLE * ONE * 500
    assert np.array_equal(pick_in_rounds(features, pool, 20, score=score), scored[:20])
