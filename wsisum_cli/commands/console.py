"""What a person reads in the terminal: progress, tables, pictures. rich lives here."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.style import Style
from rich.table import Table
from rich.text import Text

from wsisum_cli.archive.outcome import FAILED, SKIPPED, UP_TO_DATE, WRITTEN, Outcome
from wsisum_cli.archive.plan import Plan
from wsisum_cli.archive.run import Listener
from wsisum_cli.archive.workers import Event
from wsisum_cli.summary.attributes import what_to_look_at
from wsisum_cli.verification.finding import Verification

COLOURS = {WRITTEN: "green", SKIPPED: "yellow", FAILED: "red", "would write": "cyan"}
SEVERITIES = {"error": "red", "warning": "yellow", "info": "dim"}
PICTURE_COLUMNS = 64
WIDE = 220
WRAPPED = 24  # characters of a column whose lines may break


def output() -> Console:
    """Results go to stdout."""
    return widen(Console(highlight=False))


def messages() -> Console:
    """All else goes to stderr."""
    return widen(Console(stderr=True, highlight=False, soft_wrap=True))


def widen(console: Console) -> Console:
    """A pipe or a file has no width at which lines would have to break."""
    if not console.is_terminal:
        console.width = WIDE
    return console


def size(count: float | None) -> str:
    """Bytes as people say them, in powers of 1000."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextmanager
def listening(console: Console) -> Iterator[Listener]:
    """Bars in a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield LineProgress(console).listener()
        return
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
    """One line a slide when it is done, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = self._done = 0

    def listener(self) -> Listener:
        return Listener(planned=self.planned, outcome=self.outcome)

    def planned(self, plan: Plan) -> None:
        self._total = len(plan.jobs)
        for line in plan_lines(plan):
            self._console.print(line, markup=False)

    def outcome(self, outcome: Outcome) -> None:
        self._done += 1
        self._console.print(f"[{self._done}/{self._total}] " + outcome_line(outcome), markup=False)


class BarProgress:
    """One bar for the archive, one for each slide at work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._archive: TaskID | None = None
        self._slides: dict[str, TaskID] = {}

    def listener(self) -> Listener:
        return Listener(self.planned, self.event, self.outcome)

    def planned(self, plan: Plan) -> None:
        for line in plan_lines(plan):
            self._progress.console.print(line, markup=False)
        self._archive = self._progress.add_task("slides", total=len(plan.jobs), rate="")

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
    """What is to be done, and what has failed before anything was done."""
    models = [plan.models] if plan.models and plan.jobs else []
    failed = [outcome_line(outcome) for outcome in plan.outcomes if outcome.status == FAILED]
    return [plan_line(plan), *models, *failed]


def plan_line(plan: Plan) -> str:
    done = sum(outcome.reason == UP_TO_DATE for outcome in plan.outcomes)
    parts = [f"{pluralize(len(plan.jobs), 'slide')} to {plan.task}", f"{done} up to date"]
    passed = len(plan.outcomes) - done
    if passed:
        parts.append(f"{passed} passed over")
    if plan.other_files:
        parts.append(pluralize(plan.other_files, "other file"))
    return ", ".join(parts)


def outcome_line(outcome: Outcome) -> str:
    if outcome.status == WRITTEN and outcome.sweep:
        return printable(f"{outcome.source}: measured, {sum(outcome.seconds.values()):.1f} s")
    if outcome.status == WRITTEN:
        ratio = f"{outcome.ratio:.1f}x" if outcome.ratio else ""
        seconds = sum(outcome.seconds.values())
        bound = f", bound by {outcome.bound}" if outcome.bound not in (None, "auto", "keep") else ""
        bound += ", target not reached" if outcome.target_reached is False else ""
        broken = f", {pluralize(outcome.broken_tiles, 'broken tile')} left out" if outcome.broken_tiles else ""
        artefacts = f", {outcome.artefacts} empty removed" if outcome.artefacts else ""
        artefacts += f", {outcome.suspect} suspect" if outcome.suspect else ""
        figures = f"{size(outcome.bytes_in)} -> {size(outcome.bytes_out)} ({ratio}), {seconds:.1f} s{broken}{artefacts}"
        of_all = "" if outcome.features else f" of {outcome.tissue_patches}"
        kept = f"{outcome.patches}{of_all} patches"
        said = f"; {outcome.message}" if outcome.message else ""
        return printable(f"{outcome.source}: written, {kept}{bound}, {figures}{said}")
    return printable(f"{outcome.source}: {outcome.status}, {outcome.reason}. {outcome.message}".rstrip(". "))


def printable(text: str) -> str:
    """File names may hold line breaks and terminal codes, which must not pass for ours."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """The table at the end of a run."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.source)
    columns = {name: [cell(outcome) for outcome in ordered] for name, cell in COLUMNS.items()}
    print_fitting(console, columns, LEAST, wrapped=("slide", "outcome"))
    console.print(total_line(outcomes))


