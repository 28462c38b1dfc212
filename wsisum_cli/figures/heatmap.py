"""Maps of one property of every tissue patch over the overview: represented, coverage, weight, cluster, artefact."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    Label,
    Swatch,
    area,
    draw_labels,
    draw_scale,
    draw_scale_bar,
    draw_swatches,
    enlarged,
    facts_of,
    find_tissue,
    patch_numbers,
    percent,
    swatch_columns,
)
from wsisum_cli.figures.colour import (
    GREY,
    HAIRLINE,
    INK,
    KINDS,
    LABEL,
    OTHERS,
    REPRESENTED,
    UNREPRESENTED,
    WHITE,
    Colour,
    Scale,
    coverage_scale,
    ground,
    squares,
    tinted,
    weight_scale,
)
from wsisum_cli.figures.layout import BAR_LEGEND, MARGIN, TOP, MapPlan, arrange_map
from wsisum_cli.figures.suspects import (
    Group,
    artefact_colour,
    draw_sheet,
    group_suspects,
    kept_rows,
    kind_name,
    suspect_places,
)
from wsisum_cli.quality import verdict
from wsisum_cli.quality.represented import TissuePlaces, is_represented, unrepresented
from wsisum_cli.summary.attributes import Represented
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.standing import tissue_words
from wsisum_cli.summary.writer import TissueMap

ARTEFACT_HEADING = "Artefacts: suspect tissue, and patches removed because they show nothing"
MIN_FRAME = 8  # px
LABEL_SIZE = 22  # of the font
OUTLINE = 3  # px
LETTERS = "ABCDEFGHIJKL"  # of unrepresented regions, largest first
MOST_CLUSTERS = 12  # with a colour of their own
SHARE_ERROR = 2e-6  # of a share in the attributes, which is rounded


@dataclass(frozen=True)
class Layer:
    """The squares to draw: `coords` (S, 2) in level-0 px and S colours, and their legend."""

    heading: str
    coords: np.ndarray
    colours: list[Colour]
    scale: Scale | None = None
    swatches: tuple[Swatch, ...] = ()
    note: str = ""  # beside the scale bar, instead of a colour scale
    named: tuple[int, ...] = ()  # rows of the kept patches that bear their numbers
    regions: tuple[np.ndarray, ...] = ()  # rows of the squares of each region to outline, with `LETTERS`
    suspects: tuple[Group, ...] = ()  # to draw examples of below the map


def draw_map(summary: Summary, kind: str, title: str | None = None) -> np.ndarray:
    """Draw one of `MAPS` over the overview, with frames for kept patches: (H, W, 3) uint8 RGB, 1280 to 1880 px wide.

    `title` stands above it, the slide's name if None. The same summary gives the same pixels. Raises SummaryError when
    needed data are missing or damaged.
    """
    facts, layer, overview = facts_of(summary, title), MAPS[kind](summary), summary.overview
    plan = plan_of(layer, overview)
    page = Canvas(plan.width, plan.height)
    draw_words(page, plan, facts, layer)
    pixels = enlarged(overview, plan.map_size)
    boxes = squares(layer.coords, facts.side, facts.size, plan.map_size)
    page.image(outlined(tinted(pixels, boxes, layer.colours), [boxes[rows] for rows in layer.regions]), plan.corner)
    frames = squares(summary.coords, facts.side, facts.size, plan.map_size) + np.tile(plan.corner, 2)
    draw_kept(page, frames, WHITE)
    regions = [boxes[rows] + np.tile(plan.corner, 2) for rows in layer.regions]
    labels = [*letters(regions), *numbers(frames, layer.named, patch_numbers(summary.weights))]
    tissue, others = find_tissue(pixels, plan.corner, plan.panel), np.delete(frames, layer.named, axis=0)
    draw_labels(page, labels, LABEL_SIZE, plan.panel, tissue, others)
    page.outline(plan.panel, HAIRLINE)
    draw_legend(page, plan, facts, layer, ground(pixels, boxes))
    draw_sheet(page, plan.sheet, facts, layer.suspects, summary)
    return page.pixels


def plan_of(layer: Layer, overview: np.ndarray) -> MapPlan:
    size = (overview.shape[1], overview.shape[0])
    count, _ = swatch_columns(layer.swatches, arrange_map(size).width - 2 * MARGIN)
    examples = tuple(len(group.examples) for group in layer.suspects)
    return arrange_map(size, math.ceil(len(layer.swatches) / count), examples)


def checked_tissue(summary: Summary) -> TissueMap:
    """The tissue map. Raises SummaryError when its arrays do not match."""
    tissue, kept = summary.tissue, len(summary.weights)
    count = len(tissue.coords)
    shapes = [tissue.representative.shape, tissue.similarity.shape, tissue.cluster.shape]
    whole = count > 0 and tissue.coords.shape == (count, 2) and shapes == [(count,)] * 3
    if not (whole and tissue.representative.min() >= 0 and tissue.representative.max() < kept):
        raise SummaryError(f"{summary.name}: the arrays of tissue do not match; verify the file")
    room = summary.overview.shape[0] * summary.overview.shape[1]
    if count > room:
        raise SummaryError(
            f"{summary.name}: expected at most {room} tissue patches, as many as the overview has px, found {count}; "
            "verify the file"
        )
    if not (np.isfinite(tissue.similarity).all() and np.isfinite(summary.weights).all()):
        raise SummaryError(f"{summary.name}: some similarities or weights are not finite; verify the file")
    return tissue


def represented_layer(summary: Summary) -> Layer:
    """Which tissue is represented. Raises SummaryError for a format before 1.4, which does not know."""
    section, tissue = checked_represented(summary), checked_tissue(summary)
    reached = is_represented(tissue.similarity, section.cosine)
    record = summary.record
    size, mpp, twice = record.patch.patch_size_level0, record.source.mpp, record.counts_overlap_twice
    places = TissuePlaces(tissue.coords, size, mpp, twice=twice)
    regions = unrepresented(places, np.flatnonzero(~reached))
    share = np.count_nonzero(reached) / (len(reached) + section.unread)
    if abs(share - section.share) > SHARE_ERROR or len(regions) != section.region_count:
        raise SummaryError(f"{summary.name}: attributes and arrays of represented tissue do not match; verify the file")
    lettered, missing_mm2 = tuple(regions[: len(LETTERS)]), places.area(np.flatnonzero(~reached))
    nearest = [int(np.bincount(tissue.representative[rows]).argmax()) for rows in lettered]
    areas = [places.area(rows) for rows in lettered]
    return Layer(
        represented_heading(section, missing_mm2, tissue_words(summary.record)),
        tissue.coords,
        [REPRESENTED if found else UNREPRESENTED for found in reached.tolist()],
        swatches=(
            Swatch(REPRESENTED, f"represented: {area(section.mm2)}"),
            Swatch(UNREPRESENTED, f"not represented: {area(missing_mm2)}"),
            *region_swatches(areas, patch_numbers(summary.weights)[nearest].tolist()),
        ),
        note=more_regions(len(regions) - len(lettered)),
        named=tuple(sorted(set(nearest))),
        regions=lettered,
    )


def checked_represented(summary: Summary) -> Represented:
    """The attribute `represented`. Raises SummaryError for a format that lacks it."""
    section, version = summary.record.represented, summary.record.made_as
    if section is None:
        raise SummaryError(
            f"{summary.name}: expected format 1.4 or later, which says what tissue is represented, found {version}; "
            "verify it with --source while the slide exists, or compress the slide again"
        )
    return section


def region_swatches(areas: list[float], patches: list[int]) -> list[Swatch]:
    """What the letters mean: the area of each region in mm², and the number of the patch it is most like."""
    named = zip(LETTERS, areas, patches, strict=False)
    return [Swatch(UNREPRESENTED, f"{area(mm2)}, most like patch {patch}", letter) for letter, mm2, patch in named]


def more_regions(count: int) -> str:
    """How many regions have no letter."""
    return f"and {count:,} more {'area' if count == 1 else 'areas'} without a letter, none larger" if count else ""


def represented_heading(section: Represented, missing_mm2: float, tissue: str = "tissue") -> str:
    """Share and area of what is represented of the `tissue`, and what is not."""
    count = section.region_count
    areas = "1 area" if count == 1 else f"{count:,} areas"
    words = f"Represented: {verdict.percent(section.share)} of {area(section.tissue_mm2)} of {tissue}"
    if count:
        words += f"; {area(missing_mm2)} in {areas} has no look-alike among the kept patches"
    if section.unread:
        patches = "1 patch" if section.unread == 1 else f"{section.unread:,} patches"
        words += f"; {patches}, not drawn, could not be read"
    return words


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
    """The largest clusters, each named after a kept patch that shows it, or else after the one most like it."""
    tissue, kept = checked_tissue(summary), summary.cluster
    if kept.shape != summary.weights.shape:
        raise SummaryError(f"{summary.name}: patches/cluster and patches/weights do not match; verify the file")
    clusters, counts = np.unique(tissue.cluster, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[:MOST_CLUSTERS]
    shares, patch = (counts[largest] / len(tissue.cluster)).tolist(), patch_numbers(summary.weights)
    colour_of = dict(zip(clusters[largest].tolist(), KINDS, strict=False))
    found = [patch_of_cluster(cluster, tissue, kept, patch) for cluster in colour_of]
    swatches = [
        Swatch(colour, f"{'' if shown else 'like '}patch {patch[row]}: {percent(share)}")
        for colour, (row, shown), share in zip(colour_of.values(), found, shares, strict=True)
    ]
    if (others := len(clusters) - len(largest)) > 0:
        swatches.append(Swatch(OTHERS, f"others, {others}: {percent(1 - sum(shares))}"))
    heading = "Clusters of the tissue patches, largest first, each named after a kept patch"
    colours = [colour_of.get(cluster, OTHERS) for cluster in tissue.cluster.tolist()]
    named = tuple(sorted({row for row, _ in found}))
    return Layer(heading, tissue.coords, colours, swatches=tuple(swatches), named=named)


def patch_of_cluster(cluster: int, tissue: TissueMap, kept: np.ndarray, patch: np.ndarray) -> tuple[int, bool]:
    """The row of the kept patch that stands for a cluster, and whether it is of that cluster.

    `kept` (K,) are the clusters of the kept patches, `patch` (K,) their numbers; of several the first number.
    """
    shown = np.flatnonzero(kept == cluster)
    if len(shown):
        return int(shown[patch[shown].argmin()]), True
    return int(np.bincount(tissue.representative[tissue.cluster == cluster]).argmax()), False


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
    colours, groups = [artefact_colour(number) for number in kind.tolist()], group_suspects(summary)
    return Layer(ARTEFACT_HEADING, coords, colours, swatches=swatches, named=kept_rows(groups), suspects=groups)


def removed_places(summary: Summary) -> tuple[np.ndarray, np.ndarray]:
    """Coords (S, 2) and kinds (S,) of what was removed. Raises SummaryError when they do not match."""
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
    return [(number, f"{kind_name(number)}: {count:,}{what}") for number, count in found]


#: The maps, by their command-line names.
MAPS: dict[str, Callable[[Summary], Layer]] = {
    "represented": represented_layer,
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


def outlined(pixels: np.ndarray, regions: list[np.ndarray]) -> np.ndarray:
    """Draw a dark line around each region, given as the (M, 4) boxes of its squares, on (H, W, 3) uint8 pixels."""
    image = pixels.copy()
    for boxes in regions:
        for left, upper, right, lower in boxes.tolist():
            image[max(0, upper - OUTLINE) : lower + OUTLINE, max(0, left - OUTLINE) : right + OUTLINE] = INK
        for left, upper, right, lower in boxes.tolist():
            image[upper:lower, left:right] = pixels[upper:lower, left:right]
    return image


def letters(regions: list[np.ndarray]) -> list[Label]:
    """A letter for each region, at the square nearest to the middle of its (M, 4) boxes."""
    found = []
    for letter, boxes in zip(LETTERS, regions, strict=False):
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        nearest = int(np.abs(middles - middles.mean(axis=0)).sum(axis=1).argmin())
        found.append(Label(letter, boxes[nearest].tolist(), LABEL))
    return found


def numbers(frames: np.ndarray, named: tuple[int, ...], patch: np.ndarray) -> list[Label]:
    """The numbers of the `named` rows, at their frames (K, 4)."""
    return [Label(str(patch[row]), frames[row].tolist()) for row in named]


def draw_legend(page: Canvas, plan: MapPlan, facts: Facts, layer: Layer, lightness: float) -> None:
    """Draw below the overview: the scale bar on the left, the colour scale on the right, or named colours beneath."""
    left, _, right, lower = plan.panel
    room = (right - left) // 2 - 30
    draw_scale_bar(page, (left, lower), facts.mpp / 1000 * facts.size[0] / plan.map_size[0], room)
    if layer.scale is not None:
        draw_scale(page, (right, lower), room, layer.scale, lightness)
    page.text((right, lower + 36), layer.note, SMALL.size, GREY, "rs")
    draw_swatches(page, (left, lower + BAR_LEGEND - 24), right - left, layer.swatches, lightness)
