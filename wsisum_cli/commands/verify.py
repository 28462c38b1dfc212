"""`wsisum verify`: whether summaries are whole, and how well they stand for their slides."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsisum_cli.archive.lookup import model_finders, named_summaries
from wsisum_cli.commands.options import (
    FOUND,
    Device,
    ModelsDeviceOption,
    SlideEncoderFileOption,
    SummariesArgument,
    SummarizerFileOption,
    ThresholdOption,
    cores,
)
from wsisum_cli.commands.settings.run_options import ExcludeOption, IncludeOption, filter_of
from wsisum_cli.errors import UsageError

if TYPE_CHECKING:
    from wsisum_cli.archive.walk import SourceIndex
    from wsisum_cli.verification.finding import Verification


class Required(StrEnum):
    PASS = "pass"
    REVIEW = "review"


def verify(
    summaries: SummariesArgument,
    source: Annotated[Path | None, typer.Option(help="The original slide, or its archive.", exists=True)] = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Check structure and sizes only. Not enough to delete a slide.")
    ] = False,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder file, if it is not one of the bundled or added models.")
    ] = None,
    summarizer: SummarizerFileOption = None,
    slide_encoder: SlideEncoderFileOption = None,
    threshold: ThresholdOption = None,
    require: Annotated[
        Required, typer.Option(help="Verdict that is enough for exit code 0; review accepts PASS and REVIEW.")
    ] = Required.PASS,
    explain: Annotated[bool, typer.Option("--explain", help="Explain each verdict, and say what to do.")] = False,
    device: ModelsDeviceOption = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: an object, or a list for several.")] = False,
) -> None:
    """Check a summary, and compare it with the original slide.

    The comparison with the slide needs --source. The verdict is PASS, REVIEW or FAIL. The exit code is 0 only if every
    summary is intact and has the verdict that --require names, or a better one. For a folder of summaries and the
    archive as --source, every slide of the archive must have a summary too.
    """
    from wsisum_cli.commands.console import output, warn
    from wsisum_cli.commands.verdicts import print_verifications, slides_left
    from wsisum_cli.quality.verdict import read_thresholds
    from wsisum_cli.verification.verify import verify_summary

    if quick and (source is not None or threshold):
        raise UsageError("--quick cannot be combined with --source or --threshold")
    finders = model_finders(encoder, summarizer, slide_encoder, device.value)
    tier = "quick" if quick else "source" if source is not None else "full"
    index = index_slides(source) if source is not None else None
    thresholds = read_thresholds(threshold) if threshold else None
    results, required = [], require.name
    picked, left_out = pick_summaries(named_summaries(summaries), include, exclude)
    for path, name in picked:
        slide = index.find(path) if index else None
        result = verify_summary(path, finders[0], tier, slide, cores(), *finders[1:], thresholds)
        results.append(replace(result, path=name))
    if as_json:
        found = [result.as_dict() | {"required": required, "enough": is_enough(result, required)} for result in results]
        single = len(found) == 1 and not Path(summaries[0]).is_dir()
        typer.echo(json.dumps(found[0] if single else found, ensure_ascii=False, indent=1))
    else:
        print_verifications(output(), results, required, explain)
    # Before an archive, or a file of several slides, is deleted, every slide must have its summary.
    whole = len(results) > 1 or any(Path(name).is_dir() for name in summaries) or (source and source.is_file())
    left = index.left() if index and whole and not left_out else []
    if left:
        warn(slides_left(left))
    if left_out:
        unchecked = "; whether every slide has a summary was not checked" if source is not None else ""
        warn(f"left out: {left_out} of {len(results) + left_out} summaries by --include or --exclude{unchecked}")
    raise typer.Exit(FOUND if left or not all(is_enough(result, required) for result in results) else 0)


def pick_summaries(
    named: list[tuple[str, str]], include: list[str] | None, exclude: list[str] | None
) -> tuple[list[tuple[str, str]], int]:
    """The summaries whose paths match, and the number of others. Raises UsageError if none does."""
    chosen = filter_of(include, exclude, None, None, Path())
    picked = [(path, name) for path, name in named if chosen.picks_file(name)]
    if not picked:
        raise UsageError(f"{chosen.options()} left out all {len(named)} summaries")
    return picked, len(named) - len(picked)


def index_slides(archive: Path) -> SourceIndex:
    from wsisum_cli.archive.walk import SourceIndex

    return SourceIndex(archive)


def is_enough(result: Verification, required: str) -> bool:
    """Whether a summary is intact and its verdict good enough to rely on."""
    return result.ok and result.meets(required)
