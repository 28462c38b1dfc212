"""`wsisum config`: what holds for each option, and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import asdict
from typing import Annotated, Any

import typer

from wsisum_cli.commands.options import PlainCommand
from wsisum_cli.commands.settings.sources import DANGEROUS, given_elsewhere, settings_of, stray_variables
from wsisum_cli.errors import UsageError
from wsisum_cli.summary.limits.plain_text import plain_json


def config(
    context: typer.Context,
    command: Annotated[str | None, typer.Argument(help="Show this command only.", metavar="COMMAND")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also show the options that keep their default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which options are set, and from where.

    Options are set in wsisum.toml and in environment variables. The command line wins over the environment, the
    environment over wsisum.toml, and the file over the default. A variable is named after its command and option, such
    as WSISUM_COMPRESS_MAX_KEEP. Nothing secret is shown.
    """
    from wsisum_cli.commands.console import output, print_settings, warn

    root: Any = context.parent
    found = [one for one in settings_of(root, root.obj) if command in (None, one.command, one.command.split()[0])]
    if not found:
        raise UsageError(f"{command}: expected the name of a command, such as compress")
    found = [one for one in found if everything or one.source != "default"]
    file = os.path.relpath(root.obj) if root.obj is not None else None
    for clause in stray_variables(root.command):
        warn(clause)
    if as_json:
        typer.echo(plain_json({"file": file, "options": [asdict(one) for one in found]}))
    else:
        print_settings(output(), file, found)


#: Options that do nothing without another one. From the settings they may be meant for other commands.
IDLE_WITHOUT = {"plan": ("manifest", "keep_newer", "keep_where")}


def leave_out_idle(context: Any) -> set[str]:
    """Take from a command what the settings say of options that do nothing now; returns the names of these."""
    found = {
        name
        for other, names in IDLE_WITHOUT.items()
        if other in context.params and context.params[other] is None
        for name in names
        if (source := context.get_parameter_source(name)) is not None and source.name != "COMMANDLINE"
    }
    context.params.update(dict.fromkeys(found))
    return {name.replace("_", "-") for name in found}


def tell_settings(context: Any, idle: Set[str] = frozenset()) -> None:
    """Print what a command takes from the file and the environment; with --quiet only what is dangerous.

    `idle` are options that it leaves out.
    """
    from wsisum_cli.commands.console import messages, warn

    root = context.find_root()
    for clause in stray_variables(root.command):
        warn(clause)
    found = [one for one in given_elsewhere(context, root.obj) if one.option not in idle]
    if context.params.get("quiet"):
        found = [one for one in found if one.option in DANGEROUS and one.value == "True"]
    if found:
        words = ", ".join(f"{one.option} {one.value} ({one.source})" for one in found)
        messages().print(f"settings: {words}", markup=False)


class RunCommand(PlainCommand):
    """A command that says what it takes from a file of settings or the environment before it runs."""

    def invoke(self, ctx: Any) -> Any:
        tell_settings(ctx, leave_out_idle(ctx))
        if ctx.params.get("scheduler") or ctx.params.get("scheduler_file"):
            source = ctx.get_parameter_source("workers")
            if source is not None and source.name != "COMMANDLINE":
                ctx.params["workers"] = "1"  # those of this machine, which the settings may have for other commands
        return super().invoke(ctx)
