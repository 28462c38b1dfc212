"""What each selector would have kept of a summary's slide, from a file of its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from wsisum_cli.errors import UsageError
from wsisum_cli.features.h5 import StoredFeatures, load_h5
from wsisum_cli.figures.canvas import facts_of
from wsisum_cli.figures.heatmap import checked_tissue
from wsisum_cli.figures.panels import Panel
from wsisum_cli.models.card import SLIDE_ENCODER, SUMMARIZER
from wsisum_cli.models.choice import ModelChoice, ModelChoices, SlideModels, fitting_models
from wsisum_cli.quality.measures import measure_selection
from wsisum_cli.selection.candidates import sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.selectors import SELECTORS, pick, weigh
from wsisum_cli.summary.reader import Summary

#: Of the options that decide what is picked, for summaries that do not record them.
DEFAULTS = {"candidates": 500, "clusters": 50, "seed": 0}


def compare_selectors(
    summary: Summary,
    path: Path,
    folders: Sequence[Path] = (),
    listen: Callable[[str], None] = lambda selector: None,
) -> list[Panel]:
    """A panel for each selector, by the options and with as many patches as the summary has.

    `path` is an h5 of features of the summary's tissue patches. The summarizer and slide encoder with which the summary
    was made are used where they are at hand, also in `folders`; selectors that need one which is not are left out.
    `listen` hears each selector as it begins. Raises FeaturesError when the file is damaged or of other patches,
    SummaryError, ModelError.
    """
    file = load_h5(path)
    tissue_patches = tissue_patches_of(summary, file, models_of(summary, file, folders))
    panels = []
    for selector in SELECTORS:
        listen(selector)
        try:
            rows = pick(tissue_patches, len(summary.coords), selector)
        except UsageError:  # it needs a model that is not there
            continue
        panels.append(panel_of_rows(tissue_patches, rows, selector, file))
    return panels


def tissue_patches_of(summary: Summary, file: StoredFeatures, models: SlideModels) -> TissuePatches:
    """The summary's tissue patches with the features of `file`. Raises FeaturesError, SummaryError."""
    coords, mpp = checked_tissue(summary).coords, facts_of(summary).mpp
    options, size = summary.record.options, summary.record.patch.patch_size_level0
    features = features_at(coords, file, mpp, summary.name)
    candidates = sample_candidates(features, options.candidates, options.clusters, options.seed)
    return TissuePatches(features, coords, candidates, options.seed, size, models, options.rare)


def models_of(summary: Summary, file: StoredFeatures, folders: Sequence[Path]) -> SlideModels:
    """Those with which the summary was made, where they are at hand and were trained on the features' encoder."""
    found: dict[str, ModelChoice | None] = {}
    for name, kind in {"summarizer": SUMMARIZER, "slide_encoder": SLIDE_ENCODER}.items():
        card = summary.record.used_models.get(name)
        if card is not None and file.encoder_sha256 is not None:
            there = fitting_models(kind, file.encoder_sha256, file.features.shape[1], folders)
            found[name] = next((choice for choice in there if choice.card.sha256 == card.sha256), None)
    return ModelChoices(found.get("summarizer"), found.get("slide_encoder")).load(
        "cpu"
    )  # the same picks on every machine


def features_at(coords: np.ndarray, file: StoredFeatures, mpp: float, name: str) -> np.ndarray:
    """(N, D) float32 the features of the patches at `coords` (N, 2), level-0 px, of the summary of this name.

    Raises FeaturesError unless the file, but for augmentations, is of these patches and no others.
    """
    places = file.coords_level0(mpp)[file.original]
    there, wanted = np.lexsort(places.T), np.lexsort(coords.T)
    if len(places) != len(coords) or not np.array_equal(places[there], coords[wanted]):
        known = set(map(tuple, coords.tolist()))
        shared = sum(place in known for place in map(tuple, places.tolist()))
        raise file.error(
            f"expected features of the {len(coords):,} tissue patches of {name}, found {len(places):,} patches, of "
            f"which {shared:,} lie where those do; is it another slide's file? Where it is not, make the summary with "
            "wsisum compress --features"
        )
    features = np.empty((len(coords), file.features.shape[1]), np.float32)
    features[wanted] = file.features[file.original][there]
    return features


def panel_of_rows(tissue_patches: TissuePatches, rows: np.ndarray, selector: str, file: StoredFeatures) -> Panel:
    """The (K,) `rows` of the tissue, picked by `selector`."""
    selection = weigh(tissue_patches.features, rows)
    return Panel(
        f"{selector}, K = {len(rows)}",
        tissue_patches.coords[rows],
        tissue_patches.coords,
        selection.similarity,
        tissue_patches.patch_size_level0,
        asdict(measure_selection(tissue_patches.features, selection, tissue_patches.candidates.cluster)),
        (file.encoder, file.encoder_sha256),
    )
