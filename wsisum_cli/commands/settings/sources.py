"""Options that are not on the command line: `wsisum.toml` and variables of the environment.

The command line wins over the environment, the environment over the file, the file over the default. typer looks the
values up itself: what is made here is the map of defaults that it asks, checked key by key.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsisum_cli.commands.options import PLACE, plain_message
from wsisum_cli.errors import UsageError
from wsisum_cli.slides.remote.url import is_url

FILE, PREFIX = "wsisum.toml", "WSISUM"
#: Variables that are no options.
OTHER_VARIABLES = ("WSISUM_MODELS", "WSISUM_SIGN_PASSWORD")
#: Options worth a word wherever they come from: they replace what is there.
DANGEROUS = ("force",)
#: Options that decide what may be relied on, replaced or removed: they are set for one command, never for all at once.
ONE_COMMAND = ("delete", "force", "gone", "quick", "require", "threshold", "yes")
SECRET = re.compile(r"(?i)password|passwd|secret|token|credential")
#: Where a value comes from, as typer calls it, and in words.
ENVIRONMENT, FROM_FILE = "ENVIRONMENT", "DEFAULT_MAP"


@dataclass(frozen=True)
class Setting:
    """One option of one command."""

    command: str  # such as "train encoder"
    option: str  # such as "max-keep"
    value: str
    source: str  # "default", the file's name, or the variable


def find_file(folder: Path) -> Path | None:
    """`wsisum.toml` in a folder or in the nearest one above."""
    return next((place / FILE for place in (folder, *folder.parents) if (place / FILE).is_file()), None)


def read_defaults(path: Path, root: Any) -> dict[str, Any]:
    """The map of defaults that typer asks: commands, in them parameters. Raises UsageError.

    A key outside any table is for every command that has this option; `[compress]` and `[train.encoder]` are for one.
    """
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"{path.name}: the settings cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name}: expected TOML ({error})") from error
    common = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    check_common(path.name, common, root)
    return defaults_of(path, "", tables, common, root)


def check_common(file: str, common: Mapping[str, Any], root: Any) -> None:
    """Raise UsageError for a key outside any table that no command has."""
    known = {name for command in every_command(root) for name in options_of(command)}
    for key in common:
        if key.replace("_", "-") not in known:
            raise unknown(file, key, known)
        if key.replace("_", "-") in ONE_COMMAND:
            raise UsageError(
                f"{file}: {key}: expected in the table of one command, such as [compress], found outside any; it would "
                "change what other commands rely on, replace or remove"
            )


def defaults_of(
    path: Path, within: str, tables: Mapping[str, Any], common: Mapping[str, Any], group: Any
) -> dict[str, Any]:
    """The defaults of a group's commands."""
    for name in tables:
        if name not in group.commands:
            raise unknown(path.name, within + name, [within + other for other in group.commands], "command")
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        table, place = tables.get(name, {}), f"{within}{name}."
        if hasattr(command, "commands"):
            found[name] = defaults_of(path, place, table, common, command)
            continue
        options = options_of(command)
        own = {**{key: value for key, value in common.items() if key.replace("_", "-") in options}, **table}
        found[name] = {}
        for key, value in own.items():
            if (option := options.get(key.replace("_", "-"))) is None:
                raise unknown(path.name, place + key, [place + other for other in options])
            where = f"{path.name}: {place if key in table else ''}{key}"
            found[name][option.name] = checked(where, option, value, path.parent)
    return found


def checked(where: str, option: Any, value: Any, folder: Path) -> Any:
    """The value as the command line would give it: text, a list of texts, or a flag. Raises UsageError.

    One value stands for a list of one: outside the tables, an option may take one value or several, by command.

    A relative path is one from the folder of the file.
    """
    if getattr(option, "is_flag", False):
        if not isinstance(value, bool):
            raise UsageError(f"{where}: expected true or false, found {value!r}")
        return value
    if isinstance(value, list) and not option.multiple:
        raise UsageError(f"{where}: expected one value, found {value!r}")
    given = value if isinstance(value, list) else [value]
    for one in given:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise UsageError(f"{where}: expected text or a number, found {one!r}")
    texts = [
        str(folder / Path(str(one)).expanduser()) if is_path(option) and not is_url(str(one)) else str(one)
        for one in given
    ]
    plain: Any = texts if option.multiple else texts[0]
    if not is_path(option):  # whether a file is there is asked when its command runs
        try:
            option.process_value(None, plain)
        except Exception as error:  # whatever the library raises says why the value does not fit
            raise UsageError(f"{where}: {plain_message(getattr(error, 'message', str(error)))}") from error
    return plain


