"""Features by another encoder, from stored pixels alone: the same as from the slide, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from records import ENCODER
from running import wsisum
from schema import VALIDATOR
from summaries import STUB, compress_drawn, shipped_encoder, sign_again, unpack, write_tiny

from wsisum_cli.errors import FeaturesError, SummaryError, UsageError
from wsisum_cli.features.encode import encode_patches
from wsisum_cli.features.h5 import read_feature_file
from wsisum_cli.features.vectors import as_half
from wsisum_cli.models.card import Card
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.pipeline.extract import FeatureOptions
from wsisum_cli.pipeline.reembed import reembed_summary, write_kept_features
from wsisum_cli.pipeline.trim import trim_summary
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import plan_reading, read_patches
from wsisum_cli.slides.slide import open_slide
from wsisum_cli.summary.extras.views import plan_view, viewed_patches
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.verification.content import cosines
from wsisum_cli.verification.verify import verify_summary

MODES = ("source", "jpeg")


class Stub:
    """Mean and spread of the colours of a patch; at any size and pixel size."""

    provider = "CPUExecutionProvider"
    batch_size = 3

    def __init__(self, patch_size: int, mpp: float, name: str = "other", tolerance: float = 0.1) -> None:
        sizes = {"name": name, "patch_size": patch_size, "mpp": mpp, "mpp_tolerance": tolerance}
        self.card = Card.model_validate({**ENCODER, **sizes, "dims": 6, "sha256": f"{len(name):02x}" * 32})

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        assert pixels.shape[1:] == (self.card.patch_size, self.card.patch_size, 3)
        flat = pixels.reshape(len(pixels), -1, 3).astype(np.float32)
        return np.concatenate([flat.mean(axis=1), flat.std(axis=1)], axis=1)


def stub(*arguments: Any, **more: Any) -> Any:
    return Stub(*arguments, **more)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A slide and summaries of it by `texture`."""
    return compress_drawn(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def other() -> Encoder:
    return load_encoder("encoder", "cpu")


def from_slide(slide: Path, summary: Path, encoder: Encoder) -> np.ndarray:
    """Features of the kept patches as `compress` computes them from the slide."""
    with open_summary(summary) as opened, open_slide(slide) as read:
        size, card = opened.record.patch.patch_size_level0, encoder.card
        reading = plan_reading(read.levels, size, card.patch_size, card.mpp_tolerance)
        return encode_patches(read.pyramid, opened.coords, reading, encoder, Damage())[0]


@pytest.mark.parametrize("name", ["texture", "encoder"])
@pytest.mark.parametrize("mode", MODES)
def test_features_equal_those_that_compress_stores(drawn, other, tmp_path, mode, name):
    encoder = shipped_encoder() if name == "texture" else other
    write_kept_features(drawn[mode], tmp_path / "x.h5", encoder, FeatureOptions(precision="float16"))
    with h5py.File(tmp_path / "x.h5") as file, open_summary(drawn[mode]) as summary:
        found = file["features"][:]
        if name == "texture":  # which made the summary
            np.testing.assert_array_equal(found, summary.features)
        loss = summary.attributes["pixels"].get("feature_cosine_min", 1.0)
    wanted = as_half(from_slide(drawn["slide"], drawn[mode], encoder))
    if mode == "source":
        np.testing.assert_array_equal(found, wanted)
    else:
        assert cosines(found, wanted).min() > (loss - 1e-5 if name == "texture" else 0.98)


def test_finer_pixels_come_from_the_stored_tiles(drawn):
    finer = stub(512, 0.25)
    with open_summary(drawn["source"]) as summary, open_slide(drawn["slide"]) as slide:
        assert summary.record.patch.reading.shrink == 2
        view = plan_view(summary, finer.card)
        reading = plan_reading(slide.levels, summary.record.patch.patch_size_level0, 512, 0.1)
        assert view.reading == reading
        for rows, patches in read_patches(slide.pyramid, summary.coords, reading, Damage()):
            stored = list(viewed_patches(summary, view))
            for row, patch in zip(rows.tolist(), patches, strict=True):
                np.testing.assert_array_equal(stored[row], patch)


def test_pixels_that_are_too_coarse_are_refused(drawn):
    with open_summary(drawn["jpeg"]) as summary, pytest.raises(SummaryError) as caught:
        plan_view(summary, stub(512, 0.25).card)
    assert "its pixels are stored at 0.5 µm, expected 0.275 µm or finer for other" in str(caught.value)
    with open_summary(drawn["source"]) as summary, pytest.raises(SummaryError, match=r"stored at 0\.25 µm"):
        plan_view(summary, stub(1024, 0.125).card)


@pytest.mark.parametrize("mode", MODES)
def test_patches_of_another_width_are_refused(drawn, tmp_path, mode):
    wide = 120 if mode == "source" else 128  # µm: the patches of one lie on the slide's tiles
    with pytest.raises(SummaryError) as caught:
        reembed_summary(drawn[mode], tmp_path / "x.ozx", stub(160, 0.5))
    assert f"its patches are {wide} µm wide, expected 80 µm for other (160 px at 0.5 µm)" in str(caught.value)
    assert not list(tmp_path.iterdir())
    with open_summary(drawn[mode]) as summary:
        assert plan_view(summary, stub(224, 0.5, tolerance=0.15).card).mpp == pytest.approx(wide / 224)


@pytest.mark.parametrize("mode", MODES)
def test_both_sets_of_features_are_there_and_nothing_else_changed(drawn, other, tmp_path, mode):
    done = reembed_summary(drawn[mode], tmp_path / "new.ozx", other)
    assert (done.encoder, done.added, done.bytes_out) == ("encoder", True, (tmp_path / "new.ozx").stat().st_size)
    with open_summary(drawn[mode]) as before, open_summary(tmp_path / "new.ozx") as after:
        VALIDATOR.validate(after.attributes)
        assert after.reembedded[0].shape == (len(before.coords), other.card.dims)
        assert after.reembedded[0].dtype == np.float16
        np.testing.assert_array_equal(after.features, before.features)
        (entry,) = after.record.reembedded or ()
        assert (entry.encoder.sha256, entry.mpp) == (other.card.sha256, before.record.patch.mpp)
        assert (entry.reading is None) == (mode == "jpeg")
        changed = {"reembedded", "members"}
        assert {k: v for k, v in after.attributes.items() if k not in changed} == {
            k: v for k, v in before.attributes.items() if k not in changed
        }
        assert {name for name in after.members if not name.startswith("reembedded/")} == set(before.members)
        assert all(after.read(name) == before.read(name) for name in before.members if name != "zarr.json")
    both = {one.card.sha256: one for one in (shipped_encoder(), other)}
    for tier, source in (("full", None), ("source", drawn["slide"])):
        found = verify_summary(tmp_path / "new.ozx", lambda card: both[card.sha256], tier, source)
        assert found.ok, found.findings
        assert not found.findings
        assert "rest on those of all tissue by texture" in found.remarks
    found = verify_summary(tmp_path / "new.ozx", lambda card: shipped_encoder())
    assert [finding.code for finding in found.findings] == ["features-not-recomputed"]
    assert "added by encoder" in found.findings[0].message


def test_features_that_are_there_are_not_added_twice(drawn, other, tmp_path):
    reembed_summary(drawn["jpeg"], tmp_path / "new.ozx", other)
    for path, encoder in ((tmp_path / "new.ozx", other), (drawn["jpeg"], shipped_encoder())):
        done = reembed_summary(path, tmp_path / "again.ozx", encoder, force=True)
        assert not done.added
        assert (tmp_path / "again.ozx").read_bytes() == path.read_bytes()
    with pytest.raises(UsageError, match="already exists; use --force"):
        reembed_summary(drawn["jpeg"], tmp_path / "new.ozx", other)


@pytest.mark.parametrize("mode", MODES)
def test_several_encoders_in_place_then_trimmed_and_verified(tmp_path, mode):
    path = write_tiny(tmp_path / "tiny.ozx", mode)
    first, second = stub(32, 0.5, "first"), stub(16, 1.0, "second")
    for encoder in (first, second):
        reembed_summary(path, path, encoder, force=True)
    trim_summary(path, tmp_path / "cut.ozx", 3)
    known = {one.card.sha256: one for one in (first, second, STUB)}
    for place, kept in ((path, 8), (tmp_path / "cut.ozx", 3)):
        with open_summary(place) as summary:
            assert [features.shape for features in summary.reembedded] == [(kept, 6), (kept, 6)]
            assert [entry.encoder.name for entry in summary.record.reembedded or ()] == ["first", "second"]
        found = verify_summary(place, lambda card: known[card.sha256])
        assert not [finding for finding in found.findings if finding.severity != "info"]


def spoilt(path: Path, place: Path, change: Any) -> list[tuple[str, str]]:
    """The findings, without hints, on the summary with changed attributes."""
    sign_again(place, unpack(path), change)
    found = verify_summary(place, lambda card: STUB if card.sha256 == STUB.card.sha256 else stub(32, 0.5, "first"))
    return [(finding.code, finding.message) for finding in found.findings if finding.severity == "error"]


def test_verify_finds_what_is_wrong_with_added_features(tmp_path):
    path = write_tiny(tmp_path / "tiny.ozx", "source")
    reembed_summary(path, path, stub(32, 0.5, "first"), force=True)
    assert spoilt(path, tmp_path / "x.ozx", lambda a: None) == []

    def entry(attributes: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = attributes["reembedded"][0]
        return found

    def lose_licence(attributes: dict[str, Any]) -> None:
        del entry(attributes)["encoder"]["licence"]

    changes = {
        "does not say how its encoder sees": lambda a: entry(a)["reading"].update(shrink=1),
        "cannot be": lambda a: entry(a)["encoder"].update(patch_size=48),
        "card of the encoder": lambda a: entry(a)["encoder"].update(version="9"),
        "names an encoder twice": lambda a: a["reembedded"].append(entry(a)),
        "reading is there without stored tiles, or missing": lambda a: entry(a).update(reading=None),
        "reembedded.0.encoder": lose_licence,
        "cannot be decoded: expected": lambda a: entry(a)["encoder"].update(dims=7),
    }
    for words, change in changes.items():
        messages = [message for _, message in spoilt(path, tmp_path / "x.ozx", change)]
        assert any(words in message for message in messages), (words, messages)
    members = unpack(path)
    other = unpack(reembed(tmp_path, stub(32, 0.5, "third")))
    members["reembedded/0/c/0/0"] = other["reembedded/0/c/0/0"]
    sign_again(tmp_path / "x.ozx", members)
    found = verify_summary(tmp_path / "x.ozx", lambda card: STUB if card.name == "stub" else stub(32, 0.5, "first"))
    assert "features-differ" in [finding.code for finding in found.findings]


def reembed(folder: Path, encoder: Any) -> Path:
    """A tiny summary of other pixels with features by `encoder`."""

    class Brighter(Stub):
        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            return super().__call__(pixels) + 9

    brighter: Any = Brighter(encoder.card.patch_size, encoder.card.mpp, encoder.card.name)
    path = write_tiny(folder / "other.ozx", "source")
    reembed_summary(path, path, brighter, force=True)
    return path


def test_a_damaged_summary_is_refused(tmp_path):
    data = bytearray(write_tiny(tmp_path / "tiny.ozx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "tiny.ozx").write_bytes(data)
    with pytest.raises(SummaryError, match=r"tiny\.ozx: damaged, cannot be embedded again"):
        reembed_summary(tmp_path / "tiny.ozx", tmp_path / "new.ozx", stub(32, 0.5))
    assert not (tmp_path / "new.ozx").exists()


def test_training_refuses_features_of_kept_patches(drawn, other, tmp_path):
    write_kept_features(drawn["source"], tmp_path / "x.h5", other, FeatureOptions())
    with pytest.raises(FeaturesError, match="exported from a summary"):
        read_feature_file(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file, open_summary(drawn["source"]) as summary:
        about = json.loads(file.attrs["wsisum"])
        assert about["weights_rest_on"] == "texture"
        assert (about["encoder"], about["reembedded"]["encoder"]["name"]) == ("encoder", "encoder")
        assert file.attrs["encoder_sha256"] == other.card.sha256
        np.testing.assert_array_equal(file["weights"][:], summary.weights)
        np.testing.assert_array_equal(file["coords"][:], summary.coords)


def test_the_commands_take_summaries(drawn, tmp_path):
    folder = tmp_path / "summaries"
    (folder / "a").mkdir(parents=True)
    for name in ("a/B12.ozx", "C3.ozx"):
        (folder / name).write_bytes(drawn["source"].read_bytes())
    done = wsisum("reembed", folder, "-o", tmp_path / "new", "--encoder", "encoder", "--json")
    assert done.returncode == 0, done.stderr
    assert [(made["name"], made["added"]) for made in json.loads(done.stdout)] == [("C3.ozx", True), ("B12.ozx", True)]
    shown = wsisum("inspect", tmp_path / "new" / "a" / "B12.ozx")
    assert "features by encoder were added for the kept patches alone" in shown.stdout
    done = wsisum("features", folder, "-o", tmp_path / "h5", "--layout", "stamp")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "h5" / "a" / "B12.h5") as file, open_summary(tmp_path / "new/a/B12.ozx") as summary:
        np.testing.assert_array_equal(file["feats"][:].astype(np.float16), summary.reembedded[0])
    done = wsisum("features", folder, "-o", tmp_path / "h5")
    assert (done.returncode, "already exists; use --force" in done.stderr) == (2, True)
    done = wsisum("features", folder / "C3.ozx", "-o", tmp_path / "x.h5", "--mpp", "0.5")
    assert (done.returncode, "--mpp is for slides" in done.stderr) == (2, True)
