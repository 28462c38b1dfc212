"""Slides beside each other: pairs with what shows that they are the same, and slides in order of likeness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsisum_cli.figures.canvas import Canvas, Style, plain, resized
from wsisum_cli.figures.colour import GREY, HAIRLINE

MARGIN, GAP = 48, 20  # px
PAIR_SIDE, PAIR_WORDS = 620, 92  # px: of a picture of a pair; high, of the lines above it
CELL_SIDE, CELL_WORDS = 300, 66  # px: of a slide in a row; high, of the lines below it
COLUMNS = 5
TILE = 48  # px of a square of the chequer
HEADING, WORDS, NAME, FACT = Style(26, 14), Style(20, 12, GREY), Style(18, 10), Style(17, 10, GREY)


@dataclass(frozen=True)
class Panel:
    """A picture (H, W, 3) uint8 and what is written above or below it."""

    pixels: np.ndarray
    name: str
    words: str = ""


@dataclass(frozen=True)
class PairRow:
    """What is said of a pair, and its pictures."""

    title: str
    words: str
    panels: Sequence[Panel]


def draw_pairs(rows: Sequence[PairRow]) -> np.ndarray:
    """(H, W, 3) uint8: a row for each pair, of up to three pictures."""
    columns = max(len(row.panels) for row in rows)
    width = 2 * MARGIN + columns * PAIR_SIDE + (columns - 1) * GAP
    step = PAIR_WORDS + PAIR_SIDE + 30 + GAP
    canvas = Canvas(width, 2 * MARGIN + len(rows) * step)
    for number, row in enumerate(rows):
        top = MARGIN + number * step
        canvas.write((MARGIN, top + 26), plain(row.title), HEADING, width - 2 * MARGIN)
        canvas.write((MARGIN, top + 58), plain(row.words), WORDS, width - 2 * MARGIN)
        for column, panel in enumerate(row.panels):
            left, upper = MARGIN + column * (PAIR_SIDE + GAP), top + PAIR_WORDS
            place(canvas, panel.pixels, (left, upper), PAIR_SIDE)
            canvas.write((left, upper + PAIR_SIDE + 22), plain(panel.name), NAME, PAIR_SIDE)
    return canvas.pixels


def draw_order(title: str, words: str, panels: Sequence[Panel]) -> np.ndarray:
    """(H, W, 3) uint8: slides in rows, in the order given, the first set apart by its place."""
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = 2 * MARGIN + max(columns, 3) * (CELL_SIDE + GAP) - GAP
    step = CELL_SIDE + CELL_WORDS + GAP
    canvas = Canvas(width, 2 * MARGIN + PAIR_WORDS + rows * step)
    canvas.write((MARGIN, MARGIN + 26), plain(title), HEADING, width - 2 * MARGIN)
    canvas.write((MARGIN, MARGIN + 58), plain(words), WORDS, width - 2 * MARGIN)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, upper = MARGIN + column * (CELL_SIDE + GAP), MARGIN + PAIR_WORDS + row * step
        place(canvas, panel.pixels, (left, upper), CELL_SIDE)
        canvas.write((left, upper + CELL_SIDE + 22), plain(panel.name), NAME, CELL_SIDE)
        canvas.write((left, upper + CELL_SIDE + 46), plain(panel.words), FACT, CELL_SIDE)
    return canvas.pixels


def place(canvas: Canvas, pixels: np.ndarray, corner: tuple[int, int], side: int) -> None:
    """Draw a picture in the middle of a framed square."""
    left, upper = corner
    canvas.outline((left, upper, left + side, upper + side), HAIRLINE)
    zoom = side / max(pixels.shape[:2])
    width, height = (max(1, min(side, round(length * zoom))) for length in pixels.shape[1::-1])
    shown = resized(np.ascontiguousarray(pixels), (width, height))
    canvas.image(shown, (left + (side - width) // 2, upper + (side - height) // 2))


def chequer(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(H, W, 3): squares of one picture and the other in turn; where both agree, no edge of a square can be seen."""
    y, x = np.indices(first.shape[:2])
    tile = max(4, TILE * max(first.shape[:2]) // PAIR_SIDE)
    return np.where(((y // tile + x // tile) % 2 == 0)[..., None], first, second)
