"""`wsisum inspect`: show and draw the contents of a summary slide."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsisum_cli.commands.options import FOUND, check_page_name, refuse_other_picture
from wsisum_cli.errors import FeaturesError, SummaryError, UsageError
from wsisum_cli.models.places import user_folder
from wsisum_cli.summary.limits.plain_text import plain_json

if TYPE_CHECKING:
    from wsisum_cli.figures.panels import Panel
    from wsisum_cli.summary.reader import Summary

# Heavy modules are imported where they are used, so that --help is fast.


class Map(StrEnum):
    represented = "represented"
    coverage = "coverage"
    weight = "weight"
    cluster = "cluster"
    artefact = "artefact"


def inspect(
    summaries: Annotated[list[str], typer.Argument(help="Summary slides: paths or URLs.", metavar="SUMMARY...")],
    image: Annotated[
        Path | None,
        typer.Option(help="Write a PNG: the kept patches on the overview and as a contact sheet."),
    ] = None,
    paint: Annotated[
        Map | None,
        typer.Option("--map", help="Draw this map over the overview (default: NAME.MAP.png)."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="Write one self-contained HTML file: verdict, overview with maps, patches, provenance.",
            metavar="FILE",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Draw summaries of one slide side by side (default: NAME.compare.png).")
    ] = False,
    features: Annotated[
        Path | None,
        typer.Option(help="With --compare: h5 with the slide's features, to draw all selectors.", exists=True),
    ] = None,
    details: Annotated[
        bool,
        typer.Option("--details", help="Also print figures of features, summarizer and slide encoder."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: an object, or a list for several.")] = False,
) -> None:
    """Show what a summary slide contains."""
    check_options(summaries, image, paint, compare, features)
    check_page(page, summaries, image is not None or paint is not None or compare)
    if compare:
        failed = compare_all(summaries, image, features, as_json)
    else:
        failed = inspect_each(summaries, image, paint, page, details, as_json)
    raise typer.Exit(FOUND if failed else 0)


def check_options(
    summaries: list[str], image: Path | None, paint: Map | None, compare: bool, features: Path | None
) -> None:
    """Raise UsageError for options that cannot be combined."""
    from wsisum_cli.archive.formats import is_summary

    several = len(summaries) > 1
    if compare and paint is not None:
        raise UsageError("--map draws one summary, --compare several; use only one of them")
    if features is not None and not compare:
        raise UsageError("--features needs --compare, which draws the patches every selector would keep")
    if features is not None and is_summary(features):
        raise UsageError(
            f"--features {features.name}: is a summary, expected an h5 with features of all tissue of the slide; "
            "make it with wsisum features, or leave --features out and give both summaries"
        )
    if features is not None and several:
        raise UsageError("--features draws all selectors for one summary; give a single summary")
    if compare and not several and features is None:
        raise UsageError("--compare draws summaries side by side; give several of the same slide, or use --features")
    refuse_other_picture(image)
    if image is not None and several and not compare:
        raise UsageError("--image draws one summary; give a single summary")
    if paint is not None and len({default_path(path, paint) for path in summaries}) < len(summaries):
        raise UsageError("--map: several summaries share a name, so their pictures would too; give one at a time")


def check_page(page: Path | None, summaries: list[str], draws: bool) -> None:
    """Raise UsageError where --html cannot be used."""
    if page is None:
        return
    check_page_name(page)
    if len(summaries) > 1:
        raise UsageError("--html shows one summary; give a single summary, or use wsisum report for a folder")
    if draws:
        raise UsageError("--html holds every map and picture; use it without --image, --map and --compare")


def inspect_each(
    summaries: list[str], image: Path | None, paint: Map | None, page: Path | None, details: bool, as_json: bool
) -> bool:
    """Print and draw each summary. Returns whether any is unreadable or was changed since it was written."""
    from wsisum_cli.commands.console import output, print_summary, warn
    from wsisum_cli.summary.inspection import inspect_summary
    from wsisum_cli.summary.reader import open_summary
    from wsisum_cli.summary.standing import judge_again
    from wsisum_cli.verification.arrays import refuse_unsound

    described: list[dict[str, Any]] = []
    failed = False
    for path in summaries:
        try:
            with open_summary(path) as summary:
                if not summary.attributes_are_whole:
                    failed = True
                    warn(f"{summary.name}: its attributes changed after it was written; run wsisum verify on it")
                refuse_unsound(summary)
                inspection = inspect_summary(summary)
                described.append(inspection.as_json())
                draw_one(summary, path, image, paint)
                if page is not None:
                    write_page(summary, page)
                if not as_json:
                    print_summary(output(), inspection, judge_again(summary.record), details)
                    show_overview(summary)
        except SummaryError as error:
            failed = True
            warn(str(error))
    if as_json:
        single = len(summaries) == 1 and described
        typer.echo(plain_json(described[0] if single else described))
    return failed


def draw_one(summary: Summary, path: str, image: Path | None, paint: Map | None) -> None:
    if paint is not None:
        from wsisum_cli.figures.heatmap import draw_map

        write_image(image or default_path(path, paint), draw_map(summary, paint))
    elif image is not None:
        from wsisum_cli.figures.picture import draw_summary

        write_image(image, draw_summary(summary))


def write_page(summary: Summary, path: Path) -> None:
    from wsisum_cli.commands.console import messages
    from wsisum_cli.figures.pages.render import save_page
    from wsisum_cli.figures.pages.slide_page import slide_page

    save_page(path, slide_page(summary))
    messages().print(f"page: {path}", markup=False)


def default_path(path: str, what: str) -> Path:
    """A PNG in the current folder, named after the summary."""
    from wsisum_cli.summary.container import SUFFIX, name_of

    return Path(f"{name_of(path).removesuffix(SUFFIX)}.{what}.png")


def write_image(path: Path, pixels: Any) -> None:
    from wsisum_cli.commands.console import messages
    from wsisum_cli.figures.canvas import save_png

    save_png(path, pixels)
    messages().print(f"picture: {path}", markup=False)


def show_overview(summary: Summary) -> None:
    from wsisum_cli.commands.console import PICTURE_COLUMNS, output, print_picture, shows_pictures

    console = output()
    if shows_pictures(console):
        from wsisum_cli.figures.canvas import half_blocks

        print_picture(console, half_blocks(summary.overview, PICTURE_COLUMNS))


def compare_all(paths: list[str], image: Path | None, features: Path | None, as_json: bool) -> bool:
    """Draw summaries or selectors side by side and print their figures. Returns whether anything is unreadable."""
    from wsisum_cli.commands.console import output, print_panels, warn
    from wsisum_cli.figures.panels import draw_panels
    from wsisum_cli.summary.reader import open_summary
    from wsisum_cli.verification.arrays import refuse_unsound

    try:
        with ExitStack() as stack:
            summaries = [stack.enter_context(open_summary(path)) for path in paths]
            for summary in summaries:
                refuse_unsound(summary)
            panels = panels_to_draw(summaries, features)
            write_image(image or default_path(paths[0], "compare"), draw_panels(summaries[0], panels))
    except (SummaryError, FeaturesError) as error:
        warn(str(error))
        return True
    rows = [panel.as_dict() for panel in panels]
    if as_json:
        typer.echo(plain_json(rows))
    else:
        print_panels(output(), rows)
    return False


def panels_to_draw(summaries: Sequence[Summary], features: Path | None) -> list[Panel]:
    from wsisum_cli.commands.console import messages
    from wsisum_cli.figures.panels import distinguish_titles, panels_of
    from wsisum_cli.figures.selector_panels import compare_selectors

    if features is None:
        return distinguish_titles(panels_of(summaries))
    listen = messages().print
    return compare_selectors(summaries[0], features, [user_folder()], lambda selector: listen(f"picking: {selector}"))
