"""Progress for people: bars in a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from wsisum_cli.archive.outcome import FAILED, UP_TO_DATE, Outcome
from wsisum_cli.commands.console import COLOURS, outcome_line
from wsisum_cli.commands.progress.course import Course
from wsisum_cli.commands.progress.log import StageClock
from wsisum_cli.figures.words import pluralize
from wsisum_cli.summary.limits.plain_text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from wsisum_cli.archive.plan import Plan
    from wsisum_cli.archive.run import Listener
    from wsisum_cli.archive.workers import Event

#: Widths of the columns of the bars: with the spaces between them 79 characters.
NAME_WIDTH, STAGE_WIDTH, BAR_WIDTH, LAST_WIDTH = 29, 9, 18, 14


@contextmanager
def listening(console: Console, quiet: bool = False, verbose: bool = False) -> Iterator[Listener]:
    """Report progress as bars in a terminal, as plain lines elsewhere; if `quiet`, failures alone."""
    if quiet:
        yield quiet_listener(console)
    elif not console.is_terminal:
        yield LineProgress(console, verbose).listener()
    else:
        with bars(console) as progress:
            yield BarProgress(progress, verbose).listener()


@contextmanager
def counting(console: Console, total: int, what: str) -> Iterator[Callable[[str], None]]:
    """A bar of how many of `total` are done; hands out what takes the name of each one that begins.

    Only in a terminal, and for more than one.
    """
    if not console.is_terminal or total < 2:
        yield lambda name: None
        return
    with bars(console) as progress:
        task = progress.add_task(what, total=total, stage="", last="")
        begun = iter(range(total))

        def begin(name: str) -> None:
            done = next(begun)
            progress.update(task, completed=done, stage=f"{done}/{total}", description=escape(end_of(printable(name))))

        yield begin


def bars(console: Console) -> Progress:
    """The table of bars: name, stage, bar, percentage, speed or time left."""
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    def column(text: str, width: int, justify: Any = "left") -> TextColumn:
        return TextColumn(text, table_column=Column(width=width, no_wrap=True, overflow="ellipsis", justify=justify))

    return Progress(
        column("{task.description}", NAME_WIDTH),
        column("{task.fields[stage]}", STAGE_WIDTH),
        BarColumn(BAR_WIDTH),
        column("{task.percentage:>3.0f}%", 4),
        column("{task.fields[last]}", LAST_WIDTH, "right"),
        console=console,
        transient=True,
    )


def quiet_listener(console: Console) -> Listener:
    """Prints failures alone."""
    from wsisum_cli.archive.run import Listener

    def show(outcome: Outcome) -> None:
        if outcome.status == FAILED:
            console.print(outcome_line(outcome), markup=False)

    def planned(plan: Plan) -> None:
        for outcome in plan.outcomes:
            show(outcome)

    return Listener(planned=planned, outcome=show)


class LineProgress:
    """Prints one line per finished slide, for logs."""

    def __init__(self, console: Console, verbose: bool = False) -> None:
        self._console = console
        self._course = Course()
        self._stages = StageClock(lambda *stage: console.print(stage_line(*stage), markup=False)) if verbose else None

    def listener(self) -> Listener:
        from wsisum_cli.archive.run import Listener

        return Listener(self.planned, self._course.more, self.again, event=self.event, outcome=self.outcome)

    def planned(self, plan: Plan) -> None:
        self._course.planned(plan)
        for line in plan_lines(plan):
            self._console.print(line, markup=False)

    def again(self, slide: str, why: list[str]) -> None:
        self._console.print(again_line(slide, why), markup=False)

    def event(self, event: Event) -> None:
        self._course.event(event)
        if self._stages is not None:
            self._stages.event(event)

    def outcome(self, outcome: Outcome) -> None:
        if self._stages is not None:
            self._stages.end(outcome.source)
        course = self._course
        course.outcome(outcome)
        left = f", {course.left}" if course.left and course.finished < course.total else ""
        self._console.print(f"[{course.finished}/{course.total}{left}] " + outcome_line(outcome), markup=False)


class BarProgress:
    """Shows one bar for the archive, with the time left, and one for each slide in progress, over all its stages."""

    def __init__(self, progress: Progress, verbose: bool = False) -> None:
        self._progress = progress
        self._course = Course()
        self._archive: TaskID | None = None
        self._slides: dict[str, TaskID] = {}
        self._stages = StageClock(lambda *stage: self._print(stage_line(*stage))) if verbose else None

    def listener(self) -> Listener:
        from wsisum_cli.archive.run import Listener

        return Listener(self.planned, self.more, self.again, event=self.event, outcome=self.outcome)

    def planned(self, plan: Plan) -> None:
        for line in plan_lines(plan):
            self._print(line)
        self._course.planned(plan)
        self._archive = self._progress.add_task("slides", total=1.0, stage="", last="")
        self._show_archive()

    def more(self, count: int) -> None:
        self._course.more(count)
        self._show_archive()

    def again(self, slide: str, why: list[str]) -> None:
        self._print(again_line(slide, why))

    def event(self, event: Event) -> None:
        if self._stages is not None:
            self._stages.event(event)
        if event.source not in self._slides:
            self._slides[event.source] = self._progress.add_task(
                escape(end_of(printable(event.source))),
                total=1.0,
                stage="",
                last="",
                patches=(0, self._progress.get_time()),
            )
        done = self._course.event(event)
        self._progress.update(self._slides[event.source], completed=done, stage=event.stage, last=self._speed(event))
        self._show_archive()

    def outcome(self, outcome: Outcome) -> None:
        if self._stages is not None:
            self._stages.end(outcome.source)
        task = self._slides.pop(outcome.source, None)
        if task is not None:
            self._progress.remove_task(task)
        self._course.outcome(outcome)
        self._show_archive()
        self._print(outcome_line(outcome), COLOURS.get(outcome.status, ""))

    def _print(self, line: str, style: str = "") -> None:
        self._progress.console.print(line, markup=False, style=style)

    def _speed(self, event: Event) -> str:
        """Patches, or MB, per second since the stage of a slide began to count them."""
        task = self._progress.tasks[self._progress.task_ids.index(self._slides[event.source])]
        begun, at = task.fields["patches"]
        if not event.total or event.done <= begun:
            task.fields["patches"] = (event.done, self._progress.get_time())
            return ""
        unit = "MB/s" if event.stage == "fetch" else "patches/s"
        speed = (event.done - begun) / max(self._progress.get_time() - at, 1e-3)
        return f"{min(speed, 9999):.0f} {unit}"

    def _show_archive(self) -> None:
        if self._archive is not None:
            counts = f"{self._course.finished}/{self._course.total}"
            self._progress.update(self._archive, completed=self._course.fraction, stage=counts, last=self._course.left)


def end_of(name: str, width: int = NAME_WIDTH - 2) -> str:
    """The name, indented; of a long one the end, which tells slides of a folder apart."""
    return "  " + (name if len(name) <= width else "…" + name[1 - width :])


def stage_line(slide: str, stage: str, seconds: float) -> str:
    return printable(f"{slide}: {stage} {seconds:.2f} s")


def again_line(slide: str, why: list[str]) -> str:
    """Why a slide of a file of several is made again, which the plan could not know."""
    return f"made again: {printable(slide)}, {', '.join(why)}"


def plan_lines(plan: Plan) -> list[str]:
    """Lines on the planned work, on what is left out, and on slides that failed during planning."""
    models = [plan.models] if plan.models and plan.jobs else []
    failed = [outcome_line(outcome) for outcome in plan.outcomes if outcome.status == FAILED]
    again = [f"made again: {pluralize(count, 'slide')}, {why}" for why, count in sorted(plan.again.items())]
    return [plan_line(plan), *left_lines(plan), *again, *models, *failed]


def left_lines(plan: Plan) -> list[str]:
    """What the run leaves out, in one line, and globs that match nothing."""
    parts = [f"{pluralize(len(plan.left_out), 'slide')} by their names"] * bool(plan.left_out)
    parts += [f"{len(plan.beyond)} by --limit that need work"] * bool(plan.beyond)
    return [*([f"left out: {', '.join(parts)}"] * bool(parts)), *(f"{clause}" for clause in plan.idle)]


def plan_line(plan: Plan) -> str:
    up_to_date = sum(outcome.reason == UP_TO_DATE for outcome in plan.outcomes)
    parts = [f"{pluralize(len(plan.jobs), 'slide')} to {plan.task}", f"{up_to_date} up to date"]
    skipped = len(plan.outcomes) - up_to_date
    if skipped:
        parts.append(f"{skipped} skipped or failed")
    if plan.other_files:
        parts.append(pluralize(plan.other_files, "other file"))
    return ", ".join(parts)
