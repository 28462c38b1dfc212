"""Terminal output: progress, tables, pictures. The only room that imports rich."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from wsisum_cli.archive.outcome import FAILED, SKIPPED, UP_TO_DATE, WRITTEN, Outcome
from wsisum_cli.commands.options import FOUND
from wsisum_cli.commands.verdicts import headline, verdict_text
from wsisum_cli.errors import WsisumError
from wsisum_cli.figures.words import pluralize, size, summary_lines
from wsisum_cli.quality.verdict import VERDICTS, Verdict, percent
from wsisum_cli.summary.limits.plain_text import plain_json, printable, printable_lines

if TYPE_CHECKING:
    from wsisum_cli.pipeline.shared_budget import SharedResult
    from wsisum_cli.summary.inspection import Inspection

Source = TypeVar("Source", str, Path)
Written = TypeVar("Written")

COLOURS = {WRITTEN: "green", SKIPPED: "yellow", FAILED: "red", "would write": "cyan"}
STATE_COLOURS = {
    "up to date": "green",
    "in review": "yellow",
    "new": "cyan",
    "stale": "cyan",
    "failed": "red",
    "lost": "red",
    "orphaned": "magenta",
}
PICTURE_COLUMNS = 64
WIDE = 220
MOST_ROWS = 200  # of the table at the end of a run
MOST_LISTED = 1_000  # kept patches that are listed
WRAP_WIDTH = 24  # smallest width of a column that may wrap


class PlainConsole(Console):
    """A console on which only its own codes reach the terminal, whatever the text holds that is printed."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            plain = segment.is_control or segment.text.isprintable()
            yield segment if plain else segment._replace(text=printable_lines(segment.text))


def output() -> Console:
    """The console for results, on stdout."""
    return widen(PlainConsole(highlight=False))


def messages() -> Console:
    """The console for everything else, on stderr."""
    return widen(PlainConsole(stderr=True, highlight=False, soft_wrap=True))


def widen(console: Console) -> Console:
    """Widen a console that is not a terminal: pipes and files need no wrapping."""
    if not console.is_terminal:
        console.width = WIDE
    return console


#: What to say of the limit that decided how many patches are kept, where it is worth a word.
LIMITED = {"max_bytes": ", limited by --max-bytes", "most": ", limited by --max-keep", "tissue": ", all tissue"}


def outcome_line(outcome: Outcome) -> str:
    if outcome.status == WRITTEN and outcome.sweep:
        return printable(f"{outcome.source}: measured, {sum(outcome.seconds.values()):.1f} s")
    if outcome.status == WRITTEN:
        ratio = f"{outcome.ratio:.1f}x" if outcome.ratio else ""
        seconds = sum(outcome.seconds.values())
        bound = LIMITED.get(outcome.bound or "", "")
        bound += ", target not reached" if outcome.target_reached is False else ""
        broken = f", {pluralize(outcome.broken_tiles, 'broken tile')} skipped" if outcome.broken_tiles else ""
        artefacts = f", {outcome.artefacts} empty removed" if outcome.artefacts else ""
        artefacts += f", {outcome.suspect} suspect" if outcome.suspect else ""
        figures = f"{size(outcome.bytes_in)} -> {size(outcome.bytes_out)} ({ratio}), {seconds:.1f} s{broken}{artefacts}"
        total = "" if outcome.features else f" of {outcome.tissue_patches}"
        patches = f"{outcome.patches}{total} patches"
        message = f"; {outcome.message}" if outcome.message else ""
        return printable(f"{outcome.source}: written, {patches}{bound}, {figures}{message}")
    name = outcome.source.partition("#")[0].rsplit("/", 1)[-1]  # the line has named the file already
    message = outcome.message.removeprefix(f"{name}: ")
    return printable(f"{outcome.source}: {status_of(outcome)}, {outcome.reason}. {message}".rstrip(". "))


KNOWN = "known failure"


def status_of(outcome: Outcome) -> str:
    return KNOWN if outcome.known else outcome.status


