"""What every export says of itself: that it is not the slide, what it holds, and how well that stands for the slide."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from wsisum_cli.quality.verdict import percent
from wsisum_cli.summary.attributes import Attributes, Source
from wsisum_cli.summary.limits.plain_text import printable
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.standing import judge_again, tissue_words
from wsisum_cli.summary.writer import DISCLAIMER


class Facts(BaseModel):
    """Facts of a summary that name no slide. None where the summary's format does not know."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["export of a summary slide"] = "export of a summary slide"
    note: str
    patches: int
    tissue_patches: int
    patch_size: int  # px, as stored or as the encoder sees it
    patch_size_level0: int  # level-0 px
    patch_mpp: float  # µm per px of a patch
    represented: float | None  # share of the tissue
    verdict: str | None
    reasons: list[str]  # what does not pass
    encoder: str
    pixels: str  # source or jpeg
    format_version: str  # of the summary

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class About(Facts):
    """The facts that go into an export."""

    source: Source


def describe(summary: Summary) -> About:
    """The facts of a summary. Raises SummaryError where its attributes are not in order."""
    record = summary.record
    verdict = judge_again(record)
    return About(
        note=statement(record),
        source=record.source,
        patches=record.patches,
        tissue_patches=record.tissue_patches,
        patch_size=record.patch.patch_size,
        patch_size_level0=record.patch.patch_size_level0,
        patch_mpp=record.patch.mpp,
        represented=None if record.represented is None else record.represented.share,
        verdict=None if verdict is None else verdict.verdict,
        reasons=list(verdict.reasons) if verdict else [],
        encoder=record.encoder.name,
        pixels=record.pixels.mode,
        format_version=record.format_version,
    )


def statement(record: Attributes, slide: str | None = None) -> str:
    """One paragraph in plain English: this is not the slide, what it holds, and what it is not for.

    `slide` is what to call the slide; None for its name.
    """
    words = f"This is not a slide. It is a summary of {printable(slide or record.source.name)}: "
    words += f"{record.patches} of its "
    words += f"{record.tissue_patches} tissue patches, each with a weight. The rest of the slide is missing. "
    if record.represented is not None:
        words += f"The patches represent {percent(record.represented.share)} of the {tissue_words(record)}. "
    verdict = judge_again(record)
    if verdict is not None:
        words += f"The verdict on the summary is {verdict.verdict}. "
    return words + DISCLAIMER
