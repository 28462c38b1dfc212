"""Slides that change while they are read: no output says that it was made from what it was not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from dicoms import write_series
from draw import draw_tissue, write_svs
from PIL import Image

from wsisum_cli.archive.workers import Setup, make_product
from wsisum_cli.errors import ChangedSlideError, FeaturesError
from wsisum_cli.models.choice import NO_MODELS
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.extract import FeatureOptions, extract_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.sweep import sweep_slide
from wsisum_cli.slides.source import Source, find_source
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.summary.remarks import remarks

STAGES = ("tissue", "features", "selection", "pixels", "hash", "write")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("texture", "cpu")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two slides of the same size, which are not the same."""
    folder = tmp_path_factory.mktemp("originals")
    for seed in (1, 2):
        write_svs(folder / f"{seed}.svs", draw_tissue(2048, 1536, seed), tile=256)
    return folder / "1.svs", folder / "2.svs"


@pytest.fixture
def slide(originals: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(originals[0], tmp_path / "a.svs"))


def append(slide: Path, _other: Path) -> None:
    with open(slide, "ab") as file:
        file.write(b"more")


def replace(slide: Path, other: Path) -> None:
    """By a file of another program, with the time of the old one."""
    before = slide.stat()
    aside = Path(shutil.copy(other, slide.with_suffix(".new")))
    os.truncate(aside, before.st_size)
    os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(aside, slide)


def rewrite(slide: Path, other: Path) -> None:
    size = slide.stat().st_size
    with open(slide, "rb+") as file:
        file.write(other.read_bytes()[:size])
    os.truncate(slide, size)


def at(stage: str, act: Callable[[], None]) -> Callable[[str], None]:
    """Acts once, when that stage begins."""
    waiting = [act]

    def hear(name: str) -> None:
        if name == stage and waiting:
            waiting.pop()()

    return hear


@pytest.mark.parametrize("change", [append, replace, rewrite])
@pytest.mark.parametrize("stage", STAGES)
def test_a_slide_that_changes_during_a_stage_fails(
    slide: Path, originals: tuple[Path, Path], encoder: Encoder, stage: str, change: Callable[[Path, Path], None]
):
    output = slide.with_suffix(".ozx")
    tools = Tools(encoder, stage=at(stage, lambda: change(slide, originals[1])))
    with pytest.raises(ChangedSlideError, match=r"a\.svs (had|was)") as caught:
        compress_slide(Job(find_source(slide), output, slide.name), Options(keep=8, draws=100), tools)
    assert caught.value.reason == "changed while it was read"
    assert str(slide.parent) not in str(caught.value)
    assert not output.exists()


def test_a_slide_that_is_cut_short_meanwhile_is_not_called_broken(slide: Path, encoder: Encoder):
    tools = Tools(encoder, stage=at("features", lambda: os.truncate(slide, 20_000)))
    with pytest.raises(ChangedSlideError, match="now has 20000"):
        compress_slide(Job(find_source(slide), slide.with_suffix(".ozx"), slide.name), Options(keep=8), tools)


def test_a_slide_that_is_deleted_meanwhile_fails(slide: Path, encoder: Encoder):
    tools = Tools(encoder, stage=at("write", slide.unlink))
    with pytest.raises(ChangedSlideError, match=r"a\.svs is gone"):
        compress_slide(Job(find_source(slide), slide.with_suffix(".ozx"), slide.name), Options(keep=8), tools)


def test_every_file_of_a_slide_is_watched(slide: Path, encoder: Encoder):
    beside = slide.with_name("b.dat")
    beside.write_bytes(b"one")
    tools = Tools(encoder, stage=at("hash", lambda: append(beside, beside)))
    job = Job(Source(slide, (slide, beside)), slide.with_suffix(".ozx"), slide.name)
    with pytest.raises(ChangedSlideError, match=r"b\.dat had 3 bytes and now has 7"):
        compress_slide(job, Options(keep=8), tools)


def test_a_level_that_is_added_to_a_dicom_slide_meanwhile_fails(encoder: Encoder, tmp_path: Path):
    files = write_series(tmp_path, draw_tissue(2048, 1536, 1))
    half, later = files["half"], tmp_path / ".later"
    half.rename(later)
    source = find_source(files["full"])
    assert (source.files, source.added) == ((files["full"],), [])
    tools = Tools(encoder, stage=at("write", lambda: later.rename(half)))
    with pytest.raises(ChangedSlideError, match=rf"but {half.name} was added to it"):
        compress_slide(Job(source, tmp_path / "a.ozx", "a"), Options(keep=8, draws=100), tools)
    assert not (tmp_path / "a.ozx").exists()


def test_a_label_beside_its_dicom_slide_is_not_called_changed(tmp_path: Path):
    files = write_series(tmp_path, draw_tissue(512, 512, 1))
    with Source(files["label"], (files["label"],)).unchanged("a"):
        pass


