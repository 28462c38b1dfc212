"""Masked patches reconstructed by a summarizer, against guesses that need no learning.

    python tests/benchmarks/summarizer.py RUN/summarizer.onnx --run RUN --features DIR -o summarizer.json

DIR holds an h5 of patch features for each slide. With --run, the folder that `wsisum train summarizer` wrote, only the
slides that it held out are measured: whole cases that no weight was fitted to, though they told which epoch was best,
on other draws. Without, all in DIR are, which must be others than it was trained on. Of each slide several draws of as
many candidates as the card says, one in eight visible (63 of 500), at random:

- cosine between masked patch features and their reconstruction, against (a) the mean of the visible features, (b)
  those of the nearest visible patch, (c) inverse-distance weights, and kriging by a Gaussian process: with the length
  and noise of the highest likelihood of the slide's visible patches, and, with --run, with those that serve the
  training slides best;
- cosine between the embedding of the visible patches and that of all candidates, against the embedding that (a) gives;
- with --slide-encoder, the target it was trained on: cosine between the embedding and that target, against what the
  slide encoder makes of (a), and of the visible patches alone.

Means over slides, with 95 % intervals of 10,000 bootstrap draws of cases; its lead is of the paired
differences.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.models.slide_encoder import SlideEncoder, load_slide_encoder
from wsisum_cli.models.summarizer import Summarizer, load_summarizer
from wsisum_cli.training.data import Cases, Draw, TrainingSlide, draw_candidates, find_files, read_slides
from wsisum_cli.training.summarizer.interpolation import BASELINES, Interpolate, kriging, mean_cosine
from wsisum_cli.training.summarizer.masking import visible_count

BOOTSTRAPS = 10_000
OWN = "summarizer"
KRIGING = "Gaussian process, fitted to training slides"
#: What kriging chooses from on the training slides: patch sides, and shares of variance.
LENGTHS = tuple(np.geomspace(1.5, 192, 15).tolist())
NOISES = (0.02, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
FEWEST_PATCHES = 8

Row = dict[str, float]


@dataclass(frozen=True)
class Archive:
    """The slides that are measured, those that were trained on, and the target, where they are known."""

    held_out: list[TrainingSlide]
    training: list[TrainingSlide]
    targets: dict[str, np.ndarray]


def read_archive(folder: Path, run: Path | None, slide_encoder: SlideEncoder | None) -> Archive:
    targets: dict[str, np.ndarray] = {}

    def visit(name: str, features: np.ndarray, coords: np.ndarray) -> None:
        if slide_encoder is not None:
            targets[name] = slide_encoder(features, coords, 1.0).embedding

    if run is None:
        slides = read_slides([folder], Cases(), visit=visit).slides
        return Archive([slide for slide in slides if len(slide.coords) >= FEWEST_PATCHES], [], targets)
    asked = json.loads((run / "configuration.json").read_text(encoding="utf-8"))
    seed = asked["options"]["settings"]["seed"]
    data = read_slides([folder], Cases(asked["cases"]), cache=run / "clusters", seed=seed, visit=visit)
    changed = [s.name for s in data.slides if {**asked["training"], **asked["held_out"]}.get(s.name) != s.sha256]
    if set(changed) - set(asked["left_out"]):
        sys.exit(f"{run.name}: these are not the features it was trained on ({', '.join(changed[:3])})")
    held_out = [slide for slide in data.slides if slide.name in asked["held_out"]]
    return Archive(held_out, [slide for slide in data.slides if slide.name in asked["training"]], targets)


def draw(slide: TrainingSlide, summarizer: Summarizer, seed: Sequence[int]) -> tuple[Draw, np.ndarray, np.ndarray]:
    """Candidates, and the rows of those that are visible, and masked."""
    rng = np.random.default_rng(seed)
    drawn = draw_candidates(slide, summarizer.card.candidates, rng)
    order = rng.permutation(len(drawn.rows))
    count = visible_count(len(order), 0.875)
    return drawn, np.sort(order[:count]), np.sort(order[count:])


def fit_kriging(slides: Sequence[TrainingSlide], summarizer: Summarizer) -> Interpolate:
    """The length and noise of the highest cosine over one draw of each training slide."""
    draws = [draw(slide, summarizer, (21, i)) for i, slide in enumerate(slides)]
    found: dict[tuple[float, float], float] = {}
    for length in LENGTHS:
        for noise in NOISES:
            guess = kriging(length, noise)
            cosines = [
                mean_cosine(
                    guess(d.features[kept].astype(np.float64), d.coords[kept], d.coords[masked]), d.features[masked]
                )
                for d, kept, masked in draws
            ]
            found[length, noise] = float(np.mean(cosines))
    best = max(found, key=lambda pair: found[pair])
    print(f"kriging on the training slides: length {best[0]:.3g} patch sides, noise {best[1]:g}", file=sys.stderr)
    return kriging(*best)


def reconstruct(
    drawn: Draw, kept: np.ndarray, masked: np.ndarray, summarizer: Summarizer, others: dict[str, Interpolate]
) -> Row:
    made = summarizer(drawn.features, drawn.coords, 1.0, kept[None])
    row = {OWN: mean_cosine(made.reconstruction[0, masked], drawn.features[masked])}
    visible, coords = drawn.features[kept].astype(np.float64), drawn.coords.astype(np.float64)
    for name, interpolate in others.items():
        row[name] = mean_cosine(interpolate(visible, coords[kept], coords[masked]), drawn.features[masked])
    return row


def embed(drawn: Draw, kept: np.ndarray, summarizer: Summarizer) -> Row:
    """Of the visible patches, and of as many copies of their mean, to that of all candidates."""
    every = np.arange(len(drawn.rows))
    mean = np.repeat(drawn.features[kept].mean(axis=0, keepdims=True), len(every), axis=0)
    whole = summarizer(drawn.features, drawn.coords, 1.0, every[None]).embedding
    visible = summarizer(drawn.features, drawn.coords, 1.0, kept[None]).embedding
    plain = summarizer(mean, drawn.coords, 1.0, kept[None]).embedding
    return {OWN: mean_cosine(visible, whole), "visible mean": mean_cosine(plain, whole)}


def reach(drawn: Draw, kept: np.ndarray, target: np.ndarray, summarizer: Summarizer, teacher: SlideEncoder) -> Row:
    """Of the visible patches by the summarizer, of their mean and of themselves by its teacher, to the target."""
    mean = np.repeat(drawn.features[kept].mean(axis=0, keepdims=True), len(drawn.rows), axis=0)
    found = {
        OWN: summarizer(drawn.features, drawn.coords, 1.0, kept[None]).embedding[0],
        "visible mean": teacher(mean, drawn.coords, 1.0).embedding,
        "visible patches, by the slide encoder": teacher(drawn.features[kept], drawn.coords[kept], 1.0).embedding,
    }
    return {name: mean_cosine(vector[None], target[None]) for name, vector in found.items()}


def measure(
    archive: Archive, summarizer: Summarizer, teacher: SlideEncoder | None, draws: int
) -> tuple[dict[str, list[Row]], list[str]]:
    """Measure -> a row for each slide, the mean of its draws; and the case of each."""
    others = dict(BASELINES)
    if archive.training:
        others[KRIGING] = fit_kriging(archive.training, summarizer)
    found: dict[str, list[Row]] = {}
    for number, slide in enumerate(archive.held_out):
        rows: dict[str, list[Row]] = {}
        for again in range(draws):
            drawn, kept, masked = draw(slide, summarizer, (22, number, again))
            rows.setdefault("masked patches", []).append(reconstruct(drawn, kept, masked, summarizer, others))
            rows.setdefault("embedding, to that of all candidates", []).append(embed(drawn, kept, summarizer))
            if teacher is not None:
                row = reach(drawn, kept, archive.targets[slide.name], summarizer, teacher)
                rows.setdefault("embedding, to the target", []).append(row)
        for name, several in rows.items():
            mean = {way: float(np.mean([row[way] for row in several])) for way in several[0]}
            found.setdefault(name, []).append(mean)
    return found, [slide.case for slide in archive.held_out]


def interval(values: np.ndarray, case: np.ndarray) -> list[float]:
    """Mean over slides and its 95 % interval over draws of cases."""
    names, owner = np.unique(case, return_inverse=True)
    sums, counts = np.bincount(owner, values), np.bincount(owner)
    drawn = np.random.default_rng(0).integers(len(names), size=(BOOTSTRAPS, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [round(float(value), 4) for value in (values.mean(), *np.percentile(means, [2.5, 97.5]))]


def tabulate(found: dict[str, list[Row]], cases: list[str]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Measure -> way -> its cosine, and the summarizer's lead over it, each with its interval."""
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for measured, rows in found.items():
        values = {way: np.array([row[way] for row in rows]) for way in rows[0]}
        table[measured] = {
            way: {"cosine": interval(each, np.array(cases))}
            | ({} if way == OWN else {"lead": interval(values[OWN] - each, np.array(cases))})
            for way, each in values.items()
        }
    return table


