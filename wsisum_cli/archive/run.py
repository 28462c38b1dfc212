"""One run over an archive: plan, work, report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from wsisum_cli import __version__
from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.outcome import Outcome, outcome_of
from wsisum_cli.archive.plan import Plan, Request, plan_archive
from wsisum_cli.archive.remote.prefetch import Prefetcher
from wsisum_cli.archive.scope.filters import LEFT_OUT, NEEDS_WORK, NOT_THERE, file_of
from wsisum_cli.archive.scope.known import acknowledge
from wsisum_cli.archive.scope.naming import refuse_unnamed
from wsisum_cli.archive.several import Splitter
from wsisum_cli.archive.state.catalogue import NAME as CATALOGUE
from wsisum_cli.archive.state.catalogue import build_catalogue
from wsisum_cli.archive.state.ledger import Ledger
from wsisum_cli.archive.workers import Event, Named, Setup, Split, refuse_several, run_jobs
from wsisum_cli.errors import AccessError, RemoteError, SeveralSlidesError, UsageError, WsisumError
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
    ready: Callable[[str], None] = lambda provider: None  # a worker loaded the models; the encoder's provider
    event: Callable[[Event], None] = lambda event: None
    outcome: Callable[[Outcome], None] = lambda outcome: None

    @classmethod
    def of(cls, *listeners: Listener) -> Listener:
        """One that tells all of them, in turn."""

        def tell(name: str) -> Callable[..., None]:
            def told(*values: Any) -> None:
                for listener in listeners:
                    getattr(listener, name)(*values)

            return told

        return cls(**{one.name: tell(one.name) for one in fields(cls)})


#: Works on jobs, and yields an outcome for each slide. It is called as `run_jobs`, without the number of workers.
Engine = Callable[..., Iterator[Outcome]]


@dataclass
class Run:
    """A run and its outcomes so far."""

    request: Request
    setup: Setup
    workers: int = 1
    engine: Engine | None = None  # None: worker processes on this machine
    outcomes: list[Outcome] = field(default_factory=list)
    unlisted: dict[str, str] = field(default_factory=dict)  # summary -> why the catalogue has no row for it
    ledger: Ledger = field(init=False)

    def go(self, manifest: Manifest, listener: Listener) -> None:
        """Run all jobs that are needed. However the run ends, the report covers what was done.

        Raises UsageError when no job can be started, AccessError when a store refuses the credentials.
        """
        began = datetime.now(UTC)
        self.ledger = Ledger(self.request.output, self.request.product.noun, self.request.shard)
        known = self.ledger.known
        plan = plan_archive(self.request, manifest, known)
        plan = replace(plan, outcomes=[acknowledge(outcome, manifest) for outcome in plan.outcomes])
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
            self.begin(plan, began)
            listener.planned(plan)
            with self.prefetcher(plan) as prefetcher:
                engine = self.engine or partial(run_jobs, workers=self.workers)
                for found in engine(plan.jobs, self.setup, listen=listener.event, split=split, ready=listener.ready):
                    prefetcher.finished()
                    outcome = acknowledge(found, manifest)
                    self.outcomes.append(outcome)
                    self.ledger.note(outcome)
                    listener.outcome(outcome)
            for missing in self.not_found(splitter):
                outcome = acknowledge(missing, manifest)
                self.outcomes.append(outcome)
                self.ledger.note(outcome)
                listener.outcome(outcome)
        except (UsageError, AccessError):
            if len(self.outcomes) > len(plan.outcomes):
                self.report(plan, began, splitter)
            self.ledger.abandon()
            raise  # nothing was done, so the last run's report still holds
        except BaseException:
            self.report(plan, began, splitter)
            raise
        self.report(plan, began, splitter)

    def prefetcher(self, plan: Plan) -> Prefetcher:
        """Fetches remote slides ahead of the workers of this machine; those of a cluster have no part in its cache."""
        return Prefetcher(plan.jobs if self.engine is None else [], self.workers)

    def begin(self, plan: Plan, began: datetime) -> None:
        """Start the journal. Raises UsageError when there is no room for it."""
        if not self.request.product.reported:
            return
        news = [outcome for outcome in plan.outcomes if outcome.source not in plan.recorded]
        try:
            self.ledger.begin(self.facts(began), [source for source, _ in plan.jobs], news)
        except OSError as error:
            raise UsageError(f"the output folder cannot be written to ({error.strerror})") from error

    def not_found(self, splitter: Splitter) -> list[Outcome]:
        """Outcomes of listed slides, `FILE#N`, whose file turned out to hold one slide, or fewer."""
        done = {outcome.source for outcome in self.outcomes}
        files = splitter.files | done
        named = [name for name in self.request.filter.listed or () if name not in done]
        return [
            self.request.filter.not_found(name) for name in named if name != file_of(name) and file_of(name) in files
        ]

    def report(self, plan: Plan, began: datetime, splitter: Splitter) -> None:
        """Write the report. Slides that were not reached are listed as not_tried.

        What a filter left out keeps the row that an earlier run wrote; without one it was not tried.
        """
        if not self.request.product.reported:
            return
        wanted = [source for source, _ in plan.jobs if source not in splitter.files] + splitter.slides
        done = {outcome.source for outcome in self.outcomes}
        earlier = [
            replace(self.ledger.known[name], earlier=NEEDS_WORK if plan.is_beyond(name) else LEFT_OUT)
            for name in (self.ledger.known if plan.beyond or plan.left_out or splitter.left_out else ())
            if name not in done and (plan.is_beyond(name) or plan.leaves_out(name) or name in splitter.left_out)
        ]
        earlier += self.gone(done.union(wanted, (outcome.source for outcome in earlier)))
        rows = {name for outcome in earlier for name in (outcome.source, file_of(outcome.source))}
        out = [name for name in (*plan.beyond, *sorted(plan.left_out), *sorted(splitter.left_out)) if name not in rows]
        finished = datetime.now(UTC).isoformat(timespec="milliseconds")
        facts = {**self.facts(began), "finished": finished, "partial": self.partial(plan, splitter)}
        self.ledger.finish([*self.outcomes, *earlier], facts, [*wanted, *out])
        self.publish_report()
        if (
            self.request.outputs.are_here
            and self.request.product is SUMMARIES
            and (self.request.output / CATALOGUE).is_file()
        ):
            self.update_catalogue()

    def gone(self, names: set[str]) -> Iterator[Outcome]:
        """The rows of slides that are in the archive no more, though their outputs are still there.

        Nothing else says which slide a private name is of. `names` are those that this run has looked at.
        """
        files = {file_of(name) for name in names}
        taken = {outcome.summary or outcome.features for outcome in self.outcomes}
        for row in self.ledger.former_rows(files):
            output = row.summary or row.features
            if output and output not in taken and (self.request.output / output).is_file():
                yield replace(row, earlier=NOT_THERE)

    def publish_report(self) -> None:
        """Put both reports where the outputs go. A store that does not take them costs no output."""
        try:
            self.request.outputs.keep_run_files()
        except (RemoteError, AccessError, OSError) as error:
            self.ledger.trouble = self.ledger.trouble or f"the report could not be put in its place ({error})"

    def update_catalogue(self) -> None:
        """Bring the catalogue up to date. One that cannot be written costs no summary."""
        try:
            self.unlisted = build_catalogue(self.request.output, self.outcomes).unreadable
        except (WsisumError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self.ledger.trouble = self.ledger.trouble or f"{CATALOGUE} is not up to date ({why})"

    def partial(self, plan: Plan, splitter: Splitter) -> dict[str, Any] | None:
        """What the run was asked for and what that left out; None where it was all of the archive."""
        if not self.request.filter.is_partial:
            return None
        counts = {"left_out": len(plan.left_out) + len(splitter.left_out), "need_work": len(plan.beyond)}
        return {**self.request.filter.as_dict(), **counts}

    def facts(self, began: datetime) -> dict[str, Any]:
        """Facts of the whole run. Clock times are recorded here and in no output."""
        return {
            "wsisum": __version__,
            "started": began.isoformat(timespec="milliseconds"),
            "finished": None,
            **({} if self.request.shard is None else {"shard": str(self.request.shard)}),
            **self.request.naming.facts(),
            "settings": self.request.settings,
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
    named = product.named(job.output.name if job.name else "")
    if isinstance(job.source, RemoteSource):  # to look into it would be to fetch it
        return [Outcome(source, "would write", bytes_in=job.source.bytes, **named)]
    try:
        refuse_unnamed(job)
        with open_slide(job.source.path, job.mpp, job.name, job.mpp_wins, job.image, job.source.files):
            return [Outcome(source, "would write", bytes_in=job.source.bytes, **named)]
    except SeveralSlidesError as error:
        jobs, outcomes = split(source, job, error.count)
        return [*outcomes, *(found for name, one in jobs for found in preview_outcomes(name, one, product))]
    except Exception as error:  # noqa: BLE001 - any error of a reader is this slide's outcome
        return [outcome_of(error, source)]
