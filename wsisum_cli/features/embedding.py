"""What models that see a whole slide make of it: embeddings, and how much of the rest the kept patches tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Coords, Features, unit_rows
from wsisum_cli.models.choice import NO_MODELS, SlideModels
from wsisum_cli.models.slide_encoder import SlideEmbedding, SlideEncoder
from wsisum_cli.models.summarizer import Summarizer

Rows = npt.NDArray[np.integer]

#: Choices whose reconstructions are held at once.
CHOICES = 16


@dataclass(frozen=True)
class Tokens:
    """Patches as these models see them."""

    features: Features  # (N, D)
    coords: Coords  # (N, 2) level-0 px
    patch_size_level0: int

    def at(self, rows: Rows) -> Tokens:
        return Tokens(self.features[rows], self.coords[rows], self.patch_size_level0)


@dataclass(frozen=True)
class Reconstructed:
    """How much of the candidates a summarizer makes again from the kept patches; cosines, so -1..1.

    `reconstruction`: mean, over the candidates that were not kept, between the features it makes and the true ones;
    None where all were kept. `embedding_cosine`: between its embedding of the kept patches alone and `embedding`,
    (E,) float32, that of all candidates.
    """

    candidates: Rows  # (M,) of the tissue
    embedding: npt.NDArray[np.float32]
    embedding_cosine: float
    reconstruction: float | None

    def figures(self) -> dict[str, float | None]:
        return {"reconstruction": self.reconstruction, "embedding_cosine": self.embedding_cosine}


@dataclass(frozen=True)
class SlideEmbeddings:
    """What these models made of a slide; None where none was used."""

    models: SlideModels = NO_MODELS
    reconstructed: Reconstructed | None = None
    slide: SlideEmbedding | None = None
    slide_cosine: float | None = None  # between the slide encoder's embedding of the kept patches alone and `slide`

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By their names below `reference`."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        if self.reconstructed is not None:
            arrays |= {"candidates": self.reconstructed.candidates, "embedding": self.reconstructed.embedding}
        if self.slide is not None:
            arrays |= {
                "slide_embedding": self.slide.embedding,
                "prototypes": self.slide.prototypes,
                "prototype_weights": self.slide.prototype_weights,
            }
        return arrays

    def figures(self) -> dict[str, float | None]:
        """By their names below `quality`."""
        figures: dict[str, float | None] = {"reconstruction": None, "embedding_cosine": None}
        return (
            figures
            | ({} if self.reconstructed is None else self.reconstructed.figures())
            | {"slide_cosine": self.slide_cosine}
        )


def embed_tissue(models: SlideModels, tissue: Tokens, candidates: Rows, kept: Rows) -> SlideEmbeddings:
    """`candidates` (M,) and `kept` (K,) are rows of the tissue; a kept one need not be a candidate.

    Raises ModelError.
    """
    reconstructed = (
        reconstruct_slide(models.summarizer, tissue, candidates, kept) if models.summarizer is not None else None
    )
    if models.slide_encoder is None:
        return SlideEmbeddings(models, reconstructed)
    slide = encode_slide(models.slide_encoder, tissue)
    of_kept = encode_slide(models.slide_encoder, tissue.at(kept)).embedding
    return SlideEmbeddings(models, reconstructed, slide, cosine(of_kept, slide.embedding))


def reconstruct_slide(summarizer: Summarizer, tissue: Tokens, candidates: Rows, kept: Rows) -> Reconstructed:
    """Let the summarizer see all candidates, the kept patches alone, and those among the candidates."""
    embedding = embed(summarizer, tissue.at(candidates))
    return Reconstructed(
        candidates,
        embedding,
        cosine(embed(summarizer, tissue.at(kept)), embedding),
        reconstruction(summarizer, tissue, candidates, kept),
    )


def reconstruction(summarizer: Summarizer, tissue: Tokens, candidates: Rows, kept: Rows) -> float | None:
    """Mean cosine of what it makes of the candidates that were not kept; None where there are none."""
    masked = np.setdiff1d(candidates, kept)
    if not len(masked):
        return None
    seen = np.union1d(candidates, kept)
    visible = np.searchsorted(seen, kept)
    tokens = tissue.at(seen)
    made = summarizer(tokens.features, tokens.coords, tokens.patch_size_level0, visible[None]).reconstruction[0]
    true = unit_rows(tissue.features[masked])
    return float((unit_rows(made[np.searchsorted(seen, masked)]) * true).sum(axis=1).mean())


def embed(summarizer: Summarizer, patches: Tokens) -> npt.NDArray[np.float32]:
    """The summarizer's embedding (E,) of patches that it all sees."""
    everything = np.arange(len(patches.features))[None]
    made = summarizer(patches.features, patches.coords, patches.patch_size_level0, everything)
    return np.asarray(made.embedding[0], np.float32)


