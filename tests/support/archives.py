"""Archives of files that are called as slides, and folders of summaries as a run over them would have left them."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from summaries import tiny_contents, write_changed

from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.outcome import WRITTEN, Outcome, Record
from wsisum_cli.archive.plan import Request, make_jobs
from wsisum_cli.archive.report import write_report
from wsisum_cli.archive.scope.naming import BY_STEM, Naming
from wsisum_cli.archive.state.journal import Journal
from wsisum_cli.archive.state.record import fingerprint_of, record_of, source_state
from wsisum_cli.archive.walk import find_slides
from wsisum_cli.pipeline.job import Job, Options
from wsisum_cli.slides.source import state_of
from wsisum_cli.summary.reader import open_summary

ENCODER = "0" * 64
LONG_AGO = 10  # s before now: times that tell


def request_for(archive: Path, output: Path, **changes: Any) -> Request:
    return Request(archive, output, Options(), ENCODER, **changes)


def write_slides(root: Path, *names: str) -> None:
    """Files that no reader opens, with times that tell one change from the next."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{name}{number}".encode() * (number + 1))
        set_back(path)


def set_back(path: Path, seconds: float = LONG_AGO) -> None:
    """Make the last change of a file some time ago."""
    os.utime(path, ns=(time.time_ns(), time.time_ns() - int(seconds * 1_000_000_000)))


def jobs_of(archive: Path, output: Path, naming: Naming = BY_STEM, manifest: Manifest | None = None) -> dict[str, Job]:
    """The job of each slide, with its fingerprint."""
    request = request_for(archive, output, naming=naming)
    sources, _, _ = find_slides(archive, output)
    found = make_jobs(request, manifest or Manifest(), archive, sources, {})
    return {name: replace(job, fingerprint=fingerprint_of(request.settings, job)) for name, job in found}


def write_summary_of(job: Job, **changes: Any) -> Path:
    """A whole summary that says it is of the slide of a job."""
    job.output.parent.mkdir(parents=True, exist_ok=True)
    contents = tiny_contents()
    source = contents.attributes.source.model_dump(exclude_unset=True)
    source |= {"name": job.name, "bytes": job.source.bytes, "files": 1, "sha256": job.source.sha256}
    source |= {} if job.image is None else {"image": job.image}
    options = contents.attributes.options.model_dump(exclude_unset=True) | {"max_keep": None}
    return write_changed(job.output, contents, {"source": source, "options": options, **changes})


def outcome_for(name: str, job: Job, flat: bool = False) -> Outcome:
    """What a run says of a slide that it has summarized. `flat`: all outputs lie in one folder."""
    with open_summary(job.output) as summary:
        attributes = summary.record
    return Outcome(
        name,
        WRITTEN,
        summary=job.output.name if flat or "/" not in name else f"{name.rpartition('/')[0]}/{job.output.name}",
        bytes_in=job.source.bytes,
        bytes_out=job.output.stat().st_size,
        patches=attributes.patches,
        verdict="PASS",
        sha256=job.source.sha256,
        modified=job.source.modified,
        record=record_for(job),
    )


def record_for(job: Job) -> Record:
    record = record_of(source_state(job.source), state_of(job.output)[:2], job.fingerprint)
    assert record is not None
    return record


def write_run(archive: Path, output: Path, naming: Naming = BY_STEM, manifest: Manifest | None = None) -> list[Outcome]:
    """Summaries, journal and report of a run over an archive."""
    now, request = datetime.now(UTC).isoformat(timespec="milliseconds"), request_for(archive, output)
    facts = {"started": now, "settings": request.settings, "options": request.options.as_dict(), **naming.facts()}
    jobs = jobs_of(archive, output, naming, manifest)
    for job in jobs.values():
        write_summary_of(job)
    outcomes = [outcome_for(name, job, naming.is_private) for name, job in jobs.items()]
    journal = Journal(output, {"product": "summary", "shard": None, **facts, "todo": list(jobs)})
    for outcome in outcomes:
        journal.note(outcome)
    journal.end()
    finished = datetime.now(UTC).isoformat(timespec="milliseconds")
    write_report(output, outcomes, {**facts, "finished": finished, "not_tried": []})
    return outcomes
