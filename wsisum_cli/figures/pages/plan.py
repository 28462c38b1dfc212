"""The overview as a drawing whose boxes are links: where boxes, labels and unrepresented regions lie."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from wsisum_cli.figures.canvas import HALO, Label, enlarged, find_tissue, number_extent, patch_numbers
from wsisum_cli.figures.colour import squares
from wsisum_cli.figures.heatmap import LETTERS, Layer, letters
from wsisum_cli.figures.layout import leaders, place_labels, scale_bar
from wsisum_cli.summary.reader import Summary

LONGEST = 1200  # units of the drawing
LABEL_SIZE = 20  # units
MIN_SIDE = 12  # units of a box
AROUND = 3  # widths of a box that a crop shows
BAR_ROOM = 0.25  # of the width, for the scale bar

Edge = tuple[int, int, int, int]


@dataclass(frozen=True)
class Mark:
    """What a label names: a patch by its number, or a region by its letter. All in units of the drawing."""

    text: str
    x: float  # of the label, start of its baseline
    y: float
    left: int
    upper: int
    width: int
    height: int
    path: str = ""  # outline of a region


@dataclass(frozen=True)
class Crop:
    """A square part of the drawing, and the frame in it; all in units of the drawing."""

    left: float
    upper: float
    side: float
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class MapPlan:
    """The drawing: its size, the marked patches and regions, leader lines (x0, y0, x1, y1) and scale bar."""

    width: int
    height: int
    patches: tuple[Mark, ...]
    regions: tuple[Mark, ...]
    lines: tuple[tuple[float, ...], ...]
    bar_length: int
    bar_words: str
    zoom: float  # units per level-0 px
    size: int = LABEL_SIZE

    def crop(self, x: int, y: int, width: int, height: int) -> Crop:
        """What lies around a box in level-0 px: as much on each side as the box is wide."""
        left, upper, wide, high = (round(value * self.zoom, 2) for value in (x, y, width, height))
        side = AROUND * max(wide, high)
        return Crop(left + (wide - side) / 2, upper + (high - side) / 2, side, left, upper, wide, high)


def plan_map(summary: Summary, represented: Layer | None) -> MapPlan:
    """Lay out the overview; `represented` knows the unrepresented regions. Boxes may be larger than their patches."""
    overview, source, side = summary.overview, summary.record.source, summary.record.patch.patch_size_level0
    zoom = LONGEST / max(overview.shape[:2])
    size = (max(1, round(overview.shape[1] * zoom)), max(1, round(overview.shape[0] * zoom)))
    slide = (source.width, source.height)
    frames = grown_boxes(squares(summary.coords, side, slide, size))
    regions = []
    if represented is not None:
        boxes = squares(represented.coords, side, slide, size)
        regions = [boxes[rows] for rows in represented.regions]
    numbers = [str(number) for number in patch_numbers(summary.weights).tolist()]
    labels = [*letters(regions), *(Label(text, box) for text, box in zip(numbers, frames.tolist(), strict=True))]
    places, lines = place(labels, size, overview)
    lettered, numbered = places[: len(regions)], places[len(regions) :]
    patches = [mark(text, at, box) for text, at, box in zip(numbers, numbered, frames, strict=True)]
    areas = [
        mark(letter, at, extent(boxes), outline(boxes))
        for letter, at, boxes in zip(LETTERS, lettered, regions, strict=False)
    ]
    mm = source.mpp / 1000 * source.width / size[0]
    length, words = scale_bar(mm, BAR_ROOM * size[0])
    return MapPlan(*size, in_reading_order(patches), tuple(areas), lines, length, words, size[0] / source.width)


def in_reading_order(patches: list[Mark]) -> tuple[Mark, ...]:
    """By number, so that the focus follows the list of patches."""
    return tuple(sorted(patches, key=lambda patch: int(patch.text)))


def grown_boxes(boxes: np.ndarray) -> np.ndarray:
    """Boxes (K, 4), the small ones enlarged so that a pointer can hit them."""
    grow = np.maximum(MIN_SIDE - (boxes[:, 2:] - boxes[:, :2]), 0)
    return np.hstack([boxes[:, :2] - grow // 2, boxes[:, 2:] + grow - grow // 2])


def extent(boxes: np.ndarray) -> np.ndarray:
    """The box (4,) around boxes (M, 4)."""
    return np.hstack([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def place(
    labels: list[Label], size: tuple[int, int], overview: np.ndarray
) -> tuple[list[tuple[float, float]], tuple[tuple[float, ...], ...]]:
    """Start of the baseline of each label, and the lines that lead to labels beside their boxes."""
    if not labels:
        return [], ()
    panel = (0, 0, *size)
    boxes = np.array([label.box for label in labels], float)
    extents = np.array([number_extent(label.text, LABEL_SIZE) for label in labels])
    corners = place_labels(boxes, extents, size, find_tissue(enlarged(overview, size), (0, 0), panel))
    starts = corners + np.stack([np.full(len(labels), HALO), extents[:, 1] - HALO], axis=1)
    lines = tuple(tuple(round(end, 1) for end in line) for line in leaders(boxes, corners, extents).tolist())
    return [(round(x, 1), round(y, 1)) for x, y in starts.tolist()], lines


def mark(text: str, at: tuple[float, float], box: np.ndarray, path: str = "") -> Mark:
    left, upper, right, lower = box.tolist()
    return Mark(text, *at, left, upper, right - left, lower - upper, path)


def outline(boxes: np.ndarray) -> str:
    """The outer edges of boxes (M, 4) that share sides, as a path of SVG."""
    edges: Counter[Edge] = Counter()
    for left, upper, right, lower in boxes.tolist():
        edges.update([(left, upper, right, upper), (left, lower, right, lower)])
        edges.update([(left, upper, left, lower), (right, upper, right, lower)])
    return "".join(f"M{x0} {y0}L{x1} {y1}" for (x0, y0, x1, y1), count in sorted(edges.items()) if count == 1)
