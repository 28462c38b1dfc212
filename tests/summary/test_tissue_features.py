"""Features of all tissue in a few bytes a patch: what they keep, who reads them, and how lies about them come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from draw import draw_tissue, write_svs
from hypothesis import given, settings
from hypothesis import strategies as st
from running import wsisum
from schema import VALIDATOR
from summaries import LENIENT, shipped_encoder, sign_again, unpack, write_tiny

from wsisum_cli.archive.plan import changed_options
from wsisum_cli.errors import FeaturesError, SummaryError, UsageError
from wsisum_cli.exports.export import export_summary
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.features.encode import read_features
from wsisum_cli.features.h5 import LOSS, read_feature_file
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.extract import FeatureOptions, extract_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.reembed import write_unpacked_features
from wsisum_cli.pipeline.trim import trim_summary
from wsisum_cli.slides.slide import open_slide
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.arrays import encode_array
from wsisum_cli.summary.extras.tissue_features import (
    LEAST,
    MOST,
    TISSUE_FEATURES,
    encode_packed,
    join_packed,
    losses,
    pack_features,
    packed_bytes,
)
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.verification.content import cosines
from wsisum_cli.verification.verify import verify_summary

BYTES = 24


def drawn_features(count: int, dims: int, seed: int = 0) -> np.ndarray:
    """(N, D) float32 whose variance falls from one direction to the next, as that of encoders does."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(dims, dims)))[0]
    spread = 1 / (1 + np.arange(dims))
    return np.asarray((rng.normal(size=(count, dims)) * spread) @ turn + rng.normal(size=dims), np.float32)


# ------------------------------------------------------------------------------------------------------- packing


def test_more_bytes_lose_less_and_none_is_exceeded():
    features = drawn_features(600, 96)
    mean = features.mean(axis=0)
    before = 0.0
    for most in (4, 8, 16, 32, 64):
        packed = pack_features(features, most)
        assert packed_bytes(packed) <= most * len(features)
        assert packed_bytes(packed) > 0.85 * most * len(features)
        found = losses(features, packed, mean)
        np.testing.assert_allclose(found, cosines(features, packed.unpack(mean)), atol=1e-6)
        assert found.mean() > before
        before = float(found.mean())
    assert before > 0.998
    np.testing.assert_allclose(packed.unpack(mean, np.array([5, 2])), packed.unpack(mean)[[5, 2]], rtol=1e-4)


@given(
    count=st.integers(1, 40), dims=st.integers(1, 30), scale=st.sampled_from([1e-6, 1.0, 3e4]), most=st.integers(4, 64)
)
@settings(max_examples=25, deadline=None)
def test_any_features_are_packed(count: int, dims: int, scale: float, most: int):
    features = np.random.default_rng(count).normal(size=(count, dims)).astype(np.float32) * np.float32(scale)
    packed = pack_features(features, most)
    assert np.isfinite(packed.unpack(features.mean(axis=0))).all()
    again = pack_features(features, most)
    assert encode_packed(again) == encode_packed(packed)
    assert packed.codes.shape == (len(packed.scale), count)
    assert join_packed(packed.codes, packed.basis, packed.scale, count, dims) == packed
    with pytest.raises(ValueError, match="has arrays of"):
        join_packed(packed.codes, packed.basis, packed.scale, count + 1, dims)


def test_patches_that_are_all_alike_cost_nothing():
    features = np.tile(drawn_features(1, 16), (50, 1))
    packed = pack_features(features, 8)
    assert not packed.codes.any()
    np.testing.assert_allclose(packed.unpack(features[0]), features, rtol=1e-6)


@pytest.mark.parametrize("most", [LEAST - 1, MOST + 1])
def test_numbers_of_bytes_that_cannot_be_are_refused(most: int):
    with pytest.raises(UsageError, match=f"expected {LEAST} to {MOST} bytes a patch, found {most}"):
        pack_features(drawn_features(5, 4), most)


# ---------------------------------------------------------------------------------------------------- in summaries


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("drawn")
    write_svs(found / "B12.svs", draw_tissue(3000, 2500, 3))
    compress(found, "source.ozx", pixels="source", tissue_features=BYTES)
    compress(found, "jpeg.ozx", pixels="jpeg", tissue_features=BYTES)
    compress(found, "without.ozx", pixels="source")
    extract_slide(Job(find_source(found / "B12.svs"), found / "true.h5", "B12"), FeatureOptions(), tools())
    return found


def tools() -> Tools:
    return Tools(shipped_encoder())


def compress(folder: Path, name: str, **options: Any) -> None:
    job = Job(find_source(folder / "B12.svs"), folder / name, "B12.svs")
    compress_slide(job, Options(keep=8, thresholds=LENIENT, **options), tools())


