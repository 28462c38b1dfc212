"""`wsisum verify`: whether summaries are whole, and how well they stand for their slides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.archive.lookup import all_summaries, model_finders
from wsisum_cli.commands.options import FOUND, Device, ThresholdOption
from wsisum_cli.errors import UsageError


def verify(
    summaries: Annotated[
        list[str], typer.Argument(help="Summary slides, or folders of them.", metavar="SUMMARY|FOLDER...")
    ],
    source: Annotated[
        Path | None, typer.Option(help="The slide, or the archive, to compare with.", exists=True)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Look at structure and sizes only.")] = False,
    encoder: Annotated[
        str | None,
        typer.Option(help="The ONNX file that made the features, where none that ships or that you added is it."),
    ] = None,
    summarizer: Annotated[str | None, typer.Option(help="Likewise, of the summarizer.")] = None,
    slide_encoder: Annotated[str | None, typer.Option(help="Likewise, of the slide encoder.")] = None,
    threshold: ThresholdOption = None,
    device: Annotated[Device, typer.Option(help="Where the models run.")] = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON: one object, or a list of several.")] = False,
) -> None:
    """Say whether a summary slide is whole, agrees with itself, with its source where that is at hand, and how well it
    stands for the slide: PASS, REVIEW or FAIL.

    Exit code 1 when there is a finding of severity error or warning.
    """
    from wsisum_cli.archive.walk import SourceIndex
    from wsisum_cli.archive.workers import cores
    from wsisum_cli.commands.console import output, print_verifications
    from wsisum_cli.quality.verdict import read_thresholds
    from wsisum_cli.verification.verify import verify_summary

    if quick and (source is not None or threshold):
        raise UsageError("--quick looks at neither source nor figures; leave it out, or --source and --threshold")
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
