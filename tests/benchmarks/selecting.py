"""How long the selection takes, and how much memory, beside WSISum's own way in the same run.

    python tests/benchmarks/selecting.py [--patches 20000] [--dims 768] [--keep 64]

Features are drawn: groups of unequal size with noise. Each way runs in a process of its own, whose peak memory is that
beyond what libraries and features take. WSISum's way is k-means with 50 clusters, a draw of 500, and so many forward
passes of its network (ViT-B over 12.5 % of 500 tokens, decoder over all; random weights take as long); it needs torch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable

import numpy as np

PASSES = 200


def draw_features(patches: int, dims: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    group = np.minimum(rng.geometric(0.05, patches), 100)
    features = rng.standard_normal((101, dims), np.float32)[group]
    features += 0.8 * rng.standard_normal((patches, dims), np.float32)
    return features


def places(patches: int) -> np.ndarray:
    side = int(np.ceil(np.sqrt(patches)))
    return np.stack([np.arange(patches) % side, np.arange(patches) // side], axis=1) * 512


def by_selector(features: np.ndarray, keep: int, selector: str) -> dict[str, float]:
    """Clusters, then the selection; seconds of both."""
    from wsisum_cli.selection.candidates import sample_candidates
    from wsisum_cli.selection.patches import TissuePatches
    from wsisum_cli.selection.selectors import select

    start = time.perf_counter()
    candidates = sample_candidates(features)
    clustered = time.perf_counter()
    select(TissuePatches(features, places(len(features)), candidates, 0, 512), keep, selector)
    return {"clusters": clustered - start, "selection": time.perf_counter() - clustered}


def by_wsisum(features: np.ndarray, keep: int, passes: int) -> dict[str, float]:
    """k-means, then forward passes of the published network."""
    import torch
    from sklearn.cluster import KMeans

    from wsisum_cli.training.summarizer.import_wsisum import WSISum
    from wsisum_cli.training.summarizer.published import PUBLISHED

    start = time.perf_counter()
    KMeans(50, n_init=1, random_state=0).fit(features)
    clustered = time.perf_counter()
    network = WSISum(PUBLISHED).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        tokens = torch.from_numpy(features[:500, : PUBLISHED.width])[None]
        coords, there = torch.zeros(1, 500, 2), torch.ones(1, 500, dtype=torch.bool)
        begun = time.perf_counter()
        for number in range(passes):
            kept = torch.from_numpy(np.random.default_rng(number).permutation(500)[:keep])[None]
            network(tokens, coords, there, kept)
    return {"clusters": clustered - start, "selection": time.perf_counter() - begun}


def apart(way: Callable[..., dict[str, float]], patches: int, dims: int, *arguments: object) -> dict[str, float]:
    """Run in a process of its own; seconds, CPU seconds, and MB beyond libraries and features."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (way, patches, dims, *arguments))


def measured(way: Callable[..., dict[str, float]], patches: int, dims: int, *arguments: object) -> dict[str, float]:
    features = draw_features(patches, dims)
    way(features[:600], *arguments[:-1], 2 if way is by_wsisum else arguments[-1])  # whatever is loaded is loaded
    before, cpu = peak(), time.process_time()
    found = way(features, *arguments)
    return found | {"cpu": time.process_time() - cpu, "mb": peak() - before}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=20_000)
    parser.add_argument("--dims", type=int, default=768)
    parser.add_argument("--keep", type=int, default=64)
    parser.add_argument("--passes", type=int, default=PASSES)
    options = parser.parse_args()
    size = (options.patches, options.dims)
    found = {name: apart(by_selector, *size, options.keep, name) for name in ("wsisum", "facility", "random")}
    found[f"WSISum, {options.passes} passes"] = apart(by_wsisum, *size, options.keep, options.passes)
    theirs = sum(found[f"WSISum, {options.passes} passes"][name] for name in ("clusters", "selection"))
    print("| way | clusters, s | selection, s | CPU s | more memory, MB | of WSISum's time |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, row in found.items():
        share = (row["clusters"] + row["selection"]) / theirs
        cells = [f"{row[key]:.1f}" for key in ("clusters", "selection", "cpu")] + [f"{row['mb']:.0f}", f"{share:.3f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
