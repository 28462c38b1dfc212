"""The outcome of each slide: written, skipped on purpose, or failed with a reason."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from dataclasses import field, fields
from operator import attrgetter
from pathlib import PurePath
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from wsisum_cli.errors import NotASlideError, NoTissueError, WsisumError

WRITTEN, SKIPPED, FAILED = "written", "skipped", "failed"
UP_TO_DATE = "up to date"
FILE_SYSTEM = "file system"  # reason of a file, or of a folder that cannot be listed


@dataclass(frozen=True, slots=True)
class Record:
    """What lets a later run see, without opening it, that an output is what that run would make.

    An empty text is no answer: nothing equals it.
    """

    source: str  # digest of the names, sizes and times of the slide's files, before they were read
    output_bytes: int
    output_modified: int  # ns since 1970
    fingerprint: str  # of all that decides what is in the output, as `fingerprint_of` writes it


@dataclass(frozen=True, slots=True, config=ConfigDict(defer_build=True))
class Outcome:
    """One row of the report. Slots halve the memory of a run over a hundred thousand slides."""

    source: str  # path within the archive
    status: str  # written, skipped or failed
    reason: str = ""  # a few stable words; empty when written
    message: str = ""  # expected, found, what to do; for a written slide, what to check
    summary: str = ""  # path within the output folder; empty when none
    features: str = ""  # path of the feature file
    sweep: str = ""  # path of the sweep table
    bytes_in: int | None = None
    bytes_out: int | None = None
    patches: int | None = None
    tissue_patches: int | None = None
    pixels: str | None = None  # source or jpeg
    provider: str | None = None  # execution provider of the encoder
    coverage: float | None = None
    represented: float | None = None  # share of the tissue that the kept patches represent
    tissue_mm2: float | None = None
    largest_unrepresented_mm2: float | None = None
    reconstruction: float | None = None  # None without a summarizer, like embedding_cosine
    embedding_cosine: float | None = None
    verdict: str | None = None  # PASS, REVIEW or FAIL
    bound: str | None = None  # which limit set the number of patches
    target_reached: bool | None = None  # None where the represented tissue did not decide
    broken_tiles: int | None = None
    artefacts: int | None = None  # patches removed because they show nothing: glass, black, undecodable pixels
    suspect: int | None = None  # tissue patches that may be pen, folds or out of focus
    sha256: str | None = None  # of the source
    modified: int | None = None  # of the source, ns since 1970; unchanged slides are not hashed again
    bytes_fetched: int | None = None  # of the slide's, over the network; None of a local slide
    former: str = ""  # where another slide's output is kept that lay in the place of this one
    traceback: str = ""  # of unexpected errors
    seconds: dict[str, float] = field(default_factory=dict)  # per stage
    record: Record | None = None  # for the journal; no part of the report
    known: bool = False  # a failure that the manifest acknowledges
    #: Why this is the row of an earlier run: "left out" of this one, "needs work" beyond --limit, "not there" any more.
    earlier: str = ""

    @property
    def ratio(self) -> float | None:
        """Input bytes divided by output bytes."""
        return self.bytes_in / self.bytes_out if self.bytes_in and self.bytes_out else None

    def as_dict(self) -> dict[str, Any]:
        """A row of the report."""
        values = self.values()
        del values["record"]
        return values | {"ratio": round(self.ratio, 2) if self.ratio else None}

    def values(self) -> dict[str, Any]:
        """Every field by name."""
        return dict(zip(NAMES, every_field(self), strict=True))

    def as_before(self) -> Outcome:
        """The same of a slide whose output is still up to date."""
        if self.reason == UP_TO_DATE:
            return self
        return outcome_from(self.values() | {"status": SKIPPED, "reason": UP_TO_DATE})

    def without_record(self) -> Outcome:
        """The same without what the journal has already."""
        return outcome_from(self.values() | {"record": None})


NAMES = tuple(one.name for one in fields(Outcome))
every_field = attrgetter(*NAMES)
SETTERS = tuple((name, vars(Outcome)[name].__set__) for name in NAMES)
WORDS = ("status", "reason", "pixels", "provider", "verdict", "bound")  # one of a few


def outcome_from(values: Mapping[str, Any]) -> Outcome:
    """An outcome from all values of one, by name: validating those of a hundred thousand slides again takes seconds."""
    outcome: Outcome = object.__new__(Outcome)
    for name, put in SETTERS:
        put(outcome, values[name])
    return outcome


def with_shared_words(values: dict[str, Any]) -> dict[str, Any]:
    """The same with one object for each word that many slides have: half of their memory would go into copies."""
    for name in WORDS:
        if isinstance(word := values.get(name), str):
            values[name] = sys.intern(word)
    if isinstance(seconds := values.get("seconds"), dict):
        values["seconds"] = {sys.intern(stage): value for stage, value in seconds.items()}
    return values


def outcome_of(error: BaseException, source: str) -> Outcome:
    """Convert an error to an outcome, keeping file system paths out of the message."""
    if isinstance(error, (NotASlideError, NoTissueError)):
        return Outcome(source, SKIPPED, error.reason, str(error))
    if isinstance(error, WsisumError):
        return Outcome(source, FAILED, error.reason, str(error))
    if isinstance(error, MemoryError):
        return Outcome(source, FAILED, "out of memory", "use fewer --workers, or a machine with more memory")
    if isinstance(error, OSError):
        return Outcome(source, FAILED, FILE_SYSTEM, error.strerror or type(error).__name__)
    frames = traceback.extract_tb(error.__traceback__)
    lines = "".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}\n" for frame in frames)
    return Outcome(source, FAILED, "internal error", f"{type(error).__name__}: {error}", traceback=lines)
