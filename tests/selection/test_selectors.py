from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from wsisum_cli.errors import UsageError
from wsisum_cli.features.similarity import ONE, scale_of, whole_rows
from wsisum_cli.features.vectors import unit_rows
from wsisum_cli.models.choice import SlideModels
from wsisum_cli.models.slide_encoder import SlideEmbedding
from wsisum_cli.quality.measures import Quality, WeightedPatches, measure_kept, measure_selection
from wsisum_cli.selection import facility
from wsisum_cli.selection.candidates import Candidates, sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.prefixes import prefixes_of
from wsisum_cli.selection.selectors import SELECTORS, Selection, select

quick = settings(max_examples=20, deadline=None, derandomize=True)
every_selector = pytest.mark.parametrize("selector", list(SELECTORS))


def gaussian(patches: int, dims: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(patches, dims)).astype(np.float32)


def places(patches: int) -> np.ndarray:
    """Coords of patches laid in rows of 20."""
    return np.stack([np.arange(patches) % 20, np.arange(patches) // 20], axis=1).astype(np.int32) * 512


def everything(features: np.ndarray) -> Candidates:
    return Candidates(np.arange(len(features)), np.zeros(len(features), np.int16))


class Attentive:
    """A slide encoder that attends to the longest features."""

    def __call__(self, features, _coords, _patch_size_level0):
        length = np.linalg.norm(features.astype(np.float32), axis=1)
        return SlideEmbedding(features[0], features[:1], np.ones(1, np.float32), length)


MODELS = SlideModels(slide_encoder=Attentive())


def tissue_patches(
    features: np.ndarray, candidates: Candidates | None = None, seed: int = 0, coords=None
) -> TissuePatches:
    coords = places(len(features)) if coords is None else coords
    return TissuePatches(features, coords, candidates or everything(features), seed, 512, MODELS)


def kept(features: np.ndarray, keep: int, selector: str = "facility", seed: int = 0):
    return select(tissue_patches(features, seed=seed), keep, selector)


def measured(features: np.ndarray, selection: Selection) -> Quality:
    """All in one cluster."""
    return measure_selection(features, selection, np.zeros(len(features), np.int16))


def represent(features: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return prefixes_of(features, rows).of(len(rows))


@st.composite
def slides(draw) -> tuple[np.ndarray, int]:
    """Features of a few patches, some of them equal or zero, and how many to keep."""
    patches = draw(st.integers(1, 60))
    features = gaussian(patches, draw(st.integers(1, 12)), draw(st.integers(0, 99)))
    features[draw(st.lists(st.integers(0, patches - 1), max_size=5))] = 0
    features[draw(st.lists(st.integers(0, patches - 1), max_size=5))] = features[0]
    return features, draw(st.integers(1, patches))


# how many


# every selector


@every_selector
@given(slides())
@quick
def test_rows_are_distinct_and_weights_sum_to_one(selector, slide):
    features, keep = slide
    selection = kept(features, keep, selector)
    assert selection.rows.dtype == np.int64
    assert len(np.unique(selection.rows)) == len(selection.rows) == keep
    assert 0 <= selection.rows.min() <= selection.rows.max() < len(features)
    assert selection.counts.sum() == len(features)
    assert (selection.weights >= 0).all()
    assert selection.weights.sum() == pytest.approx(1, abs=1e-12)


@every_selector
@given(slides())
@quick
def test_kept_patch_represents_itself(selector, slide):
    features, keep = slide
    selection = kept(features, keep, selector)
    assert selection.representative[selection.rows].tolist() == list(range(keep))
    assert (selection.counts >= 1).all()
    assert np.array_equal(selection.similarity[selection.rows], features[selection.rows].any(axis=1))


@every_selector
@given(slides())
@quick
def test_quality_is_in_range(selector, slide):
    features, keep = slide
    selection = kept(features, keep, selector)
    quality = measured(features, selection)
    # The 5th percentile may exceed the mean: a few patches badly served, all others perfectly.
    assert -1 <= quality.coverage_min <= min(quality.coverage, quality.coverage_p05)
    assert max(quality.coverage, quality.coverage_p05) <= 1
    assert -1 <= quality.weighted_cosine <= 1


@every_selector
def test_keeping_all_is_perfect(selector):
    features = gaussian(30)
    quality = measured(features, kept(features, 30, selector))
    assert quality.coverage == quality.coverage_p05 == quality.coverage_min == 1
    assert quality.weighted_cosine == pytest.approx(1, abs=1e-6)


@every_selector
@pytest.mark.parametrize("patches", [1, 2, 7])
@pytest.mark.parametrize("value", [0, 1])
def test_equal_patches_are_all_represented(selector, patches, value):
    features = np.full((patches, 5), value, np.float32)
    selection = kept(features, min(8, patches), selector)
    quality = measured(features, selection)
    assert quality.coverage == quality.coverage_min == value
    assert quality.weighted_cosine == pytest.approx(value, abs=1e-12)


@every_selector
def test_selection_of_float16_equals_its_float32_values(selector):
    features = gaussian(80).astype(np.float16)
    half, single = kept(features, 9, selector), kept(features.astype(np.float32), 9, selector)
    assert np.array_equal(half.rows, single.rows)
    assert np.array_equal(half.similarity, single.similarity)
    assert measured(features, half) == measured(features.astype(np.float32), single)


@every_selector
def test_selection_is_deterministic_for_any_thread_count(selector):
    features = gaussian(5_000, 64)
    candidates = sample_candidates(features, 300, 10)
    found = []
    for threads in (1, 1, 2, 4):
        with threadpool_limits(limits=threads):
            selection = select(tissue_patches(features, candidates, 3), 40, selector)
            found.append((selection, measured(features, selection)))
    first = found[0][0]
    for selection, quality in found[1:]:
        for one, other in ((first, selection), (first.prefixes, selection.prefixes)):
            values = [(value, vars(other)[name]) for name, value in vars(one).items() if name != "prefixes"]
            assert all(np.array_equal(*pair) for pair in values)
        assert quality == found[0][1]


@pytest.mark.parametrize("selector", ["attempts", "random", "cluster", "location"])
def test_random_selectors_depend_on_the_seed(selector):
    features = gaussian(200)
    assert set(kept(features, 20, selector, 1).rows) != set(kept(features, 20, selector, 2).rows)


@pytest.mark.parametrize("selector", ["wsisum", "facility", "random", "entropy", "attention"])
@given(slides())
@quick
def test_picks_are_nested(selector, slide):
    features, keep = slide
    more = kept(features, len(features), selector).rows
    assert np.array_equal(kept(features, keep, selector).rows, more[:keep])


@pytest.mark.parametrize("selector", ["facility", "entropy"])
@given(st.integers(1, 60), st.integers(0, 99))
@quick
def test_patch_order_does_not_matter_without_draws(selector, patches, seed):
    features = gaussian(patches, seed=seed)
    order = np.random.default_rng(seed).permutation(patches)
    keep = min(8, patches)
    straight, shuffled = kept(features, keep, selector), kept(features[order], keep, selector)
    assert np.array_equal(straight.rows, order[shuffled.rows])
    assert np.array_equal(straight.counts, shuffled.counts)
    assert np.array_equal(straight.representative[order], shuffled.representative)
    assert np.array_equal(straight.similarity[order], shuffled.similarity)


# facility location


@given(slides())
@quick
def test_coverage_never_falls_with_more_patches(slide):
    features, keep = slide
    rows = kept(features, keep).rows
    coverage = [represent(features, rows[:fewer])[1].mean(dtype=float) for fewer in range(1, keep + 1)]
    assert (np.diff(coverage) >= 0).all()


def plain_greedy(features: np.ndarray, keep: int) -> list[int]:
    """Every gain computed anew for each pick, in whole numbers."""
    whole = whole_rows(features).astype(np.int64)
    cosines = np.rint(whole @ whole.T * np.float64(np.float32(ONE / scale_of(features.shape[1]) ** 2)))
    cosines = np.clip(cosines, -ONE, ONE).astype(np.int64)
    best, picked = np.full(len(features), -(2**15)), []
    for _ in range(keep):
        gains = np.maximum(cosines - best, 0).sum(axis=1)
        gains[picked] = -1
        picked.append(max(range(len(features)), key=lambda row: (gains[row], cosines[row].sum(), -row)))
        best = np.maximum(best, cosines[picked[-1]])
    return picked


@given(slides())
@quick
def test_lazy_greedy_picks_what_plain_greedy_picks(slide):
    features, keep = slide
    assert kept(features, keep).rows.tolist() == plain_greedy(features, keep)


def test_one_patch_per_group_is_picked_largest_group_first():
    centres = np.eye(4, 8, dtype=np.float32)[[0, 1, 1, 1, 2, 2, 3, 3, 3, 3]]
    selection = kept(centres + 0.01 * gaussian(10, 8), 4)
    assert selection.counts.tolist() == [4, 3, 2, 1]
    assert selection.representative.tolist() == [3, 1, 1, 1, 2, 2, 0, 0, 0, 0]


def test_tie_goes_to_the_more_central_patch():
    angle = np.array([60, 100, 180, 181, 182]) * np.pi / 180
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # With row 2 picked, rows 0 and 1 would each best serve the two of them; 1 is nearer to the rest.
    assert kept(features, 2).rows.tolist() == [2, 1]


def test_equal_patches_are_picked_in_row_order():
    assert kept(np.ones((9, 3), np.float32), 4).rows.tolist() == [0, 1, 2, 3]


def test_facility_considers_patches_that_are_not_candidates():
    features = np.concatenate([np.ones((40, 3)), -np.ones((5, 3))]).astype(np.float32)
    candidates = Candidates(np.arange(10), np.zeros(45, np.int16))
    assert select(tissue_patches(features, candidates), 2, "facility").rows.tolist() == [0, 40]


@pytest.mark.parametrize("selector", ["wsisum", "facility"])
def test_pool_covers_nearly_as_well_as_all_patches(selector, monkeypatch):
    features = np.concatenate([gaussian(12, 16)[np.arange(2_000) % 12], gaussian(3, 16, 9) * 3])
    features += 0.6 * gaussian(2_003, 16, 5)
    candidates = sample_candidates(features, 100, 12)
    full = measured(features, select(tissue_patches(features, candidates), 30, selector))
    monkeypatch.setattr(facility, "EXACT", 1_000)
    monkeypatch.setattr(facility, "MOST_COSINES", 2_003 * 1_100)
    monkeypatch.setattr(facility, "OUTLIERS", 256)
    pooled = tissue_patches(features, candidates)
    assert len(pooled.pool.rows) == 1_100 == len(np.unique(pooled.pool.rows))
    part = measured(features, select(pooled, 30, selector))
    assert part.coverage > full.coverage - 0.01
    assert part.coverage_min > full.coverage_min - 0.1


@pytest.mark.parametrize("selector", ["wsisum", "facility"])
def test_worst_covered_patches_follow_beyond_the_pool(selector, monkeypatch):
    monkeypatch.setattr(facility, "EXACT", 4)
    monkeypatch.setattr(facility, "MOST_COSINES", 1)
    monkeypatch.setattr(facility, "OUTLIERS", 1)
    features = gaussian(9)
    rows = kept(features, 9, selector).rows
    assert sorted(rows) == list(range(9))
    assert rows[4] == np.argmin(represent(features, rows[:4])[1])


@given(st.integers(1, 900), st.integers(0, 99))
@quick
def test_search_cosines_are_order_independent_and_accurate(dims, seed):
    features = gaussian(20, dims, seed)
    whole = whole_rows(features)
    assert (np.square(whole.astype(np.int64)).sum(axis=1) < 2**24).all()
    true = unit_rows(features) @ unit_rows(features).T
    assert whole @ whole.T / scale_of(dims) ** 2 == pytest.approx(true, abs=6e-4)
    assert np.array_equal(whole @ whole.T, whole[:, ::-1] @ whole[:, ::-1].T)


# the baselines


def test_random_is_a_draw_from_all_patches():
    features = gaussian(100)
    candidates = Candidates(np.arange(3), np.zeros(100, np.int16))
    rows = select(tissue_patches(features, candidates), 50, "random").rows
    assert rows.max() > 50
    assert rows.tolist() != sorted(rows)


def test_cluster_draws_from_each_cluster_in_proportion():
    cluster = np.repeat(np.arange(3, dtype=np.int16), [60, 30, 10])
    rows = select(tissue_patches(gaussian(100), Candidates(np.arange(3), cluster)), 20, "cluster").rows
    assert np.bincount(cluster[rows]).tolist() == [12, 6, 2]


def test_location_is_even_over_the_slide():
    dense, sparse = places(400), places(400)[::40] + 20 * 512  # as wide, with a tenth of the patches each
    coords = np.concatenate([dense, sparse])
    features = gaussian(len(coords))
    rows = select(tissue_patches(features, coords=coords), 8, "location").rows
    assert (rows >= 400).sum() == 2  # of the 8 cells that are occupied at most, the sparse area has 2


@pytest.mark.parametrize("keep", [1, 3, 4, 9])
def test_location_handles_patches_at_one_position(keep):
    coords = np.array([[0, 0]] * 5 + [[2_000_000_000, 0]] * 4 + [[-2_000_000_000, 7]], np.int32)
    features = gaussian(10)
    rows = select(tissue_patches(features, coords=coords), keep, "location").rows
    assert len(np.unique(coords[rows], axis=0)) == min(keep, 3)


def test_entropy_prefers_even_features():
    features = np.array([[1, 0, 0, 0], [1, 1, 1, -1], [1, 1, 0, 0], [-2, 2, -2, 2]], np.float32)
    assert kept(features, 4, "entropy").rows.tolist() == [1, 3, 2, 0]


def test_attention_picks_the_most_attended_patches():
    features = gaussian(30)
    assert kept(features, 5, "attention").rows.tolist() == np.argsort(-np.linalg.norm(features, axis=1))[:5].tolist()


def test_attention_without_a_slide_encoder_is_refused():
    features = gaussian(9)
    with pytest.raises(UsageError, match="needs a slide encoder"):
        select(TissuePatches(features, places(9), everything(features)), 2, "attention")


# quality and representation


def test_zero_patch_is_similar_to_none_without_warning():
    features = np.array([[0, 0], [1, 0], [0, 2]], np.float32)
    representative, similarity = represent(features, np.array([2, 1]))
    assert representative.tolist() == [0, 1, 0]
    assert similarity.tolist() == [0, 1, 1]


def test_representatives_match_a_plain_computation():
    features = gaussian(9_000)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    rows = np.arange(0, 9_000, 500)
    representative, similarity = represent(features, rows)
    assert similarity == pytest.approx((units @ units[rows].T).max(axis=1), abs=1e-6)
    assert np.array_equal(representative, (units @ units[rows].T).argmax(axis=1))


def test_quality_can_be_remeasured_from_kept_patches():
    features = gaussian(200)
    selection = kept(features, 20)
    cluster = np.arange(200) % 3
    stored = WeightedPatches(features[selection.rows], selection.weights, selection.counts, cluster[selection.rows])
    assert measure_selection(features, selection, cluster) == measure_kept(features, stored, cluster)


def test_known_quality():
    features = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    quality = measure_kept(
        features, WeightedPatches(features[:1], np.ones(1), np.array([4]), np.array([2])), np.array([2, 0, 0, 1])
    )
    assert (quality.coverage, quality.coverage_min) == (0.25, -1)
    assert quality.coverage_p05 == pytest.approx(-0.85)
    assert quality.composition == 0.75
    assert quality.weighted_cosine == pytest.approx(np.sqrt(0.5), abs=1e-6)


# refusals


@pytest.mark.parametrize("keep", [0, -1, 10])
def test_keep_out_of_range_is_refused(keep):
    with pytest.raises(ValueError, match=r"keep must be in 1\.\.9"):
        kept(gaussian(9), keep)


def test_unknown_selector_lists_the_known_ones():
    with pytest.raises(ValueError, match="no selector 'best'; choose one of wsisum, facility"):
        kept(gaussian(9), 2, "best")


def test_non_finite_features_are_refused_by_row():
    features = gaussian(9)
    features[4, 1] = np.nan
    with pytest.raises(ValueError, match="row 4 are not finite"):
        kept(features, 2)


def test_no_patches_are_refused():
    with pytest.raises(ValueError, match="at least one patch"):
        kept(np.zeros((0, 4), np.float32), 1)


def test_coords_of_other_patches_are_refused():
    with pytest.raises(ValueError, match="must have the same length; found 9, 8 and 9"):
        select(tissue_patches(gaussian(9), coords=places(8)), 2)


# real features


def real_slides(shared: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    import h5py

    with h5py.File(shared / "features/wsisum-demo/TCGA-3C-AALI-01_cluster.h5") as file:
        yield "demo", file["features"][:500], file["coords"][:]  # row 500 is a slide embedding
    for path in sorted((shared / "features/ctranspath-crc").glob("*.h5")):
        with h5py.File(path) as file:
            yield path.name, file["feats"][:], file["coords"][:].astype(np.int32)


@pytest.mark.parametrize("selector", ["wsisum", "facility"])
def test_real_slides_beat_99_of_100_random_draws(shared, selector):
    for name, features, coords in real_slides(shared):
        units = unit_rows(features).astype(np.float32)
        cosines = units @ units.T
        draw = np.random.default_rng(0).permutation
        draws = [cosines[draw(len(features))[:63]].max(axis=0).mean() for _ in range(200)]
        slide = TissuePatches(features, coords, sample_candidates(features))
        coverage = measured(features, select(slide, 63, selector)).coverage
        assert coverage > np.percentile(draws, 99), name
