"""How well the kept patches stand for the slide: every selector, several K, against random draws of the same K.

    python tests/benchmarks/fidelity.py FOLDER ... --models models -o fidelity

A FOLDER holds an h5 of patch features for each slide. Smaller slides come first. For each slide, K and selector:
coverage (mean, 5th percentile and minimum over all tissue patches of the best cosine to a kept one), the share of the
tissue that is represented, and their percentiles among random draws; the error (1 - cosine) of the mean weighted by
counts and by the weights that fit it, as a share of what random draws have; and for slides whose features the models
are for, the cosine of the summarizer's reconstruction and of its embedding. `--rarity` plants 3 adjacent patches of
other slides among 10,000 of one (`--among`) and counts how often one of them is kept. Writes fidelity.json and
fidelity.md, after each slide.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from likeness_trials import VERDICTS, LabelledSlide, answer, level_of, read_slide

from wsisum_cli.errors import UsageError
from wsisum_cli.features.embedding import embed_tissue
from wsisum_cli.features.similarity import ONE, fill_cosines, nearest, whole_rows
from wsisum_cli.features.vectors import one_thread
from wsisum_cli.models.choice import NO_MODELS, SlideModels
from wsisum_cli.models.slide_encoder import load_slide_encoder
from wsisum_cli.models.summarizer import load_summarizer
from wsisum_cli.quality.guarantee import guarantee
from wsisum_cli.quality.measures import measure_selection
from wsisum_cli.selection.candidates import Candidates, sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.selectors import SELECTORS, Selection, pick, weigh
from wsisum_cli.selection.weights import mean_error

KEEP = (16, 31, 63, 125, 250)
NESTED = ("wsisum", "facility", "random", "entropy", "attention")
COVERAGE = ("coverage", "p05", "min", "represented")
ERRORS = ("counts_error", "fitted_error")
DRAW_POOL, FITTED_DRAWS, SEEDS = 4_000, 60, 1


def served_by(cosines: np.ndarray, level: np.float16) -> list[float]:
    """Mean, 5th percentile and minimum of the best of the cosines (K, N), and the share that reaches `level`."""
    best = cosines.max(axis=0)
    low = np.partition(best, int(0.05 * (len(best) - 1)))[int(0.05 * (len(best) - 1))]
    reached = (best / np.float32(ONE)).astype(np.float16) >= level
    return [float(value) / ONE for value in (best.mean(dtype=np.float64), low, best.min())] + [float(reached.mean())]


class RandomDraws:
    """Coverage of so many random draws, and the mean error of some of them."""

    def __init__(self, features: np.ndarray, count: int, level: np.float16) -> None:
        self.features, self.count, self.level = features, count, level
        rng = np.random.default_rng(1)
        self.pool = rng.permutation(len(features))[:DRAW_POOL]
        whole = whole_rows(features)
        self.cosines = fill_cosines(np.empty((len(self.pool), len(features)), np.int16), whole[self.pool], whole)
        self.rng = rng

    def figures(self, keep: int) -> dict[str, list[float]]:
        draws = [self.rng.permutation(len(self.pool))[:keep] for _ in range(self.count)]
        coverage = np.array([served_by(self.cosines[draw], self.level) for draw in draws])
        errors = [errors_of(self.features, weigh(self.features, self.pool[draw])) for draw in draws[:FITTED_DRAWS]]
        found = {name: np.sort(coverage[:, place]).tolist() for place, name in enumerate(COVERAGE)}
        return found | {name: [error[name] for error in errors] for name in ERRORS}


def errors_of(features: np.ndarray, selection: Selection) -> dict[str, float]:
    """1 - cosine of the mean weighted by counts, and by the weights that fit it."""
    mean, kept = features.mean(axis=0, dtype=np.float64), features[selection.rows].astype(np.float64)
    shares = selection.counts / selection.counts.sum()
    return dict(zip(ERRORS, (mean_error(kept, w, mean) for w in (shares, selection.weights)), strict=True))


def picks(tissue_patches: TissuePatches, selector: str, keeps: list[int]) -> Iterator[tuple[int, np.ndarray, float]]:
    """K, rows and seconds; of nested selectors the largest is picked once."""
    start = time.perf_counter()
    longest = pick(tissue_patches, max(keeps), selector) if selector in NESTED else None
    for keep in keeps:
        rows = pick(tissue_patches, keep, selector) if longest is None else longest[:keep]
        yield keep, rows, time.perf_counter() - start
        start = time.perf_counter()


def figures_of(
    tissue_patches: TissuePatches, rows: np.ndarray, with_models: bool, level: np.float16
) -> dict[str, float]:
    selection = weigh(tissue_patches.features, rows)
    quality = measure_selection(tissue_patches.features, selection, tissue_patches.candidates.cluster)
    figures = {"coverage": quality.coverage, "p05": quality.coverage_p05, "min": quality.coverage_min}
    figures["represented"] = float((selection.similarity.astype(np.float16) >= level).mean())
    figures |= errors_of(tissue_patches.features, selection) | {"composition": quality.composition}
    if with_models and tissue_patches.models.summarizer is not None:
        embedded = embed_tissue(tissue_patches.models, tissue_patches.tokens, tissue_patches.candidates.rows, rows)
        figures |= {name: value for name, value in embedded.figures().items() if value is not None}
    return figures


def measure_slide(
    path: Path, models: SlideModels, draws: int, modelled: set[int], selectors: list[str]
) -> list[dict[str, object]]:
    features, coords, side, sha256 = read_slide(path)
    keeps = [keep for keep in KEEP if keep < len(features)]
    candidates = sample_candidates(features)
    level = level_of(LabelledSlide(path.stem, features, coords / side))
    random = RandomDraws(features, draws, level)
    spread = {keep: random.figures(keep) for keep in keeps}
    del random
    tissue_patches = TissuePatches(features, coords, candidates, 0, int(side), models.for_features_of(sha256))
    rows_of_table: list[dict[str, object]] = []
    for selector in selectors:
        drawn = selector in ("attempts", "random", "cluster", "location")
        for seed in range(SEEDS if drawn else 1):
            of_seed = TissuePatches(features, coords, candidates, seed, int(side), tissue_patches.models)
            try:
                scored = selector == "attempts" and tissue_patches.models.summarizer is not None  # which takes its time
                wanted = [keep for keep in keeps if keep in modelled] if scored else keeps
                for keep, rows, seconds in picks(of_seed if drawn else tissue_patches, selector, wanted):
                    figures = figures_of(tissue_patches, rows, keep in modelled and seed == 0, level)
                    area = guarantee(coords, side, 1.0, weigh(features, rows).similarity)
                    row = {"slide": path.stem, "patches": len(features), "selector": selector, "keep": keep}
                    row |= {"seed": seed, "seconds": round(seconds, 3), **figures, **compared(figures, spread[keep])}
                    rows_of_table.append(row | {"patches_at_0.5": round(area.area(0.5) / area.patch_mm2)})
            except UsageError:
                break
    return rows_of_table


def compared(figures: dict[str, float], spread: dict[str, list[float]]) -> dict[str, float]:
    """Percentiles among random draws, and errors as a share of theirs."""
    found: dict[str, float] = {}
    for name in COVERAGE:
        found[f"{name}_percentile"] = round(100 * np.searchsorted(spread[name], figures[name]) / len(spread[name]), 1)
        found[f"{name}_p99"] = float(np.percentile(spread[name], 99))
    worse = VERDICTS.index(answer(figures["represented"]))
    found["better_verdicts"] = float(
        np.mean([VERDICTS.index(answer(share)) < worse for share in spread["represented"]])
    )
    counts, fitted = (float(np.mean(spread[name])) for name in ERRORS)
    found["counts_ratio"] = figures["counts_error"] / counts
    found["fitted_to_counts"] = figures["fitted_error"] / counts
    found["fitted_ratio"] = figures["fitted_error"] / fitted
    return found


def plant(
    paths: list[Path], trials: int, selectors: list[str], rare: float | None, among: int
) -> dict[str, dict[str, float]]:
    """Share of trials in which one of 3 adjacent foreign patches among so many is kept at K = 64, by selector."""
    hosts = [path for path in paths if len(read_slide(path)[0]) >= among - 3]
    found: dict[str, list[tuple[bool, bool]]] = {}
    for host_number, host in enumerate(hosts):
        features, coords, side, _ = read_slide(host)
        rng = np.random.default_rng(host_number)
        base = np.sort(rng.permutation(len(features))[: among - 3])
        cluster = sample_candidates(features[base]).cluster
        for _ in range(trials // len(hosts)):
            other = paths[int(rng.integers(len(paths)))]
            while other.stem.split("__")[0] == host.stem.split("__")[0]:
                other = paths[int(rng.integers(len(paths)))]
            foreign = adjacent(*read_slide(other)[:3], rng)
            planted = np.concatenate([features[base], foreign])
            at = coords[base[0]] + np.array([[0, 0], [side, 0], [0, side]])
            labels = np.concatenate([cluster, cluster[nearest(foreign, features[base])[0]]])
            rows = np.sort(rng.permutation(len(planted))[:500])
            slide = TissuePatches(
                planted, np.concatenate([coords[base], at]), Candidates(rows, labels), int(rng.integers(99)), rare=rare
            )
            for selector in selectors:
                kept = weigh(planted, pick(slide, 64, selector))
                hit = bool((kept.rows >= len(base)).any())
                served = kept.similarity[-3:].max() >= kept.similarity.mean()
                found.setdefault(selector, []).append((hit, hit or bool(served)))
            print(
                {name: round(float(np.mean([hit for hit, _ in hits])), 2) for name, hits in found.items()}, flush=True
            )
    return {
        name: {
            "trials": len(hits),
            "kept": float(np.mean([h[0] for h in hits])),
            "served": float(np.mean([h[1] for h in hits])),
        }
        for name, hits in found.items()
    }


def adjacent(features: np.ndarray, coords: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """Features of three patches side by side."""
    for start in rng.permutation(len(features)):
        away = np.abs(coords - coords[start]).max(axis=1)
        near = np.flatnonzero((away <= side * 1.01) & (away > 0))
        if len(near) >= 2:
            return features[[start, *near[:2]]]
    return features[:3]


COLUMNS = {
    "coverage": "coverage",
    "p05": "5th percentile",
    "min": "minimum",
    "represented": "represented",
    "counts_ratio": "error, counts",
    "fitted_to_counts": "error, fitted",
    "fitted_ratio": "of random's fitted",
    "reconstruction": "reconstruction",
    "embedding_cosine": "embedding",
    "slide_cosine": "slide embedding",
    "composition": "composition",
}
LESS_IS_BETTER = {"counts_ratio", "fitted_to_counts", "fitted_ratio", "composition"}


def markdown(table: list[dict[str, object]]) -> str:
    """Means over slides, the worst slide beside them, for each K."""
    lines = []
    for keep in KEEP:
        lines += [f"\nK = {keep}\n", "| selector | " + " | ".join(COLUMNS.values()) + " | above p99 on |"]
        lines += ["|---|" + "---:|" * (len(COLUMNS) + 1)]
        for selector in SELECTORS:
            rows = [row for row in table if row["keep"] == keep and row["selector"] == selector]
            if rows:
                above = [all(is_above(row, name) for name in COVERAGE) for row in rows]
                cells = [mean_and_worst(rows, name) for name in COLUMNS]
                lines.append(f"| {selector} | " + " | ".join(cells) + f" | {sum(above)} of {len(above)} |")
    return "\n".join(lines) + "\n"


def mean_and_worst(rows: list[dict[str, object]], name: str) -> str:
    values = [float(row[name]) for row in rows if name in row]  # type: ignore[arg-type]
    worst = max if name in LESS_IS_BETTER else min
    return f"{np.mean(values):.4f} ({worst(values):.3f})" if values else ""


def is_above(row: dict[str, object], name: str) -> bool:
    """Whether a figure is above the 99th percentile of random draws. All of the tissue cannot be exceeded."""
    value = float(row[name])  # type: ignore[arg-type]
    return value > float(row[f"{name}_p99"]) or (name == "represented" and value == 1)  # type: ignore[arg-type]


def better_verdicts(table: list[dict[str, object]]) -> str:
    """How often random draws of as many patches have a better verdict than `wsisum`, over slides and K."""
    found = [(float(row["better_verdicts"]), row) for row in table if row["selector"] == "wsisum"]  # type: ignore[arg-type]
    worst = max(found, key=lambda pair: pair[0])
    some = sum(share > 0 for share, _ in found)
    text = f"- some random draw has a better verdict on represented tissue in {some} of {len(found)} slides and K"
    return text + (f"; at most {worst[0]:.1%} of them ({worst[1]['slide']}, K = {worst[1]['keep']})" if some else "")


def points(table: list[dict[str, Any]]) -> str:
    """What `wsisum` reaches on every slide, against draws, against the baselines with twice as many, and `facility`."""
    rows = {(str(row["slide"]), str(row["selector"]), row["keep"]): row for row in table if row["seed"] == 0}
    ours = {slide: row for (slide, selector, keep), row in rows.items() if (selector, keep) == ("wsisum", 63)}
    lines = [f"\n`wsisum`, K = 63, {len(ours)} slides:\n"]
    for name in COVERAGE:
        above = sum(is_above(row, name) for row in ours.values())
        lines.append(f"- {name} above the 99th percentile of random draws on {above} of {len(ours)}")
    lines.append(better_verdicts(table))
    for name, aim in (("fitted_to_counts", 0.3), ("fitted_ratio", 0.6)):
        values = np.array([row[name] for row in ours.values()], float)
        lines.append(
            f"- {name}: mean {values.mean():.3f}, at most {aim} on {(values <= aim).sum()}, worst {values.max():.2f}"
        )
    for other in (name for name in SELECTORS if name not in ("wsisum", "facility")):
        pairs = [
            (rows[slide, "wsisum", 31]["coverage"], rows[slide, other, 63]["coverage"])
            for slide in ours
            if (slide, other, 63) in rows
        ]
        if pairs:
            won = sum(mine >= theirs for mine, theirs in pairs)
            lines.append(f"- 31 patches cover at least as well as 63 by `{other}` on {won} of {len(pairs)}")
    return "\n".join([*lines, *against_facility(rows, list(ours))]) + "\n"


def against_facility(rows: dict[tuple[str, str, object], dict[str, object]], slides: list[str]) -> list[str]:
    """Paired differences at K = 63, with 95 % intervals by drawing slides, and Wilcoxon's signed-rank test."""
    from scipy.stats import wilcoxon

    lines = ["\n| `wsisum` less `facility`, K = 63 | mean | 95 % | slides | p |", "|---|---:|---:|---:|---:|"]
    better = ("coverage", "p05", "min", "represented", "reconstruction", "embedding_cosine", "slide_cosine")
    for name in (*better, "fitted_error", "composition"):
        both = [slide for slide in slides if (slide, "facility", 63) in rows]
        pairs = [(rows[slide, "wsisum", 63].get(name), rows[slide, "facility", 63].get(name)) for slide in both]
        found = np.array([(mine, theirs) for mine, theirs in pairs if mine is not None], float)
        if not len(found):
            continue
        apart = found[:, 0] - found[:, 1]
        drawn = np.random.default_rng(0).integers(len(apart), size=(10_000, len(apart)))
        low, high = np.percentile(apart[drawn].mean(axis=1), (2.5, 97.5))
        p = wilcoxon(apart).pvalue if (apart != 0).any() else 1.0
        lines.append(f"| {name} | {apart.mean():+.5f} | {low:+.5f} to {high:+.5f} | {len(apart)} | {p:.3f} |")
    return lines


