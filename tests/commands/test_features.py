"""`wsisum features`: what it writes, who can read it, and that it resumes and fails as `compress` does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from draw import draw_tissue, write_svs, write_tiff
from planted import PLANTED
from planted import SLIDE as PRIVATE_SLIDE
from running import wsisum
from spoil import break_tile

from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.plan import Plan, Request, features_for, plan_archive
from wsisum_cli.archive.state.ledger import reported_outcomes
from wsisum_cli.commands.options import DEFAULT_ENCODER
from wsisum_cli.errors import FeaturesError, NoTissueError
from wsisum_cli.features import h5 as feature_file
from wsisum_cli.features.encode import find_features, read_features
from wsisum_cli.features.h5 import is_whole, read_feature_file, read_provenance
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.models.places import find_model
from wsisum_cli.pipeline import extract
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.extract import ExtractResult, FeatureOptions, extract_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.product import FEATURES
from wsisum_cli.slides.slide import open_slide
from wsisum_cli.slides.source import find_source, sha256_of
from wsisum_cli.summary.reader import open_summary

SIZE = (2048, 1536)  # px


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(DEFAULT_ENCODER, "cpu")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of one name, and one that does not state its pixel size."""
    folder = tmp_path_factory.mktemp("archive")
    for number, place in enumerate(("a", "b")):
        (folder / place).mkdir()
        write_svs(folder / place / "slide.svs", draw_tissue(*SIZE, seed=number), tile=256)
    write_tiff(folder / "unknown.tiff", draw_tissue(600, 600, seed=1))
    return folder


@pytest.fixture(scope="module")
def done(archive: Path) -> subprocess.CompletedProcess[str]:
    return wsisum("features", archive, "-o", archive.parent / "features", "--json", "--workers", 2)


@pytest.fixture(scope="module")
def output(archive: Path, done: subprocess.CompletedProcess[str]) -> Path:
    assert done.returncode == 1, done.stderr
    return archive.parent / "features"


def computed(slide: Path, path: Path, encoder: Encoder, threads: int = 1, **options: str) -> ExtractResult:
    job = Job(find_source(slide), path, slide.name)
    return extract_slide(job, FeatureOptions(**options), Tools(encoder, threads))


def about(path: Path, name: str) -> dict[str, Any]:
    with h5py.File(path) as file:
        return dict(file[name].attrs)


# -- what is written -----------------------------------------------------------------------------------------


def test_layout_matches_trident(output: Path, encoder: Encoder):
    """Names, shapes, types and attributes that TRIDENT, and code for its files, asks for; CLAM asks for less."""
    path = output / "a/slide.h5"
    with h5py.File(path) as file:
        assert sorted(file) == ["coords", "features"]
        features, coords = file["features"][:], file["coords"][:]
    assert (features.dtype, coords.dtype) == (np.float32, np.int64)
    assert features.shape == (len(coords), encoder.card.dims)
    found = about(path, "coords")
    expected = {"patch_size": 256, "patch_size_level0": 512, "overlap": 0, "name": "slide"}
    expected |= {"level0_magnification": 40, "target_magnification": 20, "level0_width": 2048, "level0_height": 1536}
    assert found == {**expected, "mpp": 0.25}
    assert isinstance(found["patch_size_level0"], np.integer)
    assert about(path, "features") == {"name": "slide", "encoder": encoder.card.name}


def test_patches_lie_inside_the_slide_and_do_not_overlap(output: Path):
    with h5py.File(output / "a/slide.h5") as file:
        coords = file["coords"][:]
    distance = np.abs(coords[:, None] - coords).max(axis=2) + 512 * np.eye(len(coords), dtype=int)
    assert distance.min() >= 512
    assert (coords >= 0).all()
    assert (coords + 512 <= SIZE).all()
    assert len(np.unique(coords, axis=0)) == len(coords) > 4


