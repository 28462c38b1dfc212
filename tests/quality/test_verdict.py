"""Random draws, percentiles among them, and the verdict."""

from __future__ import annotations

import numpy as np
import pytest
from summaries import tiny_models

from wsisum_cli.errors import UsageError
from wsisum_cli.features.embedding import SlideEmbeddings, Tokens, embed_tissue
from wsisum_cli.models.choice import NO_MODELS
from wsisum_cli.quality.measures import measure_selection
from wsisum_cli.quality.random_draws import BY_FEATURES, BY_MODELS, Draws, draw
from wsisum_cli.quality.verdict import PERCENTILES, Thresholds, judge, percentile, read_thresholds, stored_thresholds
from wsisum_cli.selection.candidates import sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.selectors import select, weigh

EVEN = np.linspace(0, 1, 101, dtype=np.float32)


def tissue(patches: int = 600, seed: int = 0) -> Tokens:
    """Groups of unequal size, with some noise."""
    rng = np.random.default_rng(seed)
    group = np.minimum(rng.geometric(0.08, patches), 40)
    features = rng.normal(size=(41, 12))[group] + 0.7 * rng.normal(size=(patches, 12))
    side = int(np.ceil(np.sqrt(patches)))
    coords = np.stack([np.arange(patches) % side, np.arange(patches) // side], axis=1) * 64
    return Tokens(features.astype(np.float32), coords, 64)


def figures(tokens: Tokens, cluster: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    return vars(measure_selection(tokens.features, weigh(tokens.features, rows), cluster))


# draws


def test_draws_match_measured_random_patches():
    tokens = tissue()
    cluster = sample_candidates(tokens.features).cluster
    draws = draw(tokens, cluster, 20, SlideEmbeddings(), 3, 200)
    rng = np.random.default_rng(9)
    own = [figures(tokens, cluster, rng.permutation(600)[:20]) for _ in range(60)]
    for place, name in enumerate(BY_FEATURES):
        quantiles = draws.by_features[-1, place]
        values = np.array([found[name] for found in own])
        assert 0.25 < np.mean(values <= quantiles[50]) < 0.75, name
        assert np.mean((quantiles[1] <= values) & (values <= quantiles[99])) > 0.85, name


def test_draws_of_fewer_patches_score_lower():
    draws = draw(tissue(), np.zeros(600, np.int16), 40, SlideEmbeddings(), 0, 50)
    assert draws.keep == (1, 2, 4, 8, 12, 16, 24, 32, 40)
    assert draws.by_features.shape == (9, len(BY_FEATURES), 101)
    assert (np.diff(draws.by_features[:, :3], axis=0) >= 0).all()
    assert np.array_equal(draws.of("coverage", 40), draws.by_features[8, 0])
    assert np.array_equal(draws.of("coverage", 33), draws.by_features[8, 0])  # the next larger number
    assert np.array_equal(draws.of("coverage", 9), draws.by_features[4, 0])
    assert draws.of("coverage", 41) is None
    assert draws.of("slide_cosine", 40) is None


def test_draws_depend_on_the_seed():
    cluster = np.zeros(600, np.int16)
    one, same, other = (draw(tissue(), cluster, 9, SlideEmbeddings(), seed, 40).by_features for seed in (1, 1, 2))
    assert one.tobytes() == same.tobytes() != other.tobytes()


def test_models_measure_draws():
    tokens = tissue(80)
    embedded = embed_tissue(tiny_models(), tokens, np.arange(0, 80, 2), np.arange(10))
    draws = draw(tokens, np.zeros(80, np.int16), 10, embedded, 0, 30)
    assert draws.models == BY_MODELS
    assert draws.by_models.shape == (3, 101)
    for name in BY_MODELS:
        quantiles = draws.of(name, 10)
        assert quantiles is not None
        assert -1 <= quantiles[0] <= quantiles[100] <= 1
    assert draws.of("slide_cosine", 9) is None  # known of the number that was kept alone


def test_draws_of_all_patches_are_equal():
    tokens, cluster = tissue(12), np.arange(12, dtype=np.int16) % 2
    draws = draw(tokens, cluster, 12, embed_tissue(NO_MODELS, tokens, np.arange(12), np.arange(12)), 0, 20)
    verdict = judge(figures(tokens, cluster, np.arange(12)), draws, 12)
    assert set(verdict.percentiles.values()) == {100}
    assert (verdict.verdict, verdict.reasons) == ("PASS", ())


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
        ({"slide_cosine": 24, "coverage_p05": 10}, "FAIL"),
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
    verdict = judge(found | {"reconstruction": None}, draws, 63)
    assert "reconstruction" not in verdict.percentiles
    assert judge(found, draws, 62).percentiles["slide_cosine"] is None
    assert judge(found, draws, 62).verdict == "PASS"


def test_random_selection_never_passes():
    tokens = tissue()
    candidates = sample_candidates(tokens.features)
    draws = draw(tokens, candidates.cluster, 30, SlideEmbeddings(), 1, 300)
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
    draws = draw(tokens, np.zeros(40, np.int16), 9, SlideEmbeddings(), 0, 20)
    verdict = judge(figures(tokens, np.zeros(40, np.int16), np.arange(9)), draws, 9)
    assert verdict.verdict == "REVIEW"
    assert "the features tell nothing apart" in verdict.reasons[0]


@pytest.mark.parametrize("keep", [60, 150])
def test_large_selection_never_fails_for_its_mean(keep):
    tokens = tissue(200)
    candidates = sample_candidates(tokens.features)
    embedded = embed_tissue(tiny_models(), tokens, candidates.rows, np.arange(keep))
    draws = draw(tokens, candidates.cluster, keep, embedded, 0, 60)
    ours = select(TissuePatches(tokens.features, tokens.coords, candidates, 0, 64, tiny_models()), keep)
    embedded = embed_tissue(tiny_models(), tokens, candidates.rows, ours.rows)
    measured = vars(measure_selection(tokens.features, ours, candidates.cluster)) | embedded.figures()
    assert judge(measured, draws, keep).verdict != "FAIL"


def test_keep_larger_than_the_draw_pool(monkeypatch):
    monkeypatch.setattr("wsisum_cli.quality.random_draws.POOL", 10)
    draws = draw(tissue(60), np.zeros(60, np.int16), 30, SlideEmbeddings(), 0, 10)
    assert draws.keep[-1] == 30


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
