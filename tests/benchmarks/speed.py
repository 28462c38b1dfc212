"""How fast the project is beside what users would take instead, and beside the hardware: `make bench`.

    python tests/benchmarks/speed.py SLIDE ... [--large FOLDER ...] [--growth FOLDER ...] [--mpp 0.25] [--rounds 5]
        [--page docs/speed.md]

Measured in turns, and given as ratios to a rival or a floor in the same rounds: reading patches, `features` and
`compress` from end to end, two workers beside one, seconds beside tissue and glass, and the CPU time of short commands.
Rivals that are not installed are left out, and named. Without `--page` the tables are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import describe_machine
from plain_loop import PlainEncoder, encode_plainly
from readers import FLOOR, OURS, RIVALS, Reader, Task, ignore, is_jpeg, needed_tiles, our_reader, tile_floor
from rounds import Rounds, Work, alternate, alternate_made, scaled, spend
from speed_page import Growth, Measured, Reading, Whole, Workers, fill_page, sections

from wsisum_cli.archive.walk import find_slides
from wsisum_cli.commands.options import cores
from wsisum_cli.errors import WsisumError
from wsisum_cli.models.choice import AUTO, choose_models
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.models.places import find_model
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.extract import NOTHING_COPIED, FeatureOptions, extract_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.scene import choose_grid, find_tissue_mask
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import blocks, read_patches
from wsisum_cli.slides.slide import Slide, open_slide, read_overview
from wsisum_cli.slides.source import Source
from wsisum_cli.tissue.grid import Grid

HERE = Path(__file__).parent
READ = 160  # patches of each slide that every library reads
SAMPLE = 400  # patches of which decoding, encoding and the plain loop are timed; more are the same again
COMPARED = 64  # patches whose features are compared
SECTIONS = ("reading", "whole", "workers", "start")


@dataclass(frozen=True)
class Scene:
    """An open slide, and the patches that `features` and `compress` take."""

    source: Source
    slide: Slide
    features: Grid
    compress: Grid


@contextmanager
def opened(source: Source, mpp: float | None, tools: Tools) -> Iterator[Scene]:
    with open_slide(source.path, mpp, source.path.name, files=source.files) as slide:
        overview = read_overview(slide, Damage(), tools.threads)
        mask, _ = find_tissue_mask(slide, overview, None)
        grids = [choose_grid(slide, overview, mask, options, tools.encoder) for options in (NOTHING_COPIED, Options())]
        yield Scene(source, slide, *grids)


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def first(grid: Grid, count: int) -> Grid:
    """The first patches, block by block, as they are read."""
    return replace(grid, coords=grid.coords[np.concatenate(blocks(grid.coords, grid.reading))[:count]])


# --- reading


def measure_reading(scene: Scene, rounds: int, threads: int) -> list[Reading]:
    """The grid of `features`, and that of `compress` where it differs."""
    grids = {"features": scene.features}
    if not np.array_equal(scene.features.coords, scene.compress.coords):
        grids["compress"] = scene.compress
    found = []
    for name, grid in grids.items():
        say(f"{scene.source.path.name}: reading, grid of {name}")
        found.append(read_in_turns(Task(scene.source.path, scene.slide, first(grid, READ), threads), name, rounds))
    return found


def read_in_turns(task: Task, grid: str, rounds: int) -> Reading:
    ours = our_reader(task)
    makers: dict[str, Callable[[], Reader]] = {OURS: lambda: ours}
    agreement: dict[str, float] = {}
    failed: dict[str, str] = {}
    expected = pixels_of(ours)
    for rival in RIVALS:
        if rival.version is None:
            continue
        try:
            agreement[rival.name] = psnr(expected, pixels_of(rival.make(task)))
        except Exception as error:  # noqa: BLE001 - whatever a library raises, it cannot read the slide
            failed[rival.name] = type(error).__name__
        else:
            makers[rival.name] = partial(rival.make, task)

    floor = tile_floor(task)
    works: dict[str, Callable[[], Work]] = {name: partial(fresh, make) for name, make in makers.items()}
    spent = alternate_made({FLOOR: lambda: floor, **works}, rounds)
    return Reading(
        task.path.name,
        kind=describe_level(task),
        grid=grid,
        aligned=task.grid.aligned,
        enlarged=task.grid.reading.side < task.grid.reading.patch_size,
        patches=len(task.grid.coords),
        tiles=len(needed_tiles(task.grid)),
        spent=spent,
        agreement=agreement,
        failed=failed,
    )


def fresh(make: Callable[[], Reader]) -> Work:
    """A reader whose caches are empty, as a work."""
    return partial(make(), ignore)


def describe_level(task: Task) -> str:
    """Pixel size and tiles of the level that patches are read from."""
    index = task.grid.reading.level
    level = task.slide.levels[index]
    kind = "JPEG" if is_jpeg(task) else "not JPEG"
    return f"{task.slide.mpp * level.downsample:.3g} µm, tiles of {level.tile_width} px, {kind}"


def pixels_of(reader: Reader) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    reader(lambda row, pixels: found.update({row: pixels.copy()}))
    return found


def psnr(expected: dict[int, np.ndarray], found: dict[int, np.ndarray]) -> float:
    """dB over all patches, 100 at most. Raises ValueError where patches lack."""
    if expected.keys() != found.keys():
        raise ValueError(f"{len(found)} of {len(expected)} patches read")
    errors = [np.mean((pixels.astype(np.float32) - found[row]) ** 2) for row, pixels in expected.items()]
    return min(100.0, 10 * math.log10(255**2 / max(float(np.mean(errors)), 1e-9)))


# --- from end to end


def measure_whole(scene: Scene, mpp: float | None, rounds: int, tools: Tools, plain: PlainEncoder, work: Path) -> Whole:
    """`features` and `compress` beside the floor, the plain loop, hashing and copying the file."""
    path, threads = scene.source.path, tools.threads
    say(f"{path.name}: {len(scene.features.coords)} patches from end to end")
    sample = {"features": first(scene.features, SAMPLE), "compress": first(scene.compress, SAMPLE)}
    tasks = {name: Task(path, scene.slide, grid, threads) for name, grid in sample.items()}
    in_rows = replace(scene.features, coords=scene.features.coords[:SAMPLE])
    stages: list[dict[str, float]] = []
    patches = read_some(tasks["features"])

    def job(suffix: str) -> Job:
        return fresh_job(scene, suffix, mpp, work)

    works: dict[str, Work] = {
        "decode, features": tile_floor(tasks["features"]),
        "decode, compress": tile_floor(tasks["compress"]),
        "encode": lambda: encode_all(patches, tools.encoder, threads),
        "features": lambda: extract_slide(job(".h5"), FeatureOptions(), tools),
        "compress": lambda: stages.append(compress_slide(job(".ozx"), Options(), tools).seconds),
        "loop": lambda: encode_plainly(path, in_rows, plain),
        "sha256": lambda: sha256(scene.source.files),
        "cp": lambda: copy(scene.source.files, work),
    }
    cosine = agreement(scene, replace(in_rows, coords=in_rows.coords[:COMPARED]), tools, plain)
    if cosine is None:
        del works["loop"]
    spent = alternate(works, rounds)
    return Whole(
        patches=patches_of(scene),
        glass_mm2=glass_of(scene),
        spent=whole_slide(spent, scene, sample),
        slide=path.name,
        stages=stages,
        cosine=cosine,
    )


def measure_once(scene: Scene, mpp: float | None, tools: Tools, work: Path) -> Growth:
    """`features` and `compress` once."""
    say(f"{scene.source.path.name}: {len(scene.features.coords)} patches, once")

    def job(suffix: str) -> Job:
        return fresh_job(scene, suffix, mpp, work)

    spent = {
        "features": [spend(lambda: extract_slide(job(".h5"), FeatureOptions(), tools))],
        "compress": [spend(lambda: compress_slide(job(".ozx"), Options(), tools))],
    }
    return Growth(patches_of(scene), glass_of(scene), spent)


def fresh_job(scene: Scene, suffix: str, mpp: float | None, work: Path) -> Job:
    """A job that hashes the slide, whether or not another did."""
    path = scene.source.path
    return Job(Source(path, scene.source.files), work / f"{path.stem}{suffix}", path.name, mpp)


def patches_of(scene: Scene) -> dict[str, int]:
    return {"features": len(scene.features.coords), "compress": len(scene.compress.coords)}


def glass_of(scene: Scene) -> float:
    """mm² of the slide without the patches of tissue."""
    tissue = len(scene.features.coords) * (scene.features.patch_size_level0 * scene.slide.mpp / 1000) ** 2
    return math.prod(scene.slide.size) * (scene.slide.mpp / 1000) ** 2 - tissue


def whole_slide(spent: dict[str, list[Any]], scene: Scene, sample: dict[str, Grid]) -> dict[str, Rounds]:
    """What was timed on a sample, times as many as the slide has."""
    count, sampled = len(scene.features.coords), len(sample["features"].coords)
    found: dict[str, Rounds] = dict(spent)
    found["encode, features"] = scaled(spent["encode"], count / sampled)
    found["encode, compress"] = scaled(spent["encode"], len(scene.compress.coords) / sampled)
    if "loop" in spent:
        found["loop"] = scaled(spent["loop"], count / sampled)
    for name, grid in (("features", scene.features), ("compress", scene.compress)):
        tiles = len(needed_tiles(grid)) / len(needed_tiles(sample[name]))
        found[f"decode, {name}"] = scaled(spent[f"decode, {name}"], tiles)
    del found["encode"]
    return found


def agreement(scene: Scene, grid: Grid, tools: Tools, plain: PlainEncoder) -> float | None:
    """The least cosine of features by the plain loop and by the project; None where OpenSlide cannot read the slide."""
    try:
        theirs = encode_plainly(scene.source.path, grid, plain)
    except Exception as error:  # noqa: BLE001 - whatever it raises
        say(f"{scene.source.path.name}: the plain loop fails ({type(error).__name__})")
        return None
    ours = np.zeros_like(theirs)
    for rows, pixels in read_patches(scene.slide.pyramid, grid.coords, grid.reading, Damage(), tools.threads):
        ours[rows] = tools.encoder(pixels)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(axis=1) / np.maximum(norms, 1e-9)).min())


def read_some(task: Task) -> np.ndarray:
    grid = task.grid
    return np.concatenate(
        [p for _, p in read_patches(task.slide.pyramid, grid.coords, grid.reading, Damage(), task.threads)]
    )


def encode_all(patches: np.ndarray, encoder: Encoder, threads: int) -> None:
    starts = range(0, len(patches), encoder.batch_size)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda start: encoder(patches[start : start + encoder.batch_size]), starts))


def sha256(files: tuple[Path, ...]) -> None:
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def copy(files: tuple[Path, ...], work: Path) -> None:
    for path in files:
        target = work / f"copy{path.suffix}"
        shutil.copyfile(path, target)
        target.unlink()


# --- workers


def measure_workers(name: str, sources: list[Source], mpp: float | None, rounds: int, work: Path) -> Workers:
    """The command `compress` on a folder of the slides, by one worker and by two."""
    say(f"{len(sources)} {name} slides, one worker and two")
    archive = work / name
    for number, source in enumerate(sources):
        for file in source.files:
            link = archive / str(number) / file.relative_to(source.path.parent)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())

    def compress(workers: int) -> None:
        with tempfile.TemporaryDirectory(dir=work) as output:
            command = [sys.executable, "-m", "wsisum_cli", "compress", str(archive), "-o", output]
            command += ["--workers", str(workers), *(["--mpp", str(mpp)] if mpp else [])]
            subprocess.run(command, check=True, capture_output=True)

    def work_of(workers: int) -> Work:
        return lambda: compress(workers)

    spent = alternate({str(workers): work_of(workers) for workers in (1, 2)}, rounds)
    return Workers(name, len(sources), spent["1"], spent["2"])


# --- short commands and memory


def run_scripts(
    small: list[Source], large: list[Source], mpp: float | None, tools: Tools, work: Path
) -> dict[str, str]:
    """What the scripts of start and memory print, by what they measure; those that are not there are left out."""
    paths = [str(source.path) for source in small]
    largest = str(max(small + large, key=lambda source: source.bytes).path)
    summary = work / "start.ozx"
    compress_slide(Job(small[0], summary, small[0].path.name, mpp), Options(), tools)
    stated = ["--mpp", str(mpp)] if mpp else []
    commands = {
        "Start": ["start.py", str(summary)],
        "Memory after ten slides": ["memory.py", *paths, "--times", str(-(-10 // len(paths))), *stated],
        "Memory of the largest slide": ["memory.py", largest, *stated],
    }
    found = {}
    for name, (script, *arguments) in commands.items():
        if not (HERE / script).is_file():
            continue
        say(name)
        command = [sys.executable, str(HERE / script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            say(f"{script} fails and is left out:\n{done.stderr}")
        else:
            found[name] = done.stdout.strip()
    return found


# --- the script


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.page:
        fill_page(options.page, None)  # whether it can be
    cv2.setNumThreads(1)  # every reader has its threads already
    model = find_model("encoder")
    encoder = load_encoder("encoder", "cpu")
    tools = Tools(encoder, options.threads, models=choose_models(AUTO, AUTO, model, False, None).load("cpu"))
    plain = PlainEncoder(model, encoder.card)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        given = (options.slides, options.large, options.growth)
        small, large, grown = (sources_of(paths, options.mpp, work) for paths in given)
        found = Measured(describe_machine(), options.rounds, options.threads, plain.batch_size)
        if "whole" in options.sections:
            warm(small[0], options.mpp, tools, work)
        for source in small + large:
            with opened(source, options.mpp, tools) as scene:
                if "reading" in options.sections:
                    found.reading.extend(measure_reading(scene, options.rounds, options.threads))
                if "whole" in options.sections:
                    found.whole.append(measure_whole(scene, options.mpp, options.rounds, tools, plain, work))
            save(found, options.json)
        for source in grown if "whole" in options.sections else []:
            with opened(source, options.mpp, tools) as scene:
                found.once.append(measure_once(scene, options.mpp, tools, work))
            save(found, options.json)
        if "workers" in options.sections:
            for name, group in (("given", small), ("large", large)):
                if len(group) > 1:
                    found.workers.append(measure_workers(name, group, options.mpp, options.rounds, work))
        if "start" in options.sections:
            found.scripts.update(run_scripts(small, large + grown, options.mpp, tools, work))
    save(found, options.json)
    if options.page:
        fill_page(options.page, found)
    else:
        print(sections(found, None))
    return 0


def save(found: Measured, path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")


def warm(source: Source, mpp: float | None, tools: Tools, work: Path) -> None:
    """One summary that is not measured: libraries are then loaded."""
    job = Job(Source(source.path, source.files), work / "warm.ozx", source.path.name, mpp)
    say(f"warming up: {spend(lambda: compress_slide(job, Options(), tools)).wall:.1f} s")


def sources_of(paths: list[Path], mpp: float | None, work: Path) -> list[Source]:
    """The slides in files and folders that can be opened."""
    found = [source for path in paths for source in find_slides(path, work)[0] if is_slide(source, mpp)]
    if paths and not found:
        sys.exit(f"expected slides, found none in {', '.join(path.name for path in paths)}")
    return found


def is_slide(source: Source, mpp: float | None) -> bool:
    try:
        with open_slide(source.path, mpp, source.path.name, files=source.files):
            return True
    except WsisumError as error:
        say(f"left out: {error}")
        return False


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+", help="files or folders; a small slide first")
    parser.add_argument("--large", type=Path, nargs="*", default=[], help="further slides, whose workers count apart")
    parser.add_argument(
        "--growth", type=Path, nargs="*", default=[], help="further slides, timed once, for how time grows with tissue"
    )
    parser.add_argument("--mpp", type=float, help="µm per px of slides that do not state it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, cores()))
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="what to measure")
    parser.add_argument("--page", type=Path, help="Markdown page to write the tables into, and a plot beside it")
    parser.add_argument("--json", type=Path, help="write the seconds of every round to this file too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
