"""Features of all tissue for a few bytes a patch: principal components, rounded to whole numbers that compress well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wsisum_cli.errors import UsageError
from wsisum_cli.features.vectors import as_half, blocks, one_thread, unit_rows

TISSUE_FEATURES = "tissue_features"
MOST_CODE = 32_767  # of a code, either way
MOST_INFLATED = 10  # times its compressed bytes that codes may take; half of what a reader grants to a whole file
#: Arrays of the group.
PACKED = ("codes", "basis", "scale")
#: Bytes a patch that can be asked for.
LEAST, MOST = 4, 1024
#: A component is kept where its standard deviation is at least this share of the step between codes.
WORTH_CODING = 0.6
#: Of the step between codes: what is nearer to zero becomes zero. Wider than half, as zeros compress best.
DEAD_ZONE = 0.6
MOST_UNPACKED = 16 << 30  # bytes
SEARCHED = 14  # step sizes that are tried
FINEST = 500  # steps in the largest standard deviation, at most


@dataclass(frozen=True)
class PackedFeatures:
    """Features (N, D) are about `reference/mean` + `codes`ᵀ · (`basis` · `scale`), `scale` by row."""

    codes: np.ndarray  # (R, N) int8, int16 where one byte is too short
    basis: np.ndarray  # (R, D) int8 principal directions
    scale: np.ndarray  # (R,) float32, of codes and of the entries of the basis in one

    def unpack(self, mean: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Features (N, D) float32, or those of (M,) `rows`; `mean` (D,) is that of all of them."""
        codes = self.codes if rows is None else self.codes[:, rows]
        directions = self.basis.astype(np.float32) * self.scale[:, None]
        found = np.empty((codes.shape[1], len(mean)), np.float32)
        with one_thread():
            for block in blocks(len(found)):
                found[block] = mean + codes[:, block].T.astype(np.float32) @ directions
        return found


@dataclass(frozen=True)
class Directions:
    """Principal components of features, as they are stored, and the features along them."""

    basis: np.ndarray  # (D, D) int8, a row for each component
    unit: np.ndarray  # (D,) float64 by which a row's entries are multiplied
    deviation: np.ndarray  # (D,) float64, falling
    projected: np.ndarray  # (R, N) float32, of those that the smallest step that is tried would keep


def pack_features(features: np.ndarray, most: int) -> PackedFeatures:
    """Pack features (N, D) into codes of at most `most` bytes a patch, compressed. The basis is not counted.

    All components are rounded by one step, which spends bits by variance, and those that would be lost in rounding are
    left out; the step is the smallest that is found to fit. Raises UsageError for an impossible number of bytes.
    """
    if not LEAST <= most <= MOST:
        raise UsageError(f"--tissue-features: expected {LEAST} to {MOST} bytes a patch, found {most}")
    features = as_half(features).astype(np.float32)
    with one_thread():
        found = find_directions(features)
    largest = max(float(found.deviation[0]), 1e-12)
    fits, fails = 4 * largest, largest / FINEST
    packed = quantize(found, fits)
    for _ in range(SEARCHED):
        step = float(np.sqrt(fits * fails))
        tried = quantize(found, step)
        # A summary may not claim arrays of many times its own size.
        if tried.codes.nbytes <= MOST_INFLATED * most * len(features) and packed_bytes(tried) <= most * len(features):
            fits, packed = step, tried
        else:
            fails = step
    return packed


