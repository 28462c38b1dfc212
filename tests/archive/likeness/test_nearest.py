"""Ranking by vectors of one model, and of no other."""

from __future__ import annotations

import numpy as np
import pytest

from wsisum_cli.archive.likeness.nearest import find_nearest, rank
from wsisum_cli.archive.likeness.vectors import (
    ANOTHER_MODEL,
    MEAN,
    SLIDE_ENCODER,
    UNKNOWN_MODEL,
    UNREADABLE,
    Archive,
    Model,
    SlideVectors,
)
from wsisum_cli.errors import SummaryError, UsageError

OURS, THEIRS = Model(MEAN, "encoder", "a" * 64), Model(MEAN, "other", "b" * 64)
SLIDE = Model(SLIDE_ENCODER, "slide_encoder", "c" * 64)


def slide(name: str, sha256: str = "", **vectors: list[float]) -> SlideVectors:
    models = {"ours": OURS, "theirs": THEIRS, "embedding": SLIDE}
    made = {models[key]: np.array(value, np.float32) for key, value in vectors.items()}
    return SlideVectors(f"/out/{name}.ozx", f"{name}.ozx", f"{name}.svs", sha256 or name, None, 1.0, made)


QUERY = slide("query", ours=[1, 0])
NEAR, FAR, OPPOSITE = slide("near", ours=[3, 1]), slide("far", ours=[0.1, 1]), slide("opposite", ours=[-2, 0])


def test_the_nearest_come_first_whatever_their_length():
    found = find_nearest(QUERY, Archive([FAR, OPPOSITE, QUERY, NEAR]), 10)
    assert [neighbour.slide.slide for neighbour in found.neighbours] == ["near.svs", "far.svs", "opposite.svs"]
    assert [neighbour.cosine for neighbour in found.neighbours] == pytest.approx([0.9487, 0.0995, -1], abs=1e-3)
    assert (found.compared, found.left_out) == (3, {})


def test_other_models_are_left_out_and_counted():
    unknown = slide("unknown")
    archive = Archive([NEAR, slide("foreign", theirs=[1, 0]), unknown], {"broken.ozx": "why"})
    found = find_nearest(QUERY, archive, 10)
    assert [neighbour.slide.slide for neighbour in found.neighbours] == ["near.svs"]
    assert found.left_out == {ANOTHER_MODEL: 1, UNKNOWN_MODEL: 1, UNREADABLE: 1}


def test_without_any_slide_by_the_model_it_cannot_start():
    with pytest.raises(UsageError, match="no other slide has mean features by encoder"):
        find_nearest(QUERY, Archive([slide("foreign", theirs=[1, 0])]), 5)
    with pytest.raises(UsageError, match="is not known"):
        find_nearest(slide("unknown"), Archive([NEAR]), 5)


def test_the_slide_encoder_is_used_where_all_have_it():
    query = slide("query", ours=[1, 0], embedding=[0, 1])
    one, other = slide("one", ours=[1, 0], embedding=[1, 0]), slide("other", ours=[0, 1], embedding=[0, 1])
    assert find_nearest(query, Archive([one, other]), 1).neighbours[0].slide is other
    without = slide("without", ours=[0, 1])
    found = find_nearest(query, Archive([one, other, without]), 1)
    assert found.model == OURS
    assert found.neighbours[0].slide is one


def test_a_kind_that_is_asked_for_leaves_out_slides_without_it():
    query = slide("query", ours=[1, 0], embedding=[0, 1])
    other, without = slide("other", ours=[0, 1], embedding=[0, 1]), slide("without", ours=[0, 1])
    found = find_nearest(query, Archive([other, without]), 5, SLIDE_ENCODER)
    assert found.compared == 1
    assert found.left_out == {"it has no slide embedding": 1}
    with pytest.raises(UsageError, match="it has no slide embedding"):
        find_nearest(QUERY, Archive([NEAR]), 5, SLIDE_ENCODER)


def test_a_byte_identical_slide_is_marked():
    twin = slide("twin", sha256="query", ours=[1, 0])
    found = find_nearest(QUERY, Archive([twin, NEAR]), 5)
    assert [neighbour.same_file for neighbour in found.neighbours] == [True, False]


def test_vectors_of_another_length_are_damage():
    with pytest.raises(SummaryError, match="3 features by encoder, others have 2"):
        find_nearest(QUERY, Archive([slide("odd", ours=[1, 0, 0])]), 5)


def test_rank_agrees_with_sorting_all():
    vectors = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order, cosines = rank(vectors, vectors[7], 20)
    assert order.tolist() == np.argsort(-(vectors @ vectors[7]), kind="stable")[:20].tolist()
    assert order[0] == 7
    assert cosines[0] == pytest.approx(1)
    assert len(rank(vectors, vectors[7], 1000)[0]) == 500


def test_equal_slides_keep_their_order():
    vectors = np.tile(np.array([[1.0, 0.0]], np.float32), (6, 1))
    assert rank(vectors, vectors[0], 6)[0].tolist() == list(range(6))
