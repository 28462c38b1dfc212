"""Read slides to train on from folders of h5 features, and split them by case into training and held-out slides."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from wsisum_cli.errors import FeaturesError, UsageError
from wsisum_cli.exports.tables import read_rows
from wsisum_cli.features.h5 import read_feature_file
from wsisum_cli.selection.candidates import cluster_features, draw_by_cluster

#: The patient in a TCGA slide name; any other slide is its own case, unless --case-regex or --cases is given.
TCGA_CASE = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}")

#: Patches per slide kept in memory, drawn by cluster from all.
POOL = 4_096
CLUSTERS = 50
#: Patches sampled to estimate the spacing if there is no grid.
SAMPLE = 256

Progress = Callable[[int, int], None]  # slides read, all slides
#: Called with each complete slide before sampling: name, features (N, D), coords (N, 2) in patch sides.
Visit = Callable[[str, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class TrainingSlide:
    """The patches of one slide to draw from: all, or a clustered sample of `POOL`.

    `features` (N, D) float32; `coords` (N, 2) float32 in patch sides, from the slide's least x and y;
    `cluster` (N,) int16. `patches` says how many the slide has in all, `sha256` is over its features and coords.
    """

    name: str
    case: str
    features: np.ndarray
    coords: np.ndarray
    cluster: np.ndarray
    patches: int
    sha256: str


@dataclass(frozen=True)
class TrainingData:
    """All slides, ascending by name, and the encoder of their features."""

    slides: tuple[TrainingSlide, ...]
    dims: int
    encoder: str  # name in the files; "" if they disagree or do not state it
    encoder_sha256: str  # "" if they disagree or do not state it

    @property
    def names(self) -> list[str]:
        return [slide.name for slide in self.slides]


@dataclass(frozen=True)
class Cases:
    """The case of a slide: by a table, by a pattern, by the TCGA patient, or else the slide itself."""

    table: Mapping[str, str] | None = None
    pattern: re.Pattern[str] | None = None

    def __call__(self, slide: str) -> str:
        """Raises UsageError when the table lacks the slide, or the pattern does not match."""
        if self.table is not None:
            if slide not in self.table:
                raise UsageError(f"--cases: no row for slide {slide}; add one")
            return self.table[slide]
        if self.pattern is not None:
            found = self.pattern.search(slide)
            if found is None:
                raise UsageError(f"--case-regex: {self.pattern.pattern!r} does not match slide {slide}")
            return (found[1] if self.pattern.groups else None) or found[0]
        patient = TCGA_CASE.match(PurePosixPath(slide).name)
        return patient[0] if patient else slide


def read_cases(table: Path | None, pattern: str | None) -> Cases:
    """Read cases from a CSV with the columns slide and case, or from a regular expression. Raises UsageError.

    A slide with an empty case in the table is its own case.
    """
    if table is not None and pattern is not None:
        raise UsageError("--cases and --case-regex: give one of them")
    if pattern is not None:
        try:
            return Cases(pattern=re.compile(pattern))
        except re.error as error:
            raise UsageError(f"--case-regex: {pattern!r} is no regular expression ({error})") from None
    if table is None:
        return Cases()
    try:
        columns, *found = [cells for _, cells in read_rows(table)] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table.name}: not a CSV file in UTF-8 ({error}); save it as one") from None
    if not {"slide", "case"} <= set(columns):
        raise UsageError(f"{table.name}: expected the columns slide and case, found {columns}")
    rows = [dict(zip(columns, cells, strict=False)) for cells in found]
    return Cases(table={row["slide"]: row.get("case") or row["slide"] for row in rows if "slide" in row})


def read_slides(
    folders: Sequence[Path],
    cases: Cases,
    pool: int = POOL,
    cache: Path | None = None,
    seed: int = 0,
    visit: Visit = lambda name, features, coords: None,
    progress: Progress = lambda done, total: None,
) -> TrainingData:
    """Read every h5 below the folders. `cache` is a folder that stores the clusters of patches between runs.

    Raises FeaturesError when there is none, one is damaged, or feature lengths differ.
    """
    paths = find_files(folders)
    case_of = {name: cases(name) for name in paths}
    slides: list[TrainingSlide] = []
    encoders: set[tuple[str, str]] = set()
    for number, (name, path) in enumerate(paths.items()):
        file = read_feature_file(path)
        found = file.features.shape[1]
        if slides and found != (dims := slides[0].features.shape[1]):
            raise FeaturesError(
                f"{path.name}: expected features of {dims} numbers, as {slides[0].name} has them, found {found}; "
                "take one of the two out of the folder, or encode it like the others"
            )
        coords = in_patch_sides(file.coords, file.patch_size_level0)
        slides.append(to_slide(file.features, coords, name, case_of[name], pool, cache, seed))
        visit(name, file.features, coords)
        encoders.add((file.encoder, file.encoder_sha256 or ""))
        progress(number + 1, len(paths))
    encoder, sha256 = encoders.pop() if len(encoders) == 1 else ("", "")
    return TrainingData(tuple(slides), slides[0].features.shape[1], "" if encoder == "unknown" else encoder, sha256)


def find_files(folders: Sequence[Path]) -> dict[str, Path]:
    """Map slide names to h5 files, ascending by name. A file found twice counts once.

    A slide is named after its file; if several files share a name, by its path in the folder, such as case0/1. Raises
    FeaturesError when there is none, or two have the same path.
    """
    files: dict[Path, tuple[Path, str]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.[hH]5")):
            if not path.name.startswith("."):
                files.setdefault(path.resolve(), (path, path_name(path, folder)))
    if not files:
        listed = ", ".join(folder.name for folder in folders)
        raise FeaturesError(f"{listed}: no h5 features here; make them with `wsisum features`", "no features")
    count = Counter(path.stem for path, _ in files.values())
    found: dict[str, Path] = {}
    for path, name in files.values():
        slide = path.stem if count[path.stem] == 1 else name
        if slide in found:
            raise FeaturesError(
                f"{slide}.h5: there are two of that name; slides are told apart by name: rename one, or give the "
                "folder that both lie in"
            )
        found[slide] = path
    return dict(sorted(found.items()))


def path_name(path: Path, folder: Path) -> str:
    """The path of a file in the folder, without suffix: case0/1."""
    return path.relative_to(folder).with_suffix("").as_posix()


def to_slide(
    features: np.ndarray, coords: np.ndarray, name: str, case: str, pool: int, cache: Path | None, seed: int
) -> TrainingSlide:
    """Keep a clustered sample of the slide's patches."""
    sha256 = hashlib.sha256(features.tobytes() + coords.tobytes()).hexdigest()
    cluster = cached_clusters(features, name, f"{sha256} {CLUSTERS} {seed}", cache, seed)
    rows = np.sort(draw_by_cluster(cluster, pool, seed))
    return TrainingSlide(name, case, features[rows], coords[rows], cluster[rows], len(coords), sha256)


