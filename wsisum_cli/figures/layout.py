"""Page layout of figures, in px. Pure geometry.

The page of a summary is a grid of columns. The overview takes the first ones; patches that do not fit beside it
continue below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MARGIN, GAP, GUTTER, ROW_GAP = 80, 18, 56, 20  # px
HEADER, HEADING, FOOTER = 144, 46, 64  # px high: title, panel headings, bottom line
TOP = HEADER + HEADING
PAD = 28  # px of white around the overview, with room for numbers
LEGEND, BAR_LEGEND = 78, 108  # px high, below the overview: scale bar and colours; with ticks and a name
MIN_THUMB, MAX_THUMB = 96, 400  # px
MIN_PANEL, MAX_PANEL = 420, 0.62  # px; fraction of the page width
MAX_MAP = 2000  # px high
MAX_ZOOM, SMALL_MAP = 8, 480  # largest enlargement, unless the overview would stay smaller than this
MAP_WIDTHS, MAP_SIDE, CELL_MAP = (1280, 1880), 1560, 1200  # px: page of one map; its map height; that of panels
SWATCH_ROW = 34  # px high
CELL_TITLE, CELL_PAD, COLUMN_GAP, BLOCK_GAP, SIDE_WORDS = 84, 12, 36, 44, 44  # px, on pages with panels
SHEET_TITLE, GROUP_HEADING, EXAMPLE_WORDS = 100, 40, 58  # px high, on the sheet below a map
SHEET_COLUMNS, MIN_EXAMPLE = (6, 4), 240  # most first; px
STACKED = 2.5  # aspect ratio from which an overview may take the full width


@dataclass(frozen=True)
class Plan:
    """A page as a grid of `columns`, the first `panel_columns` of which hold the overview."""

    width: int
    count: int
    columns: int
    panel_columns: int
    panel_width: int  # px
    flows: bool  # whether patches that do not fit beside the overview continue below it
    thumb: int
    map_size: tuple[int, int]  # px of the scaled overview
    swatch_rows: int = 0  # in the legend

    @property
    def legend(self) -> int:
        """Height of what is below the overview."""
        return LEGEND + self.swatch_rows * SWATCH_ROW

    @property
    def caption(self) -> int:
        """Font size under the patches."""
        return min(22, max(14, round(self.thumb / 8.5)))

    @property
    def cell_height(self) -> int:
        return self.thumb + round(3.9 * self.caption) + ROW_GAP

    @property
    def panel(self) -> tuple[int, int, int, int]:
        """Left, upper, right, lower of the framed overview."""
        return MARGIN, TOP, MARGIN + self.panel_width, TOP + self.map_size[1] + 2 * PAD

    @property
    def beside(self) -> tuple[int, int]:
        """Columns and rows of patches beside the overview; the rest continue below."""
        columns = self.columns - self.panel_columns
        needed = math.ceil(self.count / columns) if columns else 0
        level = round((self.panel[3] + self.legend - TOP) / self.cell_height)
        return columns, min(needed, max(1, level)) if self.flows else needed

    @property
    def beneath(self) -> int:
        """Top px of the patches below the overview."""
        columns, rows = self.beside
        return max(self.panel[3] + self.legend, TOP + rows * self.cell_height) + (0 if columns else HEADING)

    @property
    def height(self) -> int:
        more = max(0, self.count - math.prod(self.beside))
        return self.beneath + math.ceil(more / self.columns) * self.cell_height + FOOTER

    @property
    def score(self) -> float:
        """How good the page is: filled, large overview, landscape, all patches beside the overview."""
        page = self.width * self.height
        overview, patches = self.map_size[0] * self.map_size[1] / page, self.count * self.thumb**2 / page
        tall = max(0.0, self.height / self.width - 0.75)
        return patches + overview + min(overview, 0.4) - 0.15 * self.flows - 0.4 * tall

    def cell(self, index: int) -> tuple[int, int]:
        """Upper left px of patch `index`."""
        columns, rows = self.beside
        if index < columns * rows:
            row, column = divmod(index, columns)
            column, top = column + self.panel_columns, TOP
        else:
            row, column = divmod(index - columns * rows, self.columns)
            top = self.beneath
        return MARGIN + column * (self.thumb + GAP), top + row * self.cell_height


def arrange(count: int, overview: tuple[int, int], swatch_rows: int = 0) -> Plan:
    """The best page for `count` patches and an overview of this width and height."""
    width = 2000 if count <= 6 else 2400 if count <= 72 else 3000
    return max(plans(width, count, overview, swatch_rows), key=lambda plan: plan.score)


def plans(width: int, count: int, overview: tuple[int, int], swatch_rows: int) -> Iterator[Plan]:
    content = width - 2 * MARGIN
    for columns in range(3, (content + GAP) // (MIN_THUMB + GAP) + 1):
        thumb = (content + GAP) // columns - GAP
        for taken in range(1, columns + 1):
            panel = taken * (thumb + GAP) - (GAP if taken == columns else GUTTER)
            beside = MIN_PANEL <= panel <= MAX_PANEL * content
            stacked = taken == columns and overview[0] >= STACKED * overview[1]
            if thumb <= MAX_THUMB and (beside or stacked):
                for flows in (False, True):
                    map_size = fit_map(overview, panel - 2 * PAD)
                    yield Plan(width, count, columns, taken, panel, flows, thumb, map_size, swatch_rows)


def fit_map(overview: tuple[int, int], width: int, height: int = MAX_MAP) -> tuple[int, int]:
    """Size of the overview on the page, given the free px."""
    zoom = min(width / overview[0], height / overview[1], max(MAX_ZOOM, SMALL_MAP / max(overview)))
    return max(1, round(overview[0] * zoom)), max(1, round(overview[1] * zoom))


@dataclass(frozen=True)
class SheetPlan:
    """Groups of square examples below a map: a title, then for each group a heading and rows of examples."""

    width: int  # px of the page
    top: int  # px
    counts: tuple[int, ...]  # examples in each group

    @property
    def columns(self) -> int:
        """They divide a full group into equal rows, and leave examples large enough to judge."""
        return next((columns for columns in SHEET_COLUMNS if self._side(columns) >= MIN_EXAMPLE), SHEET_COLUMNS[-1])

    def _side(self, columns: int) -> int:
        return (self.width - 2 * MARGIN + GAP) // columns - GAP

    @property
    def thumb(self) -> int:
        """Side of an example."""
        return self._side(self.columns)

    @property
    def cell_height(self) -> int:
        return self.thumb + EXAMPLE_WORDS + ROW_GAP

    def heading(self, group: int) -> tuple[int, int]:
        """Upper left px of the heading of a group; with one past the last, of the end of the sheet."""
        rows = sum(math.ceil(count / self.columns) for count in self.counts[:group])
        return MARGIN, self.top + SHEET_TITLE + group * (GROUP_HEADING + BLOCK_GAP // 2) + rows * self.cell_height

    def cell(self, group: int, index: int) -> tuple[int, int]:
        """Upper left px of an example."""
        row, column = divmod(index, self.columns)
        top = self.heading(group)[1] + GROUP_HEADING
        return MARGIN + column * (self.thumb + GAP), top + row * self.cell_height

    @property
    def lower(self) -> int:
        """Bottom px; the top of an empty sheet."""
        return self.heading(len(self.counts))[1] if self.counts else self.top


@dataclass(frozen=True)
class MapPlan:
    """The page of one map: the overview at full width, the legend below, and beneath it examples, if any."""

    width: int
    map_size: tuple[int, int]
    swatch_rows: int
    examples: tuple[int, ...] = ()  # in each group

    @property
    def panel(self) -> tuple[int, int, int, int]:
        """Left, upper, right, lower of the framed overview."""
        return MARGIN, TOP, self.width - MARGIN, TOP + self.map_size[1] + 2 * PAD

    @property
    def corner(self) -> tuple[int, int]:
        """Upper left px of the overview, which is centred in its frame."""
        return (self.width - self.map_size[0]) // 2, TOP + PAD

    @property
    def sheet(self) -> SheetPlan:
        return SheetPlan(self.width, self.panel[3] + BAR_LEGEND + self.swatch_rows * SWATCH_ROW, self.examples)

    @property
    def height(self) -> int:
        return self.sheet.lower + FOOTER


def arrange_map(overview: tuple[int, int], swatch_rows: int = 0, examples: tuple[int, ...] = ()) -> MapPlan:
    """The page for an overview of this width and height, with this many examples in each group below it."""
    smallest, widest = MAP_WIDTHS
    around = 2 * (MARGIN + PAD)
    size = fit_map(overview, widest - around, MAP_SIDE)
    return MapPlan(max(smallest, size[0] + around), size, swatch_rows, examples)


@dataclass(frozen=True)
class GridPlan:
    """The page of `count` panels in rows of `columns`. Each panel has a title and two maps, one above the other."""

    width: int
    count: int
    columns: int
    cell_width: int
    map_size: tuple[int, int]

    @property
    def frame_height(self) -> int:
        return self.map_size[1] + 2 * CELL_PAD

    @property
    def cell_height(self) -> int:
        return CELL_TITLE + 2 * self.frame_height + ROW_GAP

    @property
    def lower(self) -> int:
        """Bottom px of the last row."""
        rows = math.ceil(self.count / self.columns)
        return HEADER + rows * (self.cell_height + BLOCK_GAP) - BLOCK_GAP

    @property
    def height(self) -> int:
        return self.lower + BAR_LEGEND + FOOTER

    @property
    def left(self) -> int:
        """Left px of the first column; the row titles are to its left."""
        return MARGIN + SIDE_WORDS

    def cell(self, index: int) -> tuple[int, int]:
        """Upper left px of panel `index`."""
        row, column = divmod(index, self.columns)
        return self.left + column * (self.cell_width + COLUMN_GAP), HEADER + row * (self.cell_height + BLOCK_GAP)

    def frame(self, index: int, lower: bool) -> tuple[int, int, int, int]:
        """Left, upper, right, lower px of the frame of a panel's upper or lower map."""
        left, top = self.cell(index)
        top += CELL_TITLE + (self.frame_height + ROW_GAP if lower else 0)
        return left, top, left + self.cell_width, top + self.frame_height

    def corner(self, index: int, lower: bool) -> tuple[int, int]:
        """Upper left px of the map, centred in its frame."""
        left, top, *_ = self.frame(index, lower)
        return left + (self.cell_width - self.map_size[0]) // 2, top + CELL_PAD

    @property
    def cost(self) -> float:
        """Deviation from a landscape page, plus empty space."""
        rows = math.ceil(self.count / self.columns)
        return abs(math.log(self.height / self.width / 0.75)) + rows * self.columns / self.count


