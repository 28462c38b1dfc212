"""What a large archive costs beside the work on its slides: planning, resuming, journal, report, catalogue.

    python tests/benchmarks/archive_scale.py [--slides 1000] [--worked 20] [--folder DIR]

An archive of tiny slides, hard links to a few distinct ones in nested folders. `--worked` of them are really
summarized, which gives the overhead of a slide. All others get a link to the summary of their twin, and a line in a
journal as a run would have written it; then the whole archive is resumed by `wsisum compress` in a process of its own.
Seconds are CPU seconds of the parent process with what it imports, and the wall clock beside it; the overhead of a
slide is what the parent takes for it, from planning to the report.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from draw import draw_tissue, write_svs

from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.plan import Request, make_jobs
from wsisum_cli.archive.run import Listener, Run
from wsisum_cli.archive.state.journal import Journal
from wsisum_cli.archive.state.ledger import Ledger
from wsisum_cli.archive.state.record import fingerprint_of, record_of, source_state
from wsisum_cli.archive.walk import find_slides
from wsisum_cli.archive.workers import Setup
from wsisum_cli.pipeline.job import Options
from wsisum_cli.slides.source import state_of

DISTINCT, SIDE, IN_A_FOLDER = 24, 1024, 100
SETTLE = 2.5  # s until times of change tell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--worked", type=int, default=20, help="slides that are really summarized")
    parser.add_argument("--folder", type=Path, help="where to work; needs about 3 kB a slide and many inodes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        found = measure(Path(name), options.slides, options.worked)
    for what, value in found.items():
        print(f"{what:32} {value}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(root: Path, slides: int, worked: int) -> dict[str, float | str]:
    """All figures."""
    archive, few, output = root / "archive", root / "few", root / "out"
    originals = draw_originals(root / "originals")
    link_archive(originals, few, worked)
    link_archive(originals, archive, slides)
    time.sleep(SETTLE)
    run(few, root / "out-few")
    rows = json.loads((root / "out-few" / "report.json").read_text())["slides"]
    assert sum(row["status"] == "written" for row in rows) == worked
    overhead = parent_seconds(few, root / "out-again") / worked
    forge(root / "out-few", archive, output)
    began = time.process_time()
    find_slides(archive, output)
    walked = time.process_time() - began
    resumed = run(archive, output)
    assert str(resumed["summary"]).startswith(f"0 slides to summarize, {slides} up to date"), resumed["summary"]
    again = run(archive, output)
    index = run(archive, output, "index")
    indexed_again = run(archive, output, "index")
    status = run(archive, output, "status")
    return {
        "slides": slides,
        "worked": worked,
        "overhead a slide, ms": round(1000 * overhead, 2),
        "walk, CPU s": round(walked, 2),
        **{f"resume, {name}": value for name, value in resumed.items() if name != "summary"},
        **{f"resume again, {name}": value for name, value in again.items() if name != "summary"},
        **{f"index, {name}": value for name, value in index.items() if name != "summary"},
        **{f"index again, {name}": value for name, value in indexed_again.items() if name != "summary"},
        **{f"status, {name}": value for name, value in status.items() if name != "summary"},
        "journals, MB": round(sum(path.stat().st_size for path in (output / ".wsisum").rglob("*.jsonl")) / 1e6, 1),
        "report.json, MB": round((output / "report.json").stat().st_size / 1e6, 1),
    }


def draw_originals(folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.svs" for number in range(DISTINCT)]
    for number, path in enumerate(paths):
        write_svs(path, draw_tissue(SIDE, SIDE, seed=number), tile=256)
    return paths


def link_archive(originals: list[Path], archive: Path, count: int) -> None:
    """Hard links in folders of `IN_A_FOLDER`, ten of which lie in one folder."""
    for number in range(count):
        place = number // IN_A_FOLDER
        folder = archive / f"{place // 10:03}" / f"{place % 10}"
        if number % IN_A_FOLDER == 0:
            folder.mkdir(parents=True)
        os.link(originals[number % len(originals)], folder / f"{number:06}.svs")


def run(archive: Path, output: Path, command: str = "compress") -> dict[str, float | str]:
    """CPU and wall seconds and peak memory of the parent of a run, and its first line."""
    arguments = {"compress": [str(archive), "-o", str(output)], "index": [str(output)]}
    words = [sys.executable, "-m", "wsisum_cli", command, *arguments.get(command, [str(output), str(archive)])]
    began = time.perf_counter()
    with open(output.with_suffix(".log"), "w+") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        log.seek(0)
        lines = log.read()
    assert os.waitstatus_to_exitcode(status) == 0, lines[-2000:]
    return {
        "cpu": round(used.ru_utime + used.ru_stime, 2),
        "wall": round(seconds, 2),
        "peak MB": round(used.ru_maxrss / 1000),
        "summary": lines.partition("\n")[0],
    }


def parent_seconds(archive: Path, output: Path) -> float:
    """CPU seconds that a run over slides takes in the parent: its workers are processes of their own."""
    options = Options()
    began = time.process_time()
    run = Run(Request(archive, output, options, ""), Setup(options, "texture", "cpu", 1, output))
    run.go(Manifest(), Listener())
    assert {outcome.status for outcome in run.outcomes} == {"written"}
    return time.process_time() - began


def forge(made: Path, archive: Path, output: Path) -> None:
    """A folder of summaries, and a journal, as a run over `archive` would have left them."""
    report = json.loads((made / "report.json").read_text())
    twins = {row["sha256"]: Outcome(**{k: v for k, v in row.items() if k != "ratio"}) for row in report["slides"]}
    by_file = {}
    sources, _, _ = find_slides(archive, output)
    request = Request(archive, output, Options(), "")
    output.mkdir()
    journal = Journal(output, {"product": "summary", "shard": None, "started": report["started"], "todo": []})
    for relative, job in make_jobs(request, Manifest(), archive, sources, {}):
        inode = job.source.path.stat().st_ino
        if inode not in by_file:
            by_file[inode] = twins[job.source.sha256]
        twin = by_file[inode]
        job.output.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(made / twin.summary, job.output)
        except OSError:  # too many links
            shutil.copy2(made / twin.summary, job.output)
        record = record_of(
            source_state(job.source), state_of(job.output)[:2], fingerprint_of(str(report["settings"]), job)
        )
        assert record is not None
        summary = job.output.relative_to(output).as_posix()
        journal.note(replace(twin, source=relative, summary=summary, record=record))
    journal.end()
    assert len(Ledger(output, "summary").history.lines) == len(sources)


if __name__ == "__main__":
    main()
