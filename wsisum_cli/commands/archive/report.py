"""`wsisum report`: an archive of summaries at a glance, in the terminal, as JSON or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsisum_cli.commands.options import FOUND, check_page_name
from wsisum_cli.summary.limits.plain_text import plain_json

if TYPE_CHECKING:
    from wsisum_cli.archive.inventory import Inventory

# Heavy modules are imported where they are used, so that --help is fast.


def report(
    folder: Annotated[
        Path,
        typer.Argument(help="The output folder of wsisum compress.", metavar="FOLDER", exists=True, file_okay=False),
    ],
    page: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="Write one self-contained HTML file: a gallery to sort and filter, totals, histograms, failures.",
            metavar="FILE",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every slide.")] = False,
) -> None:
    """Show an archive of summaries, and what needs eyes first.

    Reads report.json and the attributes of every summary in the folder; wsisum verify checks the files. The exit code
    is 1 if a summary is missing, unreadable or changed, or if a shard has not reported.
    """
    from wsisum_cli.archive.gallery import gallery_of
    from wsisum_cli.archive.inventory import read_inventory
    from wsisum_cli.commands.console import messages
    from wsisum_cli.figures.pages.render import save_page

    if page is None:
        inventory = read_inventory(folder)
    else:
        check_page_name(page)
        inventory, text = gallery_of(folder)
        save_page(page, text)
        messages().print(f"page: {page}", markup=False)
    show(inventory, as_json)
    raise typer.Exit(FOUND if inventory.broken or inventory.missing_shards else 0)


def show(inventory: Inventory, as_json: bool) -> None:
    from wsisum_cli.archive.gallery import MOST_URGENT, total_lines
    from wsisum_cli.commands.console import output, print_inventory

    if as_json:
        typer.echo(plain_json(inventory.model_dump()))
        return
    urgent = [(entry.source, "; ".join(note.words for note in entry.attention)) for entry in inventory.urgent]
    more = max(0, len(urgent) - MOST_URGENT)
    print_inventory(output(), total_lines(inventory), urgent[:MOST_URGENT], more)
