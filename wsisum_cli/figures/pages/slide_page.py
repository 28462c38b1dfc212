"""One summary as a page: verdict, overview with maps and links, patches, unrepresented tissue, provenance."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wsisum_cli.figures.canvas import NOTICE, facts_of
from wsisum_cli.figures.heatmap import LETTERS
from wsisum_cli.figures.pages.overlays import layers_of, overlays, with_units
from wsisum_cli.figures.pages.plan import Crop, MapPlan, plan_map
from wsisum_cli.figures.pages.render import data_uri, render
from wsisum_cli.figures.picture import Entry, rank
from wsisum_cli.figures.suspects import group_suspects
from wsisum_cli.figures.words import MEANINGS, NO_VERDICT, size, standing_lines, summary_lines
from wsisum_cli.quality.verdict import area
from wsisum_cli.slides import jpeg
from wsisum_cli.summary.inspection import Inspection, StoredPatch, inspect_summary
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.standing import judge_again

MOST_PATCHES = 600  # with pixels in the page; what is heavier than most mail accepts helps nobody
CHANGED = "The attributes of this summary changed after it was written. Do not rely on it; run wsisum verify on it."
#: Attributes that the page shows elsewhere, or that only programs need.
LEFT_OUT = {"members", "disclaimer"}
LONG = {"represented.regions", "broken_tiles.positions"}


@dataclass(frozen=True)
class PatchCard:
    """One kept patch and its pixels."""

    number: int
    image: str
    weight: str
    stored: StoredPatch

    @property
    def words(self) -> str:
        """What stands for the picture where it cannot be seen."""
        suspect = f"; may be {self.stored.suspect}" if self.stored.suspect else ""
        return f"Patch {self.number}: weight {self.weight}, represents {self.represents}{suspect}"

    @property
    def represents(self) -> str:
        """How much tissue it stands for."""
        count = self.stored.stands_for
        return "1 tissue patch" if count == 1 else f"{count} tissue patches"


@dataclass(frozen=True)
class RegionRow:
    """One unrepresented region, and the number of the kept patch most like it; `letter` is empty off the map."""

    letter: str
    area: str
    patches: int
    x: int
    y: int
    nearest: int
    cosine: str
    crop: Crop


@dataclass(frozen=True)
class SuspectRow:
    """One example of suspect tissue; `kept` is the number of its patch, None where it was not kept."""

    x: int
    y: int
    kept: int | None
    crop: Crop


@dataclass(frozen=True)
class SuspectGroup:
    """Suspect tissue of one kind, in words, and examples of it."""

    words: str
    rows: tuple[SuspectRow, ...]


def slide_page(summary: Summary) -> str:
    """The summary as one HTML file. The same summary gives the same text.

    Raises SummaryError when needed data are missing or damaged.
    """
    facts, verdict, layers = inspect_summary(summary), judge_again(summary.record), layers_of(summary)
    standing, plan = standing_lines(facts, verdict), plan_map(summary, layers.get("represented"))
    values = {
        "name": facts.source.name,
        "verdict": verdict.verdict if verdict is not None else "",
        "meaning": MEANINGS[verdict.verdict] if verdict is not None else NO_VERDICT,
        "warning": "" if summary.attributes_are_whole else CHANGED,
        "standing": standing,
        "lines": {name: words for name, words in summary_lines(facts, verdict, True).items() if name not in standing},
        "plan": plan,
        "overview": data_uri("jpeg", jpeg.encode(summary.overview)),
        "overlays": overlays(summary, layers),
        "cards": patch_cards(summary, facts),
        "patch_count": facts.patches,
        "patch_px": facts.patch.patch_size,
        "patch_mm": f"{facts.patch_size_level0 * facts.source.mpp / 1000:.2g}",
        "regions": region_rows(facts, plan),
        "region_count": facts.represented.region_count if facts.represented is not None else None,
        "suspects": suspect_groups(summary, facts, plan),
        "groups": provenance_groups(summary),
        "notice": NOTICE,
        "details": with_units(facts_of(summary).details),
        "file": f"{summary.name}, {size(summary.file.seek(0, os.SEEK_END))}",
    }
    return render("slide.html.j2", values)


def patch_cards(summary: Summary, facts: Inspection) -> list[PatchCard]:
    """The kept patches by falling weight, `MOST_PATCHES` at most."""
    both = zip(rank(summary)[:MOST_PATCHES], facts.kept, strict=False)
    return [PatchCard(entry.number, patch_image(summary, entry), entry.words, stored) for entry, stored in both]


def patch_image(summary: Summary, entry: Entry) -> str:
    """The stored stream of a patch where there is one that holds nothing else, or else its pixels encoded again."""
    pixels = summary.patches[entry.row]
    if summary.record.pixels.mode == "jpeg":
        stream = summary.patches.shard.stream(entry.row)
        if jpeg.holds_only_pixels(stream):
            return data_uri("jpeg", stream)
    return data_uri("jpeg", jpeg.encode(pixels))


def region_rows(facts: Inspection, plan: MapPlan) -> list[RegionRow]:
    """The largest unrepresented regions, largest first."""
    if facts.represented is None:
        return []
    numbers = {patch.picked - 1: patch.number for patch in facts.kept}
    return [
        RegionRow(
            letter=LETTERS[at : at + 1],
            area=area(region.mm2),
            patches=region.patches,
            x=region.x,
            y=region.y,
            nearest=numbers[region.nearest],
            cosine=f"{region.cosine:.3f}",
            crop=plan.crop(region.x, region.y, region.width, region.height),
        )
        for at, region in enumerate(facts.represented.regions)
    ]


def suspect_groups(summary: Summary, facts: Inspection, plan: MapPlan) -> list[SuspectGroup]:
    """Suspect tissue by kind, the largest first. Raises SummaryError when its arrays are damaged."""
    numbers, side = {patch.picked - 1: patch.number for patch in facts.kept}, facts.patch_size_level0
    return [
        SuspectGroup(
            group.words,
            tuple(
                SuspectRow(
                    example.x,
                    example.y,
                    None if example.kept is None else numbers[example.kept],
                    plan.crop(example.x, example.y, side, side),
                )
                for example in group.examples
            ),
        )
        for group in group_suspects(summary)
    ]


def provenance_groups(summary: Summary) -> dict[str, dict[str, str]]:
    """Every attribute in words, by section; those without a section first."""
    shown = {name: value for name, value in summary.record.as_json().items() if name not in LEFT_OUT}
    top = {name: value for name, value in shown.items() if not isinstance(value, dict)}
    sections = {name: dict(flat(value, name)) for name, value in shown.items() if isinstance(value, dict)}
    return {"file": {name: in_words(value) for name, value in top.items()}, **sections}


def flat(section: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """The leaves of a section, by their path within it."""
    for name, value in section.items():
        if f"{path}.{name}" in LONG:
            continue
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", words) for inner, words in flat(value, f"{path}.{name}"))
        else:
            yield name, in_words(value)


def in_words(value: Any) -> str:
    """A value of JSON for a reader."""
    if isinstance(value, list):
        return ", ".join(map(in_words, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