def test_provenance_is_recorded(archive: Path, output: Path, encoder: Encoder):
    made = read_provenance(output / "b/slide.h5")
    assert made is not None
    assert made["source"]["sha256"] == sha256_of(archive / "b/slide.svs")
    assert (made["source"]["name"], made["source"]["mpp"]) == ("slide.svs", 0.25)
    assert made["encoder"] == encoder.card.as_dict()
    assert made["options"] == {"layout": "trident", "precision": "float32", "mask_sha256": None}
    assert made["broken_tiles"] == {"count": 0, "positions": []}
    assert "wsisum" in made["versions"]


def test_magnification_ratio_equals_patch_size_ratio(tmp_path: Path, encoder: Encoder):
    """Of a slide whose pixels are no round number, as scanners have them."""
    write_svs(tmp_path / "a.svs", draw_tissue(1400, 1200, seed=3), mpp=0.2327, tile=256)
    computed(tmp_path / "a.svs", tmp_path / "a.h5", encoder)
    found = about(tmp_path / "a.h5", "coords")
    assert found["patch_size_level0"] == 550
    assert found["level0_magnification"] / found["target_magnification"] == pytest.approx(550 / 256)


@pytest.mark.parametrize("layout", ["trident", "stamp"])
def test_own_reader_returns_the_same_features_and_coords(archive: Path, tmp_path: Path, encoder: Encoder, layout: str):
    slide = archive / "a/slide.svs"
    computed(slide, tmp_path / "a.h5", encoder, layout=layout)
    with h5py.File(tmp_path / "a.h5") as file:
        features = file["feats" if layout == "stamp" else "features"][:]
    with open_slide(slide) as opened:
        given = read_features(tmp_path / "a.h5", opened)
    np.testing.assert_array_equal(given.features, features)
    assert (given.patch_size_level0, given.left_out) == (512, 0)
    assert (given.encoder, given.encoder_sha256) == (encoder.card.name, encoder.card.sha256)
    raw = read_feature_file(tmp_path / "a.h5", encoder.card.dims)
    assert raw.encoder_sha256 == encoder.card.sha256
    np.testing.assert_allclose(raw.coords / raw.patch_size_level0, given.coords / 512)


def test_stamp_layout_is_in_um(archive: Path, tmp_path: Path, encoder: Encoder):
    computed(archive / "a/slide.svs", tmp_path / "a.h5", encoder, layout="stamp")
    with h5py.File(tmp_path / "a.h5") as file:
        assert sorted(file) == ["coords", "feats"]
        assert file.attrs["unit"] == "um"
        assert (file.attrs["tile_size_um"], file.attrs["tile_size_px"]) == (128.0, 256)
        assert (file.attrs["feat_type"], file.attrs["extractor"]) == ("tile", encoder.card.name)
        pixels = file["coords"][:] / 0.25
    assert np.array_equal(pixels, np.rint(pixels))


def test_float16_halves_the_file(archive: Path, tmp_path: Path, encoder: Encoder):
    computed(archive / "a/slide.svs", tmp_path / "whole.h5", encoder)
    computed(archive / "a/slide.svs", tmp_path / "half.h5", encoder, precision="float16")
    whole, half = (read_feature_file(tmp_path / f"{name}.h5").features for name in ("whole", "half"))
    np.testing.assert_array_equal(whole.astype(np.float16), half)
    with h5py.File(tmp_path / "half.h5") as file:
        assert file["features"].dtype == np.float16


