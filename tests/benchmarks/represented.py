"""From which likeness on is tissue represented: what is lost at each level, by every threshold that was considered.

    python tests/benchmarks/represented.py --features encoder=FOLDER ctranspath=FOLDER conch=FILE \\
        --lung lc25000-lung-dev.zip --organs atlas-he-0.5mpp.zip --work represented

A FOLDER holds an h5 of patch features for each slide (`wsisum features`); names that differ in the part behind `-HE`
are slides of one case. Trials, by encoder: regions of other cases planted in a slide, clusters of a slide, and
pseudo-slides cut from the tiles of two ZIPs (`encoder.py` says how these look). In each, patches are kept by `wsisum`,
at random, and by two poor selectors: those nearest to the mean, and those in a corner. A class is lost as long as none
of its patches is kept. Printed, and written as markdown into --work: how far the level at which a class is lost varies,
by threshold; what is lost at each level; what a classifier loses; what K patches represent of each slide, beside
random draws; and the verdicts that limits on it give. Features and trials are kept in --work and read from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from likeness_trials import (
    CHOSEN,
    GRID,
    LEVELS,
    PATCH_UM,
    VERDICTS,
    LabelledSlide,
    Photographs,
    answer,
    best_cosines,
    clustered,
    dots,
    largest,
    level_of,
    load_slide,
    measure,
    mixed,
    orders,
    pairs,
    photographs,
    planted,
    told_apart,
    unit_rows,
)
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from wsisum_cli.features.vectors import one_thread

KEEP = (1, 8, 16, 32, 64, 128)
BANDS = {"1 %": (0.0075, 0.015), "2 %": (0.015, 0.035), "5 %": (0.035, 0.09)}
MM2 = 1e-6
PLANTED_MM2, FEW_LOST = (0.1, 0.3, 0.8, 1.5), 5
AREA_LIMITS = ((0.25, 2.5), (0.5, 5.0), (1.0, 10.0), (2.0, 20.0))
DRAWS, AREA_DRAWS, RESAMPLED, FEWEST = 30, 5, 200, 15
LOST = 0.2  # share of trials in which a class is lost, at which levels are compared
MOST_VARIANTS = 8

Row = dict
T = TypeVar("T")
Slides = dict[str, list[LabelledSlide]]


# Trials --------------------------------------------------------------------------------------------------------------


def contexts(
    slides: Slides, lung: dict[str, Photographs], organs: dict[str, Photographs]
) -> Iterator[tuple[str, Iterable]]:
    for encoder, of in slides.items():
        yield f"clusters, {encoder}", clustered(of)
        if len(of) > 2:
            yield f"planted, {encoder}", planted(of, 2 if len(of) > 10 else 6)
    for encoder, photos in lung.items():
        yield f"lung, {encoder}", mixed(photos, 30)
    for encoder, photos in organs.items():
        yield f"organs, {encoder}", mixed(photos, 30)


def trials(slides: Slides, lung: dict[str, Photographs], organs: dict[str, Photographs], work: Path) -> list[Row]:
    found: list[Row] = []
    for context, many in contexts(slides, lung, organs):
        cache = work / f"trials.{context.replace(', ', '.')}.json"
        if not cache.exists():
            rows = [row for slide in many for row in measure(context, slide)]
            cache.write_text(json.dumps(rows))
        found += json.loads(cache.read_text())
        print(f"{context}: {len(found)} trials", flush=True)
    return found


class Trials:
    """Columns of the trials."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.context, self.selector, self.slide = (
            np.array([r[k] for r in rows]) for k in ("context", "selector", "slide")
        )
        self.share = np.array([row["share"] for row in rows])
        self.kept_at = np.array([row["kept_at"] or np.inf for row in rows])
        both = np.char.add(np.char.add(self.context, "/"), self.selector)
        self.both = np.unique(both, return_inverse=True)[1]  # numbers are compared faster than text
        self.encoder = np.array([name.split(", ")[1] for name in self.context])
        self.task = np.array([name.split(", ")[0] for name in self.context])

    def band(self, name: str) -> np.ndarray:
        low, high = BANDS[name]
        return (self.share >= low) & (self.share < high)

    def lost_until(self, yardstick: str) -> np.ndarray:
        """(T,) the most that is represented while the class is lost; NaN where the yardstick needs pixels."""
        return np.array([row["while_lost"].get(yardstick, np.nan) for row in self.rows])


