"""The baselines of WSISum (Medical Image Analysis 110:103970, 2026), as in its published scripts.

They draw from all tissue patches, not only from the candidates.

random      a uniform draw.
cluster     k-means with 50 clusters for any K, then a random draw from each in proportion to its size.
location    a spatially even draw. The reference lays 100 × 100 cells over the bounding box, draws one patch from
            each, then drops random cells down to K; with about one patch per cell that is a uniform draw. Here the
            cells are as small as possible with at most K of them occupied.
entropy     the K patches with the highest Shannon entropy of |feature|, normalised to sum 1. No pixels are read.
attention   the K patches with the highest attention of a slide encoder.
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
    """Draw uniformly from all tissue patches."""
    return np.random.default_rng(tissue_patches.seed).permutation(len(tissue_patches.features))[:keep]


def pick_cluster(tissue_patches: TissuePatches, keep: int) -> Rows:
    """Draw at random from each cluster of the tissue patches, in proportion to its size."""
    return draw_by_cluster(tissue_patches.candidates.cluster, keep, tissue_patches.seed)


def pick_location(tissue_patches: TissuePatches, keep: int) -> Rows:
    """Draw one patch from each grid cell in random order, then a second from each, and so on up to `keep`."""
    coords = tissue_patches.coords
    keys = np.random.default_rng(tissue_patches.seed).random(len(coords))
    cell = _finest_cells(coords, keep)
    order = np.lexsort((keys, cell))
    _, starts, sizes = np.unique(cell[order], return_index=True, return_counts=True)
    turn = np.empty(len(coords), np.int64)
    turn[order] = np.arange(len(coords)) - np.repeat(starts, sizes)
    return np.lexsort((keys, turn))[:keep]


def pick_entropy(tissue_patches: TissuePatches, keep: int) -> Rows:
    """Pick the patches whose absolute features, normalised to sum 1, have the highest Shannon entropy."""
    features = tissue_patches.features
    entropy = np.concatenate([_entropy(features[block]) for block in blocks(len(features))])
    return np.argsort(-np.rint(entropy * 2**22), kind="stable")[:keep]


def pick_attention(tissue_patches: TissuePatches, keep: int) -> Rows:
    """Pick the patches of highest attention. Raises UsageError if no slide encoder outputs attention; ModelError."""
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
        across += 1 + across // 16  # by one at first, then by a sixteenth: fine enough and fast
        column, row = (offset * across // longest).T
        cell = row * across + column
    return finest


def _entropy(features: Features) -> npt.NDArray[np.float64]:
    share = np.abs(features.astype(np.float64)) + 1e-8
    share /= share.sum(axis=1, keepdims=True)
    return np.asarray(-(share * np.log(share)).sum(axis=1), np.float64)


ATTEMPTS = 200


def pick_attempts(tissue_patches: TissuePatches, keep: int, attempts: int = ATTEMPTS) -> Rows:
    """Pick the best of `attempts` draws: rows (K,). Without a summarizer the embedding is the mean of the features.

    Draws come from the candidates; if `keep` is no fewer, from a sample of 2 * `keep` tissue patches instead.
    Raises ModelError.
    """
    rows = tissue_patches.candidates.rows
    if keep >= len(rows):
        more = min(2 * keep, len(tissue_patches.features))  # the most that a summarizer takes at once
        rows = np.sort(draw_by_cluster(tissue_patches.candidates.cluster, more, tissue_patches.seed))
    seeds = np.random.default_rng(tissue_patches.seed).integers(2**63, size=attempts)
    cluster = tissue_patches.candidates.cluster[rows]
    places = np.stack([draw_by_cluster(_dense(cluster), keep, int(seed)) for seed in seeds])
    best = int(score_draws(tissue_patches, rows, places).argmax())
    return np.asarray(rows[places[best]], np.int64)


def score_draws(tissue_patches: TissuePatches, rows: Rows, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Cosine (B,) between the embedding of each draw, `places` (B, K) in `rows` (M,), and that of all M."""
    summarizer = tissue_patches.models.summarizer
    if summarizer is not None:
        return EmbeddingScore(summarizer, tissue_patches.tokens, rows)(rows[places])
    features = tissue_patches.features[rows].astype(np.float64)
    means = unit_rows(features[places].mean(axis=1))
    return np.asarray(means @ unit_rows(features.mean(axis=0, keepdims=True))[0], np.float64)


def _dense(cluster: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Renumber labels without gaps; a sample may miss some clusters."""
    return np.asarray(np.unique(cluster, return_inverse=True)[1], np.int64)