def cached_clusters(features: np.ndarray, name: str, made_from: str, cache: Path | None, seed: int) -> np.ndarray:
    """Cluster (N,) int16 of each patch, from the cache if it was made from the same features."""
    path = cache / f"{name}.npz" if cache else None
    if path is not None and path.is_file():
        try:
            with np.load(path) as stored:
                if str(stored["made_from"]) == made_from:
                    return np.asarray(stored["cluster"], np.int16)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # damaged: compute again
    cluster: np.ndarray = cluster_features(features, CLUSTERS, seed)
    if path is not None:
        save_arrays(path, {"cluster": cluster, "made_from": np.array(made_from)})
    return cluster


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an npz atomically; several processes may write the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_name(f"{path.name}.{os.getpid()}.part")
    with waiting.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(waiting, path)


def in_patch_sides(coords: np.ndarray, side: float | None) -> np.ndarray:
    """Convert coords to patch sides from the slide's smallest x and y, (N, 2) float32; `side` None: estimate it."""
    return np.asarray((coords - coords.min(axis=0)) / (side or estimate_side(coords)), np.float32)


def estimate_side(coords: np.ndarray) -> float:
    """Estimate the patch side: the most frequent step between neighbours in a grid row or column, or the smallest such.

    If no two patches share a row or column, the median distance to the nearest patch, over a sample. 1 for a single
    patch.
    """
    steps: Counter[float] = Counter()
    for along, across in ((0, 1), (1, 0)):
        order = np.lexsort((coords[:, along], coords[:, across]))
        step = np.diff(coords[order], axis=0)
        beside = (step[:, across] == 0) & (step[:, along] > 0)
        steps.update(step[beside, along].tolist())
    if steps:
        most = max(steps.values())
        return min(step for step, count in steps.items() if count == most)
    if len(coords) < 2:
        return 1.0
    sample = np.linspace(0, len(coords) - 1, min(len(coords), SAMPLE)).astype(int)
    apart = [np.linalg.norm(np.delete(coords, row, axis=0) - coords[row], axis=1).min() for row in sample]
    return float(np.median(apart)) or 1.0


