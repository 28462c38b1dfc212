"""Options and exit codes: 0 good, 1 something failed or was found, 2 could not start, 130 interrupted."""

from __future__ import annotations

import io
import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from wsisum_cli import __version__
from wsisum_cli.archive.lookup import all_summaries, model_finders
from wsisum_cli.commands.evaluate import evaluate
from wsisum_cli.commands.inspect import inspect
from wsisum_cli.commands.models import Device, models_app
from wsisum_cli.commands.train import train_app
from wsisum_cli.commands.trim import trim
from wsisum_cli.errors import UsageError, WsisumError

# Heavy modules are imported where they are used: --help must answer at once.

FOUND, NOT_STARTED, INTERRUPTED = 1, 2, 130
DEFAULT_ENCODER = "encoder"

app = typer.Typer(
    help="Turn an archive of whole-slide images into small, verified summary slides.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(models_app, name="models")
app.add_typer(train_app, name="train")
app.command()(evaluate)


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


class Layout(StrEnum):
    trident = "trident"
    stamp = "stamp"


class Precision(StrEnum):
    float32 = "float32"
    float16 = "float16"


# What all commands take that walk an archive.
SlidesArgument = Annotated[
    Path, typer.Argument(help="A folder of slides, searched through, or one slide.", metavar="SOURCE")
]
MppOption = Annotated[float | None, typer.Option(min=0.05, max=10, help="µm per pixel, for slides that do not say.")]
ManifestOption = Annotated[
    Path | None, typer.Option(help="CSV with the columns slide, mpp, mask, name.", exists=True, dir_okay=False)
]
EncoderOption = Annotated[str, typer.Option(help="Name of an encoder that ships or that you added, or an ONNX file.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Slides at a time, each in its own process.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
ThresholdOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Of the verdict: NAME=PASS/FAIL in percentiles of random draws, or a value, as 'coverage>=0.9'.",
        metavar="THRESHOLD",
    ),
]
ReportOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        app(prog_name="wsisum")
    except WsisumError as error:
        print(f"wsisum: {error}", file=sys.stderr)  # noqa: T201 - before anything heavier is imported
        sys.exit(NOT_STARTED)
    except OSError as error:
        print(f"wsisum: {error.filename or 'file system'}: {error.strerror}", file=sys.stderr)  # noqa: T201 - the same
        sys.exit(NOT_STARTED)


def show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"wsisum {__version__}")
        raise typer.Exit