def print_fitting(
    console: Console, columns: Mapping[str, Sequence[Text]], least: Sequence[str], wrapped: Sequence[str] = ()
) -> None:
    """A table; in a narrow terminal without the columns that matter least, the `least` of all first.

    `wrapped` columns are made narrower before one is left out, down to `WRAPPED` characters.
    """
    unlimited = console.options.update_width(10_000)
    shown = dict(columns)
    for name in least:
        short = {key: [cell[:WRAPPED] for cell in cells] if key in wrapped else cells for key, cells in shown.items()}
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
    """Of all patches of tissue, those that a summary keeps; features are of all."""
    if not outcome.patches:
        return ""
    return f"{outcome.patches}" if outcome.features else f"{outcome.patches}/{outcome.tissue_patches}"


#: Columns of the table of a run, and which of them go first where it is too wide.
COLUMNS: dict[str, Callable[[Outcome], Text]] = {
    "slide": lambda outcome: Text(printable(outcome.source)),
    "outcome": outcome_text,
    "in": lambda outcome: Text(size(outcome.bytes_in)),
    "out": lambda outcome: Text(size(outcome.bytes_out)),
    "ratio": lambda outcome: Text(f"{outcome.ratio:.1f}" if outcome.ratio else ""),
    "patches": lambda outcome: Text(patch_count(outcome)),
    "coverage": lambda outcome: Text(f"{outcome.coverage:.3f}" if outcome.coverage is not None else ""),
    "verdict": lambda outcome: verdict_text(outcome.verdict) if outcome.verdict else Text(),
}
LEAST = ("ratio", "in", "patches", "out", "coverage")


def total_line(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.status for outcome in outcomes)
    text = f"{pluralize(len(outcomes), 'slide')}: " + ", ".join(f"{count} {status}" for status, count in counts.items())
    failing = sum(outcome.verdict == "FAIL" for outcome in outcomes)
    missed = sum(outcome.target_reached is False for outcome in outcomes)
    text += f", {failing} with the verdict FAIL" if failing else ""
    text += f", {missed} short of the target" if missed else ""
    there = [outcome for outcome in outcomes if outcome.bytes_in and outcome.bytes_out]
    if there:
        before = sum(outcome.bytes_in or 0 for outcome in there)
        after = sum(outcome.bytes_out or 0 for outcome in there)
        text += f"; {size(before)} -> {size(after)}"
        if not any(outcome.features for outcome in there):
            text += f", {before / after:.1f} times smaller"
    return text


