"""Cores, memory and GPUs that this process may use, limits of its container included."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from wsisum_cli.archive.health.check import Check
from wsisum_cli.figures.words import pluralize, size
from wsisum_cli.models.session import nvidia_driver_found

AREA = "machine"
LEAST_MEMORY, LITTLE_MEMORY = 1_500_000_000, 4_000_000_000  # bytes: of one worker, and with room for large slides
CGROUP, CGROUP_V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
MEMINFO = Path("/proc/meminfo")
NO_LIMIT = 1 << 60  # bytes; version 1 of cgroups says this, and not `max`, where there is none


def check_machine() -> Iterator[Check]:
    """Cores, memory and GPUs."""
    yield check_cores()
    yield check_memory(free_memory())
    yield check_gpus()


def check_cores() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(CGROUP)
    found = pluralize(cores, "core")
    if quota is None or quota >= cores:
        return Check(area=AREA, name="cores", state="ok", found=found)
    return Check(
        area=AREA,
        name="cores",
        state="warning",
        found=f"{found}, of which the container may use {quota:g}",
        advice=f"use at most {max(1, int(quota))} --workers, or raise the container's limit",
    )


def cpu_quota(cgroup: Path) -> float | None:
    """Cores that the container may keep busy; None without a limit."""
    words = (read_text(cgroup / "cpu.max") or "").split()
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):
        return None
    return int(words[0]) / int(words[1])


def free_memory() -> tuple[int | None, int | None]:
    """Bytes that can still be taken: of the machine, and of the container; None where nobody says."""
    return available_memory(MEMINFO), container_memory(CGROUP) or container_memory_v1(CGROUP_V1)


def available_memory(meminfo: Path) -> int | None:
    for line in (read_text(meminfo) or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def container_memory(cgroup: Path) -> int | None:
    """Bytes left below the limit; what can be given back counts as free."""
    most, used = number_in(cgroup / "memory.max"), number_in(cgroup / "memory.current")
    if most is None or used is None:
        return None
    kept = (line.split() for line in (read_text(cgroup / "memory.stat") or "").splitlines())
    cache = next((int(words[1]) for words in kept if words[:1] == ["inactive_file"]), 0)
    return max(0, most - used + cache)


def container_memory_v1(cgroup: Path) -> int | None:
    most, used = number_in(cgroup / "memory.limit_in_bytes"), number_in(cgroup / "memory.usage_in_bytes")
    return None if most is None or used is None or most >= NO_LIMIT else max(0, most - used)


def number_in(path: Path) -> int | None:
    """The number in a file; None where it holds none, as where there is no limit."""
    text = (read_text(path) or "").strip()
    return int(text) if text.isdecimal() else None


def read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def check_memory(free: tuple[int | None, int | None]) -> Check:
    """`free` is what the machine and its container have left."""
    machine, container = free
    known = [value for value in free if value is not None]
    if not known:
        return Check(area=AREA, name="memory", state="ok", found="free memory is not known on this system")
    words = [] if machine is None else [f"{size(machine)} free"]
    words += [] if container is None else [f"{size(container)} below the container's limit"]
    least = min(known)
    state, advice = "ok", ""
    if least < LEAST_MEMORY:
        state, advice = "problem", f"a worker needs {size(LEAST_MEMORY)}; free some, or raise the limit"
    elif least < LITTLE_MEMORY:
        state, advice = "warning", "use one worker; large slides may not fit"
    return Check(area=AREA, name="memory", state=state, found=", ".join(words), advice=advice)  # type: ignore[arg-type]


def check_gpus() -> Check:
    if not nvidia_driver_found():
        return Check(area=AREA, name="GPU", state="ok", found="none: no NVIDIA driver; models run on the CPU")
    names = gpu_names()
    if names:
        return Check(area=AREA, name="GPU", state="ok", found=", ".join(names))
    advice = "run nvidia-smi; where it fails, install the driver again or give the container its GPUs (--gpus all)"
    return Check(area=AREA, name="GPU", state="warning", found="an NVIDIA driver, but no GPU answers", advice=advice)


def gpu_names() -> list[str]:
    """Name and memory of each GPU that the driver knows; empty where it does not say."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