def is_path(option: Any) -> bool:
    if option.metavar == PLACE:
        return True
    descriptor = getattr(option, "type_descriptor", None)
    return bool(descriptor.is_path) if descriptor is not None else "path" in getattr(option.type, "name", "")


def unknown(file: str, key: str, known: Any, what: str = "option") -> UsageError:
    return UsageError(f"{file}: {key}: no {what} of this name{closest(key, known)}")


def closest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def options_of(command: Any) -> dict[str, Any]:
    """The options of a command by their long names, without --help."""
    return {long_name(option): option for option in command.params if option.param_type_name == "option"}


def long_name(option: Any) -> str:
    return str(next((name for name in option.opts if name.startswith("--")), option.name)).lstrip("-")


def every_command(group: Any) -> Iterator[Any]:
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from every_command(command)
        else:
            yield command


def name_variables(group: Any, prefix: str = PREFIX) -> None:
    """Name the variables after the options: typer would name them after the parameters. Help does not list them."""
    for name, command in group.commands.items():
        inside = f"{prefix}_{name}".upper().replace("-", "_")
        if hasattr(command, "commands"):
            name_variables(command, inside)
            continue
        for option_name, option in options_of(command).items():
            option.show_envvar = False
            if option_name.replace("-", "_") != option.name:
                option.envvar = f"{inside}_{option_name}".upper().replace("-", "_")
                option.allow_from_autoenv = False


def variable_of(option: Any, context: Any) -> str:
    """The variable of an option. Valid once `name_variables` ran."""
    return option.envvar or f"{context.auto_envvar_prefix}_{option.name}".upper()


def settings_of(context: Any, file: Path | None) -> Iterator[Setting]:
    """The options of a command or of all commands of a group, each with its value and where that comes from."""
    for name, command in context.command.commands.items():
        inner = type(context)(command, info_name=name, parent=context)
        if hasattr(command, "commands"):
            yield from settings_of(inner, file)
            continue
        for option_name, option in options_of(command).items():
            value, source = option.consume_value(inner, {})
            path = inner.command_path.split(" ", 1)[-1]
            yield Setting(path, option_name, shown(option_name, value), source_words(source.name, option, inner, file))


def source_words(source: str, option: Any, context: Any, file: Path | None) -> str:
    if source == ENVIRONMENT:
        return variable_of(option, context)
    return file.name if source == FROM_FILE and file is not None else "default"


def given_elsewhere(context: Any, file: Path | None) -> list[Setting]:
    """Options of the command that runs which come from the file or the environment and not from its line."""
    found = []
    for option_name, option in options_of(context.command).items():
        source = context.get_parameter_source(option.name)
        if source is not None and source.name in (ENVIRONMENT, FROM_FILE):
            value = shown(option_name, context.params[option.name])
            found.append(
                Setting(context.info_name, option_name, value, source_words(source.name, option, context, file))
            )
    return found


def shown(name: str, value: Any) -> str:
    """A value for people: without passwords, and without the user and the query of a URL."""
    if value is None or value in ((), []):
        return ""
    if SECRET.search(name):
        return "(not shown)"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(getattr(value, "value", value))
    return re.sub(r"(\w+://)[^/@\s]*@", r"\1", re.sub(r"(\w+://[^?\s]*)\?\S*", r"\1", text))


def stray_variables(root: Any) -> list[str]:
    """A clause for each variable with our prefix that no option has."""
    known = {*OTHER_VARIABLES, f"{PREFIX}_CONFIG", *all_variables(root, PREFIX)}
    stray = sorted(name for name in os.environ if name.startswith(f"{PREFIX}_") and name not in known)
    return [f"{name}: no option has this variable{closest(name, known)}" for name in stray]


def all_variables(group: Any, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        inside = f"{prefix}_{name}".upper().replace("-", "_")
        if hasattr(command, "commands"):
            yield from all_variables(command, inside)
        else:
            yield from (f"{inside}_{option}".upper().replace("-", "_") for option in options_of(command))
