"""Draw a summary as one picture: positions and pixels of the kept patches, like the figures of the WSISum paper.

The overview on the left has a numbered frame for each kept patch; beside it are the patches, highest weight first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.figures.canvas import (
    DETAILS,
    HALO,
    HEADLINE,
    NOTICE,
    SMALL,
    TITLE,
    Canvas,
    Facts,
    Label,
    Style,
    Swatch,
    area,
    draw_labels,
    draw_scale_bar,
    draw_swatches,
    enlarged,
    facts_of,
    find_tissue,
    patch_numbers,
    percent,
    reduced,
    text_width,
)
from wsisum_cli.figures.colour import (
    GREY,
    HAIRLINE,
    RARE,
    UNWEIGHTED,
    Colour,
    colours_of,
    ramp_colours,
    weight_limits,
)
from wsisum_cli.figures.layout import MARGIN, PAD, TOP, Plan, arrange, spread
from wsisum_cli.quality.guarantee import MM2
from wsisum_cli.selection.rarity import SPOT
from wsisum_cli.summary.reader import Summary

MIN_BOX = 14  # px
NO_WEIGHT = 5e-5  # smaller weights would be printed as 0.00 %
FEW = 1 / 4  # of the tissue patches that a kept patch represents on average; rare tissue is less
CAPTIONS = "Under each patch: number, weight; x, y in level-0 px; tissue that it represents."


@dataclass(frozen=True)
class Entry:
    """One kept patch, numbered from 1 by falling weight."""

    number: int
    row: int  # of the K patches in the file
    x: int  # level-0 px
    y: int
    weight: float
    count: int  # tissue patches that it represents
    is_rare: bool  # they are so few that it was kept for rare tissue
    colour: Colour

    @property
    def words(self) -> str:
        """Its weight in words."""
        if self.weight < NO_WEIGHT:
            return "rare" if self.is_rare else "no weight"
        return f"rare, {percent(self.weight)}" if self.is_rare else percent(self.weight)

    @property
    def is_on_ramp(self) -> bool:
        """Whether its colour says its weight."""
        return not self.is_rare and self.weight >= NO_WEIGHT


def draw_summary(summary: Summary, title: str | None = None) -> np.ndarray:
    """Draw the overview with numbered frames, and the patches by weight: (H, W, 3) uint8 RGB, 2000 to 3000 px wide.

    `title` stands above it, the slide's name if None. The same summary gives the same pixels. Raises SummaryError when
    needed data are missing or damaged.
    """
    facts, entries, overview = facts_of(summary, title), rank(summary), summary.overview
    plan = arrange(len(entries), (overview.shape[1], overview.shape[0]), len(swatches_of(entries)))
    page = Canvas(plan.width, plan.height)
    draw_words(page, plan, facts)
    draw_overview(page, plan, facts, entries, overview)
    draw_legend(page, plan, facts, entries)
    draw_patches(page, plan, facts, entries, summary.patches)
    return page.pixels


def rank(summary: Summary) -> list[Entry]:
    """The kept patches by falling weight; ties keep the selector's order. Raises SummaryError."""
    weights, counts = np.asarray(summary.weights, float), np.asarray(summary.counts)
    lengths = {len(summary.coords), len(summary.patches), len(counts)}
    if not len(weights) or lengths != {len(weights)} or not np.isfinite(weights).all():
        raise SummaryError(f"{summary.name}: patches, coords, counts and weights do not match; verify the file")
    rare = counts <= min(SPOT, FEW * counts.sum() / len(counts))
    colours, coords = colours_by_weight(weights, rare), summary.coords.tolist()
    return [
        Entry(number, row, x, y, float(weights[row]), int(counts[row]), bool(rare[row]), colours[row])
        for number, row in enumerate(np.argsort(patch_numbers(weights)).tolist(), 1)
        for x, y in [coords[row]]
    ]


def colours_by_weight(weights: np.ndarray, rare: np.ndarray) -> list[Colour]:
    """Colours (K,) by weight, but for patches that are rare (K,) or have no weight."""
    on_ramp = ~rare & (weights >= NO_WEIGHT)
    limits = weight_limits(weights[on_ramp] if on_ramp.any() else weights)
    plain = [RARE if is_rare else UNWEIGHTED for is_rare in rare.tolist()]
    choices = zip(colours_of(weights, limits), plain, on_ramp.tolist(), strict=True)
    return [colour if ramp else other for colour, other, ramp in choices]


def draw_words(page: Canvas, plan: Plan, facts: Facts) -> None:
    """Draw title, headings and notice."""
    content = plan.width - 2 * MARGIN
    page.write((MARGIN, 84), facts.name, TITLE, content)
    page.write((MARGIN, 128), facts.details, DETAILS, content)
    enlarged_words = ", in boxes larger than they are" if are_enlarged(plan, facts) else ""
    page.write((MARGIN, TOP - 14), f"Positions of the kept patches{enlarged_words}", HEADLINE, plan.panel_width)
    x, y = plan.cell(0)
    size = f"each {facts.side * facts.mpp / 1000:.2g} mm wide, stored at {facts.stored_mpp:.3g} microns per px"
    page.write((x, y - 14), f"Kept patches by weight, {size}", HEADLINE, plan.width - MARGIN - x)
    page.write((MARGIN, plan.height - 40), f"{NOTICE} {CAPTIONS}", SMALL, content)


