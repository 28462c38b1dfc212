"""What became of a slide: written, skipped on purpose, or failed; always with a reason."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any

from wsisum_cli.errors import NotASlideError, NoTissueError, WsisumError

WRITTEN, SKIPPED, FAILED = "written", "skipped", "failed"
UP_TO_DATE = "up to date"


@dataclass(frozen=True)
class Outcome:
    """One row of the report."""

    source: str  # path within the archive
    status: str  # written, skipped or failed
    reason: str = ""  # a few stable words; empty when written
    message: str = ""  # what was expected, what was found, what to do; of a written one, what to look at
    summary: str = ""  # path within the output folder, empty when there is none
    features: str = ""  # the same of a file of features
    sweep: str = ""  # and of a table of several numbers of patches
    bytes_in: int | None = None
    bytes_out: int | None = None
    patches: int | None = None
    tissue_patches: int | None = None
    pixels: str | None = None  # source or jpeg
    provider: str | None = None  # that ran the encoder
    coverage: float | None = None
    reconstruction: float | None = None  # None without a summarizer, as the next
    embedding_cosine: float | None = None
    verdict: str | None = None  # PASS, REVIEW or FAIL
    bound: str | None = None  # what decided on the number of patches
    target_reached: bool | None = None  # None where no coverage was asked for
    broken_tiles: int | None = None
    artefacts: int | None = None  # patches removed because they show nothing: glass, black, undecodable pixels
    suspect: int | None = None  # tissue patches that may be pen, folds or out of focus
    sha256: str | None = None  # of the source
    modified: int | None = None  # of the source, ns since 1970; spares hashing it again
    traceback: str = ""  # of errors nobody foresaw
    seconds: dict[str, float] = field(default_factory=dict)  # of each stage

    @property
    def ratio(self) -> float | None:
        """Bytes in over bytes out, everything counted."""
        return self.bytes_in / self.bytes_out if self.bytes_in and self.bytes_out else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": round(self.ratio, 2) if self.ratio else None}


def outcome_of(error: BaseException, source: str) -> Outcome:
    """The outcome that an error means. Paths of the file system stay out of its message."""
    if isinstance(error, (NotASlideError, NoTissueError)):
        return Outcome(source, SKIPPED, error.reason, str(error))
    if isinstance(error, WsisumError):
        return Outcome(source, FAILED, error.reason, str(error))
    if isinstance(error, MemoryError):
        return Outcome(source, FAILED, "out of memory", "use fewer --workers, or a machine with more memory")
    if isinstance(error, OSError):
        return Outcome(source, FAILED, "file system", error.strerror or type(error).__name__)
    frames = traceback.extract_tb(error.__traceback__)
    lines = "".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}\n" for frame in frames)
    return Outcome(source, FAILED, "internal error", f"{type(error).__name__}: {error}", traceback=lines)
