"""An archive of summaries as one page: totals, what needs eyes first, failures, histograms, every slide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsisum_cli.archive.inventory import READ, UNFIT, Entry, Group, Inventory, read_inventory, urgency_key
from wsisum_cli.archive.outcome import FAILED
from wsisum_cli.archive.scope.naming import STEM, recorded_naming
from wsisum_cli.figures.canvas import resized
from wsisum_cli.figures.pages.render import data_uri, render
from wsisum_cli.figures.words import MEANINGS, size
from wsisum_cli.quality.verdict import VERDICTS, area, percent
from wsisum_cli.slides import jpeg
from wsisum_cli.summary.container import SUFFIX
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.writer import PORTABLE

SIDE = 160  # px, the longest of a thumbnail
QUALITY = 80  # of its JPEG
MOST_URGENT = 20  # slides in the list of what needs eyes first
MOST_SHARDS = 10  # named in a line
MOST_BINS = 12
WIDE_RANGE = 30  # of the largest to the smallest value, from which the bins of a histogram grow


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a slide, with its size in px."""

    image: str
    width: int
    height: int


@dataclass(frozen=True)
class Cell:
    """What a column says of a slide, and by what it is sorted: a number, or the text itself if None."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Column:
    """One column of the table. Its kind is how it is filtered: text, choice or number."""

    title: str
    kind: str
    cell: Callable[[Entry], Cell]
    choices: tuple[str, ...] = ()
    is_main: bool = False  # shown on the cards too
    unit: str = ""  # of the numbers that a filter takes


@dataclass(frozen=True)
class Bar:
    """One bin: its range in words, the number of slides, and its height, 0 to 1."""

    words: str
    count: int
    height: float


@dataclass(frozen=True)
class Histogram:
    """How many slides have which values."""

    title: str
    bars: tuple[Bar, ...]
    low: str
    high: str

    @property
    def words(self) -> str:
        """What stands for the picture where it cannot be seen."""
        filled = (f"{bar.count} from {bar.words}" for bar in self.bars if bar.count)
        return f"{self.title}, number of slides: {', '.join(filled)}"


def number(value: float | None, text: Callable[[float], str], unit: float = 1) -> Cell:
    """A cell of a number, sorted and filtered in this `unit`; empty where nobody knows it."""
    return Cell("") if value is None else Cell(text(value), round(value / unit, 6))


def verdict_cell(entry: Entry) -> Cell:
    known = entry.verdict in VERDICTS and entry.file == READ
    return Cell(entry.verdict or "", VERDICTS.index(entry.verdict)) if known and entry.verdict else Cell("none")


def attention_cell(entry: Entry) -> Cell:
    return Cell("; ".join(note.words for note in entry.attention), entry.urgency)


def plain_count(value: float) -> str:
    return f"{value:,.0f}"


COLUMNS = (
    Column("verdict", "choice", verdict_cell, (*VERDICTS, "none"), True),
    Column("outcome", "choice", lambda e: Cell(e.status), ("written", "skipped", "failed", "not tried"), True),
    Column("needs eyes", "text", attention_cell, is_main=True),
    Column("represented", "number", lambda e: number(e.represented, percent, 0.01), (), True, "%"),
    Column("ratio", "number", lambda e: number(e.ratio, "{:.1f}".format), (), True),
    Column("patches", "number", lambda e: number(e.patches, plain_count), (), True),
    Column("tissue patches", "number", lambda e: number(e.tissue_patches, plain_count)),
    Column("tissue", "number", lambda e: number(e.tissue_mm2, area), (), False, "mm²"),
    Column("largest unrepresented", "number", lambda e: number(e.largest_unrepresented_mm2, area), (), False, "mm²"),
    Column("coverage", "number", lambda e: number(e.coverage, "{:.3f}".format)),
    Column("slide size", "number", lambda e: number(e.bytes_in, size, 1e6), (), False, "MB"),
    Column("summary size", "number", lambda e: number(e.bytes_out, size, 1e6), (), True, "MB"),
    Column("suspect", "number", lambda e: number(e.suspect, plain_count), (), False, "patches"),
    Column("empty removed", "number", lambda e: number(e.artefacts, plain_count), (), False, "patches"),
    Column("broken tiles", "number", lambda e: number(e.broken_tiles, plain_count)),
    Column("reason", "text", lambda e: Cell(e.reason)),
    Column("message", "text", lambda e: Cell(message_of(e))),
)

HISTOGRAMS: Mapping[str, tuple[Callable[[Entry], float | None], Callable[[float], str]]] = {
    "Represented tissue": (lambda e: e.represented, percent),
    "Ratio": (lambda e: e.ratio, "{:g}".format),
    "Kept patches": (lambda e: e.patches, "{:,.0f}".format),
    "Summary size": (lambda e: e.bytes_out, size),
}


def gallery_of(folder: Path) -> tuple[Inventory, str]:
    """The archive in a folder, and the page that shows it. Raises UsageError."""
    pictures: dict[str, Thumbnail] = {}

    def picture(source: str, summary: Summary) -> None:
        pictures[source] = thumbnail(summary)

    inventory = read_inventory(folder, picture)
    name, shown = folder.resolve().name, inventory
    if recorded_naming(inventory.run or {})[0] != STEM:
        names = public_names(inventory)
        shown = without_names(inventory, names)
        pictures = {names[source]: found for source, found in pictures.items()}
    return inventory, draw_gallery(name, shown, pictures)


def public_names(inventory: Inventory) -> dict[str, str]:
    """Names for a page where those of slides are private: of their summaries, or else their numbers in the archive."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for number, entry in enumerate(inventory.slides, 1):
        name = entry.summary.removesuffix(SUFFIX)
        found[entry.source] = name if name and name not in taken else f"{name or 'no summary'}, slide {number}"
        taken.add(name)
    return found


