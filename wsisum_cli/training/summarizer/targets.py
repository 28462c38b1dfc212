"""What the embeddings of slides are to be: fused from teachers, or those of a slide encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.errors import ModelError
from wsisum_cli.models.slide_encoder import SlideEncoder
from wsisum_cli.training.data import TrainingData, TrainingSlide, draw_candidates
from wsisum_cli.training.summarizer.teachers import Fusion, fit_fusion, read_teacher

#: Parts of each training slide that a slide encoder is asked about, and the patches of the least one.
PARTS, LEAST_PART = 32, 100


@dataclass(frozen=True)
class Part:
    """Patches that lie together: `rows` (n,) of a slide's pool, ascending, and what to embed them as, (E,) float32."""

    rows: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Targets:
    """Slide name -> (E,) float32; slides without one are reconstructed all the same.

    `origin` is JSON-able and says in the card where they come from. `fusion` is how teachers were fused, None where
    there are none. `parts` of training slides have targets of their own; teachers know slides as wholes alone.
    """

    embeddings: Mapping[str, np.ndarray]
    dims: int
    origin: Mapping[str, Any]
    fusion: Fusion | None = None
    parts: Mapping[str, Sequence[Part]] = field(default_factory=dict)


def teacher_targets(
    teachers: Mapping[str, Path], data: TrainingData, training: Sequence[str], dims: int | None = None
) -> Targets:
    """Fused embeddings of the teachers (name -> folder of h5).

    `training` names the slides that the fusion is fitted to. Raises FeaturesError as `fit_fusion` does.
    """
    read = [read_teacher(name, path, data.names) for name, path in teachers.items()]
    fusion = fit_fusion(read, training, dims)
    found = {name: fusion(read, name) for name in data.names}
    embeddings = {name: target for name, target in found.items() if target is not None}
    return Targets(embeddings, len(fusion.axes), fusion.summary(), fusion)


@dataclass
class SlideEncoderTargets:
    """Embeddings by a slide encoder, gathered while slides are read: hand `visit` to `read_slides`."""

    slide_encoder: SlideEncoder
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)

    def visit(self, name: str, features: np.ndarray, coords: np.ndarray) -> None:
        """Raises ModelError when the slide encoder takes other features."""
        dims = self.slide_encoder.card.dims
        if features.shape[1] != dims:
            raise ModelError(
                f"slide encoder {self.slide_encoder.card.name}: takes features of {dims} numbers, those of {name} have "
                f"{features.shape[1]}; train one on these features with `wsisum train slide-encoder`"
            )
        self.embeddings[name] = self.slide_encoder(features, coords, 1.0).embedding

    def targets(
        self,
        data: TrainingData,
        training: Sequence[TrainingSlide],
        seed: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Targets:
        """Of all slides, and of parts of those to train on, which are drawn by `seed`.

        `progress` hears how many of these are done. Raises ModelError when slide encoder and features name different
        encoders.
        """
        card = self.slide_encoder.card
        if card.encoder_sha256 and data.encoder_sha256 and card.encoder_sha256 != data.encoder_sha256:
            raise ModelError(
                f"slide encoder {card.name}: was trained on features of encoder {card.encoder} (sha256 "
                f"{card.encoder_sha256[:12]}), these are of {data.encoder or 'another'} ({data.encoder_sha256[:12]}); "
                "train one on these features with `wsisum train slide-encoder`"
            )
        parts: dict[str, list[Part]] = {}
        for number, slide in enumerate(training):
            parts[slide.name] = self.embed_parts(slide, np.random.default_rng((seed, 11, number)))
            progress(number + 1, len(training))
        origin = {"slide_encoder": card.name, "slide_encoder_sha256": card.sha256, "parts_of_each_slide": PARTS}
        return Targets(self.embeddings, card.embedding_dims, origin, parts=parts)

    def embed_parts(self, slide: TrainingSlide, rng: np.random.Generator) -> list[Part]:
        """Patches around random ones, from `LEAST_PART` of them to all; each doubling is as likely."""
        found, patches = [], len(slide.coords)
        for _ in range(PARTS):
            size = round(float(np.exp(rng.uniform(np.log(min(LEAST_PART, patches)), np.log(patches)))))
            drawn = draw_candidates(slide, size, rng, size / patches)
            found.append(Part(drawn.rows, self.slide_encoder(drawn.features, drawn.coords, 1.0).embedding))
        return found
