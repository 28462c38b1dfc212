"""How well a summary stands for its slide: the verdict and what it is reached from, as attributes and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from wsisum_cli.quality.likeness import Likeness, says_little
from wsisum_cli.quality.random_draws import Draws
from wsisum_cli.quality.represented import WANTED
from wsisum_cli.quality.verdict import (
    FAIL,
    PASS,
    VERDICTS,
    Chance,
    Figures,
    LeftOut,
    Thresholds,
    Verdict,
    area,
    compare_with_chance,
    counted_left_out,
    judge,
    percent,
    stored_thresholds,
)
from wsisum_cli.selection.prefixes import Prefixes
from wsisum_cli.summary import attributes as recorded
from wsisum_cli.summary.attributes import Attributes

#: Share of the tissue; other programs find tissue otherwise, but hardly so much less of it.
LITTLE_TISSUE = 0.75


def describe_standing(
    represented: Mapping[str, Any] | None,
    quality: Mapping[str, float | None],
    prefixes: Prefixes,
    draws: Draws,
    keep: int,
    thresholds: Thresholds,
    tissue_share: float | None = None,
    left_out: LeftOut | None = None,
) -> dict[str, Any]:
    """The attributes `draws` and `verdict` of the first `keep` picks, from the attributes `represented` and `quality`.

    `represented` is None before format 1.4. `tissue_share` is how much of the tissue given features cover; `left_out`
    as `left_out_of` gives it.
    """
    section = None if represented is None else recorded.Represented.model_validate(represented)
    chance = compare_with_chance(prefixes, section.cosine if section else None, draws, keep)
    figures = figures_from(section, quality, chance, keep == int(prefixes.patch[-1]) + 1, tissue_share, left_out)
    made = {"keep": list(draws.keep), "models": list(draws.models), "count": draws.count}
    return {
        "draws": {**made, "model_count": draws.model_count, "seed": draws.seed},
        "verdict": {
            **judge(figures, thresholds).as_dict(),
            "chance": None if chance is None else chance.as_dict(),
            "thresholds": thresholds.as_dict(),
            **({"percentiles": {}} if section is None else {}),  # required before format 1.4
        },
    }


def figures_from(
    represented: recorded.Represented | None,
    quality: Mapping[str, float | None],
    chance: Chance | None,
    all_kept: bool,
    tissue_share: float | None = None,
    left_out: LeftOut | None = None,
) -> Figures:
    """What a verdict is reached from; `all_kept`: no tissue patch that could be read was left out."""
    if represented is None:
        return Figures(None, 0.0, False, chance, quality)
    complete = all_kept and not represented.unread
    doubtful = says_little(represented.contrast, represented.pairs)
    partial = tissue_share is not None and tissue_share < LITTLE_TISSUE
    figures = Figures(represented.share, largest_mm2(represented), doubtful, chance, quality, complete, partial)
    return replace(figures, left_out=left_out)


def likeness_of(represented: recorded.Represented) -> Likeness:
    """The recorded yardstick."""
    return Likeness(represented.cosine, represented.pairs, represented.contrast)


def largest_mm2(represented: recorded.Represented) -> float:
    """Area of the largest unrepresented region; 0 without one.

    Nobody knows where unread tissue lies, so all of it counts as one region.
    """
    unread = represented.unread * represented.patch_mm2
    return max(unread, represented.regions[0].mm2 if represented.regions else 0.0)


def counted_share(attributes: Attributes) -> float | None:
    """The represented share of all tissue: what given features leave out counts; None before format 1.4."""
    section, left = attributes.represented, counted_left_out(left_out_of(attributes))
    if section is None:
        return None
    if left is None:
        return section.share
    return round(section.share * (1 - (left.share or 0)), 6)


def counted_largest_mm2(attributes: Attributes) -> float | None:
    """Area of the largest region that nothing represents, or given features leave out; None before format 1.4."""
    section, left = attributes.represented, counted_left_out(left_out_of(attributes))
    return None if section is None else max(largest_mm2(section), 0.0 if left is None else left.largest_mm2)


def recorded_figures(attributes: Attributes) -> Figures:
    """The recorded figures."""
    stored = attributes.verdict.chance if attributes.verdict is not None else None
    chance = None if stored is None else Chance(stored.percentile, stored.keep, stored.alike)
    quality = attributes.quality.model_dump(exclude_unset=True)
    all_kept = attributes.patches == attributes.tissue_patches
    shares = (tissue_share(attributes), left_out_of(attributes))
    return figures_from(attributes.represented, quality, chance, all_kept, *shares)


def left_out_of(attributes: Attributes) -> LeftOut | None:
    """What the recorded mask or given features leave out; None without these.

    Where the file does not say, given features leave out at most what their patches do not cover.
    """
    if not (attributes.has_mask or attributes.features_are_given):
        return None
    section, share = attributes.left_out, tissue_share(attributes)
    if section is not None:
        return LeftOut(section.share, section.largest_mm2, attributes.has_mask)
    if attributes.has_mask or share is None or attributes.represented is None:
        return LeftOut(None, masked=attributes.has_mask)
    uncovered = 1 - min(share, 1)
    return LeftOut(uncovered, uncovered * attributes.represented.tissue_mm2 / max(share, 1e-9), at_most=True)


class WithTissue(Protocol):
    """What says where the tissue comes from: the attributes, or what `inspect` says of them."""

    @property
    def options(self) -> recorded.Options: ...

    @property
    def features(self) -> recorded.ComputedFeatures | recorded.GivenFeatures: ...


def tissue_words(facts: WithTissue) -> str:
    """What a share of represented tissue is a share of."""
    if facts.options.mask_sha256 is not None:
        return "masked tissue"
    return "tissue with given features" if isinstance(facts.features, recorded.GivenFeatures) else "tissue"


def tissue_share(attributes: Attributes) -> float | None:
    """How much of the tissue given features cover; None where they were computed, or the file does not say."""
    features = attributes.features
    return features.tissue_share if isinstance(features, recorded.GivenFeatures) else None


def judge_again(attributes: Attributes, thresholds: Thresholds | None = None) -> Verdict | None:
    """The verdict on the recorded figures by `thresholds`, the recorded ones if None.

    None before format 1.2, which has no verdict. Before 1.4 it is REVIEW at best, whatever the file says.
    """
    if attributes.verdict is None:
        return None
    return judge(recorded_figures(attributes), thresholds or recorded_thresholds(attributes))


def recorded_thresholds(attributes: Attributes) -> Thresholds:
    """The thresholds that a summary was made with; the default ones where it records none."""
    if attributes.verdict is None:
        return Thresholds()
    return stored_thresholds(attributes.verdict.thresholds.model_dump())


def explain(attributes: Attributes, verdict: Verdict, left_out: LeftOut | None = None) -> str:
    """One line of advice on a verdict that is not PASS: what is not represented, and what to do. Empty for PASS.

    `left_out` is what was measured on the slide; None: as recorded.
    """
    if verdict.verdict == PASS:
        return ""
    section = attributes.represented
    if section is None:
        return "compress the slide again, or verify it with --source while the slide exists"
    parts = [missing_words(section)] if section.share < 1 else []
    return "; ".join([*parts, what_to_do(attributes, verdict, left_out or left_out_of(attributes))])


def missing_words(section: recorded.Represented) -> str:
    """What is not represented: share, area, and the largest region."""
    missing = 1 - np.floor(section.share * 1000 + 1e-6) / 1000  # rounded up, as what is represented is rounded down
    words = f"{percent(missing)} of the tissue ({area(section.tissue_mm2 - section.mm2)}"
    if section.regions:
        largest = section.regions[0]
        words += f", largest area {area(largest.mm2)} at {largest.x}, {largest.y}"
    return f"{words}) has no look-alike among the kept patches"


def what_to_do(attributes: Attributes, verdict: Verdict, left_out: LeftOut | None) -> str:
    """The next step that most likely leads to a better verdict."""
    section = attributes.represented
    assert section is not None
    if (covered := tissue_share(attributes)) is not None and covered < LITTLE_TISSUE:
        return "complete the features, or let wsisum compute them"
    if left_out is not None and is_left_out_too_much(attributes, verdict):
        return what_to_do_about(left_out)
    if says_little(section.contrast, section.pairs) and attributes.patches < attributes.tissue_patches:
        return "the encoder says little about this slide; use another --encoder, or keep the slide"
    if verdict.well_chosen != PASS:
        return "keep the slide, or compress it with the selector wsisum, more patches or another encoder"
    if section.share >= WANTED and not section.unread:
        return "compress the slide with a larger --keep, or look at it with wsisum inspect --details"
    if section.needed is not None and section.needed > attributes.patches:
        return f"--keep {section.needed} would represent {percent(WANTED)}"
    if section.unread and section.share + section.unread / (attributes.tissue_patches + section.unread) >= WANTED:
        return "part of the slide cannot be read; scan it again, or restore it from a backup"
    look = "look at these areas with wsisum inspect --map represented"
    return f"{look}, and keep the slide" if verdict.verdict == FAIL else f"{look}; keep the slide if they matter"


def is_left_out_too_much(attributes: Attributes, verdict: Verdict) -> bool:
    """Whether the verdict would be better without what a mask or given features leave out."""
    rest = judge(replace(recorded_figures(attributes), left_out=None), recorded_thresholds(attributes))
    return VERDICTS.index(rest.representative) < VERDICTS.index(verdict.representative)


def what_to_do_about(left_out: LeftOut) -> str:
    """What to do where a mask or given features leave out too much."""
    if left_out.share is None or left_out.at_most:
        return "verify the summary with --source while the slide exists"
    if left_out.masked:
        return "mark all tissue in the mask, or keep the slide; the summary stands for the masked part only"
    return "complete the features, or let wsisum compute them"
