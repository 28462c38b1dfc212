"""`wsisum compress`: an archive of slides -> summary slides."""

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
    ThresholdOption,
    WorkersOption,
    cores,
)
from wsisum_cli.commands.runs import Places, run_or_preview
from wsisum_cli.errors import UsageError


class Selector(StrEnum):
    wsisum = "wsisum"
    facility = "facility"
    attempts = "attempts"
    random = "random"
    cluster = "cluster"
    location = "location"
    entropy = "entropy"
    attention = "attention"


class Pixels(StrEnum):
    auto = "auto"
    source = "source"
    jpeg = "jpeg"


class Artefacts(StrEnum):
    guard = "guard"
    keep = "keep"


def compress(
    source: SlidesArgument,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder for the summaries: a path, s3://, gs:// or az://.")
    ] = "summaries",
    mpp: MppOption = None,
    manifest: ManifestOption = None,
    encoder: EncoderOption = DEFAULT_ENCODER,
    summarizer: Annotated[
        str, typer.Option(help="Summarizer: name, ONNX file, none, or auto (one trained on the encoder, if any).")
    ] = "auto",
    slide_encoder: Annotated[
        str, typer.Option(help="Slide encoder: name, ONNX file, none, or auto (one trained on the encoder, if any).")
    ] = "auto",
    features: Annotated[
        Path | None,
        typer.Option(help="Folder of existing h5 features (TRIDENT, CLAM, STAMP).", exists=True, file_okay=False),
    ] = None,
    patch_size_level0: Annotated[
        int | None, typer.Option(min=1, help="Patch side in level-0 px, for features whose file lacks it.")
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Patches to keep; auto keeps the fewest that reach --target.", metavar="K|auto")
    ] = "auto",
    max_keep: Annotated[
        int | None, typer.Option(min=1, help="Most patches to keep when --target decides. Default: 256.", metavar="K")
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option(help="Largest size of a summary, such as 5MB, 800kB or 4MiB.", metavar="SIZE")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="Keep the fewest patches, at least 8, that represent this share of the tissue. Default: 0.95.",
            metavar="SHARE",
        ),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep", help="Write a table and a plot of 8 to 256 patches for each slide instead of summaries."
        ),
    ] = False,
    selector: Annotated[Selector, typer.Option(help="How patches are picked.")] = Selector.wsisum,
    rare: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.5,
            help="Fraction of patches reserved for rare tissue. Default: 3 to 12 %, depending on slide size.",
            metavar="SHARE",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.")] = 0,
    draws: Annotated[int, typer.Option(min=100, help="Random draws to compare the summary with.")] = 1_000,
    threshold: ThresholdOption = None,
    pixels: Annotated[
        Pixels, typer.Option(help="source copies the slide's JPEG tiles; jpeg encodes patches anew; auto chooses.")
    ] = Pixels.auto,
    artefacts: Annotated[
        Artefacts,
        typer.Option(help="guard marks pen, blur and folds, and picks clean tissue first; keep does not."),
    ] = Artefacts.guard,
    device: Annotated[Device, typer.Option(help="Device on which the models run.")] = Device.auto,
    workers: WorkersOption = 1,
    slide_timeout: SlideTimeoutOption = DEFAULT_SLIDE_TIMEOUT,
    cache_dir: CacheFolderOption = None,
    cache_size: CacheSizeOption = DEFAULT_CACHE_SIZE,
    force: Annotated[bool, typer.Option("--force", help="Rewrite summaries that are up to date.")] = False,
    dry_run: DryRunOption = False,
    as_json: ReportOption = False,
) -> None:
    """Write a summary of every slide of an archive.

    Summaries that are up to date are skipped. The output folder mirrors the archive and holds report.csv and
    report.json. The exit code is 1 if any slide failed.
    """
    from wsisum_cli.archive.plan import Request
    from wsisum_cli.archive.workers import Setup
    from wsisum_cli.models.choice import choose_models
    from wsisum_cli.models.places import find_model, user_folder
    from wsisum_cli.pipeline.job import Options
    from wsisum_cli.pipeline.product import SUMMARIES, SWEEPS
    from wsisum_cli.quality.verdict import read_thresholds
    from wsisum_cli.selection.budget import check_target, parse_bytes, parse_keep
    from wsisum_cli.slides.source import sha256_of

    check_together(selector, sweep, features, keep, max_bytes, target, rare, patch_size_level0)
    if max_keep is not None and (keep != "auto" or sweep):
        raise UsageError("--max-keep limits --keep auto; leave it out, or leave --keep and --sweep out")
    check_target(target)
    options = Options(
        keep=parse_keep(keep),
        max_bytes=parse_bytes(max_bytes) if max_bytes is not None else None,
        target=target,
        max_keep=max_keep,
        selector=selector.value,
        rare=rare,
        seed=seed,
        pixels=pixels.value,
        artefacts=artefacts.value,
        patch_size_level0=patch_size_level0,
        draws=draws,
        thresholds=tuple(threshold or ()),
    )
    read_thresholds(options.thresholds)  # before anything is done
    folders = [user_folder()]
    model = find_model(encoder, folders)
    choices = choose_models(summarizer, slide_encoder, model, features is not None, options.keep, folders)
    if selector == Selector.attention and choices.slide_encoder is None:
        raise UsageError("--selector attention: expected a slide encoder, whose attention it is, found none; name one")
    product = SWEEPS if sweep else SUMMARIES
    ends = (Path(source), Path(output))
    request = Request(*ends, options, sha256_of(model), mpp, features, force or sweep, product, choices)
    threads = max(1, cores() // workers)
    setup = Setup(options, str(model), device.value, threads, Path(output), product, choices, slide_timeout)
    places = Places(source, output, cache_dir, cache_size)
    run_or_preview(places, request, setup, manifest, workers, dry_run, as_json)


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
