"""How good patch encoders are, side by side: probes, retrieval, and what stain, JPEG, a turn and a shift do to them.

    python tests/benchmarks/encoder.py texture encoder untrained.onnx --lung lc25000-lung-dev.zip \\
        --tiles atlas-he-0.5mpp.zip -o encoders.json

An encoder is the name of a shipped one or an ONNX file with a card. Both ZIP files hold JPEG tiles and a
labels.csv: of the lung tiles `path, label, group_id`, of the others `path, slide, case, organ`. Every split is
by group or by case, and every interval is the 95 % one of 1,000 bootstrap draws of groups or cases. `--less`
adds paired differences of the figures of lung tiles. `--poses` compares these in 16 poses as well. `--magnifications`
measures how far the tiles of a photograph differ in magnification, and how often they are found by that.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from wsisum_cli.models.encoder import load_encoder

#: Rows of unit length: haematoxylin, eosin, what is left (Ruifrok and Johnston, 2001).
STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)
FOLDS, REPEATS, NEIGHBOURS, DRAWS = 5, 5, 20, 1000
SCALES = (0.8, 1.0, 1.25, 1.5)  # of a pose
TURNS = (0, 22.5, 45, 67.5)  # of a pose, degrees; quarter turns are measured by themselves
RATIOS = (1.0, 1.2, 1.4, 2.0)  # of the magnifications of two tiles, limits of the classes
FEWEST = 10  # points of a tile that must be found again in the other, lest the ratio be taken for unknown
JITTER_AMOUNT, JITTER_ADDED = 0.2, 0.02  # of each stain: relative, and in optical density ("HED-strong" is 0.2)


def read_tiles(path: Path) -> tuple[list[dict[str, str]], list[np.ndarray]]:
    """Rows of labels.csv and the pixels of each."""
    with zipfile.ZipFile(path) as archive:
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open("labels.csv"), "utf-8")))
        return rows, [simplejpeg.decode_jpeg(archive.read(row["path"])) for row in rows]


def enlarged(tile: np.ndarray, side: int) -> np.ndarray:
    return tile if tile.shape[0] == side else cv2.resize(tile, (side, side), interpolation=cv2.INTER_CUBIC)


def encode(encoder, tiles: list[np.ndarray]) -> np.ndarray:
    side = encoder.card.patch_size
    return np.concatenate(
        [encoder(np.stack([enlarged(t, side) for t in tiles[i : i + 64]])) for i in range(0, len(tiles), 64)]
    )


def colour_statistics(tiles: list[np.ndarray]) -> np.ndarray:
    """27 plain statistics: mean, standard deviation and seven percentiles of R, G and B."""
    points = (1, 5, 25, 50, 75, 95, 99)
    flat = [tile.reshape(-1, 3) for tile in tiles]
    return np.array([np.r_[t.mean(0), t.std(0), np.percentile(t, points, 0).ravel()] for t in flat])


def units(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def interval(values: np.ndarray, owner: np.ndarray, what: Callable[[np.ndarray], float] = np.mean) -> list[float]:
    """Value and 95 % interval over draws of owners (groups, cases)."""
    rng = np.random.default_rng(0)
    names, inverse = np.unique(owner, return_inverse=True)
    rows = [np.flatnonzero(inverse == k) for k in range(len(names))]
    drawn = [
        what(values[np.concatenate([rows[k] for k in rng.integers(0, len(rows), len(rows))])]) for _ in range(DRAWS)
    ]
    return [round(float(v), 4) for v in (what(values), *np.percentile(drawn, [2.5, 97.5]))]


def probe(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of wrong answers of each tile: logistic regression (C = 1), and 20 nearest neighbours."""
    linear, near = np.zeros((2, len(labels)))
    for repeat in range(REPEATS):
        for train, test in GroupKFold(FOLDS, shuffle=True, random_state=repeat).split(features, labels, groups):
            scaler = StandardScaler().fit(features[train])
            fit, candidate_rows = scaler.transform(features[train]), scaler.transform(features[test])
            model = LogisticRegression(max_iter=2000).fit(fit, labels[train])
            linear[test] += model.predict(candidate_rows) != labels[test]
            near[test] += vote(units(candidate_rows) @ units(fit).T, labels[train]) != labels[test]
    return linear / REPEATS, near / REPEATS


