"""Bytes a patch against the cosine of unpacked features: python tests/benchmarks/tissue_features.py H5|FOLDER ...

The h5 files hold true features of all tissue, as `wsisum features` writes them. Beside each figure stands the cosine to
the nearest of 64 kept patches, which is all that a summary says of a patch without packed features.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from wsisum_cli.features.h5 import read_feature_file
from wsisum_cli.features.similarity import nearest
from wsisum_cli.features.vectors import as_half, checked
from wsisum_cli.selection.candidates import sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.selectors import pick
from wsisum_cli.summary.extras.tissue_features import encode_packed, losses, pack_features, packed_bytes
from wsisum_cli.training.data import estimate_side

BYTES = (16, 32, 48, 64, 96)
KEPT = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--bytes", nargs="+", type=int, default=BYTES)
    arguments = parser.parse_args()
    files = [f for path in arguments.paths for f in (sorted(path.rglob("*.h5")) if path.is_dir() else [path])]
    print("| features | patches | dims | nearest of 64 | bytes asked | used | basis kB | mean | 5 % | least |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for file in files:
        for line in rows(file, arguments.bytes):
            print(line, flush=True)


def rows(path: Path, wanted: list[int]) -> list[str]:
    """A line of the table for each number of bytes."""
    file = read_feature_file(path)
    features = as_half(file.features).astype(np.float32)
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    side = file.patch_size_level0 or estimate_side(file.coords)
    places = np.rint(file.coords).astype(np.int64)
    tissue = TissuePatches(features, places, sample_candidates(features), 0, max(1, round(side)))
    kept = pick(tissue, min(KEPT, len(features)), "facility")
    near = float(nearest(checked(features), checked(features[kept]))[1].mean())
    found: list[str] = []
    for most in wanted:
        packed = pack_features(features, most)
        cosines = losses(features, packed, mean)
        used, basis = packed_bytes(packed) / len(features), sum(map(len, encode_packed(packed).values()))
        found.append(
            f"| {path.stem[:24]} | {len(features)} | {features.shape[1]} | {near:.3f} | {most} | {used:.1f} | "
            f"{(basis - used * len(features)) / 1000:.0f} | {cosines.mean():.4f} | {np.percentile(cosines, 5):.4f} | "
            f"{cosines.min():.4f} |"
        )
    return found


if __name__ == "__main__":
    main()
