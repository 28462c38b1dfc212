"""`wsisum duplicates`: summaries of one content or one glass, with the evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsisum_cli.commands.options import FOUND, SummariesArgument, refuse_other_picture
from wsisum_cli.summary.limits.plain_text import plain_json

if TYPE_CHECKING:
    from wsisum_cli.archive.likeness.duplicates import Duplicates, Pair

# Heavy modules are imported where they are used: --help must answer at once.


def duplicates(
    summaries: SummariesArgument,
    image: Annotated[Path | None, typer.Option(help="Write a PNG: each pair side by side, with the evidence.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Find summaries of one content or of one glass.

    One glass may have been scanned or exported twice.
    Two summaries of one content are of byte-identical slides, or of one slide that was summarized twice. The slides are
    not needed. The exit code is 1 if a pair was found, or a summary could not be read.
    """
    from wsisum_cli.archive.likeness.duplicates import find_duplicates
    from wsisum_cli.archive.likeness.vectors import read_vectors
    from wsisum_cli.commands.console import messages
    from wsisum_cli.commands.upkeep.tables import counting

    refuse_other_picture(image)
    archive = read_vectors(summaries)
    with counting(messages(), "pairs compared") as progress:
        found = find_duplicates(archive, progress)
    if image is not None:
        draw(found, image)
    if as_json:
        typer.echo(plain_json(as_object(found)))
    else:
        show(found)
    raise typer.Exit(FOUND if found.pairs or found.unread else 0)


def draw(found: Duplicates, image: Path) -> None:
    from wsisum_cli.archive.likeness.pictures import draw_duplicates
    from wsisum_cli.commands.console import messages, warn
    from wsisum_cli.figures.canvas import save_png

    if not found.pairs:
        warn(f"--image {image.name}: no pair was found, so there is nothing to draw")
        return
    save_png(image, draw_duplicates(found.pairs))
    messages().print(f"picture: {image}", markup=False)


def show(found: Duplicates) -> None:
    from wsisum_cli.commands.console import output, warn
    from wsisum_cli.commands.upkeep.tables import print_pairs
    from wsisum_cli.figures.words import pluralize

    rows = [(pair.relation, pair.first.summary, pair.second.summary, pair.words) for pair in found.pairs]
    print_pairs(output(), rows)
    pairs = pluralize(len(found.pairs), "pair") if found.pairs else "no pair"
    looked = f"{pluralize(found.slides, 'slide')}, {pluralize(found.compared, 'similar pair')} compared closely"
    output().print(f"{pairs} found; {looked}", markup=False)
    for name, why in found.left_out.items():
        warn(f"not compared: {name}: {why.removeprefix(f'{Path(name).name}: ')}")


def as_object(found: Duplicates) -> dict[str, Any]:
    return {
        "slides": found.slides,
        "compared": found.compared,
        "pairs": [pair_object(pair) for pair in found.pairs],
        "left_out": [{"summary": name, "why": why} for name, why in found.left_out.items()],
    }


def pair_object(pair: Pair) -> dict[str, Any]:
    alignment = pair.alignment
    names = ("mirrored", "turn", "scale", "overlap", "correlation", "agreeing", "matches")
    evidence = None if alignment is None else {name: rounded(getattr(alignment, name)) for name in names}
    return {
        "relation": pair.relation,
        "first": {"summary": pair.first.summary, "slide": pair.first.slide, "sha256": pair.first.sha256},
        "second": {"summary": pair.second.summary, "slide": pair.second.slide, "sha256": pair.second.sha256},
        "cosine": None if pair.cosine is None else rounded(pair.cosine),
        "alignment": evidence,
    }


def rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
