"""The vectors of an archive's slides: all that ranking and pairing need to know of a summary.

`read_vectors` is the one source of them; what ranks and pairs does not know where they come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.archive.lookup import named_summaries, real_path
from wsisum_cli.archive.scope.filters import numbered
from wsisum_cli.archive.state.catalogue import current_rows
from wsisum_cli.errors import SummaryError
from wsisum_cli.summary.container import name_of
from wsisum_cli.summary.reader import Summary, open_summary

#: Kinds of vectors: the slide encoder's embedding, and the mean of the features of all tissue patches.
SLIDE_ENCODER, MEAN = "slide embedding", "mean features"
KINDS = (SLIDE_ENCODER, MEAN)
UNKNOWN_MODEL = "the model that made its features is not known"
#: What is read of a catalogue.
COLUMNS = (
    *("name", "image", "sha256", "tissue_mm2", "encoder", "encoder_sha256", "mean_features"),
    *("slide_encoder", "slide_encoder_sha256", "embedding", "embedding_of"),
)
ANOTHER_MODEL = "its features are of another model"
UNREADABLE = "its summary cannot be read"


@dataclass(frozen=True)
class Model:
    """What made a vector. Vectors of different models have nothing to do with each other."""

    kind: str
    name: str
    sha256: str


@dataclass(frozen=True)
class SlideVectors:
    """One slide of an archive."""

    path: str  # of the summary
    summary: str  # the same within the folder
    slide: str  # name of the slide, with its number where the file holds several
    sha256: str  # of the slide's files
    image: int | None  # which slide of these files
    tissue_mm2: float | None  # None before format 1.4
    vectors: Mapping[Model, np.ndarray]  # (D,) float32, at most one of each kind

    @property
    def identity(self) -> tuple[str, int | None]:
        """Equal for byte-identical slides alone."""
        return self.sha256, self.image

    def model(self, kind: str) -> Model | None:
        """The model of its vector of this kind; None where it has none."""
        return next((model for model in self.vectors if model.kind == kind), None)


@dataclass(frozen=True)
class Archive:
    """The slides whose summaries could be read, by path, and why the others could not."""

    slides: Sequence[SlideVectors]
    unreadable: Mapping[str, str] = field(default_factory=dict)


def read_vectors(folders: Sequence[str]) -> Archive:
    """The vectors of all summaries in folders, of each file once. Raises UsageError when a folder has none.

    Those that a catalogue has are taken from it; of the others the attributes and the vectors are read.
    """
    slides: list[SlideVectors] = []
    unreadable: dict[str, str] = {}
    rows: dict[str, SlideVectors] = {}  # by path of the summary
    files: dict[str, tuple[str, str]] = {}  # by real path: links give one file several names
    for folder in folders:
        rows |= {found.path: found for found in catalogued(folder)}
        for path, name in named_summaries([folder]):
            files.setdefault(real_path(path), (path, name))
    for path, name in files.values():
        if path in rows:
            slides.append(rows[path])
            continue
        try:
            with open_summary(path) as summary:
                slides.append(vectors_of(summary, path, name))
        except SummaryError as error:
            unreadable[name] = str(error)
        # One file that somebody made to do harm never ends the search of an archive.
        except Exception as error:  # noqa: BLE001
            unreadable[name] = f"{name_of(path)}: cannot be read ({type(error).__name__}); run wsisum verify on it"
    return Archive(slides, unreadable)


def catalogued(folder: str) -> Iterator[SlideVectors]:
    """The summaries in a folder whose vectors its catalogue has, as they are now."""
    if not Path(folder).is_dir():
        return
    for row in current_rows(Path(folder), COLUMNS).values():
        try:
            vectors = dict(vectors_in(row))
        except (ValueError, TypeError):  # not as a catalogue is written: its summary will say
            continue
        if vectors and all(np.isfinite(vector).all() for vector in vectors.values()):
            yield SlideVectors(
                path=str(Path(folder) / row["summary"]),
                summary=row["summary"],
                slide=numbered(row["name"], row["image"]),
                sha256=row["sha256"],
                image=row["image"],
                tissue_mm2=row["tissue_mm2"],
                vectors=vectors,
            )


def vectors_in(row: Mapping[str, Any]) -> Iterator[tuple[Model, np.ndarray]]:
    """The vectors in a row of a catalogue. Raises ValueError, TypeError for what is none."""
    if row["encoder_sha256"] is not None:
        yield Model(MEAN, row["encoder"], row["encoder_sha256"]), np.frombuffer(row["mean_features"], "<f4")
    if row["slide_encoder_sha256"] is not None and row["embedding_of"] == row["slide_encoder_sha256"]:
        name, sha256 = row["slide_encoder"], row["slide_encoder_sha256"]
        yield Model(SLIDE_ENCODER, name, sha256), np.frombuffer(row["embedding"], "<f4")


def vectors_of(summary: Summary, path: str, name: str) -> SlideVectors:
    """Raises SummaryError when its attributes or vectors are damaged."""
    record = summary.record
    source = record.source
    return SlideVectors(
        path=path,
        summary=name,
        slide=numbered(source.name, source.image),
        sha256=source.sha256,
        image=source.image,
        tissue_mm2=record.represented.tissue_mm2 if record.represented is not None else None,
        vectors=dict(found_vectors(summary)),
    )


def found_vectors(summary: Summary) -> Iterator[tuple[Model, np.ndarray]]:
    """The vectors whose model is known."""
    record = summary.record
    if record.features_encoder is not None:
        yield Model(MEAN, record.encoder.name, record.features_encoder), checked(summary, summary.embedding)
    if record.slide_encoder is not None and (embedding := summary.slide_embedding) is not None:
        card = record.slide_encoder
        yield Model(SLIDE_ENCODER, card.name, card.sha256), checked(summary, embedding)


def checked(summary: Summary, vector: np.ndarray) -> np.ndarray:
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise SummaryError(f"{summary.name}: a vector of the slide is damaged; run wsisum verify on it")
    return np.asarray(vector, np.float32)


def most_common(slides: Sequence[SlideVectors], kind: str) -> Model | None:
    """The model of this kind that most slides share, the first of equals; None where none has one."""
    counts = Counter(model for slide in slides if (model := slide.model(kind)) is not None)
    return counts.most_common(1)[0][0] if counts else None


def unit_matrix(slides: Sequence[SlideVectors], model: Model) -> np.ndarray:
    """(N, D) float32 vectors of length 1 by this model, which all slides have. Raises SummaryError when D differs."""
    dims = len(slides[0].vectors[model]) if slides else 0
    matrix = np.empty((len(slides), dims), np.float32)
    for row, slide in enumerate(slides):
        vector = slide.vectors[model]
        if len(vector) != dims:
            raise SummaryError(
                f"{slide.summary}: {len(vector)} features by {model.name}, others have {dims}; verify it"
            )
        matrix[row] = vector
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    np.divide(matrix, np.maximum(length, np.finfo(np.float32).tiny), out=matrix)
    return matrix
