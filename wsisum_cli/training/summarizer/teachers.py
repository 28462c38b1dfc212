"""The slide target: embeddings of several slide foundation models, fused by a principal component analysis.

WSISum (Medical Image Analysis 110:103970, 2026) joins the embeddings of TITAN, CHIEF and PRISM and reduces them by a
PCA. Here any number of teachers serve. Each is centred and scaled to the same total variance, so that none outweighs
another by its length or its dims. Embeddings that a slide lacks are filled in by iterative PCA: what the components
found so far predict for them, until that settles (Josse and Husson, 2012).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.errors import FeaturesError, UsageError
from wsisum_cli.features.h5 import read_embedding_file
from wsisum_cli.training.data import path_name, save_arrays

Array = NDArray[np.float64]

#: With fewer slides a PCA says more of the slides than of the teachers.
FEWEST_SLIDES = 8
#: No more dims than the reference has.
MOST_DIMS = 768
ROUNDS = 30
#: Of the variance of a component: what a score predicted from a part of the teachers is shrunk by.
NOISE = 0.01


@dataclass(frozen=True)
class Teacher:
    """A slide model, by the embeddings it gave: slide name -> (dims,) float32."""

    name: str
    dims: int
    embeddings: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Fusion:
    """How embeddings of the teachers become one target; all of it that the training slides determine."""

    names: tuple[str, ...]
    dims: tuple[int, ...]  # of each teacher
    slides: tuple[int, ...]  # that each teacher has, of those it was fitted on
    means: Array  # (sum of dims,)
    scales: Array  # (sum of dims,): what is divided by, one number for each teacher
    axes: Array  # (E, sum of dims), orthonormal
    variances: Array  # (E,) of the scores
    explained: float  # share of the variance

    def __call__(self, teachers: Sequence[Teacher], slide: str) -> np.ndarray | None:
        """The target (E,) float32 of a slide, from the teachers that have it; None where none has."""
        values, known = joined(teachers, [slide])
        if not known.any():
            return None
        values = np.where(known, (values - self.means) / self.scales, 0)
        if known.all():
            return np.asarray(self.axes @ values[0], np.float32)
        # The most likely scores, given the part of the axes that is known.
        axes = self.axes[:, known[0]]
        noise = np.diag(NOISE * self.variances.mean() / np.maximum(self.variances, 1e-12))
        return np.asarray(np.linalg.solve(axes @ axes.T + noise, axes @ values[0, known[0]]), np.float32)

    def summary(self) -> dict[str, Any]:
        """What the model's card says of it."""
        teachers = [
            {"name": name, "dims": dims, "slides": slides}
            for name, dims, slides in zip(self.names, self.dims, self.slides, strict=True)
        ]
        return {"teachers": teachers, "explained_variance": round(self.explained, 4)}

    def save(self, path: Path) -> None:
        """As npz, readable without pickle."""
        save_arrays(path, {name: np.asarray(value) for name, value in vars(self).items()})


