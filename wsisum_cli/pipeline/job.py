"""What is asked for: one slide, how it is to be summarized, and with what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsisum_cli.features.encode import Progress
from wsisum_cli.models.choice import NO_MODELS, SlideModels
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.quality.random_draws import DRAWS
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.source import Source


@dataclass(frozen=True)
class Options:
    """What the user asked for. All of it decides the bytes of a summary, and is recorded there."""

    keep: int | None = None  # None: one tissue patch in eight, 8 to 64, unless bytes or coverage are asked for
    max_bytes: int | None = None  # of the whole summary
    target: float | None = None  # coverage that is to be reached, with as few patches as do
    selector: str = "wsisum"
    rare: float | None = None  # share of the kept patches for what the others serve worst; None: the usual one
    seed: int = 0
    candidates: int = 500
    clusters: int = 50
    pixels: str = "auto"  # auto, source or jpeg
    quality: int = jpeg.QUALITY
    artefacts: str = "guard"  # mark suspect tissue and pick clean tissue first; keep: take all as it is
    patch_size_level0: int | None = None  # of given features whose file does not say
    draws: int = DRAWS  # random ones that the figures are held against
    thresholds: tuple[str, ...] = ()  # of the verdict, where they are not the usual ones

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "thresholds": list(self.thresholds)}


@dataclass(frozen=True)
class Job:
    """One slide to summarize."""

    source: Source
    output: Path
    name: str  # what the summary calls the slide
    mpp: float | None = None  # where the file does not state it
    mask: Path | None = None
    features: Path | None = None  # folder of existing features


Stage = Callable[[str], None]


@dataclass(frozen=True)
class Tools:
    """What the stages work with."""

    encoder: Encoder
    threads: int = 1
    stage: Stage = lambda name: None  # hears the name of each stage as it begins
    progress: Progress = lambda done, total: None  # hears how many patches are encoded
    models: SlideModels = NO_MODELS  # that see a whole slide; by default none


class Clock:
    """Seconds of each stage; of one that comes again, of all times together."""

    def __init__(self, stage: Stage) -> None:
        self.seconds: dict[str, float] = {}
        self._stage = stage

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._stage(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - start, 3)
