"""What was found, as pictures: overviews read from the summaries, laid on each other as the evidence says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsisum_cli.archive.likeness.duplicates import Pair, read_overview
from wsisum_cli.archive.likeness.nearest import Nearest
from wsisum_cli.archive.likeness.registration import FINEST, Alignment, warp
from wsisum_cli.errors import SummaryError
from wsisum_cli.figures.side_by_side import PairRow, Panel, chequer, draw_order, draw_pairs
from wsisum_cli.slides.pixels import resize

MOST_PAIRS = 20  # in one picture
BLANK = np.full((64, 64, 3), 255, np.uint8)  # of a slide whose overview cannot be read


def draw_duplicates(pairs: Sequence[Pair]) -> np.ndarray:
    """(H, W, 3) uint8: the first pairs side by side. Raises SummaryError when an overview cannot be read."""
    rows = [PairRow(title_of(pair), pair.words, panels_of(pair)) for pair in pairs[:MOST_PAIRS]]
    if len(pairs) > MOST_PAIRS:
        rows[-1] = PairRow(rows[-1].title, f"{rows[-1].words}; {len(pairs) - MOST_PAIRS} more", rows[-1].panels)
    return draw_pairs(rows)


def title_of(pair: Pair) -> str:
    return f"{pair.relation}: {pair.first.summary} and {pair.second.summary}"


def panels_of(pair: Pair) -> list[Panel]:
    (first, mpp), (second, other_mpp) = read_overview(pair.first.path), read_overview(pair.second.path)
    one = Panel(first, pair.first.summary)
    if pair.alignment is None:
        return [one, Panel(second, pair.second.summary)]
    laid = lay(first, mpp, second, other_mpp, pair.alignment)
    return [
        one,
        Panel(second, pair.second.summary),
        Panel(chequer(*laid), "squares of one and the other, laid on each other"),
    ]


def lay(
    first: np.ndarray, mpp: float, second: np.ndarray, other_mpp: float, alignment: Alignment
) -> tuple[np.ndarray, np.ndarray]:
    """Both overviews (H, W, 3) uint8 as they lie on each other; white where the second does not reach."""
    common = max(mpp, other_mpp, FINEST)
    one, other = scaled(first, mpp / common), scaled(second, other_mpp / common)
    moved = 255 - warp(255 - other, alignment.matrix, one.shape[:2])
    return one, moved


def scaled(pixels: np.ndarray, factor: float) -> np.ndarray:
    return resize(pixels, *(max(1, round(side * factor)) for side in pixels.shape[:2]))


def draw_nearest(nearest: Nearest) -> np.ndarray:
    """(H, W, 3) uint8: the query, then its neighbours, nearest first."""
    model = nearest.model
    panels = [Panel(thumbnail(nearest.query.path), nearest.query.slide, "the slide asked for")]
    for rank, found in enumerate(nearest.neighbours, 1):
        same = ", same file" if found.same_file else ""
        panels.append(Panel(thumbnail(found.slide.path), f"{rank}. {found.slide.summary}", f"{found.cosine:.4f}{same}"))
    words = f"{nearest.compared} slides compared by {model.kind} ({model.name})"
    return draw_order(f"Slides like {nearest.query.slide}", words, panels)


def thumbnail(path: str) -> np.ndarray:
    """The overview of a summary; white where it is damaged."""
    try:
        return read_overview(path)[0]
    except SummaryError:
        return BLANK
