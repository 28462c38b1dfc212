"""Figures of many random draws at once: the same as of one after the other, in a tenth of the time.

Every draw of K patches is also measured at smaller sizes, from its first patches. One pass over the cosines serves all
sizes, and one linear solver the weights of all draws of a batch. Batches are small and their bounds depend only on the
shapes, so the figures do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.similarity import ONE, Cosines
from wsisum_cli.features.vectors import Rows
from wsisum_cli.quality.batched_weights import fit_means

#: Cosines of drawn patches held at once by a thread: 2 MB as sort keys, which stay in the processor's cache.
CELLS = 2**19
#: Numbers held at once by a thread for weights: 32 MB.
NUMBERS = 2**22
#: Best cosines of all patches held at once by a thread, over all sizes: 12 MB with the rows they belong to.
BEST = 2**21
#: Matrices (K, K) of one draw that the solver holds at a time.
MATRICES = 6

Counts = npt.NDArray[np.int64]
Figures = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """P tissue patches to draw from, out of N."""

    rows: Rows  # (P,) of the tissue
    cosines: Cosines  # (P, N) to all tissue patches
    features: npt.NDArray[np.float64]  # (P, D), rounded as a summary stores them
    mean: npt.NDArray[np.float64]  # (D,) of all tissue features
    cluster: npt.NDArray[np.integer]  # (N,)
    alike: float  # cosine at which a drawn patch represents another


def measure_draws(pool: Pool, drawn: Rows, sizes: tuple[int, ...], threads: int = 1) -> Figures:
    """Figures (L, 6, C) of C draws (C, K) of rows of the pool, for the first patches of each draw: `sizes` (L,).

    The figures are those of `Quality`, in its order, and the share of the tissue that is represented. Beside the pool,
    each thread holds about 50 MB, or what a single draw takes if that is more: 6 bytes for each patch and size, and
    8 * K * (D + 6 K) bytes for its weights.
    """
    found = np.empty((len(sizes), 6, len(drawn)))

    def measure(batch: slice) -> None:
        found[:, :, batch] = measure_batch(pool, drawn[batch], sizes)

    with ThreadPoolExecutor(threads) as workers:
        list(workers.map(measure, batches(len(drawn), numbers_of_one(pool, drawn.shape[1]), NUMBERS)))
    return found


def numbers_of_one(pool: Pool, keep: int) -> int:
    """Numbers held to fit the weights of one draw."""
    return keep * (int(pool.features.shape[1]) + MATRICES * keep)


def batches(count: int, each: int, most: int) -> Iterator[slice]:
    """Slices that cover 0..count, of as many as take up to `most` when one takes `each`; at least one."""
    step = max(1, most // each)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def measure_batch(pool: Pool, drawn: Rows, sizes: tuple[int, ...]) -> Figures:
    """Figures (L, 6, B) of draws (B, K)."""
    count, tissue = len(drawn), len(pool.cluster)
    coverage, represented = np.empty((count, len(sizes), 3)), np.empty((count, len(sizes), 1))
    alike = fewest_steps(pool.alike)
    counts = np.zeros((count, len(sizes), sizes[-1]), np.int64)
    for part in batches(count, len(sizes) * tissue, BEST):
        best, place = best_of_first(pool.cosines, drawn[part], sizes)
        coverage[part] = coverages(best)
        represented[part, :, 0] = (best >= alike).mean(axis=-1)
        counts[part] = count_places(place, sizes[-1])
    weighted = weighted_cosines(pool, drawn, counts, sizes)
    distance = compositions(pool, drawn, counts)
    figures = [coverage, weighted[..., None], distance[..., None], represented]
    return np.concatenate(figures, axis=2).transpose(1, 2, 0)


def fewest_steps(cosine: float) -> int:
    """The smallest of `Cosines` that reaches `cosine` once rounded to float16, as a summary stores cosines."""
    steps = np.arange(-ONE, ONE + 1)
    reached = np.flatnonzero((steps / ONE).astype(np.float16) >= cosine)
    return int(steps[reached[0]]) if len(reached) else ONE + 1


def best_of_first(cosines: Cosines, drawn: Rows, sizes: tuple[int, ...]) -> tuple[Cosines, npt.NDArray[np.int32]]:
    """For each draw (B, K), size and tissue patch: the best cosine to the first so many drawn patches, and the place
    (0..K-1) of that patch within the draw; both (B, L, N). The first of equals counts.

    A cosine and a place make one integer, larger for a larger cosine and then for an earlier place, so that a maximum
    finds both.
    """
    (count, keep), tissue = drawn.shape, cosines.shape[1]
    bits = max(1, (keep - 1).bit_length())
    key: type[np.integer[Any]] = np.int32 if bits <= 16 else np.int64
    last = (1 << bits) - 1
    place = (last - np.arange(keep, dtype=key))[:, None]
    found = np.empty((count, len(sizes), tissue), key)
    for draw in range(count):
        for columns in batches(tissue, keep, CELLS):
            keys: npt.NDArray[np.integer[Any]] = cosines[drawn[draw], columns].astype(key)
            np.left_shift(keys, bits, out=keys)
            np.bitwise_or(keys, place, out=keys)
            fill_best(found[draw, :, columns], keys, sizes)
    return (found >> bits).astype(np.int16), (last - (found & last)).astype(np.int32)


def fill_best(found: npt.NDArray[np.integer], keys: npt.NDArray[np.integer], sizes: tuple[int, ...]) -> None:
    """Write the largest of the first so many `keys` (K, N) into `found` (L, N), for each of `sizes`."""
    start = 0
    for level, size in enumerate(sizes):
        keys[start:size].max(axis=0, out=found[level])
        if level:
            np.maximum(found[level], found[level - 1], out=found[level])
        start = size


def coverages(best: Cosines) -> Figures:
    """Mean, 5th percentile and minimum over the last axis, as a new one."""
    mean = best.sum(axis=-1, dtype=np.int64) / best.shape[-1]
    return np.stack([mean, np.percentile(best, 5, axis=-1), best.min(axis=-1)], axis=-1) / ONE


def count_places(place: npt.NDArray[np.int32], keep: int) -> Counts:
    """How many tissue patches (B, L, N) have each place: (B, L, K)."""
    count = place.shape[0] * place.shape[1]
    flat = place.reshape(count, -1) + np.arange(count)[:, None] * keep
    return np.bincount(flat.ravel(), minlength=count * keep).reshape(*place.shape[:2], keep)


def weighted_cosines(pool: Pool, drawn: Rows, counts: Counts, sizes: tuple[int, ...]) -> Figures:
    """Cosine (B, L) between the weighted mean of the drawn features and the mean of all; 0 if either is zero."""
    own = pool.features[drawn]
    gram = np.matmul(own, own.transpose(0, 2, 1))
    weights = np.zeros(counts.shape)
    for level, size in enumerate(sizes):
        shares = counts[:, level, :size].clip(1) / len(pool.cluster)
        weights[:, level, :size] = fit_means(own[:, :size], gram[:, :size, :size], pool.mean, shares)
    means = np.matmul(weights, own)
    lengths = np.linalg.norm(means, axis=2) * np.linalg.norm(pool.mean)
    return np.asarray(means @ pool.mean / np.where(lengths > 0, lengths, 1))


def compositions(pool: Pool, drawn: Rows, counts: Counts) -> Figures:
    """Distance of cluster shares (B, L), as `composition` measures it."""
    tissue, clusters = len(pool.cluster), int(pool.cluster.max()) + 1
    shares = np.bincount(pool.cluster, minlength=clusters) / tissue
    of_drawn = pool.cluster[pool.rows[drawn]].astype(np.int64)[:, None, :]
    rows = np.arange(counts.shape[0] * counts.shape[1]).reshape(*counts.shape[:2], 1)
    flat = (rows * clusters + of_drawn).ravel()
    represented = np.bincount(flat, counts.ravel(), minlength=rows.size * clusters) / tissue
    return np.asarray(np.abs(represented.reshape(*counts.shape[:2], clusters) - shares).sum(axis=2) / 2)
