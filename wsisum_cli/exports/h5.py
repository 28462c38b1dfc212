"""Features, coords and weights of the kept patches as h5, in the layouts of TRIDENT, STAMP and CLAM."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.exports.about import describe
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.features.h5 import is_whole, write_feature_file
from wsisum_cli.features.layouts import FeatureTable, lay_out
from wsisum_cli.slides.source import as_text
from wsisum_cli.summary.reader import Summary


def write_h5(summary: Summary, path: Path, options: ExportOptions) -> None:
    """Write the kept patches to `path`, in the order in which they were picked.

    Beside what the layout asks for there are `weights` (K,), which sum to 1, `counts` (K,), the tissue patches that
    each stands for, and `cluster` (K,). Raises SummaryError.
    """
    contents = lay_out(table_of(summary, options.name), options.layout, describe(summary).as_json())
    write_feature_file(path, contents)
    if not is_whole(path):
        raise SummaryError(f"{summary.name}: the h5 differs from what was written; check the disk")


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