def print_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print the table at the end of a run; of many slides, those that matter most."""
    shown = sorted(outcomes, key=urgency)[:MOST_ROWS] if len(outcomes) > MOST_ROWS else outcomes
    ordered = sorted(shown, key=lambda outcome: outcome.source)
    columns = {name: [cell(outcome) for outcome in ordered] for name, cell in COLUMNS.items()}
    print_fitting(console, columns, LEAST, wrapped=("slide", "outcome"))
    if len(ordered) < len(outcomes):
        console.print(f"and {pluralize(len(outcomes) - len(ordered), 'more slide')}; the report lists all")
    console.print(total_line(outcomes))


def urgency(outcome: Outcome) -> tuple[int, str]:
    """Orders slides by how much a person wants to see them: failed ones first, those that are up to date last."""
    verdicts = {"FAIL": 1, "REVIEW": 2}
    if outcome.status == FAILED:
        return 0, outcome.source
    if outcome.reason == UP_TO_DATE:
        return 4 + (outcome.verdict not in verdicts), outcome.source
    return verdicts.get(outcome.verdict or "", 3), outcome.source


def print_fitting(
    console: Console, columns: Mapping[str, Sequence[Text]], least: Sequence[str], wrapped: Sequence[str] = ()
) -> None:
    """Print a table. In a narrow terminal columns are dropped in the order of `least`.

    `wrapped` columns shrink to `WRAP_WIDTH` characters before any column is dropped.
    """
    unlimited = console.options.update_width(10_000)
    shown = dict(columns)
    for name in least:
        short = {k: [cell[:WRAP_WIDTH] for cell in cells] if k in wrapped else cells for k, cells in shown.items()}
        if console.measure(table_of(short, wrapped), options=unlimited).maximum <= console.width:
            break
        del shown[name]
    console.print(table_of(shown, wrapped))


def table_of(columns: Mapping[str, Sequence[Text]], wrapped: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        text = name in wrapped or name == "verdict"
        table.add_column(name, justify="left" if text else "right", no_wrap=name not in wrapped, overflow="fold")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def outcome_text(outcome: Outcome) -> Text:
    what = f"{status_of(outcome)}: {outcome.reason}" if outcome.reason else outcome.status
    return Text(what, COLOURS.get(outcome.status, ""))


def patch_count(outcome: Outcome) -> str:
    """Kept and tissue patches of a summary; the number of patches of a feature file."""
    if not outcome.patches:
        return ""
    return f"{outcome.patches}" if outcome.features else f"{outcome.patches}/{outcome.tissue_patches}"


#: Columns of the run table, and the order in which they are dropped when it is too wide.
COLUMNS: dict[str, Callable[[Outcome], Text]] = {
    "slide": lambda outcome: Text(printable(outcome.source)),
    "outcome": outcome_text,
    "in": lambda outcome: Text(size(outcome.bytes_in)),
    "out": lambda outcome: Text(size(outcome.bytes_out)),
    "ratio": lambda outcome: Text(f"{outcome.ratio:.1f}" if outcome.ratio else ""),
    "patches": lambda outcome: Text(patch_count(outcome)),
    "represented": lambda outcome: Text(percent(outcome.represented) if outcome.represented is not None else ""),
    "verdict": lambda outcome: verdict_text(outcome.verdict) if outcome.verdict else Text(),
}
LEAST = ("ratio", "in", "patches", "out", "represented")


def total_line(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(status_of(outcome) for outcome in outcomes)
    words = [pluralize(count, name) if name == KNOWN else f"{count} {name}" for name, count in counts.items()]
    text = f"{pluralize(len(outcomes), 'slide')}: {', '.join(words)}"
    verdicts = Counter(outcome.verdict for outcome in outcomes if outcome.verdict)
    missed = sum(outcome.target_reached is False for outcome in outcomes)
    text += "".join(f", {verdicts[name]} {name}" for name in VERDICTS if verdicts[name])
    text += f", {missed} below the target" if missed else ""
    sized = [outcome for outcome in outcomes if outcome.bytes_in and outcome.bytes_out]
    if sized:
        before = sum(outcome.bytes_in or 0 for outcome in sized)
        after = sum(outcome.bytes_out or 0 for outcome in sized)
        text += f"; {size(before)} -> {size(after)}"
        if not any(outcome.features for outcome in sized):
            text += f", {before / after:.1f} times smaller"
    return text


def print_summary(console: Console, facts: Inspection, verdict: Verdict | None, details: bool) -> None:
    """Everything that `inspect` says, for people: the verdict first."""
    console.print(headline(verdict))
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in summary_lines(facts, verdict, details).items():
        grid.add_row(Text(name, "bold"), Text(printable(value)))
    console.print(grid)
    print_kept(console, facts)


def print_kept(console: Console, facts: Inspection) -> None:
    """The table of the kept patches."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("patch", "picked", "x", "y", "weight", "represents", "cluster"):
        table.add_column(name, justify="right")
    for patch in facts.kept[:MOST_LISTED]:
        cells = (patch.number, patch.picked, patch.x, patch.y, f"{patch.weight:.1%}", patch.stands_for, patch.cluster)
        table.add_row(*map(str, cells))
    console.print(table)
    if len(facts.kept) > MOST_LISTED:
        console.print(f"and {len(facts.kept) - MOST_LISTED} more; --json shows all")


