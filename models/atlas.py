"""The data of the learned models: H&E slides of the Pathology Atlas, read out of its public git repositories.

    python models/atlas.py clone    slides.csv REPOSITORIES
    python models/atlas.py tiles    slides.csv REPOSITORIES -o TILES
    python models/atlas.py features slides.csv REPOSITORIES -o FEATURES --encoder models/encoder.onnx
    python models/atlas.py cases slides.csv -o cases.csv

slides.csv has the columns repo, commit, dzi, mpp_estimated. `clone` fetches each repository as a bare one (some
10 GB in all). `tiles` draws up to 900 tissue tiles of 256 px at 0.5 µm per px from each slide, as stored, into a
ZIP a slide. `features` encodes all tissue tiles of each slide into an h5 in TRIDENT's layout. `cases` says which
slides are of one case: those of one repository. Slides are stored as DeepZoom pyramids of JPEG tiles.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import simplejpeg

from wsisum_cli.models.encoder import Encoder, load_encoder

MPP, SIDE, COUNT, SEED = 0.5, 256, 900, 0
SMALLEST = 6000  # bytes of a JPEG tile; emptier ones are mostly glass
TISSUE = 0.35  # share of a tile


class DeepZoom:
    """One pyramid of tiles in a git directory, read at one commit."""

    def __init__(self, git_dir: Path, commit: str, name: str) -> None:
        self._git = ["git", f"--git-dir={git_dir}"]
        header = self._read("show", f"{commit}:{name}.dzi")
        size = {key: int(re.search(rf'\b{key}\s*=\s*"(\d+)"', header)[1]) for key in ("TileSize", "Overlap", "Width")}
        self.tile_size, self.overlap = size["TileSize"], size["Overlap"]
        self.height = int(re.search(r'\bHeight\s*=\s*"(\d+)"', header)[1])
        self.width = size["Width"]
        self.top = math.ceil(math.log2(max(self.width, self.height)))
        self._blobs: dict[int, dict[tuple[int, int], str]] = {}
        for line in self._read("ls-tree", "-r", commit, f"{name}_files/").splitlines():
            if found := re.match(r"\d+ blob (\w+)\t.*_files/(\d+)/(\d+)_(\d+)\.jpe?g$", line):
                self._blobs.setdefault(int(found[2]), {})[int(found[3]), int(found[4])] = found[1]
        self._last = {
            level: (max(x for x, _ in blobs), max(y for _, y in blobs)) for level, blobs in self._blobs.items()
        }
        self._cat = subprocess.Popen([*self._git, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _read(self, *arguments: str) -> str:
        return subprocess.run([*self._git, *arguments], check=True, capture_output=True, text=True).stdout

    def level(self, mpp: float) -> int:
        """The level nearest to 0.5 µm per px, where level 0 of the slide has `mpp`."""
        return self.top - round(math.log2(MPP / mpp))

    def places(self, level: int) -> list[tuple[int, int]]:
        """Column and row of every tile."""
        return sorted(self._blobs[level])

    def is_whole(self, level: int, column: int, row: int) -> bool:
        """Whether the tile lies at no edge of the slide."""
        last_column, last_row = self._last[level]
        return 0 < column < last_column and 0 < row < last_row

    def tile(self, level: int, column: int, row: int) -> bytes:
        sha = self._blobs[level][column, row]
        self._cat.stdin.write(f"{sha}\n".encode())
        self._cat.stdin.flush()
        header = self._cat.stdout.readline().split()
        if header[-1] == b"missing":
            raise KeyError(f"{sha} is not in the repository")
        data = self._cat.stdout.read(int(header[2]))
        self._cat.stdout.read(1)
        return data

    def close(self) -> None:
        self._cat.stdin.close()
        self._cat.wait()


def is_tissue(tile: np.ndarray) -> bool:
    small = tile[::4, ::4].astype(np.int16)
    coloured = small.max(2) - small.min(2) > 22
    return bool((coloured & (small.mean(2) < 235)).mean() >= TISSUE)


def tissue_tiles(
    slide: DeepZoom, level: int, places: list[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], bytes, np.ndarray]]:
    """Place, JPEG stream and pixels of the whole tiles that show tissue."""
    for place in places:
        data = slide.tile(level, *place) if slide.is_whole(level, *place) else b""
        if len(data) > SMALLEST:
            tile = simplejpeg.decode_jpeg(data)
            if tile.shape == (SIDE, SIDE, 3) and is_tissue(tile):
                yield place, data, tile


def draw_tiles(slide: DeepZoom, mpp: float, path: Path) -> int:
    level = slide.level(mpp)
    places = slide.places(level)
    random.Random(SEED).shuffle(places)
    count = 0
    with zipfile.ZipFile(path, "w") as archive:
        for (column, row), data, _ in tissue_tiles(slide, level, places):
            archive.writestr(f"{column}_{row}.jpg", data)
            count += 1
            if count == COUNT:
                break
    return count


def write_features(slide: DeepZoom, mpp: float, path: Path, encoder: Encoder) -> int:
    """An h5 as `wsisum features` writes it, of the tiles of the grid in which the slide is stored."""
    level = slide.level(mpp)
    downsample = 2 ** (slide.top - level)
    coords, features, waiting = [], [], []
    for (column, row), _, tile in tissue_tiles(slide, level, slide.places(level)):
        coords.append([(at * slide.tile_size - slide.overlap) * downsample for at in (column, row)])
        waiting.append(tile)
        if len(waiting) == 128:
            features.append(encoder(np.stack(waiting)))
            waiting = []
    if waiting:
        features.append(encoder(np.stack(waiting)))
    with h5py.File(path, "w") as file:
        file.attrs.update(encoder=encoder.card.name, encoder_sha256=encoder.card.sha256)
        file.create_dataset("features", data=np.concatenate(features))
        placed = file.create_dataset("coords", data=np.array(coords, np.int64))
        placed.attrs.update(
            patch_size=SIDE,
            patch_size_level0=SIDE * downsample,
            level0_width=slide.width,
            level0_height=slide.height,
            overlap=0,
        )
    return len(coords)


def slide_name(row: dict[str, str]) -> str:
    return f"{row['repo'].replace('/', '+')}__{row['dzi']}"


def clone(rows: list[dict[str, str]], folder: Path) -> None:
    for repo in sorted({row["repo"] for row in rows}):
        target = folder / f"{repo.replace('/', '+')}.git"
        if not target.is_dir():
            url = f"https://github.com/{repo}.git"
            subprocess.run(["git", "clone", "--quiet", "--bare", url, str(target)], check=True)
            print(repo, flush=True)


def write_cases(rows: list[dict[str, str]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide", "case", "organ"])
        writer.writerows([slide_name(row), row["repo"], row["organ"]] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["clone", "tiles", "features", "cases"])
    parser.add_argument("slides", type=Path)
    parser.add_argument("repositories", type=Path, nargs="?", help="folder of bare repositories, OWNER+NAME.git")
    parser.add_argument("-o", "--output", type=Path, default=Path())
    parser.add_argument("--encoder", default="encoder")
    options = parser.parse_args()

    rows = list(csv.DictReader(options.slides.open(encoding="utf-8")))
    if options.command == "cases":
        write_cases(rows, options.output)
        return
    if options.command == "clone":
        clone(rows, options.repositories)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder(options.encoder, "auto") if options.command == "features" else None
    for row in rows:
        slide = DeepZoom(options.repositories / f"{row['repo'].replace('/', '+')}.git", row["commit"], row["dzi"])
        mpp, name = float(row["mpp_estimated"]), slide_name(row)
        if encoder is None:
            count = draw_tiles(slide, mpp, options.output / f"{name}.zip")
        else:
            count = write_features(slide, mpp, options.output / f"{name}.h5", encoder)
        slide.close()
        print(f"{name}: {count} tiles", flush=True)


if __name__ == "__main__":
    main()
