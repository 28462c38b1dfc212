"""All checks together, and trials that take their process down."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from wsisum_cli.archive.health import check as check_room
from wsisum_cli.archive.health import checkup
from wsisum_cli.archive.health.check import Apart
from wsisum_cli.archive.health.checkup import check_codecs, check_models, check_readers, check_versions
from wsisum_cli.models.places import shipped_models
from wsisum_cli.models.session import CPU, try_provider


def die(_name: str) -> str | None:
    os._exit(3)


def sleep(name: str) -> str | None:
    time.sleep(float(name))
    return None


def test_a_trial_that_dies_or_hangs_is_an_answer(monkeypatch: pytest.MonkeyPatch):
    with Apart() as apart:
        assert apart(try_provider, CPU) is None
        assert apart(die, "") == "it takes its process down"
        monkeypatch.setattr(check_room, "LONGEST", 0.5)
        assert apart(sleep, "60") == "it does not answer within 0 s"
        monkeypatch.setattr(check_room, "LONGEST", 60.0)
        assert apart(sleep, "0") is None


def in_this_process(trial, name: str) -> str | None:
    return trial(name)


def test_every_codec_of_this_machine_decodes_its_sample():
    found = {check.name: check for check in check_codecs(in_this_process)}  # type: ignore[arg-type]
    assert {"JPEG", "JPEG 2000", "WebP", "LZW", "Deflate", "Zstandard", "JPEG-LS", "JPEG XL"} <= set(found)
    assert {check.state for check in found.values()} == {"ok"}


def test_a_missing_codec_is_a_problem_where_slides_use_it(monkeypatch: pytest.MonkeyPatch):
    def missing() -> None:
        raise ImportError("could not import name 'jpeg2k_decode'")

    for name in ("JPEG 2000", "JPEG XL"):
        monkeypatch.setitem(checkup.CODECS, name, missing)  # type: ignore[arg-type]
    found = {check.name: check for check in check_codecs(in_this_process)}  # type: ignore[arg-type]
    assert (found["JPEG 2000"].state, found["JPEG XL"].state) == ("problem", "warning")
    assert "jpeg2k_decode" in found["JPEG 2000"].found
    assert found["JPEG 2000"].advice


def test_readers_that_are_extras_may_be_missing(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("pylibCZIrw", "pydicom")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith(("wsisum_cli.slides.czi", "wsisum_cli.slides.dicom"))]:
        monkeypatch.delitem(sys.modules, name)  # imported by an earlier test
    monkeypatch.setitem(sys.modules, "pylibCZIrw", None)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    found = {check.name: check for check in check_readers(in_this_process)}  # type: ignore[arg-type]
    assert (found["CZI"].state, found["DICOM"].state, found["OpenSlide"].state) == ("ok", "problem", "ok")
    assert "wsisum[czi]" in found["CZI"].found


def test_two_runtimes_are_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkup, "installed", lambda package: "1.0")
    found = {check.name: check for check in check_versions()}
    assert found["onnxruntime"].state == "problem"
    assert "overwrite each other" in found["onnxruntime"].found
    monkeypatch.setattr(checkup, "installed", lambda package: None)
    found = {check.name: check for check in check_versions()}
    assert (found["onnxruntime"].state, found["numpy"].state) == ("problem", "warning")


def test_a_changed_model_is_a_problem(tmp_path: Path):
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copyfile(shipped_models()["texture"], folder / "mine.onnx")
    (folder / "added.json").write_text('{"files": {"mine.onnx": "' + "0" * 64 + '"}}')
    found = {check.name: check for check in check_models(tmp_path)}
    assert found["mine"].state == "problem"
    assert "expected sha256 0000" in found["mine"].found
    assert "wsisum models add --force" in found["mine"].advice
    assert found["texture"].state == "ok"
