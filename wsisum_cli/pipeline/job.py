"""The input of the pipeline: one slide, the options, and the models."""

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
from wsisum_cli.quality.represented import WANTED
from wsisum_cli.selection.budget import MAX_KEEP, MOST
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.source import Source

#: Options that a summary records only when asked for.
UNASKED = ("tissue_features", "recompress")


@dataclass(frozen=True)
class Options:
    """User options. All of them affect the bytes of the summary, and are recorded in it."""

    keep: int | None = None  # None: as many as represent the target
    max_bytes: int | None = None  # of the whole summary
    target: float | None = None  # share of the tissue to represent; None: `WANTED` unless keep or max_bytes is given
    max_keep: int | None = None  # most patches if keep is None; None: `MAX_KEEP`, or `MOST` if bytes alone decide
    selector: str = "wsisum"
    rare: float | None = None  # fraction of patches reserved for rare tissue; None: the default
    seed: int = 0
    candidates: int = 500
    clusters: int = 50
    pixels: str = "auto"  # auto, source or jpeg
    quality: int = jpeg.QUALITY
    artefacts: str = "guard"  # mark suspect tissue and pick clean tissue first; keep: take all as it is
    patch_size_level0: int | None = None  # of existing features whose file lacks it
    draws: int = DRAWS  # random draws that the figures are compared with
    thresholds: tuple[str, ...] = ()  # of the verdict, where they differ from the defaults
    tissue_features: int | None = None  # bytes a patch for packed features of all tissue; None: they are not stored
    recompress: str | None = None  # jxl: JPEG streams are stored as JPEG XL where all come back; None: as they are

    def as_dict(self) -> dict[str, Any]:
        found = {**asdict(self), "thresholds": list(self.thresholds)}
        return {name: value for name, value in found.items() if value is not None or name not in UNASKED}

    @property
    def share(self) -> float | None:
        """The share of the tissue to represent; None if it does not decide how many patches are kept."""
        by_number = self.keep is not None or self.max_bytes is not None
        return WANTED if self.target is None and not by_number else self.target

    @property
    def most(self) -> int:
        """Most patches when `keep` is None."""
        return self.max_keep or (MOST if self.share is None else MAX_KEEP)


@dataclass(frozen=True)
class Job:
    """One slide to summarize."""

    source: Source
    output: Path
    name: str  # the slide's name in the summary
    mpp: float | None = None  # for slides whose metadata lack it
    mask: Path | None = None
    features: Path | None = None  # folder with existing features
    image: int | None = None  # which of several slides in the file, from 1; None where it holds one
    mpp_wins: bool = False  # over what the file states, as a manifest's row does
    fingerprint: str = ""  # of all that decides what is in the output; empty where nobody knows


@dataclass(frozen=True)
class Written:
    """A file just written, before it got its name."""

    bytes: int
    modified: int  # ns since 1970

    @classmethod
    def of(cls, path: Path) -> Written:
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


Stage = Callable[[str], None]


@dataclass(frozen=True)
class Tools:
    """Models, threads and callbacks that the stages use."""

    encoder: Encoder
    threads: int = 1
    stage: Stage = lambda name: None  # called with the name of each stage as it starts
    progress: Progress = lambda done, total: None  # called with the number of encoded patches
    models: SlideModels = NO_MODELS  # whole-slide models; none by default


class Clock:
    """Seconds per stage, summed over repeats."""

    def __init__(self, stage: Stage) -> None:
        self.seconds: dict[str, float] = {}
        self._stage = stage

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._stage(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - start, 3)
