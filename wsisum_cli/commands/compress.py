"""`wsisum compress`: an archive of slides -> summary slides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wsisum_cli.commands.options import (
    DEFAULT_CACHE_SIZE,
    DEFAULT_ENCODER,
    DEFAULT_SLIDE_TIMEOUT,
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
    SlidesArgument,
    SlideTimeoutOption,
    ThresholdOption,
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
from wsisum_cli.commands.settings.summary_options import (
    Artefacts,
    ArtefactsOption,
    DrawsOption,
    FeaturesOption,
    ForceOption,
    KeepOption,
    MaxBytesOption,
    MaxKeepOption,
    OutputOption,
    PatchSizeOption,
    Pixels,
    PixelsOption,
    RareOption,
    RecompressOption,
    SeedOption,
    Selector,
    SelectorOption,
    SlideEncoderOption,
    SummarizerOption,
    SweepOption,
    TargetOption,
    TissueFeaturesOption,
)
from wsisum_cli.commands.signing.keys import SignOption
from wsisum_cli.errors import UsageError


def compress(
    source: SlidesArgument,
    output: OutputOption = "summaries",
    mpp: MppOption = None,
    manifest: ManifestOption = None,
    name_by: NameByOption = NameBy.stem,
    name_key: NameKeyOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    listed: ListOption = None,
    limit: LimitOption = None,
    encoder: EncoderOption = DEFAULT_ENCODER,
    summarizer: SummarizerOption = "auto",
    slide_encoder: SlideEncoderOption = "auto",
    features: FeaturesOption = None,
    patch_size_level0: PatchSizeOption = None,
    keep: KeepOption = "auto",
    max_keep: MaxKeepOption = None,
    max_bytes: MaxBytesOption = None,
    target: TargetOption = None,
    sweep: SweepOption = False,
    selector: SelectorOption = Selector.wsisum,
    rare: RareOption = None,
    seed: SeedOption = 0,
    draws: DrawsOption = 1_000,
    threshold: ThresholdOption = None,
    pixels: PixelsOption = Pixels.auto,
    artefacts: ArtefactsOption = Artefacts.guard,
    tissue_features: TissueFeaturesOption = None,
    recompress: RecompressOption = None,
    device: Annotated[Device, typer.Option(help="Device on which the models run.")] = Device.auto,
    workers: WorkersOption = "1",
    scheduler: SchedulerOption = None,
    scheduler_file: SchedulerFileOption = None,
    retries: RetriesOption = 2,
    slide_timeout: SlideTimeoutOption = DEFAULT_SLIDE_TIMEOUT,
    cache_dir: CacheFolderOption = None,
    cache_size: CacheSizeOption = DEFAULT_CACHE_SIZE,
    sign: SignOption = None,
    force: ForceOption = False,
    check: CheckOption = False,
    shard: ShardOption = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    log_file: LogFileOption = None,
    as_json: ReportOption = False,
) -> None:
    """Write a summary of every slide of an archive.

    Summaries that are up to date are skipped. The output folder mirrors the archive and holds report.csv and
    report.json. The exit code is 1 if any slide failed, unless the manifest knows of that failure.
    """
    from wsisum_cli.selection.budget import check_target, parse_bytes, parse_keep

    check_together(selector, sweep, features, keep, max_bytes, target, rare, patch_size_level0)
    if max_keep is not None and (keep != "auto" or sweep):
        raise UsageError("--max-keep limits --keep auto; leave it out, or leave --keep and --sweep out")
    check_target(target)
    if sweep and sign is not None:
        raise UsageError("--sweep writes no summaries to sign; leave --sign out")
    if recompress is not None:
        refuse_missing_codec()
    options = {
        "keep": parse_keep(keep),
        "max_bytes": parse_bytes(max_bytes) if max_bytes is not None else None,
        "target": target,
        "max_keep": max_keep,
        "selector": selector.value,
        "rare": rare,
        "seed": seed,
        "pixels": pixels.value,
        "artefacts": artefacts.value,
        "patch_size_level0": patch_size_level0,
        "draws": draws,
        "thresholds": tuple(threshold or ()),
        "tissue_features": tissue_features,
        "recompress": None if recompress is None else recompress.value,
    }
    running = Running(
        *(manifest, include, exclude, listed, limit, workers, scheduler, scheduler_file, retries),
        *(quiet, verbose, log_file, dry_run, as_json, check, shard),
        sign=sign,
        cache_dir=cache_dir,
        cache_size=cache_size,
        name_by=name_by,
        name_key=name_key,
    )
    models = (encoder, summarizer, slide_encoder)
    start(source, output, mpp, features, models, options, sweep, force, device, slide_timeout, running)


def refuse_missing_codec() -> None:
    """Raise CodecError where no slide could be stored as JPEG XL."""
    from wsisum_cli.summary.stored.jpeg_xl import codec

    codec()


def start(
    source: str,
    output: str,
    mpp: float | None,
    features: Path | None,
    models: tuple[str, str, str],
    values: dict[str, Any],
    sweep: bool,
    force: bool,
    device: Device,
    slide_timeout: float,
    running: Running,
) -> None:
    """Find the models and run. `models` are the encoder, the summarizer and the slide encoder as they were given."""
    from wsisum_cli.archive.plan import Request
    from wsisum_cli.archive.workers import Setup
    from wsisum_cli.models.choice import choose_models
    from wsisum_cli.models.places import find_model, user_folder
    from wsisum_cli.pipeline.job import Options
    from wsisum_cli.pipeline.product import SUMMARIES, SWEEPS
    from wsisum_cli.quality.verdict import read_thresholds
    from wsisum_cli.slides.source import sha256_of

    options = Options(**values)
    read_thresholds(options.thresholds)  # before anything is done
    encoder, summarizer, slide_encoder = models
    folders = [user_folder()]
    model = find_model(encoder, folders)
    choices = choose_models(summarizer, slide_encoder, model, features is not None, options.keep, folders)
    if options.selector == Selector.attention and choices.slide_encoder is None:
        raise UsageError("--selector attention: expected a slide encoder, whose attention it is, found none; name one")
    product = SWEEPS if sweep else SUMMARIES
    ends = (Path(source), Path(output))
    request = Request(*ends, options, sha256_of(model), mpp, features, force or sweep, product, choices)
    setup = Setup(options, str(model), device.value, 1, Path(output), product, choices, slide_timeout)
    run_or_preview(source, output, request, setup, running)


def check_together(
    selector: Selector,
    sweep: bool,
    features: Path | None,
    keep: str,
    max_bytes: str | None,
    target: float | None,
    rare: float | None,
    patch_size_level0: int | None,
) -> None:
    """Raise UsageError for options of `compress` that do not go together."""
    from wsisum_cli.selection.selectors import NESTED

    free = sweep or keep == "auto"
    if sweep and (keep, max_bytes, target) != ("auto", None, None):
        raise UsageError("--sweep tries numbers of its own; leave --keep, --max-bytes and --target out")
    if features is not None and selector.value not in NESTED and free:
        raise UsageError(
            f"--selector {selector.value} with --features: expected --keep alone, since only patches that would be "
            f"kept are looked at, and this selector keeps others for every K; or use --selector {Selector.wsisum.value}"
        )
    if rare is not None and selector != Selector.wsisum:
        raise UsageError(f"--rare: expected --selector {Selector.wsisum.value}, found {selector.value}; leave one out")
    if patch_size_level0 is not None and features is None:
        raise UsageError("--patch-size-level0 is of given features; give --features, or leave it out")
