"""What `speed.py` measured, as the tables and the plot of docs/speed.md."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from readers import FLOOR, OURS, RIVALS
from rounds import Rounds, added, median, ratio

DOCS = Path(__file__).parents[2] / "docs"
MARK = "speed"
ENLARGED = """Where a patch is a little smaller than the encoder takes it at half size, the project reads it so and
enlarges it, while the others are averaged down"""
PLAIN = 3  # slides from which on a line is fitted, and one with glass


@dataclass(frozen=True)
class Reading:
    """Rounds of every reader on one grid."""

    slide: str
    kind: str  # pixel size and tiles
    grid: str  # the command that lays it
    aligned: bool  # patches end where tiles end
    enlarged: bool  # the project reads a patch smaller than the encoder takes it
    patches: int
    tiles: int
    spent: Mapping[str, Rounds]
    agreement: dict[str, float]  # dB of each rival's pixels and ours
    failed: dict[str, str]  # rivals that cannot read the slide, and what they raise


@dataclass(frozen=True)
class Growth:
    """Rounds of whole commands on one slide."""

    patches: dict[str, int]  # by command
    glass_mm2: float  # the slide without its tissue
    spent: Mapping[str, Rounds]


@dataclass(frozen=True)
class Whole(Growth):
    """The same, and rounds of what the commands are compared with."""

    slide: str
    stages: list[dict[str, float]]  # seconds of `compress`, each round
    cosine: float | None  # least, of the plain loop's features and ours; None where the loop fails

    def floor(self, command: str) -> Rounds:
        return added(self.spent[f"decode, {command}"], self.spent[f"encode, {command}"])


@dataclass(frozen=True)
class Workers:
    """Rounds of `compress` on one archive."""

    name: str
    slides: int
    one: Rounds
    two: Rounds


@dataclass(frozen=True)
class Measured:
    machine: list[tuple[str, str]]
    rounds: int
    threads: int
    batch_size: int  # of the plain loop
    reading: list[Reading] = field(default_factory=list)
    whole: list[Whole] = field(default_factory=list)
    once: list[Growth] = field(default_factory=list)  # slides timed once, which count for growth alone
    workers: list[Workers] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)  # what others print, by name


@dataclass(frozen=True)
class Fit:
    """Least squares of seconds by a constant and some columns."""

    coefficients: np.ndarray  # the constant first
    r2: float  # share of the variance that it explains


def fit(columns: Sequence[Sequence[float]], seconds: Sequence[float]) -> Fit:
    terms = np.column_stack([np.ones(len(seconds)), *columns])
    values = np.asarray(seconds)
    coefficients = np.linalg.lstsq(terms, values, rcond=None)[0]
    left = float(((values - terms @ coefficients) ** 2).sum())
    whole = float(((values - values.mean()) ** 2).sum())
    return Fit(coefficients, 1 - left / whole if whole else 1.0)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], text: int = 1) -> str:
    """A Markdown table, whose first `text` columns are words."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * text + "---:|" * (len(head) - text)]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


# --- the sections


def reading_section(found: Measured) -> str:
    head = ["slide", "level read", "grid", "patches", "tiles", "wsisum, patches/s", "times the floor"]
    names = [rival.name for rival in RIVALS if any(rival.name in each.spent for each in found.reading)]
    head += [f"times as fast as {name}" for name in names]
    rows = []
    for each in found.reading:
        ours = each.spent[OURS]
        grid = f"{each.grid}, {'on the tiles' if each.aligned else 'free'}"
        cells = [each.slide, each.kind, grid, each.patches, each.tiles, f"{each.patches / median(ours):.0f}"]
        rows.append([*cells, ratio(ours, each.spent[FLOOR]), *(rival_cell(each, name) for name in names)])
    return f"""## Reading

Patches of a slide's tissue as the encoder takes them, by the same number of threads: {found.threads}. Every reader gets
the same patches in the same order, an open slide and an empty cache. The floor decodes every tile needed once, at the
size at which it is read: JPEG by libjpeg-turbo out of memory, other tiles as the project does.

{table(head, rows, 3)}

{agreement_words(found, names)}"""