def without_names(inventory: Inventory, names: Mapping[str, str]) -> Inventory:
    """The inventory without private names. Messages and options of the run may hold them, and go too.

    What a summary says of itself stays.
    """

    def renamed(entry: Entry) -> Entry:
        message = entry.message if entry.file == READ and entry.status != FAILED else ""
        return entry.model_copy(update={"source": names[entry.source], "message": message})

    def regrouped(groups: Sequence[Group]) -> list[Group]:
        return [group.model_copy(update={"slides": [names[source] for source in group.slides]}) for group in groups]

    return inventory.model_copy(
        update={
            "run": {name: value for name, value in (inventory.run or {}).items() if name != "partial"},
            "failed": regrouped(inventory.failed),
            "skipped": regrouped(inventory.skipped),
            "slides": [renamed(entry) for entry in inventory.slides],
        }
    )


def thumbnail(summary: Summary) -> Thumbnail:
    """A small picture of the overview. Raises SummaryError when it is damaged."""
    overview = np.moveaxis(summary.array(PORTABLE), 0, 2)
    zoom = min(1.0, SIDE / max(overview.shape[:2]))
    width, height = (max(1, round(side * zoom)) for side in overview.shape[1::-1])
    pixels = resized(np.ascontiguousarray(overview), (width, height))
    return Thumbnail(data_uri("jpeg", jpeg.encode(pixels, QUALITY)), width, height)


def draw_gallery(name: str, inventory: Inventory, pictures: Mapping[str, Thumbnail]) -> str:
    """The page of an archive. The same archive gives the same text."""
    ordered = sorted(inventory.slides, key=urgency_key)
    numbers = {entry.source: at for at, entry in enumerate(ordered, 1)}
    rows = [
        {
            "number": numbers[entry.source],
            "entry": entry,
            "picture": pictures.get(entry.source) if entry.file == READ else None,
            "cells": [column.cell(entry) for column in COLUMNS],
        }
        for entry in ordered
    ]
    totals = inventory.totals
    values = {
        "name": name,
        "totals": totals,
        "lines": total_lines(inventory),
        "headline": headline(inventory),
        "verdict": worst_verdict(inventory),
        "meanings": MEANINGS,
        "urgent": [(numbers[entry.source], entry) for entry in inventory.urgent[:MOST_URGENT]],
        "groups": {"Failed": inventory.failed, "Skipped": inventory.skipped},
        "messages": {entry.source: message_of(entry) for entry in ordered},
        "numbers": numbers,
        "histograms": histograms(inventory.slides),
        "columns": COLUMNS,
        "rows": rows,
        "run": run_facts(inventory),
    }
    return render("gallery.html.j2", values, "gallery.js")


def message_of(entry: Entry) -> str:
    """What the run said of a slide, without the name that the page gives already."""
    name = entry.source.partition("#")[0].rsplit("/", 1)[-1]
    return entry.message.removeprefix(f"{name}: ")


