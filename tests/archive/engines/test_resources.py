"""How many workers fit a machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsisum_cli.archive.engines import resources
from wsisum_cli.archive.engines.resources import (
    Crew,
    Machine,
    choose_crew,
    cores,
    find_gpus,
    usable_memory,
    why_no_gpu,
)

GB = 10**9


@pytest.mark.parametrize(
    ("machine", "device", "crew"),
    [
        (Machine(8, 64 * GB), "auto", Crew(8, 1, (), "one a core")),
        (Machine(16, 12 * GB), "auto", Crew(4, 4, (), "one for each 3 GB of memory")),
        (Machine(4, 1 * GB), "cpu", Crew(1, 4, (), "one for each 3 GB of memory")),
        (Machine(6, None), "auto", Crew(6, 1, (), "one a core")),
        (Machine(16, 64 * GB, ("0",)), "auto", Crew(1, 16, (), "one a GPU")),
        (Machine(16, 64 * GB, ("2", "3")), "cuda", Crew(2, 8, ("2", "3"), "one a GPU")),
        (Machine(16, 64 * GB, ("0", "1")), "cpu", Crew(16, 1, (), "one a core")),
    ],
)
def test_workers_follow_from_the_machine(machine: Machine, device: str, crew: Crew):
    assert choose_crew(None, machine, device) == crew


def test_a_number_of_workers_is_taken_and_shares_the_gpus():
    assert choose_crew(3, Machine(8, GB), "auto") == Crew(3, 2)
    assert choose_crew(16, Machine(8, GB), "auto") == Crew(16, 1)
    assert choose_crew(2, Machine(8, 64 * GB, ("0", "1")), "auto") == Crew(2, 4, ("0", "1"))
    assert choose_crew(1, Machine(8, 64 * GB, ("0", "1")), "auto") == Crew(1, 8)


def group(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_of_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_limits_of_a_container_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal: 32000000 kB\nMemAvailable: 20000000 kB\n")
    none = tmp_path / "none"
    assert (cores(none), usable_memory(none, memory)) == (8, 20_000_000 * 1024)
    two = group(tmp_path / "v2", cpu_of_max="250000 100000\n", memory_of_max="4000000000\n")
    assert (cores(two), usable_memory(two, memory)) == (2, 4 * GB)
    free = group(tmp_path / "free", cpu_of_max="max 100000\n", memory_of_max="max\n")
    assert (cores(free), usable_memory(free, memory)) == (8, 20_000_000 * 1024)
    one = tmp_path / "v1"
    (one / "cpu").mkdir(parents=True)
    (one / "memory").mkdir()
    (one / "cpu/cpu.cfs_quota_us").write_text("300000\n")
    (one / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (one / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert (cores(one), usable_memory(one, memory)) == (3, 20_000_000 * 1024)
    assert usable_memory(none, none) is None


def test_gpus_are_those_that_cuda_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resources, "nvidia_driver_found", lambda: True)
    for name in ("0000:01", "0000:02"):
        (tmp_path / name).mkdir()
    assert find_gpus(None, tmp_path) == ("0", "1")
    assert find_gpus("2,GPU-1a", tmp_path) == ("2", "GPU-1a")
    assert find_gpus("", tmp_path) == find_gpus("-1", tmp_path) == ()
    assert find_gpus(None, tmp_path / "none") == ("0",)
    assert why_no_gpu("auto", ("0",)) == "CUDA does not start"
    assert why_no_gpu("auto", ("0",), lambda provider: "no CUDA libraries") == "no CUDA libraries"
    assert why_no_gpu("auto", ()) == "no GPU is visible"
    monkeypatch.setattr(resources, "nvidia_driver_found", lambda: False)
    assert find_gpus("0", tmp_path) == ()
    assert why_no_gpu("auto", ()) == "no NVIDIA driver found"
    assert why_no_gpu("cpu", ()) == "as asked for"
