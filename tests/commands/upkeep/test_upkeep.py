"""`wsisum similar`, `duplicates` and `doctor`, from slides to exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from draw import draw_tissue, write_svs
from PIL import Image
from running import wsisum
from summaries import sign_again, unpack, write_tiny


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide, the same file again, the same glass turned and compressed anew, and another slide."""
    folder = tmp_path_factory.mktemp("slides")
    glass = draw_tissue(5000, 4000, 7)
    write_svs(folder / "first.svs", glass)
    (folder / "again").mkdir()
    shutil.copyfile(folder / "first.svs", folder / "again" / "copy.svs")
    write_svs(folder / "turned.svs", np.ascontiguousarray(np.rot90(glass)[150:]), quality=70)
    write_svs(folder / "other.svs", draw_tissue(4000, 4000, 8))
    return folder


@pytest.fixture(scope="module")
def output(archive: Path) -> Path:
    output = archive.parent / "out-of-upkeep"
    done = wsisum("compress", archive, "-o", output, "--encoder", "texture", "--keep", 8, "--draws", 100)
    assert done.returncode == 0, done.stderr
    assert "device: CPU (" in done.stderr or "device: CUDA" in done.stderr
    return output


def test_duplicates_are_found_and_nothing_else(output: Path, tmp_path: Path):
    done = wsisum("duplicates", output, "--json", "--image", tmp_path / "pairs.png")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    pairs = {(p["relation"], p["first"]["summary"], p["second"]["summary"]) for p in found["pairs"]}
    # Of byte-identical slides only the first is compared with others.
    assert pairs == {
        ("same file", "again/copy.ozx", "first.ozx"),
        ("same glass", "again/copy.ozx", "turned.ozx"),
    }
    assert found["left_out"] == []
    glass = next(pair for pair in found["pairs"] if pair["relation"] == "same glass")
    assert glass["alignment"]["turn"] == pytest.approx(270, abs=0.5)
    assert not glass["alignment"]["mirrored"]
    with Image.open(tmp_path / "pairs.png") as image:
        assert np.asarray(image).std() > 10


def test_duplicates_in_words(output: Path):
    done = wsisum("duplicates", output)
    assert done.returncode == 1
    assert "same file: again/copy.ozx and first.ozx" in done.stdout
    assert "turned by 270.0 degrees" in done.stdout
    assert "2 pairs" in done.stdout


def test_an_archive_without_duplicates_is_good(tmp_path: Path):
    write_tiny(tmp_path / "a.ozx")
    done = wsisum("duplicates", tmp_path, "--image", tmp_path / "pairs.png")
    assert done.returncode == 0
    assert "no pair" in done.stdout
    assert not (tmp_path / "pairs.png").exists()
    assert "nothing to draw" in done.stderr


def test_a_broken_summary_is_reported(tmp_path: Path):
    write_tiny(tmp_path / "a.ozx")
    (tmp_path / "b.ozx").write_bytes(b"no zip")
    done = wsisum("duplicates", tmp_path)
    assert done.returncode == 1
    assert "not compared: b.ozx" in done.stderr
    assert str(tmp_path) not in done.stderr + done.stdout


def test_similar_slides_of_a_summary(output: Path, tmp_path: Path):
    done = wsisum("similar", output / "turned.ozx", "--in", output, "--json", "--image", tmp_path / "like.png")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["by"]["kind"] == "mean features"
    assert (found["compared"], found["left_out"]) == (3, [])
    names = [slide["summary"] for slide in found["nearest"]]
    assert set(names[:2]) == {"again/copy.ozx", "first.ozx"}
    assert names[2] == "other.ozx"
    assert [slide["same_file"] for slide in found["nearest"]] == [False, False, False]
    with Image.open(tmp_path / "like.png") as image:
        assert np.asarray(image).std() > 10


def test_similar_slides_of_a_slide_without_summary(archive: Path, output: Path):
    done = wsisum("similar", archive / "first.svs", "--in", output, "--top", 2, "--json")
    assert done.returncode == 0, done.stderr
    nearest = json.loads(done.stdout)["nearest"]
    assert [slide["same_file"] for slide in nearest] == [True, True]
    assert nearest[0]["cosine"] == pytest.approx(1, abs=1e-6)
    words = wsisum("similar", output / "first.ozx", "--in", output, "--top", 1)
    assert "again/copy.ozx" in words.stdout
    assert "3 slides compared by mean features (texture)" in words.stdout


def test_slides_by_other_models_are_counted(output: Path, tmp_path: Path):
    shutil.copytree(output, tmp_path / "out")
    foreign = write_tiny(tmp_path / "out" / "foreign.ozx")
    done = wsisum("similar", tmp_path / "out" / "first.ozx", "--in", tmp_path / "out")
    assert "not compared: 1 slide: its features are of another model" in done.stderr
    assert "foreign" not in done.stdout
    nothing = wsisum("similar", foreign, "--in", output)
    assert nothing.returncode == 2
    assert "no other slide has mean features by" in nothing.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["similar", "nothing.svs", "--in", "."], "no summary slides"),
        (["similar", "a.ozx", "--in", ".", "--image", "x.jpg"], "file name ending in .png"),
        (["duplicates", ".", "--image", "x.gif"], "file name ending in .png"),
        (["duplicates", "."], "no summary slides"),
    ],
)
def test_commands_that_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
):
    monkeypatch.chdir(tmp_path)
    done = wsisum(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_similar_without_the_slide_or_its_encoder(output: Path, tmp_path: Path, archive: Path):
    missing = wsisum("similar", "nothing.svs", "--in", output)
    assert (missing.returncode, "nothing.svs: no such file" in missing.stderr) == (2, True)
    tiny = write_tiny(tmp_path / "a.ozx")
    sign_again(tiny, unpack(tiny), lambda attributes: attributes["encoder"].update(sha256="e" * 64))
    foreign = wsisum("similar", archive / "first.svs", "--in", tmp_path)
    assert (foreign.returncode, "which is not at hand" in foreign.stderr) == (2, True)


def doctor(*arguments: object, models: Path) -> subprocess.CompletedProcess[str]:
    return wsisum("doctor", *arguments, env={**os.environ, "WSISUM_MODELS": str(models)})


def test_doctor_looks_at_everything(tmp_path: Path):
    done = doctor("--json", "--output", tmp_path, models=tmp_path / "models")
    report = json.loads(done.stdout)
    assert set(report) == {"wsisum", "ok", "checks"}
    assert {check["area"] for check in report["checks"]} == {
        *("versions", "readers", "codecs", "models", "machine", "output")
    }
    assert all(set(check) == {"area", "name", "state", "found", "advice"} for check in report["checks"])
    assert all(bool(check["advice"]) == (check["state"] != "ok") for check in report["checks"])
    problems = [check for check in report["checks"] if check["state"] == "problem"]
    assert (done.returncode == 0) == report["ok"] == (not problems)
    assert not [check for check in problems if check["area"] in ("versions", "readers", "codecs", "models")]
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_the_problem_and_exits_with_1(tmp_path: Path):
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "mine.onnx").write_bytes(b"no model")
    (folder / "added.json").write_text('{"files": {"mine.onnx": "00"}}')
    done = doctor(models=tmp_path / "models")
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if "models: mine" in line)
    assert line.startswith("problem  ")
    assert "wsisum models add --force" in line
    assert "1 problem" in done.stdout.splitlines()[-1]
    assert len([line for line in done.stdout.splitlines() if line.startswith("ok")]) > 25
