"""The contact sheet of suspect tissue below the map of artefacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import wsisum
from stubs import SIDE, Mapped

from wsisum_cli.errors import SummaryError
from wsisum_cli.figures.canvas import part, resized, save_png
from wsisum_cli.figures.colour import HAIRLINE, WHITE, kind_colour
from wsisum_cli.figures.heatmap import artefact_layer, draw_map, plan_of
from wsisum_cli.figures.layout import FOOTER, MARGIN, SheetPlan, arrange_map, overlaps
from wsisum_cli.figures.suspects import (
    AROUND,
    FRAME,
    MOST_EXAMPLES,
    Example,
    Group,
    group_suspects,
    kept_rows,
    spread_examples,
)
from wsisum_cli.summary.reader import open_summary

PEN, BLURRED, FOLD = 1, 2, 3


def suspected(kinds: dict[int, int], count: int = 3, size: tuple[int, int] = (400, 300)) -> Any:
    """A stub with the kind of some of its tissue patches, by row; the first `count` rows are kept."""
    stub: Any = Mapped(count, size)
    kind = np.zeros(len(stub.tissue.coords), np.uint8)
    kind[list(kinds)] = list(kinds.values())
    stub.arrays = {"tissue/suspect": kind}
    return stub


def sheet_of(stub: Any) -> tuple[np.ndarray, SheetPlan]:
    return draw_map(stub, "artefact"), plan_of(artefact_layer(stub), stub.overview).sheet


def cell_of(pixels: np.ndarray, sheet: SheetPlan, group: int, index: int) -> np.ndarray:
    x, y = sheet.cell(group, index)
    return pixels[y : y + sheet.thumb, x : x + sheet.thumb]


# ------------------------------------------------------------------------------------------------------------ groups


def test_kinds_come_by_size_with_count_and_share():
    stub = suspected(dict.fromkeys(range(10, 50), FOLD) | {60: PEN, 61: BLURRED, 62: BLURRED})
    tissue = len(stub.tissue.coords)
    assert tissue == 450
    groups = group_suspects(stub)
    assert [(group.kind, group.count) for group in groups] == [(FOLD, 40), (BLURRED, 2), (PEN, 1)]
    assert [group.share for group in groups] == [40 / tissue, 2 / tissue, 1 / tissue]
    assert [group.words for group in groups] == [
        "fold: 40 patches, 8.8 % of the tissue; 12 of them are shown",
        "blurred: 2 patches, 0.4 % of the tissue",
        "pen: 1 patch, 0.2 % of the tissue",
    ]


def test_kinds_of_equal_size_keep_the_order_of_their_codes():
    assert [group.kind for group in group_suspects(suspected({9: FOLD, 10: PEN, 11: BLURRED}))] == [1, 2, 3]


@pytest.mark.parametrize(
    ("share", "words"), [(1.0, "100 %"), (0.9999, "99.9 %"), (4e-4, "0.04 %"), (1e-6, "under 0.01 %")]
)
def test_shares_are_never_all_or_nothing_unless_they_are(share: float, words: str):
    assert Group(PEN, 1, share, (Example(0, 0, None),)).words == f"pen: 1 patch, {words} of the tissue"


@pytest.mark.parametrize("count", [1, 5, 12, 13, 25, 999])
def test_examples_are_spread_evenly_over_the_patches_of_their_kind(count: int):
    places = [Example(x, 0, None) for x in range(count)]
    found = [example.x for example in spread_examples(places)]
    assert len(found) == min(MOST_EXAMPLES, count)
    assert found == sorted(set(found))
    steps = np.diff([-1, *found, count])
    assert steps.max() <= 2 * max(1, count / MOST_EXAMPLES)
    assert count > MOST_EXAMPLES or found == list(range(count))


def test_kept_patches_come_first_within_their_run():
    places = [Example(x, 0, 7 if x in (3, 119) else None) for x in range(120)]
    examples = spread_examples(places)
    assert [example.x for example in examples if example.kept is not None] == [3, 119]
    assert [example.x for example in examples][1:-1] == list(range(15, 110, 10))


def test_examples_know_whether_they_are_kept():
    stub = suspected({0: PEN, 2: PEN, 9: PEN})
    [group] = group_suspects(stub)
    assert [(example.x, example.y, example.kept) for example in group.examples] == [
        (0, 0, 0),
        (2 * SIDE, 0, 2),
        (9 * SIDE, 0, None),
    ]
    assert kept_rows((group,)) == (0, 2)
    assert artefact_layer(stub).named == (0, 2)


# ------------------------------------------------------------------------------------------------------------- sheet


def test_a_kept_patch_is_drawn_from_its_pixels():
    stub = suspected({0: PEN, 2: BLURRED, 9: BLURRED})
    pixels, sheet = sheet_of(stub)
    for group, index, row in ((0, 0, 2), (1, 0, 0)):
        cell = cell_of(pixels, sheet, group, index)
        assert (cell[FRAME:-FRAME, FRAME:-FRAME] == stub.colour(row)).all()
        assert tuple(cell[1, sheet.thumb // 2]) == kind_colour((BLURRED, PEN)[group] - 1)


def test_another_patch_is_cut_from_the_overview_and_framed():
    stub = suspected({25 * 4 + 6: FOLD})
    side = 16  # overview px of a patch
    stub.overview[4 * side : 5 * side, 6 * side : 7 * side] = (10, 200, 30)
    stub.overview[4 * side : 5 * side, 7 * side : 8 * side] = (90, 20, 240)  # to its right
    stub.overview[5 * side : 6 * side, 6 * side : 7 * side] = (250, 250, 0)  # below
    pixels, sheet = sheet_of(stub)
    cell, third = cell_of(pixels, sheet, 0, 0), sheet.thumb / AROUND
    for column, row, colour in ((1, 1, (10, 200, 30)), (2, 1, (90, 20, 240)), (1, 2, (250, 250, 0))):
        assert tuple(cell[round((row + 0.5) * third), round((column + 0.5) * third)]) == colour
    frame = kind_colour(FOLD - 1)
    edge = round(third) - FRAME
    assert tuple(cell[edge + 1, sheet.thumb // 2]) == tuple(cell[sheet.thumb // 2, -edge - 2]) == frame
    inside = cell[round(third) : -round(third), round(third) : -round(third)]
    assert not (inside == frame).all(axis=2).any()  # the frame hides nothing of the patch


def test_what_lies_off_the_slide_is_grey():
    pixels, sheet = sheet_of(suspected({24: PEN}))  # in the upper right corner
    cell, third = cell_of(pixels, sheet, 0, 0), sheet.thumb // AROUND
    assert (cell[: third - FRAME - 1] == HAIRLINE).all()
    assert (cell[:, third * 2 + FRAME + 2 :] == HAIRLINE).all()
    assert not (cell[third + FRAME : -4, : third - FRAME] == HAIRLINE).all(axis=2).any()


def test_a_part_is_enlarged_without_values_that_its_pixels_lack():
    pixels = np.random.default_rng(1).integers(60, 200, (20, 30, 3)).astype(np.uint8)
    found = part(pixels, (4.5, 6.25, 12.5, 14.25), 256, WHITE)
    cut = pixels[6:15, 4:13]
    assert found.shape == (256, 256, 3)
    assert (found >= cut.min(axis=(0, 1))).all()
    assert (found <= cut.max(axis=(0, 1))).all()


def test_a_part_is_cut_at_fractions_of_pixels():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 240
    row = part(pixels, (1.5, 2, 5.5, 6), 200, WHITE)[100, :, 0].astype(int)
    assert abs(int(np.flatnonzero(row >= 120)[0]) - 125) <= 1  # the edge at 4 lies 2.5 px from the left of 4


@pytest.mark.parametrize("side", [64, 700])
def test_stored_pixels_of_any_size_fill_their_place(side: int):
    assert resized(np.full((side, side, 3), 9, np.uint8), (266, 266)).shape == (266, 266, 3)


@pytest.mark.parametrize("width", [1280, 1500, 1770, 1880])
@pytest.mark.parametrize("counts", [(1,), (12, 12, 12), (12, 8, 7, 1), (4, 6)])
def test_examples_neither_overlap_nor_leave_the_page(width: int, counts: tuple[int, ...]):
    sheet = SheetPlan(width, 900, counts)
    corners = [sheet.cell(group, index) for group, count in enumerate(counts) for index in range(count)]
    boxes = np.array([(x, y, x + sheet.thumb, y + sheet.cell_height) for x, y in corners], float)
    headings = [sheet.heading(group) for group in range(len(counts))]
    words = np.array([(x, y, width - MARGIN, y + 30) for x, y in headings], float)
    assert np.count_nonzero(overlaps(boxes, boxes)) == len(boxes)
    assert not overlaps(boxes, words).any()
    assert words[0, 1] >= sheet.top + 60
    assert boxes[:, 2].max() <= width - MARGIN
    assert boxes[:, 3].max() <= sheet.lower
    assert 240 <= sheet.thumb <= 400


@pytest.mark.parametrize("size", [(400, 300), (1200, 100), (100, 1200), (20, 20)])
def test_the_sheet_stays_within_the_margins(size: tuple[int, int]):
    stub = suspected({0: PEN}, 1, size)
    pixels, sheet = sheet_of(stub)
    assert pixels.shape[0] == sheet.lower + FOOTER
    assert (pixels[sheet.top :, : MARGIN - 4] == 255).all()
    assert (pixels[sheet.top :, -MARGIN + 4 :] == 255).all()


def test_without_suspects_nothing_is_added():
    stub = suspected({})
    assert group_suspects(stub) == ()
    assert draw_map(stub, "artefact").shape[0] == arrange_map((400, 300)).height
    removed: Any = Mapped(3)
    removed.arrays = {"artefact/coords": np.array([[0, 5]], np.int32) * SIDE, "artefact/kind": np.array([5], np.uint8)}
    assert artefact_layer(removed).suspects == ()
    assert draw_map(removed, "artefact").shape[0] == arrange_map((400, 300), 1).height


def test_the_same_summary_gives_the_same_bytes(tmp_path: Path):
    kinds = {row: 1 + row % 4 for row in range(0, 400, 3)}
    for name in ("one.png", "two.png"):
        save_png(tmp_path / name, draw_map(suspected(kinds, 12), "artefact"))
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_suspects_of_a_real_slide_can_be_judged(shared: Path, tmp_path: Path):
    slide = shared / "problems" / "qupath032-bioformats670-ki67.ome.tif"
    assert wsisum("compress", slide, "-o", tmp_path, "--encoder", "texture").returncode == 0
    with open_summary(tmp_path / "qupath032-bioformats670-ki67.ozx") as summary:
        pixels, sheet = sheet_of(summary)
        groups = group_suspects(summary)
        assert {group.kind: group.count for group in groups} == {4: summary.record.suspect_count}
        assert any(example.kept is None for group in groups for example in group.examples)
        kept = [(index, example.kept) for index, example in enumerate(groups[0].examples) if example.kept is not None]
        assert kept
        for index, row in kept:
            wanted = resized(summary.patches[row], (sheet.thumb, sheet.thumb))
            inside = (slice(FRAME, -FRAME), slice(FRAME, -FRAME))
            assert (cell_of(pixels, sheet, 0, index)[inside] == wanted[inside]).all()


# ------------------------------------------------------------------------------------------------------------ damage


def move_tissue(stub: Any) -> None:
    stub.tissue.coords[1] = (399 * 32, 0)  # less than a patch from the right


def move_tissue_below_zero(stub: Any) -> None:
    stub.tissue.coords[1] = (0, -1)


def flatten_tissue(stub: Any) -> None:
    stub.tissue.coords.shape = (-1,)
    stub.arrays["tissue/suspect"] = np.ones(len(stub.tissue.coords), np.uint8)


def drop_weight(stub: Any) -> None:
    stub.weights = stub.weights[1:]


def drop_pixels(stub: Any) -> None:
    stub.patches = stub.patches[1:]


def flatten_kept(stub: Any) -> None:
    stub.coords = stub.coords.ravel()


@pytest.mark.parametrize(
    "spoil", [move_tissue, move_tissue_below_zero, flatten_tissue, drop_weight, drop_pixels, flatten_kept]
)
def test_damaged_arrays_are_refused(spoil: Any):
    stub = suspected({0: PEN, 1: PEN, 9: PEN})
    draw_map(stub, "artefact")
    spoil(stub)
    with pytest.raises(SummaryError, match=r"stub\.ozx: .*verify the file"):
        draw_map(stub, "artefact")
