"""Runs a reader on many files with faults, in a process of its own whose memory and time are bounded."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: s of processor time that one file may take; good ones take less than a tenth of one.
MOST_SECONDS = 5.0
#: Bytes by which the process may come to hold more than it did for good files. Decoders round up and keep heaps.
MOST_GROWTH = 400 << 20
#: Bytes of address space beyond those of good files: enough that a bomb shows as growth, little enough for the machine.
ROOM = 4 << 30
#: s by the clock after which a process that says nothing is taken to hang without using the processor.
SILENT = 600.0
#: What libraries say where an allocation fails.
NO_MEMORY = re.compile("bad_alloc|[Uu]nable to allocate|[Oo]ut of memory|[Ii]nsufficient memory|can't allocate")
#: After so many findings there is something to mend first.
MOST_FINDINGS = 20


@dataclass(frozen=True)
class Finding:
    """One file that a reader did not survive, and what happened."""

    what: str
    file: Path


@dataclass(frozen=True)
class Outcome:
    executions: int
    findings: list[Finding]


def fuzz(reader: str, folder: Path, seed: int, seconds: float, most: int = 1 << 60) -> Outcome:
    """Run `reader` for so many seconds, or `most` files; files that it does not survive are kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    findings: list[Finding] = []
    done, until = 0, time.monotonic() + seconds
    while done < most and (rest := until - time.monotonic()) > 0 and len(findings) < MOST_FINDINGS:
        command = [sys.executable, str(HERE / "run.py"), reader, "--seconds", str(rest), "--seed", str(seed)]
        command += ["--most", str(most - done), "--child", str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, errors = process.communicate(timeout=rest + SILENT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            errors = "hangs without using the processor"
        if process.returncode and not (folder / "current").exists():
            raise RuntimeError(f"{reader} does not read good files: {errors}")
        done += read_count(folder)
        findings += collect(folder, reader, seed, process.returncode, errors)
        seed += 1
    return Outcome(done, findings)


def read_count(folder: Path) -> int:
    path = folder / "count"
    count = int(path.read_text() or 0) if path.exists() else 0
    path.unlink(missing_ok=True)
    return count


def collect(folder: Path, reader: str, seed: int, code: int | None, errors: str) -> list[Finding]:
    """What the process wrote down, and the file at which it died."""
    found = []
    notes = folder / "notes.jsonl"
    for number, line in enumerate(notes.read_text().splitlines() if notes.exists() else []):
        note = json.loads(line)
        path = folder / f"{reader}-{seed}-{number}"
        path.write_bytes(Path(note["file"]).read_bytes())
        Path(note["file"]).unlink()
        found.append(Finding(note["what"], path))
    notes.unlink(missing_ok=True)
    if code:
        path = folder / f"{reader}-{seed}-died"
        (folder / "current").replace(path)
        what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        what = f"takes more than {MOST_SECONDS:g} s" if what == "SIGPROF" else what
        found.append(Finding(f"died: {what} {errors[-2000:]}", path))
    return found


# ---------------------------------------------------------------------------------------------- in the process


def serve(reader: str, folder: Path, seed: int, seconds: float, most: int) -> None:
    """Run the reader on one file after the other. The current one lies in `folder` in case the process dies."""
    import resource

    from mutate import mutated
    from targets import SEEDS, TARGETS

    target, seeds, rng = TARGETS[reader], SEEDS[reader](), random.Random(seed)
    for good in seeds:
        if what := run_once(target, good):
            raise RuntimeError(what)
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, held + ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, also within a native decoder
    peak, until, noted = high_water(), time.monotonic() + seconds, 0
    for count in range(1, most + 1):
        data = mutated(seeds, rng)
        (folder / "current").write_bytes(data)
        (folder / "count").write_text(str(count))
        what = run_once(target, data)
        if high_water() - peak > MOST_GROWTH:
            what = what or f"takes {(high_water() - peak) >> 20} MiB more than good files do"
            peak = high_water()
        if what:
            noted += 1
            kept = folder / f"noted-{noted}"
            kept.write_bytes(data)
            with open(folder / "notes.jsonl", "a") as notes:
                notes.write(json.dumps({"what": what, "file": str(kept)}) + "\n")
        if noted >= MOST_FINDINGS or time.monotonic() > until:
            return


def run_once(target: object, data: bytes) -> str:
    """What is wrong with how a file is read; empty where it is read, or refused as it should be."""
    from wsisum_cli.errors import WsisumError

    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        target(data)  # type: ignore[operator]
    except WsisumError as error:
        return "asks for more memory than there is" if is_of_memory(error) else ""
    except BaseException:  # noqa: BLE001 - whatever it is, it should have been a refusal
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def is_of_memory(error: BaseException | None) -> bool:
    """Whether a refusal comes of an allocation that failed."""
    while error is not None:
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def high_water() -> int:
    """The most bytes that this process has held."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
