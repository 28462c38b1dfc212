"""Run a model on small input, to check that it behaves as models of its kind must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.errors import ModelError
from wsisum_cli.models.card import ENCODER, SUMMARIZER, AnyCard, SummarizerCard, parse_summarizer_card, read_fields
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.models.session import Session, open_session
from wsisum_cli.models.slide_encoder import load_slide_encoder
from wsisum_cli.models.summarizer import load_summarizer, run_graph

#: Largest difference between outputs that must be equal, relative to the largest value.
SAME = 1e-3
RESULTS = ("reconstruction", "embedding")
VALID = 4  # valid rows in the trial input of a summarizer
BATCH = 4  # enough to show whether neighbours in a batch matter; large models take seconds per patch


def try_model(path: Path, kind: str, device: str = "auto") -> AnyCard:
    """Load a model of this kind, test it, and return its card.

    Raises ModelError when it is unusable or does not behave as its kind must; DeviceError and UsageError as loading.
    """
    if kind == ENCODER:
        return _try_encoder(path, device)
    return _try_summarizer(path, device) if kind == SUMMARIZER else _try_slide_encoder(path, device)


def _try_encoder(path: Path, device: str) -> AnyCard:
    """Check that the features of a patch are repeatable, and do not depend on its batch position or neighbours."""
    encoder = load_encoder(path, device, batch_size=BATCH)
    patches = _patches(3, encoder.card.patch_size)
    features = encoder(patches)
    if not _same(features, encoder(patches)):
        raise _unsteady(path.name, "the same features of the same patches")
    again = encoder(patches[::-1].copy())[::-1]
    if not _same(features, again):
        raise ModelError(
            f"{path.name}: expected the features of a patch not to depend on its position in a batch, found that they "
            "do; export the model in evaluation mode"
        )
    if not _same(features[:1], encoder(patches[:1])):
        raise ModelError(
            f"{path.name}: expected the features of a patch not to depend on the others in its batch, found that they "
            "do; export the model in evaluation mode"
        )
    if _same(features[:1], features[1:2]) and _same(features[1:2], features[2:]):
        raise ModelError(f"{path.name}: expected features that differ between patches, found three equal ones")
    return encoder.card


def _try_summarizer(path: Path, device: str) -> AnyCard:
    """Check that invalid rows change nothing. Loading already checks that masked features do not leak."""
    open_session(path, device, _try_twice)
    card = load_summarizer(path, device).card
    open_session(path, device, lambda session: _try_invalid_rows(session, card))
    return card


def _try_twice(session: Session) -> None:
    """Check repeatability before loading, where random output would look like a leak."""
    card = parse_summarizer_card(read_fields(session.metadata, session.source, SUMMARIZER), session.sha256)
    try:
        once, again = (run_graph(session, _candidates(card), RESULTS) for _ in range(2))
    except ModelError:
        return  # loading gives a better message about the graph
    finite = all(np.isfinite(made).all() for made in (*once, *again))
    if finite and not all(_same(one, other) for one, other in zip(once, again, strict=True)):
        raise _unsteady(session.source, "the same numbers for the same candidates")


def _candidates(card: SummarizerCard) -> dict[str, NDArray[Any]]:
    """Two choices among six rows, the last two of which are invalid."""
    rng, rows = np.random.default_rng(0), 6
    return {
        "features": rng.standard_normal((2, rows, card.dims)).astype(np.float32),
        "coords": np.stack([np.arange(rows), np.arange(rows) % 2], axis=1).astype(np.float32)[None].repeat(2, axis=0),
        "valid": np.arange(rows)[None].repeat(2, axis=0) < VALID,
        "kept": np.array([[0, 2], [1, 3]]),
    }


def _try_invalid_rows(session: Session, card: SummarizerCard) -> None:
    feeds, valid = _candidates(card), VALID
    reconstruction, embedding = run_graph(session, feeds, RESULTS)
    feeds["features"][:, valid:] += 3
    feeds["coords"][:, valid:] += 40
    other_reconstruction, other_embedding = run_graph(session, feeds, RESULTS)
    same = _same(reconstruction[:, :valid], other_reconstruction[:, :valid]) and _same(embedding, other_embedding)
    if not same:
        raise ModelError(
            f"{session.source}: expected invalid rows to change nothing, found that they do; mask them in "
            "the graph's attention and sums"
        )


def _try_slide_encoder(path: Path, device: str) -> AnyCard:
    """Check that the embedding of a slide is repeatable."""
    slide_encoder = load_slide_encoder(path, device)
    rng, side = np.random.default_rng(0), 2 * slide_encoder.card.region
    coords = rng.integers(0, side, (40, 2))
    features = rng.standard_normal((40, slide_encoder.card.dims)).astype(np.float32)
    first, second = (slide_encoder(features, coords, 1) for _ in range(2))
    if not _same(first.embedding, second.embedding):
        raise _unsteady(path.name, "the same embedding of the same slide")
    return slide_encoder.card


def _unsteady(source: str, expected: str) -> ModelError:
    return ModelError(
        f"{source}: expected {expected} again, found others; export the model in evaluation mode, without "
        "randomness (dropout, noise)"
    )


def _patches(count: int, side: int) -> NDArray[np.uint8]:
    """Patches (B, P, P, 3) of stain stripes on pink, each with another width."""
    rng, x = np.random.default_rng(0), np.arange(side)
    patches = np.empty((count, side, side, 3), np.float64)
    for i, patch in enumerate(patches):
        stripes = np.sin(x / (2.0 + 3 * i))[:, None] * np.cos(x / (5.0 + i))
        patch[:] = np.array([230.0, 170.0 - 20 * i, 210.0]) - 90 * np.maximum(stripes, 0)[..., None]
        patch += rng.normal(0, 4, patch.shape)
    return np.clip(patches, 0, 255).astype(np.uint8)


def _same(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> bool:
    return bool(np.abs(one - other).max() <= SAME * max(1e-6, float(np.abs(one).max())))
