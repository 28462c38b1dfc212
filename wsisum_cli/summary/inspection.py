"""What a person, or a script, wants to know of a summary."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from wsisum_cli.summary.attributes import (
    Artefacts,
    Attributes,
    BrokenTiles,
    ComputedFeatures,
    Draws,
    EncoderCard,
    GivenFeatures,
    Guarantee,
    JpegPixels,
    LeftOut,
    NamedEncoder,
    Options,
    Patch,
    Quality,
    Reembedded,
    Represented,
    Source,
    SourcePixels,
    Suspect,
    TissueFeatures,
    UsedSlideEncoder,
    UsedSummarizer,
    Verdict,
)
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.remarks import remarks
from wsisum_cli.summary.standing import explain, judge_again
from wsisum_cli.tissue.artefacts import KINDS


class StoredPatch(BaseModel):
    """One kept patch; `number` is its rank by weight, from 1, and `picked` its rank in the order of picking."""

    number: int
    picked: int
    x: int  # level-0 px
    y: int
    weight: float
    stands_for: int  # tissue patches
    cluster: int
    suspect: str | None  # what it may be other than clean tissue; None where nothing


class Inspection(BaseModel):
    """What `inspect --json` says of a summary. What an older format does not know is None.

    The keys are stable: those of the attributes without `members`, with `pixels` the mode alone, and more.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    summarizer: UsedSummarizer | None
    slide_encoder: UsedSlideEncoder | None
    draws: Draws | None
    verdict: Verdict | None
    represented: Represented | None
    guarantee: Guarantee | None
    trimmed_from: int | None
    bound: str | None
    target_reached: bool | None
    artefacts: Artefacts | None
    suspect: Suspect | None
    reembedded: list[Reembedded] | None
    tissue_features: TissueFeatures | None
    format_version: str
    disclaimer: str
    source: Source
    tissue_patches: int
    patch: Patch
    encoder: EncoderCard | NamedEncoder
    provider: str
    features: ComputedFeatures | GivenFeatures
    options: Options
    broken_tiles: BrokenTiles
    left_out: LeftOut | None
    versions: dict[str, str]
    patches: int
    pixels: str
    quality: Quality
    pixel_storage: SourcePixels | JpegPixels
    patch_size_level0: int
    bytes: int
    ratio: float  # of the slide's size to the summary's
    kept: list[StoredPatch]
    random: dict[str, float]  # median of random draws of `random_patches`, by figure; empty without draws
    random_patches: int | None  # as many as are kept; after a trim the next larger number that was drawn
    advice: str  # on a verdict that is not PASS; empty otherwise
    remarks: str  # what a reader should look at; empty where there is nothing

    def as_json(self) -> dict[str, Any]:
        """All keys, JSON-able."""
        return self.model_dump(mode="json", exclude_unset=True) | {"quality": self.quality.model_dump(mode="json")}


def inspect_summary(summary: Summary) -> Inspection:
    """Everything that `inspect` says. Raises SummaryError where the attributes are not in order."""
    record = summary.record
    size, verdict = summary.file.seek(0, os.SEEK_END), judge_again(record)
    shared = {name: getattr(record, name) for name in Inspection.model_fields if name in Attributes.model_fields}
    return Inspection(
        **shared
        | {
            "pixels": record.pixels.mode,
            "pixel_storage": record.pixels,
            "patch_size_level0": record.patch.patch_size_level0,
            "bytes": size,
            "ratio": round(record.source.bytes / size, 2),
            "kept": kept_patches(summary),
            "random": random_medians(summary),
            "random_patches": random_patches(summary),
            "advice": explain(record, verdict) if verdict else "",
            "remarks": remarks(record),
        }
    )


def random_medians(summary: Summary) -> dict[str, float]:
    """What half of the random draws of `random_patches` exceed, by figure; empty without draws."""
    if summary.record.draws is None or (draws := summary.draws) is None:
        return {}
    keep, section = summary.record.patches, summary.record.represented
    found = {name: draws.median(name, keep) for name in draws.figures}
    if section is not None and (share := found.get("represented")) is not None:
        readable = summary.record.tissue_patches
        found["represented"] = share * readable / (readable + section.unread)  # draws are of readable tissue alone
    return {name: round(value, 6) for name, value in found.items() if value is not None}


def random_patches(summary: Summary) -> int | None:
    """How many patches each random draw has that the kept ones are compared with; None without draws."""
    if summary.record.draws is None or (draws := summary.draws) is None:
        return None
    return draws.number(summary.record.patches)


def kept_patches(summary: Summary) -> list[StoredPatch]:
    """The kept patches, heaviest first."""
    kinds = suspect_kinds(summary)
    order = np.argsort(-summary.weights, kind="stable")
    return [
        StoredPatch(
            number=number,
            picked=row + 1,
            x=int(summary.coords[row, 0]),
            y=int(summary.coords[row, 1]),
            weight=round(float(summary.weights[row]), 6),
            stands_for=int(summary.counts[row]),
            cluster=int(summary.cluster[row]),
            suspect=kinds.get((int(summary.coords[row, 0]), int(summary.coords[row, 1]))),
        )
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
