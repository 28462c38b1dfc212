"""Train the summarizer: dual-level reconstruction, of masked patch features and of the slide's embedding.

The loss takes after WSISum (Medical Image Analysis 110:103970, 2026): the decoder's features of masked patches against
the real ones, plus the class token's output against the slide target. Both terms are cosine distances and squared
errors as shares of the variance, so that neither outweighs the other by the length of its vectors. Patches are
masked at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsisum_cli.errors import FeaturesError, UsageError
from wsisum_cli.training import loop
from wsisum_cli.training.data import TrainingData, TrainingSlide, hold_out
from wsisum_cli.training.export import export_onnx
from wsisum_cli.training.summarizer.interpolation import BASELINES, mean_cosine
from wsisum_cli.training.summarizer.masked_autoencoder import MaskedAutoencoder, Sizes
from wsisum_cli.training.summarizer.masking import Masking, fixed_batch, training_batch
from wsisum_cli.training.summarizer.start import set_start
from wsisum_cli.training.summarizer.targets import Targets

INPUTS = ("features", "coords", "valid", "kept")
DYNAMIC = {
    "features": {0: "batch", 1: "candidates"},
    "coords": {0: "batch", 1: "candidates"},
    "valid": {0: "batch", 1: "candidates"},
    "kept": {0: "batch", 1: "kept"},
}
#: Slides with fewer patches have nothing to mask.
FEWEST_PATCHES = 8
#: Weight of the squared error of features beside their cosine distance.
SQUARED = 0.5
#: Fixed draws of each held-out slide.
VIEWS = 2
#: How many times as many components the embedding starts from where parts of slides have targets, enough to fit them.
POOLED = 2


@dataclass(frozen=True)
class Options:
    """How a summarizer is trained. A run resumes only under equal ones, but for `device`."""

    masking: Masking = field(default_factory=Masking)
    settings: loop.Settings = field(default_factory=loop.Settings)
    holdout: float = 0.2  # share of the slides, whole cases
    draws: int = 8  # of each slide in an epoch
    batch_size: int = 8  # slides, on each process
    components: int = 64
    width: int = 96
    depth: int = 2
    decoder_width: int = 64
    decoder_depth: int = 2


@dataclass(frozen=True)
class CardText:
    """What a card says that training does not know."""

    name: str
    version: str
    licence: str
    description: str = ""


class SummarizerTask:
    """A `loop.Task`. `slides` and `held_out` share no case."""

    monitor: str | None = "held_out_loss"
    higher_is_better = False

    def __init__(
        self,
        module: MaskedAutoencoder,
        slides: Sequence[TrainingSlide],
        held_out: Sequence[TrainingSlide],
        targets: Targets,
        options: Options,
    ) -> None:
        self.module: nn.Module = module
        self.slides, self.options = list(slides), options
        self.targets = [targets.embeddings.get(slide.name) for slide in slides]
        self.parts = targets.parts
        self.seed = options.settings.seed
        self.views = [
            fixed_batch(slide, targets.embeddings.get(slide.name), options.masking, (self.seed, 5, view, i))
            for view in range(VIEWS)
            for i, slide in enumerate(held_out)
        ]
        #: Mean square of the targets' deviations, which errors are shares of.
        known = [target for target in self.targets if target is not None]
        self.target_variance = max(float(np.stack(known).var(axis=0).mean()), 1e-12)
        self.variance = mean_variance(slides)

    def steps(self, processes: int) -> int:
        return -(-len(self.slides) * self.options.draws // (self.options.batch_size * processes))

    def batches(self, epoch: int, process: int, processes: int) -> Iterator[loop.Batch]:
        size = self.options.batch_size
        rng = np.random.default_rng((self.seed, 6, epoch))
        order = np.concatenate([rng.permutation(len(self.slides)) for _ in range(self.options.draws)])
        order = np.resize(order, self.steps(processes) * size * processes)  # the last batch is filled up
        for number, rows in enumerate(order.reshape(-1, processes, size)[:, process]):
            chosen, targets = [self.slides[row] for row in rows], [self.targets[row] for row in rows]
            seed = (self.seed, 7, epoch, number, process)
            yield training_batch(chosen, targets, self.options.masking, seed, self.parts)

    def loss(self, model: nn.Module, batch: loop.Batch, share: float) -> dict[str, Tensor]:  # noqa: ARG002 - the protocol's
        reconstruction, embedding = model(*(batch[name] for name in INPUTS))
        found = self.compare(reconstruction.float(), embedding.float(), batch)
        low = 1 - found["reconstruction_cosine"] + SQUARED * found["reconstruction_error"]
        high = 1 - found["embedding_cosine"] + SQUARED * found["embedding_error"]
        return {"loss": low + high, **found}

    def compare(self, reconstruction: Tensor, embedding: Tensor, batch: loop.Batch) -> dict[str, Tensor]:
        """Of masked patches, each slide weighing the same, and of slides that have a target."""
        masked, actual = batch["masked"].float(), batch["features"]
        each = masked / masked.sum(dim=1, keepdim=True).clamp(min=1) / len(masked)
        apart = (reconstruction - actual).pow(2).mean(dim=2) / self.variance
        cosine = functional.cosine_similarity(reconstruction, actual, dim=2)
        known, target = batch["targeted"].float(), batch["target"]
        known = known / known.sum().clamp(min=1)
        centre = as_autoencoder(self.module).target_mean
        return {
            "reconstruction_cosine": (cosine * each).sum(),
            "reconstruction_error": (apart * each).sum(),
            "embedding_cosine": (functional.cosine_similarity(embedding - centre, target - centre) * known).sum(),
            "embedding_error": ((embedding - target).pow(2).mean(dim=1) * known).sum() / self.target_variance,
        }

    def before_epoch(self, epoch: int) -> None:
        """Nothing."""

    def after_step(self, share: float) -> None:
        """Nothing."""

    def evaluate(self) -> dict[str, float]:
        device = next(self.module.parameters()).device
        rows: list[dict[str, float]] = []
        for view in self.views:
            batch = {name: value.to(device) for name, value in view.items()}
            rows.append({name: float(value) for name, value in self.loss(self.module, batch, 1.0).items()})
            if not view["targeted"].any():
                rows[-1] = {name: value for name, value in rows[-1].items() if name.startswith("reconstruction")}
        names = dict.fromkeys(name for row in rows for name in row)
        means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
        return {f"held_out_{name}": value for name, value in means.items()}


def train_summarizer(
    data: TrainingData,
    targets: Targets,
    folder: Path,
    options: Options,
    text: CardText,
    progress: loop.Progress = lambda epoch, epochs, metrics: None,
) -> dict[str, Any] | None:
    """Train in the run folder, from where a run there stopped, and write `summarizer.onnx` in it.

    Where teachers were fused, `fusion.npz` beside it says how. Returns the card; None under torchrun for all
    processes but the first, which writes. Raises FeaturesError when too little is left to train on, and what
    `loop.train` and `export_onnx` raise.
    """
    training, held_out = split(data, options)
    known = [targets.embeddings.get(slide.name) for slide in training]
    if sum(target is not None for target in known) < 2:
        raise FeaturesError("fewer than two training slides have a target; nothing can be learned of slides")
    torch.manual_seed(options.settings.seed)
    module = MaskedAutoencoder(sizes_of(data, targets, options))
    set_start(module, training, known, options.masking, options.settings.seed, targets.parts)
    task = SummarizerTask(module, training, held_out, targets, options)
    trained = loop.train(
        task, folder, options.settings, configuration(data, training, held_out, targets, options), progress
    )
    if not trained.first_process:
        return None
    card = make_card(data, targets, options, text, figures(module, held_out, task.views, trained))
    examples = make_examples(training, options)
    if targets.fusion is not None:
        targets.fusion.save(folder / "fusion.npz")
    export_onnx(module, examples, ["reconstruction", "embedding"], DYNAMIC, card, folder / "summarizer.onnx")
    return card


def split(data: TrainingData, options: Options) -> tuple[list[TrainingSlide], list[TrainingSlide]]:
    """Slides to train on and held-out ones, without those that are too small. Raises FeaturesError, UsageError."""
    slides = [slide for slide in data.slides if len(slide.coords) >= FEWEST_PATCHES]
    if not slides:
        raise FeaturesError(f"expected slides of at least {FEWEST_PATCHES} patches, found none")
    return hold_out(slides, options.holdout, options.settings.seed)


def check_width(width: int, name: str = "--width") -> None:
    """Raises UsageError for one that the heads and the sines of places cannot share."""
    if width % 8:
        raise UsageError(f"{name}: expected a multiple of 8, found {width}")


def sizes_of(data: TrainingData, targets: Targets, options: Options) -> Sizes:
    check_width(options.width)
    check_width(options.decoder_width, "decoder_width")
    return Sizes(
        dims=data.dims,
        embedding_dims=targets.dims,
        components=options.components,
        pooled=options.components * (POOLED if targets.parts else 1),
        width=options.width,
        depth=options.depth,
        decoder_width=options.decoder_width,
        decoder_depth=options.decoder_depth,
    )


def configuration(
    data: TrainingData,
    training: Sequence[TrainingSlide],
    held_out: Sequence[TrainingSlide],
    targets: Targets,
    options: Options,
) -> dict[str, Any]:
    """JSON-able; what a run must agree in to be resumed."""
    asked = asdict(options)
    del asked["settings"]["device"]
    return {
        "kind": "summarizer",
        "options": asked,
        "dims": data.dims,
        "encoder": data.encoder,
        "encoder_sha256": data.encoder_sha256,
        "target": dict(targets.origin),
        "training": {slide.name: slide.sha256 for slide in training},
        "held_out": {slide.name: slide.sha256 for slide in held_out},
        "cases": {slide.name: slide.case for slide in data.slides},
        "patches_in_memory": sum(len(slide.coords) for slide in data.slides),
        "left_out": [slide.name for slide in data.slides if len(slide.coords) < FEWEST_PATCHES],
    }


def figures(
    module: MaskedAutoencoder,
    held_out: Sequence[TrainingSlide],
    views: Sequence[Mapping[str, Tensor]],
    trained: loop.Trained,
) -> dict[str, Any]:
    """What the card says of the held-out slides; nothing where there are none."""
    if not views:
        return {}
    rows: list[dict[str, float]] = []
    for view in views:
        kept, masked, coords = view["kept"][0].numpy(), view["masked"][0].numpy(), view["coords"][0].double().numpy()
        features = view["features"][0].numpy()
        with torch.no_grad():
            guess = module(*(view[name] for name in INPUTS))[0][0].numpy()[masked]
        row = {"summarizer": mean_cosine(guess, features[masked])}
        for name, interpolate in BASELINES.items():
            guess = interpolate(features[kept].astype(np.float64), coords[kept], coords[masked])
            row[name] = mean_cosine(guess, features[masked])
        rows.append(row)
    embedded = [embedding_of_mean(module, view) for view in views if view["targeted"].any()]
    cosines = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
    found: dict[str, Any] = {
        "slides": len(held_out),
        "cases": len({slide.case for slide in held_out}),
        "reconstruction_cosine": cosines,
        "best_epoch": trained.best_epoch,
    }
    if "held_out_embedding_cosine" in trained.best:
        found["embedding_cosine"] = round(trained.best["held_out_embedding_cosine"], 4)
        found["embedding_cosine_of_visible_mean"] = round(float(np.mean(embedded)), 4)
    return found


def embedding_of_mean(module: MaskedAutoencoder, view: Mapping[str, Tensor]) -> float:
    """Cosine with the target where each visible patch is their mean: what single patches and places add is gone."""
    kept, features = view["kept"][0], view["features"].clone()
    features[0, kept] = features[0, kept].mean(dim=0)
    with torch.no_grad():
        embedding = module(features, *(view[name] for name in INPUTS[1:]))[1]
    centre = module.target_mean
    return float(functional.cosine_similarity(embedding - centre, view["target"] - centre)[0])


def verdict(found: Mapping[str, Any]) -> str:
    """Whether the reconstruction beats what needs no learning, and by how much; how near embeddings come to targets."""
    if not found:
        return "No slides were held out, so how good it is is not known."
    cosines = dict(found["reconstruction_cosine"])
    own = cosines.pop("summarizer")
    name = max(cosines, key=lambda key: cosines[key])
    slides = f"{found['slides']} held-out slides of {found['cases']} cases, which also chose the epoch"
    embedded = ""
    if "embedding_cosine" in found:
        own_cosine, of_mean = found["embedding_cosine"], found["embedding_cosine_of_visible_mean"]
        embedded = (
            " Mean cosine of their embeddings with the targets, both from the mean target: "
            f"{own_cosine:.3f}; {of_mean:.3f} of the visible mean alone."
        )
    if own > cosines[name]:
        best = f"{cosines[name]:.3f} by {name}, the best of {len(cosines)} that need no learning"
        return f"Mean cosine of reconstructed masked patches on {slides}: {own:.3f}; {best}.{embedded}"
    worse = f"It does not reconstruct masked patches better than {name} does, which needs no learning"
    return f"{worse}: mean cosine {own:.3f} against {cosines[name]:.3f} on {slides}.{embedded}"


def make_card(
    data: TrainingData, targets: Targets, options: Options, text: CardText, found: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "name": text.name,
        "version": text.version,
        "kind": "summarizer",
        "dims": data.dims,
        "embedding_dims": targets.dims,
        "encoder": data.encoder,
        "encoder_sha256": data.encoder_sha256,
        "candidates": options.masking.candidates,
        "mask_ratio": options.masking.mask_ratio,
        "licence": text.licence,
        "description": f"{text.description} {verdict(found)}".strip(),
        "target": dict(targets.origin),
        "figures": dict(found),
    }


def make_examples(slides: Sequence[TrainingSlide], options: Options) -> list[dict[str, Tensor]]:
    """What torch and ONNX Runtime are compared on: several slides with padding, the size of a real run, one patch."""
    several = list(slides[:2]) * 2
    no_targets: list[np.ndarray | None] = [None] * 4
    first = training_batch(several[:2], no_targets[:2], Masking(candidates=60, queries=40, mask_ratio=0.5), (0, 8))
    more = training_batch(several[:3], no_targets[:3], Masking(candidates=150, queries=150, mask_ratio=0.7), (0, 9))
    real = fixed_batch(max(slides, key=lambda slide: len(slide.coords)), None, options.masking, (0, 10))
    one = {name: value[:, :1] for name, value in real.items() if name in INPUTS}
    one["kept"] = torch.zeros_like(one["kept"])
    return [{name: batch[name].contiguous() for name in INPUTS} for batch in (first, more, real, one)]


def mean_variance(slides: Sequence[TrainingSlide]) -> float:
    """Of the numbers of a patch feature over all patches, each slide weighing the same."""
    means = np.stack([slide.features.mean(axis=0, dtype=np.float64) for slide in slides])
    squares = np.mean([np.mean(slide.features.astype(np.float64) ** 2, axis=0) for slide in slides], axis=0)
    return max(float((squares - means.mean(axis=0) ** 2).mean()), 1e-12)


def as_autoencoder(module: nn.Module) -> MaskedAutoencoder:
    assert isinstance(module, MaskedAutoencoder)
    return module
