"""How long the random draws take, beside one draw after the other in the same run, and whether the figures are equal.

    python tests/benchmarks/draws.py FEATURES.h5... [--draws 200] [--rounds 5] [--threads 2]

FEATURES are h5 files as `wsisum features` writes them, or those of STAMP. Both ways measure the same draws from the
same pool, as many patches as `compress` keeps by default; rounds alternate. `slow_draws` is the plain way, by
`fit_mean`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]

from slow_draws import measure_slowly  # noqa: E402

from wsisum_cli.features.h5 import load_h5  # noqa: E402
from wsisum_cli.features.vectors import checked, one_thread  # noqa: E402
from wsisum_cli.quality.batched_draws import measure_draws  # noqa: E402
from wsisum_cli.quality.random_draws import draw_pool, sizes_of  # noqa: E402
from wsisum_cli.selection.candidates import sample_candidates  # noqa: E402

KEEP = 64  # patches, as many as there were by default


def timed(measure: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    found = measure()
    return time.perf_counter() - start, found


def compare(path: Path, count: int, rounds: int, threads: int) -> str:
    """One row of the table: seconds of both ways, their ratio with its spread, and the largest difference."""
    features = checked(load_h5(path).features)
    keep = min(KEEP, len(features))
    sizes, rng = sizes_of(keep), np.random.default_rng(0)
    cluster = sample_candidates(features).cluster
    with one_thread():
        pool = draw_pool(features, cluster, 0.8, keep, rng)
        drawn = np.stack([rng.permutation(len(pool.rows))[:keep] for _ in range(count)])
        slow, fast, apart = [], [], 0.0
        for _ in range(rounds):
            seconds, plain = timed(lambda: measure_slowly(pool, drawn, sizes))
            slow.append(seconds)
            seconds, batched = timed(lambda: measure_draws(pool, drawn, sizes, threads))
            fast.append(seconds)
            apart = max(apart, float(np.abs(plain - batched).max()))
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    spread = f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    times = f"{statistics.median(slow):.2f} | {statistics.median(fast):.2f}"
    return f"| {path.stem[:24]} | {len(features)} | {keep} | {times} | {spread} | {apart:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print("| features | patches | kept | one by one, s | in batches, s | ratio | largest difference |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for path in arguments.features:
        print(compare(path, arguments.draws, arguments.rounds, arguments.threads), flush=True)


if __name__ == "__main__":
    main()
