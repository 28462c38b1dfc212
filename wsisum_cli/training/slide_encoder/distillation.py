"""SLPD: slide-level prototypical distillation (Yu, Lin and Xu, MICCAI 2023) over regions of patch features.

A student sees crops of a region and learns to say of each what a teacher, its own moving average, says of

- another crop of that region (self-distillation, as in DINO: Caron et al., ICCV 2021),
- the prototype of the slide that the region belongs to (intra-slide distillation),
- the prototype matched with that one in each of the most similar slides (inter-slide distillation).

Prototypes are the centres of each slide's regions, as the teacher sees them, found anew before each epoch once the
teacher is warm. Slides are similar as the optimal assignment between their prototypes says.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from wsisum_cli.training.slide_encoder.prototypes import find_neighbours, find_prototypes
from wsisum_cli.training.slide_encoder.region_encoder import RegionEncoder, Sizes
from wsisum_cli.training.slide_encoder.regions import Cells, Crop, Cropping, draw_region, fixed_regions, padded

GLOBAL = 2  # wide crops of a region, which the teacher sees
JUDGED = 12  # regions of half a slide that it is judged by, at most
MEASURED = 4096  # cells of a slide that the variance within it is taken from, at most
FLAT = 1e-5  # share of the mean variance below which features do not vary
SEEN = 48  # cells of a region that its prototype is found by, at most: as many as crops have


@dataclass(frozen=True)
class DistillationSettings:
    """How SLPD distils; the temperatures and moving averages are DINO's."""

    prototypes: int = 4  # of a slide
    neighbours: int = 1  # similar slides that a region is distilled from
    intra: float = 1.0  # weight of intra-slide distillation, self-distillation having 1
    inter: float = 1.0
    warm: float = 0.2  # share of the epochs before there are prototypes
    outputs: int = 512  # that student and teacher spread their probability over
    student_temperature: float = 0.1
    teacher_temperature: float = 0.05
    momentum: float = 0.98  # of the teacher, rising to 1
    centre_momentum: float = 0.9
    regions_per_slide: int = 8  # in an epoch
    batch: int = 24  # regions
    cropping: Cropping = field(default_factory=Cropping)


class Head(nn.Module):
    """Unit vectors to scores of `outputs` directions."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 64))
        self.directions = nn.Parameter(torch.randn(outputs, 64))
        self.spread = math.sqrt(width)  # a unit vector's numbers are small

    def forward(self, embeddings: Tensor) -> Tensor:
        found = functional.normalize(self.layers(embeddings * self.spread), dim=-1)
        return torch.matmul(found, functional.normalize(self.directions, dim=-1).T)


class Network(nn.Module):
    """Region encoder and head."""

    def __init__(self, encoder: RegionEncoder, outputs: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, Head(encoder.sizes.width, outputs)


class Distilled(nn.Module):
    """Student, teacher, and what the teacher knows of the S slides it is trained on."""

    centre: Tensor
    prototypes: Tensor
    neighbours: Tensor
    partners: Tensor

    def __init__(self, encoder: RegionEncoder, slides: int, settings: DistillationSettings) -> None:
        super().__init__()
        self.student = Network(encoder, settings.outputs)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        each, near = settings.prototypes, min(settings.neighbours, slides - 1)
        self.register_buffer("centre", torch.zeros(settings.outputs))
        self.register_buffer("prototypes", torch.zeros(slides, each, encoder.sizes.width))
        self.register_buffer("neighbours", torch.zeros(slides, near, dtype=torch.int64))
        self.register_buffer("partners", torch.zeros(slides, near, each, dtype=torch.int64))

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The student's scores of all crops, the wide ones first: (crops, outputs)."""
        embedded = [
            self.student.encoder(batch[f"{kind}_features"], batch[f"{kind}_positions"], batch[f"{kind}_present"])
            for kind in ("wide", "narrow")
            if f"{kind}_features" in batch
        ]
        scores: Tensor = self.student.head(torch.cat(embedded))
        return scores