def load_fusion(path: Path) -> Fusion:
    """What `Fusion.save` wrote. Raises FeaturesError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Fusion(
                names=tuple(stored["names"].tolist()),
                dims=tuple(stored["dims"].tolist()),
                slides=tuple(stored["slides"].tolist()),
                means=stored["means"],
                scales=stored["scales"],
                axes=stored["axes"],
                variances=stored["variances"],
                explained=float(stored["explained"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FeaturesError(f"{path.name}: not a fusion of teachers; train the summarizer again") from error


def parse_teachers(options: Sequence[str]) -> dict[str, Path]:
    """NAME=DIR each. Raises UsageError for anything else, a name twice, or a folder that is not there."""
    folders: dict[str, Path] = {}
    for option in options:
        name, equals, folder = option.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"--teacher: expected NAME=DIR, found {option!r}")
        if name in folders:
            raise UsageError(f"--teacher: {name} is given twice")
        if not Path(folder).is_dir():
            raise UsageError(f"--teacher: {name}: no such folder: {folder}")
        folders[name] = Path(folder)
    return folders


def read_teacher(name: str, folder: Path, slides: Sequence[str]) -> Teacher:
    """The embeddings of these slides, from files named like them anywhere below the folder.

    Slides that go by a path, as case0/1, have theirs at that path in it.

    Raises FeaturesError when no slide has one, two files are of one name, or one is damaged or of another length.
    """
    wanted = set(slides)
    #: Names that say too little: slides go by their paths.
    shared = {PurePosixPath(slide).name for slide in wanted if "/" in slide}
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.[hH]5")):
        place = path_name(path, folder)
        slide = place if place in wanted or path.stem in shared else path.stem
        if slide in wanted:
            if slide in found:
                raise FeaturesError(f"teacher {name}: two files are called {path.name}; keep one")
            found[slide] = path
    if not found:
        example = f"{min(wanted)}.h5" if wanted else "SLIDE.h5"
        raise FeaturesError(
            f"teacher {name}: expected embeddings named like the slides ({example}), found none of {len(wanted)}; "
            "is it the right folder?"
        )
    embeddings: dict[str, np.ndarray] = {}
    dims: int | None = None
    for slide, path in found.items():
        embeddings[slide] = read_embedding_file(path, dims)
        dims = len(embeddings[slide])
    return Teacher(name, dims or 0, embeddings)


def fit_fusion(teachers: Sequence[Teacher], slides: Sequence[str], dims: int | None = None) -> Fusion:
    """Fit to the training slides. `dims` is the length of the target; by default one less than there are slides.

    Raises FeaturesError when too few slides have an embedding: a PCA of n slides has n - 1 components at most.
    """
    covered = [slide for slide in slides if any(slide in teacher.embeddings for teacher in teachers)]
    needed = max(FEWEST_SLIDES, (dims or 0) + 1)
    if len(covered) < needed:
        raise FeaturesError(
            f"a target of {dims or 'several'} dims needs embeddings of at least {needed} training slides, found "
            f"{len(covered)}; a PCA of n slides has n - 1 components at most: add slides, or lower --embedding-dims"
        )
    values, known = joined(teachers, covered)
    few = [teacher.name for teacher in teachers if sum(slide in teacher.embeddings for slide in covered) < 2]
    if few:
        raise FeaturesError(f"teacher {few[0]}: has fewer than two of the training slides; leave it out")
    means = np.nanmean(np.where(known, values, np.nan), axis=0)
    scales = block_scales(values - means, known, teachers)
    values = np.where(known, (values - means) / scales, 0)
    count = dims or min(MOST_DIMS, len(covered) - 1, values.shape[1])
    if count > values.shape[1]:
        raise FeaturesError(f"--embedding-dims: the teachers have {values.shape[1]} dims together, found {count}")
    axes, singular = components(values, known, count)
    scores = values @ axes.T
    total = float((values[known] ** 2).sum())
    residual = float(((values - scores @ axes)[known] ** 2).sum())
    return Fusion(
        names=tuple(teacher.name for teacher in teachers),
        dims=tuple(teacher.dims for teacher in teachers),
        slides=tuple(sum(slide in teacher.embeddings for slide in covered) for teacher in teachers),
        means=means,
        scales=scales,
        axes=axes,
        variances=singular**2 / len(covered),
        explained=1 - residual / max(total, 1e-12),
    )


def joined(teachers: Sequence[Teacher], slides: Sequence[str]) -> tuple[Array, NDArray[np.bool_]]:
    """(n, sum of dims) embeddings beside each other, 0 where missing, and which are known."""
    blocks, known = [], []
    for teacher in teachers:
        rows = [teacher.embeddings.get(slide) for slide in slides]
        blocks.append(np.stack([np.zeros(teacher.dims) if row is None else row.astype(np.float64) for row in rows]))
        known.append(np.repeat([[row is not None] for row in rows], teacher.dims, axis=1))
    return np.concatenate(blocks, axis=1), np.concatenate(known, axis=1)


def block_scales(deviations: Array, known: NDArray[np.bool_], teachers: Sequence[Teacher]) -> Array:
    """(sum of dims,): for each teacher the root of its total variance. Raises FeaturesError where that is 0."""
    scales, start = np.empty(deviations.shape[1]), 0
    for teacher in teachers:
        block = slice(start, start + teacher.dims)
        there = known[:, block][:, :1]
        variance = float((np.where(there, deviations[:, block], 0) ** 2).sum() / there.sum())
        if variance <= 0:
            raise FeaturesError(f"teacher {teacher.name}: gives all slides the same embedding; leave it out")
        scales[block], start = np.sqrt(variance), start + teacher.dims
    return scales


def components(values: Array, known: NDArray[np.bool_], count: int) -> tuple[Array, Array]:
    """(E, sum of dims) axes and their singular values. Fills what is not known in `values` in place."""
    for _ in range(1 if known.all() else ROUNDS):
        left, singular, axes = np.linalg.svd(values, full_matrices=False)
        kept = count if known.all() else min(count, max(1, len(values) // 2))  # of half, so as not to fit the gaps
        fitted = (left[:, :kept] * singular[:kept]) @ axes[:kept]
        values[~known] = fitted[~known]
    left, singular, axes = np.linalg.svd(values, full_matrices=False)
    largest = np.abs(axes).argmax(axis=1)  # the sign of an axis is free: its largest number is positive
    axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
    return axes[:count], singular[:count]
