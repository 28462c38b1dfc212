"""`wsisum migrate`: summaries of earlier formats in the current one, without their slides."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.archive.lookup import mirrored_paths
from wsisum_cli.commands.options import FOUND, SummariesArgument
from wsisum_cli.commands.signing.keys import SignOption, signer
from wsisum_cli.errors import UsageError
from wsisum_cli.summary.limits.plain_text import plain_json, printable

# Heavy modules are imported where they are used: --help must answer at once.


def migrate(
    summaries: SummariesArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Output folder, or an .ozx file for a single summary.")
    ] = Path("migrated"),
    sign: SignOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Write summaries of earlier formats in the current one.

    The slides are not needed, and nothing is lost. A summary of the current format is copied. The exit code is 1 if any
    could not be migrated.
    """
    from wsisum_cli.commands.console import output as stdout
    from wsisum_cli.commands.console import write_each
    from wsisum_cli.commands.signing.outputs import signed
    from wsisum_cli.pipeline.migrate import migrate_summary
    from wsisum_cli.pipeline.trim import outputs_of
    from wsisum_cli.summary.writer import FORMAT_VERSION

    found = mirrored_paths(summaries, output)
    places = outputs_of(found, output)
    there = [place for place in places.values() if place.exists()]
    if there and not force:
        raise UsageError(f"{there[0]}: already exists; use --force to replace it, or choose another --output")
    key = signer(sign)
    done = write_each(
        places, lambda path, place: signed(path, place, key, migrate_summary(path, place, force)), "migrated"
    )
    if as_json:
        typer.echo(plain_json([asdict(result) for result in done]))
    else:
        for result in done:
            what = f"format {result.migrated_from} -> {FORMAT_VERSION}" if result.migrated_from else "copied"
            stdout().print(f"{printable(result.name)}: {what}", markup=False)
    raise typer.Exit(0 if len(done) == len(places) else FOUND)
