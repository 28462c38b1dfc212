"""What stands under a map: the scale bar, and what its colours mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsisum_cli.figures.canvas import SMALL, Canvas, text_width
from wsisum_cli.figures.colours import GREY, HAIRLINE, INK, Colour, ramp_colours
from wsisum_cli.figures.page import SWATCH_ROW, scale_bar
from wsisum_cli.figures.scale import Scale
from wsisum_cli.figures.tint import as_seen

RAMP_WIDTH, RAMP_HEIGHT, TICK = 560, 18, 6  # px
SWATCH, SWATCH_GAP = 24, 34  # px: side; between one swatch's words and the next


@dataclass(frozen=True)
class Swatch:
    """A colour and what it stands for."""

    colour: Colour
    words: str


def draw_scale_bar(canvas: Canvas, at: tuple[int, int], mm: float, room: int) -> None:
    """Under the point `at`, in at most `room` px, where a px is of `mm`."""
    left, lower = at
    length, words = scale_bar(mm, 0.7 * room)
    canvas.bar((left, lower + 18, left + length, lower + 26), INK)
    canvas.write((left, lower + 52), words, SMALL, room)


def draw_scale(canvas: Canvas, corner: tuple[int, int], room: int, scale: Scale, ground: float) -> None:
    """A colour bar with its ticks and name, its right end near `corner`; colours as over that lightness of tissue."""
    half = round(text_width(scale.words[-1], SMALL.size) / 2)
    wide = min(RAMP_WIDTH, room - half)
    left, upper = corner[0] - half - wide, corner[1] + 18
    for x, colour in enumerate(ramp_colours((np.arange(wide) + 0.5) / wide, scale.ramp), left):
        canvas.bar((x, upper, x + 1, upper + RAMP_HEIGHT), as_seen(colour, ground))
    lower = upper + RAMP_HEIGHT
    for share, words in zip(scale.share(np.array(scale.ticks)).tolist(), scale.words, strict=True):
        x = left + min(round(share * wide), wide - 1)
        canvas.bar((x, lower, x + 1, lower + TICK), INK)
        canvas.text((x, lower + TICK + 20), words, SMALL.size, GREY, "ms")
    canvas.text((left + wide / 2, lower + TICK + 46), scale.name, SMALL.size, GREY, "ms")


def swatch_columns(swatches: Sequence[Swatch], room: int) -> tuple[int, int]:
    """How many swatches stand in a row of `room` px, and how wide each column is."""
    words = max((text_width(swatch.words, SMALL.size) for swatch in swatches), default=0.0)
    column = SWATCH + 10 + round(words) + SWATCH_GAP
    return max(1, (room + SWATCH_GAP) // column), column


def draw_swatches(canvas: Canvas, at: tuple[int, int], room: int, swatches: Sequence[Swatch], ground: float) -> None:
    """Row by row from the point `at`; colours as over tissue of lightness `ground`."""
    count, wide = swatch_columns(swatches, room)
    for index, swatch in enumerate(swatches):
        row, column = divmod(index, count)
        left, upper = at[0] + column * wide, at[1] + row * SWATCH_ROW
        box = (left, upper, left + SWATCH, upper + SWATCH)
        canvas.bar(box, as_seen(swatch.colour, ground))
        canvas.outline(box, HAIRLINE)
        canvas.text((left + SWATCH + 10, upper + 19), swatch.words, SMALL.size, GREY)
