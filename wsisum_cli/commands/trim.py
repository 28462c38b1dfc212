"""`wsisum trim`: summaries cut down without their slides."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.archive.lookup import mirrored_names, model_finders, refuse_addresses
from wsisum_cli.commands.options import (
    FOUND,
    Device,
    ModelsDeviceOption,
    SlideEncoderFileOption,
    SummariesArgument,
    SummarizerFileOption,
)
from wsisum_cli.errors import UsageError

# Heavy modules are imported where they are used: --help must answer at once.


def trim(
    summaries: SummariesArgument,
    keep: Annotated[int, typer.Option(min=1, help="Patches to keep.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Output folder, or an .ozx file for a single summary.")
    ] = Path("trimmed"),
    summarizer: SummarizerFileOption = None,
    slide_encoder: SlideEncoderFileOption = None,
    device: ModelsDeviceOption = Device.auto,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Reduce summaries to the patches that were picked first.

    The slides are not needed. A summary with no more patches is copied. The exit code is 1 if any could not be trimmed.
    """
    from wsisum_cli.commands.console import output as stdout
    from wsisum_cli.commands.console import print_trimmed, write_each
    from wsisum_cli.pipeline.trim import outputs_of, trim_summary
    from wsisum_cli.verification.appraisal import ModelFinders

    refuse_addresses(summaries)
    found = {Path(path): name for path, name in mirrored_names(summaries, output).items()}
    places = outputs_of(found, output)
    there = [place for place in places.values() if place.exists()]
    if there and not force:
        raise UsageError(f"{there[0]}: already exists; use --force to replace it, or choose another --output")
    models = ModelFinders(*model_finders(None, summarizer, slide_encoder, device.value))
    done = write_each(places, lambda path, place: trim_summary(path, place, keep, models, force), "cut")
    if as_json:
        typer.echo(json.dumps([asdict(trimmed) for trimmed in done], ensure_ascii=False, indent=1))
    else:
        print_trimmed(stdout(), done)
    raise typer.Exit(0 if len(done) == len(places) else FOUND)
