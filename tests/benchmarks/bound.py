"""How much any K patches of a slide can cover, against what `wsisum` covers, and what twice as many of others do.

    python tests/benchmarks/bound.py FEATURES ... --table fidelity.json

The greatest coverage that K patches can have is that of a facility location problem (p-median), which is hard; its
Lagrangian dual bounds it from above (Cornuejols, Fisher and Nemhauser, Management Science 23:789-810, 1977). Whether
any K patches reach what another selector covers with more is then settled by branch and bound: patches without which
the bound falls below that are kept, those with which it does are left out, and of one of the rest at a time both are
tried. `--table` are figures of tests/benchmarks/fidelity.py, for the same features.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from likeness_trials import read_slide

from wsisum_cli.features.vectors import unit_rows

ROUNDS, PATIENCE = 600, 15  # steps of a dual, at most, and without progress before they are halved
BELOW = 7e-4  # a dual that is to fall below a coverage aims at so much less
ROUNDING = 1e-6  # of a coverage
NODES = 20_000
OTHERS = ("random", "location", "cluster", "entropy", "attempts")


@dataclass(frozen=True)
class Branch:
    """What is settled: some patches are `kept`, of the `open` ones the rest is chosen. Rows of the slide's patches."""

    kept: np.ndarray
    open: np.ndarray
    price: np.ndarray  # (N,) of the branch that this one comes from


@dataclass(frozen=True)
class Dual:
    """An upper bound of the summed coverage, the prices (N,) that give it, and what each patch gains at them."""

    bound: float
    price: np.ndarray
    gain: np.ndarray
    choice: np.ndarray  # what would be kept at those prices


def dual_of(served: np.ndarray, keep: int, branch: Branch, aim: float, enough: float = -np.inf) -> Dual:
    """The lowest bound that subgradient steps towards a sum of `aim` find; they end where it is below `enough`."""
    price, step, since, lowest = branch.price, 1.0, 0, None
    more = keep - len(branch.kept)
    for _ in range(ROUNDS):
        above = served - price
        gain = np.maximum(above, 0).sum(axis=1)
        chosen = branch.open[np.argpartition(-gain[branch.open], more - 1)[:more]]
        choice = np.concatenate([branch.kept, chosen])
        bound = float(price.sum() + gain[choice].sum())
        if lowest is None or bound < lowest.bound * (1 - 1e-7):
            lowest, since = Dual(bound, price, gain, choice), 0
        else:
            since += 1
            if since == PATIENCE:
                step, since = step / 2, 0
        uncovered = 1.0 - (above[choice] > 0).sum(axis=0)
        steepness = float(uncovered @ uncovered)
        if lowest.bound < enough or steepness == 0:
            break  # without a slope every patch is served once: the choice is the best there is
        price = price - step * (bound - aim) / steepness * uncovered
    assert lowest is not None
    return lowest


def root_of(served: np.ndarray, keep: int) -> Branch:
    price = np.sort(served, axis=0)[-max(2, len(served) // keep)].astype(np.float64)
    return Branch(np.empty(0, np.intp), np.arange(len(served)), price)


def greatest_coverage(served: np.ndarray, keep: int, reached: float) -> float:
    """An upper bound of the mean over patches i of the best of served[j, i] for `keep` rows j; some have `reached`."""
    patches = served.shape[1]
    return float(dual_of(served, keep, root_of(served, keep), reached * patches).bound / patches)


def can_cover(served: np.ndarray, keep: int, coverage: float) -> bool | None:
    """Whether any `keep` rows of `served` (N, N) have that coverage; None where it stays open after `NODES`."""
    patches = served.shape[1]
    wanted = (coverage - ROUNDING) * patches
    stack = [root_of(served, keep)]
    for _ in range(NODES):
        if not stack:
            return False
        branch = stack.pop()
        dual = dual_of(served, keep, branch, wanted - BELOW * patches, wanted)
        if served[dual.choice].max(axis=0).sum() >= wanted:
            return True
        if dual.bound >= wanted:
            settled = settle(branch, dual, keep, wanted)
            if len(settled.kept) < keep:
                stack += halves(settled, dual, keep)
            elif served[settled.kept].max(axis=0).sum() >= wanted:
                return True
    return None


def settle(branch: Branch, dual: Dual, keep: int, wanted: float) -> Branch:
    """Keep the patches without which the bound is below `wanted`, leave out those with which it is."""
    more = keep - len(branch.kept)
    gain = dual.gain[branch.open]
    order = np.sort(gain)[::-1]
    last, following = order[more - 1], order[more] if len(order) > more else -np.inf
    needed = (gain >= last) & (dual.bound - gain + following < wanted)
    useless = (gain < last) & (dual.bound - last + gain < wanted)
    return Branch(np.concatenate([branch.kept, branch.open[needed]]), branch.open[~needed & ~useless], dual.price)


def halves(branch: Branch, dual: Dual, keep: int) -> list[Branch]:
    """Without and with the patch that is nearest to being kept or not; the latter is to be looked at first."""
    more = keep - len(branch.kept)
    gain = dual.gain[branch.open]
    order = np.argsort(-gain, kind="stable")
    row, rest = branch.open[order[more - 1]], np.delete(branch.open, order[more - 1])
    without = [Branch(branch.kept, rest, branch.price)] if len(rest) >= more else []
    return [*without, Branch(np.append(branch.kept, row), rest, branch.price)]


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
    print(f"| slide | patches | `wsisum` {few} | any {few}, at most | {many} of others | not by any {few} | open |")
    print("|---|---:|---:|---:|---|---|---|")
    for path in paths:
        if (path.stem, "wsisum", few) not in covered:
            continue
        features = read_slide(path)[0]
        if len(features) > options.most:
            continue
        units = unit_rows(features).astype(np.float32)
        served = units @ units.T
        ours = covered[path.stem, "wsisum", few]
        others = {name: covered[path.stem, name, many] for name in OTHERS if (path.stem, name, many) in covered}
        better = {name: value for name, value in others.items() if value > ours}
        able = {name: can_cover(served, few, value) for name, value in better.items()}
        print(
            f"| {path.stem} | {len(units)} | {ours:.4f} | {greatest_coverage(served, few, ours):.4f} | "
            f"{', '.join(f'{name} {value:.4f}' for name, value in better.items())} | "
            f"{', '.join(name for name in able if able[name] is False)} | "
            f"{', '.join(name for name in able if able[name] is None)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