def draw_overview(page: Canvas, plan: Plan, facts: Facts, entries: Sequence[Entry], overview: np.ndarray) -> None:
    """Draw the framed overview with a numbered frame for each patch."""
    left, upper, right, lower = plan.panel
    panel = Canvas(right - left, lower - upper)
    corner = ((panel.width - plan.map_size[0]) // 2, PAD)
    pixels, whole = enlarged(overview, plan.map_size), (0, 0, panel.width, panel.height)
    panel.image(pixels, corner)
    boxes = boxes_of(plan, facts, entries, corner)
    for entry, box in reversed(list(zip(entries, boxes.tolist(), strict=True))):  # highest weight on top
        panel.frame(box, entry.colour)
    size = number_size(len(boxes), int(boxes[0, 2] - boxes[0, 0]))
    labels = [Label(str(entry.number), box) for entry, box in zip(entries, boxes.tolist(), strict=True)]
    draw_labels(panel, labels, size, whole, find_tissue(pixels, corner, whole))
    page.canvas(panel, (left, upper))
    page.outline(plan.panel, HAIRLINE)


def boxes_of(plan: Plan, facts: Facts, entries: Sequence[Entry], corner: tuple[int, int]) -> np.ndarray:
    """Boxes (K, 4) int left, upper, right, lower px in the panel, each side at least `MIN_BOX`.

    Where they are larger than the patches, they are pushed apart.
    """
    scale = np.array(plan.map_size) / facts.size
    coords = np.array([(entry.x, entry.y) for entry in entries], float)
    side = np.maximum(np.minimum(facts.side * scale, plan.map_size), MIN_BOX)
    upper_left = np.round((coords + facts.side / 2) * scale - side / 2)
    upper_left = np.clip(upper_left, -side, plan.map_size)  # a damaged file may contain any coordinates
    boxes = np.hstack([upper_left, upper_left + np.round(side)]).astype(int)
    return np.asarray((spread(boxes) if are_enlarged(plan, facts) else boxes) + np.tile(corner, 2))


def are_enlarged(plan: Plan, facts: Facts) -> bool:
    """Whether the boxes on the overview are larger than the patches, which are too small to see."""
    return bool((facts.side * np.array(plan.map_size) / facts.size < MIN_BOX).all())


def number_size(count: int, side: int) -> int:
    """Font size: smaller for many numbers, and smaller still if that makes them fit into boxes of `side` px."""
    if count <= 72:
        return 28 if count <= 36 else 24
    sizes = range(20 if count <= 140 else 18, 15, -1)
    return next((size for size in sizes if text_width(str(count), size) + 2 * HALO <= side), sizes[0])


def draw_legend(page: Canvas, plan: Plan, facts: Facts, entries: Sequence[Entry]) -> None:
    """Draw below the overview: scale bar on the left, colour legend on the right, colours without weight beneath."""
    left, _, right, lower = plan.panel
    room = plan.panel_width // 2 - 30
    draw_scale_bar(page, (left, lower), facts.mpp / 1000 * facts.size[0] / plan.map_size[0], room)
    draw_ramp(page, (right, lower), min(room, 300), [entry for entry in entries if entry.is_on_ramp])
    draw_swatches(page, (left, lower + 70), plan.panel_width, swatches_of(entries), None)


def swatches_of(entries: Sequence[Entry]) -> list[Swatch]:
    """What the colours of patches mean that do not say a weight."""
    found = []
    if any(entry.is_rare for entry in entries):
        most = max(entry.count for entry in entries if entry.is_rare)
        tissue = "1 tissue patch" if most == 1 else f"at most {most} tissue patches"
        found.append(Swatch(RARE, f"rare: represents {tissue}"))
    if any(not entry.is_rare and not entry.is_on_ramp for entry in entries):
        found.append(Swatch(UNWEIGHTED, "no weight in the slide's mean"))
    return found


def draw_ramp(page: Canvas, corner: tuple[int, int], wide: int, entries: Sequence[Entry]) -> None:
    """Draw the colours from lowest to highest weight of `entries`, with the right end below `corner`."""
    if not entries:
        return
    right, lower = corner
    low, high = weight_limits(np.array([entry.weight for entry in entries]))
    if entries[0].colour == entries[-1].colour:
        page.bar((right - 60, lower + 16, right, lower + 28), entries[0].colour)
        page.text((right, lower + 52), f"weight {percent(high)}", SMALL.size, GREY, "rs")
        return
    for x, colour in enumerate(ramp_colours(np.linspace(0, 1, wide)), right - wide):
        page.bar((x, lower + 16, x + 1, lower + 28), colour)
    below = "< " if entries[-1].weight < low else ""
    page.text((right - wide, lower + 52), below + percent(low), SMALL.size, GREY)
    page.text((right - wide / 2, lower + 52), "weight, log", SMALL.size, GREY, "ms")
    page.text((right, lower + 52), percent(high), SMALL.size, GREY, "rs")


def draw_patches(
    page: Canvas, plan: Plan, facts: Facts, entries: Sequence[Entry], patches: Sequence[np.ndarray]
) -> None:
    """Draw every patch in its frame, with number, weight, coords and the tissue that it represents below."""
    small, patch_mm2 = Style(plan.caption, 8, GREY), (facts.side * facts.mpp) ** 2 * MM2
    for index, entry in enumerate(entries):
        x, y = plan.cell(index)
        page.image(reduced(patches[entry.row], (plan.thumb, plan.thumb)), (x, y))
        page.frame((x, y, x + plan.thumb, y + plan.thumb), entry.colour)
        first, line = y + plan.thumb + round(1.25 * plan.caption), 1.2 * plan.caption
        number = str(entry.number)
        page.text((x, first), number, plan.caption + 2)
        room = plan.thumb - text_width(number, plan.caption + 2) - 6
        page.write((x + plan.thumb, first), entry.words, Style(plan.caption, 8), room, "rs")
        page.write((x, first + round(line)), f"{entry.x}, {entry.y}", small, plan.thumb)
        page.write((x, first + round(2 * line)), area(entry.count * patch_mm2), small, plan.thumb)
