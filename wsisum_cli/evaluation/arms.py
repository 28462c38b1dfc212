"""The arms of an evaluation: slides as all their patches, as picked patches, or as summary slides."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsisum_cli import __version__
from wsisum_cli.errors import FeaturesError, SummaryError, UsageError
from wsisum_cli.features.h5 import FeatureFile, read_feature_file
from wsisum_cli.features.vectors import Rows
from wsisum_cli.quality.likeness import measure_likeness
from wsisum_cli.quality.represented import WANTED, fewest_picks, share_of
from wsisum_cli.selection.budget import AUTO, LEAST, MAX_KEEP, fewest
from wsisum_cli.selection.candidates import sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.prefixes import prefixes_of
from wsisum_cli.selection.selectors import NESTED, SELECTORS, pick, weigh
from wsisum_cli.summary.container import SUFFIX, visible_summaries
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.training.data import estimate_side, find_files, save_arrays

Weights = npt.NDArray[np.float64]

#: Most patches per slide for the attention network, drawn at random; the mean is that of all patches.
MOST = 4_096
#: Selectors that need more than features and coords, and cannot be used here.
NEED_MODELS = ("attention",)


@dataclass(frozen=True)
class Bag:
    """One slide in one arm.

    `features` (M, D) float32; `shares` (M,) of the tissue that each patch represents, all above 0, summing to 1;
    `mean` (D,) is the weighted mean; the arm keeps `kept` of the slide's `patches`.
    """

    features: npt.NDArray[np.float32]
    shares: Weights
    mean: Weights
    kept: int
    patches: int


@dataclass(frozen=True)
class Keep:
    """How many patches to keep: a number, or a share (0..1) of the slide's; by default as few as `compress` would."""

    number: int | None = None
    share: float | None = None

    def of(self, patches: int) -> int | None:
        """How many of a slide's patches to keep; None if represented tissue decides."""
        number = self.number if self.share is None else max(1, round(self.share * patches))
        return None if number is None else min(number, patches)

    def __str__(self) -> str:
        if self.share is not None:
            return f"{100 * self.share:g}%"
        return AUTO if self.number is None else str(self.number)


@dataclass(frozen=True)
class Arm:
    """The input of classification: all patches, those that a `selector` keeps, or summary slides."""

    name: str
    selector: str | None = None
    keep: Keep = Keep()


ALL, SUMMARIES = Arm("all"), Arm("summaries")


def parse_keep(text: str) -> Keep:
    """Parse a number such as 64, a share such as 5%, or auto. Raises UsageError."""
    if text == AUTO:
        return Keep()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%|(\d+)", text)
    if found and found[1] and 0 < float(found[1]) <= 100:
        return Keep(share=float(found[1]) / 100)
    if found and found[2] and int(found[2]) > 0:
        return Keep(number=int(found[2]))
    raise UsageError(f"--keep: expected a number of patches (64), a share of a slide's (5%) or auto, found {text!r}")


def arms_of(selectors: Sequence[str], keeps: Sequence[Keep], summaries: bool) -> list[Arm]:
    """The arm `all`, each selector with each K, and `summaries` if given. Raises UsageError."""
    for selector in selectors:
        if selector not in SELECTORS or selector in NEED_MODELS:
            usable = ", ".join(name for name in SELECTORS if name not in NEED_MODELS)
            why = (
                "needs a slide encoder; make summaries with it and give --summaries, or"
                if selector in SELECTORS
                else ""
            )
            raise UsageError(f"--selector {selector}: {why or 'there is none of this name;'} choose of {usable}")
    picked = [Arm(f"{selector} {keep}", selector, keep) for selector in selectors for keep in keeps]
    return list(dict.fromkeys([ALL, *picked, *([SUMMARIES] if summaries else [])]))


class Slide:
    """One slide's features, and the patches that selectors pick from them."""

    def __init__(self, path: Path, dims: int | None, seed: int) -> None:
        self.lost: float | None = None  # mean cosine of unpacked features to the true ones; None for true ones
        if path.suffix == SUFFIX:
            self.file, self.lost = unpacked_file(path, dims)
        else:
            self.file = read_feature_file(path, dims)
        self.seed = seed

    @property
    def features(self) -> npt.NDArray[np.float32]:
        return self.file.features

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.features.tobytes() + self.file.coords.tobytes()).hexdigest()

    @cached_property
    def tissue_patches(self) -> TissuePatches:
        """The selectors' input, computed on first use."""
        candidates = sample_candidates(self.features, seed=self.seed)
        side = self.file.patch_size_level0 or estimate_side(self.file.coords)
        places = np.rint(self.file.coords).astype(np.int64)
        return TissuePatches(self.features, places, candidates, self.seed, max(1, round(side)))