def arrange_panels(count: int, overview: tuple[int, int]) -> GridPlan:
    """The best page for `count` panels with an overview of this width and height."""
    return min((grid_plan(count, columns, overview) for columns in range(1, count + 1)), key=lambda plan: plan.cost)


def grid_plan(count: int, columns: int, overview: tuple[int, int]) -> GridPlan:
    width = 2000 if count <= 2 else 2400 if columns <= 3 else 3000
    cell = (width - 2 * MARGIN - SIDE_WORDS - (columns - 1) * COLUMN_GAP) // columns
    return GridPlan(width, count, columns, cell, fit_map(overview, cell - 2 * CELL_PAD, CELL_MAP))


def scale_bar(mm: float, room: float) -> tuple[int, str]:
    """Length in px and label of a scale bar of 1, 2 or 5 times a power of ten, at most `room` px of `mm` each."""
    largest = max(mm * room, 1e-6)
    power = 10.0 ** math.floor(math.log10(largest))
    length = max(step * power for step in (1, 2, 5) if step * power <= largest * 1.000001)
    return max(1, round(length / mm)), f"{length:g} mm"


DIRECTIONS, DISTANCES = 16, (0.0, 0.6, 1.2, 2.0, 3.0, 4.5, 6.5)  # of numbers from their boxes, in number heights
MANY = (
    500  # labels and boxes, which are not moved any more once they are placed: that takes time, and nobody reads them
)
NEAR = 6  # px from a box, where a label would seem to be its own
ALIKE = 8  # px by which the widths of two labels may differ that change places
ON_TISSUE = 0.8  # cost of a label on tissue: it moves to the glass if that is nearer than some three label heights


