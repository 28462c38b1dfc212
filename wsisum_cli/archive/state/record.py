"""Tell an output that is up to date from sizes, times and digests, without opening it.

What is trusted: a file whose size and time of last change are as they were has not changed. Times count only where they
can tell one change from the next, so a file that changed shortly before it was read has none.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsisum_cli import __version__
from wsisum_cli.archive.outcome import SKIPPED, UP_TO_DATE, WRITTEN, Outcome, Record
from wsisum_cli.errors import WsisumError
from wsisum_cli.features.encode import find_features
from wsisum_cli.models.choice import ModelChoices
from wsisum_cli.pipeline.job import Job
from wsisum_cli.slides.source import Source, sha256_of, state_of

#: ns that a time has to be past before it tells one change from the next: FAT counts in steps of 2 s.
SETTLED = 2_000_000_000
#: ns since 1970. Earlier times are what tools write that know none: 1970, or 1980 in ZIP files.
FIRST_KNOWN = 11 * 365 * 86_400 * 1_000_000_000
NO_ANSWER = ""
DIGITS = 16  # hexadecimal, of a digest
SEPARATOR = ":"
ENCODER = json.JSONEncoder(separators=(",", ":"), sort_keys=True)


def settings_of(version: str, options: Mapping[str, Any], encoder_sha256: str, choices: ModelChoices) -> str:
    """The part of a fingerprint that all slides of a run share: format and settings, as `VERSION:DIGEST`.

    The version of this program is part of it, as a later one may look closer.
    """
    models = {name: choice and [choice.card.sha256, choice.named] for name, choice in choices.named().items()}
    return SEPARATOR.join((version, digest([__version__, dict(options), encoder_sha256, models])))


def fingerprint_of(settings: str, job: Job) -> str:
    """A digest of all that decides what is in the output of a job; no answer where a file that it needs is missing."""
    try:
        mask = sha256_of(job.mask) if job.mask is not None else None
        features = None if job.features is None else files_state(find_features(job.features, job.source.path))
    except (WsisumError, OSError):
        return NO_ANSWER
    if features == NO_ANSWER:
        return NO_ANSWER
    decided = [job.name, job.mpp, job.mpp_wins, job.image, mask, features, job.output.name]
    return SEPARATOR.join((settings, digest(decided)))


def settings_in(record: Record) -> str:
    """The settings by which an output was made."""
    return record.fingerprint.rpartition(SEPARATOR)[0]


def version_in(record: Record) -> str:
    """The format of an output."""
    return record.fingerprint.partition(SEPARATOR)[0]


def source_state(source: Source) -> str:
    """A digest of the names, sizes and times of the files of a slide, of a remote one also of its e-tags.

    No answer where none of these tells one change from the next.
    """
    return source.version or files_state(*source.files)


def files_state(*files: Path) -> str:
    now, facts = time.time_ns(), []
    for path in files:
        size, modified, _ = state_of(path)
        if size < 0 or not is_telling(modified, now):
            return NO_ANSWER
        facts.append((path.name, size, modified))
    return digest(facts)


def is_telling(modified: int, now: int) -> bool:
    """Whether a file that changes after `now` will have another time of last change; all in ns since 1970."""
    return FIRST_KNOWN < modified < now - SETTLED


def telling_time(source: Source) -> int | None:
    """The time of the last change of a slide; None where it does not tell one change from the next."""
    modified = source.modified
    return modified if source.version or is_telling(modified, time.time_ns()) else None


def record_of(state: str, output: tuple[int, int], fingerprint: str) -> Record | None:
    """The record of an output; None where nothing can be told by one.

    `state` is that of the slide before it was read, `output` size and time of the output before it was renamed or read.
    """
    size, modified = output
    known = state != NO_ANSWER and fingerprint != NO_ANSWER and size >= 0 and modified > FIRST_KNOWN
    return Record(state, size, modified, fingerprint) if known else None


def is_recorded(job: Job, known: Outcome | None) -> bool:
    """Whether the output of a job is there and up to date by what is known of it."""
    if known is None or known.record is None or not job.fingerprint:
        return False
    if known.status != WRITTEN and (known.status, known.reason) != (SKIPPED, UP_TO_DATE):
        return False
    record = known.record
    return (
        record.fingerprint == job.fingerprint
        and (record.output_bytes, record.output_modified) == state_of(job.output)[:2]
        and record.source == source_state(job.source)
    )


def digest(value: Any) -> str:
    return hashlib.sha256(ENCODER.encode(value).encode()).hexdigest()[:DIGITS]
