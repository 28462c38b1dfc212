"""`wsisum trim`: summaries cut down without their slides."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.archive.lookup import all_summaries, model_finders
from wsisum_cli.commands.options import (
    FOUND,
    Device,
    ModelsDeviceOption,
    SlideEncoderFileOption,
    SummariesArgument,
    SummarizerFileOption,
)
from wsisum_cli.errors import UsageError, WsisumError

# Heavy modules are imported where they are used: --help must answer at once.


def trim(
    summaries: SummariesArgument,
    keep: Annotated[int, typer.Option(min=1, help="Patches to keep.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Output folder, or an .ozx file for a single summary.")
    ] = Path("trimmed"),
    summarizer: SummarizerFileOption = None,
    slide_encoder: SlideEncoderFileOption = None,
    device: ModelsDeviceOption = Device.auto,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Reduce summaries to the patches that were picked first.

    The slides are not needed. A summary with no more patches is copied. The exit code is 1 if any could not be trimmed.
    """
    from wsisum_cli.commands.console import output as stdout
    from wsisum_cli.commands.console import print_trimmed, warn
    from wsisum_cli.pipeline.trim import outputs_of, trim_summary
    from wsisum_cli.verification.appraisal import ModelFinders

    places = outputs_of(name_outputs(summaries, output), output)
    there = [place for place in places.values() if place.exists()]
    if there and not force:
        raise UsageError(f"{there[0]}: already exists; use --force to replace it, or choose another --output")
    models = ModelFinders(*model_finders(None, summarizer, slide_encoder, device.value))
    done = []
    for path, place in places.items():
        try:
            done.append(trim_summary(path, place, keep, models, force))
        except WsisumError as error:
            warn(str(error))
        except OSError as error:
            warn(f"{Path(error.filename or path).name}: {error.strerror or type(error).__name__}")
        # One file that somebody made to do harm never ends a run.
        except Exception as error:  # noqa: BLE001
            warn(f"{path.name}: cannot be cut ({type(error).__name__}: {error}); run wsisum verify on it")
    if as_json:
        typer.echo(json.dumps([asdict(trimmed) for trimmed in done], ensure_ascii=False, indent=1))
    else:
        print_trimmed(stdout(), done)
    raise typer.Exit(0 if len(done) == len(places) else FOUND)


def name_outputs(arguments: list[str], output: Path) -> dict[Path, Path]:
    """Each summary, and what it is called within a folder of outputs: a folder's tree is mirrored.

    What an earlier command left in `output`, a folder within one that is searched, is left out.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        paths = [Path(path) for path in all_summaries([argument])]
        if not Path(argument).is_dir():
            found[paths[0]] = Path(paths[0].name)
            continue
        root, made = Path(argument), output.resolve()
        apart = made == root.resolve() or not made.is_relative_to(root.resolve())
        own = [path for path in paths if apart or not path.resolve().is_relative_to(made)]
        if not own:
            raise UsageError(
                f"{argument}: all its summaries lie in the output folder {output}; choose another --output"
            )
        found |= {path: path.relative_to(root) for path in own}
    return found
