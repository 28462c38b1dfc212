"""`wsisum migrate`: summaries of earlier formats in the current one, without their slides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.archive.lookup import mirrored_paths
from wsisum_cli.commands.options import SummariesArgument
from wsisum_cli.commands.signing.keys import SignOption, signer

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
    from wsisum_cli.commands.console import conclude, print_migrated, write_each
    from wsisum_cli.commands.signing.outputs import signed
    from wsisum_cli.pipeline.migrate import migrate_summary
    from wsisum_cli.pipeline.trim import outputs_of
    from wsisum_cli.summary.container import refuse_existing
    from wsisum_cli.summary.writer import FORMAT_VERSION

    found = mirrored_paths(summaries, output)
    places = outputs_of(found, output)
    refuse_existing(places.values(), force)
    key = signer(sign)
    done = write_each(
        places, lambda path, place: signed(path, place, key, migrate_summary(path, place, force)), "migrated"
    )
    conclude(done, len(places), as_json, lambda console: print_migrated(console, done, FORMAT_VERSION))
