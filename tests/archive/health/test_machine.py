"""Cores and memory as the kernel states them, limits of a container included."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsisum_cli.archive.health import machine
from wsisum_cli.archive.health.machine import (
    available_memory,
    check_cores,
    check_gpus,
    check_memory,
    container_memory,
    container_memory_v1,
    cpu_quota,
)


def files(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "cores"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None), ("5", None), ("1 0", None)],
)
def test_quota_of_a_container(tmp_path: Path, text: str, cores: float | None):
    assert cpu_quota(files(tmp_path, cpu__max=text)) == cores


def test_a_quota_below_the_cores_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "CGROUP", files(tmp_path, cpu__max="50000 100000"))
    found = check_cores()
    assert found.state == "warning"
    assert "0.5" in found.found
    assert "at most 1 --workers" in found.advice
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "none")
    assert check_cores().state == "ok"


def test_memory_of_machine_and_container(tmp_path: Path):
    assert available_memory(files(tmp_path, info="MemTotal: 9 kB\nMemAvailable:   7 kB\n") / "info") == 7 * 1024
    assert available_memory(tmp_path / "none") is None
    files(tmp_path, memory__max="1000\n", memory__current="700\n", memory__stat="anon 1\ninactive_file 200\n")
    assert container_memory(tmp_path) == 500
    assert container_memory(files(tmp_path, memory__max="max\n")) is None
    files(tmp_path, memory__limit_in_bytes="1000", memory__usage_in_bytes="1200")
    assert container_memory_v1(tmp_path) == 0
    assert container_memory_v1(files(tmp_path, memory__limit_in_bytes=str(1 << 62))) is None


@pytest.mark.parametrize(
    ("free", "state"),
    [
        ((64_000_000_000, None), "ok"),
        ((64_000_000_000, 2_000_000_000), "warning"),
        ((1_000_000_000, None), "problem"),
        ((None, None), "ok"),
    ],
)
def test_the_smaller_of_both_decides(free: tuple[int | None, int | None], state: str):
    found = check_memory(free)
    assert found.state == state
    assert bool(found.advice) == (state != "ok")


def test_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "nvidia_driver_found", lambda: False)
    assert check_gpus().state == "ok"
    monkeypatch.setattr(machine, "nvidia_driver_found", lambda: True)
    monkeypatch.setattr(machine, "gpu_names", lambda: ["NVIDIA H200, 143771 MiB"])
    assert check_gpus().found == "NVIDIA H200, 143771 MiB"
    monkeypatch.setattr(machine, "gpu_names", list)
    assert check_gpus().state == "warning"
