"""Exit codes, streams and messages of the commands."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from draw import draw_tissue, write_svs, write_tiff
from rich.console import Console
from running import wsisum
from summaries import StubCard, write_tiny

from wsisum_cli import __version__
from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.commands.console import outcome_line, print_outcomes


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "slide.svs"
    write_svs(path, draw_tissue(2048, 1536, seed=5), tile=256)
    return path


@pytest.fixture(scope="module")
def summary(slide: Path) -> Path:
    output = slide.parent.parent / "out"
    assert wsisum("compress", slide, "-o", output).returncode == 0
    return output / "slide.ozx"


def test_version_and_help():
    assert wsisum("--version").stdout == f"wsisum {__version__}\n"
    assert wsisum("--help").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["compress", "nowhere"], "nowhere: no such file or folder"),
        (["compress", "."], "no slides found"),
        (["compress", ".", "--encoder", "nothing"], "nothing: no model with this name; give the name of a model"),
        (["compress", ".", "--mpp", "40"], "--mpp"),
        (["compress", ".", "--keep", "0"], "--keep"),
        (["compress", ".", "--pixels", "png"], "--pixels"),
        (["compress", ".", "--manifest", "none.csv"], "none.csv"),
        (["verify", ".", "--quick", "--source", "."], "--quick cannot be combined with --source or --threshold"),
        (
            ["verify", ".", "--quick", "--threshold", "coverage>=0.9"],
            "--quick cannot be combined with --source or --threshold",
        ),
        (
            ["compress", ".", "--selector", "random", "--rare", "0.1"],
            "--rare: expected --selector wsisum, found random",
        ),
        (["compress", ".", "--patch-size-level0", "512"], "--patch-size-level0 is of given features"),
        (["compress", ".", "--selector", "attention", "--slide-encoder", "none"], "expected a slide encoder"),
        (["compress", ".", "--selector", "attention", "--encoder", "texture"], "expected a slide encoder"),
        (
            ["inspect", "a.ozx", "--image", "x.jpg"],
            "--image x.jpg: the picture is a PNG; use a file name ending in .png",
        ),
        (["verify", "."], "no summary slides"),
        (["inspect", "a.ozx", "b.ozx", "--image", "x.png"], "--image draws one summary"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_usage_error_is_explained_and_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
):
    monkeypatch.chdir(tmp_path)
    done = wsisum(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_output_folder_that_is_a_file_is_refused(slide: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    done = wsisum("compress", slide, "-o", tmp_path / "file")
    assert done.returncode == 2
    assert "the output folder cannot be created or written to" in done.stderr


def test_missing_cuda_is_refused(slide: Path, tmp_path: Path):
    done = wsisum("compress", slide, "-o", tmp_path, "--device", "cuda")
    if done.returncode == 0:
        pytest.skip("this machine has CUDA")
    assert done.returncode == 2
    assert "CUDA was requested but is not active" in done.stderr
    assert not list(tmp_path.glob("*.ozx"))


def row(source: str, **figures: Any) -> Outcome:
    return Outcome(source, "written", bytes_in=12_500_000, bytes_out=1_100_000, tissue_patches=254, **figures)


def test_long_name_drops_no_columns(capsys: pytest.CaptureFixture[str]):
    name = "TCGA-3C-AALI-01Z-00-DX1.F6E9A5DF-D8FB-45CF-B4BD-C6B76294C291.svs"
    print_outcomes(Console(width=90), [row(name, patches=32, represented=0.71, verdict="REVIEW")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["slide", "outcome", "in", "out", "ratio", "patches", "represented", "verdict"]
    assert "".join(line.split()[0] for line in lines[1:-1]) == name


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_narrow_terminal_shows_slide_and_verdict(width: int, capsys: pytest.CaptureFixture[str]):
    outcomes = [row("pancreas/pdac-tru-cut-3.tiff", patches=32, represented=0.71, verdict="REVIEW")]
    print_outcomes(Console(width=width), outcomes)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines)
    assert "REVIEW" in lines[1]
    assert "pancreas/pdac" in lines[1]
    assert ("represented" in lines[0], "ratio" in lines[0]) == (width >= 60, width >= 120)


def test_failures_during_planning_are_reported(slide: Path, tmp_path: Path):
    (tmp_path / "slide.h5").write_bytes(b"of another program")
    done = wsisum("features", slide, "-o", tmp_path)
    assert done.returncode == 1
    assert "slide.h5: cannot be read and may belong to another program; choose another --output" in done.stderr


def test_edited_summary_is_shown_with_a_warning(tmp_path: Path):
    path = write_tiny(tmp_path / "tiny.ozx")
    data = path.read_bytes()
    assert wsisum("inspect", path).returncode == 0
    path.write_bytes(data.replace(b'"PASS"', b'"FAIL"'))
    done = wsisum("inspect", path)
    assert done.returncode == 1
    assert "its attributes changed after it was written; run wsisum verify on it" in done.stderr


def test_dry_run_previews_and_writes_nothing(slide: Path, tmp_path: Path):
    write_tiff(slide.parent / "unknown.tiff", draw_tissue(600, 600, seed=1))
    done = wsisum("compress", slide.parent, "-o", tmp_path / "out", "--dry-run")
    (slide.parent / "unknown.tiff").unlink()
    assert done.returncode == 1
    assert "would write" in done.stdout
    assert "--mpp" in done.stderr
    assert not (tmp_path / "out").exists()


def test_changed_option_remakes_the_summary(slide: Path, tmp_path: Path):
    first = json.loads(wsisum("compress", slide, "-o", tmp_path, "--json", "--keep", 4).stdout)
    again = json.loads(wsisum("compress", slide, "-o", tmp_path, "--json", "--keep", 4).stdout)
    other = json.loads(wsisum("compress", slide, "-o", tmp_path, "--json", "--keep", 5).stdout)
    forced = json.loads(wsisum("compress", slide, "-o", tmp_path, "--json", "--keep", 5, "--force").stdout)
    rows = [(run["slides"][0]["status"], run["slides"][0]["patches"]) for run in (first, again, other, forced)]
    assert rows == [("written", 4), ("skipped", 4), ("written", 5), ("written", 5)]


def test_damaged_summary_is_remade(slide: Path, summary: Path):
    whole = summary.read_bytes()
    summary.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    assert wsisum("verify", summary).returncode == 1
    assert wsisum("compress", slide, "-o", summary.parent).returncode == 0
    assert summary.read_bytes() == whole


def test_changed_slide_is_summarized_again(tmp_path: Path):
    slide = tmp_path / "in" / "slide.svs"
    slide.parent.mkdir()
    for seed in (1, 2):
        write_svs(slide, draw_tissue(2048, 1536, seed=seed), tile=256)
        row = json.loads(wsisum("compress", slide, "-o", tmp_path / "out", "--json").stdout)["slides"][0]
        assert row["status"] == "written"
    slide.touch()  # the same bytes with another time
    row = json.loads(wsisum("compress", slide, "-o", tmp_path / "out", "--json").stdout)["slides"][0]
    assert (row["status"], row["reason"]) == ("skipped", "up to date")


def test_manifest_name_replaces_the_slide_name_everywhere(slide: Path, tmp_path: Path):
    (tmp_path / "manifest.csv").write_text("slide,name\nslide.svs,study-7\nother.svs,x\n")
    done = wsisum("compress", slide.parent, "-o", tmp_path / "out", "--manifest", tmp_path / "manifest.csv")
    assert done.returncode == 0
    assert "the manifest lists other.svs" in done.stderr
    content = (tmp_path / "out/study-7.ozx").read_bytes()
    assert b"study-7" in content
    assert b"slide.svs" not in content
    checked = wsisum("verify", tmp_path / "out", "--source", slide.parent, "--json")
    assert checked.returncode == 0, checked.stdout


def test_results_go_to_stdout_and_messages_to_stderr(slide: Path, tmp_path: Path):
    done = wsisum("compress", slide, "-o", tmp_path)
    assert "1 slide: 1 written" in done.stdout
    assert "slide.svs: written" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_inspect_lists_the_patches(summary: Path):
    done = wsisum("inspect", summary)
    assert done.returncode == 0
    assert "slide.svs, 2048 x 1536 px at 0.25 µm (Aperio MPP), aperio" in done.stdout
    assert "not for diagnosis" in done.stdout.lower()


def test_json_of_several_is_a_list_and_of_one_an_object(summary: Path):
    assert isinstance(json.loads(wsisum("inspect", summary, "--json").stdout), dict)
    assert len(json.loads(wsisum("inspect", summary, summary, "--json").stdout)) == 2
    assert isinstance(json.loads(wsisum("verify", summary, "--json").stdout), dict)
    assert len(json.loads(wsisum("verify", summary, summary, "--json").stdout)) == 2
    assert len(json.loads(wsisum("verify", summary.parent, "--json").stdout)) == 1


def test_findings_give_exit_code_1(summary: Path, tmp_path: Path):
    broken = tmp_path / "broken.ozx"
    broken.write_bytes(summary.read_bytes()[:-100])
    done = wsisum("verify", broken, summary, "--json")
    assert done.returncode == 1
    bad, good = json.loads(done.stdout)
    assert (bad["ok"], good["ok"]) == (False, True)
    assert {"code", "severity", "member", "message"} <= set(bad["findings"][0])


def test_unreadable_summary_does_not_stop_the_others(summary: Path, tmp_path: Path):
    done = wsisum("inspect", tmp_path / "none.ozx", summary, "--json")
    assert done.returncode == 1
    assert "none.ozx: cannot be opened" in done.stderr
    assert len(json.loads(done.stdout)) == 1


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="this file system has no such names")
def test_odd_names_reach_the_report(slide: Path, tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = [b"bad\xff.svs", "line\nbreak [red] \u00fc\U0001f600.svs".encode()]
    for name in names:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(slide.read_bytes())
    done = wsisum("compress", folder, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out/report.json").read_text())["slides"]
    assert sorted(os.fsencode(row["source"]) for row in rows) == sorted(names)
    again = wsisum("compress", folder, "-o", tmp_path / "out", "--json")
    assert json.loads(again.stdout)["counts"] == {"written": 0, "skipped": 2, "failed": 0}
    assert wsisum("verify", tmp_path / "out", "--source", folder).returncode == 0
    assert wsisum("inspect", *(tmp_path / "out").glob("*.ozx"), "--json").returncode == 0


def test_refused_run_keeps_the_last_report(slide: Path, tmp_path: Path):
    assert wsisum("compress", slide, "-o", tmp_path).returncode == 0
    before = (tmp_path / "report.json").read_bytes()
    done = wsisum("compress", slide, "-o", tmp_path, "--device", "cuda", "--force")
    if done.returncode == 0:
        pytest.skip("this machine has CUDA")
    assert (tmp_path / "report.json").read_bytes() == before


def test_dry_run_json_is_valid(slide: Path, tmp_path: Path):
    done = wsisum("compress", slide, "-o", tmp_path / "out", "--dry-run", "--json")
    assert [row["status"] for row in json.loads(done.stdout)["slides"]] == ["would write"]


def test_source_is_found_by_content(slide: Path, tmp_path: Path):
    """Two slides of the same size, whose names a manifest hides."""
    folder = tmp_path / "in"
    folder.mkdir()
    content = slide.read_bytes()
    (folder / "a.svs").write_bytes(content)
    (folder / "b.svs").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / "manifest.csv").write_text("slide,name\na.svs,one\nb.svs,two\n")
    wsisum("compress", folder, "-o", tmp_path / "out", "--manifest", tmp_path / "manifest.csv")
    done = wsisum("verify", tmp_path / "out", "--source", folder, "--json")
    assert done.returncode == 0, done.stdout
    (folder / "b.svs").unlink()
    done = wsisum("verify", tmp_path / "out", "--source", folder, "--json")
    assert [finding["code"] for result in json.loads(done.stdout) for finding in result["findings"]] == [
        "source-missing"
    ]


def test_unreadable_model_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A link to nowhere in the folder of models says nothing of a summary."""
    from wsisum_cli.archive.lookup import model_finders

    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/gone.onnx").symlink_to(tmp_path / "nowhere.onnx")
    monkeypatch.setenv("WSISUM_MODELS", str(tmp_path))
    for find in model_finders(None, None, None, "cpu"):
        assert find(StubCard(sha256="f" * 64)) is None


def test_failure_lines_say_the_file_name_once():
    outcome = Outcome("a/B12.svs", "failed", "no pixel size", "B12.svs: no pixel size in the file; pass --mpp")
    line = outcome_line(outcome)
    assert line == "a/B12.svs: failed, no pixel size. no pixel size in the file; pass --mpp"
