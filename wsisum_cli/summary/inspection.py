"""What a person, or a script, wants to know of a summary."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.quality.random_draws import BY_FEATURES, BY_MODELS
from wsisum_cli.summary.attributes import REQUIRED_OF_MODELS, wrong_attributes
from wsisum_cli.summary.reader import Summary
from wsisum_cli.tissue.artefacts import KINDS

#: Attributes that format 1.2 added.
SINCE_1_2 = ("draws", "verdict", "guarantee", "trimmed_from", "bound", "target_reached")
#: Attributes that format 1.3 added.
SINCE_1_3 = ("suspect",)


def facts(summary: Summary) -> dict[str, Any]:
    """Its attributes with the list of members left out, its own size and the ratio to the source's added.

    The keys are stable; `pixels` is the mode alone, all about it stands in `pixel_storage`. What an older format does
    not know is None: models that see whole slides and their figures in 1.0, the verdict and what it needs before 1.2;
    `suspect` before 1.3; `artefacts` where nobody looked.
    """
    wrong = next(wrong_attributes(summary.attributes), None)
    if wrong is not None:
        raise SummaryError(f"{summary.name}: {wrong}; run wsisum verify on it")
    size = summary.file.seek(0, os.SEEK_END)
    return {
        **dict.fromkeys((*REQUIRED_OF_MODELS, *SINCE_1_2, *SINCE_1_3, "artefacts")),
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
    patches that it stands for, cluster, and what it may be other than clean tissue, None where nothing.
    """
    kinds = suspect_kinds(summary)
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
            "suspect": kinds.get((int(summary.coords[row, 0]), int(summary.coords[row, 1]))),
        }
        for number, row in enumerate(order.tolist(), 1)
    ]


def suspect_kinds(summary: Summary) -> dict[tuple[int, int], str]:
    """The kind of each suspect tissue patch, by its x, y in level-0 px."""
    suspect = summary.tissue.suspect
    if suspect is None:
        return {}
    rows = np.flatnonzero(suspect)
    places = summary.tissue.coords[rows].tolist()
    return {(x, y): KINDS[code] for (x, y), code in zip(places, suspect[rows].tolist(), strict=True)}
