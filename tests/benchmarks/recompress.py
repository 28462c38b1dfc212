"""Bytes and seconds of `--recompress jxl`: python tests/benchmarks/recompress.py [ARCHIVE] [--encoder NAME]

Each slide is compressed in both modes of pixels, without and with it, in this process and on one thread. Seconds are of
the processor: of the whole run, and of decoding every kept patch from the file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsisum_cli.archive.door import compress
from wsisum_cli.archive.walk import find_slides
from wsisum_cli.errors import SlideError
from wsisum_cli.summary.reader import Summary, open_summary

SHARED = Path(__file__).parents[2].parent / "shared" / "slides"
HEAD = (
    "| slide | pixels | kept | patches kB | with | saved | summary kB | with | saved | run s | with | read s | with |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, nargs="?", default=SHARED)
    parser.add_argument("--mpp", type=float, default=0.25)
    parser.add_argument("--encoder", default="encoder")
    options = parser.parse_args()
    print(f"{HEAD}\n|---|---|{'---:|' * 11}")
    with tempfile.TemporaryDirectory() as folder:
        slides, _, _ = find_slides(options.archive, Path(folder))
        compress(slides[0].path, Path(folder) / "warm.ozx", mpp=options.mpp, encoder=options.encoder, threads=1)
        for pixels in ("jpeg", "source"):
            for slide in slides:
                print(row(slide.path, Path(folder), pixels, options.mpp, options.encoder), flush=True)


def row(slide: Path, folder: Path, pixels: str, mpp: float, encoder: str) -> str:
    try:
        plain = measure(slide, folder / "plain.ozx", mpp=mpp, encoder=encoder, pixels=pixels)
    except SlideError as error:
        return f"| {slide.stem} | {pixels} | {error.reason} |{' |' * 10}"
    packed = measure(slide, folder / "packed.ozx", mpp=mpp, encoder=encoder, pixels=pixels, recompress="jxl")
    assert packed["recompressed"]
    assert packed["streams"] == plain["streams"]
    cells = [slide.stem, pixels, str(plain["kept"])]
    for name in ("patches", "file"):
        saved = 1 - packed[name] / plain[name]
        cells += [f"{plain[name] / 1000:.0f}", f"{packed[name] / 1000:.0f}", f"{saved:.1%}"]
    cells += [f"{found[name]:.2f}" for name in ("run", "read") for found in (plain, packed)]
    return f"| {' | '.join(cells)} |"


def measure(slide: Path, output: Path, **options: Any) -> dict[str, Any]:
    """Bytes of the patches and of the file, and seconds."""
    run, done = timed(lambda: compress(slide, output, threads=1, force=True, **options))
    with open_summary(output) as summary:
        read, _ = timed(lambda: [patch.sum() for patch in summary.patches])
        return {
            "kept": done.attributes.patches,
            "recompressed": done.attributes.pixels.recompressed,
            "patches": sum(m.size for name, m in summary.members.items() if name.startswith("patches/")),
            "file": summary.size,
            "streams": streams(summary),
            "run": run,
            "read": read,
        }


def streams(summary: Summary) -> list[bytes]:
    return [summary.patches.shard.stream(row) for row in range(len(summary.patches.shard))]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


if __name__ == "__main__":
    main()
