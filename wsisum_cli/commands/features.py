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
    WorkersOption,
)
from wsisum_cli.commands.runs import run_or_preview


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
    encoder: EncoderOption = DEFAULT_ENCODER,
    layout: Annotated[
        Layout, typer.Option(help="Names and units as TRIDENT and CLAM read them, or as STAMP does.")
    ] = Layout.trident,
    precision: Annotated[
        Precision, typer.Option(help="Of the stored features; float16 takes half the bytes.")
    ] = Precision.float32,
    device: Annotated[Device, typer.Option(help="Where the encoder runs.")] = Device.auto,
    workers: WorkersOption = 1,
    slide_timeout: SlideTimeoutOption = DEFAULT_SLIDE_TIMEOUT,
    force: Annotated[
        bool, typer.Option("--force", help="Make features again that are up to date; replace other programs' files.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: ReportOption = False,
) -> None:
    """Compute the features of every tissue patch of an archive, one h5 a slide; those up to date are skipped.

    Exit code 1 when a slide failed. The folder of features mirrors the archive, and holds report.csv and
    report.json.
    """
    from wsisum_cli.archive.plan import Request
    from wsisum_cli.archive.workers import Setup, cores
    from wsisum_cli.models.places import find_model, user_folder
    from wsisum_cli.pipeline.extract import FeatureOptions
    from wsisum_cli.pipeline.product import FEATURES
    from wsisum_cli.slides.source import sha256_of

    options = FeatureOptions(layout.value, precision.value)
    model = find_model(encoder, [user_folder()])
    request = Request(source, output, options, sha256_of(model), mpp, force=force, product=FEATURES)
    threads = max(1, cores() // workers)
    setup = Setup(options, str(model), device.value, threads, output, FEATURES, slide_timeout=slide_timeout)
    run_or_preview(request, setup, manifest, workers, dry_run, as_json)
