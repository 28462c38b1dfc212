"""Real files of other writers, and small slides that went wrong, each with the outcome a person would give it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from references import Reference, by_czi_reader, by_tifffile, by_wsidicom
from running import wsisum

from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.slide import open_pyramid, read_level
from wsisum_cli.summary.reader import open_summary

Row = dict[str, str]  # of a report


@dataclass(frozen=True)
class Expected:
    """What becomes of a slide, and what its pixels are compared with."""

    status: str
    reason: str = ""
    says: str = ""  # what the message holds; the whole of it where that is empty and the slide is written
    pixels: Reference | None = None
    image: int | None = None


@dataclass(frozen=True)
class Run:
    """One command."""

    folder: str  # of the slides, below the archive
    files: dict[str, Expected]
    options: dict[str, str] = field(default_factory=dict)  # and files, below the archive


WRITTEN = "written"
SKIPPED = "skipped"
FAILED = "failed"
SUSPECT = "33.3% of the tissue may be an artefact (3 bubble)"
FILES: dict[str, Expected] = {
    "1-label/fluorescence_and_label.ome.tif": Expected(SKIPPED, "not brightfield RGB", "uint16"),
    "1-label/fluorescence_and_label_nopx.ome.tif": Expected(SKIPPED, "not brightfield RGB", "uint16"),
    "2-scenes/two_scenes.ome.tif#1": Expected(WRITTEN, pixels=by_tifffile, image=1),
    "2-scenes/two_scenes.ome.tif#2": Expected(WRITTEN, pixels=partial(by_tifffile, index=1), image=2),
    "3-zero-tiles/whole.svs": Expected(WRITTEN, pixels=by_tifffile),
    "3-zero-tiles/zero_low_level.svs": Expected(WRITTEN, "", "2 tiles of lower levels missing", by_tifffile),
    "4-dicom/slideA.dcm": Expected(WRITTEN, pixels=by_wsidicom),
    "4-dicom/slideB.dcm": Expected(WRITTEN, pixels=by_wsidicom),
    "5-mpp/aniso.tif": Expected(FAILED, "implausible pixel size", "0.25 x 0.5 µm are not square", by_tifffile),
    "5-mpp/states_0.5.tif": Expected(WRITTEN, pixels=by_tifffile),
    "6-headers/comma.svs": Expected(WRITTEN, pixels=by_tifffile),
    "6-headers/greek_mu.ome.tif": Expected(WRITTEN, pixels=by_tifffile),
    "6-headers/kfbio.svs": Expected(WRITTEN, pixels=by_tifffile),
    "6-headers/planar.ome.tif": Expected(WRITTEN, pixels=by_tifffile),
    "6-headers/rgba.ome.tif": Expected(WRITTEN, pixels=by_tifffile),
    "7-overview/one_bad_low_tile.svs": Expected(WRITTEN, "", "1 tile of lower levels missing", by_tifffile),
    "8-z/zstack.svs": Expected(WRITTEN, "", "focal plane 1 of 2 was read", partial(by_tifffile, plane=0)),
    "he-pylibczirw-zstd1.czi": Expected(WRITTEN, pixels=by_czi_reader),
    "mrxs-without-folder.mrxs": Expected(FAILED, "pixels missing", "folder mrxs-without-folder"),
    "openslide-vips-small.tiff": Expected(FAILED, "too coarse for the encoder", "3.19489 µm per px", by_tifffile),
    "qupath032-bioformats670-he.ome.tif": Expected(WRITTEN, pixels=by_tifffile),
    "qupath032-bioformats670-ki67.ome.tif": Expected(WRITTEN, "", SUSPECT, by_tifffile),
    "vips-planar-rgb.ome.tif": Expected(WRITTEN, pixels=by_tifffile),
    "vips-webp.tif": Expected(WRITTEN, pixels=by_tifffile),
    "vsi/_vsi-ets-test-jpg2k_/": Expected(SKIPPED, "companion folder", "vsi-ets-test-jpg2k.vsi"),
    "vsi/vsi-ets-test-jpg2k.vsi": Expected(SKIPPED, "format not read", "convert it to OME-TIFF"),
}
#: Two stains for which the rules of tissue decide; either outcome is right that says what was found.
STAINS = ("9-stains/light_green.tif", "9-stains/silver.tif")
SIZE_OF_MANIFEST = "manifest's pixel size of 0.25 µm is used, though the file states 0.5 µm"
MANIFEST: dict[str, Expected] = {
    "aniso.tif": Expected(WRITTEN, "", "pixels of 0.25 x 0.5 µm were resampled to squares of 0.25 µm"),
    "states_0.5.tif": Expected(WRITTEN, "", SIZE_OF_MANIFEST),
}
UNFIT = "features do not fit"
FEATURES: dict[str, Expected] = {
    "centre.svs": Expected(FAILED, UNFIT, "found what seem to be centres: 50% of the patches would", by_tifffile),
    "twice.svs": Expected(FAILED, UNFIT, "12 rows are of patches that have a row already", by_tifffile),
    "zeros.svs": Expected(FAILED, UNFIT, "12 of 12 rows of features hold one number throughout", by_tifffile),
}
RUNS = {
    "alone": Run("slides", FILES),
    "manifest": Run("slides/5-mpp", MANIFEST, {"--manifest": "slides/5-mpp/m.csv"}),
    "features": Run("10-features/slides", FEATURES, {"--features": "10-features/h5"}),
}
CASES = [(run, name) for run, about in RUNS.items() for name in about.files]
#: Files beside slides: what is given with them.
GIVEN = {"5-mpp/m.csv", *(f"10-features/h5/{name.removesuffix('.svs')}.h5" for name in FEATURES)}
#: Slides that lie where nobody looks for them.
HIDDEN = ("$RECYCLE.BIN", "@eaDir", "lost+found", "System Volume Information", ".hidden")


@pytest.fixture(scope="module")
def archive(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`slides` holds all but those with given features; DICOM files and hostile ones have tests of their own."""
    folder = tmp_path_factory.mktemp("archive")
    subprocess.run([sys.executable, shared / "tools" / "problem_slides.py", folder / "slides"], check=True)
    shutil.move(folder / "slides" / "10-features", folder)
    elsewhere = shutil.ignore_patterns("*.dcm", "hostile")
    shutil.copytree(shared / "problems", folder / "slides", ignore=elsewhere, dirs_exist_ok=True)
    for name in HIDDEN:
        (folder / "slides" / name).mkdir()
        shutil.copyfile(folder / "slides/3-zero-tiles/whole.svs", folder / "slides" / name / "deleted.svs")
    return folder


