"""`wsisum verify`: whether summaries are whole, and how well they stand for their slides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.archive.lookup import all_summaries, model_finders
from wsisum_cli.commands.options import (
    FOUND,
    Device,
    ModelsDeviceOption,
    SlideEncoderFileOption,
    SummariesArgument,
    SummarizerFileOption,
    ThresholdOption,
)
from wsisum_cli.errors import UsageError


def verify(
    summaries: SummariesArgument,
    source: Annotated[Path | None, typer.Option(help="The original slide, or its archive.", exists=True)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Check structure and sizes only.")] = False,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder file, if it is not one of the bundled or added models.")
    ] = None,
    summarizer: SummarizerFileOption = None,
    slide_encoder: SlideEncoderFileOption = None,
    threshold: ThresholdOption = None,
    device: ModelsDeviceOption = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: an object, or a list for several.")] = False,
) -> None:
    """Check a summary, and compare it with the original slide.

    The comparison with the slide needs --source. The verdict is PASS, REVIEW or FAIL. The exit code is 1 if there is a
    finding of severity error or warning.
    """
    from wsisum_cli.archive.walk import SourceIndex
    from wsisum_cli.archive.workers import cores
    from wsisum_cli.commands.console import output, print_verifications
    from wsisum_cli.quality.verdict import read_thresholds
    from wsisum_cli.verification.verify import verify_summary

    if quick and (source is not None or threshold):
        raise UsageError("--quick cannot be combined with --source or --threshold")
    finders = model_finders(encoder, summarizer, slide_encoder, device.value)
    tier = "quick" if quick else "source" if source is not None else "full"
    index = SourceIndex(source) if source is not None else None
    thresholds = read_thresholds(threshold) if threshold else None
    results = [
        verify_summary(path, finders[0], tier, index.find(path) if index else None, cores(), *finders[1:], thresholds)
        for path in all_summaries(summaries)
    ]
    if as_json:
        found = [result.as_dict() for result in results]
        single = len(found) == 1 and not Path(summaries[0]).is_dir()
        typer.echo(json.dumps(found[0] if single else found, ensure_ascii=False, indent=1))
    else:
        print_verifications(output(), results)
    raise typer.Exit(0 if all(result.ok for result in results) else FOUND)
