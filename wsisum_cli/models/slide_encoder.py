"""Slide encoders: features of all tissue patches go in, a slide embedding and prototypes of its regions come out.

SLPD (Slide-level Prototypical Distillation, MICCAI 2023) at run time: regions of patches are embedded, and the regions
of a slide are summarized by a few prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.errors import ModelError
from wsisum_cli.models.card import SHARES, SLIDE_ENCODER, SlideEncoderCard, parse_slide_encoder_card, read_fields
from wsisum_cli.models.session import Session, open_session
from wsisum_cli.models.summarizer import Ports, check_features, check_graph, in_patch_sides, run_graph


@dataclass(frozen=True)
class SlideEmbedding:
    """The output of a slide encoder."""

    embedding: NDArray[np.float32]  # (E,) of the slide
    prototypes: NDArray[np.float32]  # (P, F) centres of similar regions
    prototype_weights: NDArray[np.float32]  # (P,) share of the regions closest to each; 0 if unused
    attention: NDArray[np.float32] | None = None  # (N,) share of each patch; None if the model does not output it


class SlideEncoder(Protocol):
    """Turns a slide's patches into one embedding. Safe to call from several threads."""

    @property
    def card(self) -> SlideEncoderCard: ...

    @property
    def provider(self) -> str:
        """The active provider: "CPUExecutionProvider" or "CUDAExecutionProvider"."""
        ...

    def __call__(
        self, features: NDArray[np.floating[Any]], coords: NDArray[np.number[Any]], patch_size_level0: float
    ) -> SlideEmbedding:
        """Encode features (N, D) at coords (N, 2) in level-0 px."""
        ...


@dataclass(frozen=True)
class OnnxSlideEncoder:
    """A `SlideEncoder` that runs an ONNX file, one slide at a time."""

    card: SlideEncoderCard
    provider: str
    _session: Session = field(repr=False)
    has_attention: bool = False  # whether the graph has this output

    def __call__(
        self, features: NDArray[np.floating[Any]], coords: NDArray[np.number[Any]], patch_size_level0: float
    ) -> SlideEmbedding:
        """Encode features (N, D) at coords (N, 2) in level-0 px.

        Raises ModelError for features of wrong length or not finite, when the model fails, and when its output is not
        finite, has a wrong shape, or has weights that are not shares.
        """
        check_features(features, coords, self.card.dims, self._error)
        feeds = {"features": features.astype(np.float32), "coords": in_patch_sides(coords, patch_size_level0)}
        names = ("embedding", "prototypes", "prototype_weights", *(("attention",) if self.has_attention else ()))
        embedding, prototypes, weights, *rest = run_graph(self._session, feeds, names)
        count = self.card.prototypes
        fits = embedding.shape == (self.card.embedding_dims,) and weights.shape == (count,)
        if not fits or prototypes.ndim != 2 or len(prototypes) != count:
            raise self._error(
                f"expected an embedding ({self.card.embedding_dims},), {count} prototypes and their weights, found "
                f"{embedding.shape}, {prototypes.shape}, {weights.shape}; export it again"
            )
        if rest and rest[0].shape != (len(features),):
            raise self._error(f"expected attention ({len(features)},), found {rest[0].shape}; export it again")
        if not all(np.isfinite(value).all() for value in (embedding, prototypes, weights, *rest)):
            raise self._error("expected finite numbers, found NaN or infinity; it cannot be used on these features")
        if weights.min() < 0 or abs(float(weights.sum(dtype=np.float64)) - 1) > SHARES:
            raise self._error(f"expected shares of the regions as prototype_weights, found a sum of {weights.sum():g}")
        return SlideEmbedding(embedding, prototypes, weights, rest[0] if rest else None)

    def _error(self, message: str) -> ModelError:
        return ModelError(f"model {self.card.name!r} (sha256 {self.card.sha256[:12]}): {message}")

    def try_once(self) -> None:
        """Run a few patches of several regions, and a single patch. Raises ModelError when that fails."""
        rng = np.random.default_rng(0)
        features = rng.standard_normal((9, self.card.dims)).astype(np.float32)
        coords = np.stack(np.divmod(np.arange(9), 3), axis=1) * self.card.region
        self(features, coords, 1)
        self(features[:1], coords[:1], 1)


def load_slide_encoder(path: Path, device: str = "auto") -> SlideEncoder:
    """Load a slide encoder from an ONNX file. `device` is "cpu", "cuda", or "auto".

    Raises ModelError when the file is unusable, DeviceError when "cuda" does not become active, UsageError for an
    unknown device.
    """
    return open_session(path, device, _serve, arena=False)  # slides differ in their number of patches


def _serve(session: Session) -> OnnxSlideEncoder:
    card = parse_slide_encoder_card(read_fields(session.metadata, session.source, SLIDE_ENCODER), session.sha256)
    inputs: Ports = {"features": (np.float32, (None, card.dims)), "coords": (np.float32, (None, 2))}
    outputs: Ports = {
        "embedding": (np.float32, (card.embedding_dims,)),
        "prototypes": (np.float32, (card.prototypes, None)),
        "prototype_weights": (np.float32, (card.prototypes,)),
    }
    has_attention = any(port.name == "attention" for port in session.outputs)
    if has_attention:
        outputs = {**outputs, "attention": (np.float32, (None,))}
    check_graph(session, inputs, outputs)
    slide_encoder = OnnxSlideEncoder(card, session.provider, session, has_attention)
    slide_encoder.try_once()
    return slide_encoder
