"""The command line: every command in the order in which people use them, and how errors become exit codes.

0: all is well. 1: a slide failed or something was found. 2: the command could not start. 130: the user stopped it.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli import __version__
from wsisum_cli.commands.archive.index import index
from wsisum_cli.commands.archive.prune import prune
from wsisum_cli.commands.archive.report import report
from wsisum_cli.commands.archive.status import status
from wsisum_cli.commands.compress import compress
from wsisum_cli.commands.features import features
from wsisum_cli.commands.inspect import inspect
from wsisum_cli.commands.learning.evaluate import evaluate
from wsisum_cli.commands.learning.train import train_app
from wsisum_cli.commands.models import models_app
from wsisum_cli.commands.options import NOT_STARTED, PlainCommand, command_group
from wsisum_cli.commands.settings.show import RunCommand, config
from wsisum_cli.commands.settings.sources import PREFIX, find_file, name_variables, read_defaults
from wsisum_cli.commands.summaries.export import export
from wsisum_cli.commands.summaries.migrate import migrate
from wsisum_cli.commands.summaries.reembed import reembed
from wsisum_cli.commands.summaries.trim import trim
from wsisum_cli.commands.upkeep.doctor import doctor
from wsisum_cli.commands.upkeep.duplicates import duplicates
from wsisum_cli.commands.upkeep.similar import similar
from wsisum_cli.commands.verify import verify
from wsisum_cli.errors import WsisumError
from wsisum_cli.summary.limits.plain_text import printable_lines

# Heavy modules are imported where they are used: --help must answer at once.

app = command_group(
    "Turn an archive of whole-slide images into small, verified summary slides.", PREFIX, completion=True
)
for command in (
    *(compress, inspect, report, status, index, prune, verify, trim, export, migrate, reembed, features, evaluate),
    *(similar, duplicates, doctor, config),
):
    app.command(cls=PlainCommand if command is config else RunCommand)(command)
app.add_typer(models_app, name="models")
app.add_typer(train_app, name="train")


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        app(prog_name="wsisum")
    except WsisumError as error:
        said = printable_lines(str(error))
        print(f"wsisum: {said}", file=sys.stderr)  # noqa: T201 - before anything heavier is imported
        sys.exit(NOT_STARTED)
    except OSError as error:
        said = printable_lines(f"{error.filename or 'file system'}: {error.strerror}")
        print(f"wsisum: {said}", file=sys.stderr)  # noqa: T201 - the same
        sys.exit(NOT_STARTED)


def show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"wsisum {__version__}")
        raise typer.Exit


@app.callback()
def options_of_all(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="WSISUM_CONFIG",
            show_envvar=False,
            help="File of settings. Default: wsisum.toml in this folder or the nearest one above.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Turn an archive of whole-slide images into small, verified summary slides."""
    del version  # its callback has shown it
    name_variables(context.command)
    context.obj = settings or find_file(Path.cwd())
    if context.obj is not None:
        context.default_map = read_defaults(context.obj, context.command)
