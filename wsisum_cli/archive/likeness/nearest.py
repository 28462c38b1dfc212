"""The slides of an archive that are most like one slide, by vectors of one model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wsisum_cli.archive.likeness.vectors import (
    ANOTHER_MODEL,
    KINDS,
    MEAN,
    SLIDE_ENCODER,
    UNKNOWN_MODEL,
    UNREADABLE,
    Archive,
    Model,
    SlideVectors,
    unit_matrix,
)
from wsisum_cli.errors import UsageError


@dataclass(frozen=True)
class Neighbour:
    """A slide, and how like the query it is."""

    slide: SlideVectors
    cosine: float
    same_file: bool  # whether it is byte-identical with the query


@dataclass(frozen=True)
class Nearest:
    """The most similar slides, most similar first."""

    query: SlideVectors
    model: Model
    compared: int
    left_out: Mapping[str, int]  # why, and how many
    neighbours: Sequence[Neighbour]


def find_nearest(query: SlideVectors, archive: Archive, top: int, kind: str | None = None) -> Nearest:
    """The `top` slides most like the query, which is no neighbour of itself, by vectors of one `kind`.

    None: the slide encoder's, where all slides with features of the query's encoder have an embedding of the same one,
    else mean features. Raises UsageError where no slide can be compared.
    """
    others = [slide for slide in archive.slides if slide.path != query.path]
    model = choose_model(query, others, kind)
    same = [slide for slide in others if model in slide.vectors]
    if not same:
        raise UsageError(
            f"{query.slide}: no other slide has {model.kind} by {model.name}; compress them with the same model"
        )
    cosines = unit_matrix([query, *same], model)
    order, found = rank(cosines[1:], cosines[0], top)
    left_out = Counter(why_left_out(slide, model) for slide in others if model not in slide.vectors)
    left_out[UNREADABLE] += len(archive.unreadable)
    return Nearest(
        query=query,
        model=model,
        compared=len(same),
        left_out={why: count for why, count in sorted(left_out.items()) if count},
        neighbours=[
            Neighbour(same[row], cosine, same[row].identity == query.identity)
            for row, cosine in zip(order.tolist(), found.tolist(), strict=True)
        ],
    )


def choose_model(query: SlideVectors, others: Sequence[SlideVectors], kind: str | None) -> Model:
    """Raises UsageError where the query has no vector of that kind."""
    if kind is not None:
        model = query.model(kind)
        if model is None:
            raise UsageError(
                f"{query.slide}: it has no {kind}; compare by {' or '.join(k for k in KINDS if k != kind)}"
            )
        return model
    mean, embedding = query.model(MEAN), query.model(SLIDE_ENCODER)
    if mean is None:
        raise UsageError(f"{query.slide}: {UNKNOWN_MODEL}, so nothing can be compared; compress it without --features")
    same = [slide for slide in others if mean in slide.vectors]
    return embedding if embedding is not None and all(embedding in slide.vectors for slide in same) else mean


def why_left_out(slide: SlideVectors, model: Model) -> str:
    if slide.model(MEAN) is None:
        return UNKNOWN_MODEL
    return ANOTHER_MODEL if slide.model(model.kind) is not None else f"it has no {model.kind}"


def rank(vectors: np.ndarray, query: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the `top` (N, D) unit vectors nearest to a (D,) unit vector, nearest first, and their cosines."""
    cosines = np.clip(vectors @ query, -1, 1)
    top = min(top, len(cosines))
    nearest = np.argpartition(-cosines, top - 1)[:top] if top < len(cosines) else np.arange(top)
    order = nearest[np.lexsort((nearest, -cosines[nearest]))]
    return order, cosines[order]
