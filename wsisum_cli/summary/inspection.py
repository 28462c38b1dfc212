"""What a person, or a script, wants to know of a summary."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.quality.random_draws import BY_FEATURES, BY_MODELS
from wsisum_cli.summary.attributes import REQUIRED_OF_MODELS, wrong_attributes
from wsisum_cli.summary.reader import Summary

#: Attributes that format 1.2 added.
SINCE_1_2 = ("draws", "verdict", "guarantee", "trimmed_from", "bound", "target_reached")


def facts(summary: Summary) -> dict[str, Any]:
    """Its attributes with the list of members left out, its own size and the ratio to the source's added.

    The keys are stable; `pixels` is the mode alone, all about it stands in `pixel_storage`. What an older format does
    not know is None: models that see whole slides and their figures in 1.0, the verdict and what it needs before 1.2;
    `artefacts` where nobody looked.
    """
    wrong = next(wrong_attributes(summary.attributes), None)
    if wrong is not None:
        raise SummaryError(f"{summary.name}: {wrong}; run wsisum verify on it")
    size = summary.file.seek(0, os.SEEK_END)
    return {
        **dict.fromkeys((*REQUIRED_OF_MODELS, *SINCE_1_2, "artefacts")),
        **summary.provenance,
        "quality": {**dict.fromkeys((*BY_FEATURES, *BY_MODELS)), **summary.attributes["quality"]},
        "pixels": summary.attributes["pixels"]["mode"],
        "pixel_storage": summary.attributes["pixels"],
        "patch_size_level0": summary.attributes["patch"]["patch_size_level0"],
        "bytes": size,
        "ratio": round(summary.attributes["source"]["bytes"] / size, 2),
    }


def kept_patches(summary: Summary) -> list[dict[str, Any]]:
    """The kept patches, heaviest first: number from 1, in which turn it was picked, x, y in level-0 px, weight, tissue
    patches that it stands for, cluster.
    """
    order = np.argsort(-summary.weights, kind="stable")
    return [
        {
            "number": number,
            "picked": row + 1,
            "x": int(summary.coords[row, 0]),
            "y": int(summary.coords[row, 1]),
            "weight": round(float(summary.weights[row]), 6),
            "stands_for": int(summary.counts[row]),
            "cluster": int(summary.cluster[row]),
        }
        for number, row in enumerate(order.tolist(), 1)
    ]
