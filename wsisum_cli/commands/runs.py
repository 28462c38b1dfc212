"""Execute or preview a run over an archive, and print the results."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from wsisum_cli.commands.options import FOUND, INTERRUPTED
from wsisum_cli.errors import AccessError, UsageError
from wsisum_cli.summary.limits.plain_text import plain_json, plain_json_text

if TYPE_CHECKING:
    from wsisum_cli.archive.engines.estimate import Estimate
    from wsisum_cli.archive.engines.resources import Crew
    from wsisum_cli.archive.outcome import Outcome
    from wsisum_cli.archive.plan import Request
    from wsisum_cli.archive.run import Listener, Run
    from wsisum_cli.commands.settings.run_options import Running

MOST_NAMED = 5  # slides that a warning is given of one by one


def run_or_preview(source: str, output: str, request: Any, setup: Any, running: Running) -> None:
    """Run a request over `source` to `output`, paths or addresses, or show what that would do."""
    from wsisum_cli.archive.manifest import Manifest, read_manifest
    from wsisum_cli.archive.state.shard import parse_shard

    running.check()
    shard = parse_shard(running.shard) if running.shard is not None else None
    rows = read_manifest(running.manifest) if running.manifest else Manifest()
    request = replace(request, check=running.check_all, shard=shard, naming=running.naming(output))
    with placed(source, output, request, setup, running) as (request, setup):
        request = replace(request, filter=running.filter(request.source))
        if running.dry_run:
            preview_run(request, setup, rows, running)
        else:
            execute_run(request, setup, rows, running)


@contextmanager
def placed(source: str, output: str, request: Any, setup: Any, running: Running) -> Iterator[tuple[Any, Any]]:
    """The request and the setup with both ends of the run in them.

    Raises UsageError where an end is an address that cannot serve, RemoteError, AccessError.
    """
    from wsisum_cli.archive.remote.sites import open_sites

    refuse_remote(source, output, request.product, running)
    with open_sites(source, output, running.cache()) as sites:
        ends = {"output": sites.output, "outputs": sites.outputs}
        archive = {"source": sites.archive.path, "archive": sites.archive}
        yield replace(request, **ends, **archive), replace(setup, **ends)


def refuse_remote(source: str, output: str, product: Any, running: Running) -> None:
    """Raise UsageError for options that need a folder where an address is given."""
    from wsisum_cli.pipeline.product import SWEEPS
    from wsisum_cli.slides.remote.url import Address, parse_place

    source_is_remote, output_is_remote = (isinstance(parse_place(place), Address) for place in (source, output))
    if product is SWEEPS and output_is_remote:
        raise UsageError("--sweep writes to a folder; choose one as --output")
    if running.sign is not None and output_is_remote:
        raise UsageError("--sign signs files in a folder, but --output is an address; choose a folder, or leave it out")
    if running.on_cluster and (source_is_remote or output_is_remote):
        raise UsageError(
            "--scheduler: expected folders that all workers see as SOURCE and --output, found an address; use "
            "--workers or --shard instead"
        )


def preview_run(request: Any, setup: Any, manifest: Any, running: Running) -> None:
    from wsisum_cli.archive.plan import plan_archive
    from wsisum_cli.archive.run import preview_outcomes
    from wsisum_cli.archive.scope.known import acknowledge, unexpected
    from wsisum_cli.archive.several import Splitter
    from wsisum_cli.archive.state.ledger import Ledger
    from wsisum_cli.commands.console import messages, output, print_outcomes, warn
    from wsisum_cli.commands.progress.shown import plan_lines

    known = Ledger(request.output, request.product.noun, request.shard).known
    plan = plan_archive(request, manifest, known)
    split = Splitter(request, manifest, plan, known)
    found = [
        *plan.outcomes,
        *(found for source, job in plan.jobs for found in preview_outcomes(source, job, request.product, split)),
    ]
    outcomes = [acknowledge(outcome, manifest) for outcome in found]
    warn_of_manifest(manifest, outcomes, request)
    for line in plan_lines(plan):
        messages().print(line, markup=False)
    for outcome in outcomes:
        if outcome.status == "failed":
            warn(outcome.message)
    estimate = estimate_of(plan, setup, running)
    if running.as_json:
        found_json = {
            "slides": [outcome.as_dict() for outcome in outcomes],
            "estimate": estimate and estimate.as_dict(),
        }
        typer.echo(plain_json(found_json))
    else:
        print_outcomes(output(), outcomes)
        if estimate is not None:
            output().print(estimate_line(estimate), markup=False)
    raise typer.Exit(FOUND if unexpected(outcomes) else 0)


def estimate_of(plan: Any, setup: Any, running: Running) -> Estimate | None:
    """What the run would take on this machine. Raises UsageError when the encoder does not load."""
    from wsisum_cli.archive.engines.estimate import estimate_run
    from wsisum_cli.models.encoder import load_encoder

    if not plan.jobs:
        return None
    crew = running.crew(setup.device)
    encoder = load_encoder(setup.encoder, setup.device)
    return estimate_run(plan.jobs, replace(setup, threads=crew.threads), encoder, crew.workers)


def estimate_line(estimate: Estimate) -> str:
    from wsisum_cli.commands.progress.course import duration
    from wsisum_cli.figures.words import pluralize, size

    took = " to ".join(duration(3600 * hours) for hours in estimate.hours)
    sizes = " to ".join(dict.fromkeys(size(count) for count in estimate.bytes))
    sample = f"{estimate.sampled} of {pluralize(estimate.slides, 'slide')}, {estimate.patches} patches of tissue each"
    workers = pluralize(estimate.workers, "worker")
    return f"estimate: {took} with {workers} on this machine, {sizes} of output; measured on {sample}"


def warn_of_manifest(manifest: Any, outcomes: Any, request: Request) -> None:
    """Rows of the manifest that no longer hold: slides that are gone, and known failures that are mended."""
    from wsisum_cli.archive.scope.filters import file_of
    from wsisum_cli.archive.scope.known import mended
    from wsisum_cli.commands.console import warn

    fine = mended(outcomes, manifest)
    for name in sorted(manifest.unused):
        if (request.filter.is_partial or request.shard is not None) and name != file_of(name):
            continue  # its file may have been left out, and so nobody looked
        warn(f"the manifest lists {name}, which is not in the archive")
    if manifest.columns:
        warn(f"columns of the manifest that a run does not use: {', '.join(manifest.columns)}")
    for outcome in fine:
        how = outcome.reason or outcome.status
        warn(f"the manifest lists {outcome.source} as a known failure, but it is {how}; empty its column known")


def execute_run(request: Any, setup: Any, manifest: Any, running: Running) -> None:
    from wsisum_cli.archive.scope.known import unexpected
    from wsisum_cli.commands.console import messages, warn
    from wsisum_cli.commands.progress.log import logging_to
    from wsisum_cli.commands.progress.shown import listening
    from wsisum_cli.commands.signing.keys import signer
    from wsisum_cli.commands.signing.outputs import signing

    failed: list[str] = []  # summaries that could not be signed
    key = signer(running.sign)  # whose password is asked for before anything is done
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # treat a scheduler's stop as an interrupt
    run, header = prepared(request, setup, running)
    with logging_to(running.log_file) as log:
        try:
            with listening(messages(), running.quiet, running.verbose) as shown:
                listeners = [*([] if running.quiet else [header]), shown, *([log.listener()] if log else [])]
                run.go(manifest, signing(listener_of(listeners), request.output, key, warn, failed))
        except KeyboardInterrupt:
            if log:
                log.write("warning", "interrupted")
            warn("interrupted; run the same command again to continue")
            raise typer.Exit(INTERRUPTED) from None
        except UsageError:
            if log:
                log.write("error", "could not start")
            raise
        except AccessError:
            if log:
                log.write("error", "no access")
            if run.ledger.trouble:
                warn(run.ledger.trouble)
            raise
        if log:
            log.write("info", "finished", outcomes=len(run.outcomes))
    warn_of_manifest(manifest, run.outcomes, run.request)
    warn_of_state(run)
    warn_of_former(run.outcomes)
    show_results(run, running)
    unsigned = warn_of_unsigned(run, key)
    raise typer.Exit(FOUND if unsigned or failed or unexpected(run.outcomes) or run.ledger.trouble else 0)


def warn_of_state(run: Run) -> None:
    """What report, journal and catalogue lack."""
    from wsisum_cli.commands.console import warn

    if run.ledger.trouble:
        warn(run.ledger.trouble)
    for path, why in sorted(run.unlisted.items()):
        warn(f"{path}: has no row in the catalogue: {why}")


def warn_of_former(outcomes: Sequence[Outcome]) -> None:
    """Which outputs took the place of another slide's."""
    from wsisum_cli.archive.outcome import UP_TO_DATE
    from wsisum_cli.commands.console import warn

    replaced = [outcome for outcome in outcomes if outcome.former and outcome.reason != UP_TO_DATE]
    for outcome in replaced[:MOST_NAMED]:
        warn(f"{outcome.source}: its output replaces that of another slide, which is kept as {outcome.former}")
    if more := replaced[MOST_NAMED:]:
        warn(f"{len(more)} more outputs replace those of other slides, which are kept; see `former` in the report")


