"""Prototypes of a slide, and how well those of two slides match.

A slide's regions are clustered by cosine into P prototypes, as in SLPD (slide-level prototypical distillation, Yu,
Lin and Xu, MICCAI 2023). Two slides are as similar as the best pairing of their prototypes says: an optimal
assignment, which takes P³ steps where trying all pairings takes P!.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ITERATIONS = 10  # of Lloyd's; a slide has tens of regions, which settle sooner
APART = 1e-5  # cosine distance below which two regions are one, and rounding would tell them apart


def find_prototypes(embeddings: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Spherical k-means of (R, E) unit vectors with (R,) weights, from a farthest-first start, without chance.

    Returns centres (P, E), unit vectors; shares (P,) of the weight, summing to 1; and the (R,) int64 rows of the
    centres that the regions belong to. Where there are fewer different regions than `count`, the centres left over
    are zero and have no share. Made of plain tensor operations in a fixed number, so that it can be exported.
    """
    centres, used = farthest_first(embeddings, weights, count)
    for _ in range(ITERATIONS):
        belongs = one_hot(nearest(embeddings, centres, used), count, embeddings.dtype)
        sums = (belongs * weights[:, None]).T @ embeddings
        length = sums.norm(dim=1, keepdim=True)
        centres = torch.where(length > 0, sums / length.clamp(min=1e-12), centres)
    assigned = nearest(embeddings, centres, used)
    shares = (one_hot(assigned, count, embeddings.dtype) * weights[:, None]).sum(dim=0) / weights.sum()
    return centres * (shares > 0).to(centres.dtype)[:, None], shares, assigned


def farthest_first(embeddings: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The region nearest to the mean, then time and again the one farthest from those taken: (P, E), (P,) bool."""
    mean = (embeddings * weights[:, None]).sum(dim=0)
    first = (embeddings @ mean).argmax()
    taken = [embeddings[first]]
    used = [torch.ones_like(weights[0], dtype=torch.bool)]
    closest = embeddings @ taken[0]
    for _ in range(count - 1):
        row = closest.argmin()
        taken.append(embeddings[row])
        used.append(closest[row] < 1 - APART)
        closest = torch.maximum(closest, embeddings @ taken[-1])
    return torch.stack(taken), torch.stack(used)


def nearest(embeddings: Tensor, centres: Tensor, used: Tensor) -> Tensor:
    """(R,) int64: the centre in use that is most similar, the first of equals."""
    return (embeddings @ centres.T).masked_fill(~used, -2.0).argmax(dim=1)


def one_hot(assigned: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    return (assigned[:, None] == torch.arange(count, device=assigned.device)).to(dtype)


# ------------------------------------------------------------------------------------------ matching slides


@dataclass(frozen=True)
class Match:
    """The best pairing of two slides' prototypes."""

    #: (P,) int64: which prototype of the other slide stands for each of this one; -1 where this one is not used.
    partner: np.ndarray
    #: Mean cosine of the pairs, those without a partner counting 0; symmetric.
    similarity: float


def match_prototypes(these: np.ndarray, others: np.ndarray) -> Match:
    """Pair (P, E) with (Q, E) unit vectors so that the mean cosine is highest; rows of zeros are not used.

    Where the other slide has fewer prototypes, those left over go to the most similar one and do not count.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = np.flatnonzero(these.any(axis=1)), np.flatnonzero(others.any(axis=1))
    partner = np.full(len(these), -1, np.int64)
    if not len(rows) or not len(columns):
        return Match(partner, 0.0)
    cosine = these[rows].astype(np.float64) @ others[columns].astype(np.float64).T
    partner[rows] = columns[cosine.argmax(axis=1)]
    left, right = linear_sum_assignment(cosine, maximize=True)
    partner[rows[left]] = columns[right]
    return Match(partner, float(cosine[left, right].sum() / max(len(rows), len(columns))))


@dataclass(frozen=True)
class Neighbours:
    """The slides most similar to each of S slides."""

    slides: np.ndarray  # (S, K) int64, most similar first
    partners: np.ndarray  # (S, K, P) int64: which prototype of that slide; -1 for unused ones
    similarity: np.ndarray  # (S, K) float64


def find_neighbours(prototypes: np.ndarray, count: int) -> Neighbours:
    """The `count` most similar of S slides to each, by their prototypes (S, P, E); all others where those are fewer.

    Exact, but pairs that cannot be among the best, as a bound tells, are not tried.
    """
    slides, each = prototypes.shape[:2]
    count = min(count, slides - 1)
    found = Neighbours(
        np.zeros((slides, count), np.int64), np.zeros((slides, count, each), np.int64), np.zeros((slides, count))
    )
    for slide in range(slides):
        for place, (similarity, other, partner) in enumerate(best_matches(prototypes, slide, count)):
            found.slides[slide, place], found.similarity[slide, place] = other, similarity
            found.partners[slide, place] = partner
    return found


def best_matches(prototypes: np.ndarray, slide: int, count: int) -> list[tuple[float, int, np.ndarray]]:
    """Similarity, slide and partners of the `count` slides most similar to one, most similar first."""
    bound = similarity_bound(prototypes[slide], prototypes)
    bound[slide] = -np.inf
    best: list[tuple[float, int, np.ndarray]] = []
    for other in np.argsort(-bound, kind="stable")[: len(prototypes) - 1].tolist():
        if len(best) == count and bound[other] < best[-1][0]:
            break
        match = match_prototypes(prototypes[slide], prototypes[other])
        best = sorted([*best, (match.similarity, other, match.partner)], key=lambda one: (-one[0], one[1]))[:count]
    return best


def similarity_bound(these: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(S,) what the similarity of prototypes (P, E) to those of each slide (S, P, E) cannot exceed.

    That of each taking the most similar one, also where several take the same.
    """
    closest = np.einsum("pe,sqe->spq", these, others, dtype=np.float64).max(axis=2).clip(min=0).sum(axis=1)
    used = np.maximum(others.any(axis=2).sum(axis=1), these.any(axis=1).sum())
    return np.asarray(closest / np.maximum(used, 1) + 1e-9)  # rounding must not hide the best
