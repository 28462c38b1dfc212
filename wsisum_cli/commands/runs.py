"""Execute or preview a run over an archive, and print the results."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import typer

from wsisum_cli.commands.options import FOUND, INTERRUPTED
from wsisum_cli.summary.limits.plain_text import plain_json, plain_json_text


def run_or_preview(
    request: Any,
    setup: Any,
    manifest: Path | None,
    workers: int,
    dry_run: bool,
    as_json: bool,
    sign: Path | None = None,
) -> None:
    from wsisum_cli.archive.manifest import Manifest, read_manifest
    from wsisum_cli.archive.run import Run

    rows = read_manifest(manifest) if manifest else Manifest()
    if dry_run:
        preview_run(request, rows, as_json)
    else:
        execute_run(Run(request, setup, workers), rows, as_json, sign)


def preview_run(request: Any, manifest: Any, as_json: bool) -> None:
    from wsisum_cli.archive.plan import plan_archive
    from wsisum_cli.archive.run import preview_outcomes
    from wsisum_cli.archive.several import Splitter
    from wsisum_cli.archive.state.ledger import Ledger
    from wsisum_cli.commands.console import messages, output, plan_lines, print_outcomes, warn

    known = Ledger(request.output, request.product.noun, request.shard).known
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
        typer.echo(plain_json({"slides": [outcome.as_dict() for outcome in outcomes]}))
    else:
        print_outcomes(output(), outcomes)
    raise typer.Exit(FOUND if any(outcome.status == "failed" for outcome in outcomes) else 0)


def warn_of_unused(manifest: Any) -> None:
    from wsisum_cli.commands.console import warn

    for name in sorted(manifest.unused):
        warn(f"the manifest lists {name}, which is not in the archive")
    if manifest.columns:
        warn(f"columns of the manifest that a run does not use: {', '.join(manifest.columns)}")


def execute_run(run: Any, manifest: Any, as_json: bool, sign: Path | None = None) -> None:
    from wsisum_cli.archive.health.check import start_apart
    from wsisum_cli.archive.report import report_names
    from wsisum_cli.commands.console import listening, messages, output, print_outcomes, warn
    from wsisum_cli.commands.signing.keys import signer
    from wsisum_cli.commands.signing.outputs import signing
    from wsisum_cli.models.session import describe_device
    from wsisum_cli.pipeline.product import SWEEPS

    key = signer(sign)  # whose password is asked for before anything is done
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # treat a scheduler's stop as an interrupt
    try:
        with listening(messages(), lambda: describe_device(run.setup.device, start_apart)) as listener:
            run.go(manifest, signing(listener, run.request.output, key, warn))
    except KeyboardInterrupt:
        warn("interrupted; run the same command again to continue")
        raise typer.Exit(INTERRUPTED) from None
    warn_of_unused(manifest)
    report = run.request.output / report_names(run.request.shard)[0]
    if run.ledger.trouble:
        warn(run.ledger.trouble)
    if run.request.product is SWEEPS:
        show_sweeps(run, as_json)
    elif as_json:
        typer.echo(plain_json_text(report.read_text(encoding="utf-8")), nl=False)
    else:
        print_outcomes(output(), run.outcomes)
        messages().print(f"report: {report}", markup=False)
    left = warn_of_unsigned(run, key)
    failed = any(outcome.status == "failed" for outcome in run.outcomes)
    raise typer.Exit(FOUND if left or failed or run.ledger.trouble else 0)


def warn_of_unsigned(run: Any, key: Any) -> bool:
    """Whether summaries that are up to date lack the signature of this key."""
    from wsisum_cli.commands.console import warn
    from wsisum_cli.commands.signing.outputs import unsigned

    left = [] if key is None else unsigned(run.outcomes, run.request.output, key)
    for name in left:
        warn(f"{name}: up to date, without a signature of this key; write it again with --force")
    return bool(left)


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
