"""`wsisum doctor`: whether this machine can do the work, a line for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsisum_cli import __version__
from wsisum_cli.commands.options import FOUND
from wsisum_cli.models.places import user_folder
from wsisum_cli.summary.limits.plain_text import plain_json

if TYPE_CHECKING:
    from wsisum_cli.archive.health.check import Check

# Heavy modules are imported where they are used: --help must answer at once.


def doctor(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for summaries, whose space and speed are measured.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Check whether this machine can do the work.

    Looks at versions, readers, codecs, models, devices, memory and an output folder. Each line says ok, warning or
    problem, and what to do. Nothing is changed. The exit code is 1 if anything is a problem.
    """
    from wsisum_cli.archive.health.checkup import check_all

    checks = []
    for check in check_all(user_folder(), output):
        checks.append(check)
        if not as_json:
            show(check)
    problems, warnings = (sum(check.state == state for check in checks) for state in ("problem", "warning"))
    if as_json:
        print_checks(checks, not problems)
    else:
        show_total(problems, warnings)
    raise typer.Exit(FOUND if problems else 0)


def show(check: Check) -> None:
    from wsisum_cli.commands.console import output
    from wsisum_cli.commands.upkeep.tables import print_check

    print_check(output(), check.state, f"{check.area}: {check.name}", check.found, check.advice)


def show_total(problems: int, warnings: int) -> None:
    from wsisum_cli.commands.console import output
    from wsisum_cli.figures.words import pluralize

    words = f"{pluralize(problems, 'problem')}, {pluralize(warnings, 'warning')}"
    output().print(words if problems or warnings else "all is well", markup=False)


def print_checks(checks: Sequence[Check], ok: bool) -> None:
    rows = [check.model_dump() for check in checks]
    typer.echo(plain_json({"wsisum": __version__, "ok": ok, "checks": rows}))
