"""Draw candidates, a clustered sample of the tissue patches, for the selection.

WSISum (Medical Image Analysis 110:103970, 2026) clusters the patches of a slide into 50 groups by k-means and draws
500 of them, from each cluster in proportion to its size. Two things differ here: patches are compared by cosine, as
everywhere in this package, and a slide with fewer than 500 patches gives each once, where the reference repeats
patches up to 500.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Features, Rows, blocks, checked, one_thread, unit_rows

#: k-means on this many principal components is faster than on all, and as good.
COMPONENTS = 64
#: Principal components are fitted to at most this many patches.
COMPONENTS_SAMPLE = 5_000
#: Number of k-means starts; the tightest clustering wins.
STARTS = 3


@dataclass(frozen=True)
class Candidates:
    """A clustered sample of the tissue patches.

    `rows` (M,) int64: ascending, distinct rows of N.
    `cluster` (N,) int16: cluster of every tissue patch; 0 is the largest, ties go to the earlier first patch.
    """

    rows: Rows
    cluster: npt.NDArray[np.int16]


def sample_candidates(features: Features, count: int = 500, clusters: int = 50, seed: int = 0) -> Candidates:
    """Draw `count` of N patches, from each cluster in proportion to its size; all of them if N <= `count`.

    `features` is (N, D). Raises ValueError when they are empty or not finite, or a number is below 1.
    """
    _at_least_one("candidates", count)
    cluster = cluster_features(features, clusters, seed)
    return Candidates(np.sort(draw_by_cluster(cluster, count, seed)), cluster)


def cluster_features(features: Features, clusters: int = 50, seed: int = 0) -> npt.NDArray[np.int16]:
    """Cluster label of each of N patches: (N,) int16; 0 is the largest, ties by first patch.

    There are fewer than `clusters` if fewer patches are distinct. Labels depend on `seed`, not on threads.
    """
    _at_least_one("clusters", clusters)
    features = checked(features)
    clusters = min(clusters, np.iinfo(np.int16).max, _distinct_rows(features, clusters))
    if clusters == 1:
        return np.zeros(len(features), np.int16)
    return _by_falling_size(_kmeans(features, clusters, seed))


def allocate(sizes: npt.ArrayLike, count: int) -> Rows:
    """Distribute `count` over clusters in proportion to their `sizes`, by largest remainder.

    Shares add up to `count`, or to the total size if that is smaller; none exceeds its cluster. If `count` suffices,
    every non-empty cluster gets at least one. Ties go to the earlier cluster.
    """
    sizes = np.asarray(sizes, np.int64)
    if count < 0 or (sizes < 0).any():
        raise ValueError(f"count and sizes must not be negative: found {count} and {sizes.tolist()}")
    left = min(count, int(sizes.sum()))
    share = np.zeros_like(sizes)
    if left >= np.count_nonzero(sizes):
        # A cluster with a share below one gets one; the others share the rest, which may push another below one.
        while (small := (sizes > 0) & (sizes * left < sizes.sum())).any():
            share, sizes, left = share + small, np.where(small, 0, sizes), left - int(small.sum())
    return share + _largest_remainder(sizes, left)


def draw_by_cluster(cluster: npt.NDArray[np.integer], count: int, seed: int) -> Rows:
    """Draw `count` rows, or all if there are fewer, in proportion from each cluster; clusters in label order.

    `cluster` (N,) has labels 0..k-1. Rows are distinct.
    """
    keys = np.random.default_rng(seed).random(len(cluster))
    share = allocate(np.bincount(cluster), count)
    drawn = []
    for label, wanted in enumerate(share):
        members = np.flatnonzero(cluster == label)
        drawn.append(members[np.argsort(keys[members], kind="stable")[:wanted]])
    return np.concatenate(drawn).astype(np.int64)


def _kmeans(features: npt.NDArray[np.float32], clusters: int, seed: int) -> npt.NDArray[np.int32]:
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with one_thread(), warnings.catch_warnings():
        # Patches that differ only by rounding may leave clusters empty; these are dropped afterwards.
        warnings.simplefilter("ignore", ConvergenceWarning)
        points = _principal_components(features, seed)
        labels: npt.NDArray[np.int32] = KMeans(clusters, n_init=STARTS, random_state=seed).fit_predict(points)
    return labels


def _principal_components(features: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    from sklearn.utils.extmath import randomized_svd

    if min(features.shape) <= COMPONENTS:
        return unit_rows(features).astype(np.float32)
    sample = np.random.default_rng(seed).permutation(len(features))[:COMPONENTS_SAMPLE]
    rows = unit_rows(features[np.sort(sample)])
    _, _, axes = randomized_svd(rows - rows.mean(axis=0), COMPONENTS, n_iter=2, random_state=seed)
    points = np.concatenate([unit_rows(features[block]) @ axes.T for block in blocks(len(features))])
    # Rounded, so that equal patches stay equal in any order of summation.
    return np.asarray(np.rint(points * 2**20) / 2**20, np.float32)


def _distinct_rows(features: npt.NDArray[np.float32], enough: int) -> int:
    """Count distinct rows, stopping at `enough`."""
    seen: set[bytes] = set()
    for row in features:
        seen.add((row + np.float32(0)).tobytes())  # adding 0 turns -0 into 0
        if len(seen) == enough:
            break
    return len(seen)


def _by_falling_size(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int16]:
    _, first, inverse, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), np.int16)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[inverse]


def _largest_remainder(sizes: Rows, count: int) -> Rows:
    total = max(int(sizes.sum()), 1)
    share, remainder = np.divmod(sizes * count, total)  # integers, so that rounding cannot break ties
    over = count - int(share.sum())
    share[np.argsort(-remainder, kind="stable")[:over]] += 1
    return np.asarray(share, np.int64)


def _at_least_one(what: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"{what} must be at least 1, found {number}")