def spread(values: np.ndarray, groups: np.ndarray) -> float:
    """Spread over groups of the unrepresented share at which `LOST` of the classes are lost: exp of the SD of log."""
    levels = []
    for name in np.unique(groups):
        of = values[(groups == name) & ~np.isnan(values)]
        if len(of) >= FEWEST:
            levels.append(max(1 - np.quantile(of, 1 - LOST), 0.002))
    return float(np.exp(np.std(np.log(levels)))) if len(levels) > 1 else float("nan")


def skill(found: Trials, yardstick: str, band: np.ndarray) -> float:
    """How well loss is foretold in a context from the others: 1 - Brier score over that of their mean."""
    rows, grid = np.flatnonzero(band), [k for k in GRID if 4 <= k <= 128]
    values, lost, contexts = [], [], []
    for row in rows:
        curve = found.rows[row]["curves"].get(yardstick)
        for k in [] if curve is None else grid:
            if GRID.index(k) < len(curve):
                values.append(curve[GRID.index(k)])
                lost.append(found.kept_at[row] > k)
                contexts.append(found.context[row])
    x, y, of = np.array(values), np.array(lost, float), np.array(contexts)
    error, usual = [], []
    for name in np.unique(of):
        there, rest = of == name, of != name
        if not rest.any():
            return float("nan")
        weight = 1 / np.array([np.sum(of == other) for other in of[rest]])
        fit = IsotonicRegression(increasing=False, out_of_bounds="clip").fit(x[rest], y[rest], weight)
        error.append(np.mean((fit.predict(x[there]) - y[there]) ** 2))
        usual.append(np.mean((np.average(y[rest], weights=weight) - y[there]) ** 2))
    return 1 - float(np.mean(error) / np.mean(usual))


def yardstick_table(found: Trials) -> list[str]:
    """For each threshold: how alike its level of loss is, and how well it tells a class of which one is kept."""
    heads = ["threshold"] + [
        f"{name}: {band}" for name in ("contexts x selectors", "selectors", "encoders") for band in BANDS
    ]
    heads += ["foretold", "of a lost class", "of a kept class"]
    lines = row_of(heads, True)
    for name in found.rows[-1]["while_lost"]:
        until, cells = found.lost_until(name), []
        for groups in (found.both, found.selector, found.encoder):
            cells += [f"{spread(until[found.band(b)], groups[found.band(b)]):.2f}" for b in BANDS]
        cells.append(f"{np.nanmean([skill(found, name, found.band(b)) for b in BANDS]):.2f}")
        for what in ("comfort", "served"):
            values = [
                row[what][name] for row in found.rows if name in row[what] and row["kept_at"] and row["share"] >= 0.0075
            ]
            cells.append(f"{np.mean(values):.2f}" if values else "")
        lines += row_of([name, *cells])
    return lines


def spread_interval(found: Trials, one: str, other: str) -> str:
    """Paired difference of two thresholds' spread over contexts and selectors, over draws of slides."""
    rng, cells = np.random.default_rng(0), []
    a, b = found.lost_until(one), found.lost_until(other)
    names, owner = np.unique(np.char.add(found.context, found.slide), return_inverse=True)
    members = [np.flatnonzero(owner == number) for number in range(len(names))]
    for band in BANDS:
        apart = []
        for _ in range(RESAMPLED):
            rows = np.concatenate([members[k] for k in rng.integers(0, len(names), len(names))])
            rows = rows[found.band(band)[rows]]
            apart.append(spread(b[rows], found.both[rows]) - spread(a[rows], found.both[rows]))
        low, high = np.percentile(apart, (2.5, 97.5))
        cells.append(f"{band}: {low:+.2f} to {high:+.2f}")
    return f"- {other} less {one}: " + "; ".join(cells)


def lost_table(found: Trials, yardstick: str) -> list[str]:
    """Share of the trials in which a class was still lost when a level was first reached; by context in brackets."""
    kinds = {"`wsisum`": ["wsisum"], "random": ["random"], "poor": ["mean", "corner"]}
    lines = row_of(["represented", *[f"{kind}, {band}" for kind in kinds for band in BANDS]], True)
    until = found.lost_until(yardstick)
    for level in LEVELS:
        cells = []
        for chosen in kinds.values():
            for band in BANDS:
                rows = found.band(band) & np.isin(found.selector, chosen)
                shares = [np.mean(until[rows & (found.context == c)] >= level) for c in np.unique(found.context[rows])]
                cells.append(f"{np.mean(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})")
        lines += row_of([f"{level:.2f}", *cells])
    return lines