def print_summary(console: Console, facts: dict[str, Any]) -> None:
    """`facts` as `inspect --json` has them."""
    source, quality = facts["source"], facts["quality"]
    lines = {
        "slide": f"{source['name']}, {source['width']} x {source['height']} px at {source['mpp']:.4g} µm "
        f"({source['mpp_source']}), {source['vendor']}",
        "sha256": source["sha256"],
        "size": f"{size(source['bytes'])} -> {size(facts['bytes'])}, {facts['ratio']:.1f} times smaller",
        "patches": f"{facts['patches']} of {facts['tissue_patches']}, {facts['patch_size_level0']} level-0 px each, "
        f"{facts['pixels']} pixels{bound_words(facts)}",
        "artefacts": artefacts_line(facts["artefacts"]),
        "suspect": suspect_line(facts),
        **({"look at": what_to_look_at(facts)} if what_to_look_at(facts) else {}),
        "encoder": f"{facts['encoder']['name']} on {facts['provider']}",
        "coverage": f"mean {quality['coverage']:.4f}, 5th percentile {quality['coverage_p05']:.4f}, "
        f"least {quality['coverage_min']:.4f}",
        "weighted cosine": f"{quality['weighted_cosine']:.4f}, of the weighted patches to all tissue",
        **summarizer_lines(facts),
        **standing_lines(facts),
        "note": facts["disclaimer"],
    }
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in lines.items():
        grid.add_row(Text(name, "bold"), escape(value))
    console.print(grid)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("patch", "picked", "x", "y", "weight", "stands for", "cluster"):
        table.add_column(name, justify="right")
    for patch in facts["kept"]:
        weight = f"{patch['weight']:.1%}"
        cells = (
            patch["number"],
            patch["picked"],
            patch["x"],
            patch["y"],
            weight,
            patch["stands_for"],
            patch["cluster"],
        )
        table.add_row(*map(str, cells))
    console.print(table)


def bound_words(facts: dict[str, Any]) -> str:
    """What decided on the number of patches."""
    if facts["trimmed_from"] is not None:
        return f", trimmed from {facts['trimmed_from']}"
    options = facts["options"]
    missed = f"; a coverage of {options.get('target')} is not reached" if facts["target_reached"] is False else ""
    words = {
        "max_bytes": f", as many as fit into {size(options.get('max_bytes'))}",
        "target": f", enough for a coverage of {options.get('target')}",
        "tissue": ", all tissue there is",
        "most": ", the most that are kept",
    }
    return words.get(facts["bound"], "") + missed


def standing_lines(facts: dict[str, Any]) -> dict[str, str]:
    """What the summary is good for: the verdict, and the smallest region that is surely represented."""
    verdict, guarantee = facts["verdict"], facts["guarantee"]
    if verdict is None:
        return {"verdict": "not known to this version of the format"}
    found = verdict["percentiles"].items()
    beaten = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found if value is not None)
    return {
        "verdict": f"{verdict['verdict']}: percentiles among {facts['draws']['count']} random draws: {beaten}",
        "guarantee": f"every tissue area of at least {guarantee['area_mm2']:.3g} mm² has a patch within cosine "
        f"{guarantee['cosine']:.2f} of a kept one",
    }