def find_slides(folders: Sequence[Path]) -> dict[str, Path]:
    """Map slide names to h5 files or, where the folders have none, to summaries. Raises FeaturesError."""
    try:
        return find_files(folders)
    except FeaturesError as error:
        found = [(path, folder) for folder in folders for path in sorted(visible_summaries(folder))]
        if error.reason != "no features" or not found:
            raise
    names = [path.name.removesuffix(SUFFIX) for path, _ in found]
    if len(set(names)) < len(names):
        names = [path.relative_to(folder).as_posix().removesuffix(SUFFIX) for path, folder in found]
    return dict(sorted((name, path) for name, (path, _) in zip(names, found, strict=True)))


def unpacked_file(path: Path, dims: int | None) -> tuple[FeatureFile, float]:
    """Features of all tissue that a summary holds packed, and their mean cosine to the true ones.

    Raises FeaturesError where it holds none, or not `dims` numbers a patch; SummaryError.
    """
    with open_summary(path) as summary:
        features, stated, record = summary.tissue_features, summary.record.tissue_features, summary.record
        coords = summary.tissue.coords.astype(np.float64)
    if features is None or stated is None:
        raise FeaturesError(
            f"{path.name}: holds features of its kept patches alone, expected those of all tissue; compress the slide "
            "with --tissue-features 64, or give h5 files of wsisum features"
        )
    if dims is not None and features.shape[1] != dims:
        raise FeaturesError(f"{path.name}: expected features of {dims} numbers, found {features.shape[1]}")
    side, sha256 = float(record.patch.patch_size_level0), record.features_encoder
    return FeatureFile(path.name, features, coords, side, record.encoder.name, sha256), stated.cosine_mean


def bags_of(
    slide: Slide, name: str, arms: Sequence[Arm], summary: Path | None, cache: Path | None, most: int
) -> dict[str, Bag]:
    """The slide in each arm. `cache` is a folder for picked rows; at most `most` patches of `all` stay in memory.

    Raises the errors of reading and picking, and FeaturesError if the summary has other features.
    """
    found = {}
    for arm in arms:
        if arm == ALL:
            found[arm.name] = all_patches(slide, most)
        elif arm == SUMMARIES:
            assert summary is not None
            found[arm.name] = kept_in_summary(summary, slide.file)
        else:
            found[arm.name] = picked_patches(slide, name, arm, cache)
    return found


def all_patches(slide: Slide, most: int) -> Bag:
    """The bag of all patches, with equal shares."""
    count = len(slide.features)
    rows = np.sort(np.random.default_rng(slide.seed).permutation(count)[:most])
    mean = slide.features.mean(axis=0, dtype=np.float64)
    return Bag(slide.features[rows], np.full(len(rows), 1 / len(rows)), mean, count, count)


def picked_patches(slide: Slide, name: str, arm: Arm, cache: Path | None) -> Bag:
    """The bag of picked patches. Shares are by represented patches; the mean uses the fitted weights."""
    count = len(slide.features)
    rows, counts, weights = cached_pick(slide, name, arm, cache)
    kept = slide.features[rows]
    return Bag(kept, counts / counts.sum(), weights @ kept.astype(np.float64), len(rows), count)


