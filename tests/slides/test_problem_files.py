"""Real files of other writers, and small slides that went wrong, each with the outcome a person would give it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.slide import open_pyramid, read_level
from wsisum_cli.summary.reader import open_summary

Reference = Callable[[Path], np.ndarray]


def series(index: int, plane: int | None = None) -> Reference:
    """Level 0 of a series as tifffile reads it, (H, W, 3)."""

    def read(path: Path) -> np.ndarray:
        with tifffile.TiffFile(path) as tiff:
            pixels = tiff.series[index].levels[0].asarray()
        pixels = pixels if plane is None else pixels[plane]
        return (np.moveaxis(pixels, 0, 2) if pixels.shape[0] == 3 else pixels)[..., :3]

    return read


def by_czi_reader(path: Path) -> np.ndarray:
    from pylibCZIrw import czi

    with czi.open_czi(str(path)) as document:
        return np.asarray(document.read(plane={"C": 0, "Z": 0, "T": 0}))[..., ::-1]


@dataclass(frozen=True)
class Expected:
    """What becomes of a slide, and what its pixels are compared with where it is opened."""

    status: str
    reason: str = ""
    says: str = ""  # what the message holds
    pixels: Reference | None = None
    image: int | None = None


WRITTEN = "written"
FILES: dict[str, Expected] = {
    "1-label/fluorescence_and_label.ome.tif": Expected("skipped", "not brightfield RGB", "uint16"),
    "1-label/fluorescence_and_label_nopx.ome.tif": Expected("skipped", "not brightfield RGB", "uint16"),
    "2-scenes/two_scenes.ome.tif#1": Expected(WRITTEN, pixels=series(0), image=1),
    "2-scenes/two_scenes.ome.tif#2": Expected(WRITTEN, pixels=series(1), image=2),
    "6-headers/planar.ome.tif": Expected(WRITTEN, pixels=series(0)),
    "6-headers/rgba.ome.tif": Expected(WRITTEN, pixels=series(0)),
    "8-z/zstack.svs": Expected(WRITTEN, "", "focal plane 1 of 2 was read", series(0, plane=0)),
    "he-pylibczirw-zstd1.czi": Expected(WRITTEN, pixels=by_czi_reader),
    "mrxs-without-folder.mrxs": Expected("failed", "pixels missing", "folder mrxs-without-folder"),
    "openslide-vips-small.tiff": Expected("failed", "too coarse for the encoder", pixels=series(0)),
    "vips-planar-rgb.ome.tif": Expected(WRITTEN, pixels=series(0)),
    "vips-webp.tif": Expected(WRITTEN, pixels=series(0)),
    "vsi/_vsi-ets-test-jpg2k_/": Expected("skipped", "companion folder", "vsi-ets-test-jpg2k.vsi"),
    "vsi/vsi-ets-test-jpg2k.vsi": Expected("skipped", "format not read", "convert it to OME-TIFF"),
}
#: Slides that lie where nobody looks for them.
HIDDEN = ("$RECYCLE.BIN", "@eaDir", "lost+found", "System Volume Information", ".hidden")


@pytest.fixture(scope="module")
def archive(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    subprocess.run([sys.executable, shared / "tools" / "problem_slides.py", folder / "made"], check=True)
    for name in {name.partition("#")[0] for name in FILES}:
        made = folder / "made" / name
        source = made if made.exists() else shared / "problems" / name
        target = folder / "archive" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
    for name in HIDDEN:
        (folder / "archive" / name).mkdir()
        shutil.copyfile(folder / "made" / "3-zero-tiles" / "whole.svs", folder / "archive" / name / "deleted.svs")
    return folder / "archive"


@pytest.fixture(scope="module")
def rows(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Rows of the report by slide."""
    output = tmp_path_factory.mktemp("output")
    command = [sys.executable, "-m", "wsisum_cli", "compress", archive, "-o", output, "--encoder", "texture"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = json.loads((output / "report.json").read_text())["slides"]
    return {row["source"]: {**row, "output": str(output)} for row in found}


@pytest.mark.parametrize("name", FILES)
def test_outcome(name: str, rows: dict[str, dict[str, str]]) -> None:
    row, expected = rows[name], FILES[name]
    assert (row["status"], row["reason"]) == (expected.status, expected.reason), row["message"]
    assert expected.says in row["message"]


def test_each_slide_has_one_row(rows: dict[str, dict[str, str]]) -> None:
    assert sorted(rows) == sorted(FILES)


@pytest.mark.parametrize("name", [name for name, expected in FILES.items() if expected.pixels])
def test_pixels(name: str, archive: Path) -> None:
    expected = FILES[name]
    assert expected.pixels is not None
    path = archive / name.partition("#")[0]
    pyramid = open_pyramid(path, expected.image)
    try:
        found = read_level(pyramid, 0, 1, Damage(), 1)
    finally:
        pyramid.close()
    reference = expected.pixels(path)
    assert found.shape == reference.shape
    assert np.abs(found.astype(np.int16) - reference).mean() < 0.5


def test_summaries_of_several_slides_say_which(rows: dict[str, dict[str, str]]) -> None:
    for number, size in ((1, (2048, 1536)), (2, (1792, 1280))):
        row = rows[f"2-scenes/two_scenes.ome.tif#{number}"]
        assert row["summary"] == f"2-scenes/two_scenes.{number}.ozx"
        with open_summary(Path(row["output"]) / row["summary"]) as summary:
            source = summary.attributes["source"]
        assert (source["image"], source["width"], source["height"]) == (number, *size)
        assert source["name"] == "two_scenes.ome.tif"


def test_the_focal_plane_is_in_the_provenance(rows: dict[str, dict[str, str]]) -> None:
    row = rows["8-z/zstack.svs"]
    with open_summary(Path(row["output"]) / row["summary"]) as summary:
        source = summary.attributes["source"]
    assert (source["focal_plane"], source["focal_planes"]) == (1, 2)
    assert "image" not in source


def test_summaries_of_several_slides_verify_against_their_file(rows: dict[str, dict[str, str]], archive: Path) -> None:
    folder = Path(rows["2-scenes/two_scenes.ome.tif#1"]["output"]) / "2-scenes"
    command = [sys.executable, "-m", "wsisum_cli", "verify", folder, "--source", archive / "2-scenes"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 summaries, 2 ok" in done.stdout
