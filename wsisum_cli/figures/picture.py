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
    Style,
    draw_scale_bar,
    enlarged,
    facts_of,
    number_extent,
    percent,
    reduced,
    text_width,
)
from wsisum_cli.figures.colour import GREY, HAIRLINE, Colour, colours_of, ramp_colours
from wsisum_cli.figures.layout import MARGIN, PAD, TOP, Plan, arrange, leaders, place_labels
from wsisum_cli.summary.reader import Summary

MIN_BOX = 10  # px


@dataclass(frozen=True)
class Entry:
    """One kept patch, numbered from 1 by falling weight."""

    number: int
    row: int  # of the K patches in the file
    x: int  # level-0 px
    y: int
    weight: float
    colour: Colour


def draw_summary(summary: Summary) -> np.ndarray:
    """Draw the overview with numbered frames, and the patches by weight: (H, W, 3) uint8 RGB, 2000 to 3000 px wide.

    The same summary gives the same pixels. Raises SummaryError when needed data are missing or damaged.
    """
    facts, entries, overview = facts_of(summary), rank(summary), summary.overview
    plan = arrange(len(entries), (overview.shape[1], overview.shape[0]))
    page = Canvas(plan.width, plan.height)
    draw_words(page, plan, facts)
    draw_overview(page, plan, facts, entries, overview)
    draw_legend(page, plan, facts, entries)
    draw_patches(page, plan, entries, summary.patches)
    return page.pixels


def rank(summary: Summary) -> list[Entry]:
    """The kept patches by falling weight; ties keep the selector's order. Raises SummaryError."""
    weights = np.asarray(summary.weights, float)
    if not 0 < len(weights) == len(summary.coords) == len(summary.patches) or not np.isfinite(weights).all():
        raise SummaryError(f"{summary.name}: patches, coords and weights do not match; verify the file")
    colours = colours_of(weights)
    order = np.argsort(-weights, kind="stable").tolist()
    coords, shares = summary.coords.tolist(), weights.tolist()
    return [Entry(i, row, coords[row][0], coords[row][1], shares[row], colours[row]) for i, row in enumerate(order, 1)]


def draw_words(page: Canvas, plan: Plan, facts: Facts) -> None:
    """Draw title, headings and notice."""
    content = plan.width - 2 * MARGIN
    page.write((MARGIN, 84), facts.name, TITLE, content)
    page.write((MARGIN, 128), facts.details, DETAILS, content)
    page.write((MARGIN, TOP - 14), "Positions of the kept patches", HEADLINE, plan.panel_width)
    x, y = plan.cell(0)
    words = f"Kept patches by weight, each {facts.side * facts.mpp / 1000:.2g} mm wide; x, y in level-0 px"
    page.write((x, y - 14), words, HEADLINE, plan.width - MARGIN - x)
    page.write((MARGIN, plan.height - 40), NOTICE, SMALL, content)


