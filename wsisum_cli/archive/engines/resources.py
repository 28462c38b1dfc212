"""What this machine offers, and how many worker processes fit it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Bytes that a worker may take: a slide of 150,000 patches takes 2.7 GB, one of 20,000 under 1 GB.
WORKER_BYTES = 3_000_000_000
CUDA = "CUDAExecutionProvider"
GROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # bytes; what cgroups of version 1 state where there is no limit is larger


@dataclass(frozen=True)
class Machine:
    """What a run may use."""

    cores: int
    memory: int | None  # bytes; None where the system does not say
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them


@dataclass(frozen=True)
class Crew:
    """How many workers, and what each has."""

    workers: int
    threads: int  # of each
    gpus: tuple[str, ...] = ()  # for the workers in turn; empty: each sees all GPUs
    why: str = ""  # what decided, for people


def choose_crew(wanted: int | None, machine: Machine, device: str) -> Crew:
    """As many workers as `wanted`; if None, one a GPU, or else one a core where memory allows it."""
    gpus = () if device == "cpu" else machine.gpus
    if wanted is not None:
        shared = gpus if len(gpus) > 1 and wanted > 1 else ()
        return Crew(wanted, max(1, machine.cores // wanted), shared)
    fit = machine.cores if machine.memory is None else max(1, machine.memory // WORKER_BYTES)
    if gpus:
        count = min(len(gpus), fit)
        return Crew(count, max(1, machine.cores // count), gpus if len(gpus) > 1 else (), "one a GPU")
    count = max(1, min(machine.cores, fit))
    why = "one a core" if count == machine.cores else f"one for each {WORKER_BYTES // 10**9} GB of memory"
    return Crew(count, max(1, machine.cores // count), (), why)


def this_machine(visible_gpus: str | None) -> Machine:
    """The machine and the limits of its container. `visible_gpus` is what CUDA_VISIBLE_DEVICES says."""
    return Machine(cores(), usable_memory(), find_gpus(visible_gpus))


def cores(groups: Path = GROUPS) -> int:
    """Number of CPU cores that this process may use, by its affinity and its cgroup's share of time."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = [*read_numbers(groups / "cpu.max"), None, None][:2]
    if quota is None:
        quota, period = (first(groups / f"cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota is not None and period and quota > 0:
        count = min(count, max(1, quota // period))
    return count


def usable_memory(groups: Path = GROUPS, total: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of memory free for this process: what the machine has available, within its cgroup's limit."""
    limits = [first(groups / "memory.max"), first(groups / "memory/memory.limit_in_bytes"), available(total)]
    known = [limit for limit in limits if limit is not None and limit < UNLIMITED]
    return min(known, default=None)


def available(path: Path) -> int | None:
    """Bytes of memory available, as Linux estimates them."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return int(found) * 1024 if found else None


def nvidia_driver_found() -> bool:
    from wsisum_cli.models import session  # slow to import

    return session.nvidia_driver_found()


def find_gpus(visible: str | None, driver: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that CUDA would use, as CUDA_VISIBLE_DEVICES takes them."""
    if not nvidia_driver_found():
        return ()
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    count = len(list(driver.iterdir())) if driver.is_dir() else 1
    return tuple(map(str, range(count)))


def why_no_gpu(device: str, gpus: Sequence[str], start: Callable[[str], str | None] = lambda provider: None) -> str:
    """Why models run on the CPU, in a few words. `start` says why a provider does not start, or None."""
    if device == "cpu":
        return "as asked for"
    if not nvidia_driver_found():
        return "no NVIDIA driver found"
    return (start(CUDA) or "CUDA does not start") if gpus else "no GPU is visible"


def first(path: Path) -> int | None:
    """The first number of a file; None where there is none."""
    return next(iter(read_numbers(path)), None)


def read_numbers(path: Path) -> list[int]:
    try:
        words = path.read_text().split()
    except OSError:
        return []
    return [int(word) for word in words if word.lstrip("-").isdigit()] if words[:1] != ["max"] else []
