"""Arrays of vectors: checked, normalised, stored in half precision, walked in blocks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from wsisum_cli.errors import FeaturesError

Features = npt.NDArray[np.floating]


Coords = npt.NDArray[np.integer]


Rows = npt.NDArray[np.int64]


#: Patches worked on at once, so that a large slide needs no second copy of its features.
BLOCK = 4_096


_ONE_AT_A_TIME = threading.RLock()


def checked(features: Features) -> npt.NDArray[np.float32]:
    """`features` as float32 (N, D); raises FeaturesError, a ValueError, when empty or not finite."""
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise FeaturesError(f"expected features (N, D) of at least one patch, found shape {features.shape}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
        features = features.astype(np.float32, copy=False)
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise FeaturesError(
            f"features of row {broken[0]} are not finite ({len(broken)} such of {len(features)} rows); "
            "encode the slide again"
        )
    return features


def unit_rows(features: Features) -> npt.NDArray[np.float64]:
    """Rows scaled to length 1 in float64; a zero row stays zero, so that its cosine with all is 0."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float64] = rows / np.where(lengths > 0, lengths, 1)
    return scaled


def as_half(features: Features) -> Features:
    """float16, or float32 where a value would overflow: as a summary stores them."""
    largest = float(np.abs(features).max(initial=0))
    return features.astype(np.float16 if largest <= float(np.finfo(np.float16).max) else np.float32)


def blocks(count: int) -> Iterator[slice]:
    """Slices that cover 0..count in order, `BLOCK` at a time."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep the numerical libraries to one thread: sums then have one order, and results one value.

    The limit holds for the whole process, so only one thread of ours may set and lift it at a time.
    Libraries loaded inside are not limited: import them before.
    """
    from threadpoolctl import threadpool_limits

    with _ONE_AT_A_TIME, threadpool_limits(limits=1):
        yield
