"""Options and exit codes: 0 good, 1 something failed or was found, 2 could not start, 130 interrupted."""

from __future__ import annotations

import io
import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsisum_cli import __version__
from wsisum_cli.errors import UsageError, WsisumError

if TYPE_CHECKING:
    from wsisum_cli.inference import Encoder
    from wsisum_cli.verify import FindEncoder

# Heavy modules are imported where they are used: --help must answer at once.

FOUND, NOT_STARTED, INTERRUPTED = 1, 2, 130
DEFAULT_ENCODER = "texture"

app = typer.Typer(
    help="Turn an archive of whole-slide images into small, verified summary slides.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Selector(StrEnum):
    facility = "facility"
    random = "random"
    cluster = "cluster"
    location = "location"
    entropy = "entropy"


class Pixels(StrEnum):
    auto = "auto"
    source = "source"
    jpeg = "jpeg"


class Device(StrEnum):
    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


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
    source: Annotated[
        Path, typer.Argument(help="A folder of slides, searched through, or one slide.", metavar="SOURCE")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the summaries.")] = Path("summaries"),
    mpp: Annotated[
        float | None, typer.Option(min=0.05, max=10, help="µm per pixel, for slides that do not say.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV with the columns slide, mpp, mask, name.", exists=True, dir_okay=False)
    ] = None,
    encoder: Annotated[str, typer.Option(help="Name of a shipped encoder, or an ONNX file.")] = DEFAULT_ENCODER,
    features: Annotated[
        Path | None,
        typer.Option(help="Folder of existing h5 features (TRIDENT, CLAM, STAMP).", exists=True, file_okay=False),
    ] = None,
    patch_size_level0: Annotated[
        int | None, typer.Option(min=1, help="Patch side in level-0 px, for features that do not say.")
    ] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="Patches to keep; by default one in eight, 8 to 64.")] = None,
    selector: Annotated[Selector, typer.Option(help="How patches are picked.")] = Selector.facility,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all that is drawn.")] = 0,
    pixels: Annotated[
        Pixels, typer.Option(help="Copy the slide's own JPEG tiles, encode anew, or whichever fits.")
    ] = Pixels.auto,
    device: Annotated[Device, typer.Option(help="Where the encoder runs.")] = Device.auto,
    workers: Annotated[int, typer.Option(min=1, help="Slides at a time, each in its own process.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Make summaries again that are up to date.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Summarize every slide of an archive; summaries that are up to date are skipped.

    Exit code 1 when a slide failed. The folder of summaries mirrors the archive, and holds report.csv and
    report.json.
    """
    from wsisum_cli.archive import Manifest, Request, read_manifest
    from wsisum_cli.compress import Options
    from wsisum_cli.inference import find_model
    from wsisum_cli.run import Run
    from wsisum_cli.source import sha256_of
    from wsisum_cli.workers import Setup, cores

    options = Options(
        keep=keep,
        selector=selector.value,
        seed=seed,
        pixels=pixels.value,
        patch_size_level0=patch_size_level0,
    )
    request = Request(source, output, options, sha256_of(find_model(encoder)), mpp, features, force)
    setup = Setup(options, encoder, device.value, max(1, cores() // workers), output)
    rows = read_manifest(manifest) if manifest else Manifest()
    run = Run(request, setup, workers)
    if dry_run:
        foresee_run(request, rows, as_json)
    else:
        carry_out(run, rows, as_json)


def foresee_run(request: Any, manifest: Any, as_json: bool) -> None:
    from wsisum_cli.archive import plan_archive
    from wsisum_cli.console import output, print_outcomes, warn
    from wsisum_cli.report import read_outcomes
    from wsisum_cli.run import foresee

    plan = plan_archive(request, manifest, read_outcomes(request.output))
    outcomes = [*plan.outcomes, *(foresee(source, job) for source, job in plan.jobs)]
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
    from wsisum_cli.console import warn

    for name in sorted(manifest.unused):
        warn(f"the manifest names {name}, which is not in the archive")


def carry_out(run: Any, manifest: Any, as_json: bool) -> None:
    from wsisum_cli.console import listening, messages, output, print_outcomes, warn
    from wsisum_cli.report import JSON_NAME

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is an interruption too
    try:
        with listening(messages()) as listener:
            run.go(manifest, listener)
    except KeyboardInterrupt:
        warn("interrupted; run the same command again to go on")
        raise typer.Exit(INTERRUPTED) from None
    warn_of_unused(manifest)
    report = run.request.output / JSON_NAME
    if as_json:
        typer.echo(report.read_text(encoding="utf-8"), nl=False)
    else:
        print_outcomes(output(), run.outcomes)
        messages().print(f"report: {report}", markup=False)
    raise typer.Exit(FOUND if any(outcome.status == "failed" for outcome in run.outcomes) else 0)


@app.command()
def inspect(
    summaries: Annotated[list[str], typer.Argument(help="Summary slides: paths or URLs.", metavar="SUMMARY...")],
    image: Annotated[
        Path | None, typer.Option(help="Write a PNG: the kept patches on the overview, and as a contact sheet.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON: one object, or a list of several.")] = False,
) -> None:
    """Show what is in a summary slide: from what, how small, how good, which patches."""
    from wsisum_cli.console import output, print_summary, warn
    from wsisum_cli.errors import SummaryError
    from wsisum_cli.inspection import facts, kept_patches
    from wsisum_cli.summary import open_summary

    if image is not None and len(summaries) > 1:
        raise UsageError("--image draws one summary; give one")
    found: list[dict[str, Any]] = []
    failed = False
    for path in summaries:
        try:
            with open_summary(path) as summary:
                found.append({**facts(summary), "kept": kept_patches(summary)})
                if image is not None:
                    write_image(image, summary)
                if not as_json:
                    print_summary(output(), found[-1])
                    show_overview(summary)
        except SummaryError as error:
            failed = True
            warn(str(error))
    if as_json:
        typer.echo(json.dumps(found[0] if len(summaries) == 1 and found else found, ensure_ascii=False, indent=1))
    raise typer.Exit(FOUND if failed else 0)


def show_overview(summary: Any) -> None:
    from wsisum_cli.console import PICTURE_COLUMNS, output, print_picture, shows_pictures

    console = output()
    if shows_pictures(console):
        from wsisum_cli.picture import half_blocks

        print_picture(console, half_blocks(summary.overview, PICTURE_COLUMNS))


def write_image(path: Path, summary: Any) -> None:
    from wsisum_cli.console import messages
    from wsisum_cli.picture import draw_summary, save_png

    save_png(path, draw_summary(summary))
    messages().print(f"picture: {path}", markup=False)


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
        str | None, typer.Option(help="The ONNX file that made the features, where it is not a shipped one.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the encoder runs.")] = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON: one object, or a list of several.")] = False,
) -> None:
    """Say whether a summary slide is whole, agrees with itself, and with its source where that is at hand.

    Exit code 1 when there is a finding of severity error or warning.
    """
    from wsisum_cli.archive import SourceIndex
    from wsisum_cli.console import output, print_verifications
    from wsisum_cli.verify import verify_summary
    from wsisum_cli.workers import cores

    if quick and source is not None:
        raise UsageError("--quick does not look at the source; leave one of the two out")
    find_encoder = encoder_finder(encoder, device.value)
    tier = "quick" if quick else "source" if source is not None else "full"
    index = SourceIndex(source) if source is not None else None
    results = [
        verify_summary(path, find_encoder, tier, index.find(path) if index else None, cores())
        for path in all_summaries(summaries)
    ]
    if as_json:
        found = [result.as_dict() for result in results]
        single = len(found) == 1 and not Path(summaries[0]).is_dir()
        typer.echo(json.dumps(found[0] if single else found, ensure_ascii=False, indent=1))
    else:
        print_verifications(output(), results)
    raise typer.Exit(0 if all(result.ok for result in results) else FOUND)


def all_summaries(arguments: list[str]) -> list[str]:
    """Folders are searched through. Raises UsageError when one holds no summary."""
    from wsisum_cli.summary import SUFFIX

    found: list[str] = []
    for argument in arguments:
        if not Path(argument).is_dir():
            found.append(argument)
            continue
        inside = sorted(str(path) for path in Path(argument).rglob(f"*{SUFFIX}") if not path.name.startswith("."))
        if not inside:
            raise UsageError(f"{argument}: no summary slides ({SUFFIX}) in this folder")
        found += inside
    return found


def encoder_finder(given: str | None, device: str) -> FindEncoder:
    """Finds the encoder of a card among the shipped ones and the one given; each is loaded once."""
    from wsisum_cli.inference import find_model, load_encoder, shipped_models
    from wsisum_cli.source import sha256_of

    paths = [*([find_model(given)] if given else []), *shipped_models().values()]
    by_sha256 = {sha256_of(path): path for path in reversed(paths)}
    loaded: dict[Path, Encoder] = {}

    def find(card: dict[str, Any]) -> Encoder | None:
        path = by_sha256.get(card.get("sha256", ""))
        if path is None and given is not None and "sha256" not in card:
            path = paths[0]  # features of somebody else's: the user says that this is the encoder
        if path is not None and path not in loaded:
            loaded[path] = load_encoder(path, device)
        return loaded[path] if path is not None else None

    return find