def vote(cosines: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The commonest label of the 20 nearest; the nearer one where two are as common."""
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
    answers = []
    for near in labels[order]:
        names, first, count = np.unique(near, return_index=True, return_counts=True)
        answers.append(names[np.lexsort((first, -count))[0]])
    return np.array(answers)


def lung(embed: Callable[[list[np.ndarray]], np.ndarray], path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Of each lung tile how far the probes err and whether its photograph is found, each (N,); and its group."""
    rows, tiles = read_tiles(path)
    labels, groups = np.array([row["label"] for row in rows]), np.array([row["group_id"] for row in rows])
    features = embed(tiles).astype(np.float64)
    linear, near = probe(features, labels, groups)
    centred = units(StandardScaler().fit_transform(features))
    found = found_again(centred @ centred.T, groups).astype(float)
    return {"linear probe error": linear, "20-NN error": near, "recall@1 of the same photograph": found}, groups


def recall(cosines: np.ndarray, groups: np.ndarray) -> list[float]:
    """How often the nearest other tile is of the same group."""
    return interval(found_again(cosines, groups), groups)


def found_again(cosines: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Whether the nearest other tile of each is of its group, (N,)."""
    np.fill_diagonal(cosines, -np.inf)
    return groups[cosines.argmax(axis=1)] == groups


def posed(tile: np.ndarray, scale: float, degrees: float) -> np.ndarray:
    """The tile turned about its middle and magnified; beyond its edge it goes on mirrored."""
    side = len(tile)
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, scale)
    return cv2.warpAffine(tile, turn, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def recall_by_poses(embed: Callable[[list[np.ndarray]], np.ndarray], path: Path) -> dict[str, list[float]]:
    """Recall of the mean of each tile's features over poses, and of the pose of another tile that is nearest to it."""
    rows, tiles = read_tiles(path)
    groups = np.array([row["group_id"] for row in rows])
    poses = [embed([posed(tile, scale, turn) for tile in tiles]) for scale in SCALES for turn in TURNS]
    features = embed(tiles)
    scaler = StandardScaler().fit(features)
    upright = units(scaler.transform(features))
    nearest = np.max([upright @ units(scaler.transform(pose)).T for pose in poses], axis=0)
    mean = units(StandardScaler().fit_transform(np.mean(poses, axis=0)))
    return {
        "recall@1, mean of 16 poses": recall(mean @ mean.T, groups),
        "recall@1, nearest of 16 poses": recall(np.maximum(nearest, nearest.T), groups),
    }


def magnification_ratios(tiles: list[np.ndarray], groups: np.ndarray) -> np.ndarray:
    """How much larger the one tile of a photograph shows things than the other, (N,), 1 or more; NaN where unknown.

    By points that are found again (SIFT; Lowe, 2004), which a turn, a mirror and a scale bring upon one another.
    """
    finder, matcher = cv2.SIFT.create(2000), cv2.BFMatcher()

    def points(tile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        grey = cv2.cvtColor(enlarged(tile, 2 * len(tile)), cv2.COLOR_RGB2GRAY)
        found, about = finder.detectAndCompute(grey, None)
        return np.array([point.pt for point in found], np.float32), about

    ratios = np.full(len(tiles), np.nan)
    for group in np.unique(groups):
        first, second = np.flatnonzero(groups == group)[:2]
        (at, about), most = points(tiles[first]), FEWEST - 1
        for other in (tiles[second], np.ascontiguousarray(tiles[second][:, ::-1])):
            there, like = points(other)
            near = [a for a, b in matcher.knnMatch(about, like, k=2) if a.distance < 0.8 * b.distance]
            if len(near) < FEWEST:
                continue
            pairs = at[[m.queryIdx for m in near]], there[[m.trainIdx for m in near]]
            turn, fits = cv2.estimateAffinePartial2D(*pairs, ransacReprojThreshold=4)
            scale = 0.0 if turn is None else float(np.hypot(*turn[0, :2]))
            if scale > 0 and fits.sum() > most:
                most = int(fits.sum())
                ratios[[first, second]] = max(scale, 1 / scale)
    return ratios


def recall_by_magnification(
    embed: Callable[[list[np.ndarray]], np.ndarray], path: Path, ratios: np.ndarray
) -> dict[str, list[float]]:
    """Recall of tiles whose other tile is magnified otherwise by so much."""
    rows, tiles = read_tiles(path)
    groups = np.array([row["group_id"] for row in rows])
    centred = units(StandardScaler().fit_transform(embed(tiles)))
    found = found_again(centred @ centred.T, groups)
    return {
        f"recall@1, {low} to {high} times magnified ({which.sum()} tiles)": interval(found[which], groups[which])
        for low, high in pairwise(RATIOS)
        for which in [(ratios >= low) & (ratios < high)]
    }


def organs(features: np.ndarray, rows: list[dict[str, str]]) -> dict[str, list[float]]:
    """Leaving a case out: does the nearest tile, or the vote of 20, tell the organ? Organs of two cases or more."""
    organ, case = np.array([row["organ"] for row in rows]), np.array([row["case"] for row in rows])
    cases = {name: len(set(case[organ == name])) for name in set(organ)}
    known = np.array([cases[name] > 1 and name != "unknown" for name in organ])
    organ, case, centred = organ[known], case[known], units(StandardScaler().fit_transform(features)[known])
    first, voted = np.zeros((2, len(organ)))
    for name in sorted(set(case)):
        left, rest = case == name, case != name
        cosines = centred[left] @ centred[rest].T
        first[left] = organ[rest][cosines.argmax(axis=1)] == organ[left]
        voted[left] = vote(cosines, organ[rest]) == organ[left]
    return {"organ of the nearest tile": interval(first, case), "organ by 20-NN": interval(voted, case)}


def jittered(tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    density = -np.log(np.maximum(tile, 1) / 255)
    amount = rng.uniform(1 - JITTER_AMOUNT, 1 + JITTER_AMOUNT, 3)
    stains = density @ np.linalg.inv(STAINS) * amount + rng.uniform(-JITTER_ADDED, JITTER_ADDED, 3)
    return np.clip(np.exp(-stains @ STAINS) * 255 + 0.5, 0, 255).astype(np.uint8)


def recompressed(tile: np.ndarray) -> np.ndarray:
    return simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(np.ascontiguousarray(tile), 50))


def robustness(embed: Callable[[list[np.ndarray]], np.ndarray], path: Path) -> dict[str, list[float]]:
    """Cosines of a tile with itself changed, and the 99th percentile of those of two tiles of one slide."""
    rows, tiles = read_tiles(path)
    case, slide = (np.array([row[key] for row in rows]) for key in ("case", "slide"))
    slide = np.char.add(np.char.add(case, "/"), slide)
    features = embed(tiles)
    rng = np.random.default_rng(0)
    changed = {
        "stain jitter": embed([jittered(tile, rng) for tile in tiles]),
        "JPEG quality 50": embed([recompressed(tile) for tile in tiles]),
        "quarter turn": embed([np.ascontiguousarray(np.rot90(tile)) for tile in tiles]),
    }
    # A tile shows nothing beyond its edge: two windows of three quarters of it, a quarter of a window apart.
    left, right = embed([tile[:192, :192] for tile in tiles]), embed([tile[:192, 48:240] for tile in tiles])
    own = {name: (units(features) * units(values)).sum(1) for name, values in changed.items()}
    own["quarter-tile shift"] = (units(left) * units(right)).sum(1)
    cosines: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    for name in sorted(set(slide)):
        of = units(features[slide == name])
        pairs = (of @ of.T)[np.triu_indices(len(of), 1)]
        cosines.append(pairs)
        owners.append(np.full(len(pairs), name.split("/")[0]))
    between, owner = np.concatenate(cosines), np.concatenate(owners)
    found = {f"cosine after {name}, median": interval(values, case, np.median) for name, values in own.items()}
    found["cosine after stain jitter, 5th percentile"] = interval(
        own["stain jitter"], case, lambda v: np.percentile(v, 5)
    )
    threshold = np.percentile(between, 99)
    found["cosine of two tiles of a slide, 99th percentile"] = interval(between, owner, lambda v: np.percentile(v, 99))
    found["share of tiles whose stain-jitter cosine is above it"] = interval(own["stain jitter"] > threshold, case)
    return found | organs(features, rows)


def markdown(table: dict[str, dict[str, list[float]]]) -> str:
    names = list(table)
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for key in dict.fromkeys(key for column in table.values() for key in column):
        cells = [table[name].get(key) for name in names]
        shown = [f"{c[0]:.3f} ({c[1]:.3f} to {c[2]:.3f})" if c else "" for c in cells]
        lines.append(f"| {key} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", help="name of a shipped encoder, or ONNX file")
    parser.add_argument("--lung", type=Path)
    parser.add_argument("--tiles", type=Path)
    parser.add_argument("--less", help="one of the encoders, from which later ones are subtracted tile by tile")
    parser.add_argument("--poses", action="store_true")
    parser.add_argument("--magnifications", action="store_true")
    parser.add_argument("-o", "--output", type=Path, help="the same figures as JSON")
    options = parser.parse_args()
    if options.less not in (None, *options.encoders):
        parser.error(f"--less: expected one of {', '.join(options.encoders)}, found {options.less}")

    embedders: dict[str, Callable[[list[np.ndarray]], np.ndarray]] = {"colour statistics": colour_statistics}
    for name in options.encoders:
        encoder = load_encoder(name, "cpu")
        embedders[name] = partial(encode, encoder)
    table: dict[str, dict[str, list[float]]] = {}
    answers: dict[str, dict[str, np.ndarray]] = {}
    ratios = None
    if options.lung and options.magnifications:
        rows, tiles = read_tiles(options.lung)
        ratios = magnification_ratios(tiles, np.array([row["group_id"] for row in rows]))
    for name, embed in embedders.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        table[name] = {}
        if options.lung:
            answers[name], groups = lung(embed, options.lung)
            table[name] |= {key: interval(values, groups) for key, values in answers[name].items()}
        if options.lung and options.less in answers:
            apart = {key: values - answers[options.less][key] for key, values in answers[name].items()}
            table[name] |= {f"{key}, less {options.less}": interval(apart[key], groups) for key in apart}
        if options.lung and options.poses:
            table[name] |= recall_by_poses(embed, options.lung)
        if ratios is not None:
            table[name] |= recall_by_magnification(embed, options.lung, ratios)
        if options.tiles:
            table[name] |= robustness(embed, options.tiles)
    print(markdown(table))
    if options.output:
        options.output.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