@app.callback()
def options_of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Turn an archive of whole-slide images into small, verified summary slides."""


@app.command()
def compress(
    source: SlidesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the summaries.")] = Path("summaries"),
    mpp: MppOption = None,
    manifest: ManifestOption = None,
    encoder: EncoderOption = DEFAULT_ENCODER,
    summarizer: Annotated[
        str, typer.Option(help="Name or ONNX file; auto: one trained on the encoder, where there is one; none.")
    ] = "auto",
    slide_encoder: Annotated[str, typer.Option(help="Likewise.")] = "auto",
    features: Annotated[
        Path | None,
        typer.Option(help="Folder of existing h5 features (TRIDENT, CLAM, STAMP).", exists=True, file_okay=False),
    ] = None,
    patch_size_level0: Annotated[
        int | None, typer.Option(min=1, help="Patch side in level-0 px, for features that do not say.")
    ] = None,
    keep: Annotated[str, typer.Option(help="Patches to keep; auto: one in eight, 8 to 64.", metavar="K|auto")] = "auto",
    max_bytes: Annotated[
        str | None, typer.Option(help="Size of a summary at most: 5MB, 800kB, 4MiB.", metavar="SIZE")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Coverage to reach, 0 to 1, with as few patches as do.", metavar="COVERAGE")
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Measure 8 to 256 patches on each slide: a table and a figure, no summary.")
    ] = False,
    selector: Annotated[Selector, typer.Option(help="How patches are picked.")] = Selector.wsisum,
    rare: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.5,
            help="Share of the kept patches for tissue that the others serve worst; 1/32 to 1/8 by default, more where "
            "a kept one stands for more.",
            metavar="SHARE",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all that is drawn.")] = 0,
    draws: Annotated[int, typer.Option(min=100, help="Random draws that the figures are held against.")] = 1_000,
    threshold: ThresholdOption = None,
    pixels: Annotated[
        Pixels, typer.Option(help="Copy the slide's own JPEG tiles, encode anew, or whichever fits.")
    ] = Pixels.auto,
    artefacts: Annotated[
        Artefacts, typer.Option(help="Leave out pen, blur, folds, bubbles and the like, or keep them.")
    ] = Artefacts.guard,
    device: Annotated[Device, typer.Option(help="Where the encoder runs.")] = Device.auto,
    workers: WorkersOption = 1,
    force: Annotated[bool, typer.Option("--force", help="Make summaries again that are up to date.")] = False,
    dry_run: DryRunOption = False,
    as_json: ReportOption = False,
) -> None:
    """Summarize every slide of an archive; summaries that are up to date are skipped.

    Exit code 1 when a slide failed. The folder of summaries mirrors the archive, and holds report.csv and
    report.json.
    """
    from wsisum_cli.archive.plan import Request
    from wsisum_cli.archive.workers import Setup, cores
    from wsisum_cli.commands.models import user_folder
    from wsisum_cli.models.choice import choose_models
    from wsisum_cli.models.encoder import find_model
    from wsisum_cli.pipeline.compress import Options
    from wsisum_cli.pipeline.product import SUMMARIES, SWEEPS
    from wsisum_cli.quality.verdict import read_thresholds
    from wsisum_cli.selection.budget import check_target, parse_bytes, parse_keep
    from wsisum_cli.slides.source import sha256_of

    check_together(selector, sweep, features, keep, max_bytes, target, rare, patch_size_level0)
    check_target(target)
    options = Options(
        keep=parse_keep(keep),
        max_bytes=parse_bytes(max_bytes) if max_bytes is not None else None,
        target=target,
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
    request = Request(source, output, options, sha256_of(model), mpp, features, force or sweep, product, choices)
    setup = Setup(options, str(model), device.value, max(1, cores() // workers), output, product, choices)
    run_or_foresee(request, setup, manifest, workers, dry_run, as_json)


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

    free = sweep or max_bytes is not None or target is not None
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


@app.command()
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
    from wsisum_cli.commands.models import user_folder
    from wsisum_cli.models.encoder import find_model
    from wsisum_cli.pipeline.extract import FeatureOptions
    from wsisum_cli.pipeline.product import FEATURES
    from wsisum_cli.slides.source import sha256_of

    options = FeatureOptions(layout.value, precision.value)
    model = find_model(encoder, [user_folder()])
    request = Request(source, output, options, sha256_of(model), mpp, force=force, product=FEATURES)
    setup = Setup(options, str(model), device.value, max(1, cores() // workers), output, FEATURES)
    run_or_foresee(request, setup, manifest, workers, dry_run, as_json)


def run_or_foresee(request: Any, setup: Any, manifest: Path | None, workers: int, dry_run: bool, as_json: bool) -> None:
    from wsisum_cli.archive.plan import Manifest, read_manifest
    from wsisum_cli.archive.run import Run

    rows = read_manifest(manifest) if manifest else Manifest()
    if dry_run:
        foresee_run(request, rows, as_json)
    else:
        carry_out(Run(request, setup, workers), rows, as_json)


def foresee_run(request: Any, manifest: Any, as_json: bool) -> None:
    from wsisum_cli.archive.plan import plan_archive
    from wsisum_cli.archive.report import read_outcomes
    from wsisum_cli.archive.run import foresee
    from wsisum_cli.commands.console import output, print_outcomes, warn

    plan = plan_archive(request, manifest, read_outcomes(request.output))
    outcomes = [*plan.outcomes, *(foresee(source, job, request.product) for source, job in plan.jobs)]
    warn_of_unused(manifest)
    for outcome in outcomes:
        if outcome.status == "failed":
            warn(outcome.message)
    if as_json:
        typer.echo(json.dumps({"slides": [outcome.as_dict() for outcome in outcomes]}, indent=1))
    else:
        print_outcomes(output(), outcomes)
    raise typer.Exit(FOUND if any(outcome.status == "failed" for outcome in outcomes) else 0)


def warn_of_unused(manifest: Any) -> None:
    from wsisum_cli.commands.console import warn

    for name in sorted(manifest.unused):
        warn(f"the manifest names {name}, which is not in the archive")


def carry_out(run: Any, manifest: Any, as_json: bool) -> None:
    from wsisum_cli.archive.report import JSON_NAME
    from wsisum_cli.commands.console import listening, messages, output, print_outcomes, warn
    from wsisum_cli.pipeline.product import SWEEPS

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is an interruption too
    try:
        with listening(messages()) as listener:
            run.go(manifest, listener)
    except KeyboardInterrupt:
        warn("interrupted; run the same command again to go on")
        raise typer.Exit(INTERRUPTED) from None
    warn_of_unused(manifest)
    report = run.request.output / JSON_NAME
    if run.request.product is SWEEPS:
        show_sweeps(run, as_json)
    elif as_json:
        typer.echo(report.read_text(encoding="utf-8"), nl=False)
    else:
        print_outcomes(output(), run.outcomes)
        messages().print(f"report: {report}", markup=False)
    raise typer.Exit(FOUND if any(outcome.status == "failed" for outcome in run.outcomes) else 0)


def show_sweeps(run: Any, as_json: bool) -> None:
    """Tables of the slides on which several numbers were tried, and why the others have none."""
    from wsisum_cli.commands.console import output, print_outcomes, print_sweep
    from wsisum_cli.pipeline.sweep import read_sweep

    tables = {done.source: read_sweep(run.request.output / done.sweep) for done in run.outcomes if done.sweep}
    if as_json:
        slides = [{**done.as_dict(), "table": tables.get(done.source)} for done in run.outcomes]
        typer.echo(json.dumps({"slides": slides}, ensure_ascii=False, indent=1))
        return
    for source, rows in sorted(tables.items()):
        print_sweep(output(), source, rows)
    without = [done for done in run.outcomes if not done.sweep]
    if without:
        print_outcomes(output(), without)


app.command()(inspect)
app.command()(trim)


@app.command()
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
    from wsisum_cli.archive.plan import SourceIndex
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
