"""Cross-validate the classifiers in each arm: every slide is classified by models trained on other patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from wsisum_cli.evaluation import abmil
from wsisum_cli.evaluation.arms import ALL, Bag
from wsisum_cli.evaluation.cohort import Cohort
from wsisum_cli.evaluation.folds import Predictions, Scores, deal_folds
from wsisum_cli.evaluation.probe import choose_strength, probe
from wsisum_cli.training.loop import Processes, find_device

MEAN, ABMIL = "mean", "abmil"
CLASSIFIERS = (MEAN, ABMIL)

#: arm -> the slides in it, in the order of the cohort
Bags = Mapping[str, Sequence[Bag]]
#: folds done, all folds
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """How slides are classified. The same seed gives the same probabilities on the same machine."""

    folds: int = 5
    repeats: int = 3  # each with new folds
    classifiers: tuple[str, ...] = CLASSIFIERS
    network: abmil.Settings = field(default_factory=abmil.Settings)
    device: str = "auto"
    seed: int = 0


def cross_validate(
    bags: Bags, cohort: Cohort, plan: Plan, progress: Progress = lambda done, total: None
) -> dict[tuple[str, str], Predictions]:
    """Predictions of each classifier in each arm, keyed by (arm, classifier).

    `bags` must include the arm `all`. Arms share folds, seeds and the regularisation strength, which is chosen on all
    patches of the training patients, so that arms differ only in their patches. Raises UsageError when a class has too
    few patients, DeviceError when the device is missing.
    """
    device = find_device(plan.device, Processes())
    folds = np.stack([deal_folds(cohort, plan.folds, seed_of(plan.seed, r)) for r in range(plan.repeats)])
    empty = np.zeros((plan.repeats, len(cohort.slides), len(cohort.classes)))
    found = {(arm, classifier): Predictions(empty.copy(), folds) for arm in bags for classifier in plan.classifiers}
    for repeat, number in np.ndindex(plan.repeats, plan.folds):
        out = folds[repeat] == number
        seed = seed_of(plan.seed, repeat, number)
        if MEAN in plan.classifiers:
            for arm, chances in predict_from_means(bags, cohort, out, seed).items():
                found[arm, MEAN].scores[repeat, out] = chances
        if ABMIL in plan.classifiers:
            for arm, chances in predict_from_bags(bags, cohort, out, plan, seed, device).items():
                found[arm, ABMIL].scores[repeat, out] = chances
        progress(repeat * plan.folds + number + 1, plan.repeats * plan.folds)
    return found


def predict_from_means(bags: Bags, cohort: Cohort, out: npt.NDArray[np.bool_], seed: int) -> dict[str, Scores]:
    """Predict the held-out slides, `out`, with the linear probe on weighted means."""
    means = {arm: np.stack([bag.mean for bag in slides]) for arm, slides in bags.items()}
    labels = cohort.labels[~out]
    strength = choose_strength(means[ALL.name][~out], rows_of_fold(cohort, ~out), seed)
    return {arm: probe(vectors[~out], labels, vectors[out], strength) for arm, vectors in means.items()}


def predict_from_bags(
    bags: Bags, cohort: Cohort, out: npt.NDArray[np.bool_], plan: Plan, seed: int, device: torch.device
) -> dict[str, Scores]:
    """Predict the held-out slides, `out`, with attention over their patches."""
    found = {}
    for arm, slides in bags.items():
        rest = [slides[row] for row in np.flatnonzero(~out).tolist()]
        network = abmil.train_abmil(rest, cohort.labels[~out], plan.network, seed, device)
        found[arm] = abmil.classify(network, [slides[row] for row in np.flatnonzero(out).tolist()], plan.network)
    return found


def rows_of_fold(cohort: Cohort, rows: npt.NDArray[np.bool_]) -> Cohort:
    """The cohort restricted to some slides, with the same classes."""
    there = np.flatnonzero(rows)
    slides, patients = (tuple(names[row] for row in there) for names in (cohort.slides, cohort.patients))
    return Cohort(slides, patients, cohort.labels[rows], cohort.classes)


def seed_of(*numbers: int) -> int:
    """Combine several numbers into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
