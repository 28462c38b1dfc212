"""`wsisum export`: summaries in the formats of other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.archive.lookup import mirrored_names
from wsisum_cli.commands.options import SummariesArgument
from wsisum_cli.errors import UsageError

# Heavy modules are imported where they are used: --help must answer at once.


class To(StrEnum):
    h5 = "h5"
    geojson = "geojson"
    tiff = "tiff"
    patches = "patches"
    zarr = "zarr"
    report = "report"
    spatialdata = "spatialdata"


class ExportLayout(StrEnum):
    trident = "trident"
    stamp = "stamp"
    clam = "clam"


class Images(StrEnum):
    auto = "auto"
    png = "png"
    full = "full"
    jpeg = "jpeg"


def export(
    summaries: SummariesArgument,
    to: Annotated[To, typer.Option(help="Format to write.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Output folder, or the name of a single export.")
    ] = Path("exported"),
    layout: Annotated[
        ExportLayout | None, typer.Option(help="With --to h5: whose names and units to use (default: trident).")
    ] = None,
    images: Annotated[
        Images | None,
        typer.Option(
            help="With --to patches: png as the encoder sees them, full at the scanner's resolution, or the stored "
            "jpeg files (default: jpeg where each patch has one, else png)."
        ),
    ] = None,
    tissue: Annotated[
        bool, typer.Option("--tissue", help="With --to h5: features of all tissue, unpacked, not of the kept patches.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing exports.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Write summaries in the formats of other programs.

    The slides are not needed. Every export says that it is not the slide but a selection of its patches. The exit code
    is 1 if any summary could not be exported.
    """
    from wsisum_cli.commands.console import conclude, print_exported, write_each
    from wsisum_cli.exports.export import export_summary, outputs_of, refuse_unavailable
    from wsisum_cli.exports.options import ExportOptions
    from wsisum_cli.exports.targets import TARGETS
    from wsisum_cli.summary.container import refuse_existing

    for option, value, owner in (("--layout", layout, To.h5), ("--images", images, To.patches)):
        if value is not None and to is not owner:
            raise UsageError(f"{option} belongs to --to {owner.value}; leave it out, or choose that format")
    if tissue and to is not To.h5:
        raise UsageError("--tissue belongs to --to h5; leave it out, or choose that format")
    target = TARGETS[to.value]
    refuse_unavailable(target)
    places = outputs_of(mirrored_names(summaries, output), output, target)
    refuse_existing(places.values(), force)
    options = ExportOptions(
        layout=(layout or ExportLayout.trident).value, images=(images or Images.auto).value, tissue=tissue
    )
    done = write_each(places, lambda path, place: export_summary(path, place, target, options, force), "exported")
    conclude(done, len(places), as_json, lambda console: print_exported(console, done))
