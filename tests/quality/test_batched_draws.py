"""Batched draws against the plain way: one draw after the other."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from slow_draws import measure_slowly
from tissue_groups import tissue

from wsisum_cli.features.vectors import one_thread
from wsisum_cli.quality import batched_draws, batched_weights
from wsisum_cli.quality.batched_draws import Pool, measure_draws
from wsisum_cli.quality.random_draws import draw_pool, sizes_of


def drawn_from(
    features: np.ndarray, keep: int, count: int, cluster: np.ndarray | None = None
) -> tuple[Pool, np.ndarray, tuple[int, ...]]:
    rng = np.random.default_rng(keep)
    cluster = np.arange(len(features)) % 7 if cluster is None else cluster
    with one_thread():
        pool = draw_pool(features, cluster.astype(np.int16), keep, rng)
    drawn = np.stack([rng.permutation(len(pool.rows))[:keep] for _ in range(count)])
    return pool, drawn, sizes_of(keep)


def assert_equal(pool: Pool, drawn: np.ndarray, sizes: tuple[int, ...]) -> None:
    with one_thread():
        found = measure_draws(pool, drawn, sizes)
    np.testing.assert_allclose(found, measure_slowly(pool, drawn, sizes), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("patches", "keep", "count"),
    [(600, 40, 40), (600, 1, 20), (1, 1, 3), (2, 2, 5), (30, 30, 10), (90, 89, 6), (700, 260, 3), (1_100, 520, 1)],
)
def test_batches_equal_one_draw_after_the_other(patches, keep, count):
    assert_equal(*drawn_from(tissue(patches).features, keep, count))


def degenerate(kind: str) -> np.ndarray:
    """Features (120, 12) of which many solutions, or none, seem equally good."""
    features = tissue(120).features
    made = {
        "constant": np.ones_like(features),
        "zero": np.zeros_like(features),
        "half zero": features * (np.arange(120) % 2)[:, None],
        "duplicates": features[np.arange(120) % 5],
        "on a line": np.outer(np.linspace(-1, 2, 120), features[0]),
        "opposite": np.concatenate([features[:60], -features[:60]]),
        "one feature": features[:, :1],
        "large": features * 1e30,
        "small": features * 1e-18,
        "one far away": np.concatenate([features[:119], 1e6 * features[119:]]),
    }
    return np.asarray(made[kind], np.float32)


KINDS = ("constant", "zero", "half zero", "duplicates", "on a line", "opposite", "one feature", "large", "small")


@pytest.mark.parametrize("kind", [*KINDS, "one far away"])
@pytest.mark.parametrize("keep", [1, 7, 40, 120])
def test_degenerate_features(kind, keep):
    assert_equal(*drawn_from(degenerate(kind), keep, 8))


@pytest.mark.parametrize("cluster", [np.arange(120), np.zeros(120, int), np.arange(120) // 119])
def test_clusters_of_one_patch_and_of_all(cluster):
    assert_equal(*drawn_from(tissue(120).features, 24, 20, cluster))


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_weights_that_do_not_settle_are_fitted_by_the_slow_solver(monkeypatch, steps):
    fitted: list[int] = []

    def fit_mean(own: np.ndarray, mean: np.ndarray, shares: np.ndarray) -> np.ndarray:
        fitted.append(len(own))
        return slow(own, mean, shares)

    slow = batched_weights.fit_mean
    monkeypatch.setattr(batched_weights, "STEPS", steps)
    monkeypatch.setattr(batched_weights, "fit_mean", fit_mean)
    assert_equal(*drawn_from(tissue(200).features, 40, 10))
    assert fitted


@pytest.mark.parametrize("patience", [-1, 0])
def test_changing_one_row_at_a_time_finds_the_same(monkeypatch, patience):
    monkeypatch.setattr(batched_weights, "PATIENCE", patience)
    assert_equal(*drawn_from(tissue(200).features, 24, 10))


@pytest.mark.parametrize(("cells", "numbers", "best"), [(1, 1, 1), (1_000, 5_000, 2_000)])
def test_batches_of_any_size_give_the_same(monkeypatch, cells, numbers, best):
    pool, drawn, sizes = drawn_from(tissue(300).features, 20, 30)
    whole = measure_draws(pool, drawn, sizes)
    for name, value in (("CELLS", cells), ("NUMBERS", numbers), ("BEST", best)):
        monkeypatch.setattr(batched_draws, name, value)
    np.testing.assert_allclose(measure_draws(pool, drawn, sizes, 2), whole, rtol=0, atol=1e-12)


def test_more_patches_than_sixteen_bits_count():
    """Draws of more than 65,536 patches need larger keys; the patches are made up here, as they are never drawn."""
    keep = 70_000
    cosines = np.random.default_rng(0).integers(-(2**14), 2**14, (keep, 3), np.int16, endpoint=True)
    best, place = batched_draws.best_of_first(cosines, np.arange(keep)[None], (keep,))
    np.testing.assert_array_equal(best[0, 0], cosines.max(axis=0))
    np.testing.assert_array_equal(place[0, 0], cosines.argmax(axis=0))


@pytest.mark.parametrize(("patches", "dims", "keep", "count"), [(20_000, 32, 64, 12), (900, 384, 64, 400)])
def test_memory_stays_within_the_stated_bound(patches, dims, keep, count):
    features = np.random.default_rng(0).normal(size=(patches, dims)).astype(np.float32)
    pool, drawn, sizes = drawn_from(features, keep, count)
    tracemalloc.start()
    measure_draws(pool, drawn, sizes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