def published(cluster: Path, summary: Path, draws: int) -> str:
    """A summary that WSISum's authors published, on its own 500 candidates, beside `wsisum` with half as many."""
    features, coords, side, _ = read_slide(cluster)
    import h5py

    with h5py.File(summary) as raw:
        kept = raw["features"][:]
    which, cosine = nearest(kept, features)
    theirs = np.unique(which[cosine > 0.9999]).astype(np.int64)  # the last row is an embedding
    tissue_patches = TissuePatches(features, coords, sample_candidates(features), 0, int(side))
    level = level_of(LabelledSlide(cluster.stem, features, coords / side))
    spread = RandomDraws(features, draws, level).figures(len(theirs))
    lines = [
        f"\n| {cluster.stem} | K | coverage | 5th percentile | minimum | represented | error, counts | error, fitted |"
    ]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, rows in (
        ("published", theirs),
        ("`wsisum`", pick(tissue_patches, len(theirs) // 2, "wsisum")),
        ("`wsisum`", pick(tissue_patches, len(theirs), "wsisum")),
    ):
        figures = figures_of(tissue_patches, rows, False, level)
        cells = [f"{figures[key]:.4f}" for key in COVERAGE] + [f"{figures[key]:.5f}" for key in ERRORS]
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    cells = [f"{np.percentile(spread[key], 99):.4f}" for key in COVERAGE] + [
        f"{np.mean(spread[key]):.5f}" for key in ERRORS
    ]
    lines.append(f"| random, 99th percentile; mean error | {len(theirs)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", help="h5 files, or folders of them")
    parser.add_argument("--models", type=Path, help="folder of summarizer.onnx and slide_encoder.onnx")
    parser.add_argument("--modelled", type=int, nargs="*", default=[63], help="K for which models measure")
    parser.add_argument("--most", type=int, default=10**9, help="leave out slides of more patches")
    parser.add_argument("--every", type=int, default=1, help="take one slide in so many")
    parser.add_argument("--draws", type=int, default=1_000, help="random draws")
    parser.add_argument("--selectors", nargs="*", default=list(SELECTORS))
    parser.add_argument(
        "--published", type=Path, nargs=2, help="WSISum's h5 files: candidates, and its summary of them"
    )
    parser.add_argument("--table", type=Path, nargs="*", help="nothing is measured: fidelity.json of earlier runs")
    parser.add_argument("--rarity", type=int, default=0, help="trials of planted rarity")
    parser.add_argument("--among", type=int, default=10_000, help="patches that they are planted among")
    parser.add_argument("--rare", type=float, help="share of the kept patches for rare tissue")
    parser.add_argument("--begin", type=int, default=0, help="the first slide that is taken, by size")
    parser.add_argument("-o", "--output", type=Path, default=Path("fidelity"))
    options = parser.parse_args()
    paths = sorted(p for given in options.folders for p in ([given] if given.is_file() else given.glob("*.h5")))
    paths = [path for path in paths if not path.stem.endswith("_summary")]
    if not (paths or options.table or options.published):
        parser.error("no h5 files there; folders are not searched deeper")
    if options.rarity:
        found = plant(paths, options.rarity, options.selectors, options.rare, options.among)
        options.output.with_suffix(".rarity.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found, indent=1))
        return
    if options.table or options.published:
        earlier = [row for path in options.table or () for row in json.loads(path.read_text())]
        print(markdown(earlier) + points(earlier) if earlier else "")
        if options.published:
            cluster, summary = options.published
            print(published(cluster, summary, options.draws))
        return
    sized = sorted((len(read_slide(path)[0]), path) for path in paths)
    models = NO_MODELS
    if options.models:
        summarizer, encoder = (options.models / f"{name}.onnx" for name in ("summarizer", "slide_encoder"))
        named = frozenset({"summarizer", "slide_encoder"})
        models = SlideModels(load_summarizer(summarizer, "cpu"), load_slide_encoder(encoder, "cpu"), named)
    table: list[dict[str, object]] = []
    for size, path in [pair for pair in sized if pair[0] <= options.most][options.begin :: options.every]:
        start = time.perf_counter()
        with one_thread():
            table += measure_slide(path, models, options.draws, set(options.modelled), options.selectors)
        print(f"{path.stem}: {size} patches, {time.perf_counter() - start:.0f} s", flush=True)
        options.output.with_suffix(".json").write_text(json.dumps(table, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(markdown(table) + points(table))
    print(markdown(table) + points(table))


if __name__ == "__main__":
    main()