def rival_cell(each: Reading, name: str) -> str:
    if name in each.failed:
        return f"cannot read it ({each.failed[name]})"
    return str(ratio(each.spent[name], each.spent[OURS]))


def agreement_words(found: Measured, names: Sequence[str]) -> str:
    """How far the pixels of the rivals are from those of the project."""
    parts = []
    for enlarged, where in ((False, "Pixels agree with those of the project"), (True, ENLARGED)):
        rows = [each for each in found.reading if each.enlarged == enlarged]
        words = [f"{name} {span(levels)}" for name in names if (levels := agreement(rows, name))]
        if words:
            parts.append(f"{where}: {', '.join(words)}.")
    return "\n".join(parts)


def agreement(rows: Sequence[Reading], name: str) -> list[float]:
    return [each.agreement[name] for each in rows if name in each.agreement]


def span(levels: Sequence[float]) -> str:
    least, most = (f"{level:.1f}" for level in (min(levels), max(levels)))
    return f"{least} dB" if least == most else f"{least} to {most} dB"


def whole_section(found: Measured) -> str:
    parts = [
        f"""## From end to end

Seconds of the whole command in a warm process, defaults, {found.threads} threads. The floor decodes every tile needed
once and runs the encoder on every patch, and does nothing else. The plain loop is one process that reads each patch of
the grid of `features` with OpenSlide, resizes it and encodes batches of {found.batch_size} (the fastest of 8 to 64) by
the same model with ONNX Runtime on all cores; it finds no tissue and writes nothing. Floor and loop are timed on the
first patches of a large slide and multiplied."""
    ]
    for command in ("features", "compress"):
        head = ["slide", "patches", f"`{command}`, s", "times the floor", "the same, CPU", "times as fast as the loop"]
        head += ["sha256 of the slide, share", "cp of the slide, share"]
        rows = []
        for each in found.whole:
            spent, floor = each.spent[command], each.floor(command)
            row: list[object] = [each.slide, each.patches[command], f"{median(spent):.2f}", ratio(spent, floor)]
            row.append(ratio(spent, floor, "cpu"))
            row.append(ratio(each.spent["loop"], spent) if "loop" in each.spent else "the loop fails")
            rows.append([*row, *(ratio(each.spent[name], spent) for name in ("sha256", "cp"))])
        parts.append(table(head, rows))
    cosines = [each.cosine for each in found.whole if each.cosine is not None]
    if cosines:
        parts.append(f"Features of the loop and of the project have a cosine of at least {min(cosines):.4f}.")
    parts.append(stage_table(found))
    return "\n\n".join(parts)


def stage_table(found: Measured) -> str:
    names = list(dict.fromkeys(name for each in found.whole for stages in each.stages for name in stages))
    rows = []
    for each in found.whole:
        medians = [statistics.median(stages.get(name, 0.0) for stages in each.stages) for name in names]
        whole = median(each.spent["compress"])
        rows.append([each.slide, *(f"{seconds / whole:.0%}" for seconds in medians)])
    return "Stages of `compress`, as shares of its seconds; what overlaps counts once:\n\n" + table(
        ["slide", *names], rows
    )


def workers_section(found: Measured) -> str:
    rows = [
        [each.name, each.slides, f"{median(each.one):.1f}", f"{median(each.two):.1f}", ratio(each.one, each.two)]
        for each in found.workers
    ]
    head = ["slides", "how many", "one worker, s", "two workers, s", "times as fast"]
    return f"""## Workers

`wsisum compress FOLDER --workers 1` and `--workers 2`, start of Python included.

{table(head, rows)}"""