def test_features_and_sweeps_of_a_slide_that_changes_fail_too(slide: Path, encoder: Encoder):
    for make, options, suffix in ((extract_slide, FeatureOptions(), ".h5"), (sweep_slide, Options(draws=100), ".csv")):
        output = slide.with_suffix(suffix)
        tools = Tools(encoder, stage=at("write", lambda: append(slide, slide)))
        with pytest.raises(ChangedSlideError, match="now has"):
            make(Job(find_source(slide), output, slide.name), options, tools)  # type: ignore[operator]
        assert not output.exists()


def write_mask(slide: Path) -> Path:
    path = slide.with_name("mask.json")
    square = [[0, 0], [2000, 0], [2000, 1500], [0, 1500]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [square]}))
    return path


def test_a_mask_that_changes_meanwhile_fails(slide: Path, encoder: Encoder):
    for make, options in ((compress_slide, Options(keep=8, draws=100)), (extract_slide, FeatureOptions())):
        mask, output = write_mask(slide), slide.with_suffix(".out")
        tools = Tools(encoder, stage=at("hash", partial(append, mask, mask)))
        with pytest.raises(ChangedSlideError, match=r"^mask\.json: expected a file that stays as it is .* now has"):
            make(Job(find_source(slide), output, slide.name, mask=mask), options, tools)  # type: ignore[operator]
        assert not output.exists()


def test_features_that_change_meanwhile_fail(slide: Path, encoder: Encoder):
    features = slide.with_suffix(".h5")
    extract_slide(Job(find_source(slide), features, slide.name), FeatureOptions(), Tools(encoder))
    output = slide.with_suffix(".ozx")
    tools = Tools(encoder, stage=at("hash", lambda: append(features, features)))
    with pytest.raises(ChangedSlideError, match=r"^a\.h5: expected a file that stays as it is"):
        compress_slide(
            Job(find_source(slide), output, slide.name, features=features), Options(keep=8, draws=100), tools
        )
    assert not output.exists()


class Mute:
    def stage(self, _name: str) -> None: ...

    def progress(self, _done: int, _total: int) -> None: ...


def test_a_slide_that_changed_since_it_was_planned_is_hashed_again(slide: Path, encoder: Encoder, tmp_path: Path):
    """Planning hashes slides that already have a summary; the process that makes it gets that source."""
    source = find_source(slide)
    planned = source.sha256
    append(slide, slide)
    setup = Setup(Options(keep=8, draws=100), "texture", "cpu", 1, tmp_path)
    job = Job(source, tmp_path / "a.ozx", slide.name)
    outcome = make_product("a.svs", job, setup, encoder, NO_MODELS, Mute())  # type: ignore[arg-type]
    assert outcome.status == "written", outcome.message
    assert outcome.sha256 == find_source(slide).sha256 != planned


# --- where the patches of given features lie


ISLAND = (512, 384, 1536, 1152)  # left, upper, right, lower


@pytest.fixture(scope="module")
def island(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tissue in the middle of glass."""
    left, upper, right, lower = ISLAND
    image = np.full((1536, 2048, 3), 243, np.uint8)
    image[upper:lower, left:right] = draw_tissue(2048, 1536, 3, kinds=("tumour",))[upper:lower, left:right]
    path = tmp_path_factory.mktemp("island") / "a.svs"
    write_svs(path, image, tile=256)
    return path


def remarks_of(slide: Path, coords: np.ndarray, encoder: Encoder, tmp_path: Path, mask: bool = False) -> str:
    """What is said of a summary of given features, of patches of 128 px."""
    features = np.random.default_rng(0).normal(size=(len(coords), 16)).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["coords"] = features, coords
        file["coords"].attrs["patch_size_level0"] = 128
    given = tmp_path / "all.png"
    if mask:
        Image.new("L", (512, 384), 255).save(given)
    job = Job(find_source(slide), tmp_path / "a.ozx", "a.svs", mask=given if mask else None, features=tmp_path / "a.h5")
    compress_slide(job, Options(keep=8, draws=100), Tools(encoder))
    with open_summary(tmp_path / "a.ozx") as summary:
        return remarks(summary.record)


def over_island(step: int = 128) -> np.ndarray:
    left, upper, right, lower = ISLAND
    return np.array([(x, y) for y in range(upper, lower, step) for x in range(left, right, step)])


def test_centres_are_noted_where_a_mask_says_what_tissue_is(island: Path, encoder: Encoder, tmp_path: Path):
    assert remarks_of(island, over_island(), encoder, tmp_path, mask=True).count("contradicts") == 0
    found = remarks_of(island, over_island() + 64, encoder, tmp_path, mask=True)
    assert "tissue found without the mask contradicts the given features: expected the upper left" in found
    with pytest.raises(FeaturesError, match="seem to be centres"):
        remarks_of(island, over_island() + 64, encoder, tmp_path)


def test_rows_that_were_left_out_are_counted_in_the_remarks(island: Path, encoder: Encoder, tmp_path: Path):
    beyond = np.array([(1984, 700)])
    found = remarks_of(island, np.concatenate([over_island(), beyond]), encoder, tmp_path)
    assert "1 row of the given features left out: augmented, or of a patch that reaches beyond the slide" in found
    assert "if their coords were centres; are they?" in found
    assert "left out" not in remarks_of(island, over_island(), encoder, tmp_path)
