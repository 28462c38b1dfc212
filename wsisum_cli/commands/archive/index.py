"""`wsisum index`: a catalogue of the summaries in a folder, as an SQLite database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.commands.options import FOUND

# Heavy modules are imported where they are used, so that --help is fast.


def index(
    folder: Annotated[
        Path,
        typer.Argument(help="The output folder of wsisum compress.", metavar="FOLDER", exists=True, file_okay=False),
    ],
) -> None:
    """Write catalogue.sqlite, with a row for each summary.

    A row has provenance, figures, verdict and slide embedding.
    Only summaries that are new or have changed are opened. Where the catalogue exists, wsisum compress keeps it up to
    date. The exit code is 1 if a summary cannot be read.
    """
    from wsisum_cli.archive.state.catalogue import NAME, build_catalogue
    from wsisum_cli.commands.console import messages, output, warn
    from wsisum_cli.figures.words import pluralize

    found = build_catalogue(folder)
    for path, why in sorted(found.unreadable.items()):
        warn(f"{path}: {why}")
    removed = f", {pluralize(found.removed, 'row')} of removed ones dropped" if found.removed else ""
    line = f"{pluralize(found.rows, 'row')}, {pluralize(found.read, 'summary', 'summaries')} read{removed}"
    output().print(line, markup=False)
    messages().print(f"catalogue: {folder / NAME}", markup=False)
    raise typer.Exit(FOUND if found.unreadable else 0)