def warn_of_unsigned(run: Any, key: Any) -> bool:
    """Whether summaries that are up to date lack the signature of this key."""
    from wsisum_cli.commands.console import warn
    from wsisum_cli.commands.signing.outputs import unsigned

    left = [] if key is None else unsigned(run.outcomes, run.request.output, key)
    for name in left:
        warn(f"{name}: up to date, without a signature of this key; write it again with --force")
    return bool(left)


def listener_of(listeners: list[Listener]) -> Listener:
    from wsisum_cli.archive.run import Listener

    return Listener.of(*listeners)


def prepared(request: Any, setup: Any, running: Running) -> tuple[Run, Listener]:
    """The run, on this machine or on a cluster, and a listener that prints its header."""
    from wsisum_cli.archive.run import Run

    if running.on_cluster:
        from wsisum_cli.archive.engines.cluster import Cluster, with_absolute_paths

        cluster = Cluster(running.scheduler, running.scheduler_file, running.retries)
        request, setup = with_absolute_paths(request, setup)
        return Run(request, setup, 1, partial(cluster.run_jobs)), header_of(setup.device, None)
    crew = running.crew(setup.device)
    setup = replace(setup, threads=crew.threads, gpus=crew.gpus)
    return Run(request, setup, crew.workers), header_of(setup.device, crew)


