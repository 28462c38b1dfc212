"""Size and quality of one slide's summary for several numbers of patches: a table and a figure."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsisum_cli.errors import SlideError
from wsisum_cli.exports import tables
from wsisum_cli.figures.plot import as_png, new_figure
from wsisum_cli.pipeline.compress import assemble_summary
from wsisum_cli.pipeline.job import Clock, Job, Options, Tools
from wsisum_cli.pipeline.scene import Scene, open_scene
from wsisum_cli.quality.random_draws import DRAWN
from wsisum_cli.quality.represented import WANTED
from wsisum_cli.selection.budget import KEEP, MAX_KEEP, Limit, most_kept, reduced
from wsisum_cli.summary.container import writing_aside
from wsisum_cli.summary.writer import size_of

#: Numbers of patches to try, beside the default; a slide with fewer tissue patches ends with all of them.
SWEPT = (8, 16, 32, 64, 128, 256)
FIGURES = ("coverage", "coverage_p05", "coverage_min", "weighted_cosine", "composition")
#: Share of the tissue that is represented, and the same of the middle 98 % of random draws: low, median and high.
REPRESENTED = ("represented", "random_low", "random_median", "random_high")
OF_MODELS = ("reconstruction", "embedding_cosine", "slide_cosine")
COLUMNS = ("patches", "bytes", *REPRESENTED, *FIGURES, *OF_MODELS, "default", "verdict")
SUFFIX, PICTURE = ".sweep.csv", ".png"  # the picture's suffix replaces .csv
#: Share of the axis's length within which two numbers hide each other.
CROWDED = 0.07
#: Percentiles of random draws that the plot shows as a band, and the median.
BAND = (1, 50, 99)

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
        fewest = scene.patch_selector.fewest(WANTED)
        default = reduced(most_kept(count, None, MAX_KEEP), fewest).keep
        rows = [measure_row(scene, keep, keep == default) for keep in sorted({*patch_counts(count), default})]
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


def measure_row(scene: Scene, keep: int, default: bool) -> dict[str, Any]:
    """One row: size, figures and verdict of the summary that `--keep` would write. `default`: without `--keep` too."""
    contents = assemble_summary(replace(scene, options=replace(scene.options, keep=keep)), Limit(keep, KEEP))
    quality, verdict = contents.attributes.quality, contents.attributes.verdict
    represented, draws = contents.attributes.represented, contents.reference.draws
    assert represented is not None
    assert draws is not None
    quantiles = draws[-1, DRAWN.index("represented")]
    random = dict(zip(REPRESENTED[1:], quantiles[list(BAND)].round(6).tolist(), strict=True))
    figures = {name: getattr(quality, name) for name in (*FIGURES, *OF_MODELS)}
    return {
        "patches": keep,
        "bytes": size_of(contents),
        "represented": represented.share,
        **random,
        **figures,
        "default": default,
        "verdict": verdict.verdict if verdict else "",
    }


def as_csv(rows: Sequence[Row]) -> str:
    return tables.as_csv([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])


def read_sweep(path: Path) -> list[dict[str, Any]]:
    """Read the rows that `sweep_slide` wrote; missing figures are None. Raises SlideError."""
    try:
        (_, head), *rows = tables.read_rows(path)
        named = [dict(zip(head, cells, strict=True)) for _, cells in rows]
        return [{name: parse_value(name, row[name]) for name in COLUMNS} for row in named]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise SlideError(f"{path.name}: expected a table written by --sweep; run it again") from error


def parse_value(name: str, text: str) -> Any:
    if name == "verdict":
        return text
    if name == "default":
        return text == "True"
    number = int if name in ("patches", "bytes") else float
    return number(text) if text else None


def draw_sweep(rows: Sequence[Row], name: str) -> bytes:
    """Plot represented tissue against summary size as a PNG, with the band of random draws.

    The numbers of patches are shown above, the default in bold.
    """
    figure = new_figure(7, 4.4)
    axes = figure.add_subplot()
    size = [row["bytes"] / 1e6 for row in rows]
    share = {name: [100 * row[name] for row in rows] for name in REPRESENTED}
    axes.fill_between(size, share["random_low"], share["random_high"], color="0.85", label="98 % of random draws")
    axes.plot(size, share["random_median"], color="0.6", label="median random draw")
    axes.plot(size, share["represented"], marker="o", label="summary")
    for place, row in zip(size, rows, strict=True):
        words = f"default: {row['patches']} patches" if row["default"] else None
        axes.axvline(place, color="0.4" if row["default"] else "0.92", linewidth=1, zorder=0, label=words)
    named = labelled(rows)
    for row in named:
        place, weight = (row["bytes"] / 1e6, 1), "bold" if row["default"] else "normal"
        above = ("data", "axes fraction")
        axes.annotate(str(row["patches"]), place, xycoords=above, ha="center", va="bottom", weight=weight)
    axes.set_xscale("log")
    axes.set_xticks([row["bytes"] / 1e6 for row in named], [f"{row['bytes'] / 1e6:.2g}" for row in named])
    axes.set_xticks([], minor=True)
    # A $ in the slide's name would start math mode.
    axes.set_title(f"{printable(name)}, patches kept", pad=16, parse_math=False)
    axes.set(xlabel="summary in MB", ylabel="tissue represented, %", ylim=(0, 101))
    axes.legend(fontsize="small", frameon=False, loc="lower right")
    return as_png(figure)


def labelled(rows: Sequence[Row]) -> list[Row]:
    """The rows whose numbers do not hide that of the default on a logarithmic axis."""
    default = next((row["bytes"] for row in rows if row["default"]), 0)
    apart = (max(row["bytes"] for row in rows) / min(row["bytes"] for row in rows)) ** CROWDED
    return [row for row in rows if row["default"] or not default / apart < row["bytes"] < default * apart]


def printable(name: str) -> str:
    """Replace characters that the font may lack."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name)
