"""What decoding JPEG 2000 tiles at half resolution saves, and what it does to features.

    python tests/benchmarks/jpeg2000.py SLIDE [--mpp 0.25] [--limit 400] [--rounds 5]

The patches of a slide are read as `compress` reads them, which decodes whole tiles and averages them down, and from
tiles that Pillow decodes without their finest wavelet level. Printed: CPU seconds of both, their ratio with its range
over alternating rounds, and the cosine between the features of both. A cosine of at least 0.999 for every patch would
make the faster way safe.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsisum_cli.features.vectors import unit_rows
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.pipeline.job import Options
from wsisum_cli.pipeline.scene import choose_grid, find_tissue_mask
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import cut_patch
from wsisum_cli.slides.pixels import from_ycbcr
from wsisum_cli.slides.slide import Slide, open_slide, read_overview
from wsisum_cli.slides.tiff import APERIO_YCBCR, TiffPyramid
from wsisum_cli.tissue.grid import Grid

SAFE = 0.999


def tiff_of(slide: Slide) -> TiffPyramid:
    """The pyramid that reads the file itself. Raises TypeError unless it is a TIFF."""
    pyramid: Any = slide.pyramid
    while not isinstance(pyramid, TiffPyramid):
        pyramid = getattr(pyramid, "inner", None)
        if pyramid is None:
            raise TypeError(f"{slide.name}: expected a TIFF")
    return pyramid


def half_tile(tiff: TiffPyramid, level: int, column: int, row: int) -> np.ndarray | None:
    """A tile at half its size, from the wavelet's lower levels."""
    page, grid = tiff._pages[level], tiff.levels[level]
    index = row * grid.columns + column
    data = tiff._read(page.dataoffsets[index], page.databytecounts[index])
    if not data:
        return None
    image = Image.open(io.BytesIO(data))
    image.reduce = 1  # type: ignore[method-assign,assignment]  # Pillow's JPEG 2000 reads it so
    image.load()
    pixels = np.asarray(image)
    return from_ycbcr(pixels) if page.compression == APERIO_YCBCR else pixels


def read(grid: Grid, slide: Slide, half: bool) -> np.ndarray:
    """All patches of the grid. Tiles are decoded anew for each patch, both ways."""
    reading, tiff = grid.reading, tiff_of(slide)

    def tile(at: tuple[int, int]) -> np.ndarray | None:
        if half:
            return half_tile(tiff, reading.level, *at)
        return slide.pyramid.tile(reading.level, *at, reading.shrink)

    return np.stack([cut_patch(reading, x, y, tile) for x, y in grid.coords.tolist()])


def seconds(grid: Grid, slide: Slide, half: bool) -> float:
    start = time.process_time()
    read(grid, slide, half)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    encoder = load_encoder("encoder")
    with open_slide(options.slide, options.mpp) as slide:
        overview = read_overview(slide, Damage())
        mask, _ = find_tissue_mask(slide, overview, None)
        whole = choose_grid(slide, overview, mask, Options(), encoder)
        grid = Grid(whole.coords[: options.limit], whole.patch_size_level0, whole.reading, whole.aligned)
        if grid.reading.shrink != 2:
            raise SystemExit(f"{slide.name}: patches are not read at half resolution")
        ratios = [seconds(grid, slide, False) / seconds(grid, slide, True) for _ in range(options.rounds)]
        pixels = [read(grid, slide, half) for half in (False, True)]
    whole_features, half_features = (unit_rows(encoder(each)) for each in pixels)
    cosine = (whole_features * half_features).sum(axis=1)
    difference = float(np.abs(pixels[0].astype(int) - pixels[1]).mean())
    print(f"{len(grid.coords)} patches, mean difference {difference:.2f} grey levels")
    print(f"{statistics.median(ratios):.2f} times faster ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"cosine: mean {cosine.mean():.5f}, least {cosine.min():.5f}; {(cosine < SAFE).mean():.0%} below {SAFE}")


if __name__ == "__main__":
    main()