def hold_out(
    slides: Sequence[TrainingSlide], share: float, seed: int
) -> tuple[list[TrainingSlide], list[TrainingSlide]]:
    """Split into training and held-out slides by case. At least `share` of the slides are held out.

    A share of 0 holds out none. Raises UsageError when there are too few cases.
    """
    if not 0 <= share < 1:
        raise UsageError(f"--holdout: expected a share from 0 to below 1, found {share:g}")
    if share == 0:
        return list(slides), []
    cases = sorted({slide.case for slide in slides})
    if len(cases) < 2:
        raise UsageError(
            f"--holdout: all {len(slides)} slides are of one case ({cases[0]}); "
            "say which case a slide is of by --case-regex or --cases, or pass --holdout 0"
        )
    sizes = Counter(slide.case for slide in slides)
    held: set[str] = set()
    for case in np.random.default_rng(seed).permutation(cases)[:-1]:
        if sum(sizes[name] for name in held) >= share * len(slides):
            break
        held.add(str(case))
    return [s for s in slides if s.case not in held], [s for s in slides if s.case in held]


@dataclass(frozen=True)
class Draw:
    """Candidates of one slide: `features` (M, D), `coords` (M, 2) in patch sides; `rows` (M,) of its pool."""

    features: np.ndarray
    coords: np.ndarray
    rows: np.ndarray


def draw_candidates(
    slide: TrainingSlide, count: int, rng: np.random.Generator, crop: float = 1.0, turn: bool = False
) -> Draw:
    """Draw a clustered random sample of the slide, from the patches around a random one.

    `crop` is the fraction of patches to draw from: those nearest to a random one, by the larger distance in x or y.
    `turn` applies one of the eight rotations and reflections of a grid to the coords.
    """
    inside = np.arange(len(slide.coords))
    if crop < 1:
        centre = slide.coords[rng.integers(len(inside))]
        nearest = np.argsort(np.abs(slide.coords - centre).max(axis=1), kind="stable")
        inside = np.sort(nearest[: max(round(crop * len(inside)), min(count, len(inside)))])
    drawn = draw_by_cluster(slide.cluster[inside], count, int(rng.integers(2**63)))
    rows = inside[np.sort(drawn)]
    coords = slide.coords[rows]
    if turn:
        coords = turned(coords, int(rng.integers(8)))
    return Draw(slide.features[rows], coords, rows)


def turned(coords: np.ndarray, way: int) -> np.ndarray:
    """Apply one of the eight rotations and reflections of the square; 0 is the identity."""
    signs = np.array([1 - 2 * (way & 1), 1 - (way & 2)], np.float32)
    return coords[:, ::-1] * signs if way & 4 else coords * signs
