"""Arrays of vectors: check, normalise, convert to half precision, split into blocks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from wsisum_cli.errors import FeaturesError

Features = npt.NDArray[np.floating]


Coords = npt.NDArray[np.integer]


Rows = npt.NDArray[np.int64]


#: Rows processed at once, so that a large slide needs no second copy of its features.
BLOCK = 4_096


_ONE_AT_A_TIME = threading.RLock()


def checked(features: Features) -> npt.NDArray[np.float32]:
    """Convert `features` to float32 (N, D). Raises FeaturesError, a ValueError, when they are empty or not finite."""
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise FeaturesError(f"expected features (N, D) of at least one patch, found shape {features.shape}")
    with np.errstate(over="ignore"):  # overflow of float32 becomes infinite, and is refused below
        features = features.astype(np.float32, copy=False)
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise FeaturesError(
            f"features of row {broken[0]} are not finite ({len(broken)} of {len(features)} rows); "
            "encode the slide again"
        )
    return features


def unit_rows(features: Features) -> npt.NDArray[np.float64]:
    """Scale rows to length 1, in float64. A zero row stays zero, so its cosine with any row is 0."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float64] = rows / np.where(lengths > 0, lengths, 1)
    return scaled


def as_half(features: Features) -> Features:
    """Convert to float16, or to float32 if a value would overflow, as a summary stores features."""
    largest = float(np.abs(features).max(initial=0))
    return features.astype(np.float16 if largest <= float(np.finfo(np.float16).max) else np.float32)


def blocks(count: int) -> Iterator[slice]:
    """Slices of `BLOCK` that cover 0..count in order."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit the numerical libraries to one thread, so that the order of sums, and the results, are fixed.

    The limit applies to the whole process, so only one of our threads may hold it at a time. Libraries loaded inside
    the block are not limited: import them before.
    """
    with _ONE_AT_A_TIME, _numerical_libraries(len(sys.modules)).limit(limits=1):
        yield


@lru_cache(maxsize=1)
def _numerical_libraries(_modules: int) -> Any:
    """Those this process has loaded, looked for anew once it has more modules: the search takes some milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
