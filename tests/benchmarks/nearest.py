"""Time and memory of ranking and pairing many slides, on random vectors: `python tests/benchmarks/nearest.py`."""

from __future__ import annotations

import resource
import time

import numpy as np

from wsisum_cli.archive.likeness.duplicates import like_pairs
from wsisum_cli.archive.likeness.nearest import find_nearest
from wsisum_cli.archive.likeness.vectors import MEAN, Archive, Model, SlideVectors

DIMS = 576
MODEL = Model(MEAN, "encoder", "a" * 64)


def random_archive(count: int) -> Archive:
    """Slides with random vectors."""
    vectors = np.random.default_rng(0).standard_normal((count, DIMS), np.float32)
    slides = [
        SlideVectors(f"{row}.ozx", f"{row}.ozx", f"{row}.svs", f"{row:064x}", None, 1.0, {MODEL: vectors[row]})
        for row in range(count)
    ]
    return Archive(slides)


def peak() -> float:
    """Largest resident memory so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    for count in (1_000, 10_000, 100_000):
        archive = random_archive(count)
        begun, before = time.process_time(), peak()
        find_nearest(archive.slides[0], archive, 10)
        print(f"{count} slides: {time.process_time() - begun:.2f} CPU s, peak {before:.2f} -> {peak():.2f} GB")
    vectors = np.random.default_rng(1).standard_normal((10_000, DIMS), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    begun = time.process_time()
    like_pairs(vectors)
    print(f"candidates among 10000 slides: {time.process_time() - begun:.1f} CPU s, peak {peak():.2f} GB")


if __name__ == "__main__":
    main()
