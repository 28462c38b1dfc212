"""Who stands for each patch, for every prefix of the picks."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisum_cli.selection.prefixes import join, prefixes_of

quick = settings(max_examples=40, deadline=None, derandomize=True)


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 99), st.data())
@quick
def test_prefix_equals_fewer_picks(patches, dims, seed, data):
    rng = np.random.default_rng(seed)
    features = rng.integers(-2, 3, (patches, dims)).astype(np.float32)  # many are equal, some zero
    rows = rng.permutation(patches)[: data.draw(st.integers(1, patches))]
    keep = data.draw(st.integers(1, len(rows)))
    whole = prefixes_of(features, rows)
    fewer = prefixes_of(features, rows[:keep])
    for one, other in zip(whole.of(keep), fewer.of(keep), strict=True):
        assert np.array_equal(one, other)
    cut = whole.cut(keep)
    assert np.array_equal(cut.patch, fewer.patch)
    assert np.array_equal(cut.pick, fewer.pick)
    assert np.array_equal(cut.similarity, fewer.similarity)


def test_first_pick_represents_all_until_a_better_one():
    features = np.array([[1, 0], [0, 1], [1, 1], [1, 0]], np.float32)
    found = prefixes_of(features, np.array([2, 0, 1]))
    assert found.of(1)[0].tolist() == [0, 0, 0, 0]
    assert found.of(2)[0].tolist() == [1, 0, 0, 1]
    assert found.of(3)[0].tolist() == [1, 2, 0, 1]
    assert found.patch.tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_equal_patches_represent_themselves_once_picked():
    features = np.ones((3, 2), np.float32)
    found = prefixes_of(features, np.array([1, 0]))
    assert found.of(1)[0].tolist() == [0, 0, 0]
    assert found.of(2)[0].tolist() == [1, 0, 0]


@given(st.integers(1, 40), st.integers(0, 99))
@quick
def test_join_restores_the_prefixes(patches, seed):
    rng = np.random.default_rng(seed)
    found = prefixes_of(rng.normal(size=(patches, 4)).astype(np.float32), rng.permutation(patches)[: 1 + patches // 2])
    keep = 1 + patches // 2
    again = join(*found.earlier(), *found.of(keep))
    assert np.array_equal(again.patch, found.patch)
    assert np.array_equal(again.pick, found.pick)
    assert np.array_equal(again.similarity, found.similarity)


def test_prefixes_of_several_blocks():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(9_000, 6)).astype(np.float32)
    rows = np.arange(0, 9_000, 300)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    found = prefixes_of(features, rows)
    for keep in (1, 7, 30):
        assert np.array_equal(found.of(keep)[0], (units @ units[rows[:keep]].T).argmax(axis=1))
