"""The baselines of WSISum (Medical Image Analysis 110:103970, 2026), as its published scripts have them.

They draw from all tissue patches, not from the candidates.

random      a uniform draw.
cluster     k-means with 50 clusters, whatever K is, then a random draw from each in proportion to its size.
location    a draw that is even over the slide. The reference lays 100 × 100 cells over the bounding box and
            draws one patch from each, then drops cells at random down to K: with hardly more than one patch
            to a cell that is a uniform draw. Here the cells are as small as K allows to serve them all.
entropy     the K patches of highest Shannon entropy of |feature|, normalised to sum 1. No pixels are read.
attention   the K patches that a slide encoder attends to most.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsisum_cli.errors import UsageError
from wsisum_cli.features.embedding import EmbeddingScore, encode_slide
from wsisum_cli.features.vectors import Coords, Features, Rows, blocks, unit_rows
from wsisum_cli.selection.candidates import draw_by_cluster
from wsisum_cli.selection.patches import TissuePatches


def pick_random(tissue_patches: TissuePatches, keep: int) -> Rows:
    """A uniform draw from all tissue patches."""
    return np.random.default_rng(tissue_patches.seed).permutation(len(tissue_patches.features))[:keep]


def pick_cluster(tissue_patches: TissuePatches, keep: int) -> Rows:
    """A random draw from each cluster of all tissue patches, in proportion to its size."""
    return draw_by_cluster(tissue_patches.candidates.cluster, keep, tissue_patches.seed)


def pick_location(tissue_patches: TissuePatches, keep: int) -> Rows:
    """One patch from each cell of a grid, in random order, then a second from each, until enough."""
    coords = tissue_patches.coords
    keys = np.random.default_rng(tissue_patches.seed).random(len(coords))
    cell = _finest_cells(coords, keep)
    order = np.lexsort((keys, cell))
    _, starts, sizes = np.unique(cell[order], return_index=True, return_counts=True)
    turn = np.empty(len(coords), np.int64)
    turn[order] = np.arange(len(coords)) - np.repeat(starts, sizes)
    return np.lexsort((keys, turn))[:keep]


def pick_entropy(tissue_patches: TissuePatches, keep: int) -> Rows:
    """The patches whose absolute features, normalised to sum 1, have the highest Shannon entropy."""
    features = tissue_patches.features
    entropy = np.concatenate([_entropy(features[block]) for block in blocks(len(features))])
    return np.argsort(-np.rint(entropy * 2**22), kind="stable")[:keep]


def pick_attention(tissue_patches: TissuePatches, keep: int) -> Rows:
    """The patches of highest attention. Raises UsageError without a slide encoder that says it, and ModelError."""
    slide_encoder = tissue_patches.models.slide_encoder
    attention = None if slide_encoder is None else encode_slide(slide_encoder, tissue_patches.tokens).attention
    if attention is None:
        raise UsageError(
            "the selector 'attention' needs a slide encoder for these features whose ONNX file has the output "
            "'attention'; name one, or choose another selector"
        )
    return np.argsort(-attention, kind="stable")[:keep]


def _finest_cells(coords: Coords, keep: int) -> npt.NDArray[np.int64]:
    """The cell of each patch in the finest grid of square cells of which at most `keep` are occupied."""
    places, finest = np.unique(coords, axis=0, return_inverse=True)
    if len(places) <= keep:
        return finest
    offset = coords.astype(np.int64) - coords.min(axis=0)
    longest = int(offset.max()) + 1
    across, cell = 1, np.zeros(len(coords), np.int64)
    while len(np.unique(cell)) <= keep:
        finest = cell
        across += 1 + across // 16  # by one at first, then by a sixteenth: fine enough, and soon done
        column, row = (offset * across // longest).T
        cell = row * across + column
    return finest


def _entropy(features: Features) -> npt.NDArray[np.float64]:
    share = np.abs(features.astype(np.float64)) + 1e-8
    share /= share.sum(axis=1, keepdims=True)
    return np.asarray(-(share * np.log(share)).sum(axis=1), np.float64)


ATTEMPTS = 200


def pick_attempts(tissue_patches: TissuePatches, keep: int, attempts: int = ATTEMPTS) -> Rows:
    """The best of so many draws: rows (K,). Without a summarizer the plain mean of features is the embedding.

    They are drawn from the candidates; from twice as many patches as are to be kept where that is no fewer than there
    are candidates. Raises ModelError.
    """
    rows = tissue_patches.candidates.rows
    if keep >= len(rows):
        more = min(2 * keep, len(tissue_patches.features))  # as many as a summarizer sees at once
        rows = np.sort(draw_by_cluster(tissue_patches.candidates.cluster, more, tissue_patches.seed))
    seeds = np.random.default_rng(tissue_patches.seed).integers(2**63, size=attempts)
    cluster = tissue_patches.candidates.cluster[rows]
    places = np.stack([draw_by_cluster(_dense(cluster), keep, int(seed)) for seed in seeds])
    best = int(score_draws(tissue_patches, rows, places).argmax())
    return np.asarray(rows[places[best]], np.int64)


def score_draws(tissue_patches: TissuePatches, rows: Rows, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Cosine (B,) between the embeddings of each of the draws `places` (B, K) from `rows` (M,), and of all M."""
    summarizer = tissue_patches.models.summarizer
    if summarizer is not None:
        return EmbeddingScore(summarizer, tissue_patches.tokens, rows)(rows[places])
    features = tissue_patches.features[rows].astype(np.float64)
    made = unit_rows(features[places].mean(axis=1))
    return np.asarray(made @ unit_rows(features.mean(axis=0, keepdims=True))[0], np.float64)


def _dense(cluster: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Labels without gaps, which a sample may have."""
    return np.asarray(np.unique(cluster, return_inverse=True)[1], np.int64)