class Tissue:
    """Where tissue lies on a panel, so that labels can avoid it; `mask` (H, W) bool at the size of the panel."""

    def __init__(self, mask: np.ndarray) -> None:
        self._sums = np.pad(mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))

    def share(self, boxes: np.ndarray) -> np.ndarray:
        """Share (C,) of each box (C, 4) that lies on tissue; 1 where a box is empty or off the panel."""
        limit = np.array(self._sums.shape)[::-1] - 1
        left, upper, right, lower = np.clip(boxes.round().astype(int), 0, np.tile(limit, 2)).T
        sums, area = self._sums, (right - left) * (lower - upper)
        inside = sums[lower, right] - sums[upper, right] - sums[lower, left] + sums[upper, left]
        return np.asarray(np.where(area > 0, inside / np.maximum(area, 1), 1.0))


def place_labels(
    boxes: np.ndarray,
    sizes: np.ndarray,
    panel: tuple[int, int],
    tissue: Tissue | None = None,
    others: np.ndarray | None = None,
) -> np.ndarray:
    """Upper left (K, 2) int of labels of `sizes` (K, 2): all in their boxes (K, 4) or all beside, as covers less.

    Labels beside their boxes avoid `tissue` and `others` (M, 4), boxes without labels, where they can.
    """
    beside, beside_cost = place_beside(boxes, sizes, panel, tissue, others)
    inside, inside_cost = place_inside(boxes, sizes)
    return (inside if inside_cost < beside_cost else beside).round().astype(int)


