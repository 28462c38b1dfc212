"""Slides of an archive that are the same: byte by byte, or the same glass scanned or exported twice.

Byte-identical slides have one sha256, and so has one slide that was summarized twice: summaries do not say where a
slide lies. The others are looked for among those with like vectors, and are proved by laying their overviews on each
other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from wsisum_cli.archive.likeness.registration import Alignment, Picture, align
from wsisum_cli.archive.likeness.vectors import MEAN, UNKNOWN_MODEL, Archive, Model, SlideVectors, unit_matrix
from wsisum_cli.errors import SummaryError
from wsisum_cli.summary.reader import open_summary

SAME_FILE, SAME_GLASS, SAME_BLOCK = "same file", "same glass", "same block or same glass"
CLASSES = (SAME_FILE, SAME_GLASS, SAME_BLOCK)
NEAREST = 8  # slides by mean features that each slide is laid on
LEAST_COSINE = 0.6  # of mean features, below which two slides are not laid on each other
#: Figures of an alignment, measured on pairs that are known (docs/duplicates.md).
GLASS_CORRELATION, GLASS_AGREEING, GLASS_OVERLAP = 0.8, 0.8, 0.5
BLOCK_CORRELATION, BLOCK_OVERLAP, BLOCK_MATCHES = 0.25, 0.5, 20
HELD = 64  # pictures kept in memory
CELLS = 1 << 23  # cosines computed at a time

#: Called with the number of pairs looked at, and of all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pair:
    """Two slides, what they are to each other, and the evidence; no cosine or alignment for one file."""

    first: SlideVectors
    second: SlideVectors
    relation: str  # of `CLASSES`
    cosine: float | None = None  # of mean features
    alignment: Alignment | None = None

    @property
    def words(self) -> str:
        """The evidence in a line."""
        found = self.alignment
        if found is None:
            return f"two summaries of one content, sha256 {self.first.sha256}"
        turned = "" if min(found.turn, 360 - found.turn) < 0.25 else f", turned by {found.turn:.1f} degrees"
        turned += ", mirrored" if found.mirrored else ""
        sizes = "" if abs(found.scale - 1) < 0.03 else f", {found.scale:.2f} times the size that the pixel sizes say"
        return (
            f"fine structure correlates {found.correlation:.2f} where tissue overlaps, {found.agreeing:.0%} of it "
            f"agrees, {found.overlap:.0%} of the smaller tissue overlaps{turned}{sizes}"
        )


@dataclass(frozen=True)
class Duplicates:
    """The pairs that were found, and what was looked at."""

    pairs: Sequence[Pair]
    slides: int
    compared: int  # pairs laid on each other
    left_out: Mapping[str, str] = field(default_factory=dict)  # summary -> why it was not laid on any other
    unread: bool = False  # whether one of them could not be read


def find_duplicates(archive: Archive, progress: Progress = lambda done, total: None) -> Duplicates:
    """All pairs of slides that are the same, byte-identical ones first. Nothing is said of different pixels."""
    groups = same_files(archive.slides)
    pairs = [Pair(group[0], other, SAME_FILE) for group in groups for other in group[1:]]
    unique = [group[0] for group in groups]
    candidates = list(find_candidates(unique))
    pictures = Pictures()
    for done, (first, second, cosine) in enumerate(candidates):
        progress(done, len(candidates))
        found = compare(pictures, first, second, cosine)
        pairs += [found] if found is not None else []
    progress(len(candidates), len(candidates))
    unknown = {slide.summary: UNKNOWN_MODEL for slide in unique if slide.model(MEAN) is None}
    left_out = dict(sorted({**archive.unreadable, **unknown, **pictures.failed}.items()))
    unread = bool(archive.unreadable or pictures.failed)
    return Duplicates(sorted(pairs, key=pair_key), len(archive.slides), len(candidates), left_out, unread)


def pair_key(pair: Pair) -> tuple[int, float, str, str]:
    correlation = pair.alignment.correlation if pair.alignment is not None else 1.0
    return CLASSES.index(pair.relation), -correlation, pair.first.summary, pair.second.summary


def same_files(slides: Sequence[SlideVectors]) -> list[list[SlideVectors]]:
    """Slides by the bytes they were made from, in order."""
    groups: dict[tuple[str, int | None], list[SlideVectors]] = {}
    for slide in slides:
        groups.setdefault(slide.identity, []).append(slide)
    return list(groups.values())


def find_candidates(slides: Sequence[SlideVectors]) -> Iterator[tuple[SlideVectors, SlideVectors, float]]:
    """Pairs with like mean features by the same model, and their cosine."""
    by_model: dict[Model, list[SlideVectors]] = {}
    for slide in slides:
        model = slide.model(MEAN)
        if model is not None:
            by_model.setdefault(model, []).append(slide)
    for model, same in by_model.items():
        for (first, second), cosine in sorted(like_pairs(unit_matrix(same, model)).items()):
            yield same[first], same[second], cosine


def like_pairs(
    vectors: np.ndarray, nearest: int = NEAREST, least: float = LEAST_COSINE
) -> dict[tuple[int, int], float]:
    """Pairs of rows of (N, D) unit vectors, the lower row first, one of them among the nearest of the other."""
    found: dict[tuple[int, int], float] = {}
    step = max(1, CELLS // max(1, len(vectors)))
    for start in range(0, len(vectors), step):
        block = slice(start, start + step)
        cosines = vectors[block] @ vectors.T
        rows = np.arange(len(vectors))[block]
        cosines[np.arange(len(rows)), rows] = -2
        count = min(nearest, len(vectors) - 1)
        for row, others in zip(rows, np.argpartition(-cosines, max(count - 1, 0), axis=1)[:, :count], strict=True):
            for other in others[cosines[row - rows[0], others] >= least].tolist():
                pair = (min(int(row), other), max(int(row), other))
                found[pair] = float(min(1.0, cosines[row - rows[0], other]))
    return found


class Pictures:
    """Overviews of summaries, read when they are needed, the latest few kept."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Picture] = OrderedDict()
        self.failed: dict[str, str] = {}  # summary -> why its overview cannot be read

    def __call__(self, slide: SlideVectors) -> Picture | None:
        if slide.summary in self.failed:
            return None
        if slide.path not in self._held:
            try:
                self._held[slide.path] = Picture(*read_overview(slide.path))
            except SummaryError as error:
                self.failed[slide.summary] = str(error)
                return None
            # One file that somebody made to do harm never ends the search of an archive.
            except Exception as error:  # noqa: BLE001
                name = PurePosixPath(slide.summary).name
                self.failed[slide.summary] = f"{name}: its overview cannot be read ({type(error).__name__}); verify it"
                return None
        self._held.move_to_end(slide.path)
        while len(self._held) > HELD:
            self._held.popitem(last=False)
        return self._held[slide.path]