def test_float16_overflow_is_refused(archive: Path, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch):
    original = extract.encode_tissue

    def large(*arguments: Any) -> Any:
        tissue = original(*arguments)
        tissue.features[0, 0] = 1e6
        return tissue

    monkeypatch.setattr(extract, "encode_tissue", large)
    with pytest.raises(FeaturesError, match=r"slide\.svs: .*--precision float32"):
        computed(archive / "a/slide.svs", tmp_path / "a.h5", encoder, precision="float16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["trident", "stamp"])
def test_features_are_deterministic(archive: Path, tmp_path: Path, encoder: Encoder, layout: str):
    slide = archive / "b/slide.svs"
    for number in (1, 3):
        (tmp_path / str(number)).mkdir()
        computed(slide, tmp_path / str(number) / "slide.h5", encoder, threads=number, layout=layout)
    assert (tmp_path / "1/slide.h5").read_bytes() == (tmp_path / "3/slide.h5").read_bytes()


def test_another_process_writes_the_same_features(archive: Path, output: Path, tmp_path: Path, encoder: Encoder):
    computed(archive / "b/slide.svs", tmp_path / "slide.h5", encoder)
    assert (tmp_path / "slide.h5").read_bytes() == (output / "b/slide.h5").read_bytes()


def test_patches_on_broken_tiles_are_skipped_and_counted(archive: Path, tmp_path: Path, encoder: Encoder):
    slide = tmp_path / "slide.svs"
    shutil.copy(archive / "a/slide.svs", slide)
    computed(slide, tmp_path / "whole.h5", encoder)
    whole = read_feature_file(tmp_path / "whole.h5")
    x, y = whole.coords[len(whole.coords) // 2].astype(int)
    break_tile(slide, x // 256, y // 256)
    extracted = computed(slide, tmp_path / "less.h5", encoder)
    column, row = x // 256 * 256, y // 256 * 256
    beside = (np.abs(whole.coords - (column, row) + 128) < 384).all(axis=1)  # patches that touch the tile
    left = ~beside
    np.testing.assert_array_equal(read_feature_file(tmp_path / "less.h5").coords, whole.coords[left])
    assert (extracted.broken_tiles, extracted.patches) == (1, int(left.sum()))


def test_empty_slide_has_no_features(tmp_path: Path, encoder: Encoder):
    write_svs(tmp_path / "glass.svs", np.full((1200, 1400, 3), 242, np.uint8), tile=256)
    with pytest.raises(NoTissueError):
        computed(tmp_path / "glass.svs", tmp_path / "glass.h5", encoder)


def test_file_that_reads_back_differently_is_removed(
    archive: Path, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
):
    def write_badly(path: Path, contents: feature_file.FeatureFileContents) -> None:
        feature_file.write_feature_file(path, contents)
        with h5py.File(path, "a") as file:
            file["features"][0, 0] += 1

    monkeypatch.setattr(extract, "write_feature_file", write_badly)
    (tmp_path / "a.h5").write_bytes(b"before")
    with pytest.raises(FeaturesError, match=r"^a\.h5: .*differs from what was written"):
        computed(archive / "a/slide.svs", tmp_path / "a.h5", encoder)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert (tmp_path / "a.h5").read_bytes() == b"before"


# -- the run -------------------------------------------------------------------------------------------------


def test_features_command_mirrors_the_tree(output: Path, done: subprocess.CompletedProcess[str]):
    report = json.loads(done.stdout)
    assert report["counts"] == {"written": 2, "skipped": 0, "failed": 1}
    rows = {row["source"]: row for row in report["slides"]}
    assert rows["unknown.tiff"]["reason"] == "no pixel size"
    first = rows["a/slide.svs"]
    assert (first["features"], first["summary"]) == ("a/slide.h5", "")
    assert first["patches"] == first["tissue_patches"] == len(read_feature_file(output / "a/slide.h5").features)
    assert first["bytes_out"] == (output / "a/slide.h5").stat().st_size
    assert set(first["seconds"]) == {"tissue", "features", "hash", "write"}
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    files = [name for name in files if not name.startswith(".wsisum/journal/")]
    assert files == ["a/slide.h5", "b/slide.h5", "report.csv", "report.json"]
    assert "3 slides to encode, 0 up to date" in done.stderr
    assert f"a/slide.svs: written, {first['patches']} patches, " in done.stderr


def plan(archive: Path, output: Path, options: FeatureOptions | None = None, **changes: Any) -> Plan:
    """What a run would do next."""
    wanted = Request(
        archive,
        output,
        options or FeatureOptions(),
        changes.pop("encoder_sha256", sha256_of(find_model(DEFAULT_ENCODER))),
        product=FEATURES,
        **changes,
    )
    return plan_archive(wanted, Manifest(), reported_outcomes(output))


def to_do(*arguments: Any, **changes: Any) -> list[str]:
    return [source for source, _ in plan(*arguments, **changes).jobs]


@pytest.fixture
def copied(output: Path, tmp_path: Path) -> Path:
    """The folder of features, to be spoilt."""
    shutil.copytree(output, tmp_path / "features")
    return tmp_path / "features"


BOTH = ["a/slide.svs", "b/slide.svs"]


def test_up_to_date_features_are_skipped(archive: Path, copied: Path):
    assert to_do(archive, copied) == ["unknown.tiff"]
    first = plan(archive, copied).outcomes[0]
    assert (first.status, first.reason, first.features) == ("skipped", "up to date", "a/slide.h5")
    assert first.patches
    (copied / "report.json").unlink()  # then sources are hashed
    assert to_do(archive, copied) == ["unknown.tiff"]
    assert to_do(archive, copied, force=True) == [*BOTH, "unknown.tiff"]


def test_changed_options_or_encoder_remake_features(archive: Path, copied: Path):
    assert to_do(archive, copied, FeatureOptions(precision="float16")) == [*BOTH, "unknown.tiff"]
    assert to_do(archive, copied, FeatureOptions(layout="stamp")) == [*BOTH, "unknown.tiff"]
    assert to_do(archive, copied, encoder_sha256="1" * 64) == [*BOTH, "unknown.tiff"]


def test_changed_slide_remakes_features(archive: Path, copied: Path, tmp_path: Path):
    shutil.copytree(archive, tmp_path / "in")
    shutil.copy(archive / "a/slide.svs", tmp_path / "in/b/slide.svs")
    assert to_do(tmp_path / "in", copied) == ["b/slide.svs", "unknown.tiff"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["features"][0, 0] += 1


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut, flip, empty, Path.unlink])
def test_damaged_or_missing_features_are_remade(archive: Path, copied: Path, spoil: Any):
    spoil(copied / "a/slide.h5")
    assert to_do(archive, copied) == ["a/slide.svs", "unknown.tiff"]


def test_files_of_other_programs_are_not_overwritten(archive: Path, copied: Path):
    """Somebody's folder of features, given as the output."""
    path = copied / "a/slide.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = np.zeros((1, 4), np.float32), np.zeros((1, 2), int)
    found = plan(archive, copied)
    assert [source for source, _ in found.jobs] == ["unknown.tiff"]
    failed = next(outcome for outcome in found.outcomes if outcome.source == "a/slide.svs")
    assert (failed.status, failed.reason) == ("failed", "another program's file")
    assert "--force" in failed.message
    assert to_do(archive, copied, force=True) == [*BOTH, "unknown.tiff"]


def test_unreadable_file_may_belong_to_another_program(archive: Path, copied: Path):
    """Such as one that is open for writing."""
    (copied / "report.json").unlink()
    with h5py.File(copied / "a/slide.h5", "w"):
        found = plan(archive, copied)
    (copied / "b/slide.h5").write_bytes(b"no HDF5")
    again = plan(archive, copied)
    for outcomes, source in ((found.outcomes, "a/slide.svs"), (again.outcomes, "b/slide.svs")):
        failed = next(outcome for outcome in outcomes if outcome.source == source)
        assert (failed.status, failed.reason) == ("failed", "another program's file")
        assert "--force" in failed.message


def test_second_run_only_makes_missing_features(archive: Path, output: Path, copied: Path):
    expected = (output / "b/slide.h5").read_bytes()
    cut(copied / "b/slide.h5")
    again = wsisum("features", archive, "-o", copied, "--mpp", "0.25", "--json")
    assert again.returncode == 0, again.stderr
    rows = {row["source"]: row["status"] for row in json.loads(again.stdout)["slides"]}
    assert rows == {"a/slide.svs": "skipped", "b/slide.svs": "written", "unknown.tiff": "written"}
    assert (copied / "b/slide.h5").read_bytes() == expected
    assert about(copied / "unknown.h5", "coords")["mpp"] == 0.25


def test_features_dry_run_writes_nothing(archive: Path, tmp_path: Path):
    foreseen = wsisum("features", archive, "-o", tmp_path / "out", "--dry-run", "--json")
    assert foreseen.returncode == 1
    rows = json.loads(foreseen.stdout)["slides"]
    assert [(row["status"], row["features"]) for row in rows[:2]] == [("would write", "slide.h5")] * 2
    assert "--mpp" in foreseen.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["features", "nowhere"], "nowhere: no such file or folder"),
        (["features", ".", "--encoder", "nothing"], "no model with this name"),
        (["features", ".", "--layout", "clam"], "--layout"),
        (["features", ".", "-o", "."], "slides and features would share this folder"),
    ],
)
def test_features_usage_error_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
):
    monkeypatch.chdir(tmp_path)
    started = wsisum(*arguments)
    assert (started.returncode, started.stdout) == (2, "")
    assert complaint in started.stderr
    assert "Traceback" not in started.stderr


