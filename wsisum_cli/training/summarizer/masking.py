"""Candidates of several slides, and which of them stay visible, as one padded batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from wsisum_cli.training.data import Draw, TrainingSlide, draw_candidates
from wsisum_cli.training.summarizer.targets import Part

#: What the share of masked candidates varies by in training, and how far it may go.
SPREAD, LEAST, MOST = 0.05, 0.5, 0.97
#: Slide name -> parts of it that have targets of their own.
Parts = Mapping[str, Sequence[Part]]
NO_PARTS: Parts = MappingProxyType({})


@dataclass(frozen=True)
class Masking:
    """How candidates are drawn and masked in training."""

    candidates: int = 500
    mask_ratio: float = 0.875
    #: Masked candidates that are reconstructed in one draw; they do not see each other, so some stand for all.
    queries: int = 64
    #: Share of the draws that look at a part of the slide alone, and the least part.
    crops: float = 0.3
    least_crop: float = 0.2


def training_batch(
    slides: Sequence[TrainingSlide],
    targets: Sequence[np.ndarray | None],
    masking: Masking,
    seed: Sequence[int],
    parts: Parts = NO_PARTS,
) -> dict[str, Tensor]:
    """One random draw of each slide, or of one of its parts with that part's target; see `batch_of`."""
    rng = np.random.default_rng(seed)
    draws, kept, wanted = [], [], []
    for slide, target in zip(slides, targets, strict=True):
        draw, aim = random_draw(slide, target, masking, rng, parts.get(slide.name, ()))
        wanted.append(aim)
        ratio = float(np.clip(rng.normal(masking.mask_ratio, SPREAD), LEAST, MOST))
        order = rng.permutation(len(draw.rows))
        visible = visible_count(len(order), ratio)
        rows = order[: visible + masking.queries]
        draws.append(Draw(draw.features[rows], draw.coords[rows], draw.rows[rows]))
        kept.append(np.arange(visible))
    return batch_of(draws, kept, wanted)


def random_draw(
    slide: TrainingSlide,
    target: np.ndarray | None,
    masking: Masking,
    rng: np.random.Generator,
    parts: Sequence[Part],
) -> tuple[Draw, np.ndarray | None]:
    """Candidates of the whole slide or of a part of it, and what they are to be embedded as.

    Where parts have targets, a draw of the whole slide has none: so few would be learned by heart.
    """
    cropped, crop = rng.random() < masking.crops, 1.0
    if parts:
        target = None
    if parts and cropped:
        part = parts[int(rng.integers(len(parts)))]
        slide, target = part_of(slide, part.rows), part.target
    elif cropped:
        crop = float(rng.uniform(masking.least_crop, 1))
    return draw_candidates(slide, masking.candidates, rng, crop, turn=True), target


def part_of(slide: TrainingSlide, rows: np.ndarray) -> TrainingSlide:
    return replace(slide, features=slide.features[rows], coords=slide.coords[rows], cluster=slide.cluster[rows])


def fixed_batch(
    slide: TrainingSlide, target: np.ndarray | None, masking: Masking, seed: Sequence[int]
) -> dict[str, Tensor]:
    """One draw of one slide as it is at run time: the whole slide, the mask ratio, all candidates reconstructed."""
    rng = np.random.default_rng(seed)
    draw = draw_candidates(slide, masking.candidates, rng)
    count = visible_count(len(draw.rows), masking.mask_ratio)
    return batch_of([draw], [np.sort(rng.permutation(len(draw.rows))[:count])], [target])


def visible_count(candidates: int, mask_ratio: float) -> int:
    """At least one is visible, at least one masked; of 500, a mask ratio of 0.875 leaves 63."""
    return int(np.clip(candidates - int(candidates * mask_ratio), 1, max(candidates - 1, 1)))


def batch_of(
    draws: Sequence[Draw], kept: Sequence[np.ndarray], targets: Sequence[np.ndarray | None]
) -> dict[str, Tensor]:
    """The model's four inputs, and `masked` (B, M) bool, `target` (B, E), `targeted` (B,) bool.

    There is a row of padding at the end, which shorter lists of kept rows point to.
    """
    size = max(len(draw.rows) for draw in draws) + 1
    visible = max(len(rows) for rows in kept)
    features = np.zeros((len(draws), size, draws[0].features.shape[1]), np.float32)
    coords = np.zeros((len(draws), size, 2), np.float32)
    valid = np.zeros((len(draws), size), bool)
    all_kept = np.full((len(draws), visible), size - 1, np.int64)
    width = max((len(target) for target in targets if target is not None), default=1)
    target = np.zeros((len(draws), width), np.float32)
    for i, draw in enumerate(draws):
        count = len(draw.rows)
        features[i, :count], coords[i, :count], valid[i, :count] = draw.features, draw.coords, True
        all_kept[i, : len(kept[i])] = kept[i]
        target[i] = 0 if targets[i] is None else targets[i]
    masked = valid.copy()
    for i, rows in enumerate(kept):
        masked[i, rows] = False
    arrays = {"features": features, "coords": coords, "valid": valid, "kept": all_kept, "masked": masked}
    targeted = np.array([target is not None for target in targets])
    return {name: torch.from_numpy(v) for name, v in {**arrays, "target": target, "targeted": targeted}.items()}
