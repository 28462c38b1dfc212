"""Compare several selections of one slide's patches side by side, like the selector figure of WSISum.

Each panel shows the kept patches on the overview and, below, how similar every tissue patch is to one of them. All
panels share one colour scale and one scale bar.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wsisum_cli.errors import UsageError
from wsisum_cli.figures.canvas import (
    DETAILS,
    NOTICE,
    SMALL,
    TITLE,
    Canvas,
    Facts,
    Style,
    draw_scale,
    draw_scale_bar,
    enlarged,
    facts_of,
    plain,
)
from wsisum_cli.figures.colour import GREY, HAIRLINE, KINDS, WHITE, Scale, coverage_scale, ground, squares, tinted
from wsisum_cli.figures.heatmap import checked_tissue, draw_kept
from wsisum_cli.figures.layout import MARGIN, GridPlan, arrange_panels
from wsisum_cli.summary.reader import Summary

NAME, FIGURES = Style(30, 16), Style(22, 11, GREY)
BELOW = 0.05  # fraction of patches that may lie below the scale, so that one bad selector does not cost contrast
KEPT_COLOUR = KINDS[6]  # yellow contrasts with stains, and its dark rim with glass
ROWS = ("kept patches", "coverage")


#: Keys of the attribute `quality`, and their labels in the figure.
QUALITY = {"coverage": "coverage", "coverage_p05": "5th percentile", "coverage_min": "minimum"}


@dataclass(frozen=True)
class Panel:
    """One selection of a slide's patches, and how well it covers the tissue."""

    title: str
    coords: np.ndarray  # (K, 2) kept patches, level-0 px
    tissue: np.ndarray  # (N, 2) all tissue patches, level-0 px
    similarity: np.ndarray  # (N,) cosine of each to the nearest kept one
    side: float  # of a patch, level-0 px
    quality: Mapping[str, float]  # cosines, with the keys of `QUALITY`
    encoder: tuple[str, str | None]  # name, and sha256 if known, of the encoder whose features are compared

    def as_dict(self) -> dict[str, Any]:
        """The panel as JSON; the keys are stable."""
        return {
            "title": self.title,
            "patches": len(self.coords),
            "tissue_patches": len(self.tissue),
            "encoder": self.encoder[0],
            **{name: round(self.quality[name], 6) for name in QUALITY},
        }


def panel_of(summary: Summary) -> Panel:
    """What a summary kept. Raises SummaryError when something of it is missing or damaged."""
    facts, tissue, record = facts_of(summary), checked_tissue(summary), summary.record
    quality = {name: float(getattr(record.quality, name)) for name in QUALITY}
    encoder = (plain(record.encoder.name), record.features_encoder)
    title = f"{plain(record.options.selector)}, K = {len(summary.coords)}"
    return Panel(title, summary.coords, tissue.coords, tissue.similarity, facts.side, quality, encoder)


def panels_of(summaries: Sequence[Summary]) -> list[Panel]:
    """One panel per summary. Raises UsageError when they are of different slides; SummaryError."""
    slides = [find_source_panel(summary) for summary in summaries]
    others = [index for index, (_, sha256) in enumerate(slides) if sha256 != slides[0][1]]
    if others:
        named = [f"{summaries[i].name} of {slides[i][0]} (sha256 {slides[i][1]:.12})" for i in (0, *others)]
        raise UsageError(f"--compare: expected summaries of one slide, found {', '.join(named)}; remove the others")
    return [panel_of(summary) for summary in summaries]


def find_source_panel(summary: Summary) -> tuple[str, str]:
    """Name and sha256 of the slide."""
    return summary.record.source.name, summary.record.source.sha256


def distinguish_titles(panels: Sequence[Panel]) -> list[Panel]:
    """Add the encoder to the titles if there are several, and a number to equal titles."""
    if len({panel.encoder for panel in panels}) > 1:
        panels = [replace(panel, title=f"{panel.title}, {panel.encoder[0]}") for panel in panels]
    totals, seen = Counter(panel.title for panel in panels), Counter[str]()
    distinct = []
    for panel in panels:
        seen[panel.title] += 1
        number = f" ({seen[panel.title]})" if totals[panel.title] > 1 else ""
        distinct.append(replace(panel, title=panel.title + number))
    return distinct


