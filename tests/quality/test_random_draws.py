"""Random draws: what is stored of them."""

from __future__ import annotations

import numpy as np
from tissue_groups import figures, tissue

from wsisum_cli.quality.random_draws import BY_FEATURES, draw, unmeasured
from wsisum_cli.quality.verdict import judge
from wsisum_cli.selection.candidates import sample_candidates


def test_draws_match_measured_random_patches():
    tokens = tissue()
    cluster = sample_candidates(tokens.features).cluster
    draws = draw(tokens.features, cluster, 20, 3, 200)
    rng = np.random.default_rng(9)
    own = [figures(tokens, cluster, rng.permutation(600)[:20]) for _ in range(60)]
    for place, name in enumerate(BY_FEATURES):
        quantiles = draws.by_features[-1, place]
        values = np.array([found[name] for found in own])
        assert 0.25 < np.mean(values <= quantiles[50]) < 0.75, name
        assert np.mean((quantiles[1] <= values) & (values <= quantiles[99])) > 0.85, name


def test_draws_of_fewer_patches_score_lower():
    draws = draw(tissue().features, np.zeros(600, np.int16), 40, 0, 50)
    assert draws.keep == (1, 2, 4, 8, 12, 16, 24, 32, 40)
    assert draws.by_features.shape == (9, len(BY_FEATURES), 101)
    assert (np.diff(draws.by_features[:, :3], axis=0) >= 0).all()
    assert np.array_equal(draws.of("coverage", 40), draws.by_features[8, 0])
    assert np.array_equal(draws.of("coverage", 33), draws.by_features[8, 0])  # the next larger number
    assert np.array_equal(draws.of("coverage", 9), draws.by_features[4, 0])
    assert draws.of("coverage", 41) is None
    assert draws.of("slide_cosine", 40) is None


def test_draws_depend_on_the_seed_and_not_on_threads():
    features, cluster = tissue().features, np.zeros(600, np.int16)
    one, same, other = (draw(features, cluster, 9, seed, 40, threads) for seed, threads in ((1, 1), (1, 3), (2, 1)))
    assert one.by_features.tobytes() == same.by_features.tobytes() != other.by_features.tobytes()


def test_models_are_not_drawn_for():
    draws = draw(tissue(40).features, np.zeros(40, np.int16), 5, 0, 20)
    assert (draws.models, draws.model_count, list(draws.arrays())) == ((), 0, ["draws"])
    assert unmeasured(5, 20, 0).by_features.shape == draws.by_features.shape


def test_draws_of_all_patches_are_equal():
    tokens, cluster = tissue(12), np.arange(12, dtype=np.int16) % 2
    draws = draw(tokens.features, cluster, 12, 0, 20)
    verdict = judge(figures(tokens, cluster, np.arange(12)), draws, 12)
    assert set(verdict.percentiles.values()) == {100}
    assert (verdict.verdict, verdict.reasons) == ("PASS", ())


def test_keep_larger_than_the_draw_pool(monkeypatch):
    monkeypatch.setattr("wsisum_cli.quality.random_draws.POOL", 10)
    draws = draw(tissue(60).features, np.zeros(60, np.int16), 30, 0, 10)
    assert draws.keep[-1] == 30
