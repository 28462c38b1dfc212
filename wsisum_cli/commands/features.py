"""`wsisum features`: an archive of slides -> h5 files of features."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.commands.options import (
    DEFAULT_CACHE_SIZE,
    DEFAULT_ENCODER,
    DEFAULT_SLIDE_TIMEOUT,
    CacheFolderOption,
    CacheSizeOption,
    Device,
    DryRunOption,
    EncoderOption,
    ManifestOption,
    MppOption,
    ReportOption,
    SlidesArgument,
    SlideTimeoutOption,
    WorkersOption,
    cores,
)
from wsisum_cli.commands.runs import Places, run_or_preview


class Layout(StrEnum):
    trident = "trident"
    stamp = "stamp"


class Precision(StrEnum):
    float32 = "float32"
    float16 = "float16"


def features(
    source: SlidesArgument,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder for the features: a path, s3://, gs:// or az://.")
    ] = "features",
    mpp: MppOption = None,
    manifest: ManifestOption = None,
    encoder: EncoderOption = DEFAULT_ENCODER,
    layout: Annotated[
        Layout, typer.Option(help="Names and units for TRIDENT and CLAM, or for STAMP.")
    ] = Layout.trident,
    precision: Annotated[
        Precision, typer.Option(help="Precision of the stored features; float16 halves the size.")
    ] = Precision.float32,
    device: Annotated[Device, typer.Option(help="Device on which the encoder runs.")] = Device.auto,
    workers: WorkersOption = 1,
    slide_timeout: SlideTimeoutOption = DEFAULT_SLIDE_TIMEOUT,
    cache_dir: CacheFolderOption = None,
    cache_size: CacheSizeOption = DEFAULT_CACHE_SIZE,
    force: Annotated[
        bool, typer.Option("--force", help="Rewrite features that are up to date, and replace files of other programs.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: ReportOption = False,
) -> None:
    """Write the features of all tissue patches, one h5 file a slide.

    Files that are up to date are skipped. The output folder mirrors the archive and holds report.csv and report.json.
    The exit code is 1 if any slide failed.
    """
    from wsisum_cli.archive.plan import Request
    from wsisum_cli.archive.workers import Setup
    from wsisum_cli.models.places import find_model, user_folder
    from wsisum_cli.pipeline.extract import FeatureOptions
    from wsisum_cli.pipeline.product import FEATURES
    from wsisum_cli.slides.source import sha256_of

    options = FeatureOptions(layout.value, precision.value)
    model = find_model(encoder, [user_folder()])
    request = Request(Path(source), Path(output), options, sha256_of(model), mpp, force=force, product=FEATURES)
    threads = max(1, cores() // workers)
    setup = Setup(options, str(model), device.value, threads, Path(output), FEATURES, slide_timeout=slide_timeout)
    places = Places(source, output, cache_dir, cache_size)
    run_or_preview(places, request, setup, manifest, workers, dry_run, as_json)
