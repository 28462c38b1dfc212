"""Annotations of a summary, as QuPath reads them."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from summaries import KEPT, SIDE, TISSUE, sign_again, tiny_contents, unpack, write_as, write_tiny

from wsisum_cli.exports.export import export_summary
from wsisum_cli.exports.geojson import write_geojson
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.summary.writer import write_summary
from wsisum_cli.tissue.artefacts import KINDS

PATCH_MM2 = (2 * SIDE * 0.25 / 1000) ** 2


def annotations(summary: Path, folder: Path) -> dict[str, Any]:
    output = folder / "B12.summary.geojson"
    export_summary(summary, output, TARGETS["geojson"])
    found: dict[str, Any] = json.loads(output.read_bytes())
    return found


def of_class(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [each for each in found["features"] if each["properties"]["classification"]["name"].split(":")[0] == name]


def bounds(feature: dict[str, Any]) -> tuple[list[int], list[int]]:
    shapes = feature["geometry"]["coordinates"]
    shapes = [shapes] if feature["geometry"]["type"] == "Polygon" else shapes
    points = np.array([point for polygon in shapes for ring in polygon for point in ring])
    return points.min(axis=0).tolist(), points.max(axis=0).tolist()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("geojson")
    return annotations(write_tiny(folder / "B12.ozx"), folder)


def test_every_feature_is_an_annotation_with_an_id_of_its_own(found: dict[str, Any]):
    assert found["type"] == "FeatureCollection"
    assert found["wsisum"]["note"].startswith("This is not a slide.")
    ids = [str(uuid.UUID(each["id"])) for each in found["features"]]
    assert len(set(ids)) == len(ids)
    for each in found["features"]:
        assert (each["type"], each["properties"]["objectType"]) == ("Feature", "annotation")
        assert len(each["properties"]["classification"]["color"]) == 3
        assert all(isinstance(value, int | float) for value in each["properties"]["measurements"].values())
        (left, upper), (right, lower) = bounds(each)
        assert 0 <= left < right <= 640
        assert 0 <= upper < lower <= 640


def test_kept_patches_lie_where_they_were_cut(found: dict[str, Any], tmp_path: Path):
    kept = of_class(found, "Kept patch")
    assert [each["properties"]["name"] for each in kept] == [f"Patch {number}" for number in range(1, KEPT + 1)]
    measured = [each["properties"]["measurements"] for each in kept]
    assert sum(each["Weight"] for each in measured) == pytest.approx(1, abs=1e-4)
    assert sum(each["Represents patches"] for each in measured) == TISSUE
    assert sum(each["Represents mm2"] for each in measured) == pytest.approx(TISSUE * PATCH_MM2)
    with open_summary(write_tiny(tmp_path / "B12.ozx")) as summary:
        for each in kept:
            (left, upper), (right, lower) = bounds(each)
            row = each["properties"]["measurements"]["Picked"] - 1
            assert [left, upper] == summary.coords[row].tolist()
            assert (right - left, lower - upper) == (2 * SIDE, 2 * SIDE)
            assert each["properties"]["measurements"]["Weight"] == pytest.approx(summary.weights[row], abs=1e-6)


def test_tissue_is_one_locked_annotation(found: dict[str, Any]):
    (tissue,) = of_class(found, "Tissue")
    assert found["features"][0] is tissue
    assert tissue["properties"]["isLocked"]
    assert "not for diagnosis" in tissue["properties"]["metadata"]["Summary"]
    assert tissue["properties"]["measurements"]["Patches"] == TISSUE
    assert bounds(tissue) == ([0, 0], [640, 512])


def test_unrepresented_regions_are_those_of_the_record(found: dict[str, Any], tmp_path: Path):
    regions = of_class(found, "Not represented")
    with open_summary(write_tiny(tmp_path / "B12.ozx")) as summary:
        section = summary.record.represented
        assert section is not None
        assert len(regions) == section.region_count > 0
        for each, recorded in zip(regions, section.regions, strict=True):
            left_upper = [recorded.x, recorded.y]
            right_lower = [recorded.x + recorded.width, recorded.y + recorded.height]
            assert bounds(each) == (left_upper, right_lower)
            measured = each["properties"]["measurements"]
            assert (measured["Patches"], measured["Area mm2"]) == (recorded.patches, recorded.mm2)
            assert measured["Cosine to it"] == recorded.cosine
            number = measured["Nearest kept patch"]
            nearest = of_class(found, "Kept patch")[number - 1]["properties"]["measurements"]
            assert nearest["Picked"] - 1 == recorded.nearest


def test_before_format_1_4_no_region_is_made_up(tmp_path: Path):
    older = write_as(tmp_path / "older.ozx", write_tiny(tmp_path / "B12.ozx"))
    found = annotations(older, tmp_path)
    assert not of_class(found, "Not represented")
    assert found["wsisum"]["represented"] is None


def test_suspect_and_removed_tissue_has_its_kind(tmp_path: Path):
    contents = tiny_contents()
    suspect = np.zeros(TISSUE, np.uint8)
    suspect[[0, 1, 30]] = KINDS.index("fold")
    suspect[50] = KINDS.index("pen")
    attributes = contents.attributes.model_copy(
        update={"suspect": type(contents.attributes.suspect)(count=4, kinds={"fold": 3, "pen": 1})}
    )
    write_summary(
        tmp_path / "B12.ozx",
        replace(contents, tissue=replace(contents.tissue, suspect=suspect), attributes=attributes),
    )
    with open_summary(tmp_path / "B12.ozx") as summary:
        write_geojson(summary, tmp_path / "a.geojson", ExportOptions())
    found = json.loads((tmp_path / "a.geojson").read_bytes())
    names = [each["properties"]["name"] for each in of_class(found, "Suspect")]
    assert names == ["Suspect: pen 1", "Suspect: fold 1", "Suspect: fold 2"]
    first = of_class(found, "Suspect")[1]
    assert bounds(first) == ([0, 0], [4 * SIDE, 2 * SIDE])
    assert first["properties"]["measurements"]["Area mm2"] == pytest.approx(2 * PATCH_MM2)
    assert any("(fold)" in each["properties"]["name"] for each in of_class(found, "Kept patch"))


def test_a_forged_summary_is_refused(tmp_path: Path):
    path = write_tiny(tmp_path / "B12.ozx")
    members = unpack(path)

    def change(attributes: dict[str, Any]) -> None:
        attributes["tissue_patches"] = 8_000_000

    sign_again(path, members, change)
    with pytest.raises(OSError, match="damaged"):
        annotations(path, tmp_path)