def headline(inventory: Inventory) -> str:
    """The archive in one sentence."""
    totals = inventory.totals
    if missing := inventory.missing_shards:
        return f"{len(missing):,} of {(inventory.run or {}).get('shards')} shards have not reported: this is not all"
    if not totals.attention and not totals.summaries:
        return "No summaries"
    if not totals.attention:
        return f"All {totals.summaries:,} recorded verdicts are PASS; nothing was verified here"
    return f"{totals.attention:,} of {totals.slides:,} slides need eyes"


def worst_verdict(inventory: Inventory) -> str:
    """The verdict on the archive, for its colour: FAIL if any slide failed or has a lost or failing summary."""
    urgencies = [entry.urgency for entry in inventory.slides if entry.urgency is not None]
    if not urgencies:
        return "REVIEW" if inventory.missing_shards else "PASS"
    return "FAIL" if min(urgencies) <= UNFIT else "REVIEW"


def total_lines(inventory: Inventory) -> dict[str, str]:
    """The totals in words, by name."""
    totals = inventory.totals
    statuses = ", ".join(f"{count:,} {status}" for status, count in totals.statuses.items() if count)
    lines = {
        "slides": f"{totals.slides:,}: {statuses}",
        "summaries": f"{totals.summaries:,} read",
        "verdicts": ", ".join(f"{count:,} {name}" for name, count in totals.verdicts.items() if count) or "none",
    }
    if totals.ratio is not None:
        lines["size"] = f"{size(totals.bytes_in)} -> {size(totals.bytes_out)}, {totals.ratio:.1f} times smaller"
        lines["patches"] = f"{totals.patches:,} of {totals.tissue_patches:,} tissue patches kept"
    if totals.tissue_mm2:
        share = percent(totals.represented_mm2 / totals.tissue_mm2)
        lines["represented"] = f"{share} of {totals.tissue_mm2:,.1f} mm² of tissue"
    if missing := inventory.missing_shards:
        lines["shards"] = f"{shortened(missing)} not reported: run wsisum compress with each of these as --shard"
    for name, groups in (("failed", inventory.failed), ("skipped", inventory.skipped)):
        if groups:
            lines[name] = ", ".join(f"{len(group.slides):,} {group.reason}" for group in groups)
    return lines


def shortened(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - MOST_SHARDS
    return ", ".join(names[:MOST_SHARDS]) + (f" and {more} more" if more > 0 else "")


def run_facts(inventory: Inventory) -> dict[str, str]:
    """Facts of the last run, options flattened; empty without a report."""
    facts: dict[str, str] = {}
    for name, value in (inventory.run or {}).items():
        if name == "counts":
            continue
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for part, found in inner:
            facts[f"{name} {part}".strip()] = ", ".join(map(str, found)) if isinstance(found, list) else str(found)
    return {name: "default" if words in ("None", "") else words for name, words in facts.items()}


def histograms(entries: Sequence[Entry]) -> list[Histogram]:
    """How the slides that have a summary spread; without figures that fewer than two have."""
    read = [entry for entry in entries if entry.file == READ]
    found = []
    for title, (figure, words) in HISTOGRAMS.items():
        values = [float(value) for entry in read if (value := figure(entry)) is not None]
        if len(values) > 1:
            found.append(histogram(title, values, words))
    return found


def histogram(title: str, values: Sequence[float], words: Callable[[float], str]) -> Histogram:
    """Count (N,) finite values in bins whose edges are round."""
    edges = bin_edges(min(values), max(values))
    counts, _ = np.histogram(values, edges)
    most = max(1, int(counts.max()))
    bars = [
        Bar(f"{words(low)} to {words(high)}", int(count), round(int(count) / most, 4))
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return Histogram(title, tuple(bars), words(edges[0]), words(edges[-1]))


def bin_edges(low: float, high: float) -> list[float]:
    """Round edges around `low` and `high`: equal steps, or 1, 2, 5, 10, ... where values spread over decades."""
    if low > 0 and high / low > WIDE_RANGE:
        powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
        marks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        first = max(at for at, mark in enumerate(marks) if mark <= low)
        return marks[first : next(at for at, mark in enumerate(marks) if mark >= high) + 1]
    step = round_step(high - low or abs(high) or 1.0)
    first_edge, last_edge = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(at * step, 12) for at in range(first_edge, max(last_edge, first_edge + 1) + 1)]


def round_step(span: float) -> float:
    """The least of 1, 2, 5, 10, ... times a power of ten that cuts `span` into `MOST_BINS` at most."""
    least = span / MOST_BINS
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
