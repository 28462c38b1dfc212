"""One run over an archive: plan, work, report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsisum_cli import __version__
from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.outcome import Outcome, outcome_of
from wsisum_cli.archive.plan import Plan, Request, plan_archive
from wsisum_cli.archive.remote.prefetch import Prefetcher
from wsisum_cli.archive.report import read_outcomes, write_report
from wsisum_cli.archive.several import Splitter
from wsisum_cli.archive.workers import Event, Named, Setup, Split, refuse_several, run_jobs
from wsisum_cli.errors import AccessError, SeveralSlidesError, UsageError
from wsisum_cli.pipeline.job import Job
from wsisum_cli.pipeline.product import SUMMARIES, Product
from wsisum_cli.slides.remote.source import RemoteSource
from wsisum_cli.slides.slide import open_slide


@dataclass(frozen=True)
class Listener:
    """Callbacks for the progress of a run. By default they do nothing."""

    planned: Callable[[Plan], None] = lambda plan: None
    more: Callable[[int], None] = lambda count: None  # slides than planned: a file held several
    again: Callable[[str, list[str]], None] = lambda slide, why: None  # such a slide is made again, and why
    event: Callable[[Event], None] = lambda event: None
    outcome: Callable[[Outcome], None] = lambda outcome: None


@dataclass
class Run:
    """A run and its outcomes so far."""

    request: Request
    setup: Setup
    workers: int = 1
    outcomes: list[Outcome] = field(default_factory=list)

    def go(self, manifest: Manifest, listener: Listener) -> None:
        """Run all jobs that are needed. However the run ends, the report covers what was done.

        Raises UsageError when no job can be started, AccessError when a store refuses the credentials.
        """
        began = datetime.now(UTC)
        known = read_outcomes(self.request.output)
        plan = plan_archive(self.request, manifest, known)
        splitter = Splitter(self.request, manifest, plan, known)

        def split(source: str, job: Job, count: int) -> tuple[list[Named], list[Outcome]]:
            listener.more(count - 1)
            before = set(splitter.again)
            found = splitter(source, job, count)
            for slide in [slide for slide in splitter.again if slide not in before]:
                listener.again(slide, splitter.again[slide])
            return found

        make_folder(self.request.output)
        self.outcomes += plan.outcomes
        try:
            listener.planned(plan)
            with Prefetcher(plan.jobs, self.workers) as prefetcher:
                for outcome in run_jobs(plan.jobs, self.setup, self.workers, listener.event, split):
                    prefetcher.finished()
                    self.outcomes.append(outcome)
                    listener.outcome(outcome)
        except (UsageError, AccessError):
            if len(self.outcomes) > len(plan.outcomes):
                self.report(plan, began, splitter)
            raise  # nothing was done, so the last run's report still holds
        except BaseException:
            self.report(plan, began, splitter)
            raise
        self.report(plan, began, splitter)

    def report(self, plan: Plan, began: datetime, splitter: Splitter) -> None:
        """Write the report. Slides that were not reached are listed as not_tried."""
        if not self.request.product.reported:
            return
        done = {outcome.source for outcome in self.outcomes}
        wanted = [source for source, _ in plan.jobs if source not in splitter.files] + splitter.slides
        left = [source for source in wanted if source not in done]
        write_report(self.request.output, self.outcomes, {**self.facts(began), "not_tried": left})
        self.request.outputs.keep_run_files()

    def facts(self, began: datetime) -> dict[str, Any]:
        """Facts of the whole run. Clock times are recorded here and in no output."""
        return {
            "wsisum": __version__,
            "started": began.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "options": self.request.options.as_dict(),
            "encoder_sha256": self.request.encoder_sha256,
            **{
                f"{name}_sha256": choice.card.sha256 if choice is not None else None
                for name, choice in self.request.choices.named().items()
            },
            "device": self.setup.device,
            "workers": self.workers,
        }


def make_folder(folder: Path) -> None:
    """Create the folder. Raises UsageError when it cannot be created or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: the output folder cannot be created or written to ({error.strerror})") from error


def preview_outcomes(
    source: str, job: Job, product: Product = SUMMARIES, split: Split = refuse_several
) -> list[Outcome]:
    """What a run would do with the slides of a file, judging by its header; by its name alone if it is remote."""
    if isinstance(job.source, RemoteSource):  # to look into it would be to fetch it
        return [Outcome(source, "would write", bytes_in=job.source.bytes, **product.named(job.output.name))]
    try:
        with open_slide(job.source.path, job.mpp, job.name, job.mpp_wins, job.image, job.source.files):
            named = product.named(job.output.name)
            return [Outcome(source, "would write", bytes_in=job.source.bytes, **named)]
    except SeveralSlidesError as error:
        jobs, outcomes = split(source, job, error.count)
        return [*outcomes, *(found for name, one in jobs for found in preview_outcomes(name, one, product))]
    except Exception as error:  # noqa: BLE001 - any error of a reader is this slide's outcome
        return [outcome_of(error, source)]
