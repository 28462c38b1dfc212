"""Whole runs in processes of their own: two at once, and runs that end in the middle."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from archives import set_back
from draw import draw_tissue, write_svs
from running import wsisum

from wsisum_cli.verification.verify import is_whole

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny slides in two folders."""
    folder = tmp_path_factory.mktemp("runs") / "in"
    (folder / "a").mkdir(parents=True)
    for number, name in enumerate(("0.svs", "a/1.svs", "a/2.svs")):
        write_svs(folder / name, draw_tissue(1024, 1024, seed=number), tile=256)
        set_back(folder / name)
    return folder


@pytest.fixture(scope="module")
def expected(archive: Path) -> dict[str, bytes]:
    """The summaries of a run that nothing disturbs."""
    assert wsisum("compress", archive, "-o", archive.parent / "whole").returncode == 0
    return summaries(archive.parent / "whole")


def start(archive: Path, output: Path, *options: str, **how: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wsisum_cli", "compress", str(archive), "-o", str(output), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)  # type: ignore[call-overload,no-any-return]


def summaries(output: Path) -> dict[str, bytes]:
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*.ozx")}


def report(output: Path) -> dict[str, str]:
    rows = json.loads((output / "report.json").read_text())["slides"]
    return {row["source"]: row["status"] for row in rows}


def left_aside(output: Path) -> list[Path]:
    return list(output.rglob("*.part"))


def test_two_runs_on_one_folder_do_no_harm(archive: Path, expected: dict[str, bytes], tmp_path: Path):
    runs = [start(archive, tmp_path, "--force") for _ in range(2)]
    ended = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ended
    assert summaries(tmp_path) == expected
    assert report(tmp_path) == dict.fromkeys(("0.svs", "a/1.svs", "a/2.svs"), "written")
    assert left_aside(tmp_path) == []


def test_shards_make_the_same_files_and_one_report(archive: Path, expected: dict[str, bytes], tmp_path: Path):
    for shard in ("1/2", "2/2"):
        assert wsisum("compress", archive, "-o", tmp_path, "--shard", shard).returncode == 0
    assert summaries(tmp_path) == expected
    done = wsisum("report", tmp_path, "--json")
    assert [slide["source"] for slide in json.loads(done.stdout)["slides"]] == ["0.svs", "a/1.svs", "a/2.svs"]
    again = wsisum("compress", archive, "-o", tmp_path)
    assert "3 up to date" in again.stderr


def test_a_killed_run_is_reported_and_resumed(archive: Path, expected: dict[str, bytes], tmp_path: Path):
    run = start(archive, tmp_path)
    limit = time.monotonic() + 100
    while not any(b'"status":"written"' in path.read_bytes() for path in tmp_path.rglob("*.jsonl")):
        assert time.monotonic() < limit
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    found = {
        slide["source"]: slide["state"] for slide in json.loads(wsisum("status", tmp_path, "--json").stdout)["slides"]
    }
    done = {name for name, state in found.items() if state != "new"}
    assert 1 <= len(done) < 3
    assert len(found) == 3
    assert all(is_whole(path) for path in tmp_path.rglob("*.ozx"))
    time.sleep(0.5)  # until its worker has seen that it is gone
    assert wsisum("compress", archive, "-o", tmp_path).returncode == 0
    assert summaries(tmp_path) == expected
    assert set(report(tmp_path)) == {"0.svs", "a/1.svs", "a/2.svs"}
    assert left_aside(tmp_path) == []


def test_a_disk_that_takes_no_more_leaves_nothing_half(archive: Path, expected: dict[str, bytes], tmp_path: Path):
    """A limit on the size of files stands for it: summaries do not fit, journal and report do."""
    most = min(map(len, expected.values())) // 2
    run = start(archive, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    _, said = run.communicate(timeout=120)
    assert run.returncode == 1, said
    assert set(report(tmp_path).values()) == {"failed"}
    assert summaries(tmp_path) == {}
    assert left_aside(tmp_path) == []
    assert wsisum("compress", archive, "-o", tmp_path).returncode == 0
    assert summaries(tmp_path) == expected


def test_a_report_that_does_not_fit_is_said_and_made_up_for(archive: Path, expected: dict[str, bytes], tmp_path: Path):
    assert wsisum("compress", archive, "-o", tmp_path).returncode == 0
    (tmp_path / "report.json").unlink()
    (tmp_path / "report.json").mkdir()
    done = wsisum("compress", archive, "-o", tmp_path)
    assert done.returncode == 1
    assert "the report could not be written" in done.stderr
    (tmp_path / "report.json").rmdir()
    assert wsisum("compress", archive, "-o", tmp_path).returncode == 0
    assert set(report(tmp_path).values()) == {"skipped"}
    assert summaries(tmp_path) == expected