def gap_table(found: Trials) -> list[str]:
    """Planted tissue that is lost when a level is first reached: the largest gap then, as a share of its area."""
    heads = ["planted, mm²", "trials", "lost", "5th percentile", "median", "half of it", "all of it"]
    lines = row_of(["represented", *heads], True)
    for number, level in enumerate(LEVELS):
        for low, high in pairwise(PLANTED_MM2):
            gaps = planted_gaps(found, number, low, high)
            lost = np.array([gap for gap in gaps if gap is not None])
            cells = [f"{level:.2f}", f"{low:g} to {high:g}", str(len(gaps)), str(len(lost))]
            if len(lost) >= FEW_LOST:
                cells += [f"{value:.2f}" for value in (*np.percentile(lost, (5, 50)), *shares_of(lost, (0.5, 1.0)))]
            lines += row_of(cells + [""] * (1 + len(heads) - len(cells)))
    return lines


def planted_gaps(found: Trials, number: int, low: float, high: float) -> list[float | None]:
    """For each planted region of `low` to `high` mm²: the largest gap over its area, None where one of it is kept."""
    gaps: list[float | None] = []
    for row in found.rows:
        area = row["share"] * row["patches"] * PATCH_UM**2 * MM2
        if row["context"].startswith("planted") and low <= area < high and len(row["regions"]) > number:
            keep, gap = row["regions"][number]
            gaps.append(gap / area if (row["kept_at"] or np.inf) > keep else None)
    return gaps


def shares_of(values: np.ndarray, limits: tuple[float, ...]) -> list[float]:
    """Share of the values that reach each limit."""
    return [float((values >= limit).mean()) for limit in limits]


# What a classifier loses ---------------------------------------------------------------------------------------------


def classify(photos: Photographs, repeats: int = 10) -> list[Row]:
    """By selector and K the AUC of one tumour against the other, from the kept patches weighted by counts."""
    slides = list(told_apart(photos))
    y, cases = (
        np.array([slide.label for slide in slides]) == slides[0].label,
        np.array([slide.case for slide in slides]),
    )
    whole = np.array([slide.features.mean(axis=0, dtype=np.float64) for slide in slides])
    kept: dict[tuple[str, int], list[np.ndarray]] = {}
    shown: dict[tuple[str, int], list[float]] = {}
    for number, slide in enumerate(slides):
        level = level_of(slide)
        for selector, order in orders(slide, ("wsisum", "random", "mean", "corner"), number):
            similarity = unit_rows(slide.features[order]) @ unit_rows(slide.features).T
            for k in (2, 4, 8, 16, 32, 64, 128):
                counts = np.bincount(similarity[:k].argmax(axis=0), minlength=k)
                kept.setdefault((selector, k), []).append(counts @ slide.features[order[:k]] / counts.sum())
                shown.setdefault((selector, k), []).append(float((similarity[:k].max(axis=0) >= level).mean()))
    full = auc(whole, y, cases, repeats)
    return [
        {
            "selector": name,
            "keep": k,
            "represented": shown[name, k],
            "auc": auc(np.array(means), y, cases, repeats),
            "all": full,
        }
        for (name, k), means in kept.items()
    ]


def auc(bags: np.ndarray, y: np.ndarray, cases: np.ndarray, repeats: int) -> float:
    """Logistic regression on (S, D), one row a slide, trained on other cases."""
    scores = np.zeros(len(y))
    for repeat in range(repeats):
        for rest, there in GroupKFold(5, shuffle=True, random_state=repeat).split(bags, y, cases):
            scaler = StandardScaler().fit(bags[rest])
            model = LogisticRegression(max_iter=2000).fit(scaler.transform(bags[rest]), y[rest])
            scores[there] += model.decision_function(scaler.transform(bags[there]))
    return float(roc_auc_score(y, scores))


def auc_table(found: dict[str, list[Row]]) -> list[str]:
    """Drop in AUC of selectors and K, by how much they represent on average over the pseudo-slides."""
    edges = (0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.001)
    lines = row_of(
        ["represented, mean of slides", *[f"{name} (all: {rows[0]['all']:.3f})" for name, rows in found.items()]], True
    )
    for low, high in pairwise(edges):
        cells = []
        for rows in found.values():
            of = [row["auc"] - row["all"] for row in rows if low <= np.mean(row["represented"]) < high]
            cells.append(f"{np.mean(of):+.3f} ({min(of):+.3f}; {len(of)})" if of else "")
        lines += row_of([f"{low:g} to {min(high, 1):g}", *cells])
    return lines


# What K patches represent --------------------------------------------------------------------------------------------


