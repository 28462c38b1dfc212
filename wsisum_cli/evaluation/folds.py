"""Scores of slides -> how well they are classified: folds by patient, AUC, balanced accuracy, paired differences.

Intervals are those of draws of patients with replacement (Efron and Tibshirani, 1993), as many of each class as there
are: slides of one patient are no independent observations. Two sets of scores are compared within each draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from wsisum_cli.errors import UsageError
from wsisum_cli.evaluation.cohort import Cohort

Scores = npt.NDArray[np.float64]
#: (B, S) how often each slide is drawn; the first row is the cohort as it is.
Draws = npt.NDArray[np.int64]

AUC, BALANCED_ACCURACY = "auc", "balanced_accuracy"
INTERVAL = (2.5, 97.5)  # percentiles
DIGITS = 6  # in reports


@dataclass(frozen=True)
class Predictions:
    """Predictions for S slides in R repeats; each slide is predicted by a model trained on the other folds.

    `scores` (R, S, C) are class probabilities, `fold` (R, S) is the fold of each slide.
    """

    scores: Scores
    fold: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Its JSON."""
        return {name: round(value, DIGITS) for name, value in asdict(self).items()}


def deal_folds(cohort: Cohort, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Assign a fold (S,), 0..count-1, to each slide. Patients are not split, and classes are balanced over folds.

    Every fold, and its complement, has slides of every class. Raises UsageError when a class has fewer patients than
    folds.
    """
    if count < 2:
        raise UsageError(f"--folds: expected at least 2, found {count}")
    _enough_patients(cohort, count)
    patients, owner = np.unique(cohort.patients, return_inverse=True)
    slides = np.zeros((len(patients), len(cohort.classes)))
    np.add.at(slides, (owner, cohort.labels), 1)
    share = slides / slides.sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(patients))
    order = order[np.argsort(-slides[order].sum(axis=1), kind="stable")]  # many slides are hardest to place
    dealt = np.zeros((count, len(cohort.classes)))
    fold = np.zeros(len(patients), np.int64)
    for patient in order:
        # Choose the fold where the patient's classes are rarest; break ties by the smallest fold.
        cost = np.rint(((dealt + share[patient]) ** 2 - dealt**2).sum(axis=1) * 2**30)
        fold[patient] = np.lexsort((dealt.sum(axis=1), cost))[0]
        dealt[fold[patient]] += share[patient]
    _every_class(cohort, fold[owner], count)
    return fold[owner]


def _enough_patients(cohort: Cohort, count: int) -> None:
    for place, name in enumerate(cohort.classes):
        patients = len({who for who, label in zip(cohort.patients, cohort.labels, strict=True) if label == place})
        if patients < count:
            remedy = f"pass --folds {patients}, " if patients > 1 else ""
            raise UsageError(
                f"class {name!r} has {patients} patient{'s' if patients > 1 else ''}, fewer than --folds {count}: "
                f"{remedy}label more of them, merge it with another class, or leave their labels empty"
            )


def _every_class(cohort: Cohort, fold: npt.NDArray[np.int64], count: int) -> None:
    for number in range(count):
        missing = set(range(len(cohort.classes))) - set(cohort.labels[fold == number].tolist())
        if missing:
            raise UsageError(
                f"--folds {count}: patients with slides of several classes leave a fold without "
                f"{cohort.classes[min(missing)]!r}; pass fewer"
            )


def draw_patients(cohort: Cohort, draws: int, seed: int) -> Draws:
    """The cohort itself, then `draws` bootstrap samples of its patients, drawn with replacement within each class.

    A patient's class is that of most of their slides.
    """
    rng = np.random.default_rng(seed)
    patients, owner = np.unique(cohort.patients, return_inverse=True)
    slides = np.zeros((len(patients), len(cohort.classes)), np.int64)
    np.add.at(slides, (owner, cohort.labels), 1)
    most = slides.argmax(axis=1)
    times = np.ones((1 + draws, len(patients)), np.int64)
    for place in range(len(cohort.classes)):
        of_class = np.flatnonzero(most == place)
        if len(of_class):
            times[1:, of_class] = rng.multinomial(len(of_class), np.full(len(of_class), 1 / len(of_class)), draws)
    return times[:, owner]


def measure_scores(judged: Predictions, cohort: Cohort, draws: Draws) -> dict[str, Scores]:
    """AUC and balanced accuracy in each draw (B,), averaged over repeats; NaN if a draw lacks a class."""
    repeats = [
        (
            macro_auc(once, cohort.labels, draws, fold),
            balanced_accuracy(once.argmax(axis=1), cohort.labels, draws),
        )
        for once, fold in zip(judged.scores, judged.fold, strict=True)
    ]
    return dict(zip((AUC, BALANCED_ACCURACY), np.mean(repeats, axis=0), strict=True))


def macro_auc(
    scores: Scores, labels: npt.NDArray[np.integer], draws: Draws, fold: npt.NDArray[np.integer] | None = None
) -> Scores:
    """`auc` (B,) of the second of two classes, or else the mean of one-vs-rest over classes; scores are (S, C)."""
    count = scores.shape[1]
    places = [1] if count == 2 else range(count)
    found = [auc(scores[:, place], labels == place, draws, fold) for place in places]
    return np.asarray(np.mean(found, axis=0), np.float64)


def auc(
    scores: Scores, positive: npt.NDArray[np.bool_], draws: Draws, fold: npt.NDArray[np.integer] | None = None
) -> Scores:
    """Probability (B,) that the positive of two slides has the higher score (S,), ties counting half.

    Slides are compared within a `fold` (S,), None for a single one: scores of two models are not comparable, and the
    effect of one slide on the model that predicts another would put chance below a half. NaN if there is no pair.
    """
    fold = np.zeros(len(scores), np.int64) if fold is None else fold
    order = np.lexsort((scores, fold))
    changed = np.diff(fold[order]) > 0
    starts = np.flatnonzero(np.r_[True, changed | (np.diff(scores[order]) > 0)])  # of runs of equal scores in a fold
    drawn = draws[:, order].astype(np.float64)
    high = np.add.reduceat(drawn * positive[order], starts, axis=1)
    low = np.add.reduceat(drawn * ~positive[order], starts, axis=1)
    of_fold = np.flatnonzero(np.r_[True, np.diff(fold[order][starts]) > 0])  # the first run of each
    highs, lows = (np.add.reduceat(count, of_fold, axis=1) for count in (high, low))
    before = np.repeat(np.cumsum(lows, axis=1) - lows, np.diff(np.r_[of_fold, len(starts)]), axis=1)
    won = (high * (np.cumsum(low, axis=1) - before - low / 2)).sum(axis=1)
    pairs = (highs * lows).sum(axis=1)
    return np.asarray(np.divide(won, pairs, out=np.full(len(draws), np.nan), where=pairs > 0), np.float64)


def balanced_accuracy(predicted: npt.NDArray[np.integer], labels: npt.NDArray[np.integer], draws: Draws) -> Scores:
    """Mean recall over classes (B,); NaN if a class is not drawn."""
    recalls = []
    for place in np.unique(labels):
        of_class = draws[:, labels == place]
        right = of_class[:, predicted[labels == place] == place].sum(axis=1)
        there = of_class.sum(axis=1)
        recalls.append(np.divide(right, there, out=np.full(len(draws), np.nan), where=there > 0))
    return np.asarray(np.mean(recalls, axis=0), np.float64)


def estimate(values: Scores) -> Estimate:
    """Estimate with interval from the values in each draw (B,), the first of which is the cohort itself."""
    low, high = np.nanpercentile(values, INTERVAL)
    return Estimate(float(values[0]), float(low), float(high))


def compare(measured: Mapping[str, Scores], reference: Mapping[str, Scores]) -> dict[str, Estimate]:
    """Estimate each figure of `measured`, and its difference from `reference` in the same draws."""
    found = {name: estimate(values) for name, values in measured.items()}
    return found | {f"{name}_difference": estimate(values - reference[name]) for name, values in measured.items()}