@pytest.mark.parametrize("mode", ["source", "jpeg"])
def test_a_summary_gives_features_of_all_tissue(folder: Path, mode: str):
    with open_summary(folder / f"{mode}.ozx") as summary:
        VALIDATOR.validate(summary.attributes)
        stated, found = summary.record.tissue_features, summary.tissue_features
        assert stated is not None
        assert found is not None
        assert summary.record.options.tissue_features == stated.bytes == BYTES
        assert found.shape == (summary.record.tissue_patches, shipped_encoder().card.dims)
        size = summary.members[f"{TISSUE_FEATURES}/codes/c/0/0"].size
        assert size <= BYTES * len(found)
        assert stated.cosine_min <= stated.cosine_p05 <= stated.cosine_mean
        if mode == "jpeg":  # whose grid is that of `features`
            true = read_feature_file(folder / "true.h5")
            np.testing.assert_array_equal(true.coords, summary.tissue.coords)
            assert cosines(true.features, found).mean() == pytest.approx(stated.cosine_mean, abs=1e-4)
    for tier, source in (("full", None), ("source", folder / "B12.svs")):
        done = verify_summary(folder / f"{mode}.ozx", lambda card: shipped_encoder(), tier, source)
        assert not done.findings
    assert done.measured["source_tissue_features"] == pytest.approx(stated.cosine_mean, abs=1e-4)
    assert done.measured["tissue_features_kept"] > 0.9


def test_all_else_stays_the_same(folder: Path):
    with open_summary(folder / "source.ozx") as packed, open_summary(folder / "without.ozx") as without:
        assert without.tissue_features is None
        assert "tissue_features" not in without.attributes
        assert "tissue_features" not in without.attributes["options"]
        assert {name for name in packed.members if not name.startswith(TISSUE_FEATURES)} == set(without.members)
        assert all(packed.read(name) == without.read(name) for name in without.members if name != "zarr.json")


def test_trimming_keeps_them(folder: Path, tmp_path: Path):
    trim_summary(folder / "source.ozx", tmp_path / "cut.ozx", 3)
    with open_summary(folder / "source.ozx") as before, open_summary(tmp_path / "cut.ozx") as after:
        np.testing.assert_array_equal(before.tissue_features, after.tissue_features)
        assert before.record.tissue_features == after.record.tissue_features
    assert not verify_summary(tmp_path / "cut.ozx", lambda card: shipped_encoder()).findings


def forged(folder: Path, place: Path, change: Any = lambda attributes: None, **arrays: np.ndarray) -> list[str]:
    """The messages of errors in the summary with other arrays or attributes, under checksums that fit."""
    members = unpack(folder / "source.ozx")
    for name, values in arrays.items():
        members |= encode_array(f"{TISSUE_FEATURES}/{name}", values, ["component", "other"][: values.ndim])
    sign_again(place, members, change)
    found = verify_summary(place, lambda card: shipped_encoder(), "source", folder / "B12.svs")
    return [finding.message for finding in found.findings if finding.severity == "error"]


def test_lies_about_them_are_found(folder: Path, tmp_path: Path):
    with open_summary(folder / "source.ozx") as summary:
        packed = summary.packed_features
    assert packed is not None
    place = tmp_path / "x.ozx"
    assert forged(folder, place) == []

    def words(found: list[str]) -> str:
        return "; ".join(found)

    assert "packed features of patch" in words(forged(folder, place, codes=-packed.codes))
    endless = np.full_like(packed.scale, np.inf)
    assert "values of tissue_features/scale are impossible" in words(forged(folder, place, scale=endless))
    assert "codes cannot be decoded: expected" in words(forged(folder, place, codes=packed.codes[:, 1:]))
    assert "basis cannot be decoded: expected" in words(forged(folder, place, basis=packed.basis[:, 1:]))
    better = forged(folder, place, lambda a: a["tissue_features"].update(cosine_mean=0.96))
    assert "packed features of all tissue differ from the slide's" in words(better)
    with open_summary(folder / "source.ozx") as summary:
        kept = set(map(tuple, summary.coords.tolist()))
        others = [row for row, at in enumerate(summary.tissue.coords.tolist()) if tuple(at) not in kept]
    codes = packed.codes.copy()
    codes[:, others] = 0
    assert "packed features of all tissue differ from the slide's" in words(forged(folder, place, codes=codes))


# --------------------------------------------------------------------------------------------------- who reads them


