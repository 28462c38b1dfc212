"""Panels of what each selector would keep of a summary's slide, from a file with its features."""

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

#: Defaults of selection options, for summaries that do not record them.
DEFAULTS = {"candidates": 500, "clusters": 50, "seed": 0}


def compare_selectors(
    summary: Summary,
    path: Path,
    folders: Sequence[Path] = (),
    listen: Callable[[str], None] = lambda selector: None,
) -> list[Panel]:
    """One panel per selector, with the options and number of patches of the summary.

    `path` is an h5 with features of the summary's tissue patches. The summary's summarizer and slide encoder are used
    if available, also from `folders`; selectors that need a missing one are skipped. `listen` is called with each
    selector as it starts. Raises FeaturesError when the file is damaged or of other patches, SummaryError, ModelError.
    """
    file = load_h5(path)
    tissue_patches = tissue_patches_of(summary, file, models_of(summary, file, folders))
    panels = []
    for selector in SELECTORS:
        listen(selector)
        try:
            rows = pick(tissue_patches, len(summary.coords), selector)
        except UsageError:  # it needs a missing model
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
    """The summary's models, if they are available and were trained on the encoder of the features."""
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
    """Features (N, D) float32 of the patches at `coords` (N, 2), in level-0 px, of the summary with this name.

    Raises FeaturesError unless the file holds exactly these patches, apart from augmentations.
    """
    places = file.coords_level0(mpp)[file.original]
    order, wanted = np.lexsort(places.T), np.lexsort(coords.T)
    if len(places) != len(coords) or not np.array_equal(places[order], coords[wanted]):
        known = set(map(tuple, coords.tolist()))
        shared = sum(place in known for place in map(tuple, places.tolist()))
        raise file.error(
            f"expected features of the {len(coords):,} tissue patches of {name}, found {len(places):,} patches, "
            f"{shared:,} of them at the same positions; is it another slide's file? If not, make the summary with "
            "wsisum compress --features"
        )
    features = np.empty((len(coords), file.features.shape[1]), np.float32)
    features[wanted] = file.features[file.original][order]
    return features


def panel_of_rows(tissue_patches: TissuePatches, rows: np.ndarray, selector: str, file: StoredFeatures) -> Panel:
    """The panel of the tissue `rows` (K,) that `selector` picked."""
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
