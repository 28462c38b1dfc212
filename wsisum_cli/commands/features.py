"""`wsisum features`: an archive of slides -> h5 files of features."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.commands.options import (
    DEFAULT_ENCODER,
    DEFAULT_SLIDE_TIMEOUT,
    Device,
    DryRunOption,
    EncoderOption,
    ManifestOption,
    MppOption,
    ReportOption,
    SlidesArgument,
    SlideTimeoutOption,
)
from wsisum_cli.commands.runs import run_or_preview
from wsisum_cli.commands.settings.run_options import (
    ExcludeOption,
    IncludeOption,
    LimitOption,
    ListOption,
    LogFileOption,
    QuietOption,
    RetriesOption,
    Running,
    SchedulerFileOption,
    SchedulerOption,
    VerboseOption,
    WorkersOption,
)


class Layout(StrEnum):
    trident = "trident"
    stamp = "stamp"


class Precision(StrEnum):
    float32 = "float32"
    float16 = "float16"


def features(
    source: SlidesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the features.")] = Path("features"),
    mpp: MppOption = None,
    manifest: ManifestOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    listed: ListOption = None,
    limit: LimitOption = None,
    encoder: EncoderOption = DEFAULT_ENCODER,
    layout: Annotated[
        Layout, typer.Option(help="Names and units for TRIDENT and CLAM, or for STAMP.")
    ] = Layout.trident,
    precision: Annotated[
        Precision, typer.Option(help="Precision of the stored features; float16 halves the size.")
    ] = Precision.float32,
    device: Annotated[Device, typer.Option(help="Device on which the encoder runs.")] = Device.auto,
    workers: WorkersOption = "1",
    scheduler: SchedulerOption = None,
    scheduler_file: SchedulerFileOption = None,
    retries: RetriesOption = 2,
    slide_timeout: SlideTimeoutOption = DEFAULT_SLIDE_TIMEOUT,
    force: Annotated[
        bool, typer.Option("--force", help="Rewrite features that are up to date, and replace files of other programs.")
    ] = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    log_file: LogFileOption = None,
    as_json: ReportOption = False,
) -> None:
    """Write the features of all tissue patches, one h5 file a slide.

    Files that are up to date are skipped. The output folder mirrors the archive and holds report.csv and report.json.
    The exit code is 1 if any slide failed, unless the manifest knows of that failure.
    """
    from wsisum_cli.archive.plan import Request
    from wsisum_cli.archive.workers import Setup
    from wsisum_cli.models.places import find_model, user_folder
    from wsisum_cli.pipeline.extract import FeatureOptions
    from wsisum_cli.pipeline.product import FEATURES
    from wsisum_cli.slides.source import sha256_of

    options = FeatureOptions(layout.value, precision.value)
    model = find_model(encoder, [user_folder()])
    request = Request(source, output, options, sha256_of(model), mpp, force=force, product=FEATURES)
    setup = Setup(options, str(model), device.value, 1, output, FEATURES, slide_timeout=slide_timeout)
    running = Running(
        *(manifest, include, exclude, listed, limit, workers, scheduler, scheduler_file, retries),
        *(quiet, verbose, log_file, dry_run, as_json),
    )
    run_or_preview(request, setup, running)
