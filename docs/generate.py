"""Writes the parts of the docs that follow from the code: `python docs/generate.py`, or `--check` to compare only.

The JSON Schema of the attributes, the table of their keys in format.md, and the command reference in cli.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from typer.core import TyperGroup

from wsisum_cli.commands.main import app
from wsisum_cli.summary.schema import attributes_schema, key_table

DOCS = Path(__file__).parent
WIDTH = 80  # columns of a narrow terminal


def generated() -> dict[Path, str]:
    """Every file that holds something generated, as it must be."""
    schema = json.dumps(attributes_schema(), indent=2, ensure_ascii=False) + "\n"
    return {
        DOCS / "summary.schema.json": schema,
        DOCS / "format.md": filled(DOCS / "format.md", "keys", key_table()),
        DOCS / "cli.md": filled(DOCS / "cli.md", "commands", command_reference()),
    }


def filled(path: Path, name: str, text: str) -> str:
    """The page with `text` between the marks of this name."""
    begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{path.name}: expected the marks {begin} and {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def command_reference() -> str:
    """The help of every command, as it prints in a narrow terminal."""
    pages = [f"### {name}\n\n```text\n{text.rstrip()}\n```" for name, text in help_pages()]
    return "\n\n".join(pages)


def help_pages() -> Iterator[tuple[str, str]]:
    """Name and help of every command, groups before their commands."""
    yield from pages_of(typer.main.get_command(app), typer.Context(typer.main.get_command(app), info_name="wsisum"))


def pages_of(command: Any, context: typer.Context) -> Iterator[tuple[str, str]]:
    context.terminal_width, context.max_content_width = WIDTH, WIDTH
    context.help_option_names = ["-h", "--help"]
    yield context.command_path, command.get_help(context)
    if isinstance(command, TyperGroup):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from pages_of(inner, typer.Context(inner, info_name=name, parent=context))


def main() -> None:
    stale = [path for path, text in generated().items() if path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        if stale:
            raise SystemExit(f"stale: {', '.join(path.name for path in stale)}; run make docs")
        return
    for path in stale:
        path.write_text(generated()[path], encoding="utf-8")
        print(f"written: {path.name}")


if __name__ == "__main__":
    main()