def print_panels(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """`rows` as `inspect --compare --json` has them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("selection", no_wrap=True)
    for name in ("patches", "of", "coverage", "5th percentile", "least"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        figures = (f"{row[name]:.4f}" for name in ("coverage", "coverage_p05", "coverage_min"))
        table.add_row(escape(row["title"]), str(row["patches"]), str(row["tissue_patches"]), *figures)
    console.print(table)


def artefacts_line(artefacts: dict[str, Any] | None) -> str:
    """What was removed from the tissue, because it shows nothing."""
    if artefacts is None or not artefacts["looked_at"]:
        return "not looked for"
    kinds = ", ".join(f"{count} {name}" for name, count in artefacts["kinds"].items())
    what = "kept all the same, hardly anything else is there" if artefacts["ignored"] else "removed"
    return (
        f"{kinds} of {artefacts['looked_at']} patches, {what}" if kinds else f"none in {artefacts['looked_at']} patches"
    )


def suspect_line(facts: dict[str, Any]) -> str:
    """How much of the tissue may be pen, folds or out of focus."""
    suspect, artefacts = facts["suspect"], facts["artefacts"]
    if suspect is None or artefacts is None or not artefacts["looked_at"]:
        return "not looked for"
    if not suspect["count"]:
        return "none"
    kinds = ", ".join(f"{count} {name}" for name, count in suspect["kinds"].items())
    kept = sum(patch["suspect"] is not None for patch in facts["kept"])
    return f"{kinds} of {facts['tissue_patches']} tissue patches ({kept} of the {facts['patches']} kept)"


def summarizer_lines(facts: dict[str, Any]) -> dict[str, str]:
    """What models that see whole slides found."""
    summarizer, slide_encoder, quality = facts["summarizer"], facts["slide_encoder"], facts["quality"]
    lines = {"summarizer": "none used", "slide encoder": "none used"}
    if summarizer is not None:
        rest, near = quality["reconstruction"], quality["embedding_cosine"]
        nothing = "nothing to reconstruct" if facts["trimmed_from"] is None else "reconstruction not known once trimmed"
        again = nothing if rest is None else f"reconstruction {rest:.4f}"
        cosine = "embedding cosine not measured" if near is None else f"embedding cosine {near:.4f}"
        lines["summarizer"] = f"{summarizer['name']} on {summarizer['provider']}: {again}, {cosine}"
    if slide_encoder is not None:
        lines["slide encoder"] = f"{slide_encoder['name']} on {slide_encoder['provider']}"
    return lines


def shows_pictures(console: Console) -> bool:
    return console.is_terminal and console.color_system == "truecolor"


def print_picture(console: Console, cells: Sequence[Sequence[tuple[Any, Any]]]) -> None:
    """Rows of (upper colour, lower colour), two pixels a character."""
    for row in cells:
        line = Text()
        for upper, lower in row:
            line.append("▀", Style.parse(f"rgb({','.join(map(str, upper))}) on rgb({','.join(map(str, lower))})"))
        console.print(line, soft_wrap=True)


def print_verifications(console: Console, results: Sequence[Verification]) -> None:
    for result in results:
        sound = Text("ok", "green") if result.ok else Text("not ok", "red")
        console.print(Text.assemble(result.name, ": ", sound, f" ({result.tier})", measures(result.measured)))
        if result.verdict is not None:
            percentiles = result.verdict.percentiles.items()
            beaten = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in percentiles if value is not None)
            console.print(Text.assemble("  ", verdict_text(result.verdict.verdict), f" (percentiles: {beaten})"))
            for reason in result.verdict.reasons if result.verdict.verdict == "REVIEW" else ():
                console.print(f"    {reason}")
        for finding in result.findings:
            member = f" [{finding.member}]" if finding.member else ""
            found = f"; expected {finding.expected}" if finding.expected is not None else ""
            found += f", found {finding.found}" if finding.found is not None else ""
            line = f"  {finding.severity} {finding.code}{member}: {finding.message}{found}"
            console.print(Text(line, SEVERITIES[finding.severity]))
    bad = sum(not result.ok for result in results)
    if len(results) > 1:
        console.print(f"{len(results)} summaries, {len(results) - bad} ok, {bad} not ok")


def print_sweep(console: Console, source: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """What several numbers of patches cost on a slide, and what they give."""
    console.print(Text(printable(source), "bold"))
    shown = {
        "coverage": "coverage",
        "5th pct": "coverage_p05",
        "least": "coverage_min",
        "weighted cosine": "weighted_cosine",
        "composition": "composition",
    }
    columns = {
        "patches": [Text(str(row["patches"])) for row in rows],
        "size": [Text(size(row["bytes"])) for row in rows],
        **{name: [Text(f"{row[figure]:.4f}") for row in rows] for name, figure in shown.items()},
        "verdict": [verdict_text(row["verdict"]) for row in rows],
    }
    print_fitting(console, columns, ("composition", "weighted cosine", "least", "5th pct"))


def print_trimmed(console: Console, done: Sequence[Any]) -> None:
    """One line for each summary that was cut down."""
    for trimmed in done:
        kept = f"{trimmed.patches} patches" + (f" of {trimmed.trimmed_from}" if trimmed.trimmed_from else "")
        sizes = f"{size(trimmed.bytes_in)} -> {size(trimmed.bytes_out)}, coverage {trimmed.coverage:.4f}"
        console.print(Text.assemble(f"{printable(trimmed.name)}: {kept}, {sizes}, ", verdict_text(trimmed.verdict)))


def verdict_text(verdict: str) -> Text:
    return Text(verdict, {"PASS": "green", "REVIEW": "yellow", "FAIL": "red"}[verdict])


def measures(measured: Mapping[str, float]) -> str:
    """How near the kept patches alone bring the embeddings of the slide."""
    shown = ("embedding_cosine", "slide_cosine")
    return "".join(f", {name.replace('_', ' ')} {measured[name]:.4f}" for name in shown if name in measured)


def warn(message: str) -> None:
    print(f"wsisum: {message}", file=sys.stderr)  # noqa: T201 - this is the place that prints