class SlideDistillation:
    """The task of `training.loop`: train a region encoder on the cells of slides.

    The last weights are kept: held-out slides tell whether training goes wrong, not which epoch is best, since what
    halves of a slide share is also its stain.
    """

    monitor: str | None = None
    higher_is_better = True

    def __init__(
        self,
        slides: Sequence[Cells],
        held_out: Sequence[Cells],
        sizes: Sizes,
        settings: DistillationSettings,
        epochs: int,
        seed: int,
    ) -> None:
        self.slides, self.held_out, self.settings, self.seed = slides, held_out, settings, seed
        self.first_warm = math.ceil(settings.warm * epochs)
        torch.manual_seed(seed)
        encoder = RegionEncoder(sizes)
        encoder.whiten(*tissue_axes(slides, sizes.components))
        self.module: nn.Module = Distilled(encoder, len(slides), settings)
        self.warm = False

    @property
    def distilled(self) -> Distilled:
        assert isinstance(self.module, Distilled)
        return self.module

    def steps(self, processes: int) -> int:
        return max(1, len(self.slides) * self.settings.regions_per_slide // (self.settings.batch * processes))

    def batches(self, epoch: int, process: int, processes: int) -> Iterator[dict[str, Tensor]]:
        """Regions of all slides alike, in an order of the epoch's own."""
        order = np.random.default_rng((self.seed, epoch)).permutation(
            np.repeat(np.arange(len(self.slides)), self.settings.regions_per_slide)
        )
        rng = np.random.default_rng((self.seed, epoch, process))
        size = min(self.settings.batch, -(-len(order) // processes))
        order = np.resize(order, self.steps(processes) * processes * size)  # a short one is filled up
        for step in range(self.steps(processes)):
            start = (step * processes + process) * size
            yield self.draw(order[start : start + size], rng)

    def draw(self, slides: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """A batch of one region of each of these slides: `wide_` and `narrow_` crops, one crop of all after another."""
        regions = [draw_region(self.slides[slide], self.settings.cropping, rng) for slide in slides]
        crops: list[Crop] = [region[number] for number in range(len(regions[0])) for region in regions]
        kinds = {"wide": crops[: GLOBAL * len(regions)], "narrow": crops[GLOBAL * len(regions) :]}
        batch = {"slide": torch.from_numpy(slides)}
        for kind, some in kinds.items():
            if some:
                batch |= {f"{kind}_{name}": torch.from_numpy(value) for name, value in padded(some).items()}
        return batch

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:  # noqa: ARG002
        """Self-distillation, and once there are prototypes intra- and inter-slide distillation."""
        student = functional.log_softmax(model(batch).float() / self.settings.student_temperature, dim=-1)
        student = apart(student, len(batch["slide"]))  # (crops, regions, outputs)
        with torch.no_grad():
            teacher = self.distilled.teacher
            seen = teacher.encoder(batch["wide_features"], batch["wide_positions"], batch["wide_present"]).float()
            scores = teacher.head(seen).float()
            targets = apart(self.sharpen(scores), len(batch["slide"]))
            means = functional.normalize(apart(seen, len(batch["slide"])).sum(dim=0), dim=-1)
        pairs = [(one, other) for one in range(GLOBAL) for other in range(len(student)) if one != other]
        losses = {"self": torch.stack([cross_entropy(targets[one], student[other]) for one, other in pairs]).mean()}
        if self.warm:
            losses |= self.slide_losses(means, batch["slide"], student)
        losses["loss"] = (
            losses["self"] + self.settings.intra * losses.get("intra", 0) + self.settings.inter * losses.get("inter", 0)
        )
        self.move_centre(scores)
        entropy = -(targets * targets.clamp(min=1e-12).log()).sum(dim=-1).mean()
        return losses | {"teacher_entropy": entropy, "teacher_spread": spread(means)}

    def slide_losses(self, means: Tensor, slide: Tensor, student: Tensor) -> dict[str, Tensor]:
        """Towards the prototype that a region belongs to, and those matched with it in similar slides."""
        module, head = self.distilled, self.distilled.teacher.head
        with torch.no_grad():
            own = module.prototypes[slide]  # (B, P, E)
            unused = ~own.any(dim=-1)
            mine = (own @ means[..., None]).squeeze(-1).masked_fill(unused, -2).argmax(dim=1)
            rows = torch.arange(len(slide), device=slide.device)
            intra = self.sharpen(head(own[rows, mine]))
            partner = module.partners[slide][rows, :, mine]  # (B, K)
            matched = module.prototypes[module.neighbours[slide], partner]  # (B, K, E)
            inter = self.sharpen(head(matched)).mean(dim=1) if matched.shape[1] else intra
        crops = range(len(student))
        return {
            "intra": torch.stack([cross_entropy(intra, student[crop]) for crop in crops]).mean(),
            "inter": torch.stack([cross_entropy(inter, student[crop]) for crop in crops]).mean(),
        }

    def sharpen(self, scores: Tensor) -> Tensor:
        """The teacher's probabilities: centred, so that no output takes all, and sharpened, so that not all share."""
        return ((scores.float() - self.distilled.centre) / self.settings.teacher_temperature).softmax(dim=-1)

    @torch.no_grad()
    def move_centre(self, scores: Tensor) -> None:
        mean = scores.mean(dim=0)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        self.distilled.centre.lerp_(mean, 1 - self.settings.centre_momentum)

    @torch.no_grad()
    def after_step(self, share: float) -> None:
        """Let the teacher follow the student, ever more slowly."""
        momentum = 1 - (1 - self.settings.momentum) * (1 + math.cos(math.pi * share)) / 2
        theirs, ours = self.distilled.teacher.parameters(), self.distilled.student.parameters()
        for moving, trained in zip(theirs, ours, strict=True):
            moving.lerp_(trained, 1 - momentum)

    @torch.no_grad()
    def before_epoch(self, epoch: int) -> None:
        """Find the prototypes of all slides, and which slides are similar."""
        self.warm = epoch >= self.first_warm
        if not self.warm:
            return
        module = self.distilled
        for row, cells in enumerate(self.slides):
            embedded, weights = embed_regions(module.teacher.encoder, cells)
            module.prototypes[row] = find_prototypes(embedded, weights, self.settings.prototypes)[0]
        found = find_neighbours(module.prototypes.cpu().numpy(), self.settings.neighbours)
        module.neighbours.copy_(torch.from_numpy(found.slides))
        module.partners.copy_(torch.from_numpy(found.partners))

    def evaluate(self) -> dict[str, float]:
        """How well half of a held-out slide finds its other half among the halves of all slides."""
        if not self.held_out:
            return {}
        recall, margin = find_halves(self.distilled.teacher.encoder, self.held_out, self.slides)
        return {"held_out_recall": recall, "held_out_margin": margin}


def apart(crops: Tensor, regions: int) -> Tensor:
    """Crops of as many regions, one crop of all after another, (crops * regions, ...) -> (crops, regions, ...)."""
    return crops.reshape(-1, regions, *crops.shape[1:])


def cross_entropy(targets: Tensor, log_probabilities: Tensor) -> Tensor:
    return -(targets * log_probabilities).sum(dim=-1).mean()


def spread(embeddings: Tensor) -> Tensor:
    """1 less the mean cosine to the mean direction: 0 when all embeddings are one."""
    length: Tensor = torch.linalg.vector_norm(embeddings.mean(dim=0))
    return 1 - length


def tissue_axes(slides: Sequence[Cells], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) of patch features, and the axes (D, `count`) along which patches of one slide vary most, whitened.

    Tissues differ within slides, stains and scanners between them: what varies between slides alone is left out. Each
    slide counts alike. Axes are zero where there are fewer that vary.
    """
    means = np.stack([cells.features.mean(axis=0, dtype=np.float64) for cells in slides])
    within = np.zeros((means.shape[1], means.shape[1]))
    for cells, mean in zip(slides, means, strict=True):
        some = cells.features[:: -(-len(cells.features) // MEASURED)] - mean
        within += some.T @ some / (len(some) * len(slides))
    variance, axes = np.linalg.eigh(within)
    variance, axes = variance[::-1][:count], axes[:, ::-1][:, :count]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(count)])  # else as the library has it
    floor = FLAT * np.trace(within) / len(within)
    return means.mean(axis=0), np.where(variance > floor, axes / np.sqrt(np.maximum(variance, max(floor, 1e-30))), 0.0)


@torch.no_grad()
def embed_regions(
    encoder: RegionEncoder, cells: Cells, most: int | None = None, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """The regions of a slide without chance, thinned: embeddings (R, width), and (R,) cells seen of each.

    Of the regions `most` at most, evenly chosen; None takes all.
    """
    device = encoder.mean.device
    crops = fixed_regions(cells, encoder.sizes.side, SEEN)
    crops = crops[:: -(-len(crops) // most)] if most else crops
    embedded = []
    for start in range(0, len(crops), batch):
        some = {
            name: torch.from_numpy(value).to(device) for name, value in padded(crops[start : start + batch]).items()
        }
        embedded.append(encoder(some["features"], some["positions"], some["present"]).float())
    return torch.cat(embedded), torch.tensor([float(len(crop.positions)) for crop in crops], device=device)


def halves(cells: Cells) -> list[Cells]:
    """A slide cut in two across its longer side; one of a single cell is not."""
    axis = int(np.ptp(cells.at, axis=0).argmax())
    along = cells.at[:, axis]
    first = along < np.median(along)
    parts = [part for part in (first, ~first) if part.any()]
    return [Cells(cells.at[part], cells.features[part], cells.patches[part]) for part in parts]


def find_halves(encoder: RegionEncoder, queries: Sequence[Cells], others: Sequence[Cells]) -> tuple[float, float]:
    """How well a half finds its other half among the halves of all slides, by mean region embedding, centred.

    Mean reciprocal rank, and how many standard deviations more similar it is than halves of other slides are: the
    first is soon 1, the second tells good from better. NaN where no slide has two halves.
    """
    split = [halves(cells) for cells in [*queries, *others]]
    slide = np.repeat(np.arange(len(split)), [len(parts) for parts in split])
    vectors = np.stack([mean_embedding(encoder, part, JUDGED) for parts in split for part in parts])
    vectors -= vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-12
    cosine = vectors @ vectors.T
    ranks, margins = [], []
    for row in np.flatnonzero(slide < len(queries)):
        own, rest = slide == slide[row], cosine[row, slide != slide[row]]
        if own.sum() < 2:
            continue
        own[row] = False
        twin = cosine[row, own].item()
        ranks.append(1 / (1 + (rest > twin).sum()))
        margins.append((twin - rest.mean()) / (rest.std() + 1e-6))
    return (float(np.mean(ranks)), float(np.mean(margins))) if ranks else (math.nan, math.nan)


def mean_embedding(encoder: RegionEncoder, cells: Cells, most: int | None = None) -> np.ndarray:
    """(width,) of the regions of a slide, at most `most`, by the cells seen of each."""
    embedded, seen = embed_regions(encoder, cells, most)
    return np.asarray(((embedded * seen[:, None]).sum(dim=0) / seen.sum()).cpu())