def draw_overview(page: Canvas, plan: Plan, facts: Facts, entries: Sequence[Entry], overview: np.ndarray) -> None:
    """Draw the framed overview with a numbered frame for each patch."""
    left, upper, right, lower = plan.panel
    panel = Canvas(right - left, lower - upper)
    corner = ((panel.width - plan.map_size[0]) // 2, PAD)
    panel.image(enlarged(overview, plan.map_size), corner)
    boxes = boxes_of(plan, facts, entries, corner)
    for entry, box in reversed(list(zip(entries, boxes.tolist(), strict=True))):  # highest weight on top
        panel.frame(box, entry.colour)
    draw_numbers(panel, boxes)
    page.canvas(panel, (left, upper))
    page.outline(plan.panel, HAIRLINE)


def boxes_of(plan: Plan, facts: Facts, entries: Sequence[Entry], corner: tuple[int, int]) -> np.ndarray:
    """Boxes (K, 4) int left, upper, right, lower px in the panel, each side at least `MIN_BOX`."""
    scale = np.array(plan.map_size) / facts.size
    coords = np.array([(entry.x, entry.y) for entry in entries], float)
    side = np.maximum(np.minimum(facts.side * scale, plan.map_size), MIN_BOX)
    upper_left = np.round((coords + facts.side / 2) * scale - side / 2)
    upper_left = np.clip(upper_left, -side, plan.map_size)  # a damaged file may contain any coordinates
    boxes = np.hstack([upper_left, upper_left + np.round(side)]).astype(int)
    return np.asarray(boxes + np.tile(corner, 2))


def draw_numbers(panel: Canvas, boxes: np.ndarray) -> None:
    """Draw 1 to K, white with a dark halo, in or near their boxes, with a leader line if apart."""
    size = number_size(len(boxes), int(boxes[0, 2] - boxes[0, 0]))
    texts = [str(number + 1) for number in range(len(boxes))]
    sizes = np.array([number_extent(text, size) for text in texts])
    places = place_labels(boxes.astype(float), sizes, (panel.width, panel.height))
    panel.leaders(leaders(boxes, places, sizes))
    for text, corner in zip(texts, places.tolist(), strict=True):
        panel.number(corner, text, size)


def number_size(count: int, side: int) -> int:
    """Font size: smaller for many numbers, and smaller still if that makes them fit into boxes of `side` px."""
    if count <= 72:
        return 28 if count <= 36 else 24
    sizes = range(20 if count <= 140 else 18, 15, -1)
    return next((size for size in sizes if text_width(str(count), size) + 2 * HALO <= side), sizes[0])


def draw_legend(page: Canvas, plan: Plan, facts: Facts, entries: Sequence[Entry]) -> None:
    """Draw below the overview: scale bar on the left, colour legend on the right."""
    left, _, right, lower = plan.panel
    room = plan.panel_width // 2 - 30
    draw_scale_bar(page, (left, lower), facts.mpp / 1000 * facts.size[0] / plan.map_size[0], room)
    draw_ramp(page, (right, lower), min(room, 300), entries[0], entries[-1])


def draw_ramp(page: Canvas, corner: tuple[int, int], wide: int, heavy: Entry, light: Entry) -> None:
    """Draw the colours from lowest to highest weight, with the right end below `corner`."""
    right, lower = corner
    if heavy.colour == light.colour:
        page.bar((right - 60, lower + 16, right, lower + 28), heavy.colour)
        page.text((right, lower + 52), f"weight {percent(heavy.weight)}", SMALL.size, GREY, "rs")
        return
    for x, colour in enumerate(ramp_colours(np.linspace(0, 1, wide)), right - wide):
        page.bar((x, lower + 16, x + 1, lower + 28), colour)
    page.text((right - wide, lower + 52), percent(light.weight), SMALL.size, GREY)
    page.text((right - wide / 2, lower + 52), "weight, log", SMALL.size, GREY, "ms")
    page.text((right, lower + 52), percent(heavy.weight), SMALL.size, GREY, "rs")


def draw_patches(page: Canvas, plan: Plan, entries: Sequence[Entry], patches: Sequence[np.ndarray]) -> None:
    """Draw every patch in its frame, with number, weight and coords below."""
    coords = Style(plan.caption, 8, GREY)
    for index, entry in enumerate(entries):
        x, y = plan.cell(index)
        page.image(reduced(patches[entry.row], (plan.thumb, plan.thumb)), (x, y))
        page.frame((x, y, x + plan.thumb, y + plan.thumb), entry.colour)
        first = y + plan.thumb + round(1.25 * plan.caption)
        page.text((x, first), str(entry.number), plan.caption + 2)
        page.text((x + plan.thumb, first), percent(entry.weight), plan.caption, anchor="rs")
        page.write((x, first + round(1.2 * plan.caption)), f"{entry.x}, {entry.y}", coords, plan.thumb)