def place_inside(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, float]:
    """Positions (K, 2) in the upper left corners of the boxes, and their cost."""
    room = boxes[:, 2:] - boxes[:, :2] - sizes
    if room.min() < 0:
        return boxes[:, :2], math.inf
    corners = boxes[:, :2] + np.minimum(4, room / 2)
    labels, areas = np.hstack([corners, corners + sizes]), sizes.prod(axis=1)
    covered = overlaps(labels, boxes).sum(axis=1) / np.prod(room + sizes, axis=1)
    crowded = overlaps(labels, labels).sum(axis=1) / areas - 1  # minus its overlap with itself
    return corners, float((1.2 * covered + 10 * crowded).sum())


def place_beside(
    boxes: np.ndarray,
    sizes: np.ndarray,
    panel: tuple[int, int],
    tissue: Tissue | None = None,
    others: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Positions (K, 2) around the boxes, each in turn where it covers least, and their cost, that of tissue aside."""
    placed, total = np.empty((0, 4)), 0.0
    whole = np.array([[0, 0, *panel]], float)
    others = np.empty((0, 4)) if others is None else others
    for row, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
        options, costs = label_options(box, size)
        area = float(size.prod())
        costs = costs + 20 * overlaps(options, placed).sum(axis=1) / area
        strange = np.vstack([np.delete(boxes, row, axis=0), others])
        costs += 3 * overlaps(options, strange + np.array([-NEAR, -NEAR, NEAR, NEAR])).sum(axis=1) / area
        costs += 100 * (1 - overlaps(options, whole)[:, 0] / area)
        best = (costs if tissue is None else costs + ON_TISSUE * tissue.share(options)).argmin()
        placed, total = np.vstack([placed, options[best]]), total + float(costs[best])
    return untangled(boxes, placed[:, :2], sizes), total


def untangled(boxes: np.ndarray, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The places (K, 2) after labels of like width changed places where that brings both nearer to their boxes.

    Then no two leader lines of such labels cross.
    """
    targets, middles = (boxes[:, :2] + boxes[:, 2:]) / 2, places + sizes / 2
    alike = np.abs(sizes[:, None, 0] - sizes[None, :, 0]) <= ALIKE
    for _ in range(len(boxes) if len(boxes) <= MANY else 0):
        far = np.linalg.norm(targets[:, None] - middles[None], axis=2)  # from each box to each label
        own = far.diagonal()
        gain = np.where(alike, own[:, None] + own[None, :] - far - far.T, 0)
        one, two = np.unravel_index(gain.argmax(), gain.shape)
        if gain[one, two] < 1:
            break
        middles[[one, two]] = middles[[two, one]]
    return np.asarray(middles - sizes / 2)


ROUNDS = 30  # of pushing boxes apart


def spread(boxes: np.ndarray) -> np.ndarray:
    """Push boxes (K, 4) of equal size apart until they do not overlap, or nearly so; each moves by its side at most.

    Meant for boxes that are drawn larger than what they stand for, so that none hides another.
    """
    side, start = (boxes[:, 2:] - boxes[:, :2]).max(), boxes[:, :2].astype(float)
    corners = start.copy()
    for _ in range(ROUNDS if len(boxes) <= MANY else 0):
        apart = corners[:, None] - corners[None]
        room = side - np.abs(apart)
        hit = (room > 0).all(axis=2) & (apart != 0).any(axis=2)
        if not hit.any():
            break
        along = np.where(apart == 0, np.inf, room)  # no direction to push along an axis where they agree
        least = along == along.min(axis=2, keepdims=True)
        corners += np.where(hit[..., None] & least, np.sign(apart) * room / 2, 0).sum(axis=1)
        corners = np.clip(corners, start - side, start + side)
    return np.asarray(boxes + np.tile((corners - start).round().astype(int), 2))


def label_options(box: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Candidate boxes (C, 4) for a label of `size` at `box`, and their cost by distance."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2] + size) / 2
    angles = np.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS) - math.pi / 2
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    square = directions / np.abs(directions).max(axis=1, keepdims=True)
    offsets = np.concatenate([square * half + directions * step * size[1] for step in DISTANCES])
    corners = middle + offsets - size / 2
    costs = 0.3 * np.hypot(*offsets.T) / size[1]
    return np.hstack([corners, corners + size]), costs


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Overlap (A, B), in px², of `boxes` (A, 4) and `others` (B, 4)."""
    lower = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    upper = np.maximum(boxes[:, None, :2], others[None, :, :2])
    return np.asarray(np.maximum(lower - upper, 0).prod(axis=2))


def leaders(boxes: np.ndarray, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Lines (L, 4) x0, y0, x1, y1 from boxes to labels that do not touch them."""
    start = np.clip(places + sizes / 2, boxes[:, :2], boxes[:, 2:])
    end = np.clip(start, places, places + sizes)
    return np.asarray(np.hstack([start, end])[np.abs(end - start).max(axis=1) > 3])