class EmbeddingScore:
    """How near the summarizer's embedding of some patches alone comes to that of all candidates."""

    def __init__(self, summarizer: Summarizer, tissue: Tokens, candidates: Rows) -> None:
        self._summarizer, self._tissue = summarizer, tissue
        self._whole = embed(summarizer, tissue.at(candidates))

    def __call__(self, choices: Rows) -> npt.NDArray[np.float64]:
        """Cosines (B,) of choices (B, K) of rows of the tissue. Raises ModelError."""
        seen, visible = np.unique(choices, return_inverse=True)
        tokens = self._tissue.at(seen)
        visible = visible.reshape(choices.shape)
        made = self._summarizer(tokens.features, tokens.coords, tokens.patch_size_level0, visible).embedding
        return np.asarray(unit_rows(made) @ unit_rows(self._whole[None])[0], np.float64)


class ReconstructionScore:
    """Both levels of WSISum in one figure: how well the candidates are made again from some patches, and how near the
    embedding of these alone comes to that of all candidates, which counts a quarter.
    """

    def __init__(self, summarizer: Summarizer, tissue: Tokens, candidates: Rows) -> None:
        self._summarizer, self._tissue, self._candidates = summarizer, tissue, candidates
        self._whole = unit_rows(embed(summarizer, tissue.at(candidates))[None])[0]
        self._true = unit_rows(tissue.features[candidates])

    def __call__(self, choices: Rows) -> npt.NDArray[np.float64]:
        """Scores (B,) of choices (B, K) of rows of the tissue. Raises ModelError."""
        seen = np.union1d(self._candidates, choices)
        tokens, visible = self._tissue.at(seen), np.searchsorted(seen, choices)
        parts = [visible[start : start + CHOICES] for start in range(0, len(visible), CHOICES)]
        return np.concatenate([self._of(tokens, seen, part) for part in parts])

    def _of(self, tokens: Tokens, seen: Rows, visible: Rows) -> npt.NDArray[np.float64]:
        made = self._summarizer(tokens.features, tokens.coords, tokens.patch_size_level0, visible)
        masked = np.ones((len(visible), len(seen)), bool)
        np.put_along_axis(masked, visible, False, axis=1)
        at = np.searchsorted(seen, self._candidates)
        masked = masked[:, at]
        told = np.stack([(unit_rows(one[at]) * self._true).sum(axis=1) for one in made.reconstruction])
        again = (told * masked).sum(axis=1) / np.maximum(masked.sum(axis=1), 1)
        return np.asarray(again + unit_rows(made.embedding) @ self._whole / 4, np.float64)


def encode_slide(slide_encoder: SlideEncoder, patches: Tokens) -> SlideEmbedding:
    return slide_encoder(patches.features, patches.coords, patches.patch_size_level0)


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Of two vectors; 0 where one of them is zero."""
    return float((unit_rows(a[None]) * unit_rows(b[None])).sum())
