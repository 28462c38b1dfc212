"""Summaries cut down to the patches that were picked first, without the slide."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from draw import draw_tissue, write_svs
from running import wsisum
from schema import VALIDATOR
from summaries import LENIENT, shipped_models_like, sign_again, tiny_models, unpack, write_tiny

from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.models.choice import NO_MODELS, SlideModels
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.trim import outputs_of, trim_summary
from wsisum_cli.quality.verdict import VERDICTS
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.verification.appraisal import ModelFinders
from wsisum_cli.verification.verify import verify_summary

MOST, FEWER = 20, 9


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("texture", "cpu")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "drawn.svs"
    write_svs(path, draw_tissue(4200, 3600, seed=4), tile=256)
    return path


@pytest.fixture(scope="module")
def made(slide: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """Summaries of the slide by mode of pixels and number of patches."""
    folder = tmp_path_factory.mktemp("made")
    wanted = [(mode, keep) for mode in ("source", "jpeg") for keep in (MOST, FEWER)]
    return {
        (mode, keep): summarize(slide, folder / f"{mode}{keep}.ozx", encoder, keep=keep, pixels=mode)
        for mode, keep in wanted
    }


def summarize(slide: Path, output: Path, encoder: Encoder, models: SlideModels = NO_MODELS, **options: Any) -> Path:
    wanted = Options(draws=100, thresholds=LENIENT, **options)
    job = Job(find_source(slide), output, slide.name, mpp=0.25)
    compress_slide(job, wanted, Tools(encoder, 2, models=models))
    return output


def same_as_compressed(trimmed: Path, compressed: Path, features_too: bool) -> None:
    """What is cut down is what would have been made; `features_too` where no pixels were encoded anew."""
    with open_summary(trimmed) as a, open_summary(compressed) as b:
        np.testing.assert_array_equal(a.coords, b.coords)
        np.testing.assert_array_equal(a.features, b.features)
        np.testing.assert_array_equal(a.cluster, b.cluster)
        assert [a.patches.shard.stream(i) for i in range(len(a.patches.shard))] == [
            b.patches.shard.stream(i) for i in range(len(b.patches.shard))
        ]
        if features_too:
            np.testing.assert_array_equal(a.tissue.representative, b.tissue.representative)
            np.testing.assert_array_equal(a.counts, b.counts)
            np.testing.assert_allclose(a.tissue.similarity, b.tissue.similarity, atol=2**-10)
            np.testing.assert_allclose(a.weights, b.weights, atol=1e-6)
            assert a.attributes["quality"]["coverage"] == pytest.approx(b.attributes["quality"]["coverage"], abs=1e-3)
        assert a.attributes["pixels"].get("tiles") == b.attributes["pixels"].get("tiles")


@pytest.mark.parametrize("mode", ["source", "jpeg"])
def test_trimmed_summary_equals_one_made_with_fewer_patches(made, slide, encoder, tmp_path, mode):
    done = trim_summary(made[mode, MOST], tmp_path / "a.ozx", FEWER)
    assert (done.patches, done.trimmed_from) == (FEWER, MOST)
    assert done.bytes_out < done.bytes_in
    same_as_compressed(tmp_path / "a.ozx", made[mode, FEWER], mode == "source")
    for tier, source in (("full", None), ("source", slide)):
        found = verify_summary(tmp_path / "a.ozx", lambda card: encoder, tier, source)
        assert found.ok, found.findings
    with open_summary(tmp_path / "a.ozx") as summary, open_summary(made[mode, MOST]) as before:
        VALIDATOR.validate(summary.attributes)
        assert summary.attributes["trimmed_from"] == MOST
        assert summary.attributes["draws"]["keep"] == [1, 2, 4, 8, 12]
        assert summary.attributes["options"] == before.attributes["options"]
        kept = ("overview", "0/", "reference/mean", "tissue/coords")
        for name in summary.members:
            if name.startswith(kept):
                assert summary.read(name) == before.read(name)


def test_trimming_never_improves_verdict_or_represented_tissue(made, tmp_path):
    shares, places = [], []
    for keep in range(MOST, 0, -3):
        done = trim_summary(made["jpeg", MOST], tmp_path / "a.ozx", keep, force=True)
        shares.append(done.represented)
        places.append(VERDICTS.index(done.verdict))
        with open_summary(tmp_path / "a.ozx") as trimmed, open_summary(made["jpeg", MOST]) as before:
            assert trimmed.record.represented is not None
            assert before.record.represented is not None
            assert trimmed.record.represented.cosine == before.record.represented.cosine
    assert shares == sorted(shares, reverse=True)
    assert places == sorted(places)


@pytest.mark.parametrize("mode", ["source", "jpeg"])
def test_trimming_twice_equals_trimming_once(made, tmp_path, mode):
    trim_summary(made[mode, MOST], tmp_path / "a.ozx", 5)
    trim_summary(made[mode, MOST], tmp_path / "b.ozx", 13)
    trim_summary(tmp_path / "b.ozx", tmp_path / "c.ozx", 5)
    trim_summary(tmp_path / "c.ozx", tmp_path / "d.ozx", 5)
    assert (tmp_path / "a.ozx").read_bytes() == (tmp_path / "c.ozx").read_bytes()
    assert (tmp_path / "d.ozx").read_bytes() == (tmp_path / "c.ozx").read_bytes()


def test_summary_without_more_patches_is_copied(made, tmp_path):
    done = trim_summary(made["source", FEWER], tmp_path / "a.ozx", 64)
    assert (tmp_path / "a.ozx").read_bytes() == made["source", FEWER].read_bytes()
    assert (done.patches, done.trimmed_from) == (FEWER, None)


def test_trimming_in_place_reports_the_old_size(made, tmp_path):
    path = tmp_path / "a.ozx"
    path.write_bytes(made["source", MOST].read_bytes())
    done = trim_summary(path, path, FEWER, force=True)
    assert (done.bytes_in, done.trimmed_from) == (made["source", MOST].stat().st_size, MOST)
    again = trim_summary(path, path, FEWER, force=True)
    assert (again.bytes_in, again.bytes_out, again.trimmed_from) == (done.bytes_out, done.bytes_out, None)


@pytest.mark.parametrize("keep", [1, 2, 7])
@pytest.mark.parametrize("mode", ["jpeg", "source", "models"])
def test_tiny_summary_trims_to_any_size(tmp_path, mode, keep):
    models = tiny_models() if mode == "models" else NO_MODELS
    write_tiny(tmp_path / "tiny.ozx", mode)
    found = ModelFinders(summarizer=lambda card: models.summarizer, slide_encoder=lambda card: models.slide_encoder)
    trim_summary(tmp_path / "tiny.ozx", tmp_path / "a.ozx", keep, found)
    with open_summary(tmp_path / "tiny.ozx") as before, open_summary(tmp_path / "a.ozx") as after:
        assert len(after.patches) == len(after.weights) == keep
        np.testing.assert_array_equal(after.patches[keep - 1], before.patches[keep - 1])
        assert after.weights.sum() == pytest.approx(1)
        quality = after.attributes["quality"]
        assert quality["reconstruction"] is None
        assert (quality["embedding_cosine"] is None, quality["slide_cosine"] is None) == (mode != "models",) * 2
    again = verify_summary(tmp_path / "a.ozx", found.encoder, "full", None, 1, found.summarizer, found.slide_encoder)
    assert not [finding for finding in again.findings if finding.severity != "info"]


def test_figures_of_missing_models_are_null(slide, encoder, tmp_path):
    models = shipped_models_like()
    summarize(slide, tmp_path / "models.ozx", encoder, models, keep=12)
    trim_summary(tmp_path / "models.ozx", tmp_path / "a.ozx", 6)
    with open_summary(tmp_path / "a.ozx") as summary:
        about = summary.attributes
        VALIDATOR.validate(about)
    assert (about["quality"]["embedding_cosine"], about["quality"]["slide_cosine"]) == (None, None)
    assert about["draws"]["models"] == []
    at_hand = (lambda card: models.summarizer, lambda card: models.slide_encoder)
    for tier, source in (("full", None), ("source", slide)):
        found = verify_summary(tmp_path / "a.ozx", lambda card: encoder, tier, source, 1, *at_hand)
        assert found.ok, found.findings
        assert "embedding_cosine" in found.measured
    assert wsisum("inspect", tmp_path / "a.ozx").returncode == 0


def test_target_is_rechecked(slide, encoder, tmp_path):
    summarize(slide, tmp_path / "a.ozx", encoder, target=0.999)
    trim_summary(tmp_path / "a.ozx", tmp_path / "b.ozx", 1)
    with open_summary(tmp_path / "a.ozx") as before, open_summary(tmp_path / "b.ozx") as after:
        assert (before.attributes["target_reached"], after.attributes["target_reached"]) == (True, False)
        assert after.attributes["bound"] == before.attributes["bound"]


# -- what cannot be cut --------------------------------------------------------------------------------------


def test_existing_output_needs_force(made, tmp_path):
    (tmp_path / "a.ozx").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"a\.ozx already exists; use --force to replace it"):
        trim_summary(made["source", MOST], tmp_path / "a.ozx", 4)
    assert (tmp_path / "a.ozx").read_bytes() == b"mine"
    trim_summary(made["source", MOST], tmp_path / "a.ozx", 4, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ozx"]


def test_damaged_summary_is_not_trimmed(made, tmp_path):
    data = bytearray(made["jpeg", MOST].read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.ozx").write_bytes(data)
    with pytest.raises(SummaryError, match=r"^a\.ozx: .*damaged, .*wsisum verify"):
        trim_summary(tmp_path / "a.ozx", tmp_path / "out" / "b.ozx", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ozx"]


def test_older_format_is_not_trimmed(tmp_path):
    def age(about: dict[str, Any]) -> None:
        about["migrated_from"] = "1.1"

    tiny = write_tiny(tmp_path / "tiny.ozx")
    sign_again(tmp_path / "old.ozx", unpack(tiny), age)
    with pytest.raises(SummaryError, match=r"^old\.ozx: expected format 1\.2 or later, found 1\.1, .*compress"):
        trim_summary(tmp_path / "old.ozx", tmp_path / "a.ozx", 4)


def test_outputs_that_collide_are_refused(tmp_path):
    a, b = tmp_path / "x" / "a.ozx", tmp_path / "y" / "a.ozx"
    assert outputs_of({a: Path("a.ozx")}, tmp_path / "b.ozx") == {a: tmp_path / "b.ozx"}
    assert outputs_of({a: Path("x/a.ozx")}, tmp_path) == {a: tmp_path / "x" / "a.ozx"}
    with pytest.raises(UsageError, match=r"b\.ozx: expected a folder for 2 summaries"):
        outputs_of({a: Path("x/a.ozx"), b: Path("y/a.ozx")}, tmp_path / "b.ozx")
    with pytest.raises(UsageError, match="share one output"):
        outputs_of({a: Path("a.ozx"), b: Path("a.ozx")}, tmp_path)


def test_folder_holding_only_outputs_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ozx").write_bytes(made["source", FEWER].read_bytes())
    done = wsisum("trim", ".", "--keep", 4, "-o", "in")
    assert (done.returncode, done.stdout) == (2, "")
    assert "all its summaries lie in the output folder in; choose another --output" in done.stderr


def test_command_mirrors_folders_and_names_failures(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a.ozx").write_bytes(made["source", MOST].read_bytes())
    (tmp_path / "in" / "b.ozx").write_bytes(b"none")
    done = wsisum("trim", "in", "--keep", 4, "--json")
    assert done.returncode == 1
    assert "b.ozx" in done.stderr
    rows = json.loads(done.stdout)
    assert [(row["name"], row["patches"], row["trimmed_from"]) for row in rows] == [("a.ozx", 4, MOST)]
    assert [path.name for path in (tmp_path / "trimmed").rglob("*.ozx")] == ["a.ozx"]
    assert wsisum("trim", ".", "--keep", 4, "--force").returncode == 1  # b.ozx again
    assert not (tmp_path / "trimmed" / "trimmed").exists()  # what was made is not cut again
    shutil.rmtree(tmp_path / "trimmed" / "in")
    again = wsisum("trim", "in/deep/a.ozx", "--keep", 4, "-o", "trimmed/deep")
    assert again.returncode == 2
    assert "already exists" in again.stderr
    single = wsisum("trim", "in/deep/a.ozx", "--keep", 4, "-o", "one.ozx")
    assert (single.returncode, "4 patches of 20" in single.stdout) == (0, True)
    assert (tmp_path / "one.ozx").read_bytes() == (tmp_path / "trimmed" / "deep" / "a.ozx").read_bytes()


def test_trimmed_real_slide_equals_one_made_with_fewer_patches(shared, encoder, tmp_path):
    slide = shared / "slides" / "stomach" / "stomach-metaplasia.svs"
    for keep in (32, 12):
        summarize(slide, tmp_path / f"{keep}.ozx", encoder, keep=keep)
    trim_summary(tmp_path / "32.ozx", tmp_path / "a.ozx", 12)
    same_as_compressed(tmp_path / "a.ozx", tmp_path / "12.ozx", features_too=True)
    assert verify_summary(tmp_path / "a.ozx", lambda card: encoder, "source", slide).ok
