"""Tables of the commands of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wsisum_cli.summary.limits.plain_text import printable

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


def print_check(console: Console, state: str, name: str, found: str, advice: str) -> None:
    """Print one line of `wsisum doctor`."""
    line = Text.assemble((f"{state:<8}", COLOURS[state]), f" {printable(name)}: {printable(found)}")
    console.print(line + Text(f"; {printable(advice)}" if advice else ""), soft_wrap=True)


def print_pairs(console: Console, rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Print relation, both summaries and the evidence of each pair."""
    for relation, first, second, words in rows:
        console.print(
            Text.assemble((relation, "bold"), f": {printable(first)} and {printable(second)}"), soft_wrap=True
        )
        console.print(Text(f"  {words}"), soft_wrap=True)


def print_nearest(console: Console, rows: Sequence[tuple[float, str, str]]) -> None:
    """Print rank, cosine and summary of each neighbour."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "cosine"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("summary", overflow="fold")
    table.add_column("", no_wrap=True)
    for rank, (cosine, summary, note) in enumerate(rows, 1):
        table.add_row(str(rank), f"{cosine:.4f}", Text(printable(summary)), note)
    console.print(table)


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar in a terminal, nothing elsewhere; its value is called with what is done, and the total."""
    if not console.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
