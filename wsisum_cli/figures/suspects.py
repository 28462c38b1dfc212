"""A contact sheet of suspect tissue, by kind, so that a person can judge whether it is an artefact or diagnostic."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.figures.canvas import HEADLINE, SMALL, Box, Canvas, Facts, Style, part, patch_numbers, percent, resized
from wsisum_cli.figures.colour import GREY, HAIRLINE, Colour, kind_colour
from wsisum_cli.figures.layout import MARGIN, SheetPlan
from wsisum_cli.quality import verdict
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.writer import SUSPECT

ARTEFACTS = {1: "pen", 2: "blurred", 3: "fold", 4: "bubble", 5: "blank", 6: "black", 7: "corrupt"}
MOST_EXAMPLES = 12  # of each kind
AROUND = 3  # patch widths that a crop of the overview shows
FRAME = 5  # px, width of a frame with its dark lines
SWATCH = 22  # px, of the colour beside a heading
TITLE, KEPT_WORDS, CAPTION = Style(28, 16), Style(19, 10), Style(19, 10, GREY)


@dataclass(frozen=True)
class Example:
    """One suspect patch: its upper left corner in level-0 px, and its row among the kept patches, None if not kept."""

    x: int
    y: int
    kept: int | None


@dataclass(frozen=True)
class Group:
    """Suspect tissue of one kind: how many patches, which share of all tissue patches, and those to draw."""

    kind: int
    count: int
    share: float
    examples: tuple[Example, ...]

    @property
    def words(self) -> str:
        patches = "1 patch" if self.count == 1 else f"{self.count:,} patches"
        shown = f"; {len(self.examples)} of them are shown" if len(self.examples) < self.count else ""
        return f"{kind_name(self.kind)}: {patches}, {share_words(self.share)} of the tissue{shown}"


def share_words(share: float) -> str:
    """A share of the tissue, rounded down, so that only all of it is 100 %."""
    return "under 0.01 %" if share < 1e-4 else percent(share) if share < 1e-3 else verdict.percent(share)


def kind_name(number: int) -> str:
    return ARTEFACTS.get(number, f"kind {number}")


def artefact_colour(number: int) -> Colour:
    return kind_colour(number - 1)


def suspect_places(summary: Summary) -> tuple[np.ndarray, np.ndarray]:
    """Coords (S, 2) and kinds (S,) of suspect tissue. Raises SummaryError when its arrays do not belong together."""
    kind = summary.optional(SUSPECT)
    if kind is None:
        return np.empty((0, 2), np.int32), np.empty(0, np.uint8)
    coords = summary.tissue.coords
    if kind.ndim != 1 or coords.shape != (len(kind), 2):
        raise SummaryError(f"{summary.name}: {SUSPECT} and tissue/coords do not belong together; verify the file")
    return coords[kind > 0], kind[kind > 0]


def group_suspects(summary: Summary) -> tuple[Group, ...]:
    """Suspect tissue by kind, the largest first. Raises SummaryError when its arrays are damaged."""
    coords, kind = suspect_places(summary)
    if not len(kind):
        return ()
    check_places(summary, coords)
    rows = {(x, y): row for row, (x, y) in enumerate(kept_coords(summary).tolist())}
    kinds, counts = np.unique(kind, return_counts=True)
    groups = []
    for at in np.argsort(-counts, kind="stable").tolist():
        places = [Example(x, y, rows.get((x, y))) for x, y in coords[kind == kinds[at]].tolist()]
        share = len(places) / len(summary.tissue.coords)
        groups.append(Group(int(kinds[at]), len(places), share, tuple(spread_examples(places))))
    return tuple(groups)


def check_places(summary: Summary, coords: np.ndarray) -> None:
    """Raises SummaryError when a patch at `coords` (S, 2) is not on the slide, and so not on the overview."""
    source, side = summary.record.source, summary.record.patch.patch_size_level0
    places = coords.astype(float)
    if not ((places >= 0) & (places + side <= (source.width, source.height))).all():
        raise SummaryError(f"{summary.name}: some of tissue/coords lie outside the slide; verify the file")


def kept_coords(summary: Summary) -> np.ndarray:
    """(K, 2). Raises SummaryError unless there are as many weights, and pixels of as many patches."""
    coords, count = summary.coords, len(summary.coords)
    if coords.shape != (count, 2) or summary.weights.shape != (count,) or len(summary.patches) != count:
        raise SummaryError(f"{summary.name}: patches, coords and weights do not match; verify the file")
    return coords


def spread_examples(places: list[Example]) -> list[Example]:
    """At most `MOST_EXAMPLES` spread evenly over `places`: of each run a kept patch, or else the one in the middle."""
    bounds = np.linspace(0, len(places), min(MOST_EXAMPLES, len(places)) + 1).round().astype(int).tolist()
    runs = [places[start:end] for start, end in pairwise(bounds)]
    return [next((place for place in run if place.kept is not None), run[len(run) // 2]) for run in runs]


def kept_rows(groups: tuple[Group, ...]) -> tuple[int, ...]:
    """Rows of the kept patches among the examples, ascending."""
    examples = (example for group in groups for example in group.examples)
    return tuple(sorted({example.kept for example in examples if example.kept is not None}))


def draw_sheet(page: Canvas, plan: SheetPlan, facts: Facts, groups: tuple[Group, ...], summary: Summary) -> None:
    """Draw the examples of each group beneath its heading. Raises SummaryError when pixels are damaged."""
    if not groups:
        return
    number, content = patch_numbers(summary.weights), plan.width - 2 * MARGIN
    page.write((MARGIN, plan.top + 30), "Suspect tissue: is it an artefact, or diagnostic?", TITLE, content)
    page.write((MARGIN, plan.top + 60), explanation(facts, summary), SMALL, content)
    for at, group in enumerate(groups):
        draw_heading(page, plan.heading(at), group, content)
        for index, example in enumerate(group.examples):
            (x, y), colour = plan.cell(at, index), artefact_colour(group.kind)
            box = (x, y, x + plan.thumb, y + plan.thumb)
            if example.kept is None:
                draw_surroundings(page, box, facts, example, summary.overview, colour)
            else:
                page.image(resized(summary.patches[example.kept], (plan.thumb, plan.thumb)), (x, y))
                page.frame(box, colour)
            draw_caption(page, box, example, number)


def explanation(facts: Facts, summary: Summary) -> str:
    """What the two kinds of example show, and how finely."""
    fine, coarse = summary.record.patch.mpp, facts.mpp * facts.size[0] / summary.overview.shape[1]
    return (
        f"Kept patches show their pixels, {fine:.3g} microns per px; others the overview, {coarse:.3g} microns per px, "
        "around the framed patch."
    )


def draw_heading(page: Canvas, at: tuple[int, int], group: Group, room: int) -> None:
    left, upper = at
    box = (left, upper, left + SWATCH, upper + SWATCH)
    page.bar(box, artefact_colour(group.kind))
    page.outline(box, HAIRLINE)
    page.write((left + SWATCH + 12, upper + 19), group.words, HEADLINE, room - SWATCH - 12)


def draw_surroundings(
    page: Canvas, box: Box, facts: Facts, example: Example, overview: np.ndarray, colour: Colour
) -> None:
    """Draw the overview around a patch into a square `box`, and around the patch a frame that leaves all of it free."""
    left, upper, right, lower = box
    thumb, half = right - left, AROUND * facts.side / 2
    scale, middle = np.array(overview.shape[1::-1]) / facts.size, np.array([example.x, example.y]) + facts.side / 2
    page.image(part(overview, [*((middle - half) * scale), *((middle + half) * scale)], thumb, HAIRLINE), (left, upper))
    page.outline(box, HAIRLINE)
    edge = round(thumb * (AROUND - 1) / 2 / AROUND) - FRAME
    page.frame((left + edge, upper + edge, right - edge, lower - edge), colour)


def draw_caption(page: Canvas, box: Box, example: Example, number: np.ndarray) -> None:
    """Say below an example where its pixels come from and where it lies; `number` (K,) of the kept patches."""
    x, _, right, lower = box
    words, style = "from the overview", CAPTION
    if example.kept is not None:
        words, style = f"kept patch {number[example.kept]}", KEPT_WORDS
    page.write((x, lower + 26), words, style, right - x)
    page.write((x, lower + 50), f"{example.x}, {example.y}", CAPTION, right - x)