def markdown(table: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    lines = ["| cosine of | by | | the summarizer's lead |", "|---|---|---|---|"]
    for measured, ways in table.items():
        for way, figures in ways.items():
            lead = "{:+.4f} ({:+.4f} to {:+.4f})".format(*figures["lead"]) if "lead" in figures else ""
            lines.append(f"| {measured} | {way} | {'{:.4f} ({:.4f} to {:.4f})'.format(*figures['cosine'])} | {lead} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="summarizer, an ONNX file")
    parser.add_argument("--features", type=Path, required=True, help="folder of h5 files")
    parser.add_argument("--run", type=Path, help="the run folder that it was trained in")
    parser.add_argument("--slide-encoder", type=Path, help="its target, an ONNX file")
    parser.add_argument("--draws", type=int, default=4, help="of each slide (default 4)")
    parser.add_argument("-o", "--output", type=Path, help="the same figures, and those of each slide, as JSON")
    options = parser.parse_args()
    summarizer = load_summarizer(options.model, "cpu")
    teacher = load_slide_encoder(options.slide_encoder, "cpu") if options.slide_encoder else None
    found = length_of(options.features)
    if found != summarizer.card.dims:
        print(f"{options.features.name}: features of {found} numbers, the model takes {summarizer.card.dims}; skipped")
        return
    archive = read_archive(options.features, options.run, teacher)
    rows, cases = measure(archive, summarizer, teacher, options.draws)
    table = tabulate(rows, cases)
    print(f"{len(cases)} slides of {len(set(cases))} cases, {options.draws} draws of each\n\n{markdown(table)}")
    if options.output:
        slides: list[dict[str, Any]] = [
            {"slide": slide.name, "case": slide.case, **{name: rows[name][i] for name in rows}}
            for i, slide in enumerate(archive.held_out)
        ]
        made_by = {"model": summarizer.card.name, "sha256": summarizer.card.sha256, "draws": options.draws}
        options.output.write_text(json.dumps({**made_by, "table": table, "slides": slides}, indent=1) + "\n")


def length_of(folder: Path) -> int:
    """Of the features of the first slide."""
    from wsisum_cli.features.h5 import read_feature_file

    return read_feature_file(next(iter(find_files([folder]).values()))).features.shape[1]


if __name__ == "__main__":
    main()
