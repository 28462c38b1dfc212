"""`wsisum features`: an archive of slides, or summaries -> h5 files of features."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsisum_cli.commands.options import (
    DEFAULT_CACHE_SIZE,
    DEFAULT_ENCODER,
    DEFAULT_SLIDE_TIMEOUT,
    PLACE,
    CacheFolderOption,
    CacheSizeOption,
    CheckOption,
    Device,
    DryRunOption,
    EncoderOption,
    ManifestOption,
    MppOption,
    ReportOption,
    ShardOption,
    SlideTimeoutOption,
    cores,
)
from wsisum_cli.commands.runs import run_or_preview
from wsisum_cli.commands.settings.run_options import (
    ExcludeOption,
    IncludeOption,
    LimitOption,
    ListOption,
    LogFileOption,
    NameBy,
    NameByOption,
    NameKeyOption,
    QuietOption,
    RetriesOption,
    Running,
    SchedulerFileOption,
    SchedulerOption,
    VerboseOption,
    WorkersOption,
)
from wsisum_cli.errors import UsageError

if TYPE_CHECKING:
    from wsisum_cli.pipeline.extract import FeatureOptions


class Layout(StrEnum):
    trident = "trident"
    stamp = "stamp"


class Precision(StrEnum):
    float32 = "float32"
    float16 = "float16"


def features(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of slides or of summaries, one slide, or one summary: a path, s3://, gs:// or az://, or one "
            "file at https://.",
            metavar="SOURCE",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the features: a path, s3://, gs:// or az://; or an .h5 file for a single summary.",
            metavar=PLACE,
        ),
    ] = "features",
    mpp: MppOption = None,
    manifest: ManifestOption = None,
    name_by: NameByOption = NameBy.stem,
    name_key: NameKeyOption = None,
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
    cache_dir: CacheFolderOption = None,
    cache_size: CacheSizeOption = DEFAULT_CACHE_SIZE,
    tissue: Annotated[
        bool,
        typer.Option(
            "--tissue", help="Of summaries: features of all tissue, unpacked; see compress --tissue-features."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Rewrite features that are up to date, and replace files of other programs.")
    ] = False,
    check: CheckOption = False,
    shard: ShardOption = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    log_file: LogFileOption = None,
    as_json: ReportOption = False,
) -> None:
    """Write the features of all tissue patches, one h5 file a slide.

    Files that are up to date are skipped. The output folder mirrors the archive and holds report.csv and report.json.
    The exit code is 1 if any slide failed, unless the manifest knows of that failure. Of summaries, it writes the
    features of the kept patches, from their stored pixels; without --force, no file is replaced.
    """
    from wsisum_cli.archive.plan import Request
    from wsisum_cli.archive.workers import Setup
    from wsisum_cli.models.places import find_model, user_folder
    from wsisum_cli.pipeline.extract import FeatureOptions
    from wsisum_cli.pipeline.product import FEATURES
    from wsisum_cli.slides.source import sha256_of

    options = FeatureOptions(layout.value, precision.value)
    model = find_model(encoder, [user_folder()])
    running = Running(
        *(manifest, include, exclude, listed, limit, workers, scheduler, scheduler_file, retries),
        *(quiet, verbose, log_file, dry_run, as_json, check, shard),
        cache_dir=cache_dir,
        cache_size=cache_size,
        name_by=name_by,
        name_key=name_key,
    )
    if has_summaries(source, output):
        refuse_for_summaries(context)
        embed_summaries(source, folder_of(output), None if tissue else model, options, device, force, as_json)
    if tissue:
        raise UsageError("--tissue is for summaries, but the source is a slide; leave it out")
    request = Request(Path(source), Path(output), options, sha256_of(model), mpp, force=force, product=FEATURES)
    setup = Setup(options, str(model), device.value, 1, Path(output), FEATURES, slide_timeout=slide_timeout)
    run_or_preview(source, output, request, setup, running)


def has_summaries(source: str, output: str) -> bool:
    """Whether the source is a summary, or a folder of summaries. Raises UsageError."""
    from wsisum_cli.archive.lookup import summaries_instead_of_slides
    from wsisum_cli.slides.remote.url import parse_place
    from wsisum_cli.summary.container import SUFFIX

    place = parse_place(source)
    return summaries_instead_of_slides(place, Path(output)) if isinstance(place, Path) else place.name.endswith(SUFFIX)


def folder_of(output: str) -> Path:
    """Raises UsageError for an address."""
    from wsisum_cli.slides.remote.url import parse_place

    place = parse_place(output)
    if not isinstance(place, Path):
        raise UsageError(f"{place}: features of summaries are written to a folder; choose one as --output")
    return place


#: Options of slides, which say nothing of summaries.
OF_SLIDES = (
    *("mpp", "manifest", "include", "exclude", "listed", "limit", "workers", "scheduler", "scheduler_file", "retries"),
    *("slide_timeout", "check", "shard", "dry_run", "verbose", "log_file", "cache_dir", "cache_size"),
    *("name_by", "name_key"),
)


def refuse_for_summaries(context: typer.Context) -> None:
    """Raise UsageError for options of slides that are on the command line; settings may have them for other runs."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in OF_SLIDES and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{option.opts[0]} is for slides, but the source is a summary; leave it out")


def embed_summaries(
    source: str, output: Path, model: Path | None, options: FeatureOptions, device: Device, force: bool, as_json: bool
) -> None:
    """Write the features of the kept patches of each summary; without a model, those of all tissue that it has."""
    from wsisum_cli.archive.lookup import mirrored_names
    from wsisum_cli.commands.console import conclude, print_reembedded, write_each
    from wsisum_cli.exports.export import outputs_of
    from wsisum_cli.exports.targets import TARGETS
    from wsisum_cli.models.encoder import load_encoder
    from wsisum_cli.pipeline.reembed import ReembedResult, write_kept_features, write_unpacked_features
    from wsisum_cli.summary.container import refuse_existing

    places = outputs_of(mirrored_names([source], output), output, TARGETS["h5"])
    refuse_existing(places.values(), force)
    encoder = None if model is None else load_encoder(model, device.value)

    def write(path: str, place: Path) -> ReembedResult:
        if encoder is None:
            return write_unpacked_features(path, place, options, force)
        return write_kept_features(path, place, encoder, options, cores(), force)

    done = write_each(places, write, "embedded again")
    conclude(done, len(places), as_json, lambda console: print_reembedded(console, done))
