"""Bytes a patch against the cosine of unpacked features: python tests/benchmarks/tissue_features.py H5|FOLDER ...

The h5 files hold true features of all tissue, as `wsisum features` writes them. Beside each figure stands the cosine to
the nearest of 64 kept patches, which is all that a summary says of a patch without packed features.

With --mixtures lc25000-lung-dev.zip, pseudo-slides of lung tiles (see evaluation.py) are classified from true and from
unpacked features instead: by logistic regression on the mean of all patches, in 5 folds by patient, dealt 3 times.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
from evaluation import build  # noqa: E402
from training_data import write_features  # noqa: E402

from wsisum_cli.evaluation.arms import ALL, read_bags  # noqa: E402
from wsisum_cli.evaluation.cohort import read_labels  # noqa: E402
from wsisum_cli.evaluation.cross_validation import ABMIL, MEAN, Plan, cross_validate  # noqa: E402
from wsisum_cli.evaluation.folds import macro_auc  # noqa: E402
from wsisum_cli.features.h5 import read_feature_file  # noqa: E402
from wsisum_cli.features.similarity import nearest  # noqa: E402
from wsisum_cli.features.vectors import as_half, checked  # noqa: E402
from wsisum_cli.selection.candidates import sample_candidates  # noqa: E402
from wsisum_cli.selection.patches import TissuePatches  # noqa: E402
from wsisum_cli.selection.selectors import pick  # noqa: E402
from wsisum_cli.summary.extras.tissue_features import encode_packed, losses, pack_features, packed_bytes  # noqa: E402
from wsisum_cli.training.data import estimate_side  # noqa: E402

BYTES = (16, 32, 48, 64, 96)
KEPT = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--mixtures", type=Path, metavar="ZIP")
    parser.add_argument("--bytes", nargs="+", type=int, default=BYTES)
    arguments = parser.parse_args()
    if arguments.mixtures is not None:
        compare_classification(arguments.mixtures, arguments.bytes)
        return
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


def compare_classification(archive: Path, wanted: list[int]) -> None:
    """Print the AUC from true features, and from unpacked ones of each number of bytes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        build(archive, folder, 0)
        true = {path.stem: path for path in sorted((folder / "features").glob("*.h5"))}
        print("| features | AUC, mean | AUC, attention | mean cosine |")
        print("|---|---:|---:|---:|")
        print(f"| true | {' | '.join(aucs(folder, true))} | 1 |", flush=True)
        for most in wanted:
            files, cosines = {}, []
            for name, path in true.items():
                file = read_feature_file(path)
                packed = pack_features(file.features, most)
                mean = file.features.mean(axis=0, dtype=np.float64).astype(np.float32)
                cosines.append(losses(file.features, packed, mean).mean())
                files[name] = folder / str(most) / path.name
                places = (file.coords / (file.patch_size_level0 or 1)).astype(int)
                write_features(files[name], packed.unpack(mean), places, file.encoder, file.encoder_sha256 or "")
            print(f"| {most} bytes | {' | '.join(aucs(folder, files))} | {np.mean(cosines):.4f} |", flush=True)


def aucs(folder: Path, files: dict[str, Path]) -> list[str]:
    """AUC of each classifier from all patches, on the same folds whatever the features are."""
    cohort = read_labels(folder / "labels.csv", files)
    bags = read_bags(cohort.slides, files, [ALL], {}, most=300)
    plan = Plan(folds=5, repeats=3, seed=0)
    found = cross_validate(bags, cohort, plan)
    once = np.ones((1, len(cohort.slides)), np.int64)
    means = []
    for classifier in (MEAN, ABMIL):
        judged = found[ALL.name, classifier]
        of_repeats = [
            macro_auc(scores, cohort.labels, once, fold)[0]
            for scores, fold in zip(judged.scores, judged.fold, strict=True)
        ]
        means.append(f"{float(np.mean(of_repeats)):.4f}")
    return means


if __name__ == "__main__":
    main()