def whole_slide(slide: LabelledSlide) -> Row:
    """For every K of `wsisum` and of random draws what is represented, and the largest region that is not, in mm²."""
    level = level_of(slide)
    ours = best_cosines(slide.features, dict(orders(slide, ("wsisum",), 0))["wsisum"])
    keeps = [k for k in KEEP if k <= len(ours)]
    row: Row = {
        "slide": slide.name,
        "patches": len(slide.features),
        "keep": keeps,
        "wsisum": [],
        "random": [],
        "chance": 0.0,
    }
    row |= {"largest": [], "random_largest": [], "level": float(level), "better_than_chance": better_than_chance(slide)}
    row["curve"] = (ours >= level).mean(axis=1).tolist()
    rng = np.random.default_rng(1)
    draws = [best_cosines(slide.features, rng.permutation(len(slide.features))[: keeps[-1]]) for _ in range(DRAWS)]
    for k in keeps:
        row["wsisum"].append(float((ours[k - 1] >= level).mean()))
        row["random"].append([float((draw[k - 1] >= level).mean()) for draw in draws])
        row["largest"].append(largest(slide, ours[k - 1], level))
        row["random_largest"].append([largest(slide, draw[k - 1], level) for draw in draws[:AREA_DRAWS]])
    return row


def better_than_chance(slide: LabelledSlide) -> float:
    """How often an adjacent pair is more alike than a random one; 0.5 for an encoder that tells nothing."""
    units = unit_rows(slide.features).astype(np.float32)
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, len(units), (2, 10_000))
    random, near = dots(units, first, second)[first != second], dots(units, *pairs(slide.places))
    return float(roc_auc_score(np.r_[np.ones(len(near)), np.zeros(len(random))], np.r_[near, random]))


def keep_table(rows: list[Row]) -> list[str]:
    lines = row_of(["slide", "patches", *[f"K = {k}" for k in KEEP], "K for 95 %", "mm² at K = 64"], True)
    for row in rows:
        cells = [f"{w:.2f} ({np.mean(r):.2f})" for w, r in zip(row["wsisum"], row["random"], strict=True)]
        enough = np.flatnonzero(np.array(row["curve"]) >= 0.95)
        cells += [""] * (len(KEEP) - len(cells)) + [str(enough[0] + 1) if len(enough) else f"> {len(row['curve'])}"]
        cells.append(f"{row['largest'][row['keep'].index(64)]:.2f}" if 64 in row["keep"] else "")
        lines += row_of([row["slide"][:40], str(row["patches"]), *cells])
    return lines


def verdict_table(rows: list[Row]) -> list[str]:
    """Verdicts by represented tissue and its largest gap, over slides; of random draws over slides and draws."""
    heads = [f"{kind} {name}" for kind in ("`wsisum`", "random") for name in VERDICTS]
    lines = row_of(["K", *heads, "draws with a better verdict", "by share alone"], True)
    for k in KEEP:
        those = [(row, row["keep"].index(k)) for row in rows if k in row["keep"]]
        ours, drawn = judged_at(those, AREA_DRAWS)
        alone, many = judged_at([(row | {"largest": None}, at) for row, at in those], DRAWS)
        flat = [name for names in drawn for name in names]
        cells = [f"{ours.count(name)} of {len(ours)}" for name in VERDICTS]
        cells += [f"{flat.count(name) / len(flat):.2f}" for name in VERDICTS]
        lines += row_of([str(k), *cells, better_of(ours, drawn), better_of(alone, many)])
    return lines


def judged_at(those: list[tuple[Row, int]], draws: int) -> tuple[list[str], list[list[str]]]:
    """The verdict on `wsisum` (S,) and on random draws (S, `draws`), each for a slide and the place of K."""
    ours, drawn = [], []
    for row, at in those:
        area, areas = (row["largest"][at], row["random_largest"][at]) if row["largest"] else (0.0, [0.0] * DRAWS)
        ours.append(answer(row["wsisum"][at], area))
        drawn.append([answer(*pair) for pair in zip(row["random"][at][:draws], areas[:draws], strict=True)])
    return ours, drawn


def better_of(ours: list[str], drawn: list[list[str]]) -> str:
    """How many draws have a better verdict than `wsisum`."""
    better = [VERDICTS.index(d) < VERDICTS.index(o) for o, many in zip(ours, drawn, strict=True) for d in many]
    return f"{sum(better)} of {len(better)}"


def limit_table(rows: list[Row]) -> list[str]:
    """How many verdicts on `wsisum` limits on the largest gap change, over slides and K."""
    lines = row_of(["largest gap at most, mm²: PASS, not FAIL", "PASS to REVIEW", "REVIEW to FAIL"], True)
    every = [pair for row in rows for pair in zip(row["wsisum"], row["largest"], strict=True)]
    passed = [area for share, area in every if answer(share) == "PASS"]
    review = [area for share, area in every if answer(share) == "REVIEW"]
    for passes, fails in AREA_LIMITS:
        cells = [
            f"{sum(area > limit for area in areas)} of {len(areas)}"
            for limit, areas in ((passes, passed), (fails, review))
        ]
        lines += row_of([f"{passes:g}, {fails:g}", *cells])
    return lines