def header_of(device: str, crew: Crew | None) -> Listener:
    """Prints once on which device the models run, and why, and on how many workers."""
    from wsisum_cli.archive.run import Listener
    from wsisum_cli.commands.console import messages

    told: set[str] = set()

    def ready(provider: str) -> None:
        if provider not in told:
            told.add(provider)
            messages().print(device_line(provider, device, crew), markup=False)

    return Listener(ready=ready)


def device_line(provider: str, device: str, crew: Crew | None) -> str:
    """Such as `device: CPU (no NVIDIA driver found); 2 workers, one a core, of 1 thread each`."""
    from wsisum_cli.archive.engines.resources import why_no_gpu
    from wsisum_cli.archive.health.check import start_apart
    from wsisum_cli.figures.words import pluralize

    name = provider.removesuffix("ExecutionProvider")
    why = "" if name == "CUDA" or crew is None else f" ({why_no_gpu(device, crew.gpus, start_apart)})"
    if crew is None:
        return f"device: {name}; workers of a Dask cluster"
    chosen = f", {crew.why}" if crew.why else ""
    return f"device: {name}{why}; {pluralize(crew.workers, 'worker')}{chosen}, of {pluralize(crew.threads, 'thread')}"


def show_results(run: Run, running: Running) -> None:
    from wsisum_cli.archive.report import report_names
    from wsisum_cli.commands.console import messages, output, print_outcomes
    from wsisum_cli.pipeline.product import SWEEPS

    report = run.request.output / report_names(run.request.shard)[0]
    unwritten = run.ledger.unwritten
    if run.request.product is SWEEPS:
        show_sweeps(run, running.as_json)
    elif running.as_json and unwritten:
        # What lies there is the report of an earlier run.
        typer.echo(plain_json({"slides": [outcome.as_dict() for outcome in run.outcomes]}))
    elif running.as_json:
        typer.echo(plain_json_text(report.read_text(encoding="utf-8")), nl=False)
    else:
        print_outcomes(output(), run.outcomes)
        if not running.quiet and not unwritten:
            messages().print(f"report: {run.request.outputs.shown(report)}", markup=False)


def show_sweeps(run: Any, as_json: bool) -> None:
    """Print the table of each swept slide, and the outcomes of slides without one."""
    from wsisum_cli.commands.console import output, print_outcomes, print_sweep
    from wsisum_cli.pipeline.sweep import read_sweep

    tables = {done.source: read_sweep(run.request.output / done.sweep) for done in run.outcomes if done.sweep}
    if as_json:
        slides = [{**done.as_dict(), "table": tables.get(done.source)} for done in run.outcomes]
        typer.echo(plain_json({"slides": slides}))
        return
    for source, rows in sorted(tables.items()):
        print_sweep(output(), source, rows)
    without = [done for done in run.outcomes if not done.sweep]
    if without:
        print_outcomes(output(), without)
