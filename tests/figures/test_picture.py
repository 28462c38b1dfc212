from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stubs import SIDE, Mapped, Stub

from wsisum_cli.errors import SummaryError
from wsisum_cli.figures.canvas import Style, facts_of, fitted, half_blocks, percent, plain, save_png
from wsisum_cli.figures.colour import INK, RAMP, RARE, UNWEIGHTED, colours_of
from wsisum_cli.figures.layout import (
    HEADER,
    MARGIN,
    PAD,
    Tissue,
    arrange,
    leaders,
    overlaps,
    place_labels,
    scale_bar,
    spread,
    untangled,
)
from wsisum_cli.figures.picture import MIN_BOX, boxes_of, draw_summary, rank, swatches_of


def plan_of(stub: Any) -> Any:
    size = (stub.overview.shape[1], stub.overview.shape[0])
    return arrange(len(stub.weights), size, len(swatches_of(rank(stub))))


def boxes_on_page(stub: Any) -> np.ndarray:
    plan, entries = plan_of(stub), rank(stub)
    left, upper, right, _ = plan.panel
    corner = ((right - left - plan.map_size[0]) // 2, PAD)
    return boxes_of(plan, facts_of(stub), entries, corner) + np.array([left, upper, left, upper])


@pytest.mark.parametrize("count", [1, 2, 8, 30, 64, 200])
def test_the_page_has_the_planned_size(count: int):
    stub: Any = Stub(count)
    pixels = draw_summary(stub)
    plan = plan_of(stub)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (plan.height, plan.width, 3)
    assert 2000 <= plan.width <= 3000
    assert 500 <= plan.height <= 1.1 * plan.width


@pytest.mark.parametrize("size", [(20, 20), (1, 1), (2000, 2), (2, 2000), (3000, 250), (250, 3000), (4096, 2600)])
@pytest.mark.parametrize("count", [1, 7, 256])
def test_content_fits_pages_of_any_shape(size: tuple[int, int], count: int):
    plan = arrange(count, size)
    left, upper, right, lower = plan.panel
    assert left == MARGIN
    assert upper > HEADER
    assert right - left >= plan.map_size[0] + 2 * PAD
    assert lower <= plan.height
    assert right <= plan.width - MARGIN
    cells = np.array([plan.cell(index) for index in range(count)])
    assert cells.min(axis=0).tolist() >= [MARGIN, HEADER]
    assert cells[:, 0].max() + plan.thumb <= plan.width - MARGIN
    assert cells[:, 1].max() + plan.cell_height <= plan.height
    squares = np.hstack([cells, cells + plan.thumb]).astype(float)
    assert (overlaps(squares, squares).sum(axis=1) == plan.thumb**2).all()  # each with itself alone
    assert overlaps(squares, np.array([plan.panel], float)).max() == 0


@pytest.mark.parametrize("size", [(20, 20), (2000, 2), (2, 600), (1200, 100)])
def test_odd_overviews_can_be_drawn(size: tuple[int, int]):
    assert draw_summary(Stub(3, size)).shape[1] >= 2000  # type: ignore[arg-type]


def test_a_small_overview_is_enlarged_but_not_to_the_whole_panel():
    assert arrange(1, (20, 20)).map_size == (480, 480)


def test_the_overview_keeps_its_shape():
    width, height = arrange(30, (553, 354)).map_size
    assert width / height == pytest.approx(553 / 354, rel=0.01)


def test_wide_overview_gets_the_full_width():
    plan = arrange(24, (3000, 250))
    assert plan.map_size[0] == pytest.approx(plan.width - 2 * (MARGIN + PAD), abs=plan.columns)
    assert plan.cell(0)[1] > plan.panel[3]


def test_picture_is_deterministic():
    assert np.array_equal(draw_summary(Stub(12)), draw_summary(Stub(12)))  # type: ignore[arg-type]


def test_patches_are_sorted_by_weight():
    stub: Any = Stub(9)
    pixels, plan = draw_summary(stub), plan_of(stub)
    for index, row in enumerate(np.argsort(-stub.weights)):
        x, y = plan.cell(index)
        assert tuple(pixels[y + plan.thumb // 2, x + plan.thumb // 2]) == stub.colour(row)


def test_equal_weights_keep_the_selectors_order():
    stub: Any = Stub(4)
    stub.weights = np.full(4, 0.25)
    assert [(entry.number, entry.row) for entry in rank(stub)] == [(1, 0), (2, 1), (3, 2), (4, 3)]


def test_frames_match_patch_positions():
    stub: Any = Stub(1)
    stub.coords = np.array([[6400, 3072]], np.int32)  # overview px 200, 96
    plan = plan_of(stub)
    [box] = boxes_on_page(stub).tolist()
    zoom = plan.map_size[0] / 400
    left = (plan.panel[0] + plan.panel[2] - plan.map_size[0]) // 2 + 200 * zoom
    upper = plan.panel[1] + PAD + 96 * zoom
    assert box == pytest.approx([left, upper, left + 16 * zoom, upper + 16 * zoom], abs=1.5)


@pytest.mark.parametrize("count", [1, 6])
def test_frames_have_the_same_colour_on_the_overview_and_around_the_patch(count: int):
    stub: Any = Stub(count)
    stub.coords = stub.coords * 3 % 12000  # apart from each other, so that no number covers another frame
    pixels, plan = draw_summary(stub), plan_of(stub)
    for entry, (left, _, right, lower) in zip(rank(stub), boxes_on_page(stub), strict=True):
        x, y = plan.cell(entry.number - 1)
        assert tuple(pixels[y + plan.thumb // 2, x + 1]) == entry.colour
        assert tuple(pixels[lower - 1, left]) == tuple(pixels[lower - 1, right - 1]) == entry.colour
        assert tuple(pixels[lower, right]) == INK


def test_tiny_boxes_are_drawn_large_enough_to_see():
    boxes = boxes_on_page(Stub(3, (3000, 2000), downsample=400))
    assert (boxes[:, 2:] - boxes[:, :2] == MIN_BOX).all()


def test_boxes_that_are_larger_than_their_patches_do_not_hide_each_other():
    stub: Any = Stub(9, (3000, 2000), downsample=64)
    stub.coords = np.array([(x, y) for y in range(3) for x in range(3)], np.int32) * SIDE + 60_000
    boxes = boxes_on_page(stub).astype(float)
    shared = overlaps(boxes, boxes) * ~np.eye(9, dtype=bool)
    assert shared.max() <= 0.25 * MIN_BOX**2
    assert [entry.row for entry in rank(stub)] == np.argsort(-stub.weights).tolist()
    middles = (boxes[:, :2] + boxes[:, 2:])[np.argsort([entry.row for entry in rank(stub)])].reshape(3, 3, 2)
    assert (np.diff(middles[..., 0], axis=1) > 0).all()  # from left to right, as the patches lie
    assert (np.diff(middles[..., 1], axis=0) > 0).all()


def test_boxes_move_by_their_side_at_most():
    boxes = np.repeat(np.array([[500, 500, 514, 514]]), 40, axis=0) + np.tile(np.arange(40)[:, None] % 7, (1, 4))
    assert np.abs(spread(boxes) - boxes).max() <= 14
    alone = np.array([[0, 0, 14, 14], [100, 0, 114, 14]])
    assert (spread(alone) == alone).all()


def test_colours_follow_the_weights():
    light, middle, heavy = colours_of(np.array([0.08, 0.2, 0.72]))
    assert light == tuple(RAMP[0].astype(int))
    assert heavy == tuple(RAMP[-1].astype(int))
    assert sum(light) < sum(middle) < sum(heavy)
    assert len(set(colours_of(np.full(7, 1 / 7)))) == 1
    assert len(colours_of(np.array([0.0, 1.0]))) == 2


def test_tiny_weights_leave_the_colours_of_the_others_distinct():
    weights = np.linspace(0.5, 2, 30) / 30
    for tiny in (0.0, 1e-12, 1e-7, 1e-4):
        mixed = np.append(weights, tiny)
        colours = np.array(colours_of(mixed), float)
        assert tuple(colours[-1]) == tuple(RAMP[0])
        assert np.abs(colours[0] - colours[29]).max() > 100
        assert np.abs(colours[:30] - np.array(colours_of(weights), float)).max() < 150
        assert len(set(map(tuple, colours[:30].tolist()))) > 20


def test_a_zero_weight_leaves_the_frames_distinct():
    stub: Any = Stub(12)
    stub.weights[3] = 0
    stub.weights /= stub.weights.sum()
    entries = rank(stub)
    assert len({entry.colour for entry in entries}) == 12
    assert entries[-1].colour == UNWEIGHTED
    assert entries[0].colour == tuple(RAMP[-1].astype(int))
    pixels, plan = draw_summary(stub), plan_of(stub)
    for index, entry in enumerate(entries):
        x, y = plan.cell(index)
        assert tuple(pixels[y + plan.thumb // 2, x + 1]) == entry.colour


def test_patches_of_little_tissue_are_marked_rare():
    stub: Any = Stub(4)
    stub.counts = np.array([800, 2, 1, 431], np.int32)
    stub.weights = np.array([0.7, 0.05, 0.0, 0.25])
    entries = {entry.row: entry for entry in rank(stub)}
    assert [entries[row].words for row in range(4)] == ["70.0 %", "rare, 5.0 %", "rare", "25.0 %"]
    assert [entries[row].colour == RARE for row in range(4)] == [False, True, True, False]
    assert [swatch.words for swatch in swatches_of(list(entries.values()))] == [
        "rare: represents at most 2 tissue patches"
    ]


def test_patches_without_weight_that_represent_much_are_not_rare():
    stub: Any = Stub(3)
    stub.counts, stub.weights = np.array([500, 434, 300], np.int32), np.array([0.6, 0.0, 0.4])
    entries = rank(stub)
    assert [(entry.row, entry.words) for entry in entries] == [(0, "60.0 %"), (2, "40.0 %"), (1, "no weight")]
    assert entries[-1].colour == UNWEIGHTED
    assert [swatch.colour for swatch in swatches_of(entries)] == [UNWEIGHTED]


def test_where_every_patch_is_kept_none_is_rare():
    stub: Any = Stub(6)
    stub.counts = np.ones(6, np.int32)
    assert not any(entry.is_rare for entry in rank(stub))
    assert swatches_of(rank(stub)) == []


@pytest.mark.parametrize(
    ("pixels", "mpp"),
    [({"mode": "source", "tiles": 4}, 0.25), ({"mode": "jpeg", "quality": 90, "subsampling": "4:4:4"}, 0.5)],
)
def test_the_stored_pixel_size_is_that_of_the_copied_tiles_or_of_the_encoder(pixels: dict[str, Any], mpp: float):
    stub: Any = Stub(3)
    stub.attributes["pixels"] = pixels  # read at level 0, 0.25 µm, by a decoder that halves each side
    assert facts_of(stub).stored_mpp == pytest.approx(mpp)


@pytest.mark.parametrize("count", [5, 60, 200])
def test_numbers_do_not_cover_each_other(count: int):
    generator = np.random.default_rng(3)
    corners = generator.uniform(20, 1150, (count, 2)).round()
    boxes = np.hstack([corners, corners + 12])
    sizes = np.tile([34, 22], (count, 1))
    places = place_labels(boxes, sizes, (1200, 1200))
    labels = np.hstack([places, places + sizes]).astype(float)
    shared = overlaps(labels, labels) * ~np.eye(count, dtype=bool)
    assert (shared.max(axis=1) > 0.15 * 34 * 22).mean() <= 0.02
    assert places.min() >= 0
    assert (places + sizes).max() <= 1200


def test_numbers_of_adjacent_boxes_are_inside():
    corners = np.array([(60 * column, 60 * row) for row in range(9) for column in range(9)], float) + 100
    places = place_labels(np.hstack([corners, corners + 60]), np.tile([38, 20], (81, 1)), (900, 900))
    assert (places == corners + 4).all()


def test_numbers_apart_from_their_boxes_have_leaders():
    boxes = np.array([[100, 100, 110, 110], [300, 300, 310, 310]])
    sizes = np.array([[20, 20], [20, 20]])
    lines = leaders(boxes, np.array([[110, 95], [300, 350]]), sizes)
    assert lines.tolist() == [[310, 310, 310, 350]]


def test_numbers_leave_the_tissue_where_glass_is_near():
    mask = np.zeros((1000, 1000), bool)
    mask[200:800, 200:800] = True
    boxes = np.array([[220, 500, 234, 514], [490, 500, 504, 514], [500, 780, 514, 794]], float)
    sizes = np.tile([30, 22], (3, 1))
    tissue = Tissue(mask)
    places = place_labels(boxes, sizes, (1000, 1000), tissue)
    shares = tissue.share(np.hstack([places, places + sizes]))
    assert shares.tolist() == [0, 1, 0]  # glass is too far from the second
    assert len(leaders(boxes, places, sizes)) >= 1


def test_leaders_do_not_cross():
    boxes = np.array([[100, 100, 110, 110], [160, 100, 170, 110], [300, 100, 310, 110]], float)
    places, sizes = np.array([[150, 40], [90, 40], [290, 70]], float), np.tile([30, 22], (3, 1))
    assert untangled(boxes, places, sizes).tolist() == [[90, 40], [150, 40], [290, 70]]
    sizes[0, 0] = 50  # too wide for the other place
    assert untangled(boxes, places, sizes).tolist() == places.tolist()


def test_no_two_numbers_would_better_change_places():
    corners = np.random.default_rng(5).uniform(300, 700, (40, 2)).round()
    boxes, sizes = np.hstack([corners, corners + 14]), np.tile([30, 22], (40, 1))
    mask = np.zeros((1000, 1000), bool)
    mask[280:740, 280:740] = True
    middles = place_labels(boxes, sizes, (1000, 1000), Tissue(mask)) + sizes / 2
    far = np.linalg.norm((corners + 7)[:, None] - middles[None], axis=2)
    own = far.diagonal()
    assert (own[:, None] + own[None, :] - far - far.T).max() < 3  # places are rounded to px


def test_numbers_avoid_boxes_without_numbers():
    box, size = np.array([[500, 500, 514, 514]], float), np.array([[30, 22]])
    [[left, upper]] = place_labels(box, size, (1000, 1000)).tolist()
    other = np.array([[left, upper, left + 30, upper + 22]], float)
    moved = place_labels(box, size, (1000, 1000), others=other)
    assert overlaps(np.hstack([moved, moved + size]).astype(float), other).max() == 0


def test_the_share_of_tissue_under_a_label():
    mask = np.zeros((10, 20), bool)
    mask[:5] = True
    boxes = np.array([[0, 0, 4, 4], [0, 4, 4, 6], [2, 6, 9, 9], [30, 30, 40, 40], [3, 3, 3, 3]], float)
    assert Tissue(mask).share(boxes).tolist() == [1, 0.5, 0, 1, 1]


@pytest.mark.parametrize("length", [10, 80, 400])
def test_long_slide_names_stay_on_the_page(length: int):
    stub: Any = Stub(3)
    stub.attributes["source"]["name"] = "W" * length + ".svs"
    stub.attributes["encoder"]["name"] = "W" * length
    pixels = draw_summary(stub)
    assert (pixels[:, -MARGIN + 4 :] == 255).all()
    assert (pixels[:, : MARGIN - 4] == 255).all()


def test_long_text_is_cut_in_the_middle():
    text, used = fitted("A" * 50 + "B" * 50, Style(40, 20), 300)
    assert used.getlength(text) <= 300
    assert text.startswith("A")
    assert "…" in text
    assert text.endswith("B")
    assert fitted("short", Style(40, 20), 300)[0] == "short"
    assert fitted("short", Style(40, 20), 1)[0] == ""


def test_names_in_other_scripts_become_ascii():
    assert plain("Müller\t é\n玻片.svs") == "Muller e ??.svs"


@pytest.mark.parametrize(
    ("mm", "room", "px", "words"),
    [(0.01, 250, 200, "2 mm"), (0.01, 99, 50, "0.5 mm"), (0.001, 100, 100, "0.1 mm"), (0.05, 300, 200, "10 mm")],
)
def test_scale_bars_are_round(mm: float, room: float, px: int, words: str):
    assert scale_bar(mm, room) == (px, words)


@pytest.mark.parametrize(
    ("weight", "words"),
    [(1.0, "100.0 %"), (0.1419, "14.2 %"), (0.004, "0.4 %"), (0.0005, "0.05 %"), (1e-6, "0.00 %"), (0.0, "0.0 %")],
)
def test_weights_are_given_in_percent(weight: float, words: str):
    assert percent(weight) == words


def test_details_say_what_was_kept():
    words = facts_of(Stub(5)).details  # type: ignore[arg-type]
    for part in ("5 of 1,234 tissue patches", "coverage 0.930", "1.5 MB instead of 30.0 MB (ratio 20.0)", "texture 1"):
        assert part in words


def test_details_say_what_is_represented_where_the_file_knows():
    words = facts_of(Mapped(5)).details  # type: ignore[arg-type]
    assert "50 % of 7.4 sq mm of tissue represented" in words
    assert "coverage" not in words


def test_the_ratio_is_left_out_where_the_source_is_empty():
    stub: Any = Stub(5)
    stub.attributes["source"]["bytes"] = 0
    assert "instead" not in facts_of(stub).details


def lose_mpp(stub: Any) -> None:
    del stub.attributes["source"]["mpp"]


def spoil_width(stub: Any) -> None:
    stub.attributes["source"]["width"] = -1


def spoil_coverage(stub: Any) -> None:
    stub.attributes["quality"]["coverage"] = "much"


def lose_a_patch(stub: Any) -> None:
    stub.patches.pop()


def spoil_weights(stub: Any) -> None:
    stub.weights[2] = np.nan


@pytest.mark.parametrize("spoil", [lose_mpp, spoil_width, spoil_coverage, lose_a_patch, spoil_weights])
def test_inconsistent_summaries_are_refused(spoil: Any):
    stub: Any = Stub(5)
    spoil(stub)
    with pytest.raises(SummaryError, match=r"stub\.ozx"):
        draw_summary(stub)


def test_coords_far_outside_the_slide_are_harmless():
    stub: Any = Stub(2)
    stub.coords = np.array([[2**31 - 1, -(2**31)], [0, 0]], np.int32)
    draw_summary(stub)


def test_png_holds_the_same_pixels_and_the_same_bytes(tmp_path: Path):
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (30, 50, 3), np.uint8)
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    save_png(one, pixels)
    save_png(two, pixels)
    with Image.open(one) as image:
        assert np.array_equal(np.array(image), pixels)
    assert one.read_bytes() == two.read_bytes()
    assert b"tIME" not in one.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_failed_write_keeps_the_old_picture(tmp_path: Path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"former")
    with pytest.raises(TypeError):
        save_png(path, np.zeros((4, 4, 3), np.complex128))
    assert path.read_bytes() == b"former"
    assert [found.name for found in tmp_path.iterdir()] == ["picture.png"]


def test_half_blocks_give_the_upper_and_the_lower_half():
    red, blue = (255, 0, 0), (0, 0, 255)
    pixels = np.array([[red] * 8] * 2 + [[blue] * 8] * 2, np.uint8)
    assert half_blocks(pixels, 4) == [[(red, blue)] * 4]


@pytest.mark.parametrize(("shape", "columns", "rows"), [((300, 400), 60, 22), ((10, 1000), 40, 1), ((7, 5), 0, 1)])
def test_half_blocks_keep_the_shape(shape: tuple[int, int], columns: int, rows: int):
    cells = half_blocks(np.zeros((*shape, 3), np.uint8), columns)
    assert len(cells) == rows
    assert {len(row) for row in cells} == {max(1, columns)}
