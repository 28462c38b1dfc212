"""What stands under a map: the scale bar, and what its colours mean."""

from __future__ import annotations

from wsisum_cli.canvas import SMALL, Canvas
from wsisum_cli.colours import INK
from wsisum_cli.page import scale_bar


def draw_scale_bar(canvas: Canvas, at: tuple[int, int], mm: float, room: int) -> None:
    """Under the point `at`, in at most `room` px, where a px is of `mm`."""
    left, lower = at
    length, words = scale_bar(mm, 0.7 * room)
    canvas.bar((left, lower + 18, left + length, lower + 26), INK)
    canvas.write((left, lower + 52), words, SMALL, room)
