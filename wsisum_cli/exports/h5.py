"""Features, coords and weights of the kept patches as h5, in the layouts of TRIDENT, STAMP and CLAM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.exports.about import describe
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.features.h5 import LOSS, UNPACKED_KIND, FeatureFileContents, is_whole, write_feature_file
from wsisum_cli.features.layouts import FeatureTable, lay_out
from wsisum_cli.slides.source import as_text
from wsisum_cli.summary.attributes import TissueFeatures
from wsisum_cli.summary.reader import Summary


def write_h5(summary: Summary, path: Path, options: ExportOptions) -> None:
    """Write the kept patches to `path`, in the order in which they were picked.

    Beside what the layout asks for there are `weights` (K,), which sum to 1, `counts` (K,), the tissue patches that
    each stands for, and `cluster` (K,). Raises SummaryError.
    """
    if options.tissue:
        write_tissue_h5(summary, path, options)
        return
    contents = lay_out(table_of(summary, options.name), options.layout, describe(summary).as_json())
    write_feature_file(path, contents)
    if not is_whole(path):
        raise SummaryError(f"{summary.name}: the h5 differs from what was written; check the disk")


def write_tissue_h5(summary: Summary, path: Path, options: ExportOptions) -> None:
    """Write features of all tissue patches, unpacked, to `path`. Raises SummaryError."""
    contents = tissue_contents(summary, options.name, options.layout, np.dtype(np.float32))
    write_feature_file(path, contents)
    if not is_whole(path):
        raise SummaryError(f"{summary.name}: the h5 differs from what was written; check the disk")


def tissue_contents(summary: Summary, name: str, layout: str, precision: np.dtype[Any]) -> FeatureFileContents:
    """The h5 of all tissue patches; it says what packing lost. Raises SummaryError where nothing was packed."""
    features, stated = summary.tissue_features, summary.record.tissue_features
    if features is None or stated is None:
        raise SummaryError(
            f"{summary.name}: holds features of its kept patches alone; compress the slide with --tissue-features 64, "
            "or leave --tissue out"
        )
    with np.errstate(over="ignore"):
        features = features.astype(precision)
    if not np.isfinite(features).all():
        raise SummaryError(f"{summary.name}: features overflow {precision.name}; use --precision float32")
    table = replace(table_of(summary, name), features=features, coords=summary.tissue.coords, columns={})
    about = {
        **describe(summary).as_json(),
        "kind": UNPACKED_KIND,
        "patches": len(features),
        "note": unpacked_note(stated),
    }
    contents = lay_out(table, layout, {**about, "tissue_features": stated.model_dump()})
    return replace(contents, attributes={**contents.attributes, LOSS: stated.cosine_mean})


def unpacked_note(stated: TissueFeatures) -> str:
    """What a reader of unpacked features must know."""
    return (
        f"These are not the features that the encoder gave. They were packed into {stated.bytes} bytes a patch and "
        f"unpacked again; their mean cosine to the true ones is {stated.cosine_mean:.4f}."
    )


def table_of(summary: Summary, name: str) -> FeatureTable:
    """The kept patches; `name` is what the layouts call the slide."""
    record = summary.record
    card = record.encoder_card
    return FeatureTable(
        name=as_text(name),
        features=summary.features.astype(np.float32),  # models take no half precision on CPUs
        coords=summary.coords,
        patch_size=record.patch.patch_size,
        patch_size_level0=record.patch.patch_size_level0,
        slide_size=(record.source.width, record.source.height),
        slide_mpp=record.source.mpp,
        encoder=record.encoder.name,
        encoder_mpp=record.patch.mpp if card is None else card.mpp,
        encoder_sha256=record.features_encoder,
        columns={"weights": summary.weights, "counts": summary.counts, "cluster": summary.cluster},
    )
