"""Fuzzes what opens a summary: bytes with faults, and whole summaries with faults inside whose checksums fit.

Run it for as long as one likes: `python tests/fuzz/summary_target.py --seconds N`. What is not survived is kept.
"""

from __future__ import annotations

import argparse
import atexit
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "support", HERE.parents[1]):
    sys.path.insert(0, str(folder))

import numpy as np  # noqa: E402 - found by the path above
from fuzzing import MOST_GROWTH, ROOM, high_water, run_once  # noqa: E402
from mutate import mutated  # noqa: E402
from rich.console import Console  # noqa: E402
from summaries import as_jpeg_xl, sign_again, tiny_contents, unpack, write_tiny  # noqa: E402

from wsisum_cli.commands.console import print_summary  # noqa: E402
from wsisum_cli.commands.verdicts import print_verifications  # noqa: E402
from wsisum_cli.errors import SummaryError  # noqa: E402
from wsisum_cli.exports.export import export_summary  # noqa: E402
from wsisum_cli.exports.targets import TARGETS  # noqa: E402
from wsisum_cli.figures.pages.slide_page import slide_page  # noqa: E402
from wsisum_cli.summary.arrays import encode_array  # noqa: E402
from wsisum_cli.summary.inspection import inspect_summary  # noqa: E402
from wsisum_cli.summary.reader import open_summary  # noqa: E402
from wsisum_cli.summary.standing import judge_again  # noqa: E402
from wsisum_cli.summary.writer import write_summary  # noqa: E402
from wsisum_cli.verification.arrays import refuse_unsound  # noqa: E402
from wsisum_cli.verification.verify import verify_summary  # noqa: E402

FOLDER = Path(tempfile.mkdtemp(prefix="wsisum-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, True)
FORMATS = sorted((HERE.parent / "data/formats").glob("*.ozx"))
JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 63, 8192, 2**31 - 1, 2**53, 10**400, 0.5, -0.0, 1e308, float("1e-9")),
    *("", "x", "\x1b[2J", "\u202e", "\ud800", "=1", "x" * 5000, "1.0", "2.0", [], {}, [[]], [0] * 50, {"a": {}}),
)
VALUES = (0, 1, -1, 2, 127, 255, 2**15 - 1, -(2**15), 2**31 - 1, -(2**31), np.nan, np.inf, -np.inf, 1e-30, 0.5)


def read_summary(data: bytes) -> None:
    """Open, inspect, show as a page, verify and export."""
    path, out = FOLDER / "a.ozx", FOLDER / "out"
    path.write_bytes(data)
    shutil.rmtree(out, ignore_errors=True)
    with open_summary(path) as summary:
        try:
            refuse_unsound(summary)
            facts = inspect_summary(summary)
            print_summary(Console(file=io.StringIO(), width=100), facts, judge_again(summary.record), True)
            slide_page(summary)
        except SummaryError:  # the other commands look at it all the same
            pass
    for tier in ("quick", "full"):
        result = verify_summary(path, tier=tier)
        internal = [finding.message for finding in result.findings if finding.code == "internal"]
        assert not internal, internal
        json.dumps(result.as_dict())
        print_verifications(Console(file=io.StringIO(), width=100), [result], "PASS", True)
    export_summary(path, out, TARGETS["zarr"])


def seeds() -> list[bytes]:
    made = [write_tiny(FOLDER / f"{mode}.ozx", mode) for mode in ("jpeg", "source", "models")]
    for mode in ("jpeg", "source"):
        made.append(FOLDER / f"{mode}-jxl.ozx")
        write_summary(made[-1], as_jpeg_xl(tiny_contents(mode)))
    return [path.read_bytes() for path in (*FORMATS, *made)]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path within JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for name, part in inner for path in places(part, (*at, name)))]


def edit_json(members: dict[str, bytes], rng: random.Random) -> None:
    """Another value, or none, somewhere in the metadata; mostly in the attributes."""
    names = [name for name in members if name.endswith("zarr.json")]
    name = rng.choice(("zarr.json", rng.choice(names)))
    document = json.loads(members[name])
    *parents, last = rng.choice(places(document)[1:])
    part = document
    for parent in parents:
        part = part[parent]
    kind = rng.random()
    if kind < 0.15:
        part.pop(last)
    elif kind < 0.5 and isinstance(part[last], int | float) and not isinstance(part[last], bool):
        part[last] = rng.choice((part[last] * 2, part[last] - 1, -part[last], part[last] * 1.0001, part[last] + 2**31))
    else:
        part[last] = rng.choice(JUNK)
    members[name] = json.dumps(document).encode()


