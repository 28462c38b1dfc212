"""Terminal output: progress, tables, pictures. The only room that imports rich."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.style import Style
from rich.table import Table
from rich.text import Text

from wsisum_cli.archive.outcome import FAILED, SKIPPED, UP_TO_DATE, WRITTEN, Outcome
from wsisum_cli.commands.verdicts import headline, standing_lines, verdict_text
from wsisum_cli.quality.represented import WANTED
from wsisum_cli.quality.verdict import VERDICTS, Verdict, percent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from wsisum_cli.archive.plan import Plan
    from wsisum_cli.archive.run import Listener
    from wsisum_cli.archive.workers import Event
    from wsisum_cli.summary.attributes import Artefacts
    from wsisum_cli.summary.inspection import Inspection

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


def size(count: float | None) -> str:
    """Format a number of bytes, in powers of 1000."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


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

        return Listener(planned=self.planned, more=self.more, outcome=self.outcome)

    def planned(self, plan: Plan) -> None:
        self._total = len(plan.jobs)
        for line in plan_lines(plan):
            self._console.print(line, markup=False)

    def more(self, count: int) -> None:
        self._total += count

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

        return Listener(self.planned, self.more, self.event, self.outcome)

    def planned(self, plan: Plan) -> None:
        for line in plan_lines(plan):
            self._progress.console.print(line, markup=False)
        self._archive = self._progress.add_task("slides", total=len(plan.jobs), rate="")

    def more(self, count: int) -> None:
        if self._archive is not None:
            total = self._progress.tasks[self._progress.task_ids.index(self._archive)].total or 0
            self._progress.update(self._archive, total=total + count)

    def event(self, event: Event) -> None:
        if event.source not in self._slides:
            self._slides[event.source] = self._progress.add_task("", total=None, rate="")
        task = self._slides[event.source]
        description = f"  {escape(printable(event.source))} {event.stage}"
        if event.total:
            self._progress.update(task, description=description, completed=event.done, total=event.total)
            speed = self._progress.tasks[self._progress.task_ids.index(task)].speed
            self._progress.update(task, rate=f"{speed:.0f} patches/s" if speed else "")
        else:
            self._progress.update(task, description=description)

    def outcome(self, outcome: Outcome) -> None:
        task = self._slides.pop(outcome.source, None)
        if task is not None:
            self._progress.remove_task(task)
        if self._archive is not None:
            self._progress.advance(self._archive)
        self._progress.console.print(outcome_line(outcome), markup=False, style=COLOURS.get(outcome.status, ""))