def test_an_h5_of_all_tissue_says_what_was_lost(folder: Path, tmp_path: Path):
    done = write_unpacked_features(folder / "jpeg.ozx", tmp_path / "B12.h5", FeatureOptions())
    export_summary(folder / "jpeg.ozx", tmp_path / "same.h5", TARGETS["h5"], ExportOptions(name="B12", tissue=True))
    assert (tmp_path / "same.h5").read_bytes() == (tmp_path / "B12.h5").read_bytes()
    file = read_feature_file(tmp_path / "B12.h5")  # which refuses those of kept patches
    with open_summary(folder / "jpeg.ozx") as summary, h5py.File(tmp_path / "B12.h5") as h5:
        np.testing.assert_array_equal(file.features, summary.tissue_features)
        np.testing.assert_array_equal(file.coords, summary.tissue.coords)
        assert done.patches == len(file.features)
        assert summary.record.tissue_features is not None
        assert h5.attrs[LOSS] == summary.record.tissue_features.cosine_mean
        assert "These are not the features that the encoder gave" in h5.attrs["wsisum"]
    with open_slide(folder / "B12.svs") as slide:
        given_features = read_features(tmp_path / "B12.h5", slide)
    assert "unpacked from a summary: mean cosine to the true ones " in given_features.notes[0]


def test_a_summary_without_them_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(
        SummaryError, match="features of its kept patches alone; compress the slide with --tissue-features"
    ):
        write_unpacked_features(folder / "without.ozx", tmp_path / "x.h5", FeatureOptions())
    assert not list(tmp_path.iterdir())


def test_evaluation_takes_summaries_that_have_them(folder: Path, tmp_path: Path):
    pytest.importorskip("torch")
    from wsisum_cli.evaluation.arms import ALL, Slide, find_slides, read_bags

    for name in ("a/B12.ozx", "C3.ozx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((folder / "jpeg.ozx").read_bytes())
    files = find_slides([tmp_path])
    assert list(files) == ["B12", "C3"]
    lost: list[float] = []
    bags = read_bags(["B12", "C3"], files, [ALL], {}, losses=lost)[ALL.name]
    true = read_feature_file(folder / "true.h5")
    assert cosines(bags[0].mean[None], true.features.mean(axis=0)[None])[0] > 0.9999
    assert len(lost) == 2
    assert 0.9 < lost[0] <= 1
    assert find_slides([folder])["true"] == folder / "true.h5"  # h5 files come first
    with pytest.raises(FeaturesError, match="expected those of all tissue"):
        Slide(folder / "without.ozx", None, 0)
    with pytest.raises(FeaturesError, match="expected features of 7 numbers"):
        Slide(folder / "jpeg.ozx", 7, 0)


def test_slides_are_made_again_when_the_bytes_change(folder: Path):
    def reasons(name: str, wanted: int | None) -> list[str]:
        class Wanted:
            options = Options(keep=8, pixels="source", tissue_features=wanted)

        request: Any = Wanted()
        job = Job(find_source(folder / "B12.svs"), folder / name, "B12.svs")
        with open_summary(folder / name) as summary:
            return changed_options(request, job, summary.record)

    assert reasons("source.ozx", BYTES) == reasons("without.ozx", None) == []
    assert reasons("source.ozx", 64) == [f"tissue-features {BYTES} -> 64"]
    assert reasons("source.ozx", None) == [f"tissue-features {BYTES} -> default"]
    assert reasons("without.ozx", 64) == ["tissue-features default -> 64"]


def test_older_files_have_none(tmp_path: Path):
    with open_summary(write_tiny(tmp_path / "tiny.ozx")) as summary:
        assert isinstance(summary, Summary)
        assert (summary.tissue_features, summary.packed_features, summary.reembedded) == (None, None, ())


def test_the_commands(folder: Path, tmp_path: Path):
    done = wsisum("features", folder / "jpeg.ozx", "-o", tmp_path / "a.h5", "--tissue", "--precision", "float16")
    assert done.returncode == 0, done.stderr
    done = wsisum("export", folder / "jpeg.ozx", "--to", "h5", "--tissue", "-o", tmp_path / "b.h5")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "a.h5") as half, h5py.File(tmp_path / "b.h5") as single:
        np.testing.assert_array_equal(half["features"][:], single["features"][:].astype(np.float16))
    shown = wsisum("inspect", folder / "jpeg.ozx").stdout
    assert f"of all tissue in {BYTES} bytes a patch; mean cosine to the true ones" in " ".join(shown.split())
    for arguments, words in (
        (("features", folder / "B12.svs", "--tissue", "-o", tmp_path / "x"), "--tissue is for summaries"),
        (("export", folder / "jpeg.ozx", "--to", "zarr", "--tissue"), "--tissue belongs to --to h5"),
    ):
        done = wsisum(*arguments)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
