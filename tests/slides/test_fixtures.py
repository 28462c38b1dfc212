"""Every native fixture gets the outcome that a person would give it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

OUTCOMES = {
    "CMU-1-Small-Region.svs": ("written", ""),
    "boxes.tiff": ("failed", "implausible pixel size"),  # 72 dpi is no pixel size of a slide
    "boxes_0.dcm": ("skipped", "too small"),
    "boxes_1.dcm": ("skipped", "thumbnail image"),
    "broken.svs": ("failed", "unreadable"),
    "camelyon-jpeg.dcm": ("failed", "implausible pixel size"),  # the coarsest level of a slide alone
    "camelyon-jpeg2000.dcm": ("failed", "implausible pixel size"),
    "cells.ome.tif": ("skipped", "not brightfield RGB"),
    "dicom-label-image.dcm": ("skipped", "label image"),
    "fluorescence-dapi.ndpi": ("skipped", "not brightfield RGB"),
    "small.svs": ("skipped", "too small"),
    "small_dicom.dcm": ("failed", "no pixel size"),
    "tcga-cr-7395-01a-01-ts1.svs": ("failed", "no pixel size"),
    "unopenable.tiff": ("failed", "unreadable"),
    "unreadable.svs": ("failed", "broken tiles"),
}
MEMORY = 1_000_000_000  # bytes


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, str]], int, str]:
    """Rows of the report by slide, peak memory, and all that was printed."""
    output = tmp_path_factory.mktemp("output")
    command = [sys.executable, "-m", "wsisum_cli", "compress", str(shared / "fixtures"), "-o", str(output)]
    peak = 0
    with open(output / "printed", "w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(0.05)
    printed = (output / "printed").read_text()
    assert process.returncode == 1, printed
    report = json.loads((output / "report.json").read_text())
    return {row["source"]: row for row in report["slides"]}, peak, printed


def memory_of(pid: int) -> int:
    try:
        root = psutil.Process(pid)
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


@pytest.mark.parametrize("name", sorted(OUTCOMES))
def test_outcome(run: tuple[dict[str, dict[str, str]], int, str], name: str):
    row = run[0][name]
    assert (row["status"], row["reason"]) == OUTCOMES[name], row["message"]
    assert row["status"] == "written" or row["message"].startswith(name)


def test_all_have_one(run: tuple[dict[str, dict[str, str]], int, str]):
    assert sorted(run[0]) == sorted(OUTCOMES)


def test_memory_stays_small(run: tuple[dict[str, dict[str, str]], int, str]):
    assert 0 < run[1] < MEMORY


def test_nothing_printed_names_a_folder(run: tuple[dict[str, dict[str, str]], int, str], shared: Path):
    printed = run[2].replace("report: ", "")
    assert str(shared) not in printed
    assert "Traceback" not in printed