# -- compress --features -------------------------------------------------------------------------------------


def summarized(slide: Path, path: Path, encoder: Encoder, pixels: str, features: Path | None = None) -> Path:
    job = Job(find_source(slide), path, slide.name, features=features)
    compress_slide(job, Options(pixels=pixels), Tools(encoder))
    return path


@pytest.mark.parametrize("pixels", ["jpeg"])  # patches of which tiles are copied lie on those
def test_summary_of_exported_features_keeps_the_same_patches(
    archive: Path, output: Path, tmp_path: Path, encoder: Encoder, pixels: str
):
    slide = archive / "a/slide.svs"
    direct = summarized(slide, tmp_path / "direct.ozx", encoder, pixels)
    given = summarized(slide, tmp_path / "given.ozx", encoder, pixels, output / "a")
    with open_summary(direct) as one, open_summary(given) as other:
        np.testing.assert_array_equal(one.coords, other.coords)
        np.testing.assert_allclose(one.weights, other.weights, atol=0 if pixels == "source" else 0.02)
        for name in ("patch_size_level0", "mpp"):
            assert one.attributes["patch"][name] == other.attributes["patch"][name]
        assert other.attributes["features"]["encoder_sha256"] == encoder.card.sha256


def test_slides_with_one_name_find_their_own_features(archive: Path, output: Path):
    assert find_features(output / "b", archive / "b/slide.svs") == output / "b/slide.h5"
    with pytest.raises(FeaturesError, match=r"found a/slide\.h5, b/slide\.h5"):
        find_features(output, archive / "b/slide.svs")
    request = Request(archive, Path("out"), Options(), "0" * 64, features=output)
    assert features_for(request, Path("b/slide")) == output / "b/slide.h5"
    assert find_features(output / "b/slide.h5", archive / "b/slide.svs") == output / "b/slide.h5"
    assert features_for(request, Path("c/slide")) == output