def edit_array(members: dict[str, bytes], rng: random.Random) -> None:
    """Other numbers, or another shape, of an array whose metadata fit."""
    (FOLDER / "base.ozx").write_bytes(b"")
    sign_again(FOLDER / "base.ozx", members)
    with open_summary(FOLDER / "base.ozx") as summary:
        arrays = [
            name.removesuffix("/zarr.json")
            for name in members
            if json.loads(members[name] if name.endswith("zarr.json") else b"{}").get("node_type") == "array"
        ]
        name = rng.choice(arrays)
        try:
            values = summary.array(name)
        except SummaryError:
            return
        if not values.size or values.ndim > 3:
            return
        values = values.copy()
        if rng.random() < 0.25:
            values = rng.choice((values[:-1], np.concatenate([values, values[-1:]]), values.T, values.ravel()))
        else:
            flat = values.reshape(-1)
            with np.errstate(all="ignore"):
                for _ in range(rng.choice((1, 1, 3, flat.size))):
                    number = np.array(rng.choice(VALUES)).astype(values.dtype)
                    flat[rng.randrange(flat.size)] = number
        members |= encode_array(name, values, [f"d{number}" for number in range(values.ndim)])


def edit_members(members: dict[str, bytes], rng: random.Random) -> None:
    """A member less, another one's bytes, or changed bytes."""
    name, other = rng.choice(sorted(members)[:-1]), rng.choice(sorted(members)[:-1])
    kind = rng.random()
    if kind < 0.2:
        members.pop(name)
    elif kind < 0.4:
        members[name] = members[other]
    elif kind < 0.5:
        members[f"{name}x"] = members[other]
    else:
        members[name] = mutated([members[name] or b"0"], rng)


EDITS: tuple[Callable[[dict[str, bytes], random.Random], None], ...] = (edit_json, edit_json, edit_array, edit_members)


def mutated_summary(found: list[bytes], rng: random.Random) -> bytes:
    """Bytes with faults, or a summary with faults inside, whose checksums fit."""
    if rng.random() < 0.3:
        return mutated(found, rng)
    path = FOLDER / "mutated.ozx"
    path.write_bytes(rng.choice(found))
    members = unpack(path)
    for _ in range(rng.choice((1, 1, 2, 3))):
        try:
            rng.choice(EDITS)(members, rng)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, AttributeError, SummaryError):
            continue  # an earlier change leaves nothing to edit there
    try:
        sign_again(path, members)
    except (ValueError, KeyError, TypeError, AttributeError):
        return mutated(found, rng)
    return path.read_bytes()


def serve(keep: Path, seed: int, seconds: float, most: int) -> int:
    """Read one file after the other; those that are not survived are kept. Returns how many those are."""
    import resource

    keep.mkdir(parents=True, exist_ok=True)
    good, rng, bad, count = seeds(), random.Random(seed), 0, 0
    for data in good:
        if what := run_once(read_summary, data):
            raise RuntimeError(what)
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, held + ROOM))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    warnings.simplefilter("error")
    peak, until = high_water(), time.monotonic() + seconds
    while count < most and time.monotonic() < until:
        data, count = mutated_summary(good, rng), count + 1
        (keep / "current").write_bytes(data)
        what = run_once(read_summary, data)
        if high_water() - peak > MOST_GROWTH:
            what, peak = what or "takes much more memory than good files do", high_water()
        if what:
            bad += 1
            (keep / f"{seed}-{count}.ozx").write_bytes(data)
            print(f"{seed}-{count}.ozx\n{what}", flush=True)
    (keep / "current").unlink(missing_ok=True)
    print(f"summaries: {count} files read, {bad} findings", flush=True)
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=1 << 60, help="files at most")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings/summaries"), help="folder for the files found")
    given = parser.parse_args()
    return bool(serve(given.keep, given.seed, given.seconds, given.most))


if __name__ == "__main__":
    sys.exit(main())
