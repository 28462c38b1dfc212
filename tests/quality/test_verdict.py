"""The verdict: representative, well chosen, and never worse when patches are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tissue_groups import chance_of, tissue

from wsisum_cli.errors import UsageError
from wsisum_cli.features.embedding import Tokens
from wsisum_cli.quality.likeness import measure_likeness, says_little
from wsisum_cli.quality.random_draws import DRAWN, Draws, draw
from wsisum_cli.quality.represented import TissuePlaces, describe_represented
from wsisum_cli.quality.verdict import (
    LIMITS,
    VERDICTS,
    Chance,
    Figures,
    Thresholds,
    compare_with_chance,
    judge,
    percent,
    percentile,
    read_thresholds,
    stored_thresholds,
)
from wsisum_cli.selection.candidates import sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.prefixes import prefixes_of
from wsisum_cli.selection.selectors import pick

EVEN = np.linspace(0, 1, 101, dtype=np.float32)
QUALITY = {"coverage": 0.9, "coverage_p05": 0.8, "coverage_min": 0.5, "weighted_cosine": 0.99, "composition": 0.1}
GOOD = Figures(0.96, 0.2, False, Chance(100, 32), QUALITY)


# the two answers


@pytest.mark.parametrize(
    ("changes", "representative", "well_chosen"),
    [
        ({}, "PASS", "PASS"),
        ({"represented": 0.9}, "PASS", "PASS"),
        ({"represented": 0.8999}, "REVIEW", "PASS"),
        ({"represented": 0.7}, "REVIEW", "PASS"),
        ({"represented": 0.6999}, "FAIL", "PASS"),
        ({"largest_mm2": 1.0}, "PASS", "PASS"),
        ({"largest_mm2": 1.1}, "REVIEW", "PASS"),
        ({"largest_mm2": 10.1}, "FAIL", "PASS"),
        ({"says_little": True}, "REVIEW", "PASS"),
        ({"represented": None}, "REVIEW", "PASS"),
        ({"partial": True}, "REVIEW", "PASS"),
        ({"partial": True, "complete": True}, "REVIEW", "PASS"),
        ({"chance": Chance(98, 8)}, "PASS", "REVIEW"),
        ({"chance": Chance(94, 8)}, "PASS", "FAIL"),
        ({"chance": Chance(100, 8, alike=True)}, "PASS", "REVIEW"),
        ({"chance": None}, "PASS", "REVIEW"),
        ({"represented": 0.5, "chance": Chance(98, 8)}, "FAIL", "REVIEW"),
        ({"represented": 1.0, "says_little": True, "chance": None, "complete": True}, "PASS", "PASS"),
    ],
)
def test_worse_answer_is_the_verdict(changes, representative, well_chosen):
    verdict = judge(replace(GOOD, **changes))
    assert (verdict.representative, verdict.well_chosen) == (representative, well_chosen)
    assert verdict.verdict == max(representative, well_chosen, key=VERDICTS.index)
    assert (verdict.reasons == ()) == (verdict.verdict == "PASS")


def test_area_above_a_limit_is_not_printed_as_the_limit():
    assert judge(replace(GOOD, largest_mm2=1.001)).reasons[0].startswith("the largest unrepresented area is 1.01 mm²")
    assert judge(replace(GOOD, largest_mm2=104.2)).reasons[0].startswith("the largest unrepresented area is 104.2 mm²")


def test_reasons_name_the_figure_and_what_is_needed():
    poor = replace(GOOD, represented=0.6549, largest_mm2=1.5, chance=Chance(40, 8))
    assert judge(poor).reasons == (
        "65.4 % of the tissue is represented; REVIEW needs 70 %",
        "the largest unrepresented area is 1.5 mm²; PASS needs at most 1 mm²",
        "the patches are no better than random ones: they beat at most 40 % of random draws of as many",
    )


def test_shares_are_never_rounded_up():
    assert [percent(share) for share in (1, 0.99999, 0.9, 0.89999, 0.0)] == ["100 %", "99.9 %", "90 %", "89.9 %", "0 %"]


# one patch, and chance


def nested(selector: str, tokens: Tokens, keep: int, seed: int = 0) -> np.ndarray:
    candidates = sample_candidates(tokens.features)
    return pick(TissuePatches(tokens.features, tokens.coords, candidates, seed, 64), keep, selector)


def figures_of(tokens: Tokens, rows: np.ndarray, draws: Draws, keep: int) -> Figures:
    """The figures of the first `keep` of `rows`."""
    (figures,) = figures_of_each(tokens, rows, draws, [keep])
    return figures


def figures_of_each(tokens: Tokens, rows: np.ndarray, draws: Draws, keeps: Sequence[int]) -> list[Figures]:
    yardstick = measure_likeness(tokens.features, tokens.coords, 64)
    prefixes, places = prefixes_of(tokens.features, rows), TissuePlaces(tokens.coords, 64, 0.5)
    doubtful, figures = says_little(yardstick.contrast, yardstick.pairs), []
    for keep in keeps:
        found = describe_represented(places, yardstick, *prefixes.of(keep), None)
        largest = found["regions"][0]["mm2"] if found["regions"] else 0.0
        chance = compare_with_chance(prefixes, yardstick.cosine, draws, keep)
        figures.append(Figures(found["share"], largest, doubtful, chance, {}, keep == len(tokens.features)))
    return figures


@pytest.fixture(scope="module")
def mixed() -> tuple[Tokens, Draws]:
    tokens = tissue(300, 2, areas=True)
    cosine = measure_likeness(tokens.features, tokens.coords, 64).cosine
    return tokens, draw(tokens.features, sample_candidates(tokens.features).cluster, cosine, 128, 1, 200)


def test_one_patch_of_a_mixed_slide_fails(mixed):
    tokens, draws = mixed
    assert judge(figures_of(tokens, nested("wsisum", tokens, 128), draws, 1)).verdict == "FAIL"


def test_verdict_never_falls_when_patches_are_added(mixed):
    tokens, draws = mixed
    for selector in ("wsisum", "random", "facility"):
        rows = nested(selector, tokens, 128)
        found = figures_of_each(tokens, rows, draws, range(1, 129))
        shares = [figures.represented for figures in found]
        places = [VERDICTS.index(judge(figures).verdict) for figures in found]
        assert shares == sorted(shares), selector
        assert places == sorted(places, reverse=True), selector
        assert places[0] == VERDICTS.index("FAIL"), selector


def test_random_selection_never_has_a_better_verdict(mixed):
    tokens, draws = mixed
    keeps = (1, 4, 8, 16, 32, 64, 128)
    best = places_of(tokens, nested("wsisum", tokens, 128), draws, keeps)
    for seed in range(10):
        found = places_of(tokens, nested("random", tokens, 128, seed), draws, keeps)
        assert all(place >= least for place, least in zip(found, best, strict=True)), seed


def places_of(tokens: Tokens, rows: np.ndarray, draws: Draws, keeps: Sequence[int]) -> list[int]:
    """The place of each verdict among all, of which the best is the first."""
    return [VERDICTS.index(judge(figures).verdict) for figures in figures_of_each(tokens, rows, draws, keeps)]


def test_most_random_selections_are_not_well_chosen(mixed):
    tokens, draws = mixed
    found = [judge(figures_of(tokens, nested("random", tokens, 64, seed), draws, 64)).well_chosen for seed in range(20)]
    assert found.count("FAIL") >= 12
    assert found.count("PASS") <= 2


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.lists(st.floats(0, 1), min_size=12, max_size=12),
    st.integers(0, 99),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_chance_is_never_worse_for_more_patches(levels, offsets, seed):
    tokens = tissue(40, seed)
    rows = np.random.default_rng(seed).permutation(40)
    sizes = (1, 2, 4, 8, 12, 16, 24, 32, 40)
    quantiles = np.stack([np.sort(np.clip(EVEN - 0.5 + offsets[at % 12], -1, 1)) for at in range(len(sizes))])
    quantiles *= levels[0]
    by_features = np.repeat(quantiles[:, None], len(DRAWN), axis=1).astype(np.float32)
    draws = Draws(sizes, by_features, (), np.empty((0, 101), np.float32), 100, 0, 0)
    prefixes = prefixes_of(tokens.features, rows)
    found = [compare_with_chance(prefixes, 0.7, draws, keep) for keep in range(1, 41)]
    percentiles = [-1 if chance is None else chance.percentile for chance in found]
    assert percentiles == sorted(percentiles)


def test_few_patches_never_pass_by_chance():
    tokens = tissue(40)
    by_features = np.full((4, len(DRAWN), 101), -1, np.float32)  # which everything beats
    draws = Draws((1, 2, 4, 8), by_features, (), np.empty((0, 101), np.float32), 100, 0, 0)
    found = [chance_of(tokens, np.arange(40), 0.7, draws, keep) for keep in (4, 8)]
    assert [chance.percentile for chance in found if chance is not None] == [98, 100]


def test_chance_is_judged_by_coverage_and_represented_tissue_alike():
    tokens = tissue(40)
    rows = np.arange(40)
    sizes = (1, 2)
    by_features = np.zeros((2, len(DRAWN), 101), np.float32)
    by_features[:, DRAWN.index("represented")] = 1  # every draw represents all tissue
    draws = Draws(sizes, by_features, (), np.empty((0, 101), np.float32), 100, 0, 0)
    chance = chance_of(tokens, rows, 0.7, draws, 2)
    assert chance is not None
    assert chance.percentile == 0  # though coverage beats every draw


def test_features_that_are_all_alike_do_not_pass():
    tokens = Tokens(np.zeros((40, 5), np.float32), tissue(40).coords, 64)
    draws = draw(tokens.features, np.zeros(40, np.int16), 0.9, 9, 0, 20)
    verdict = judge(figures_of(tokens, np.arange(9), draws, 9))
    assert verdict.verdict in ("REVIEW", "FAIL")
    assert any("the features do not tell patches apart" in reason for reason in verdict.reasons)


def test_noise_for_features_does_not_pass():
    """Patches that are no more alike beside each other than anywhere else represent one another by accident."""
    tokens = tissue(200)
    noise = Tokens(np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32), tokens.coords, 64)
    cosine = measure_likeness(noise.features, noise.coords, 64).cosine
    draws = draw(noise.features, np.zeros(200, np.int16), cosine, 64, 0, 50)
    verdict = judge(figures_of(noise, nested("wsisum", noise, 64), draws, 64))
    assert verdict.verdict != "PASS"
    assert any("say little about this slide" in reason for reason in verdict.reasons)


# percentiles


@pytest.mark.parametrize(
    ("value", "expected"), [(-1, 0), (0, 0), (0.004, 0), (0.5, 50), (0.99, 99), (1, 100), (2, 100)]
)
def test_percentile(value, expected):
    assert percentile(value, EVEN) == expected


# thresholds


def test_thresholds_are_parsed_and_stored():
    thresholds = read_thresholds(["represented=0.95/0.8", "chance=100/95", "coverage>=0.9", "composition<=0.2"])
    assert thresholds.limits == {**LIMITS, "represented": (0.95, 0.8), "chance": (100, 95)}
    assert thresholds.values == {"coverage": 0.9, "composition": 0.2}
    assert stored_thresholds(thresholds.as_dict()) == thresholds
    assert stored_thresholds(Thresholds().as_dict()) == Thresholds() == read_thresholds([])


def test_limits_of_older_files_give_way_to_the_defaults():
    older = {"percentiles": {"coverage": [99, 90]}, "values": {"coverage": 0.5, "slide_cosine": 0.9}}
    assert stored_thresholds(older) == Thresholds(values={"coverage": 0.5})


def test_values_apply_regardless_of_draws():
    poor = replace(GOOD, quality={**QUALITY, "coverage": 0.8, "composition": 0.3})
    assert judge(poor).verdict == "PASS"
    verdict = judge(poor, read_thresholds(["coverage>=0.9", "composition<=0.2"]))
    assert verdict.verdict == "FAIL"
    assert [reason.split()[0] for reason in verdict.reasons] == ["coverage", "composition"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "represented",
        "represented=0.7/0.9",
        "represented=1.1/0.9",
        "largest_mm2=5/1",
        "chance=101/2",
        "coverage=95/40",
        "cover>=0.5",
        "coverage<=0.9",
        "composition>=0.1",
        "represented>=0.9",
    ],
)
def test_invalid_thresholds_are_refused(text):
    with pytest.raises(UsageError, match="expected NAME=PASS/FAIL"):
        read_thresholds([text])
