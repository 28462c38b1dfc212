"""Slides found by their embedding, against plain mean pooling of the patch features.

    python tests/benchmarks/slide_encoder.py slide_encoder.onnx --features DIR --slides slides.csv -o slides.json

DIR holds an h5 of patch features for each slide. slides.csv has the columns slide (name of the h5), case, organ, or
repo, dzi, organ as the list of training slides has, where the repository is the case. Each slide is compared with all
others by cosine, and by how well their prototypes match:

- same case: slides of cases with several; does the nearest slide have the same case?
- same organ: slides of organs with several cases; slides of its own case left out, has the nearest the same organ?

Recall of the first and mean average precision, with 95 % intervals of 10,000 bootstrap draws of cases; differences to
mean pooling are paired. Mean pooling comes raw, with features standardised over the patches of all slides, and with
slide means standardised over slides. Learning saw these slides, but neither case nor organ.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsisum_cli.features.h5 import read_feature_file
from wsisum_cli.models.slide_encoder import load_slide_encoder
from wsisum_cli.training.data import in_patch_sides
from wsisum_cli.training.slide_encoder.prototypes import match_prototypes

DRAWS = 10_000
BASELINE = "mean pooling"
UNKNOWN = ("", "unknown")


@dataclass(frozen=True)
class Labels:
    slide: np.ndarray  # (S,)
    case: np.ndarray
    organ: np.ndarray


def read_labels(path: Path) -> Labels:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if rows and "repo" in rows[0]:
        named = [(row["repo"].replace("/", "+") + "__" + row["dzi"], row["repo"], row["organ"]) for row in rows]
    else:
        named = [(row["slide"], row["case"], row["organ"]) for row in rows]
    return Labels(*(np.array(column) for column in zip(*sorted(named), strict=True)))


def compare(model: Path, folder: Path, slides: list[str]) -> dict[str, np.ndarray]:
    """(S, S) similarity of the slides by each way."""
    encoder = load_slide_encoder(model, "cpu")
    learned, prototypes, means, squares = [], [], [], []
    for name in slides:
        file = read_feature_file(folder / f"{name}.h5", encoder.card.dims)
        found = encoder(file.features, in_patch_sides(file.coords, file.patch_size_level0), 1)
        learned.append(found.embedding)
        prototypes.append(found.prototypes)
        means.append(file.features.mean(axis=0, dtype=np.float64))
        squares.append(np.square(file.features, dtype=np.float64).mean(axis=0))
    mean = np.mean(means, axis=0)
    deviation = np.sqrt(np.maximum(np.mean(squares, axis=0) - mean**2, 1e-12))
    embeddings = {
        BASELINE: np.stack(means),
        "mean pooling, standardised over patches": (np.stack(means) - mean) / deviation,
        "mean pooling, standardised over slides": (np.stack(means) - mean) / np.maximum(np.std(means, axis=0), 1e-12),
        "slide encoder": np.stack(learned),
    }
    matched = [[match_prototypes(these, others).similarity for others in prototypes] for these in prototypes]
    return {way: cosines(vectors) for way, vectors in embeddings.items()} | {"prototypes": np.array(matched)}


def cosines(embeddings: np.ndarray) -> np.ndarray:
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ unit.T


def retrieve(similarity: np.ndarray, wanted: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the first is wanted, and average precision, of each of (Q, S) queries; only `allowed` slides count."""
    first, precision = [], []
    for query in range(len(similarity)):
        order = np.argsort(-similarity[query], kind="stable")
        hits = wanted[query, order[allowed[query, order]]]
        first.append(float(hits[0]))
        precision.append(float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()))
    return np.array(first), np.array(precision)


def tasks(labels: Labels) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of the queries (Q,), and which slides each wants and may find (Q, S)."""
    same_case = labels.case[:, None] == labels.case
    same_organ = (labels.organ[:, None] == labels.organ) & ~np.isin(labels.organ, UNKNOWN)
    other = ~np.eye(len(labels.slide), dtype=bool)
    found = {"same case": (same_case & other, other), "same organ, other case": (same_organ & ~same_case, ~same_case)}
    queries = {name: np.flatnonzero(wanted.any(axis=1)) for name, (wanted, _) in found.items()}
    return {
        name: (queries[name], *(part[queries[name]] for part in found[name])) for name in found if len(queries[name])
    }


def interval(values: np.ndarray, case: np.ndarray) -> list[float]:
    """Mean and its 95 % interval over draws of cases."""
    names, owner = np.unique(case, return_inverse=True)
    sums, counts = np.bincount(owner, values), np.bincount(owner)
    drawn = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [round(float(value), 4) for value in (values.mean(), *np.percentile(means, [2.5, 97.5]))]


def measure(similarities: dict[str, np.ndarray], labels: Labels) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Task and measure -> way -> figure, and its difference to the baseline, each with its interval."""
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for task, (queries, wanted, allowed) in tasks(labels).items():
        case = labels.case[queries]
        found = {way: retrieve(similarity[queries], wanted, allowed) for way, similarity in similarities.items()}
        for number, name in enumerate(("recall@1", "mAP")):
            row = f"{task} ({len(queries)} slides of {len(set(case))} cases), {name}"
            table[row] = {
                way: {"value": interval(both[number], case)}
                | ({} if way == BASELINE else {"difference": interval(both[number] - found[BASELINE][number], case)})
                for way, both in found.items()
            }
    return table


def markdown(table: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    ways = list(next(iter(table.values())))
    lines = ["| | " + " | ".join(ways) + " |", "|---|" + "---|" * len(ways)]
    for row, figures in table.items():
        cells = []
        for figure in figures.values():
            cell = "{:.3f} ({:.3f} to {:.3f})".format(*figure["value"])
            cell += "; {:+.3f} ({:+.3f} to {:+.3f})".format(*figure["difference"]) if "difference" in figure else ""
            cells.append(cell)
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="slide encoder, an ONNX file")
    parser.add_argument("--features", type=Path, required=True, help="folder of h5 files")
    parser.add_argument("--slides", type=Path, required=True, help="CSV of slide, case, organ")
    parser.add_argument("-o", "--output", type=Path, help="the same figures as JSON")
    options = parser.parse_args()
    labels = read_labels(options.slides)
    missing = [name for name in labels.slide if not (options.features / f"{name}.h5").is_file()]
    if missing:
        sys.exit(f"no features of {', '.join(missing[:5])}" + (" and others" if len(missing) > 5 else ""))
    table = measure(compare(options.model, options.features, labels.slide.tolist()), labels)
    print(markdown(table))
    if options.output:
        options.output.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