def pluralize(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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


def printable(text: str) -> str:
    """Escape line breaks and terminal codes in file names, which could imitate our output."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
    source = facts.source
    console.print(headline(verdict))
    lines = {
        **standing_lines(facts, verdict),
        "size": f"{size(source.bytes)} -> {size(facts.bytes)}, {facts.ratio:.1f} times smaller",
        "patches": f"{facts.patches} of {facts.tissue_patches}, {facts.patch_size_level0} level-0 px each "
        f"({facts.patch.patch_size} px at {facts.patch.mpp:.3g} µm), {facts.pixels} pixels{bound_words(facts)}",
        **({"look at": facts.remarks} if facts.remarks else {}),
        "slide": f"{source.name}, {source.width} x {source.height} px at {source.mpp:.4g} µm "
        f"({source.mpp_source}), {source.vendor}",
        **image_line(facts),
        "artefacts": artefacts_line(facts.artefacts),
        "suspect": suspect_line(facts),
        "encoder": f"{facts.encoder.name} on {facts.provider}",
        **(detail_lines(facts) if details else {}),
        "note": facts.disclaimer,
    }
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in lines.items():
        grid.add_row(Text(name, "bold"), escape(value))
    console.print(grid)
    print_kept(console, facts)


def detail_lines(facts: Inspection) -> dict[str, str]:
    """Figures for those who know the encoder, each beside that of random draws of as many patches."""
    quality, random = facts.quality, facts.random

    def beside(name: str) -> str:
        return f"{getattr(quality, name):.4f}" + (f" (random {random[name]:.4f})" if name in random else "")

    return {
        "coverage": f"mean {beside('coverage')}, 5th percentile {beside('coverage_p05')}, "
        f"minimum {beside('coverage_min')}: cosine of tissue patches to the nearest kept one",
        "weighted cosine": f"{beside('weighted_cosine')} between the weighted patches and all tissue",
        **({} if quality.composition is None else {"composition": f"{beside('composition')} off in cluster shares"}),
        **summarizer_lines(facts),
        "sha256": facts.source.sha256,
    }


def print_kept(console: Console, facts: Inspection) -> None:
    """The table of the kept patches."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("patch", "picked", "x", "y", "weight", "represents", "cluster"):
        table.add_column(name, justify="right")
    for patch in facts.kept:
        cells = (patch.number, patch.picked, patch.x, patch.y, f"{patch.weight:.1%}", patch.stands_for, patch.cluster)
        table.add_row(*map(str, cells))
    console.print(table)


def image_line(facts: Inspection) -> dict[str, str]:
    """Which of several slides in the file was read, and which of several focal planes; empty for one of each."""
    image, plane, planes = facts.source.image, facts.source.focal_plane, facts.source.focal_planes
    words = [f"slide {image} of the file"] * (image is not None)
    words += [f"focal plane {plane} of {planes}"] * (plane is not None)
    return {"image": ", ".join(words)} if words else {}


def bound_words(facts: Inspection) -> str:
    """What decided on the number of patches."""
    if facts.trimmed_from is not None:
        return f", trimmed from {facts.trimmed_from}"
    options = facts.options
    target = percent(options.target or WANTED) if facts.represented else f"a coverage of {options.target}"
    missed = f"; {target} is not reached" if facts.target_reached is False else ""
    words = {
        "max_bytes": f", as many as fit into {size(options.max_bytes)}",
        "target": f", the fewest for {target}",
        "least": ", the least that is kept",
        "tissue": ", all tissue there is",
        "most": ", the most that are kept",
    }
    return words.get(facts.bound or "", "") + missed


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


def artefacts_line(artefacts: Artefacts | None) -> str:
    """What was removed from the tissue because it shows nothing."""
    if artefacts is None or not artefacts.looked_at:
        return "not looked for"
    kinds = ", ".join(f"{count} {name}" for name, count in artefacts.kinds.items())
    what = "kept, because hardly anything else is there" if artefacts.ignored else "removed"
    return f"{kinds} of {artefacts.looked_at} patches, {what}" if kinds else f"none in {artefacts.looked_at} patches"


def suspect_line(facts: Inspection) -> str:
    """How much of the tissue may be pen, folds or out of focus."""
    suspect, artefacts = facts.suspect, facts.artefacts
    if suspect is None or artefacts is None or not artefacts.looked_at:
        return "not looked for"
    if not suspect.count:
        return "none"
    kinds = ", ".join(f"{count} {name}" for name, count in suspect.kinds.items())
    kept = sum(patch.suspect is not None for patch in facts.kept)
    return f"{kinds} of {facts.tissue_patches} tissue patches ({kept} of the {facts.patches} kept)"


def summarizer_lines(facts: Inspection) -> dict[str, str]:
    """What models that see whole slides found."""
    summarizer, slide_encoder, quality = facts.summarizer, facts.slide_encoder, facts.quality
    lines = {"summarizer": "none used", "slide encoder": "none used"}
    if summarizer is not None:
        rest, near = quality.reconstruction, quality.embedding_cosine
        nothing = "nothing to reconstruct" if facts.trimmed_from is None else "reconstruction not known once trimmed"
        again = nothing if rest is None else f"reconstruction {rest:.4f}"
        cosine = "embedding cosine not measured" if near is None else f"embedding cosine {near:.4f}"
        lines["summarizer"] = f"{summarizer.name} on {summarizer.provider}: {again}, {cosine}"
    if slide_encoder is not None:
        lines["slide encoder"] = f"{slide_encoder.name} on {slide_encoder.provider}"
    return lines


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


def warn(message: str) -> None:
    print(f"wsisum: {message}", file=sys.stderr)  # noqa: T201 - the one place that prints