def find_directions(features: np.ndarray) -> Directions:
    """Principal components of features (N, D) float32; the signs of the directions are fixed."""
    mean = features.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((len(mean), len(mean)))
    for block in blocks(len(features)):
        centred = features[block].astype(np.float64) - mean
        covariance += centred.T @ centred / len(features)
    variances, directions = np.linalg.eigh(covariance)
    order = np.argsort(-variances, kind="stable")
    rows = directions[:, order].T
    rows *= np.where(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)] < 0, -1, 1)[:, None]
    unit = np.abs(rows).max(axis=1) / 127
    basis = np.rint(rows / unit[:, None]).astype(np.int8)
    deviation = np.sqrt(np.maximum(variances[order], 0))
    kept = max(1, int(np.count_nonzero(deviation >= WORTH_CODING * deviation[0] / FINEST)))
    projected = np.empty((kept, len(features)), np.float32)
    stored = basis[:kept] * unit[:kept, None]
    for block in blocks(len(features)):
        projected[:, block] = stored @ (features[block].astype(np.float64) - mean).T
    return Directions(basis, unit, deviation, projected)


def quantize(found: Directions, step: float) -> PackedFeatures:
    """Codes of all components that are worth it, at least one; a scale for each, by least squares.

    It goes component by component: of the features of a large slide no further copy fits into memory.
    """
    keep = max(1, int(np.count_nonzero(found.deviation[: len(found.projected)] >= WORTH_CODING * step)))
    codes = np.empty((keep, found.projected.shape[1]), np.int16)
    scale = np.full(keep, step)
    for row, along in enumerate(found.projected[:keep]):
        exact = along.astype(np.float64)
        code = np.sign(exact) * np.minimum(np.floor(np.abs(exact) / step + 1 - DEAD_ZONE), MOST_CODE)
        if squares := float((code**2).sum()):
            scale[row] = (exact * code).sum() / squares
        codes[row] = code
    if np.abs(codes).max(initial=0) <= 127:
        codes = codes.astype(np.int8)
    return PackedFeatures(codes, found.basis[:keep], (scale * found.unit[:keep]).astype(np.float32))


def losses(features: np.ndarray, packed: PackedFeatures, mean: np.ndarray) -> np.ndarray:
    """(N,) cosines of the unpacked features to (N, D) `features`."""
    found = np.empty(len(features))
    for block in blocks(len(features)):
        rows = np.arange(block.start, min(block.stop, len(features)))
        found[block] = (unit_rows(packed.unpack(mean, rows)) * unit_rows(features[block])).sum(axis=1)
    return found


def describe_packed(packed: PackedFeatures, cosines: np.ndarray, most: int) -> dict[str, Any]:
    """The attribute `tissue_features`; `cosines` as `losses` gives them."""
    return {
        "bytes": most,
        "components": len(packed.basis),
        "cosine_mean": round(float(cosines.mean()), 6),
        "cosine_p05": round(float(np.percentile(cosines, 5)), 6),
        "cosine_min": round(float(cosines.min()), 6),
    }


def join_packed(codes: np.ndarray, basis: np.ndarray, scale: np.ndarray, count: int, dims: int) -> PackedFeatures:
    """Packed features of `count` patches, as read from a file. Raises ValueError where the arrays do not fit."""
    if codes.shape != (len(scale), count) or basis.shape != (len(scale), dims) or 4 * count * dims > MOST_UNPACKED:
        shapes = ", ".join(str(array.shape) for array in (codes, basis, scale))
        raise ValueError(f"{TISSUE_FEATURES} has arrays of {shapes} for {count} patches of {dims} features")
    return PackedFeatures(codes, basis, scale)


def packed_bytes(packed: PackedFeatures) -> int:
    """Bytes of the codes as they are stored."""
    files = encode_packed(packed)
    return len(files[f"{TISSUE_FEATURES}/codes/c/0/0"])


def encode_packed(packed: PackedFeatures) -> dict[str, bytes]:
    """The members of the group."""
    from wsisum_cli.summary.arrays import encode_array, encode_groups

    return {
        **encode_groups([TISSUE_FEATURES]),
        **encode_array(f"{TISSUE_FEATURES}/codes", packed.codes, ["component", "tissue"]),
        **encode_array(f"{TISSUE_FEATURES}/basis", packed.basis, ["component", "feature"]),
        **encode_array(f"{TISSUE_FEATURES}/scale", packed.scale, ["component"]),
    }
