"""Compress each slide of an archive in both pixel modes: ratio, what takes the bytes, seconds, peak memory.

    python tests/benchmarks/archive.py [ARCHIVE] [--mpp 0.25] [--json FILE]

Each slide runs in a `wsisum compress` of its own with one worker; memory is that of all its processes together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from wsisum_cli.archive.walk import find_slides
from wsisum_cli.summary.reader import open_summary

SHARED = Path(__file__).parents[2].parent / "shared" / "slides"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, nargs="?", default=SHARED)
    parser.add_argument("--mpp", default="0.25")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        slides, _, _ = find_slides(options.archive, Path(folder))
        for pixels in ("jpeg", "source"):
            for slide in slides:
                rows.append(measure(slide.path, Path(folder) / pixels, pixels, options.mpp))
                print(line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n" + table(rows))


def measure(slide: Path, output: Path, pixels: str, mpp: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "wsisum_cli", "compress", str(slide), "-o", str(output)]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--pixels", pixels, "--mpp", mpp], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    row = next(r for r in json.loads((output / "report.json").read_text())["slides"] if r["source"] == slide.name)
    found = {"slide": slide.name, "asked": pixels, "seconds": round(seconds, 1), "peak_mb": round(peak / 1e6)}
    if row["status"] != "written":
        return {**found, "outcome": f"{row['status']}: {row['reason']}"}
    kept = {name: row[name] for name in ("bytes_in", "bytes_out", "ratio", "patches", "tissue_patches", "coverage")}
    return {**found, "outcome": "written", **kept, **shares(output / row["summary"])}


def memory_of(pid: int) -> int:
    """Resident bytes of a process and its children; shared pages count for each."""
    try:
        root = psutil.Process(pid)
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


def shares(path: Path) -> dict[str, int]:
    """Bytes of the summary by what they are for."""
    groups = {
        "pixel_bytes": ("patches/",),
        "overview_bytes": ("0/", "overview/"),
        "tissue_bytes": ("tissue/", "reference/"),
    }
    with open_summary(path) as summary:
        sizes = {name: member.size for name, member in summary.members.items()}
        found = {
            key: sum(size for name, size in sizes.items() if name.startswith(prefixes))
            for key, prefixes in groups.items()
        }
        return {**found, "other_bytes": path.stat().st_size - sum(found.values())}


def line(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.items())


def table(rows: list[dict[str, Any]]) -> str:
    names = ("slide", "pixels", "ratio", "summary kB", "patches kB", "overview kB", "tissue kB", "other kB")
    head = "| " + " | ".join([*names, "kept", "coverage", "s", "peak MB"]) + " |"
    lines = [head, "|---|---|" + "---:|" * 10]
    for row in rows:
        if row["outcome"] != "written":
            lines.append(f"| {row['slide']} | {row['asked']} | {row['outcome']} |" + " |" * 9)
            continue
        sizes = ("bytes_out", "pixel_bytes", "overview_bytes", "tissue_bytes", "other_bytes")
        cells = [
            *(row["slide"], row["asked"], f"{row['ratio']:.1f}"),
            *(f"{row[name] / 1000:.0f}" for name in sizes),
            *(f"{row['patches']}/{row['tissue_patches']}", f"{row['coverage']:.3f}"),
            *(f"{row['seconds']:.1f}", str(row["peak_mb"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
