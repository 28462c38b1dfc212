"""Terminal output: progress, tables, pictures. The only room that imports rich."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.style import Style
from rich.table import Table
from rich.text import Text

from wsisum_cli.archive.outcome import FAILED, SKIPPED, UP_TO_DATE, WRITTEN, Outcome
from wsisum_cli.commands.verdicts import headline, verdict_text
from wsisum_cli.errors import WsisumError
from wsisum_cli.figures.words import pluralize, printable, size, summary_lines
from wsisum_cli.quality.verdict import VERDICTS, Verdict, percent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from wsisum_cli.archive.plan import Plan
    from wsisum_cli.archive.run import Listener
    from wsisum_cli.archive.workers import Event
    from wsisum_cli.summary.inspection import Inspection

Source = TypeVar("Source", str, Path)
Written = TypeVar("Written")

COLOURS = {WRITTEN: "green", SKIPPED: "yellow", FAILED: "red", "would write": "cyan"}
PICTURE_COLUMNS = 64
WIDE = 220
WRAP_WIDTH = 24  # smallest width of a column that may wrap


def output() -> Console:
    """The console for results, on stdout."""
    return widen(Console(highlight=False))


def messages() -> Console:
    """The console for everything else, on stderr."""
    return widen(Console(stderr=True, highlight=False, soft_wrap=True))


def widen(console: Console) -> Console:
    """Widen a console that is not a terminal: pipes and files need no wrapping."""
    if not console.is_terminal:
        console.width = WIDE
    return console


@contextmanager
def listening(console: Console) -> Iterator[Listener]:
    """Report progress as bars in a terminal, as plain lines elsewhere."""
    if not console.is_terminal:
        yield LineProgress(console).listener()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield BarProgress(progress).listener()


class LineProgress:
    """Prints one line per finished slide, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = self._done = 0

    def listener(self) -> Listener:
        from wsisum_cli.archive.run import Listener

        return Listener(planned=self.planned, more=self.more, again=self.again, outcome=self.outcome)

    def planned(self, plan: Plan) -> None:
        self._total = len(plan.jobs)
        for line in plan_lines(plan):
            self._console.print(line, markup=False)

    def more(self, count: int) -> None:
        self._total += count

    def again(self, slide: str, why: list[str]) -> None:
        self._console.print(again_line(slide, why), markup=False)

    def outcome(self, outcome: Outcome) -> None:
        self._done += 1
        self._console.print(f"[{self._done}/{self._total}] " + outcome_line(outcome), markup=False)


class BarProgress:
    """Shows one bar for the archive and one for each slide in progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._archive: TaskID | None = None
        self._slides: dict[str, TaskID] = {}

    def listener(self) -> Listener:
        from wsisum_cli.archive.run import Listener

        return Listener(self.planned, self.more, self.again, self.event, self.outcome)

    def planned(self, plan: Plan) -> None:
        for line in plan_lines(plan):
            self._progress.console.print(line, markup=False)
        self._archive = self._progress.add_task("slides", total=len(plan.jobs), rate="")

    def more(self, count: int) -> None:
        if self._archive is not None:
            total = self._progress.tasks[self._progress.task_ids.index(self._archive)].total or 0
            self._progress.update(self._archive, total=total + count)

    def again(self, slide: str, why: list[str]) -> None:
        self._progress.console.print(again_line(slide, why), markup=False)

    def event(self, event: Event) -> None:
        if event.source not in self._slides:
            self._slides[event.source] = self._progress.add_task("", total=None, rate="")
        task = self._slides[event.source]
        description = f"  {escape(printable(event.source))} {event.stage}"
        if event.total:
            self._progress.update(task, description=description, completed=event.done, total=event.total)
            speed = self._progress.tasks[self._progress.task_ids.index(task)].speed
            unit = "MB/s" if event.stage == "fetch" else "patches/s"
            self._progress.update(task, rate=f"{speed:.0f} {unit}" if speed else "")
        else:
            self._progress.update(task, description=description)

    def outcome(self, outcome: Outcome) -> None:
        task = self._slides.pop(outcome.source, None)
        if task is not None:
            self._progress.remove_task(task)
        if self._archive is not None:
            self._progress.advance(self._archive)
        self._progress.console.print(outcome_line(outcome), markup=False, style=COLOURS.get(outcome.status, ""))


def again_line(slide: str, why: list[str]) -> str:
    """Why a slide of a file of several is made again, which the plan could not know."""
    return f"made again: {printable(slide)}, {', '.join(why)}"


def plan_lines(plan: Plan) -> list[str]:
    """Lines on the planned work, and on slides that failed during planning."""
    models = [plan.models] if plan.models and plan.jobs else []
    failed = [outcome_line(outcome) for outcome in plan.outcomes if outcome.status == FAILED]
    again = [f"made again: {pluralize(count, 'slide')}, {why}" for why, count in sorted(plan.again.items())]
    return [plan_line(plan), *again, *models, *failed]


def plan_line(plan: Plan) -> str:
    up_to_date = sum(outcome.reason == UP_TO_DATE for outcome in plan.outcomes)
    parts = [f"{pluralize(len(plan.jobs), 'slide')} to {plan.task}", f"{up_to_date} up to date"]
    skipped = len(plan.outcomes) - up_to_date
    if skipped:
        parts.append(f"{skipped} skipped or failed")
    if plan.other_files:
        parts.append(pluralize(plan.other_files, "other file"))
    return ", ".join(parts)


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
    return printable(f"{outcome.source}: {outcome.status}, {outcome.reason}. {message}".rstrip(". "))


def print_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print the table at the end of a run."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.source)
    columns = {name: [cell(outcome) for outcome in ordered] for name, cell in COLUMNS.items()}
    print_fitting(console, columns, LEAST, wrapped=("slide", "outcome"))
    console.print(total_line(outcomes))


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
    what = f"{outcome.status}: {outcome.reason}" if outcome.reason else outcome.status
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
    counts = Counter(outcome.status for outcome in outcomes)
    text = f"{pluralize(len(outcomes), 'slide')}: " + ", ".join(f"{count} {status}" for status, count in counts.items())
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
        grid.add_row(Text(name, "bold"), escape(value))
    console.print(grid)
    print_kept(console, facts)


def print_kept(console: Console, facts: Inspection) -> None:
    """The table of the kept patches."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("patch", "picked", "x", "y", "weight", "represents", "cluster"):
        table.add_column(name, justify="right")
    for patch in facts.kept:
        cells = (patch.number, patch.picked, patch.x, patch.y, f"{patch.weight:.1%}", patch.stands_for, patch.cluster)
        table.add_row(*map(str, cells))
    console.print(table)


def print_panels(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print `rows`, the list that `inspect --compare --json` prints."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("selection", no_wrap=True)
    for name in ("patches", "of", "coverage", "5th percentile", "minimum"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        figures = (f"{row[name]:.4f}" for name in ("coverage", "coverage_p05", "coverage_min"))
        table.add_row(escape(row["title"]), str(row["patches"]), str(row["tissue_patches"]), *figures)
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


def print_exported(console: Console, done: Sequence[Any]) -> None:
    """Print one line per exported summary."""
    for export in done:
        what = f"{export.patches} of {export.tissue_patches} patches, {size(export.bytes_out)}"
        verdict = (", ", verdict_text(export.verdict)) if export.verdict else ()
        console.print(Text.assemble(f"{printable(export.name)} -> {printable(export.output)}: {what}", *verdict))


def warn(message: str) -> None:
    print(f"wsisum: {message}", file=sys.stderr)  # noqa: T201 - the one place that prints


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
