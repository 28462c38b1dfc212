"""An output folder: whether it can be written to, its free space, and its speed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from wsisum_cli.archive.health.check import Check
from wsisum_cli.figures.words import size

AREA = "output"
LEAST_SPACE, LITTLE_SPACE = 500_000_000, 10_000_000_000  # bytes
SLOW = 10_000_000  # bytes a second
SAMPLE = 64 << 20  # bytes written and read


def check_output(folder: Path) -> Iterator[Check]:
    """Nothing is left behind; a folder that is not there is not made, and the one that would hold it is tried."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    if not there.is_dir():
        advice = "choose another --output"
        yield Check(area=AREA, name="folder", state="problem", found=f"{there} is not a folder", advice=advice)
        return
    yield check_space(shutil.disk_usage(there).free)
    try:
        written, read = measure_speed(there)
    except OSError as error:
        advice = "give yourself the right to write there, or choose another --output"
        found = f"cannot be written to ({error.strerror})"
        yield Check(area=AREA, name="speed", state="problem", found=found, advice=advice)
        return
    yield check_speed(written, read)


def check_space(free: int) -> Check:
    """`free` bytes."""
    if free >= LITTLE_SPACE:
        return Check(area=AREA, name="free space", state="ok", found=size(free))
    state, advice = ("problem", "free some") if free < LEAST_SPACE else ("warning", "enough for small archives alone")
    return Check(area=AREA, name="free space", state=state, found=size(free), advice=advice)  # type: ignore[arg-type]


def check_speed(written: float, read: float) -> Check:
    """Bytes a second."""
    found = f"writes {size(written)}/s, reads {size(read)}/s"
    if min(written, read) >= SLOW:
        return Check(area=AREA, name="speed", state="ok", found=found)
    advice = "a network drive or a slow disk; write to a local disk and move the summaries afterwards"
    return Check(area=AREA, name="speed", state="warning", found=found, advice=advice)


def measure_speed(folder: Path) -> tuple[float, float]:
    """Bytes a second, written to the disk and read from it, where the system lets go of its copy. Raises OSError."""
    block = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=folder, prefix=".wsisum-") as file:
        begun = time.perf_counter()
        for _ in range(SAMPLE // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begun_reading = time.perf_counter()
        while file.read(len(block)):
            pass
        done = time.perf_counter()
    return SAMPLE / max(written - begun, 1e-9), SAMPLE / max(done - begun_reading, 1e-9)
