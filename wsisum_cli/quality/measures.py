"""How well kept patches represent the tissue: figures that can be measured again from a summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.similarity import nearest
from wsisum_cli.features.vectors import Features, checked
from wsisum_cli.selection.weights import mean_error

if TYPE_CHECKING:
    from wsisum_cli.selection.selectors import Selection


@dataclass(frozen=True)
class Quality:
    """`coverage`, `coverage_p05`, `coverage_min`: mean, 5th percentile and minimum, over all tissue patches, of the
    best cosine to a kept patch. `weighted_cosine`: between the weighted mean of the kept features and the mean of all.
    `composition`: distance between the cluster shares of the tissue and of what the kept patches represent, half the
    sum of absolute differences (total variation): 0 if they are equal, at most 1.
    """

    coverage: float
    coverage_p05: float
    coverage_min: float
    weighted_cosine: float
    composition: float


@dataclass(frozen=True)
class WeightedPatches:
    """K kept patches: features (K, D), weights (K,) that sum to 1, counts (K,) of the tissue patches that each
    represents, and clusters (K,).
    """

    features: Features
    weights: npt.NDArray[np.float64]
    counts: npt.NDArray[np.integer]
    cluster: npt.NDArray[np.integer]


def measure(
    kept: WeightedPatches, similarity: npt.NDArray[np.floating], mean: Features, cluster: npt.NDArray[np.integer]
) -> Quality:
    """Measure from the `similarity` (N,) of each tissue patch to its representative, the `mean` (D,) of all tissue
    features, and the `cluster` (N,) of each patch. Similarities are rounded to float16, as a summary stores them.
    """
    stored = similarity.astype(np.float16).astype(np.float64)
    return Quality(
        coverage=float(stored.mean()),
        coverage_p05=float(np.percentile(stored, 5)),
        coverage_min=float(stored.min()),
        weighted_cosine=1 - mean_error(kept.features.astype(np.float64), kept.weights, mean.astype(np.float64)),
        composition=composition(kept.cluster, kept.counts, cluster),
    )


def measure_selection(features: Features, selection: Selection, cluster: npt.NDArray[np.integer]) -> Quality:
    """Measure a selection from features (N, D) of all tissue patches with clusters (N,)."""
    features = checked(features)
    kept = WeightedPatches(features[selection.rows], selection.weights, selection.counts, cluster[selection.rows])
    return measure(kept, selection.similarity, mean_of(features), cluster)


def measure_kept(features: Features, kept: WeightedPatches, cluster: npt.NDArray[np.integer]) -> Quality:
    """Measure any kept patches against features (N, D) of all tissue patches with clusters (N,)."""
    features = checked(features)
    return measure(kept, nearest(features, checked(kept.features))[1], mean_of(features), cluster)


def mean_of(features: Features) -> npt.NDArray[np.float32]:
    """The mean (D,) of features (N, D), as a summary stores it."""
    return np.asarray(features.mean(axis=0, dtype=np.float64), np.float32)


def composition(
    kept: npt.NDArray[np.integer], counts: npt.NDArray[np.integer], cluster: npt.NDArray[np.integer]
) -> float:
    """Distance of cluster shares, 0..1, from the cluster (K,) and count (K,) of each kept patch, and the cluster (N,)
    of every tissue patch.
    """
    count = int(max(cluster.max(), kept.max())) + 1
    shares = np.bincount(cluster, minlength=count) / len(cluster)
    represented = np.bincount(kept, counts, minlength=count) / len(cluster)
    return float(np.abs(represented - shares).sum() / 2)
