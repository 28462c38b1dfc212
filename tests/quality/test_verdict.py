"""Percentiles among random draws, and the verdict."""

from __future__ import annotations

import numpy as np
import pytest
from tissue_groups import figures, tissue

from wsisum_cli.errors import UsageError
from wsisum_cli.features.embedding import Tokens
from wsisum_cli.quality.measures import measure_selection
from wsisum_cli.quality.random_draws import BY_FEATURES, Draws, draw
from wsisum_cli.quality.verdict import PERCENTILES, Thresholds, judge, percentile, read_thresholds, stored_thresholds
from wsisum_cli.selection.candidates import sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.selectors import select

#: Figures that older files compare with draws by models.
BY_MODELS = ("reconstruction", "embedding_cosine", "slide_cosine")
EVEN = np.linspace(0, 1, 101, dtype=np.float32)


# percentiles and the verdict


@pytest.mark.parametrize(
    ("value", "expected"), [(-1, 0), (0, 0), (0.004, 0), (0.5, 50), (0.99, 99), (1, 100), (2, 100)]
)
def test_percentile(value, expected):
    assert percentile(value, EVEN) == expected
    assert percentile(1 - value, EVEN, less_is_better=True) == expected


def drawn(**percentiles: int) -> tuple[dict[str, float | None], Draws]:
    """Figures at these percentiles of draws that are even from 0 to 1; the others at 100."""
    names = (*BY_FEATURES, *BY_MODELS)
    found = {name: percentiles.get(name, 100) / 100 + 0.001 for name in names}
    found["composition"] = 1 - found["composition"]
    by_features, by_models = np.tile(EVEN, (1, len(BY_FEATURES), 1)), np.tile(EVEN, (len(BY_MODELS), 1))
    return found, Draws((63,), by_features, BY_MODELS, by_models, 1_000, 200, 0)


@pytest.mark.parametrize(
    ("percentiles", "expected"),
    [
        ({}, "PASS"),
        ({"coverage": 99}, "PASS"),
        ({"coverage_min": 89}, "REVIEW"),
        ({"coverage": 89}, "FAIL"),
        ({"coverage_min": 24}, "FAIL"),
        ({"weighted_cosine": 89}, "REVIEW"),
        ({"composition": 0}, "REVIEW"),
        ({"weighted_cosine": 24, "coverage_p05": 10}, "FAIL"),
        (dict.fromkeys(PERCENTILES, 50), "FAIL"),
    ],
)
def test_worst_figure_decides_the_verdict(percentiles, expected):
    verdict = judge(*drawn(**percentiles), 63)
    assert verdict.verdict == expected
    assert len(verdict.reasons) == sum(percentiles.get(name, 100) < passes for name, (passes, _) in PERCENTILES.items())
    assert {name: verdict.percentiles[name] for name in percentiles} == percentiles


def test_figures_that_were_not_measured_do_not_count():
    found, draws = drawn()
    assert "coverage_min" not in judge(found | {"coverage_min": None}, draws, 63).percentiles


def test_models_count_by_the_thresholds_of_older_files_alone():
    found, draws = drawn(slide_cosine=24)
    assert judge(found, draws, 63).verdict == "PASS"
    older = Thresholds({**PERCENTILES, "slide_cosine": (25, 0)})
    assert judge(found, draws, 63, older).percentiles["slide_cosine"] == 24
    assert judge(found, draws, 63, older).verdict == "REVIEW"
    assert judge(found, draws, 62, older).percentiles["slide_cosine"] is None
    assert judge(found, draws, 62, older).verdict == "PASS"


def test_random_selection_never_passes():
    tokens = tissue()
    candidates = sample_candidates(tokens.features)
    draws = draw(tokens.features, candidates.cluster, 30, 1, 300)
    found = []
    for seed in range(30):
        of_seed = TissuePatches(tokens.features, tokens.coords, candidates, seed, 64)
        rows = select(of_seed, 30, "random")
        found.append(judge(vars(measure_selection(tokens.features, rows, candidates.cluster)), draws, 30).verdict)
    assert "PASS" not in found
    assert found.count("FAIL") >= 24
    ours = select(TissuePatches(tokens.features, tokens.coords, candidates, 0, 64), 30, "wsisum")
    assert judge(vars(measure_selection(tokens.features, ours, candidates.cluster)), draws, 30).verdict == "PASS"


def test_draws_of_more_patches_cannot_fail_a_summary():
    found, draws = drawn(coverage=0)
    assert judge(found, draws, 63).verdict == "FAIL"
    verdict = judge(found, draws, 62)
    assert verdict.verdict == "REVIEW"
    assert "random draws of 63 patches" in verdict.reasons[0]


def test_features_that_are_all_alike_do_not_pass():
    tokens = Tokens(np.zeros((40, 5), np.float32), tissue(40).coords, 64)
    draws = draw(tokens.features, np.zeros(40, np.int16), 9, 0, 20)
    verdict = judge(figures(tokens, np.zeros(40, np.int16), np.arange(9)), draws, 9)
    assert verdict.verdict == "REVIEW"
    assert "the features tell nothing apart" in verdict.reasons[0]


@pytest.mark.parametrize("keep", [60, 150])
def test_large_selection_never_fails_for_its_mean(keep):
    tokens = tissue(200)
    candidates = sample_candidates(tokens.features)
    draws = draw(tokens.features, candidates.cluster, keep, 0, 60)
    ours = select(TissuePatches(tokens.features, tokens.coords, candidates, 0, 64), keep)
    measured = vars(measure_selection(tokens.features, ours, candidates.cluster))
    assert judge(measured, draws, keep).verdict != "FAIL"


# thresholds


def test_thresholds_are_parsed_and_stored():
    thresholds = read_thresholds(["coverage=95/40", "coverage>=0.9", "composition<=0.2"])
    assert thresholds.percentiles == {**PERCENTILES, "coverage": (95, 40)}
    assert thresholds.values == {"coverage": 0.9, "composition": 0.2}
    assert stored_thresholds(thresholds.as_dict()) == thresholds
    assert stored_thresholds(Thresholds().as_dict()) == Thresholds() == read_thresholds([])


def test_value_thresholds_apply_regardless_of_draws():
    found, draws = drawn()
    verdict = judge(found | {"coverage": 0.8, "composition": 0.3}, draws, 63, read_thresholds(["coverage=0/0"]))
    assert verdict.verdict == "PASS"
    asked = read_thresholds(["coverage=0/0", "coverage>=0.9", "composition<=0.2"])
    verdict = judge(found | {"coverage": 0.8, "composition": 0.3}, draws, 63, asked)
    assert verdict.verdict == "FAIL"
    assert [reason.split()[0] for reason in verdict.reasons] == ["coverage", "composition"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "coverage",
        "coverage=9",
        "coverage=40/95",
        "coverage=101/2",
        "cover=95/40",
        "coverage<=0.9",
        "composition>=0.1",
    ],
)
def test_invalid_thresholds_are_refused(text):
    with pytest.raises(UsageError, match="expected NAME=PASS/FAIL"):
        read_thresholds([text])
