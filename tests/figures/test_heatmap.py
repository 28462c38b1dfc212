"""Pictures of one property of the tissue, and of several selections side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_vision import lightness, oklab
from stubs import SIDE, TISSUE, Mapped

from wsisum_cli.errors import SummaryError
from wsisum_cli.figures.canvas import RAMP_WIDTH, save_png
from wsisum_cli.figures.colour import (
    INK,
    KINDS,
    OTHERS,
    REPRESENTED,
    UNREPRESENTED,
    VIRIDIS,
    WHITE,
    as_seen,
    kind_colour,
    squares,
)
from wsisum_cli.figures.heatmap import LETTERS, MAPS, artefact_layer, draw_map, plan_of
from wsisum_cli.figures.layout import BAR_LEGEND, MARGIN
from wsisum_cli.summary.writer import TissueMap
from wsisum_cli.tissue.artefacts import NO_ARTEFACTS


def middle(plan: Any, stub: Any, x: int, y: int) -> tuple[int, int]:
    """Row and column on the page of the middle of the patch at x, y level-0 px."""
    zoom = np.array(plan.map_size) / (stub.attributes["source"]["width"], stub.attributes["source"]["height"])
    column, row = np.array(plan.corner) + (np.array([x, y]) + SIDE / 2) * zoom
    return int(row), int(column)


def seen(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    return as_seen(colour, lightness(TISSUE))


def map_of(stub: Any, kind: str) -> tuple[np.ndarray, Any, Any]:
    """The picture, its layer and its plan."""
    layer = MAPS[kind](stub)
    return draw_map(stub, kind), layer, plan_of(layer, stub.overview)


# -------------------------------------------------------------------------------------------------------------- maps


def test_patches_are_coloured_by_coverage():
    stub: Any = Mapped(5)
    pixels, layer, plan = map_of(stub, "coverage")
    for row in (200, len(stub.tissue.coords) - 1):
        at = middle(plan, stub, *stub.tissue.coords[row])
        assert tuple(pixels[at]) == seen(layer.colours[row])
    low, high = (lightness(layer.colours[row]) for row in (-1, 0))
    assert low < high


def test_patches_are_coloured_by_the_weight_of_their_representative():
    stub: Any = Mapped(5)
    pixels, _, plan = map_of(stub, "weight")
    shades = {}
    for row in range(100, 120):
        at = middle(plan, stub, *stub.tissue.coords[row])
        shades.setdefault(int(stub.tissue.representative[row]), set()).add(tuple(pixels[at].tolist()))
    assert all(len(found) == 1 for found in shades.values())
    order = sorted(shades, key=lambda kept: stub.weights[kept])
    assert [lightness(next(iter(shades[kept]))) for kept in order] == sorted(
        lightness(*found) for found in shades.values()
    )


def spread_clusters(stub: Any, count: int) -> None:
    """Divide the tissue into `count` clusters by falling size, in order of its patches."""
    shares = np.arange(count, 0, -1) / (count * (count + 1) / 2)
    sizes = np.diff(np.rint(np.cumsum(shares) * len(stub.tissue.coords)).astype(int), prepend=0)
    stub.tissue.cluster[:] = np.repeat(np.arange(count), np.sort(sizes)[::-1])


def test_patches_are_coloured_by_cluster_and_named_by_a_kept_patch():
    stub: Any = Mapped(5)
    stub.tissue.cluster[:] = 7
    stub.tissue.cluster[len(stub.tissue.coords) * 2 // 3 :] = 2
    stub.cluster = np.array([7, 2, 7, 7, 2], np.int16)
    stub.weights = np.array([0.1, 0.15, 0.4, 0.3, 0.05])
    pixels, layer, plan = map_of(stub, "cluster")
    assert [swatch.words for swatch in layer.swatches] == ["patch 1: 66.7 %", "patch 3: 33.3 %"]
    assert layer.named == (1, 2)
    for row, colour in ((100, KINDS[0]), (-1, KINDS[1])):
        assert tuple(pixels[middle(plan, stub, *stub.tissue.coords[row])]) == seen(colour)


def test_a_cluster_without_a_kept_patch_is_named_by_the_one_most_like_it():
    stub: Any = Mapped(2)
    spread_clusters(stub, 2)
    stub.cluster, stub.weights = np.zeros(2, np.int16), np.array([0.4, 0.6])
    stub.tissue.representative[stub.tissue.cluster == 1] = 0
    assert [swatch.words for swatch in MAPS["cluster"](stub).swatches] == ["patch 1: 66.7 %", "like patch 2: 33.3 %"]


@pytest.mark.parametrize("count", [12, 13, 40])
def test_at_most_twelve_clusters_have_a_colour(count: int):
    stub: Any = Mapped(60)
    spread_clusters(stub, count)
    stub.cluster = np.arange(60, dtype=np.int16) % count
    layer = MAPS["cluster"](stub)
    assert [swatch.colour for swatch in layer.swatches] == [*KINDS[:12], OTHERS][: min(count, 13)]
    assert len(layer.named) == 12
    for colour, cluster in zip(layer.colours, stub.tissue.cluster.tolist(), strict=True):
        assert colour == (KINDS[cluster] if cluster < 12 else OTHERS)
    if count > 12:
        rest = float((stub.tissue.cluster >= 12).mean())
        assert layer.swatches[-1].words == f"others, {count - 12}: {100 * rest:.1f} %"


def test_clusters_of_another_number_of_kept_patches_are_refused():
    stub: Any = Mapped(5)
    stub.cluster = stub.cluster[:4]
    with pytest.raises(SummaryError, match="patches/cluster"):
        draw_map(stub, "cluster")


# ------------------------------------------------------------------------------------------------ represented tissue


def with_gaps(gaps: list[tuple[int, int, int]], count: int = 5, unread: int = 0) -> Any:
    """A stub all of whose tissue is represented, but for runs of squares: column, row and length of each."""
    stub: Any = Mapped(count)
    places = stub.tissue.coords // SIDE
    stub.tissue.similarity[:] = 0.9
    for column, row, length in gaps:
        inside = (places[:, 1] == row) & (places[:, 0] >= column) & (places[:, 0] < column + length)
        stub.tissue.similarity[inside] = 0.5
    stub.represent(0.75, unread)
    return stub


def test_exactly_the_unrepresented_patches_are_coloured_as_such():
    stub = with_gaps([(3, 4, 3), (10, 8, 1), (20, 12, 2)])
    pixels, layer, plan = map_of(stub, "represented")
    missing = stub.tissue.similarity < 0.75
    assert np.count_nonzero(missing) == 6
    assert [colour == UNREPRESENTED for colour in layer.colours] == missing.tolist()
    boxes = squares(layer.coords, SIDE, (12800, 9600), plan.map_size) + np.tile(plan.corner, 2)
    for (left, upper, right, lower), gap in zip(boxes.tolist(), missing.tolist(), strict=True):
        square = pixels[upper + 4 : lower - 4, left + 4 : right - 4]  # without frames and outlines
        strong, calm = ((square == seen(colour)).all(axis=2).any() for colour in (UNREPRESENTED, REPRESENTED))
        assert (strong, calm) == (gap, not gap)


def test_the_cosine_of_the_yardstick_itself_is_represented():
    stub: Any = Mapped(5)
    stub.tissue.similarity[:] = 0.75
    stub.represent(0.75)
    assert set(MAPS["represented"](stub).colours) == {REPRESENTED}


def test_the_two_colours_differ_for_colour_blind_readers():
    deficient = {
        "red": [(0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)],
        "green": [(0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)],
        "none": np.eye(3),
    }  # Machado and others, 2009
    pair = np.array([seen(REPRESENTED), seen(UNREPRESENTED)], float)
    for name, matrix in deficient.items():
        one, two = oklab(np.clip(pair @ np.array(matrix).T, 0, 255))
        assert np.linalg.norm(one - two) > 0.1, name


def test_regions_are_lettered_by_size_with_the_patch_they_are_most_like():
    stub = with_gaps([(10, 8, 2), (3, 4, 3)])
    stub.weights = np.array([0.1, 0.15, 0.4, 0.3, 0.05])
    layer = MAPS["represented"](stub)
    places, expected = (stub.tissue.coords // SIDE).tolist(), []
    for letter, count, squares_of in (("A", 3, [[3, 4], [4, 4], [5, 4]]), ("B", 2, [[10, 8], [11, 8]])):
        nearest = np.bincount([stub.tissue.representative[places.index(at)] for at in squares_of]).argmax()
        number = 1 + int((stub.weights > stub.weights[nearest]).sum())
        expected.append((letter, f"{count * 0.128**2:.2g} sq mm, most like patch {number}"))
        assert nearest in layer.named
    assert [(swatch.mark, swatch.words) for swatch in layer.swatches[2:]] == expected
    assert layer.heading.startswith(
        "Represented: 98.8 % of 7.4 sq mm of tissue; 0.082 sq mm in 2 areas has no look-alike"
    )


def test_regions_beyond_the_letters_are_counted():
    stub = with_gaps([(2 + 3 * (at % 7), 1 + 3 * (at // 7), 1) for at in range(20)])
    layer = MAPS["represented"](stub)
    assert "".join(swatch.mark for swatch in layer.swatches) == LETTERS
    assert len(layer.regions) == len(LETTERS)
    assert layer.note == "and 8 more areas without a letter, none larger"


def test_regions_are_outlined():
    stub = with_gaps([(3, 4, 3)])
    pixels, layer, plan = map_of(stub, "represented")
    boxes = squares(layer.coords, SIDE, (12800, 9600), plan.map_size) + np.tile(plan.corner, 2)
    left, upper, right, lower = boxes[layer.regions[0][0]].tolist()
    assert (
        tuple(pixels[upper - 1, left + 3])
        == tuple(pixels[lower, left + 3])
        == tuple(pixels[upper + 3, left - 1])
        == INK
    )
    assert tuple(pixels[upper + 3, right]) == seen(UNREPRESENTED)  # the next square of the region


def test_unread_tissue_is_said():
    layer = MAPS["represented"](with_gaps([(3, 4, 3)], unread=7))
    assert "7 patches, not drawn, could not be read" in layer.heading


def test_formats_before_represented_tissue_are_refused_with_advice():
    stub: Any = Mapped(5)
    stub.attributes["format_version"] = "1.3"
    with pytest.raises(SummaryError, match=r"stub\.ozx: expected format 1\.4 .* found 1\.3; .*--source.*compress"):
        draw_map(stub, "represented")


@pytest.mark.parametrize("key", ["share", "region_count"])
def test_a_map_that_contradicts_the_attributes_is_refused(key: str):
    stub = with_gaps([(3, 4, 3)])
    stub.attributes["represented"][key] = 1
    stub.attributes["represented"] |= {"region_count": 2} if key == "region_count" else {}
    with pytest.raises(SummaryError, match="represented tissue do not match"):
        draw_map(stub, "represented")


# ------------------------------------------------------------------------------------------------------------ legends


def test_the_legend_has_the_colours_of_the_map():
    stub: Any = Mapped(5)
    pixels, layer, plan = map_of(stub, "cluster")
    left, upper = MARGIN, plan.panel[3] + BAR_LEGEND - 24
    assert tuple(pixels[upper + 12, left + 12]) == seen(layer.swatches[0].colour)
    pixels, layer, plan = map_of(stub, "coverage")
    row = pixels[plan.panel[3] + 18 + 9, plan.width // 2 : -MARGIN]
    coloured = np.flatnonzero((row != 255).any(axis=1))
    assert np.diff(coloured).max() == 1
    assert len(coloured) == RAMP_WIDTH
    for at, wanted in ((coloured[0], VIRIDIS[0]), (coloured[-1], VIRIDIS[-1])):
        assert np.abs(row[at].astype(int) - seen(tuple(wanted.astype(int)))).max() <= 1


def test_ticks_stand_at_their_figures():
    stub: Any = Mapped(5)
    pixels, layer, plan = map_of(stub, "coverage")
    row = pixels[plan.panel[3] + 18 + 18 + 3, plan.width // 2 : -MARGIN]
    ticks = np.flatnonzero((row == INK).all(axis=1))
    shares = layer.scale.share(np.array(layer.scale.ticks))
    assert ticks - ticks[0] == pytest.approx(shares * RAMP_WIDTH, abs=1)


@pytest.mark.parametrize("kind", sorted(MAPS))
def test_scale_bar_length_matches_its_label(kind: str):
    stub: Any = Mapped(5)
    pixels, _, plan = map_of(stub, kind)
    row = pixels[plan.panel[3] + 22, MARGIN : plan.width // 2]
    length = int((row == INK).all(axis=1).sum())
    mm = 0.25e-3 * stub.attributes["source"]["width"] / plan.map_size[0]
    assert length * mm in (pytest.approx(0.5, rel=0.01), pytest.approx(1, rel=0.01))


def test_kept_patches_are_framed():
    stub: Any = Mapped(1)
    stub.coords = np.array([[5 * SIDE, 4 * SIDE]], np.int32)
    pixels, _, plan = map_of(stub, "coverage")
    [box] = squares(stub.coords, SIDE, (12800, 9600), plan.map_size) + np.tile(plan.corner, 2)
    left, upper, right, lower = box.tolist()
    assert tuple(pixels[upper, (left + right) // 2]) == tuple(pixels[(upper + lower) // 2, right - 1]) == WHITE
    assert tuple(pixels[lower, right]) == INK


def test_artefacts_are_drawn_at_their_positions():
    stub: Any = Mapped(3)
    stub.arrays = {
        "artefact/coords": np.array([[0, 5], [1, 5], [1, 7], [3, 7]], np.int32) * SIDE,
        "artefact/kind": np.array([1, 3, 1, 0], np.uint8),  # the last is tissue
    }
    pixels, layer, plan = map_of(stub, "artefact")
    assert [swatch.words for swatch in layer.swatches] == ["pen: 2, removed", "fold: 1, removed"]
    for (x, y), kind in list(zip(*stub.arrays.values(), strict=True))[:3]:
        assert tuple(pixels[middle(plan, stub, x, y)]) == seen(kind_colour(kind - 1))
    assert tuple(pixels[middle(plan, stub, 3 * SIDE, 7 * SIDE)]) == TISSUE


def test_suspect_tissue_is_drawn_beside_what_was_removed():
    stub: Any = Mapped(3)
    kind = np.zeros(len(stub.tissue.coords), np.uint8)
    kind[[0, 2]] = 2
    stub.arrays = {
        "tissue/suspect": kind,
        "artefact/coords": np.array([[1, 5]], np.int32) * SIDE,
        "artefact/kind": np.array([5], np.uint8),
    }
    pixels, layer, plan = map_of(stub, "artefact")
    assert [swatch.words for swatch in layer.swatches] == ["blurred: 2", "blank: 1, removed"]
    np.testing.assert_array_equal(layer.coords[:2], stub.tissue.coords[[0, 2]])
    assert tuple(pixels[middle(plan, stub, SIDE, 5 * SIDE)]) == seen(kind_colour(4))


def test_artefacts_that_older_formats_kept_were_not_removed():
    stub: Any = Mapped(3)
    stub.attributes["artefacts"] = {"count": 1, "kinds": {"pen": 1}, "looked_at": 3, "ignored": True}
    stub.arrays = {"artefact/coords": np.zeros((1, 2), np.int32), "artefact/kind": np.array([1], np.uint8)}
    assert [swatch.words for swatch in artefact_layer(stub).swatches] == ["pen: 1"]


def test_suspects_of_another_number_of_patches_are_refused():
    stub: Any = Mapped(3)
    stub.arrays = {"tissue/suspect": np.ones(len(stub.tissue.coords) + 1, np.uint8)}
    with pytest.raises(SummaryError, match="tissue/suspect"):
        draw_map(stub, "artefact")


def test_unknown_artefact_kinds_are_drawn():
    stub: Any = Mapped(3)
    stub.arrays = {"artefact/coords": np.zeros((1, 2), np.int32), "artefact/kind": np.array([9], np.uint8)}
    assert [swatch.words for swatch in artefact_layer(stub).swatches] == ["kind 9: 1, removed"]


def test_unrecorded_artefacts_are_labelled():
    stub: Any = Mapped(3)
    assert artefact_layer(stub).note == "no artefacts recorded"
    stub.attributes["artefacts"] = NO_ARTEFACTS.as_dict()
    assert artefact_layer(stub).note == "no artefacts found"
    pixels, _, plan = map_of(stub, "artefact")
    assert tuple(pixels[middle(plan, stub, 3 * SIDE, 7 * SIDE)]) == TISSUE


@pytest.mark.parametrize("size", [(3000, 250), (100, 1500), (20, 20), (16, 16), (1, 1), (2000, 2)])
@pytest.mark.parametrize("kind", ["represented", "coverage", "cluster"])
def test_maps_of_any_shape_fit_the_page(size: tuple[int, int], kind: str):
    pixels, _, plan = map_of(Mapped(1, size), kind)
    assert pixels.shape == (plan.height, plan.width, 3)
    assert 1280 <= plan.width <= 1880
    assert (pixels[:, : MARGIN - 4] == 255).all()
    assert (pixels[:, -MARGIN + 4 :] == 255).all()


@pytest.mark.parametrize("kind", sorted(MAPS))
def test_maps_are_deterministic(kind: str, tmp_path: Path):
    for name in ("one.png", "two.png"):
        save_png(tmp_path / name, draw_map(Mapped(12), kind))  # type: ignore[arg-type]
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def spoil_representative(stub: Any) -> None:
    stub.tissue.representative[3] = 99


def spoil_similarity(stub: Any) -> None:
    stub.tissue.similarity[3] = np.nan


def shorten_tissue(stub: Any) -> None:
    stub.tissue = replace(stub.tissue, cluster=stub.tissue.cluster[:-1])


def empty_tissue(stub: Any) -> None:
    arrays = [values[:0] for name, values in vars(stub.tissue).items() if name not in ("prefixes", "suspect")]
    stub.tissue = TissueMap(*arrays)


@pytest.mark.parametrize("spoil", [spoil_representative, spoil_similarity, shorten_tissue, empty_tissue])
@pytest.mark.parametrize("kind", ["represented", "coverage", "weight", "cluster"])
def test_inconsistent_tissue_is_refused(spoil: Any, kind: str):
    stub: Any = Mapped(5)
    spoil(stub)
    with pytest.raises(SummaryError, match=r"stub\.ozx"):
        draw_map(stub, kind)


def test_inconsistent_artefacts_are_refused():
    stub: Any = Mapped(5)
    stub.arrays = {"artefact/coords": np.zeros((2, 2), np.int32), "artefact/kind": np.zeros(3, np.uint8)}
    with pytest.raises(SummaryError, match="artefact/kind"):
        draw_map(stub, "artefact")


def test_the_numbers_of_named_patches_are_drawn():
    stub: Any = Mapped(9)
    plan = plan_of(MAPS["cluster"](stub), stub.overview)
    stub.cluster = np.zeros(9, np.int16)
    frames = squares(stub.coords, SIDE, (12800, 9600), plan.map_size) + np.tile(plan.corner, 2)
    numbered = []
    for left, upper, right, lower in frames.tolist():
        inside = draw_map(stub, "cluster")[upper + 8 : lower - 8, left + 8 : right - 8]
        numbered.append(bool((inside == INK).all(axis=2).any()))
    assert tuple(np.flatnonzero(numbered)) == MAPS["cluster"](stub).named


def test_more_tissue_than_the_overview_can_show_is_refused():
    stub: Any = Mapped(5)
    stub.overview = stub.overview[:20, :20]
    with pytest.raises(SummaryError, match="expected at most 400 tissue patches"):
        MAPS["coverage"](stub)