def draw_panels(summary: Summary, panels: Sequence[Panel]) -> np.ndarray:
    """Draw `panels` on the overview of `summary`: (H, W, 3) uint8 RGB, 2000 to 3000 px wide.

    The same panels give the same pixels. Raises SummaryError when needed data are missing or damaged.
    """
    facts, overview = facts_of(summary), summary.overview
    plan = arrange_panels(len(panels), (overview.shape[1], overview.shape[0]))
    scale = coverage_scale(np.concatenate([panel.similarity for panel in panels]), BELOW)
    page, pixels = Canvas(plan.width, plan.height), enlarged(overview, plan.map_size)
    draw_words(page, plan, facts, panels)
    for index, panel in enumerate(panels):
        draw_kept_map(page, plan, index, facts, panel, pixels)
        draw_coverage_map(page, plan, index, facts, panel, pixels, scale)
    lightness = ground(pixels, squares(panels[0].tissue, panels[0].side, facts.size, plan.map_size))
    right = plan.frame(plan.columns - 1, lower=True)[2]
    room = (right - plan.left) // 2 - 30
    draw_scale_bar(page, (plan.left, plan.lower), mm_of(plan, facts), plan.cell_width // 2)
    draw_scale(page, (right, plan.lower), room, scale, lightness)
    return page.pixels


def mm_of(plan: GridPlan, facts: Facts) -> float:
    """Size in mm of a px of the maps."""
    return facts.mpp / 1000 * facts.size[0] / plan.map_size[0]


def draw_words(page: Canvas, plan: GridPlan, facts: Facts, panels: Sequence[Panel]) -> None:
    """Draw the title, title and figures of each panel, row titles, and notice."""
    content = plan.width - 2 * MARGIN
    page.write((MARGIN, 84), facts.name, TITLE, content)
    page.write((MARGIN, 128), details(panels), DETAILS, content)
    for index, panel in enumerate(panels):
        left, top = plan.cell(index)
        page.write((left, top + 38), panel.title, NAME, plan.cell_width)
        words = ", ".join(f"{words} {panel.quality[name]:.3f}" for name, words in QUALITY.items())
        page.write((left, top + 70), words, FIGURES, plan.cell_width)
    for index in range(0, len(panels), plan.columns):
        for lower, words in enumerate(ROWS):
            _, top, _, bottom = plan.frame(index, bool(lower))
            page.upright((MARGIN - 8, (top + bottom) // 2), words, DETAILS, bottom - top)
    page.write((MARGIN, plan.height - 40), NOTICE, SMALL, content)


def details(panels: Sequence[Panel]) -> str:
    counts = sorted({len(panel.tissue) for panel in panels})
    patches = " to ".join(f"{count:,}" for count in counts[:1] + counts[1:][-1:])
    encoders = sorted({panel.encoder for panel in panels}, key=str)
    if len(encoders) > 1:
        compared = "features of several encoders, whose cosines cannot be compared"
    else:
        compared = f"features of encoder {encoders[0][0]}"
    return f"{patches} tissue patches   ·   {compared}"


def draw_kept_map(page: Canvas, plan: GridPlan, index: int, facts: Facts, panel: Panel, pixels: np.ndarray) -> None:
    """Upper row: the kept patches."""
    corner = plan.corner(index, lower=False)
    page.image(pixels, corner)
    frames = squares(panel.coords, panel.side, facts.size, plan.map_size) + np.tile(corner, 2)
    draw_kept(page, frames, KEPT_COLOUR)
    page.outline(plan.frame(index, lower=False), HAIRLINE)


def draw_coverage_map(
    page: Canvas, plan: GridPlan, index: int, facts: Facts, panel: Panel, pixels: np.ndarray, scale: Scale
) -> None:
    """Lower row: how similar each tissue patch is to a kept one."""
    corner = plan.corner(index, lower=True)
    boxes = squares(panel.tissue, panel.side, facts.size, plan.map_size)
    page.image(tinted(pixels, boxes, scale.colours(panel.similarity)), corner)
    frames = squares(panel.coords, panel.side, facts.size, plan.map_size) + np.tile(corner, 2)
    draw_kept(page, frames, WHITE)
    page.outline(plan.frame(index, lower=True), HAIRLINE)
