"""How many times the floor `compress` takes: the floor decodes the tiles that the grid needs, and encodes its patches.

    python tests/benchmarks/floor.py SLIDE ... [--mpp 0.25] [--rounds 3] [--threads 2]

In one warm process, default options, `encoder` and its slide models: (a) each tile that a patch of the grid touches is
decoded once, at the size at which it is read; (b) the encoder runs on as many patches, cut before; and `compress` of
the same slide. Rounds alternate the three. Printed: seconds of wall clock and of the process's CPU, the smallest of the
rounds, their ratio with its range over rounds, and the seconds of each stage of `compress`. Other work on the machine
disturbs wall clock more than CPU time. Put a small slide first: it loads the libraries for the large ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.commands.options import cores
from wsisum_cli.models.choice import AUTO, choose_models
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.models.places import find_model
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.scene import choose_grid, find_tissue_mask
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import read_patches
from wsisum_cli.slides.slide import Slide, open_slide, read_overview
from wsisum_cli.slides.source import Source
from wsisum_cli.tissue.grid import Grid

AIMS = ((500, 5.0), (5_000, 2.5), (10**9, 1.7))  # patches up to which so many times the floor are aimed at
HELD = 2_048  # patches in memory; the encoder sees them again where the grid has more


@dataclass(frozen=True)
class Spent:
    """Seconds of one round."""

    wall: float
    cpu: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.cpu + other.cpu)


@dataclass(frozen=True)
class Measured:
    """Rounds of one slide, and the stages of its fastest `compress`."""

    name: str
    patches: int
    tiles: int
    decode: list[Spent]
    encode: list[Spent]
    compress: list[Spent]
    stages: dict[str, float]
    sha256: str  # of the summary


def spend(work: Callable[[], Any]) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


@contextmanager
def opened(path: Path, mpp: float | None, tools: Tools) -> Iterator[tuple[Slide, Grid]]:
    """The slide and the grid that `compress` lays on it."""
    with open_slide(path, mpp, path.name) as slide:
        overview = read_overview(slide, Damage(), tools.threads)
        mask, _ = find_tissue_mask(slide, overview, None)
        yield slide, choose_grid(slide, overview, mask, Options(), tools.encoder)


def tiles_of(grid: Grid) -> list[tuple[int, int]]:
    return sorted({tile for x, y in grid.coords.tolist() for tile in grid.reading.tiles(x, y)}, key=lambda t: t[::-1])


def decode_tiles(slide: Slide, grid: Grid, tiles: list[tuple[int, int]], threads: int) -> None:
    """Each tile once, dropped at once."""
    reading = grid.reading

    def decode(part: list[tuple[int, int]]) -> None:
        for tile in part:
            slide.pyramid.tile(reading.level, *tile, reading.shrink)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, (tiles[start : start + 64] for start in range(0, len(tiles), 64))))


def read_some(slide: Slide, grid: Grid, threads: int) -> np.ndarray:
    """The first patches of the grid, as many as are held."""
    some = grid.coords[:HELD]
    return np.concatenate([p for _, p in read_patches(slide.pyramid, some, grid.reading, Damage(), threads)])


def encode_all(patches: np.ndarray, count: int, tools: Tools) -> None:
    size = tools.encoder.batch_size
    places = [np.arange(start, min(start + size, count)) % len(patches) for start in range(0, count, size)]
    with ThreadPoolExecutor(tools.threads) as pool:
        list(pool.map(lambda rows: tools.encoder(patches[rows]), places))


def measure(path: Path, mpp: float | None, rounds: int, tools: Tools, work: Path) -> Measured:
    output = work / f"{path.stem}.ozx"
    decode, encode, compress, stages = [], [], [], []

    def make() -> None:
        job = Job(Source(path, (path,)), output, path.name, mpp)  # anew, so that the slide is hashed each time
        stages.append(compress_slide(job, Options(), tools).seconds)

    with opened(path, mpp, tools) as (slide, grid):
        tiles, patches, count = tiles_of(grid), read_some(slide, grid, tools.threads), len(grid.coords)
        if count <= HELD:
            make()  # once unmeasured: files are then in the disk's cache, libraries loaded
            stages.clear()
        for _ in range(rounds):
            decode.append(spend(lambda: decode_tiles(slide, grid, tiles, tools.threads)))
            encode.append(spend(lambda: encode_all(patches, count, tools)))
            compress.append(spend(make))
    best = stages[int(np.argmin([spent.wall for spent in compress]))]
    sha256 = hashlib.sha256(output.read_bytes()).hexdigest()
    return Measured(path.name, count, len(tiles), decode, encode, compress, best, sha256)


def ratios(found: Measured, clock: str) -> list[float]:
    """Of each round."""
    rounds = zip(found.decode, found.encode, found.compress, strict=True)
    return [getattr(whole, clock) / (getattr(a, clock) + getattr(b, clock)) for a, b, whole in rounds]


def least(spent: list[Spent], clock: str) -> float:
    return min(getattr(one, clock) for one in spent)


def line(found: Measured) -> str:
    cells = [found.name[:28], str(found.patches), str(found.tiles)]
    for clock in ("wall", "cpu"):
        cells += [f"{least(part, clock):.2f}" for part in (found.decode, found.encode, found.compress)]
        floor = least(found.decode, clock) + least(found.encode, clock)
        each = ratios(found, clock)
        cells.append(f"{least(found.compress, clock) / floor:.2f} ({min(each):.2f} to {max(each):.2f})")
    aim = next(ratio for most, ratio in AIMS if found.patches <= most)
    return "| " + " | ".join([*cells, f"{aim:g}"]) + " |"


def head() -> str:
    names = ["slide", "patches", "tiles"]
    for clock in ("wall", "CPU"):
        names += [f"decode, {clock} s", f"encode, {clock} s", f"compress, {clock} s", f"{clock}: times the floor"]
    return "| " + " | ".join([*names, "at most"]) + " |\n|---|" + "---:|" * len(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--mpp", type=float, default=0.25, help="of slides that do not state it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = find_model("encoder")
    choices = choose_models(AUTO, AUTO, model, False, None)
    tools = Tools(load_encoder("encoder", "cpu"), options.threads, models=choices.load("cpu"))
    found: list[Measured] = []
    with tempfile.TemporaryDirectory() as work:
        for path in options.slides:
            found.append(measure(path, options.mpp, options.rounds, tools, Path(work)))
            print(line(found[-1]), found[-1].stages, found[-1].sha256[:16], flush=True)
    print("\n" + "\n".join([head(), *map(line, found)]))
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
