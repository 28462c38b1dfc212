from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from wsisum_cli.errors import FeaturesError
from wsisum_cli.features.vectors import checked, unit_rows
from wsisum_cli.selection.candidates import allocate, cluster_features, draw_by_cluster, sample_candidates

quick = settings(max_examples=50, deadline=None, derandomize=True)
sizes_lists = st.lists(st.integers(0, 2_000), min_size=1, max_size=60)


def gaussian(patches: int, dims: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(patches, dims)).astype(np.float32)


def groups(sizes: list[int], dims: int = 16) -> np.ndarray:
    """Tight, well separated groups, in this order."""
    centres = np.eye(dims, dtype=np.float32)[: len(sizes)]
    return np.repeat(centres, sizes, axis=0) + 0.01 * gaussian(sum(sizes), dims)


# allocate


@given(sizes_lists, st.integers(0, 3_000))
@quick
def test_shares_sum_to_count_and_fit_their_clusters(sizes, count):
    share = allocate(np.array(sizes), count)
    assert share.sum() == min(count, sum(sizes))
    assert (share >= 0).all()
    assert (share <= sizes).all()


@given(sizes_lists, st.integers(0, 3_000))
@quick
def test_every_cluster_gets_one_if_the_count_suffices(sizes, count):
    share = allocate(np.array(sizes), count)
    occupied = np.array(sizes) > 0
    if count >= len(sizes):
        assert (share[occupied] >= 1).all()
    else:
        assert np.count_nonzero(share) <= count


@given(sizes_lists, st.integers(0, 3_000))
@quick
def test_a_larger_cluster_never_gets_less(sizes, count):
    ordered = allocate(np.sort(sizes)[::-1], count)
    assert (np.diff(ordered) <= 0).all()


def test_shares_are_proportional():
    assert allocate([600, 300, 100], 10).tolist() == [6, 3, 1]


def test_small_clusters_take_from_large_ones():
    assert allocate([998, 1, 1], 10).tolist() == [8, 1, 1]


def test_equal_remainders_go_to_the_earlier_cluster():
    assert allocate([5, 5, 5], 2).tolist() == [1, 1, 0]


@pytest.mark.parametrize(("sizes", "count"), [([3, -1], 2), ([3, 1], -2)])
def test_negative_numbers_are_refused(sizes, count):
    with pytest.raises(ValueError, match="must not be negative"):
        allocate(sizes, count)


def test_empty_sizes_get_no_shares():
    assert allocate([0, 0], 5).tolist() == [0, 0]


# clusters


def test_clusters_are_found_and_ordered_by_falling_size():
    cluster = cluster_features(groups([10, 40, 20]), clusters=3)
    assert cluster.dtype == np.int16
    assert cluster.tolist() == [2] * 10 + [0] * 40 + [1] * 20


def test_equal_clusters_are_ordered_by_their_first_patch():
    assert cluster_features(groups([20, 20, 30]), clusters=3).tolist() == [1] * 20 + [2] * 20 + [0] * 30


@given(st.integers(1, 150), st.integers(1, 60), st.integers(1, 90), st.integers(0, 9))
@settings(quick, max_examples=20)
def test_labels_are_all_used_and_fall_in_size(patches, clusters, dims, seed):
    sizes = np.bincount(cluster_features(gaussian(patches, dims, seed), clusters, seed))
    assert len(sizes) <= min(patches, clusters)
    assert (sizes > 0).all()
    assert (np.diff(sizes) <= 0).all()


def test_clustering_ignores_vector_length():
    features = np.repeat(gaussian(2, seed=3), 30, axis=0) * np.linspace(0.1, 9, 60)[:, None]
    assert cluster_features(features, clusters=2).tolist() == [0] * 30 + [1] * 30


@pytest.mark.parametrize("dims", [8, 100])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_patches_are_one_cluster(value, dims):
    assert not cluster_features(np.full((200, dims), value, np.float32)).any()


def test_clusters_do_not_exceed_distinct_patches():
    features = np.repeat(gaussian(3, 100), 70, axis=0)
    assert cluster_features(features).max() == 2


def test_nearly_equal_patches_cluster_without_warning():
    features = np.ones((300, 100), np.float32) + 1e-7 * gaussian(300, 100)
    assert cluster_features(features).min() == 0


# candidates


@given(st.integers(1, 300), st.integers(1, 120), st.integers(1, 30), st.integers(0, 9))
@settings(quick, max_examples=20)
def test_candidates_are_distinct_and_ascending(patches, count, clusters, seed):
    candidates = sample_candidates(gaussian(patches, seed=seed), count, clusters, seed)
    assert candidates.rows.dtype == np.int64
    assert len(candidates.rows) == min(patches, count)
    assert (np.diff(candidates.rows) > 0).all()
    assert candidates.cluster.shape == (patches,)


def test_a_small_slide_gives_all_its_patches():
    assert sample_candidates(gaussian(37), count=500).rows.tolist() == list(range(37))


def test_candidates_are_proportional_to_clusters():
    candidates = sample_candidates(groups([600, 300, 100]), count=100, clusters=3)
    assert np.bincount(candidates.cluster[candidates.rows]).tolist() == [60, 30, 10]


def test_draw_starts_with_the_first_cluster_and_stops_at_all_rows():
    assert sorted(draw_by_cluster(np.array([1, 0, 0]), 99, seed=0)[:2]) == [1, 2]
    assert sorted(draw_by_cluster(np.array([1, 0, 0]), 99, seed=0)) == [0, 1, 2]


def test_draw_depends_on_the_seed():
    features = gaussian(400)
    first, again, other = (sample_candidates(features, 50, 10, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.rows, again.rows)
    assert np.array_equal(first.cluster, again.cluster)
    assert not np.array_equal(first.rows, other.rows)


def test_thread_count_does_not_matter():
    features = gaussian(6_000, 96)
    found = []
    for threads in (1, 2, 4):
        with threadpool_limits(limits=threads):
            found.append(sample_candidates(features, 100, 20))
    assert all(np.array_equal(found[0].rows, other.rows) for other in found)
    assert all(np.array_equal(found[0].cluster, other.cluster) for other in found)


def test_float16_input_equals_its_float32_values():
    features = gaussian(200).astype(np.float16)
    assert np.array_equal(cluster_features(features, 9), cluster_features(features.astype(np.float32), 9))


def test_one_patch_is_one_candidate():
    candidates = sample_candidates(gaussian(1))
    assert candidates.rows.tolist() == [0]
    assert candidates.cluster.tolist() == [0]


# refusals


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_first_non_finite_row_is_named(value, dtype):
    features = gaussian(20).astype(dtype)
    features[[13, 17], 3] = value
    with pytest.raises(FeaturesError, match=r"row 13 are not finite \(2 of 20 rows\)"):
        sample_candidates(features)


def test_float32_overflow_is_refused_without_warning():
    with pytest.raises(ValueError, match="row 0 are not finite"):
        checked(np.full((1, 3), 1e300))


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (8,), (2, 2, 2)])
def test_features_of_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="expected features"):
        sample_candidates(np.zeros(shape, np.float32))


@pytest.mark.parametrize(("count", "clusters"), [(0, 5), (5, 0)])
def test_numbers_below_one_are_refused(count, clusters):
    with pytest.raises(ValueError, match="must be at least 1"):
        sample_candidates(gaussian(9), count, clusters)


def test_unit_rows_keep_zero_rows():
    units = unit_rows(np.array([[0, 0], [3, 4], [1e-30, 0], [1e38, 1e38]], np.float32))
    assert np.allclose(np.linalg.norm(units, axis=1), [0, 1, 1, 1])