def read_overview(path: str) -> tuple[np.ndarray, float]:
    """The finest overview (H, W, 3) uint8 of a summary, and its µm per px. Raises SummaryError."""
    with open_summary(path) as summary:
        overview, source = summary.overview, summary.record.source
        return overview, source.mpp * source.width / overview.shape[1]


def compare(pictures: Pictures, first: SlideVectors, second: SlideVectors, cosine: float) -> Pair | None:
    """The pair with its evidence; None where there is none that the slides are the same."""
    one, other = pictures(first), pictures(second)
    alignment = align(one, other) if one is not None and other is not None else None
    relation = judge(alignment) if alignment is not None else None
    return Pair(first, second, relation, cosine, alignment) if relation is not None else None


def judge(alignment: Alignment) -> str | None:
    """What two slides are to each other, by how their overviews agree; None where nothing shows that they are alike."""
    correlation, agreeing, overlap = alignment.correlation, alignment.agreeing, alignment.overlap
    if correlation >= GLASS_CORRELATION and agreeing >= GLASS_AGREEING and overlap >= GLASS_OVERLAP:
        return SAME_GLASS
    if correlation >= BLOCK_CORRELATION and overlap >= BLOCK_OVERLAP and alignment.matches >= BLOCK_MATCHES:
        return SAME_BLOCK
    return None
