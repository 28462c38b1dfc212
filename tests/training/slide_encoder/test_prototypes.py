"""Prototypes of planted structure, and slides matched by them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from wsisum_cli.training.slide_encoder.prototypes import (  # noqa: E402
    best_matches,
    find_neighbours,
    find_prototypes,
    match_prototypes,
    similarity_bound,
)


def units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def planted(rng: np.random.Generator, counts: tuple[int, ...], noise: float, dims: int = 32):
    """Unit vectors around one direction for each count, shuffled, and which direction each is of."""
    kind = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    directions = units(rng, len(counts), dims)
    near = directions[kind] + noise * units(rng, len(kind), dims)
    return torch.from_numpy(near / np.linalg.norm(near, axis=1, keepdims=True)).float(), kind, directions


def rand_index(one: np.ndarray, other: np.ndarray) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(one, other))


@pytest.mark.parametrize("seed", range(5))
def test_prototypes_recover_planted_structure(seed: int):
    embeddings, kind, directions = planted(np.random.default_rng(seed), (20, 9, 6, 5), noise=0.8)
    centres, shares, assigned = find_prototypes(embeddings, torch.ones(40), 4)
    assert rand_index(assigned.numpy(), kind) > 0.9
    assert sorted(shares.tolist()) == pytest.approx([5 / 40, 6 / 40, 9 / 40, 20 / 40], abs=0.06)
    assert (centres.numpy() @ directions.T).max(axis=0).min() > 0.9
    assert centres.norm(dim=1).numpy() == pytest.approx(1)


def test_twelve_planted_kinds():
    embeddings, kind, _ = planted(np.random.default_rng(0), (7,) * 12, noise=0.5)
    assert rand_index(find_prototypes(embeddings, torch.ones(84), 12)[2].numpy(), kind) == 1


def test_no_order_of_the_regions_matters():
    embeddings, _, _ = planted(np.random.default_rng(1), (8, 8, 8, 8), noise=0.8)
    weights = torch.arange(1.0, 33.0)
    centres, shares, assigned = find_prototypes(embeddings, weights, 4)
    order = torch.from_numpy(np.random.default_rng(2).permutation(32))
    again = find_prototypes(embeddings[order], weights[order], 4)
    assert torch.allclose(again[0], centres, atol=1e-6)
    assert torch.allclose(again[1], shares, atol=1e-6)
    assert torch.equal(again[2], assigned[order])


def test_fewer_regions_than_prototypes_leave_some_unused():
    embeddings = torch.eye(2, 8)
    centres, shares, assigned = find_prototypes(embeddings, torch.tensor([3.0, 1.0]), 4)
    assert sorted(shares.tolist()) == [0, 0, 0.25, 0.75]
    assert (centres.norm(dim=1) > 0).sum() == 2
    assert torch.equal(centres[assigned], embeddings)


def test_like_regions_are_one_prototype():
    centres, shares, _ = find_prototypes(units_like(30), torch.ones(30), 4)
    assert shares.tolist() == pytest.approx([1, 0, 0, 0])
    assert not centres[1:].any()


def units_like(count: int):
    return torch.from_numpy(units(np.random.default_rng(0), 1, 16)).repeat(count, 1)


# ------------------------------------------------------------------------------------------ matching slides


@pytest.mark.parametrize("seed", range(3))
def test_the_pairing_is_the_best_of_all(seed: int):
    rng = np.random.default_rng(seed)
    these, others = units(rng, 5, 16), units(rng, 5, 16)
    cosine = these @ others.T
    best = max(itertools.permutations(range(5)), key=lambda order: cosine[np.arange(5), order].sum())
    match = match_prototypes(these, others)
    assert match.partner.tolist() == list(best)
    assert match.similarity == pytest.approx(cosine[np.arange(5), best].mean())


def test_matching_is_symmetric_also_where_one_slide_has_fewer_prototypes():
    rng = np.random.default_rng(0)
    these, others = units(rng, 4, 16), units(rng, 4, 16)
    others[2:] = 0
    there, back = match_prototypes(these, others), match_prototypes(others, these)
    assert there.similarity == pytest.approx(back.similarity)
    assert back.partner[2:].tolist() == [-1, -1]
    assert set(there.partner.tolist()) == {0, 1}  # each has a partner, used ones only


@pytest.mark.parametrize("prototypes", [4, 12])
def test_the_planted_twin_is_found(prototypes: int):
    """Slides in pairs of like prototypes, in another order; 12! pairings could not be tried."""
    rng = np.random.default_rng(0)
    first = units(rng, 20, prototypes, 32)
    orders = [rng.permutation(prototypes) for _ in range(20)]
    second = np.stack([slide[order] for slide, order in zip(first, orders, strict=True)])
    second = second + 0.7 * units(rng, *second.shape)
    second /= np.linalg.norm(second, axis=-1, keepdims=True)
    found = find_neighbours(np.concatenate([first, second]), 2)
    assert found.slides[:, 0].tolist() == [*range(20, 40), *range(20)]
    back = [np.argsort(order) for order in orders]
    assert np.array_equal(found.partners[:20, 0], back)
    assert (found.similarity[:, 0] > found.similarity[:, 1]).all()


def test_pruning_loses_no_neighbour():
    rng = np.random.default_rng(3)
    prototypes = units(rng, 30, 4, 8)
    prototypes[::3, 2:] = 0
    for slide in range(30):
        exact = [match_prototypes(prototypes[slide], other).similarity for other in prototypes]
        assert (similarity_bound(prototypes[slide], prototypes) >= exact).all()
        others = [other for other in np.argsort(-np.array(exact), kind="stable") if other != slide]
        assert [other for _, other, _ in best_matches(prototypes, slide, 3)] == others[:3]


def test_a_single_slide_has_no_neighbours():
    assert find_neighbours(units(np.random.default_rng(0), 1, 4, 8), 3).slides.shape == (1, 0)