def growth_section(found: Measured, plot: str | None) -> str:
    head = ["command", "s at no patch", "s per 1,000 patches", "R² by patches", "R² by glass"]
    head += ["with both: s per 1,000 patches", "s per 100 mm² of glass"]
    rows = []
    glass = glass_of(found)
    for command in ("features", "compress"):
        patches, took = growth(found, command)
        by_patches, by_glass, by_both = fit([patches], took), fit([glass], took), fit([patches, glass], took)
        start, slope = by_patches.coefficients
        row = [f"`{command}`", f"{start:.2f}", f"{1000 * slope:.2f}", f"{by_patches.r2:.4f}", f"{by_glass.r2:.4f}"]
        both = by_both.coefficients if len(took) > PLAIN else None
        row += ["", ""] if both is None else [f"{1000 * both[1]:.2f}", f"{100 * both[2]:.2f}"]
        rows.append(row)
    once = {0: "", 1: ", one of them timed once"}.get(len(found.once), f", {len(found.once)} of them timed once")
    fewest, most = (f"{number:,}" for number in (min(patches), max(patches)))
    return f"""## Growth

Least squares over {len(glass)} slides{once}, of {fewest} to {most} patches and
{min(glass):.0f} to {max(glass):.0f} mm² of glass: median seconds by patches, by glass, and by both.

{table(head, rows)}""" + (f"\n\n![seconds beside patches and beside glass]({plot})" if plot else "")


def growth(found: Measured, command: str) -> tuple[list[int], list[float]]:
    """Patches and median seconds of each slide."""
    slides = [*found.whole, *found.once]
    return [each.patches[command] for each in slides], [median(each.spent[command]) for each in slides]


def glass_of(found: Measured) -> list[float]:
    """mm² of glass of each slide."""
    return [each.glass_mm2 for each in (*found.whole, *found.once)]


def script_sections(found: Measured) -> list[str]:
    return [f"## {name}\n\n```text\n{text}\n```" for name, text in found.scripts.items()]


# --- the page


def sections(found: Measured, plot: str | None) -> str:
    parts = [
        f"Medians of {found.rounds} rounds, in which all take turns; in brackets the least and the greatest of the\n"
        "rounds' ratios. Seconds are of the wall clock unless they say CPU.",
        table(["machine", ""], found.machine, 2),
    ]
    if found.reading:
        parts.append(reading_section(found))
    if found.whole:
        parts.append(whole_section(found))
    if found.workers:
        parts.append(workers_section(found))
    if len(found.whole) >= PLAIN:
        parts.append(growth_section(found, plot))
    return "\n\n".join(parts + script_sections(found))


def fill_page(page: Path, found: Measured | None) -> None:
    """Fill what is between the page's marks, and draw the plot beside it; None only looks for the marks.

    Raises SystemExit where the page lacks them.
    """
    sys.path[:0] = [str(DOCS)]
    from generate import filled

    if found is None:
        filled(page, MARK, "")
        return
    plot = page.with_suffix(".png") if len(found.whole) >= PLAIN else None
    if plot is not None:
        draw_growth(found, plot)
    page.write_text(filled(page, MARK, sections(found, plot.name if plot else None)), encoding="utf-8")


def draw_growth(found: Measured, path: Path) -> None:
    """Seconds beside patches, with the fitted line, and beside glass."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for command, marker, colour in (("features", "o", "tab:blue"), ("compress", "s", "tab:orange")):
        patches, took = growth(found, command)
        start, slope = fit([patches], took).coefficients
        line = np.geomspace(min(patches), max(patches), 100)
        left.plot(patches, took, marker, color=colour, label=command)
        left.plot(line, start + slope * line, color=colour, linewidth=1)
        right.plot(glass_of(found), took, marker, color=colour)
    left.set(xscale="log", yscale="log", xlabel="tissue patches", ylabel="seconds")
    right.set(xlabel="glass, mm²")
    left.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
