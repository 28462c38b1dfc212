"""Size and quality of one slide's summary for several numbers of patches: a table and a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsisum_cli.errors import SlideError
from wsisum_cli.figures.plot import as_png, new_figure
from wsisum_cli.pipeline.compress import assemble_summary
from wsisum_cli.pipeline.job import Clock, Job, Options, Tools
from wsisum_cli.pipeline.scene import Scene, open_scene
from wsisum_cli.selection.budget import KEEP, Limit
from wsisum_cli.summary.container import writing_aside
from wsisum_cli.summary.writer import size_of

#: Numbers of patches to try; a slide with fewer tissue patches ends with all of them.
SWEPT = (8, 16, 32, 64, 128, 256)
FIGURES = ("coverage", "coverage_p05", "coverage_min", "weighted_cosine", "composition")
OF_MODELS = ("reconstruction", "embedding_cosine", "slide_cosine")
COLUMNS = ("patches", "bytes", *FIGURES, *OF_MODELS, "verdict")
SUFFIX, PICTURE = ".sweep.csv", ".png"  # the picture's suffix replaces .csv
LABELS = {
    "coverage": "coverage",
    "coverage_p05": "5th percentile",
    "coverage_min": "minimum",
    "weighted_cosine": "weighted mean",
}

Row = Mapping[str, Any]


@dataclass
class SweepResult:
    """Figures of one swept slide."""

    bytes_in: int
    tissue_patches: int
    seconds: dict[str, float]


def sweep_slide(job: Job, options: Options, tools: Tools) -> SweepResult:
    """Write a CSV table to `job.output` and a figure beside it, but no summary. Raises as `compress_slide`."""
    clock = Clock(tools.stage)
    with open_scene(job, replace(options, keep=SWEPT[-1], max_bytes=None, target=None), tools, clock) as scene:
        count = len(scene.patch_selector.tissue.features)
        rows = [measure_row(scene, keep) for keep in patch_counts(count)]
        result = SweepResult(job.source.bytes, count, clock.seconds)
    with clock("write"):
        scene.check_unchanged()
        job.output.parent.mkdir(parents=True, exist_ok=True)
        with writing_aside(job.output) as aside:
            aside.write_text(as_csv(rows), encoding="utf-8")
        with writing_aside(job.output.with_suffix(PICTURE)) as aside:
            aside.write_bytes(draw_sweep(rows, job.name))
    return result


def patch_counts(tissue_patches: int) -> list[int]:
    """The numbers in `SWEPT` below the tissue patches, plus all of these if they are no more than the largest."""
    below = [keep for keep in SWEPT if keep < tissue_patches]
    return [*below, tissue_patches] if tissue_patches <= SWEPT[-1] else below


def measure_row(scene: Scene, keep: int) -> dict[str, Any]:
    """One row: size, figures and verdict of the summary that `--keep` would write."""
    contents = assemble_summary(replace(scene, options=replace(scene.options, keep=keep)), Limit(keep, KEEP))
    quality, verdict = contents.attributes.quality, contents.attributes.verdict
    figures = {name: getattr(quality, name) for name in (*FIGURES, *OF_MODELS)}
    return {
        "patches": keep,
        "bytes": size_of(contents),
        **figures,
        "verdict": verdict.verdict if verdict else "",
    }


def as_csv(rows: Sequence[Row]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def read_sweep(path: Path) -> list[dict[str, Any]]:
    """Read the rows that `sweep_slide` wrote; missing figures are None. Raises SlideError."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{name: parse_value(name, row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
    except (KeyError, ValueError, TypeError) as error:
        raise SlideError(f"{path.name}: expected a table written by --sweep; run it again") from error


def parse_value(name: str, text: str) -> Any:
    if name == "verdict":
        return text
    number = int if name in ("patches", "bytes") else float
    return number(text) if text else None


def draw_sweep(rows: Sequence[Row], name: str) -> bytes:
    """Plot quality against summary size as a PNG; the numbers of patches are shown above."""
    figure = new_figure(7, 4.4)
    axes = figure.add_subplot()
    size = [row["bytes"] / 1e6 for row in rows]
    for column, label in LABELS.items():
        axes.plot(size, [row[column] for row in rows], marker="o", label=label)
    for place, row in zip(size, rows, strict=True):
        axes.axvline(place, color="0.9", linewidth=1, zorder=0)
        axes.annotate(str(row["patches"]), (place, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom")
    axes.set_xscale("log")
    axes.set_xticks(size, [f"{place:.2g}" for place in size])
    axes.set_xticks([], minor=True)
    # A $ in the slide's name would start math mode.
    axes.set_title(f"{printable(name)}, patches kept", pad=16, parse_math=False)
    axes.set(xlabel="summary in MB", ylabel="cosine")
    axes.legend(fontsize="small", frameon=False)
    return as_png(figure)


def printable(name: str) -> str:
    """Replace characters that the font may lack."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name)
