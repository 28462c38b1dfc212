"""`wsisum similar`: the slides of an archive that are most like one slide."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsisum_cli.commands.options import Device, MppOption, cores, refuse_other_picture
from wsisum_cli.errors import UsageError
from wsisum_cli.summary.limits.plain_text import plain_json

if TYPE_CHECKING:
    from wsisum_cli.archive.likeness.nearest import Nearest
    from wsisum_cli.archive.likeness.vectors import Archive

# Heavy modules are imported where they are used: --help must answer at once.


class By(StrEnum):
    auto = "auto"
    slide_encoder = "slide-encoder"
    mean = "mean"


def similar(
    slide: Annotated[str, typer.Argument(help="A summary slide, or a slide.", metavar="SUMMARY|SLIDE")],
    archive: Annotated[
        list[str], typer.Option("--in", help="Folder of summaries to search, repeatable.", metavar="FOLDER")
    ],
    top: Annotated[int, typer.Option(min=1, help="Number of slides to show.", metavar="N")] = 10,
    by: Annotated[
        By,
        typer.Option(
            help="Vectors to compare: the slide encoder's embeddings, or mean features; auto takes embeddings where "
            "all slides have one."
        ),
    ] = By.auto,
    image: Annotated[Path | None, typer.Option(help="Write a PNG: the slides in order.")] = None,
    mpp: MppOption = None,
    device: Annotated[Device, typer.Option(help="Device on which the encoder runs, for a slide.")] = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Find the slides of an archive that are most like one slide.

    Vectors of different models are never compared. A slide that has no summary is summarized in a temporary folder
    first.
    """
    from wsisum_cli.archive.likeness.nearest import find_nearest
    from wsisum_cli.archive.likeness.vectors import MEAN, SLIDE_ENCODER, read_vectors

    refuse_other_picture(image)
    kind = {By.auto: None, By.slide_encoder: SLIDE_ENCODER, By.mean: MEAN}[by]
    found = read_vectors(archive)
    with TemporaryDirectory(prefix="wsisum-") as folder:
        summary = summary_of(slide, found, Path(folder), mpp, device)
        nearest = find_nearest(read_query(summary, found), found, top, kind)
        if image is not None:
            draw(nearest, image)
    if as_json:
        typer.echo(plain_json(as_object(nearest)))
    else:
        show(nearest)


def read_query(summary: str, archive: Archive) -> Any:
    """The vectors of one summary. One of the archive's keeps its path there, so that it is not its own neighbour."""
    from wsisum_cli.archive.likeness.vectors import vectors_of
    from wsisum_cli.summary.container import name_of
    from wsisum_cli.summary.reader import open_summary

    if "://" not in summary:
        place = Path(summary).resolve()
        for known in archive.slides:
            if Path(known.path).resolve() == place:
                return known
    with open_summary(summary) as opened:
        return vectors_of(opened, summary, name_of(summary))


def summary_of(slide: str, archive: Archive, folder: Path, mpp: float | None, device: Device) -> str:
    """The summary itself, or one made of a slide, by the models of the archive."""
    from wsisum_cli.summary.container import SUFFIX

    if "://" in slide or slide.endswith(SUFFIX):
        return slide
    if not Path(slide).exists():
        raise UsageError(f"{slide}: no such file; give a summary ({SUFFIX}) or a slide")
    from wsisum_cli.archive.likeness.query import summarize_slide
    from wsisum_cli.commands.console import messages

    messages().print(f"summarizing {Path(slide).name}", markup=False)
    return str(summarize_slide(Path(slide), folder, archive, mpp, device.value, cores()))


def draw(nearest: Nearest, image: Path) -> None:
    from wsisum_cli.archive.likeness.pictures import draw_nearest
    from wsisum_cli.commands.console import messages
    from wsisum_cli.figures.canvas import save_png

    save_png(image, draw_nearest(nearest))
    messages().print(f"picture: {image}", markup=False)


def show(nearest: Nearest) -> None:
    from wsisum_cli.commands.console import output, warn
    from wsisum_cli.commands.upkeep.tables import print_nearest
    from wsisum_cli.figures.words import pluralize

    rows = [(found.cosine, found.slide.summary, "same file" * found.same_file) for found in nearest.neighbours]
    print_nearest(output(), rows)
    by = f"{nearest.model.kind} ({nearest.model.name})"
    output().print(f"{pluralize(nearest.compared, 'slide')} compared by {by}", markup=False)
    for why, count in nearest.left_out.items():
        warn(f"not compared: {pluralize(count, 'slide')}: {why}")


def as_object(nearest: Nearest) -> dict[str, Any]:
    query, model = nearest.query, nearest.model
    return {
        "slide": query.slide,
        "sha256": query.sha256,
        "by": {"kind": model.kind, "model": model.name, "sha256": model.sha256},
        "compared": nearest.compared,
        "left_out": [{"why": why, "slides": count} for why, count in nearest.left_out.items()],
        "nearest": [
            {
                "summary": found.slide.summary,
                "slide": found.slide.slide,
                "sha256": found.slide.sha256,
                "cosine": round(found.cosine, 6),
                "same_file": found.same_file,
            }
            for found in nearest.neighbours
        ],
    }