def region_table(rows: list[Row]) -> list[str]:
    """Largest unrepresented region by what is represented, over slides and K."""
    lines = row_of(
        ["represented", "slides and K", "median mm²", "90th percentile", "largest", "share of all unrepresented"], True
    )
    for low, high in ((0.7, 0.8), (0.8, 0.9), (0.9, 0.95), (0.95, 0.98), (0.98, 1.01)):
        found = [
            (area, area / max(1 - share, 1e-9) / (row["patches"] * PATCH_UM**2 * MM2))
            for row in rows
            for share, area in zip(row["wsisum"], row["largest"], strict=True)
            if low <= share < high and share < 1
        ]
        if found:
            area, part = np.array(found).T
            cells = [f"{v:.2f}" for v in (np.median(area), np.percentile(area, 90), area.max(), np.median(part))]
            lines += row_of([f"{low:g} to {min(high, 1):g}", str(len(area)), *cells])
    return lines


def row_of(cells: list[str], head: bool = False) -> list[str]:
    line = "| " + " | ".join(cells) + " |"
    return [line, "|---|" + "---:|" * (len(cells) - 1)] if head else [line]


def cached(path: Path, make: Callable[[], T]) -> T:
    if not path.exists():
        path.write_text(json.dumps(make()))
    found: T = json.loads(path.read_text())
    return found


def whole_slides(slides: Slides, work: Path) -> list[Row]:
    found = []
    for encoder, of in slides.items():
        for slide in of:
            row = cached(work / f"slide.{encoder}.{slide.name}.json", partial(whole_slide, slide))
            found.append(row | {"encoder": encoder})
            print(f"{slide.name}: {row['wsisum']}", flush=True)
    return found


def single(photos: Photographs) -> Photographs:
    """Each photograph once, unturned."""
    altered = {how: values[::MOST_VARIANTS] for how, values in photos.altered.items()}
    return Photographs(
        photos.features[::MOST_VARIANTS], altered, photos.labels[::MOST_VARIANTS], photos.groups[::MOST_VARIANTS]
    )


def read_features(given: list[str]) -> Slides:
    found: Slides = {}
    for text in given:
        name, _, place = text.partition("=")
        path = Path(place)
        files = [path] if path.is_file() else sorted(path.rglob("*.h5"))
        found.setdefault(name, []).extend(load_slide(file) for file in files)
    return {name: sorted(of, key=lambda slide: len(slide.features)) for name, of in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", nargs="+", default=[], help="ENCODER=FOLDER or ENCODER=FILE, of h5 files")
    parser.add_argument("--lung", type=Path, required=True, help="ZIP of tiles: path, label, group_id")
    parser.add_argument("--organs", type=Path, required=True, help="ZIP of tiles: path, organ, case")
    parser.add_argument("--encoders", nargs="*", default=["encoder", "texture"], help="that encode the tiles")
    parser.add_argument("--work", type=Path, default=Path("represented"))
    options = parser.parse_args()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    slides = read_features(options.features)
    lung = {
        name: photographs(options.lung, name, "label", "group_id", MOST_VARIANTS, work) for name in options.encoders
    }
    organs = {name: photographs(options.organs, name, "organ", "case", 1, work) for name in options.encoders}
    with one_thread():
        found = Trials(trials(slides, {name: single(photos) for name, photos in lung.items()}, organs, work))
        judged = {name: cached(work / f"auc.{name}.json", partial(classify, photos)) for name, photos in lung.items()}
        rows = whole_slides(slides, work)
    lines = [f"{len(found.rows)} trials on {len(set(found.slide))} slides", "", *yardstick_table(found), ""]
    lines += [
        spread_interval(found, CHOSEN, name)
        for name in ("lower quartile", "0.5 of the way", "0.7 of the way", "fixed 0.8")
    ]
    lines += ["", *lost_table(found, CHOSEN), "", *gap_table(found), "", *auc_table(judged), "", *keep_table(rows)]
    lines += ["", *verdict_table(rows), "", *region_table(rows), "", *limit_table(rows), ""]
    least = min(rows, key=lambda row: row["better_than_chance"])
    lines.append(
        "An adjacent pair is more alike than a random one in at least "
        f"{least['better_than_chance']:.2f} ({least['slide']})."
    )
    (work / "tables.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
