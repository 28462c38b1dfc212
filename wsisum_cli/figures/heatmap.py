"""Maps of one property of every tissue patch over the overview: coverage, weight, cluster, or artefact kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.figures.canvas import (
    DETAILS,
    HEADLINE,
    NOTICE,
    SMALL,
    TITLE,
    Canvas,
    Facts,
    Swatch,
    draw_scale,
    draw_scale_bar,
    draw_swatches,
    enlarged,
    facts_of,
    number_extent,
    percent,
    swatch_columns,
)
from wsisum_cli.figures.colour import (
    GREY,
    HAIRLINE,
    WHITE,
    Colour,
    Scale,
    coverage_scale,
    ground,
    kind_colour,
    squares,
    tinted,
    weight_scale,
)
from wsisum_cli.figures.layout import BAR_LEGEND, MARGIN, TOP, MapPlan, arrange_map
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.writer import SUSPECT, TissueMap

ARTEFACTS = {1: "pen", 2: "blurred", 3: "fold", 4: "bubble", 5: "blank", 6: "black", 7: "corrupt"}
ARTEFACT_HEADING = "Artefacts: suspect tissue, and patches removed because they show nothing"
MIN_FRAME = 8  # px
NUMBER_SIZES = range(22, 12, -1)  # font sizes


@dataclass(frozen=True)
class Layer:
    """The squares to draw: `coords` (S, 2) in level-0 px and S colours, and their legend."""

    heading: str
    coords: np.ndarray
    colours: list[Colour]
    scale: Scale | None = None
    swatches: tuple[Swatch, ...] = ()
    note: str = ""  # instead of a legend
    numbers: tuple[int, ...] = ()  # in the frames of the K kept patches; empty: no numbers


def draw_map(summary: Summary, kind: str) -> np.ndarray:
    """Draw one of `MAPS` over the overview, with frames for kept patches: (H, W, 3) uint8 RGB, 1280 to 1880 px wide.

    The same summary gives the same pixels. Raises SummaryError when needed data are missing or damaged.
    """
    facts, layer, overview = facts_of(summary), MAPS[kind](summary), summary.overview
    plan = plan_of(layer, overview)
    page = Canvas(plan.width, plan.height)
    draw_words(page, plan, facts, layer)
    pixels = enlarged(overview, plan.map_size)
    boxes = squares(layer.coords, facts.side, facts.size, plan.map_size)
    page.image(tinted(pixels, boxes, layer.colours), plan.corner)
    frames = squares(summary.coords, facts.side, facts.size, plan.map_size) + np.tile(plan.corner, 2)
    draw_kept(page, frames, WHITE)
    draw_numbers(page, frames, layer.numbers)
    page.outline(plan.panel, HAIRLINE)
    draw_legend(page, plan, facts, layer, ground(pixels, boxes))
    return page.pixels


def plan_of(layer: Layer, overview: np.ndarray) -> MapPlan:
    size = (overview.shape[1], overview.shape[0])
    count, _ = swatch_columns(layer.swatches, arrange_map(size).width - 2 * MARGIN)
    return arrange_map(size, math.ceil(len(layer.swatches) / count))


def checked_tissue(summary: Summary) -> TissueMap:
    """The tissue map. Raises SummaryError when its arrays do not match."""
    tissue, kept = summary.tissue, len(summary.weights)
    count = len(tissue.coords)
    shapes = [tissue.representative.shape, tissue.similarity.shape, tissue.cluster.shape]
    whole = count > 0 and tissue.coords.shape == (count, 2) and shapes == [(count,)] * 3
    if not (whole and tissue.representative.min() >= 0 and tissue.representative.max() < kept):
        raise SummaryError(f"{summary.name}: the arrays of tissue do not match; verify the file")
    if not (np.isfinite(tissue.similarity).all() and np.isfinite(summary.weights).all()):
        raise SummaryError(f"{summary.name}: some similarities or weights are not finite; verify the file")
    return tissue


def coverage_layer(summary: Summary) -> Layer:
    tissue = checked_tissue(summary)
    scale = coverage_scale(tissue.similarity)
    heading = "Coverage: how similar each tissue patch is to the nearest kept one"
    return Layer(heading, tissue.coords, scale.colours(tissue.similarity), scale)


def weight_layer(summary: Summary) -> Layer:
    tissue = checked_tissue(summary)
    scale = weight_scale(summary.weights)
    heading = "Weight of the kept patch that represents each tissue patch"
    return Layer(heading, tissue.coords, scale.colours(summary.weights[tissue.representative]), scale)


def cluster_layer(summary: Summary) -> Layer:
    tissue = checked_tissue(summary)
    numbers, counts = np.unique(tissue.cluster, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = zip(numbers[order].tolist(), (counts[order] / len(tissue.cluster)).tolist(), strict=True)
    swatches = tuple(Swatch(kind_colour(number), f"{number}: {percent(share)}") for number, share in shares)
    colours = [kind_colour(number) for number in tissue.cluster.tolist()]
    heading = "Clusters of the tissue patches, largest first; numbers are the clusters of kept patches"
    return Layer(heading, tissue.coords, colours, swatches=swatches, numbers=tuple(summary.cluster.tolist()))


def artefact_layer(summary: Summary) -> Layer:
    """Suspect tissue and removed patches, if the summary was made with artefact detection."""
    suspect, removed = suspect_places(summary), removed_places(summary)
    if not len(suspect[1]) and not len(removed[1]):
        note = f"no artefacts {'found' if summary.record.artefacts is not None else 'recorded'}"
        return Layer(ARTEFACT_HEADING, np.empty((0, 2), np.int32), [], note=note)
    stays = (summary.attributes.get("artefacts") or {}).get("ignored")  # as formats before 1.3 had it at times
    counted = [*count_by_kind(suspect[1], ""), *count_by_kind(removed[1], "" if stays else ", removed")]
    swatches = tuple(Swatch(artefact_colour(number), words) for number, words in counted)
    coords, kind = (np.concatenate(both) for both in zip(suspect, removed, strict=True))
    return Layer(ARTEFACT_HEADING, coords, [artefact_colour(number) for number in kind.tolist()], swatches=swatches)


def suspect_places(summary: Summary) -> tuple[np.ndarray, np.ndarray]:
    """Coords (S, 2) and kinds (S,) of suspect tissue. Raises SummaryError when its arrays do not belong together."""
    kind = summary.optional(SUSPECT)
    if kind is None:
        return np.empty((0, 2), np.int32), np.empty(0, np.uint8)
    coords = summary.tissue.coords
    if kind.shape != (len(coords),):
        raise SummaryError(f"{summary.name}: {SUSPECT} and tissue/coords do not belong together; verify the file")
    return coords[kind > 0], kind[kind > 0]


def removed_places(summary: Summary) -> tuple[np.ndarray, np.ndarray]:
    """The same of what was removed."""
    coords, kind = summary.optional("artefact/coords"), summary.optional("artefact/kind")
    if coords is None or kind is None:
        return np.empty((0, 2), np.int32), np.empty(0, np.uint8)
    if kind.ndim != 1 or coords.shape != (len(kind), 2):
        raise SummaryError(f"{summary.name}: artefact/coords and artefact/kind do not match; verify the file")
    return coords[kind > 0], kind[kind > 0]  # 0 is tissue


def count_by_kind(kind: np.ndarray, what: str) -> list[tuple[int, str]]:
    """The kinds among (A,) codes, and how often each comes, in words."""
    numbers, counts = np.unique(kind, return_counts=True)
    found = zip(numbers.tolist(), counts.tolist(), strict=True)
    return [(number, f"{ARTEFACTS.get(number, f'kind {number}')}: {count:,}{what}") for number, count in found]


def artefact_colour(number: int) -> Colour:
    return kind_colour(number - 1)


#: The maps, by their command-line names.
MAPS: dict[str, Callable[[Summary], Layer]] = {
    "coverage": coverage_layer,
    "weight": weight_layer,
    "cluster": cluster_layer,
    "artefact": artefact_layer,
}


def draw_words(page: Canvas, plan: MapPlan, facts: Facts, layer: Layer) -> None:
    """Title, heading, notice."""
    content = plan.width - 2 * MARGIN
    page.write((MARGIN, 84), facts.name, TITLE, content)
    page.write((MARGIN, 128), facts.details, DETAILS, content)
    page.write((MARGIN, TOP - 14), layer.heading, HEADLINE, content)
    page.write((MARGIN, plan.height - 40), NOTICE, SMALL, content)


def draw_kept(page: Canvas, frames: np.ndarray, colour: Colour) -> None:
    """Draw frames (K, 4), left, upper, right, lower px of the page; tiny ones are enlarged."""
    for box in frames:
        grow = np.maximum(MIN_FRAME - (box[2:] - box[:2]), 0)
        page.frame([*(box[:2] - grow // 2).tolist(), *(box[2:] + grow - grow // 2).tolist()], colour)


def draw_numbers(page: Canvas, frames: np.ndarray, numbers: Sequence[int]) -> None:
    """Draw numbers in the middle of their frames, if the longest fits into the narrowest."""
    if not numbers:
        return
    longest, room = str(max(numbers)), int((frames[:, 2:] - frames[:, :2]).min())
    size = next((size for size in NUMBER_SIZES if max(number_extent(longest, size)) <= room), 0)
    for number, box in zip(numbers, frames.tolist(), strict=True) if size else ():
        wide, high = number_extent(str(number), size)
        page.number(((box[0] + box[2] - wide) / 2, (box[1] + box[3] - high) / 2), str(number), size)


def draw_legend(page: Canvas, plan: MapPlan, facts: Facts, layer: Layer, lightness: float) -> None:
    """Draw below the overview: the scale bar on the left, the colour scale on the right, or named colours beneath."""
    left, _, right, lower = plan.panel
    room = (right - left) // 2 - 30
    draw_scale_bar(page, (left, lower), facts.mpp / 1000 * facts.size[0] / plan.map_size[0], room)
    if layer.scale is not None:
        draw_scale(page, (right, lower), room, layer.scale, lightness)
    page.text((right, lower + 36), layer.note, SMALL.size, GREY, "rs")
    draw_swatches(page, (left, lower + BAR_LEGEND - 24), right - left, layer.swatches, lightness)