@pytest.fixture(scope="module")
def rows(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Row]:
    """Rows of the reports by run and slide, each with the folder of the output."""
    found = {}
    for name, run in RUNS.items():
        output = tmp_path_factory.mktemp(name)
        options = [word for option, path in run.options.items() for word in (option, archive / path)]
        done = wsisum("compress", archive / run.folder, "-o", output, "--encoder", "texture", *options)
        assert done.returncode == any(expected.status == FAILED for expected in run.files.values()), done.stderr
        slides = json.loads((output / "report.json").read_text())["slides"]
        found |= {(name, row["source"]): {**row, "output": str(output)} for row in slides}
    return found


@pytest.mark.parametrize(("run", "name"), CASES)
def test_outcome(run: str, name: str, rows: dict[tuple[str, str], Row]) -> None:
    row, expected = rows[run, name], RUNS[run].files[name]
    assert (row["status"], row["reason"]) == (expected.status, expected.reason), row["message"]
    assert expected.says in row["message"]
    assert expected.says or expected.status != WRITTEN or not row["message"]


@pytest.mark.parametrize("name", STAINS)
def test_what_is_said_of_a_rare_stain_is_true(name: str, rows: dict[tuple[str, str], Row]) -> None:
    row = rows["alone", name]
    if row["status"] == WRITTEN:
        assert int(row["tissue_patches"]) > 0
    else:
        assert (row["status"], row["reason"]) == (SKIPPED, "no tissue")
        assert "100.0% of the slide is darker than glass; look at it" in row["message"]


