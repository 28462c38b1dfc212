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
from wsisum_cli.archive.report import read_outcomes, write_report
from wsisum_cli.archive.workers import Event, Setup, run_jobs
from wsisum_cli.errors import UsageError
from wsisum_cli.pipeline.job import Job
from wsisum_cli.pipeline.product import SUMMARIES, Product
from wsisum_cli.slides.slide import open_slide


@dataclass(frozen=True)
class Listener:
    """Who wants to hear how a run goes. By default nobody does."""

    planned: Callable[[Plan], None] = lambda plan: None
    event: Callable[[Event], None] = lambda event: None
    outcome: Callable[[Outcome], None] = lambda outcome: None


@dataclass
class Run:
    """A run and what came of it so far."""

    request: Request
    setup: Setup
    workers: int = 1
    outcomes: list[Outcome] = field(default_factory=list)

    def go(self, manifest: Manifest, listener: Listener) -> None:
        """Make all that is needed. Whatever ends the run, the report says what was done by then.

        Raises UsageError when nothing can be started.
        """
        began = datetime.now(UTC)
        plan = plan_archive(self.request, manifest, read_outcomes(self.request.output))
        make_folder(self.request.output)
        self.outcomes += plan.outcomes
        try:
            listener.planned(plan)
            for outcome in run_jobs(plan.jobs, self.setup, self.workers, listener.event):
                self.outcomes.append(outcome)
                listener.outcome(outcome)
        except UsageError:
            if len(self.outcomes) > len(plan.outcomes):
                self.report(plan, began)
            raise  # where nothing was done, the report of the last run still holds
        except BaseException:
            self.report(plan, began)
            raise
        self.report(plan, began)

    def report(self, plan: Plan, began: datetime) -> None:
        """Slides that the run did not come to are listed apart."""
        if not self.request.product.reported:
            return
        done = {outcome.source for outcome in self.outcomes}
        left = [source for source, _ in plan.jobs if source not in done]
        write_report(self.request.output, self.outcomes, {**self.facts(began), "not_tried": left})

    def facts(self, began: datetime) -> dict[str, Any]:
        """What holds for the whole run; clock times stand here and in no output."""
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
    """Raises UsageError when it is not there afterwards, or nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: the output folder cannot be made or written to ({error.strerror})") from error


def preview_outcome(source: str, job: Job, product: Product = SUMMARIES) -> Outcome:
    """What a run would do with a slide, as far as its header tells."""
    try:
        with open_slide(job.source.path, job.mpp, job.name, job.mpp_wins):
            return Outcome(source, "would write", bytes_in=job.source.bytes, **product.named(job.output.name))
    except Exception as error:  # noqa: BLE001 - whatever a reader raises is this slide's outcome
        return outcome_of(error, source)
