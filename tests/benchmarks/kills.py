"""End runs in the middle, in every way that happens, and look at what they leave.

    python tests/benchmarks/kills.py [--trials 20] [--seed 0] [--folder DIR]

Each trial starts `wsisum compress` on a few tiny slides and disturbs it at a random moment: kill -9 of the run or of a
worker, SIGTERM, a second run on the same folder that is killed, files that may grow no more, a slide that vanishes or
is replaced, and, where the system allows it, a full disk and folders that become read-only. Then every summary has to
be whole and of the right bytes, the status readable, and a run without disturbance has to finish the archive with the
right bytes, an exact report, and nothing left aside.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archives import set_back
from draw import draw_tissue, write_svs

from wsisum_cli.archive.state.former import REPLACED
from wsisum_cli.summary.container import visible_summaries
from wsisum_cli.verification.verify import is_whole

SLIDES = 4
CHANGING, SUMMARY = "0/0.svs", "0/0.ozx"  # the slide that vanishes or is replaced, and its summary
WAYS = ("kill", "kill worker", "terminate", "two runs", "file limit", "vanished slide", "replaced slide")
FULL, READ_ONLY = "full disk", "read-only folders"  # ways that need rights
DISK = (200, 3000)  # kB of the full disk, at random: from room for a journal to room for most of the outputs
SETTLE = 1.0  # s until workers have seen that their parent is gone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    draw, counts = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        root = Path(name)
        archive = draw_archive(root / "in")
        began = time.perf_counter()
        start(archive, root / "whole").wait()
        seconds = time.perf_counter() - began
        expected = summaries(root / "whole")
        assert len(expected) == SLIDES
        of_another = other_summary(root)
        ways = (*WAYS, *([FULL] if may_mount(root) else []), *([READ_ONLY] if may_close(root) else []))
        for trial in range(options.trials):
            way = ways[trial % len(ways)]
            with mounted(root / "out", draw.randint(*DISK)) if way == FULL else nullcontext():
                disturb(way, archive, root / "out", draw.uniform(0, seconds))
                check(archive, root / "out", expected, of_another)
            counts[way] += 1
            if draw.random() < 0.7:  # else the next trial begins with a finished archive
                shutil.rmtree(root / "out")
            print(f"[{trial + 1}/{options.trials}] {way}: good", flush=True)
    print(", ".join(f"{count} {way}" for way, count in counts.items()))


def draw_archive(archive: Path) -> Path:
    for number in range(SLIDES):
        path = archive / f"{number % 2}" / f"{number}.svs"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_svs(path, draw_tissue(1024, 1024, seed=number), tile=256)
        set_back(path)
    return archive


def start(archive: Path, output: Path, most_bytes: int | None = None) -> subprocess.Popen[bytes]:
    """A run, which cannot write files of more than `most_bytes`."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, "-m", "wsisum_cli", "compress", str(archive), "-o", str(output), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=limit)


def other_summary(root: Path) -> bytes:
    """The summary of the slide that takes another's place; it is left beside the archive."""
    other = root / "another" / CHANGING
    other.parent.mkdir(parents=True)
    write_svs(other, draw_tissue(1024, 1024, seed=SLIDES), tile=256)
    set_back(other)
    start(root / "another", root / "of-another").wait()
    return summaries(root / "of-another")[SUMMARY]


def may_mount(root: Path) -> bool:
    try:
        with mounted(root / "probe", DISK[0]):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """A file system in memory of `size` kB at the folder. What is on it stays afterwards, on the disk below."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        kept = folder.with_name("kept")
        shutil.copytree(folder, kept)
        subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)
        kept.rename(folder)


def may_close(root: Path) -> bool:
    try:
        set_read_only([root / "another"], True)
        set_read_only([root / "another"], False)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def set_read_only(folders: list[Path], on: bool) -> None:
    """Folders in which nobody, root included, may make, rename or remove a file; files that are open stay so."""
    subprocess.run(["chattr", "+i" if on else "-i", *map(str, folders)], check=True, capture_output=True)


def disturb(way: str, archive: Path, output: Path, seconds: float) -> None:
    """One run that does not go as it should."""
    run = start(archive, output, int(seconds * 50_000) + 2_000 if way == "file limit" else None)
    if way in ("file limit", FULL):
        run.wait()
    else:
        other = start(archive, output) if way == "two runs" else None
        time.sleep(seconds)
        disturb_now(way, archive, output, run)
        if other is not None:
            other.wait()
    if way == FULL:
        subprocess.run(["mount", "-o", "remount,size=100m", str(output)], check=True)
    time.sleep(SETTLE)


def disturb_now(way: str, archive: Path, output: Path, run: subprocess.Popen[bytes]) -> None:
    """Do it, wait until the run has ended, and put things back."""
    slide, aside = archive / CHANGING, archive.parent / "aside"
    closed: list[Path] = []
    if way in ("kill", "two runs"):
        run.kill()
    elif way == "terminate":
        run.send_signal(signal.SIGTERM)
    elif way == "kill worker" and run.poll() is None:
        for child in psutil.Process(run.pid).children()[-1:]:
            child.kill()
    elif way == READ_ONLY and output.is_dir():
        closed = [output, *(path for path in output.rglob("*") if path.is_dir())]
        set_read_only(closed, True)
    elif way in ("vanished slide", "replaced slide"):
        slide.rename(aside)
        if way == "replaced slide":
            shutil.copy2(archive.parent / "another" / CHANGING, slide)
    run.wait()
    if closed:
        set_read_only(closed, False)
    if aside.exists():
        aside.replace(slide)


def check(archive: Path, output: Path, expected: dict[str, bytes], of_another: bytes) -> None:
    """Nothing half now, and all of it after a run that nothing disturbs."""
    for path, content in summaries(output).items() if output.is_dir() else ():
        assert is_whole(output / path)
        assert content == expected[path] or (path == SUMMARY and content == of_another)
    if (output / ".wsisum").is_dir():
        status = subprocess.run([*wsisum("status", output, archive), "--json"], capture_output=True, check=False)
        assert len(json.loads(status.stdout)["slides"]) == SLIDES, status
    run = start(archive, output)
    assert run.wait() == 0
    assert summaries(output) == expected
    for copy in (output / REPLACED).rglob("*.ozx"):
        assert copy.read_bytes() in (of_another, *expected.values())
    rows = json.loads((output / "report.json").read_text())
    assert rows["not_tried"] == []
    assert Counter(row["status"] in ("written", "skipped") for row in rows["slides"]) == {True: SLIDES}
    assert not list(output.rglob("*.part"))


def wsisum(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "wsisum_cli", *map(str, arguments)]


def summaries(output: Path) -> dict[str, bytes]:
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in visible_summaries(output)}


if __name__ == "__main__":
    main()