def print_panels(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print `rows`, the list that `inspect --compare --json` prints."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("selection", no_wrap=True)
    for name in ("patches", "of", "coverage", "5th percentile", "minimum"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        figures = (f"{row[name]:.4f}" for name in ("coverage", "coverage_p05", "coverage_min"))
        table.add_row(Text(printable(row["title"])), str(row["patches"]), str(row["tissue_patches"]), *figures)
    console.print(table)


def shows_pictures(console: Console) -> bool:
    return console.is_terminal and console.color_system == "truecolor"


def print_picture(console: Console, cells: Sequence[Sequence[tuple[Any, Any]]]) -> None:
    """Print rows of (upper colour, lower colour), two pixels per character."""
    for row in cells:
        line = Text()
        for upper, lower in row:
            line.append("▀", Style.parse(f"rgb({','.join(map(str, upper))}) on rgb({','.join(map(str, lower))})"))
        console.print(line, soft_wrap=True)


def print_sweep(console: Console, source: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print size and quality for several numbers of patches."""
    console.print(Text(printable(source), "bold"))
    columns = {
        "patches": [Text(f"{row['patches']}{' (default)' if row['default'] else ''}") for row in rows],
        "size": [Text(size(row["bytes"])) for row in rows],
        "represented": [Text(percent(row["represented"])) for row in rows],
        "random": [Text(percent(row["random_median"])) for row in rows],
        "coverage": [Text(f"{row['coverage']:.4f}") for row in rows],
        "verdict": [verdict_text(row["verdict"]) for row in rows],
    }
    print_fitting(console, columns, ("coverage", "size"))


def print_trimmed(console: Console, done: Sequence[Any]) -> None:
    """Print one line per trimmed summary."""
    for trimmed in done:
        kept = f"{trimmed.patches} patches" + (f" of {trimmed.trimmed_from}" if trimmed.trimmed_from else "")
        share = "" if trimmed.represented is None else f", {percent(trimmed.represented)} represented"
        sizes = f"{size(trimmed.bytes_in)} -> {size(trimmed.bytes_out)}{share}"
        console.print(Text.assemble(f"{printable(trimmed.name)}: {kept}, {sizes}, ", verdict_text(trimmed.verdict)))


def print_shared(console: Console, shared: SharedResult) -> None:
    """Print what became of all summaries that share a number of bytes."""
    made = len(shared.trimmed)
    noun = "summary" if made == 1 else "summaries"
    console.print(f"{made} {noun}: {size(shared.bytes_in)} -> {size(shared.bytes_out)} of {size(shared.budget)}")
    if shared.tissue_mm2:
        before, after, most = (
            percent(area / shared.tissue_mm2) for area in (shared.before_mm2, shared.after_mm2, shared.bound_mm2)
        )
        console.print(
            f"tissue represented: {before} -> {after}; no choice of first patches in as many bytes represents more "
            f"than about {most}"
        )
    changes = [f"{name} {before} -> {after}" for name, (before, after) in shared.verdicts.items() if before or after]
    console.print(f"verdicts: {', '.join(changes)}")
    if shared.uncut:
        names = ", ".join(printable(name) for name in shared.uncut)
        console.print(f"copied whole, as they do not say how much tissue fewer patches represent: {names}")


def print_plan(console: Console, name: str, totals: Mapping[str, tuple[int, int]], unused: Mapping[str, str]) -> None:
    """Print how many slides a retention plan gives to each decision, and rows of the manifest that it did not use."""
    parts = [
        f"{pluralize(count, 'slide')} ({size(held)}) {'to' if decision == 'keep' else 'for'} {decision}"
        for decision, (count, held) in totals.items()
    ]
    console.print(printable(f"plan: {', '.join(parts)}; written to {name}"), markup=False)
    for slide, why in unused.items():
        warn(f"the manifest lists {slide}, which is not in the archive ({why})")


def print_exported(console: Console, done: Sequence[Any]) -> None:
    """Print one line per exported summary."""
    for export in done:
        what = f"{export.patches} of {export.tissue_patches} patches, {size(export.bytes_out)}"
        verdict = (", ", verdict_text(export.verdict)) if export.verdict else ()
        console.print(Text.assemble(f"{printable(export.name)} -> {printable(export.output)}: {what}", *verdict))


def print_migrated(console: Console, done: Sequence[Any], version: str) -> None:
    """Print one line per migrated summary."""
    for result in done:
        what = f"format {result.migrated_from} -> {version}" if result.migrated_from else "copied"
        console.print(f"{printable(result.name)}: {what}", markup=False)


def print_reembedded(console: Console, done: Sequence[Any]) -> None:
    """Print one line per file of features, or summary with further ones."""
    for made in done:
        what = f"{made.patches} patches by {printable(made.encoder)}, {size(made.bytes_out)}"
        held = "" if made.added else " (copied: it held these features)"
        console.print(f"{printable(made.name)} -> {printable(made.output)}: {what}{held}", markup=False)


def print_settings(console: Console, file: str | None, settings: Sequence[Any]) -> None:
    """Print the file of settings, then options with their values and where these come from."""
    console.print(Text(f"file: {printable(file)}" if file else "file: none found"))
    if not settings:
        console.print("every option has its default; --all shows them")
        return
    columns = {
        name: [Text(printable(str(getattr(one, name)))) for one in settings]
        for name in ("command", "option", "value", "source")
    }
    print_fitting(console, columns, (), wrapped=tuple(columns))


def warn(message: str) -> None:
    print(f"wsisum: {printable(message)}", file=sys.stderr)  # noqa: T201 - the one place that prints


def write_each(places: Mapping[Source, Path], write: Callable[[Source, Path], Written], what: str) -> list[Written]:
    """Write what is made of each summary; one that cannot be `what`, such as migrated, is reported and left out."""
    from wsisum_cli.summary.container import name_of

    done = []
    for path, place in places.items():
        try:
            done.append(write(path, place))
        except WsisumError as error:
            warn(str(error))
        except OSError as error:
            warn(f"{name_of(error.filename or path)}: {error.strerror or type(error).__name__}")
        # One file that somebody made to do harm never ends a run.
        except Exception as error:  # noqa: BLE001
            warn(f"{name_of(path)}: cannot be {what} ({type(error).__name__}: {error}); run wsisum verify on it")
    return done


def conclude(done: Sequence[Any], wanted: int, as_json: bool, show: Callable[[Console], None]) -> NoReturn:
    """Print what was made of summaries, and end: with 0 only if nothing of what was wanted is missing."""
    if as_json:
        typer.echo(plain_json([asdict(made) for made in done]))
    else:
        show(output())
    raise typer.Exit(0 if len(done) == wanted else FOUND)


def print_inventory(console: Console, lines: Mapping[str, str], urgent: Sequence[tuple[str, str]], more: int) -> None:
    """Print the totals of an archive, then the slides that need eyes, each with the reason."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, words in lines.items():
        grid.add_row(Text(name, "bold"), Text(printable(words)))
    console.print(grid)
    if urgent:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("needs eyes first", overflow="fold")
        table.add_column("why", overflow="fold")
        for source, why in urgent:
            table.add_row(Text(printable(source)), Text(printable(why)))
        console.print(table)
    if more:
        console.print(f"and {pluralize(more, 'more slide')}; --json and --html show all")


def print_status(
    console: Console,
    head: str,
    states: Sequence[tuple[str, int, str]],
    examples: Sequence[tuple[str, str, str]],
    advice: Sequence[str],
) -> None:
    """Print the state of an archive: counts with reasons, some slides that need doing, and what to do."""
    console.print(head, markup=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("state", "slides", "why"):
        table.add_column(justify="right" if name == "slides" else "left", no_wrap=name != "why", overflow="fold")
    for state, count, why in states:
        table.add_row(Text(state, STATE_COLOURS.get(state, "")), f"{count:,}", Text(printable(why)))
    console.print(table)
    if examples:
        console.print()
        print_rows(console, [(Text(state), Text(source), Text(why)) for state, source, why in examples])
    if advice:
        console.print()
    for line in advice:
        console.print(line, markup=False)


def print_pruning(console: Console, rows: Sequence[tuple[str, str, str, int]], summaries: int) -> None:
    """Print what becomes of each summary without a slide."""
    removed = [row for row in rows if row[0] == "remove"]
    print_rows(console, [(Text(action), Text(summary), Text(why)) for action, summary, why, _ in rows])
    freed = size(sum(row[3] for row in removed))
    console.print(
        f"{pluralize(summaries, 'summary', 'summaries')}, {len(rows)} without a slide: {len(rows) - len(removed)} to "
        f"keep, {len(removed)} to remove" + (f" ({freed})" if removed else "")
    )


def print_rows(console: Console, rows: Sequence[tuple[Text, Text, Text]]) -> None:
    """Print rows of a short word, a name and an explanation, both of which may wrap."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=2)
    table.add_column(overflow="fold", ratio=3)
    for first, name, why in rows:
        table.add_row(first, Text(printable(name.plain)), Text(printable(why.plain)))
    console.print(table)