def cached_pick(slide: Slide, name: str, arm: Arm, cache: Path | None) -> tuple[Rows, Rows, Weights]:
    """Rows, counts and weights (K,), from the cache if it was made from the same features by the same selector."""
    path = cache / arm.name.replace(" ", "-") / f"{name}.npz" if cache else None
    made_from = f"{slide.sha256} {slide.seed} {arm.name} {__version__}"
    if path is not None and path.is_file():
        try:
            with np.load(path) as stored:
                if str(stored["made_from"]) == made_from:
                    return stored["rows"], stored["counts"], stored["weights"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # damaged: pick again
    assert arm.selector is not None
    keep = arm.keep.of(len(slide.features)) or fewest_representing(slide.tissue_patches, arm.selector)
    rows = pick(slide.tissue_patches, keep, arm.selector)
    selection = weigh(slide.features, rows)
    counts, weights = selection.counts, selection.weights
    if path is not None:
        save_arrays(path, {"rows": rows, "counts": counts, "weights": weights, "made_from": np.array(made_from)})
    return rows, counts, weights


def fewest_representing(tissue_patches: TissuePatches, selector: str) -> int:
    """How many patches `compress` would keep by default: the fewest that represent 95 % of the tissue, 8 to 256."""
    features, count = tissue_patches.features, len(tissue_patches.features)
    most = min(MAX_KEEP, count)
    cosine = measure_likeness(features, tissue_patches.coords, tissue_patches.patch_size_level0).cosine
    if selector in NESTED:
        found = fewest_picks(lambda keep: pick(tissue_patches, keep, selector), features, cosine, WANTED, most)
    else:
        found = fewest(lambda keep: share_kept(tissue_patches, keep, selector, cosine) >= WANTED, most)
    return min(max(found or most, LEAST), count)


def share_kept(tissue_patches: TissuePatches, keep: int, selector: str, cosine: float) -> float:
    """The share of the tissue that so many picks represent."""
    rows = pick(tissue_patches, keep, selector)
    return share_of(prefixes_of(tissue_patches.features, rows).of(keep)[1], cosine)


def kept_in_summary(path: Path, file: FeatureFile) -> Bag:
    """The bag of a summary slide. Raises SummaryError, and FeaturesError if it has other features."""
    with open_summary(path) as summary:
        features, weights = summary.features.astype(np.float32), summary.weights
        stands_for, made_by = summary.tissue.representative, encoder_of(summary)
    count = len(features)
    agree = weights.shape == (count,) and len(stands_for) and 0 <= stands_for.min() <= stands_for.max() < count
    if not agree:
        raise SummaryError(f"{path.name}: its features, weights and tissue do not agree; see `wsisum verify`")
    dims = file.features.shape[1]
    if features.shape[1] != dims or (made_by and file.encoder_sha256 and made_by != file.encoder_sha256):
        raise FeaturesError(
            f"{path.name}: expected features of the encoder that made {file.name} ({dims} numbers), found another's "
            f"({features.shape[1]}); give the --features that the summaries were made with"
        )
    stood_for = np.maximum(np.bincount(stands_for, minlength=count), 1)
    return Bag(features, stood_for / stood_for.sum(), weights @ features.astype(np.float64), count, len(stands_for))


def encoder_of(summary: Summary) -> str | None:
    """The sha256 of the encoder of its features, None where another program made them."""
    return summary.record.features_encoder


def read_bags(
    slides: Sequence[str],
    files: Mapping[str, Path],
    arms: Sequence[Arm],
    summaries: Mapping[str, Path],
    cache: Path | None = None,
    seed: int = 0,
    most: int = MOST,
    progress: Callable[[int, int], None] = lambda done, total: None,
    losses: list[float] | None = None,
) -> dict[str, list[Bag]]:
    """The bags of the `slides` in each arm, in order. `files` and `summaries` map slides to paths.

    `losses` gets the mean cosine of unpacked features to the true ones, of each slide that has such.

    Raises FeaturesError when a file is damaged or feature lengths differ, SummaryError when a summary is damaged.
    """
    found: dict[str, list[Bag]] = {arm.name: [] for arm in arms}
    dims = None
    for number, name in enumerate(slides):
        slide = Slide(files[name], dims, seed)
        dims = slide.features.shape[1]
        if losses is not None and slide.lost is not None:
            losses.append(slide.lost)
        for arm, bag in bags_of(slide, name, arms, summaries.get(name), cache, most).items():
            found[arm].append(bag)
        progress(number + 1, len(slides))
    return found


def find_summaries(folder: Path | None, slides: Sequence[str]) -> dict[str, Path]:
    """Find the summary of each slide by its name or its path in the folder. Raises UsageError."""
    if folder is None:
        return {}
    by_name: dict[str, list[Path]] = {}
    for path in sorted(visible_summaries(folder)):
        relative = path.relative_to(folder).as_posix().removesuffix(SUFFIX)
        for name in {relative, path.name.removesuffix(SUFFIX)}:
            by_name.setdefault(name, []).append(path)
    wrong = [name for name in slides if len(by_name.get(name, [])) != 1]
    if wrong:
        found = "several" if by_name.get(wrong[0]) else "none"
        raise UsageError(
            f"--summaries: expected one summary of each labelled slide, found {found} for {wrong[0]} "
            f"({len(wrong)} of {len(slides)} slides); make them with `wsisum compress`, or omit --summaries"
        )
    return {name: by_name[name][0] for name in slides}