def test_each_slide_has_one_row(rows: dict[tuple[str, str], Row]) -> None:
    assert sorted(rows) == sorted([*CASES, *(("alone", name) for name in STAINS)])


def test_the_table_names_every_file(archive: Path) -> None:
    roots = (archive / "slides", archive)  # as the files are called in the tables, and where they were made
    named = {*FILES, *STAINS, *GIVEN, *(f"10-features/slides/{name}" for name in FEATURES)}
    named = {name.partition("#")[0] for name in named}
    missing = []
    for path in archive.rglob("*"):
        folders = {root: path.relative_to(root) for root in roots if path.is_relative_to(root)}
        calls = {name.as_posix() for name in folders.values()}
        calls |= {f"{parent.as_posix()}/" for name in folders.values() for parent in name.parents}
        if path.is_file() and not calls & named and not set(HIDDEN) & set(path.parts):
            missing.append(path.name)
    assert not missing


@pytest.mark.parametrize(
    ("run", "name"),
    [(run, name) for run, name in CASES if RUNS[run].files[name].pixels] + [("alone", name) for name in STAINS],
)
def test_pixels(run: str, name: str, archive: Path) -> None:
    expected = RUNS[run].files.get(name, Expected("", pixels=by_tifffile))
    assert expected.pixels is not None
    path = archive / RUNS[run].folder / name.partition("#")[0]
    pyramid = open_pyramid(path, expected.image)
    try:
        found = read_level(pyramid, 0, 1, Damage(), 1)
    finally:
        pyramid.close()
    reference = expected.pixels(path)
    assert found.shape == reference.shape
    assert np.abs(found.astype(np.int16) - reference).mean() < 0.5


def test_summaries_of_several_slides_say_which(rows: dict[tuple[str, str], Row]) -> None:
    for number, size in ((1, (2048, 1536)), (2, (1792, 1280))):
        row = rows["alone", f"2-scenes/two_scenes.ome.tif#{number}"]
        assert row["summary"] == f"2-scenes/two_scenes.{number}.ozx"
        with open_summary(Path(row["output"]) / row["summary"]) as summary:
            source = summary.attributes["source"]
        assert (source["image"], source["width"], source["height"]) == (number, *size)
        assert source["name"] == "two_scenes.ome.tif"


def test_the_focal_plane_is_in_the_provenance(rows: dict[tuple[str, str], Row]) -> None:
    row = rows["alone", "8-z/zstack.svs"]
    with open_summary(Path(row["output"]) / row["summary"]) as summary:
        source = summary.attributes["source"]
    assert (source["focal_plane"], source["focal_planes"]) == (1, 2)
    assert "image" not in source


def test_summaries_of_several_slides_verify_against_their_file(rows: dict[tuple[str, str], Row], archive: Path) -> None:
    folder = Path(rows["alone", "2-scenes/two_scenes.ome.tif#1"]["output"]) / "2-scenes"
    done = wsisum("verify", folder, "--source", archive / "slides" / "2-scenes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 summaries, 2 ok" in done.stdout


def inspected(row: Row) -> str:
    done = wsisum("inspect", Path(row["output"]) / row["summary"])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_inspect_says_which_image_was_read_and_what_was_odd(rows: dict[tuple[str, str], Row]) -> None:
    assert "slide 2 of the file" in inspected(rows["alone", "2-scenes/two_scenes.ome.tif#2"])
    focal = inspected(rows["alone", "8-z/zstack.svs"])
    assert "image" in focal.split()
    assert "focal plane 1 of 2" in focal
    assert SIZE_OF_MANIFEST in inspected(rows["manifest", "states_0.5.tif"])
    assert "image" not in inspected(rows["alone", "3-zero-tiles/whole.svs"]).split()
