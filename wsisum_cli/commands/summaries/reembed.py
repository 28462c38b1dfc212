"""`wsisum reembed`: summaries with features by a further encoder, from their stored pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsisum_cli.archive.lookup import mirrored_paths, model_finders
from wsisum_cli.commands.options import Device, EncoderOption, SummariesArgument, cores
from wsisum_cli.commands.signing.keys import SignOption, signer

if TYPE_CHECKING:
    from wsisum_cli.pipeline.reembed import ReembedResult

# Heavy modules are imported where they are used: --help must answer at once.


def reembed(
    summaries: SummariesArgument,
    encoder: EncoderOption,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Output folder, or an .ozx file for a single summary.")
    ] = Path("reembedded"),
    device: Annotated[Device, typer.Option(help="Device on which the encoder runs.")] = Device.auto,
    sign: SignOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Add features by another encoder to summaries.

    The slides are not needed: the kept patches are encoded from their stored pixels. The features by the first encoder
    stay, and so do weights, figures and verdict, which rest on them. A summary whose pixels are too coarse for the
    encoder, or whose patches are of another width, is refused. The exit code is 1 if any was.
    """
    from wsisum_cli.commands.console import conclude, print_reembedded, write_each
    from wsisum_cli.commands.signing.outputs import signed
    from wsisum_cli.models.encoder import load_encoder
    from wsisum_cli.models.places import find_model, user_folder
    from wsisum_cli.pipeline.reembed import reembed_summary
    from wsisum_cli.pipeline.trim import outputs_of
    from wsisum_cli.summary.container import refuse_existing
    from wsisum_cli.verification.appraisal import ModelFinders

    found = mirrored_paths(summaries, output)
    places = outputs_of(found, output)
    refuse_existing(places.values(), force)
    key = signer(sign)
    loaded = load_encoder(find_model(encoder, [user_folder()]), device.value)
    models = ModelFinders(*model_finders(None, None, None, device.value))

    def write(path: Path, place: Path) -> ReembedResult:
        return signed(path, place, key, reembed_summary(path, place, loaded, cores(), models, force))

    done = write_each(places, write, "embedded again")
    conclude(done, len(places), as_json, lambda console: print_reembedded(console, done))
