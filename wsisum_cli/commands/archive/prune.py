"""`wsisum prune`: remove summaries whose slide is no longer where it was, after showing them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsisum_cli.commands.options import ManifestOption
from wsisum_cli.commands.settings.run_options import UsedNameByOption, UsedNameKeyOption, used_naming

if TYPE_CHECKING:
    from wsisum_cli.archive.state.prune import Pruning

# Heavy modules are imported where they are used, so that --help is fast.


def prune(
    folder: Annotated[
        Path,
        typer.Argument(help="The output folder of wsisum compress.", metavar="FOLDER", exists=True, file_okay=False),
    ],
    source: Annotated[
        Path, typer.Option(help="The slides that it was made from.", metavar="SOURCE", exists=True, file_okay=False)
    ],
    manifest: ManifestOption = None,
    name_by: UsedNameByOption = None,
    name_key: UsedNameKeyOption = None,
    gone: Annotated[
        bool,
        typer.Option(
            "--gone", help="Also remove summaries whose slide is nowhere in the archive, of which nothing else remains."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on with --gone where more than a tenth of the slides are gone.")
    ] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the summaries, instead of moving them to .wsisum/pruned.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove summaries whose slide has moved or is gone.

    They are shown first.
    By default a summary goes only if its slide lies elsewhere in the archive and has a whole summary there. One whose
    slide is nowhere may be all that remains of it: it stays unless --gone is given. Slides are never touched.
    """
    from wsisum_cli.archive.manifest import Manifest, read_manifest
    from wsisum_cli.archive.state.prune import plan_pruning
    from wsisum_cli.archive.state.prune import prune as remove
    from wsisum_cli.archive.state.status import Comparison
    from wsisum_cli.commands.console import messages
    from wsisum_cli.errors import UsageError
    from wsisum_cli.figures.words import pluralize

    entries = read_manifest(manifest) if manifest else Manifest()
    named = used_naming(name_by, name_key)
    planned = plan_pruning(Comparison(folder, source, entries, asked=named), gone, force)
    show(planned, as_json)
    count = len(planned.removals)
    if dry_run or not count:
        raise typer.Exit
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("prune asks before it removes anything; say --yes, or run it in a terminal")
        how = "Delete" if delete else "Move aside"
        if not typer.confirm(f"{how} {pluralize(count, 'summary', 'summaries')}?", err=True):
            raise typer.Exit
    done, aside = remove(folder, planned, delete)
    where = f"; they lie in {aside} until you delete that folder" if aside is not None else ""
    messages().print(f"removed: {pluralize(len(done), 'summary', 'summaries')}{where}", markup=False)
    if len(done) < count:
        messages().print(f"kept: {count - len(done)} that changed meanwhile", markup=False)


def show(planned: Pruning, as_json: bool) -> None:
    from wsisum_cli.commands.console import output, print_pruning

    if as_json:
        typer.echo(json.dumps([decision.model_dump() for decision in planned.decisions], indent=1))
        return
    rows = [(decision.action, decision.summary, decision.message, decision.bytes) for decision in planned.decisions]
    print_pruning(output(), rows, planned.summaries)
