"""`wsisum trim`: summaries cut down without their slides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsisum_cli.archive.lookup import mirrored_paths, model_finders
from wsisum_cli.commands.options import (
    FOUND,
    Device,
    ModelsDeviceOption,
    SlideEncoderFileOption,
    SummariesArgument,
    SummarizerFileOption,
)
from wsisum_cli.commands.signing.keys import SignOption, signer
from wsisum_cli.errors import UsageError
from wsisum_cli.summary.limits.plain_text import plain_json

if TYPE_CHECKING:
    from wsisum_cli.pipeline.shared_budget import Cuttable
    from wsisum_cli.pipeline.trim import TrimResult

# Heavy modules are imported where they are used: --help must answer at once.


def trim(
    summaries: SummariesArgument,
    keep: Annotated[int | None, typer.Option(min=1, help="Patches to keep of each summary.")] = None,
    total_bytes: Annotated[
        str | None,
        typer.Option(
            help="Bytes that all summaries may take together, such as 500GB: each keeps the patches that represent "
            "most tissue per byte, at least 8."
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Output folder, or an .ozx file for a single summary.")
    ] = Path("trimmed"),
    summarizer: SummarizerFileOption = None,
    slide_encoder: SlideEncoderFileOption = None,
    device: ModelsDeviceOption = Device.auto,
    sign: SignOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Reduce summaries to the patches that were picked first.

    Give --keep or --total-bytes. The slides are not needed. A summary with no more patches is copied. The exit code is
    1 if any could not be trimmed.
    """
    from wsisum_cli.commands.console import messages, print_shared, print_trimmed, write_each
    from wsisum_cli.commands.console import output as stdout
    from wsisum_cli.commands.signing.outputs import signed
    from wsisum_cli.pipeline.shared_budget import read_cuttable, trim_within
    from wsisum_cli.pipeline.trim import outputs_of, trim_summary
    from wsisum_cli.summary.container import refuse_existing
    from wsisum_cli.verification.appraisal import ModelFinders

    budget = read_budget(keep, total_bytes)
    found = mirrored_paths(summaries, output)
    places = outputs_of(found, output)
    refuse_existing(places.values(), force)
    models = ModelFinders(*model_finders(None, summarizer, slide_encoder, device.value))
    key = signer(sign)

    def cut(path: Path, place: Path, count: int, replacing: bool) -> TrimResult | None:
        def write(path: Path, place: Path) -> TrimResult:
            return signed(path, place, key, trim_summary(path, place, count, models, replacing))

        made = write_each({path: place}, write, "cut")
        return made[0] if made else None

    def read(path: Path) -> Cuttable | None:
        found = write_each({path: path}, lambda path, _: read_cuttable(path), "read")
        return found[0] if found else None

    if budget is None:
        assert keep is not None
        done = [made for path, place in places.items() if (made := cut(path, place, keep, force)) is not None]
        shared = None
    else:
        refuse_in_place(places)
        shared = trim_within(places, budget, read, cut, force)
        done = shared.trimmed
    if as_json:
        typer.echo(plain_json([asdict(trimmed) for trimmed in done]))
    else:
        print_trimmed(stdout(), done)
    if shared is not None:
        print_shared(messages() if as_json else stdout(), shared)
    bad = len(done) < len(places) or (shared is not None and shared.failed)
    raise typer.Exit(FOUND if bad else 0)


def refuse_in_place(places: Mapping[Path, Path]) -> None:
    """Raise UsageError where a summary would be replaced: it may have to be read again."""
    if there := [path for path, place in places.items() if path.resolve() == place.resolve()]:
        raise UsageError(f"{there[0]}: --total-bytes cannot replace the summaries it reads; choose another --output")


def read_budget(keep: int | None, total_bytes: str | None) -> int | None:
    """The bytes of --total-bytes; None where --keep says how many patches. Raises UsageError unless one is given."""
    from wsisum_cli.selection.budget import parse_bytes

    if (keep is None) == (total_bytes is None):
        raise UsageError("give either --keep or --total-bytes")
    return None if total_bytes is None else parse_bytes(total_bytes, "--total-bytes")
