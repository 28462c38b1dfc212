"""Slide embeddings, and how well whole-slide models reconstruct the slide from the kept patches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Coords, Features, unit_rows
from wsisum_cli.models.choice import NO_MODELS, SlideModels
from wsisum_cli.models.session import CUDA
from wsisum_cli.models.slide_encoder import SlideEmbedding, SlideEncoder
from wsisum_cli.models.summarizer import Summarizer

Rows = npt.NDArray[np.integer]

#: Most choices reconstructed at once: few on a CPU, so that a dozen of them keep all its threads busy.
CHOICES, CHOICES_ON_GPU = 4, 16


@dataclass(frozen=True)
class Tokens:
    """Patches as input of whole-slide models."""

    features: Features  # (N, D)
    coords: Coords  # (N, 2) level-0 px
    patch_size_level0: int

    def at(self, rows: Rows) -> Tokens:
        return Tokens(self.features[rows], self.coords[rows], self.patch_size_level0)


@dataclass(frozen=True)
class Reconstructed:
    """How well a summarizer reconstructs the candidates from the kept patches; cosines, -1..1.

    `reconstruction`: mean cosine, over candidates that are not kept, between reconstructed and true features; None if
    all are kept. `embedding_cosine`: between the embedding of the kept patches alone and `embedding`, (E,) float32,
    that of all candidates.
    """

    candidates: Rows  # (M,) rows of the tissue
    embedding: npt.NDArray[np.float32]
    embedding_cosine: float
    reconstruction: float | None

    def figures(self) -> dict[str, float | None]:
        return {"reconstruction": self.reconstruction, "embedding_cosine": self.embedding_cosine}


@dataclass(frozen=True)
class SlideEmbeddings:
    """Outputs of the whole-slide models for a slide; None where no model was used."""

    models: SlideModels = NO_MODELS
    reconstructed: Reconstructed | None = None
    slide: SlideEmbedding | None = None
    slide_cosine: float | None = None  # between the slide encoder's embedding of the kept patches alone and `slide`

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name within the group `reference`."""
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
        """Figures by name within the attribute `quality`."""
        figures: dict[str, float | None] = {"reconstruction": None, "embedding_cosine": None}
        return (
            figures
            | ({} if self.reconstructed is None else self.reconstructed.figures())
            | {"slide_cosine": self.slide_cosine}
        )


def embed_tissue(models: SlideModels, tissue: Tokens, candidates: Rows, kept: Rows) -> SlideEmbeddings:
    """Embed the tissue. `candidates` (M,) and `kept` (K,) are rows of it; a kept patch need not be a candidate.

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
    """Run the summarizer on all candidates, on the kept patches alone, and on both with the rest masked."""
    embedding = embed(summarizer, tissue.at(candidates))
    return Reconstructed(
        candidates,
        embedding,
        cosine(embed(summarizer, tissue.at(kept)), embedding),
        reconstruction(summarizer, tissue, candidates, kept),
    )


def reconstruction(summarizer: Summarizer, tissue: Tokens, candidates: Rows, kept: Rows) -> float | None:
    """Mean cosine of the reconstruction of candidates that are not kept; None if there are none."""
    masked = np.setdiff1d(candidates, kept)
    if not len(masked):
        return None
    rows = np.union1d(candidates, kept)
    visible = np.searchsorted(rows, kept)
    tokens = tissue.at(rows)
    output = summarizer(tokens.features, tokens.coords, tokens.patch_size_level0, visible[None]).reconstruction[0]
    true = unit_rows(tissue.features[masked])
    return float((unit_rows(output[np.searchsorted(rows, masked)]) * true).sum(axis=1).mean())


def embed(summarizer: Summarizer, patches: Tokens) -> npt.NDArray[np.float32]:
    """The summarizer's embedding (E,) of patches, none of them masked."""
    visible = np.arange(len(patches.features))[None]
    output = summarizer(patches.features, patches.coords, patches.patch_size_level0, visible)
    return np.asarray(output.embedding[0], np.float32)


class EmbeddingScore:
    """Scores patches by how close the summarizer's embedding of them alone is to that of all candidates."""

    def __init__(self, summarizer: Summarizer, tissue: Tokens, candidates: Rows) -> None:
        self._summarizer, self._tissue = summarizer, tissue
        self._whole = embed(summarizer, tissue.at(candidates))

    def __call__(self, choices: Rows) -> npt.NDArray[np.float64]:
        """Cosines (B,) of choices (B, K) of rows of the tissue. Raises ModelError."""
        rows, visible = np.unique(choices, return_inverse=True)
        tokens = self._tissue.at(rows)
        visible = visible.reshape(choices.shape)
        embeddings = self._summarizer(tokens.features, tokens.coords, tokens.patch_size_level0, visible).embedding
        return np.asarray(unit_rows(embeddings) @ unit_rows(self._whole[None])[0], np.float64)


class ReconstructionScore:
    """Both levels of WSISum in one score: how well the candidates are reconstructed from some patches, plus a quarter
    of the cosine between the embedding of these patches alone and that of all candidates. Scores are the same in any
    number of `threads`.
    """

    def __init__(self, summarizer: Summarizer, tissue: Tokens, candidates: Rows, threads: int = 1) -> None:
        self._summarizer, self._tissue, self._candidates = summarizer, tissue, candidates
        self._threads = threads
        self._whole = unit_rows(embed(summarizer, tissue.at(candidates))[None])[0]
        self._true = unit_rows(tissue.features[candidates])

    def __call__(self, choices: Rows) -> npt.NDArray[np.float64]:
        """Scores (B,) of choices (B, K) of rows of the tissue. Raises ModelError."""
        rows = np.union1d(self._candidates, choices)
        tokens, visible = self._tissue.at(rows), np.searchsorted(rows, choices)
        most = CHOICES_ON_GPU if self._summarizer.provider == CUDA else CHOICES
        # Parts of about the same length: a graph may round otherwise for a single choice.
        parts = np.array_split(visible, -(-len(visible) // most))
        with ThreadPoolExecutor(self._threads) as pool:
            return np.concatenate(list(pool.map(lambda part: self._of(tokens, rows, part), parts)))

    def _of(self, tokens: Tokens, rows: Rows, visible: Rows) -> npt.NDArray[np.float64]:
        output = self._summarizer(tokens.features, tokens.coords, tokens.patch_size_level0, visible)
        masked = np.ones((len(visible), len(rows)), bool)
        np.put_along_axis(masked, visible, False, axis=1)
        at = np.searchsorted(rows, self._candidates)
        masked = masked[:, at]
        cosines = np.stack([(unit_rows(one[at]) * self._true).sum(axis=1) for one in output.reconstruction])
        reconstruction = (cosines * masked).sum(axis=1) / np.maximum(masked.sum(axis=1), 1)
        return np.asarray(reconstruction + unit_rows(output.embedding) @ self._whole / 4, np.float64)


def encode_slide(slide_encoder: SlideEncoder, patches: Tokens) -> SlideEmbedding:
    return slide_encoder(patches.features, patches.coords, patches.patch_size_level0)


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Cosine of two vectors; 0 if either is zero."""
    return float((unit_rows(a[None]) * unit_rows(b[None])).sum())
