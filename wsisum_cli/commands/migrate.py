"""`wsisum migrate`: summaries of earlier formats in the current one, without their slides."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.archive.lookup import mirrored_names, refuse_addresses
from wsisum_cli.commands.options import FOUND, SummariesArgument
from wsisum_cli.errors import UsageError

# Heavy modules are imported where they are used: --help must answer at once.


def migrate(
    summaries: SummariesArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Output folder, or an .ozx file for a single summary.")
    ] = Path("migrated"),
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Write summaries of earlier formats in the current one.

    The slides are not needed, and nothing is lost. A summary of the current format is copied. The exit code is 1 if any
    could not be migrated.
    """
    from wsisum_cli.commands.console import output as stdout
    from wsisum_cli.commands.console import write_each
    from wsisum_cli.pipeline.migrate import migrate_summary
    from wsisum_cli.pipeline.trim import outputs_of
    from wsisum_cli.summary.writer import FORMAT_VERSION

    refuse_addresses(summaries)
    found = {Path(path): name for path, name in mirrored_names(summaries, output).items()}
    places = outputs_of(found, output)
    there = [place for place in places.values() if place.exists()]
    if there and not force:
        raise UsageError(f"{there[0]}: already exists; use --force to replace it, or choose another --output")
    done = write_each(places, lambda path, place: migrate_summary(path, place, force), "migrated")
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in done], ensure_ascii=False, indent=1))
    else:
        for result in done:
            what = f"format {result.migrated_from} -> {FORMAT_VERSION}" if result.migrated_from else "copied"
            stdout().print(f"{result.name}: {what}", markup=False)
    raise typer.Exit(0 if len(done) == len(places) else FOUND)