# -- privacy -------------------------------------------------------------------------------------------------


def test_features_contain_no_planted_text_and_no_path(shared: Path, tmp_path: Path):
    """Arrays are stored plain, so the bytes of the file are all that it says."""
    ran = wsisum("features", shared / PRIVATE_SLIDE, "-o", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        content = path.read_bytes()
        for text in (*PLANTED, str(tmp_path), str(shared.resolve())):
            forms = {text.encode(), text.encode("utf-16-le"), text.lower().encode()}
            assert not [form for form in forms if form in content], (path.name, text)
    assert not [text for text in PLANTED if text in ran.stderr + ran.stdout]


def test_manifest_name_hides_the_slide_name(archive: Path, tmp_path: Path):
    (tmp_path / "manifest.csv").write_text("slide,name\nslide.svs,study-7\n")
    rows = ["--manifest", tmp_path / "manifest.csv"]
    ran = wsisum("features", archive / "a", "-o", tmp_path / "out", *rows)
    assert ran.returncode == 0, ran.stderr
    content = (tmp_path / "out/study-7.h5").read_bytes()
    assert b"study-7" in content
    assert b"slide.svs" not in content


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="this file system has no such names")
def test_non_utf8_names_are_written(archive: Path, tmp_path: Path, encoder: Encoder):
    slide = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.svs"))
    shutil.copy(archive / "a/slide.svs", slide)
    computed(slide, slide.with_suffix(".h5"), encoder)
    assert is_whole(slide.with_suffix(".h5"))
    assert about(slide.with_suffix(".h5"), "coords")["name"] == "bad\ufffd"
