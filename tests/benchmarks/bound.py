"""How much any K patches of a slide can cover, against what `wsisum` covers, and what twice as many of others do.

    python tests/benchmarks/bound.py FEATURES ... --table fidelity.json

The greatest coverage that K patches can have is that of a facility location problem (p-median), which is hard; its
Lagrangian dual bounds it from above (Cornuejols, Fisher and Nemhauser, Management Science 23:789-810, 1977). Where the
bound lies below what another selector covers with more patches, no choice of K patches whatever reaches that.
`--table` are figures of tests/benchmarks/fidelity.py, for the same features.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from fidelity import read_slide

from wsisum_cli.similarity import ONE, fill_cosines, whole_rows

ROUNDS, PATIENCE = 600, 15
ROUNDING = 1e-4  # of a cosine of the search, at most, see wsisum_cli/similarity.py
OTHERS = ("random", "location", "cluster", "entropy", "attempts")


def greatest_coverage(served: np.ndarray, keep: int, reached: float) -> float:
    """An upper bound of the mean over patches i of the best of served[j, i] for `keep` rows j.

    `reached` is what some choice of them has. By subgradient steps on the price (N,) of each patch: any prices give
    a bound, better ones a lower.
    """
    price = np.sort(served, axis=0)[-max(2, len(served) // keep)].astype(np.float64)
    bound, step, since = np.inf, 1.0, 0
    for _ in range(ROUNDS):
        above = served - price
        gain = np.maximum(above, 0).sum(axis=1)
        chosen = np.argpartition(-gain, keep - 1)[:keep]
        value = price.sum() + gain[chosen].sum()
        if value < bound - 1e-7 * abs(bound) or bound == np.inf:
            bound, since = value, 0
        else:
            since += 1
            if since == PATIENCE:
                step, since = step / 2, 0
        uncovered = 1.0 - (above[chosen] > 0).sum(axis=0)
        steepness = float(uncovered @ uncovered)
        if steepness == 0:
            break  # every patch is served once: the choice is the best there is
        price -= step * (value - reached * served.shape[1]) / steepness * uncovered
    return bound / served.shape[1] + ROUNDING


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, nargs="+", help="h5 files, or folders of them")
    parser.add_argument("--table", type=Path, nargs="+", required=True, help="fidelity.json")
    parser.add_argument("--keep", type=int, nargs=2, default=[31, 63], help="of `wsisum`, and of the others")
    parser.add_argument("--most", type=int, default=4_000, help="leave out slides of more patches")
    options = parser.parse_args()
    few, many = options.keep
    table = [row for path in options.table for row in json.loads(path.read_text())]
    covered = {(row["slide"], row["selector"], row["keep"]): row["coverage"] for row in table if row["seed"] == 0}
    paths = sorted(p for given in options.features for p in ([given] if given.is_file() else given.glob("*.h5")))
    print(f"| slide | patches | `wsisum` {few} | any {few}, at most | {many} of others | beyond any {few} |")
    print("|---|---:|---:|---:|---|---|")
    for path in paths:
        if (path.stem, "wsisum", few) not in covered:
            continue
        features = read_slide(path)[0]
        if len(features) > options.most:
            continue
        rows = whole_rows(features)
        served = fill_cosines(np.empty((len(rows), len(rows)), np.int16), rows, rows) / np.float32(ONE)
        ours = covered[path.stem, "wsisum", few]
        most = greatest_coverage(served, few, ours)
        others = {name: covered[path.stem, name, many] for name in OTHERS if (path.stem, name, many) in covered}
        better = ", ".join(f"{name} {value:.4f}" for name, value in others.items() if value > ours)
        beyond = ", ".join(name for name, value in others.items() if value > most)
        print(f"| {path.stem} | {len(rows)} | {ours:.4f} | {most:.4f} | {better} | {beyond} |", flush=True)


if __name__ == "__main__":
    main()
