"""Makes up summaries: changes what one says, and everything in it that follows, so that nothing contradicts it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from summaries import sign_again, unpack

from wsisum_cli.pipeline.trim import describe_cut
from wsisum_cli.quality.represented import WANTED, fewest_for, share_curve
from wsisum_cli.slides import jpeg
from wsisum_cli.summary.arrays import encode_array, encode_rows
from wsisum_cli.summary.overview import OVERVIEW_QUALITY
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.summary.writer import OVERVIEW, PIXELS, PORTABLE, PatchArrays
from wsisum_cli.verification.appraisal import ModelFinders

#: Attributes that `describe_cut` gives and that say how a summary was cut.
OF_CUTS = ("patches", "trimmed_from", "target_reached")


def forge(
    summary: Path,
    path: Path,
    members: Callable[[Summary], Mapping[str, bytes]] = lambda summary: {},
    attributes: Callable[[dict[str, Any]], None] = lambda attributes: None,
) -> Path:
    """Write a summary with other members and attributes. Figures, verdict and checksums are made to fit them."""
    with open_summary(summary) as opened:
        changed = {**unpack(summary), **members(opened)}
    sign_again(path, changed, attributes)
    with open_summary(path) as opened:
        record, prefixes, draws = opened.record, opened.prefixes, opened.draws
        assert prefixes is not None
        assert draws is not None
        kept = PatchArrays(opened.coords, opened.features, opened.weights, opened.counts, opened.cluster)
        about = describe_cut(opened, kept, prefixes, draws, ModelFinders())
        section = about["represented"]
        curve = share_curve(prefixes, record.patches, section["cosine"], section["unread"])
        section["needed"] = fewest_for(curve, WANTED)
    figures = {name: value for name, value in about.items() if name not in OF_CUTS}
    if record.summarizer is None and record.slide_encoder is None:
        figures["quality"] = {**figures["quality"], "reconstruction": None}

    def fit(found: dict[str, Any]) -> None:
        attributes(found)
        found |= figures

    return sign_again(path, changed, fit)


def painted(streams: bytes | list[bytes]) -> Callable[[Summary], dict[str, bytes]]:
    """The members of kept patches that all show the same, or one picture each."""

    def members(summary: Summary) -> dict[str, bytes]:
        count = len(summary.patches)
        return encode_rows(PIXELS, [streams] * count if isinstance(streams, bytes) else streams, "patch")

    return members


def overviews(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Summary], dict[str, bytes]]:
    """The members of both overviews, each changed in the same way; `change` gets (H, W, 3)."""

    def members(summary: Summary) -> dict[str, bytes]:
        portable = change(np.moveaxis(summary.array(PORTABLE), 0, 2).copy())
        files = encode_array(PORTABLE, np.moveaxis(portable, 2, 0), ["c", "y", "x"], fill=255)
        if f"{OVERVIEW}/zarr.json" in summary.members:
            finer = change(summary.overview.copy())
            files |= encode_rows(OVERVIEW, [jpeg.encode(finer, OVERVIEW_QUALITY)], "image")
        return files

    return members


def drawn(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Summary], dict[str, bytes]]:
    """The member of the random draws; `change` gets their quantiles (sizes, figures, 101)."""

    def members(summary: Summary) -> dict[str, bytes]:
        found = change(summary.array("reference/draws").copy()).astype(np.float32)
        return encode_array("reference/draws", found, ["keep", "figure", "quantile"])

    return members


def viewer(change: Callable[[dict[str, Any]], None]) -> Callable[[Summary], dict[str, bytes]]:
    """The root with other metadata for viewers."""

    def members(summary: Summary) -> dict[str, bytes]:
        root = json.loads(summary.read("zarr.json"))
        change(root["attributes"]["ome"])
        return {"zarr.json": json.dumps(root).encode()}

    return members


def together(*changes: Callable[[Summary], Mapping[str, bytes]]) -> Callable[[Summary], dict[str, bytes]]:
    return lambda summary: {name: data for change in changes for name, data in change(summary).items()}
