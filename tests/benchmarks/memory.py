"""Memory of one worker that compresses slides, one after the other, and how it grows.

    python tests/benchmarks/memory.py SLIDE ... [--times 10] [--mpp 0.25] [--threads 2] [--stages]

Runs `compress` with its default options in this process, as a worker does. Printed after each slide: the largest
resident memory while it was worked on, and what stays resident, with the ratio to what stayed after the first slide;
`--stages` adds the peak in each stage. Mapped files count as far as they are read. Linux only.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import threading
import time
from pathlib import Path

from wsisum_cli.archive.workers import give_back_memory, share_heaps
from wsisum_cli.commands.options import cores
from wsisum_cli.models.choice import AUTO, choose_models
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.models.places import find_model
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.slides.source import Source

AIMS = "aims: a peak of at most 800 MB on the largest slide, and 1.10 times the first after ten slides"
INTERVAL = 0.02  # s


def resident(kind: str = "VmRSS") -> float:
    """MB of this process: VmRSS now, VmHWM at most."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Stages:
    """The peak of each stage, as a thread sees it."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}
        self.name = ""
        threading.Thread(target=self._look, daemon=True).start()

    def enter(self, name: str) -> None:
        self.name = name

    def _look(self) -> None:
        while True:
            if self.name:
                self.peaks[self.name] = max(self.peaks.get(self.name, 0.0), resident())
            time.sleep(INTERVAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--times", type=int, default=1, help="how often the slides are taken, in turn")
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--stages", action="store_true")
    options = parser.parse_args()
    share_heaps()
    stages = Stages()
    models = choose_models(AUTO, AUTO, find_model("encoder"), False, None).load("cpu")
    tools = Tools(load_encoder("encoder", "cpu"), options.threads, stages.enter, models=models)
    print(f"{AIMS}\nloaded: {resident():.0f} MB")
    first = 0.0
    with tempfile.TemporaryDirectory() as work:
        for number, path in enumerate(options.slides * options.times):
            forget_peak()
            stages.peaks.clear()
            job = Job(Source(path, (path,)), Path(work) / f"{number}.ozx", path.name, options.mpp)
            done = compress_slide(job, Options(), tools)
            stages.name = ""
            give_back_memory()
            after = resident()
            first = first or after
            words = f"{path.name:32} {done.attributes.tissue_patches:6} patches  peak {resident('VmHWM'):5.0f} MB"
            print(f"{words}  after {after:5.0f} MB  {after / first:.2f} of the first", flush=True)
            if options.stages:
                print("   ", ", ".join(f"{name} {peak:.0f}" for name, peak in stages.peaks.items()), flush=True)


if __name__ == "__main__":
    main()
