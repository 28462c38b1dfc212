"""`wsisum trim`: summaries cut down without their slides."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.archive.lookup import all_summaries, model_finders
from wsisum_cli.commands.options import FOUND, Device
from wsisum_cli.errors import UsageError, WsisumError

# Heavy modules are imported where they are used: --help must answer at once.


def trim(
    summaries: Annotated[
        list[str], typer.Argument(help="Summary slides, or folders of them.", metavar="SUMMARY|FOLDER...")
    ],
    keep: Annotated[int, typer.Option(min=1, help="Patches to keep: those that were picked first.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for what is made; of one summary also its file (.ozx).")
    ] = Path("trimmed"),
    summarizer: Annotated[
        str | None, typer.Option(help="The ONNX file of the summarizer, where none that ships or that you added is it.")
    ] = None,
    slide_encoder: Annotated[str | None, typer.Option(help="Likewise, of the slide encoder.")] = None,
    device: Annotated[Device, typer.Option(help="Where the models run.")] = Device.auto,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON: a list.")] = False,
) -> None:
    """Cut summary slides down to the patches that were picked first, without the slides.

    One that has no more patches is copied. Exit code 1 when one could not be cut.
    """
    from wsisum_cli.commands.console import output as stdout
    from wsisum_cli.commands.console import print_trimmed, warn
    from wsisum_cli.pipeline.trim import outputs_of, trim_summary
    from wsisum_cli.verification.appraisal import ModelFinders

    places = outputs_of(name_outputs(summaries, output), output)
    there = [place for place in places.values() if place.exists()]
    if there and not force:
        raise UsageError(f"{there[0]}: is there already; choose another --output, or --force replaces it")
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
