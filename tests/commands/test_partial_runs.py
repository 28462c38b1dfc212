"""Runs over a part of an archive, known failures, settings and log files, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from draw import draw_tissue, write_svs
from running import wsisum
from summaries import write_tiny


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in") / "archive"
    for seed, name in enumerate(("a/1.svs", "b/2.svs")):
        (folder / name).parent.mkdir(parents=True)
        write_svs(folder / name, draw_tissue(1400, 1200, seed=seed), tile=256)
    (folder / "b/broken.svs").write_bytes(b"no slide")
    return folder


QUICK = ("--encoder", "texture", "--draws", "100")


def test_a_file_of_settings_gives_the_same_bytes_as_the_command_line(archive: Path, tmp_path: Path):
    """And the next run on the command line finds its summary up to date."""
    lines = f'draws = 100\nencoder = "texture"\n[compress]\nkeep = 3\nseed = 7\noutput = "{tmp_path}/file"\n'
    (tmp_path / "wsisum.toml").write_text(lines + 'include = ["1.svs"]\n')
    done = wsisum("--config", tmp_path / "wsisum.toml", "compress", archive, "--log-file", tmp_path / "log.jsonl")
    assert done.returncode == 0, done.stderr
    assert "settings: output " in done.stderr
    assert "keep 3 (wsisum.toml)" in done.stderr
    assert "left out: 2 slides by their names" in done.stderr
    assert "device: CPU (" in done.stderr or "device: CUDA" in done.stderr
    same = ("--keep", 3, "--seed", 7, *QUICK, "--include", "a")
    assert wsisum("compress", archive, "-o", tmp_path / "line", *same).returncode == 0
    assert (tmp_path / "line/a/1.ozx").read_bytes() == (tmp_path / "file/a/1.ozx").read_bytes()
    again = json.loads(wsisum("compress", archive, "-o", tmp_path / "file", *same, "--json").stdout)
    assert [(row["source"], row["reason"]) for row in again["slides"]] == [("a/1.svs", "up to date")]
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in entries if entry["event"] != "stage"] == [
        "planned",
        "worker ready",
        "written",
        "finished",
    ]
    assert str(archive) not in (tmp_path / "log.jsonl").read_text()


def test_a_known_failure_lets_a_nightly_run_end_well(archive: Path, tmp_path: Path):
    manifest = tmp_path / "manifest.csv"
    run = ("compress", archive, "-o", tmp_path / "out", "--manifest", manifest, *QUICK, "--workers", "auto", "--quiet")
    manifest.write_text("slide,known\nb/broken.svs,unreadable\nb/2.svs,yes\n")
    done = wsisum(*run)
    assert done.returncode == 0, done.stderr
    assert "known failure: unreadable" in done.stdout
    assert "1 known failure" in done.stdout
    assert "the manifest lists b/2.svs as a known failure, but it is written" in done.stderr
    manifest.write_text("slide,known\nb/broken.svs,no tissue\n")
    done = wsisum(*run)
    assert done.returncode == 1
    assert "the manifest knows of another failure: no tissue" in done.stderr


def test_a_listed_slide_that_is_not_there_fails(archive: Path, tmp_path: Path):
    (tmp_path / "list.txt").write_text("a/1.svs\na/gone.svs\n")
    done = wsisum("compress", archive, "-o", tmp_path / "out", "--list", tmp_path / "list.txt", "--dry-run")
    assert done.returncode == 1
    assert "list.txt lists it, but the archive has no such slide" in done.stderr
    assert "estimate: " in done.stdout
    assert "1 would write" in done.stdout


def test_verify_takes_a_part_and_says_so(tmp_path: Path):
    for name in ("a.ozx", "b.ozx"):
        write_tiny(tmp_path / name)
    done = wsisum("verify", tmp_path, "--exclude", "b.ozx", "--quick", "--json")
    assert [one["path"] for one in json.loads(done.stdout)] == ["a.ozx"]
    assert "left out: 1 of 2 summaries by --include or --exclude" in done.stderr
    done = wsisum("verify", tmp_path, "--include", "*.svs")
    assert done.returncode == 2
    assert "--include left out all 2 summaries" in done.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--workers", "0"), "--workers 0: expected a number from 1, or auto"),
        (("--workers", "many"), "--workers many: expected a number from 1, or auto"),
        (("-q", "-v"), "--quiet and --verbose contradict each other"),
        (("--scheduler", "tcp://a:1", "--workers", "2"), "--workers is of this machine"),
        (("--include", "*.ndpi"), "--include left out every slide (3)"),
    ],
)
def test_options_that_cannot_be_are_refused(archive: Path, tmp_path: Path, options: tuple[str, ...], complaint: str):
    done = wsisum("compress", archive, "-o", tmp_path / "out", *options)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not (tmp_path / "out").exists()


def test_completion_is_offered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("_WSISUM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "wsisum compress --inc")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert wsisum().stdout.split() == ["--include"]
