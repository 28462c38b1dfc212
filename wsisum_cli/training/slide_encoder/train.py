"""Train a slide encoder by SLPD on the features of an archive, and export it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsisum_cli.errors import FeaturesError, UsageError
from wsisum_cli.features.h5 import FeatureFile, read_feature_file
from wsisum_cli.training import loop
from wsisum_cli.training.data import Cases, TrainingData, TrainingSlide, find_files, hold_out, in_patch_sides
from wsisum_cli.training.export import export_onnx
from wsisum_cli.training.slide_encoder.distillation import DistillationSettings, SlideDistillation, mean_embedding
from wsisum_cli.training.slide_encoder.region_encoder import Sizes
from wsisum_cli.training.slide_encoder.regions import Cells, cells_of
from wsisum_cli.training.slide_encoder.slide_graph import OUTPUTS, SlideEncoder
from wsisum_cli.training.summarizer.train import CardText

DYNAMIC = {"features": {0: "patches"}, "coords": {0: "patches"}}
FEWEST_SLIDES = 2
ONE_SLIDE = "slides are learned from one another: expected at least two to train on"
RECALL, MARGIN = "held_out_recall", "held_out_margin"


@dataclass(frozen=True)
class Options:
    """How a slide encoder is trained. A run resumes only under equal ones, but for `device`."""

    distilling: DistillationSettings = field(default_factory=DistillationSettings)
    settings: loop.Settings = field(default_factory=lambda: loop.Settings(epochs=20, learning_rate=5e-4))
    holdout: float = 0.2  # share of the slides, whole cases
    components: int = 96  # of the patch features that are looked at; all where they are shorter
    width: int = 128
    depth: int = 2
    heads: int = 2


@dataclass(frozen=True)
class Archive:
    """Slides by their cells: `data` knows name and case, `cells` (of all slides, in the same order) the patches."""

    data: TrainingData
    cells: Mapping[str, Cells]


def read_archive(
    folders: Sequence[Path], cases: Cases, progress: Callable[[int, int], None] = lambda done, total: None
) -> Archive:
    """Every h5 below the folders, with all of its patches, as float16 where that holds them.

    Raises FeaturesError when there is none, one is damaged, or not all have features of one length.
    """
    paths = find_files(folders)
    slides: list[TrainingSlide] = []
    cells: dict[str, Cells] = {}
    encoders: set[tuple[str, str]] = set()
    dims: int | None = None
    case_of = {name: cases(name) for name in paths}  # before the hours of reading
    for number, (name, path) in enumerate(paths.items()):
        file = read_feature_file(path, dims)
        dims = file.features.shape[1]
        encoders.add((file.encoder, file.encoder_sha256 or ""))
        cells[name], slide = to_cells(file, name, case_of[name])
        slides.append(slide)
        progress(number + 1, len(paths))
    assert dims is not None  # there is a file
    encoder, sha256 = encoders.pop() if len(encoders) == 1 else ("", "")
    return Archive(TrainingData(tuple(slides), dims, "" if encoder == "unknown" else encoder, sha256), cells)


def to_cells(file: FeatureFile, name: str, case: str) -> tuple[Cells, TrainingSlide]:
    coords = in_patch_sides(file.coords, file.patch_size_level0)
    digest = hashlib.sha256(file.features.tobytes() + coords.tobytes()).hexdigest()
    small = np.abs(file.features).max() < np.finfo(np.float16).max
    cells = cells_of(file.features.astype(np.float16) if small else file.features, coords)
    places, no_cluster = cells.at.astype(np.float32), np.zeros(len(cells.at), np.int16)
    return cells, TrainingSlide(name, case, cells.features, places, no_cluster, len(coords), digest)


def train_slide_encoder(
    archive: Archive,
    folder: Path,
    options: Options,
    text: CardText,
    progress: loop.Progress = lambda epoch, epochs, metrics: None,
) -> dict[str, Any] | None:
    """Train in the run folder, from where a run there stopped, and write `slide_encoder.onnx` into it.

    Returns the card; None under torchrun for all processes but the first, which writes. Raises FeaturesError for
    fewer than two training slides, and what `loop.train` and `export_onnx` raise.
    """
    if len(archive.data.slides) < FEWEST_SLIDES:
        raise FeaturesError(f"{ONE_SLIDE}, found one; give more", "one slide")
    training, held_out = hold_out(archive.data.slides, options.holdout, options.settings.seed)
    if len(training) < FEWEST_SLIDES:
        raise FeaturesError(f"{ONE_SLIDE}, found one that is not held out; lower --holdout, or give more", "one slide")
    task = SlideDistillation(
        [archive.cells[slide.name] for slide in training],
        [archive.cells[slide.name] for slide in held_out],
        sizes_of(archive.data, options),
        options.distilling,
        options.settings.epochs,
        options.settings.seed,
    )
    trained = loop.train(
        task, folder, options.settings, configuration(archive.data, training, held_out, options), progress
    )
    if not trained.first_process:
        return None
    module = slide_encoder_of(task)
    card = make_card(archive.data, module, options, text, figures(held_out, trained))
    export_onnx(module, make_examples(archive.data.slides), OUTPUTS, DYNAMIC, card, folder / "slide_encoder.onnx")
    return card


def sizes_of(data: TrainingData, options: Options) -> Sizes:
    """Raises UsageError for a width that heads and sines of places cannot share."""
    if options.width % (4 * options.heads):
        raise UsageError(f"--width: expected a multiple of {4 * options.heads}, found {options.width}")
    components = min(options.components, data.dims)
    return Sizes(data.dims, components, options.width, options.depth, options.heads, options.distilling.cropping.side)


def configuration(
    data: TrainingData, training: Sequence[TrainingSlide], held_out: Sequence[TrainingSlide], options: Options
) -> dict[str, Any]:
    """JSON-able; what a run must agree in to be resumed."""
    asked = asdict(options)
    del asked["settings"]["device"]
    return {
        "kind": "slide-encoder",
        "options": asked,
        "dims": data.dims,
        "encoder": data.encoder,
        "encoder_sha256": data.encoder_sha256,
        "training": {slide.name: slide.sha256 for slide in training},
        "held_out": {slide.name: slide.sha256 for slide in held_out},
        "held_out_cases": sorted({slide.case for slide in held_out}),
    }


def slide_encoder_of(task: SlideDistillation) -> SlideEncoder:
    """The teacher as a slide encoder, its embeddings centred on the mean of the training slides."""
    regions = task.distilled.teacher.encoder
    module = SlideEncoder(regions, task.settings.prototypes).eval()
    means = [mean_embedding(regions, cells) for cells in task.slides]
    module.centre.copy_(torch.from_numpy(np.mean(means, axis=0)))
    return module


def figures(held_out: Sequence[TrainingSlide], trained: loop.Trained) -> dict[str, Any]:
    """What the card says of the held-out slides; nothing where there are none."""
    if not math.isfinite(trained.best.get(RECALL, math.nan)):
        return {}
    return {
        "slides": len(held_out),
        "cases": len({slide.case for slide in held_out}),
        "half_reciprocal_rank": round(trained.best[RECALL], 4),
        "half_margin": round(trained.best[MARGIN], 3),
        "best_epoch": trained.best_epoch,
    }


def verdict(found: Mapping[str, Any], slides: int) -> str:
    """In one sentence, how well halves of held-out slides find each other."""
    if not found:
        return "No slides were held out, so how good it is is not known."
    return (
        f"Half of a held-out slide finds its other half among the halves of {slides} slides with a mean reciprocal "
        f"rank of {found['half_reciprocal_rank']:.3f} ({found['slides']} slides of {found['cases']} cases)."
    )


def make_card(
    data: TrainingData, module: SlideEncoder, options: Options, text: CardText, found: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "name": text.name,
        "version": text.version,
        "kind": "slide-encoder",
        "dims": data.dims,
        "embedding_dims": module.embedding_dims,
        "encoder": data.encoder,
        "encoder_sha256": data.encoder_sha256,
        "prototypes": options.distilling.prototypes,
        "region": options.distilling.cropping.side,
        "licence": text.licence,
        "description": f"{text.description} {verdict(found, len(data.slides))}".strip(),
        "figures": dict(found),
    }


def make_examples(slides: Sequence[TrainingSlide]) -> list[dict[str, Tensor]]:
    """What torch and ONNX Runtime are compared on: the smallest slides twice over, a larger one, one patch."""
    ordered = sorted(slides, key=lambda slide: (len(slide.coords), slide.name))
    small, middle = ordered[0], ordered[len(ordered) // 2]
    twice = np.concatenate([small.coords, small.coords + np.float32(1.5)])
    several = as_example(np.concatenate([small.features, small.features[::-1]]), twice)
    return [several, as_example(middle.features, middle.coords), as_example(small.features[:1], small.coords[:1])]


def as_example(features: np.ndarray, coords: np.ndarray) -> dict[str, Tensor]:
    return {"features": torch.from_numpy(features.astype(np.float32)), "coords": torch.from_numpy(coords)}
