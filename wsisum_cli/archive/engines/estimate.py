"""What a run will take, estimated from a few of its slides: their tissue, and the speed of the encoder on it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wsisum_cli.archive.workers import Named, Setup
from wsisum_cli.errors import WsisumError
from wsisum_cli.features.encode import encode_patches
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.pipeline.extract import NOTHING_COPIED
from wsisum_cli.pipeline.job import Job, Options
from wsisum_cli.pipeline.product import FEATURES, SUMMARIES
from wsisum_cli.pipeline.scene import choose_grid, find_tissue_mask
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.remote.source import RemoteSource
from wsisum_cli.slides.slide import open_slide, read_overview

MOST_SAMPLED = 5  # slides
ENCODED = 64  # patches of each of them
#: Share of a slide's time that finding and encoding its tissue takes: measured on five slides for each product.
ENCODING_SHARE = {SUMMARIES.task: 0.48, FEATURES.task: 0.95}
#: Bytes of a summary without its patches, and of a patch encoded anew or copied with its tiles around it.
BASE_BYTES, PATCH_BYTES, COPIED_BYTES = 170_000, 20_000, 50_000
FEWEST = 8  # patches that are kept when a target decides
LEAST_SPREAD, ONE_SLIDE_SPREAD = 0.2, 0.5  # of the time either way


@dataclass(frozen=True)
class Measured:
    """One slide of the sample. A slide that cannot be read, or has no tissue, takes no time to speak of."""

    bytes: int
    patches: int = 0  # of tissue
    seconds: float = 0.0  # of finding its tissue and encoding all of it


@dataclass(frozen=True)
class Estimate:
    """Ranges from the least to the most that is likely."""

    slides: int
    sampled: int
    patches: int  # of tissue, a slide of the sample on average
    hours: tuple[float, float]
    bytes: tuple[int, int]  # of all outputs
    workers: int = field(default=1)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate_run(jobs: Sequence[Named], setup: Setup, encoder: Encoder, workers: int) -> Estimate | None:
    """Measure a few slides; None where nothing can be said: of no or remote slides, of given features, of sweeps."""
    if not jobs or setup.product.task not in ENCODING_SHARE or jobs[0][1].features is not None:
        return None
    if isinstance(jobs[0][1].source, RemoteSource):  # to look into one would be to fetch it
        return None
    sizes = {source: size_of(job) for source, job in jobs}
    chosen = [measure(job, setup, encoder) for _, job in spread_over(jobs, sizes)]
    whole = sum(sizes.values())
    low, high = time_range(chosen, whole)
    share = ENCODING_SHARE[setup.product.task]
    patches = sum(one.patches for one in chosen) / len(chosen)
    per_slide = [output_range(setup, one.patches, encoder.card.dims) for one in chosen if one.patches]
    per_slide = per_slide or [(0, 0)]
    count = len(jobs) * sum(one.patches > 0 for one in chosen) / len(chosen)  # that will have an output
    hours = [seconds / share / min(workers, len(jobs)) / 3600 for seconds in (low, high)]
    least, most = (sum(one[end] for one in per_slide) / len(per_slide) for end in (0, 1))
    total = (round(least * count), round(most * count))
    return Estimate(len(jobs), len(chosen), round(patches), (hours[0], hours[1]), total, workers)


def size_of(job: Job) -> int:
    try:
        return job.source.bytes or 1
    except OSError:
        return 1


def spread_over(jobs: Sequence[Named], sizes: dict[str, int]) -> list[Named]:
    """A few jobs, evenly over the sizes of their slides, so that the same archive gives the same sample."""
    ordered = sorted(jobs, key=lambda named: (sizes[named[0]], named[0]))
    count = min(MOST_SAMPLED, len(ordered))
    return [ordered[(2 * number + 1) * len(ordered) // (2 * count)] for number in range(count)]


def measure(job: Job, setup: Setup, encoder: Encoder) -> Measured:
    """Find the tissue of a slide and encode some of it."""
    damage, size = Damage(), size_of(job)
    options = setup.options if isinstance(setup.options, Options) else NOTHING_COPIED
    began = time.perf_counter()
    try:
        with open_slide(job.source.path, job.mpp, job.name, job.mpp_wins, job.image, job.source.files) as slide:
            overview = read_overview(slide, damage, setup.threads)
            mask, _ = find_tissue_mask(slide, overview, job.mask)
            grid = choose_grid(slide, overview, mask, options, encoder)
            found = time.perf_counter()
            start = max(0, (len(grid.coords) - ENCODED) // 2)
            some = grid.coords[start : start + ENCODED]
            encode_patches(slide.pyramid, some, grid.reading, encoder, damage, setup.threads)
    except (WsisumError, OSError, ValueError):
        return Measured(size)
    each = (time.perf_counter() - found) / len(some)
    return Measured(size, len(grid.coords), found - began + each * len(grid.coords))


def time_range(sample: Sequence[Measured], whole: int) -> tuple[float, float]:
    """Seconds for `whole` bytes of slides, by the seconds for a byte in the sample: two standard errors either way."""
    rate = sum(one.seconds for one in sample) / sum(one.bytes for one in sample)
    if len(sample) == 1:
        spread = ONE_SLIDE_SPREAD
    else:
        off = sum((one.seconds - rate * one.bytes) ** 2 for one in sample) / (len(sample) - 1)
        mean = sum(one.seconds for one in sample) / len(sample)
        spread = 2 * math.sqrt(off / len(sample)) / mean if mean else 0.0
    spread = max(spread, LEAST_SPREAD)
    return rate * whole / (1 + spread), rate * whole * (1 + spread)


def output_range(setup: Setup, patches: int, dims: int) -> tuple[int, int]:
    """Bytes of the output of a slide with so many patches of tissue."""
    if setup.product.task == FEATURES.task:
        size = patches * (dims * (2 if setup.options.precision == "float16" else 4) + 16)
        return size, size
    options = setup.options
    most = min(patches, options.keep or options.most)
    fewest = most if options.keep else min(FEWEST, most)
    low, high = BASE_BYTES + fewest * PATCH_BYTES, BASE_BYTES + most * COPIED_BYTES
    return (min(low, options.max_bytes), min(high, options.max_bytes)) if options.max_bytes else (low, high)
