"""Execute or preview a run over an archive, and print the results."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from wsisum_cli.commands.options import FOUND, INTERRUPTED, cache_folder
from wsisum_cli.errors import UsageError


@dataclass(frozen=True)
class Places:
    """Where slides come from, where outputs go, and where copies of remote slides lie, as the user gave them."""

    source: str  # paths or addresses
    output: str
    cache_dir: Path | None
    cache_size: str

    @contextmanager
    def opened(self, request: Any, setup: Any) -> Iterator[tuple[Any, Any]]:
        """The request and the setup with both places in them. Raises UsageError, RemoteError, AccessError."""
        from wsisum_cli.archive.remote.sites import open_sites
        from wsisum_cli.pipeline.product import SWEEPS
        from wsisum_cli.selection.budget import parse_bytes
        from wsisum_cli.slides.remote.cache import Cache

        cache = Cache(self.cache_dir or cache_folder(), parse_bytes(self.cache_size, "--cache-size"))
        with open_sites(self.source, self.output, cache) as sites:
            if request.product is SWEEPS and sites.is_remote:
                raise UsageError("--sweep writes to a folder; choose one as --output")
            ends = {"output": sites.output, "outputs": sites.outputs}
            archive = {"source": sites.archive.path, "archive": sites.archive}
            yield replace(request, **ends, **archive), replace(setup, **ends)


def run_or_preview(
    places: Places, request: Any, setup: Any, manifest: Path | None, workers: int, dry_run: bool, as_json: bool
) -> None:
    from wsisum_cli.archive.manifest import Manifest, read_manifest
    from wsisum_cli.archive.run import Run

    rows = read_manifest(manifest) if manifest else Manifest()
    with places.opened(request, setup) as (request, setup):
        if dry_run:
            preview_run(request, rows, as_json)
        else:
            execute_run(Run(request, setup, workers), rows, as_json)


def preview_run(request: Any, manifest: Any, as_json: bool) -> None:
    from wsisum_cli.archive.plan import plan_archive
    from wsisum_cli.archive.report import read_outcomes
    from wsisum_cli.archive.run import preview_outcomes
    from wsisum_cli.archive.several import Splitter
    from wsisum_cli.commands.console import messages, output, plan_lines, print_outcomes, warn

    known = read_outcomes(request.output)
    plan = plan_archive(request, manifest, known)
    split = Splitter(request, manifest, plan, known)
    outcomes = [
        *plan.outcomes,
        *(found for source, job in plan.jobs for found in preview_outcomes(source, job, request.product, split)),
    ]
    warn_of_unused(manifest)
    for line in plan_lines(plan):
        messages().print(line, markup=False)
    for outcome in outcomes:
        if outcome.status == "failed":
            warn(outcome.message)
    if as_json:
        typer.echo(json.dumps({"slides": [outcome.as_dict() for outcome in outcomes]}, indent=1))
    else:
        print_outcomes(output(), outcomes)
    raise typer.Exit(FOUND if any(outcome.status == "failed" for outcome in outcomes) else 0)


def warn_of_unused(manifest: Any) -> None:
    from wsisum_cli.commands.console import warn

    for name in sorted(manifest.unused):
        warn(f"the manifest lists {name}, which is not in the archive")


def execute_run(run: Any, manifest: Any, as_json: bool) -> None:
    from wsisum_cli.archive.report import JSON_NAME
    from wsisum_cli.commands.console import listening, messages, output, print_outcomes, warn
    from wsisum_cli.pipeline.product import SWEEPS

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # treat a scheduler's stop as an interrupt
    try:
        with listening(messages()) as listener:
            run.go(manifest, listener)
    except KeyboardInterrupt:
        warn("interrupted; run the same command again to continue")
        raise typer.Exit(INTERRUPTED) from None
    warn_of_unused(manifest)
    report = run.request.output / JSON_NAME
    if run.request.product is SWEEPS:
        show_sweeps(run, as_json)
    elif as_json:
        typer.echo(report.read_text(encoding="utf-8"), nl=False)
    else:
        print_outcomes(output(), run.outcomes)
        messages().print(f"report: {run.request.outputs.shown(report)}", markup=False)
    raise typer.Exit(FOUND if any(outcome.status == "failed" for outcome in run.outcomes) else 0)


def show_sweeps(run: Any, as_json: bool) -> None:
    """Print the table of each swept slide, and the outcomes of slides without one."""
    from wsisum_cli.commands.console import output, print_outcomes, print_sweep
    from wsisum_cli.pipeline.sweep import read_sweep

    tables = {done.source: read_sweep(run.request.output / done.sweep) for done in run.outcomes if done.sweep}
    if as_json:
        slides = [{**done.as_dict(), "table": tables.get(done.source)} for done in run.outcomes]
        typer.echo(json.dumps({"slides": slides}, ensure_ascii=False, indent=1))
        return
    for source, rows in sorted(tables.items()):
        print_sweep(output(), source, rows)
    without = [done for done in run.outcomes if not done.sweep]
    if without:
        print_outcomes(output(), without)
