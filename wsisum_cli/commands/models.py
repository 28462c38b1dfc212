"""`wsisum models`: bundled models and your own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from wsisum_cli.commands.options import FOUND, Device, command_group
from wsisum_cli.errors import UsageError
from wsisum_cli.models.places import user_folder
from wsisum_cli.summary.limits.plain_text import plain_json

# Heavy modules are imported where they are used: --help must answer at once.


models_app = command_group("List, check, add and export models.")


class Pool(StrEnum):
    none = "none"
    cls = "cls"
    mean = "mean"
    both = "cls+mean"


AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
Where = Annotated[Device, typer.Option(help="Device on which the model runs.")]


@models_app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the bundled and the added models."""
    from wsisum_cli.models.registry import describe, models_at_hand

    folder = user_folder()
    rows = [describe(model) for model in models_at_hand((folder,))]
    if as_json:
        print_json({"folder": str(folder), "models": rows})
        return
    from wsisum_cli.figures.words import size

    table: list[tuple[str, ...]] = [("NAME", "KIND", "DIMS", "LICENCE", "SIZE", "WHERE")]
    for row in rows:
        dims = f"{row['dims']} -> {row['embedding_dims']}" if row["embedding_dims"] else row["dims"]
        where = f"{row['where']}, hidden" if row["hidden"] else row["where"]
        told = (row["name"], row["kind"], dims, row["licence"], size(row["bytes"]), where)
        table.append(tuple("-" if value in (None, "") else str(value) for value in told))
    print_columns(table)
    typer.echo(f"added models lie in {folder}", err=True)
    for row in rows:
        if row["problem"]:
            typer.echo(f"wsisum: {row['problem']}", err=True)


@models_app.command("show")
def show_model(
    model: Annotated[str, typer.Argument(help="Name of a model, or an ONNX file.", metavar="NAME|FILE")],
    as_json: AsJson = False,
) -> None:
    """Show a model's card, files, inputs and outputs."""
    from wsisum_cli.models.places import find_model
    from wsisum_cli.models.registry import show_model_file

    shown = show_model_file(find_model(model, [user_folder()]))
    if as_json:
        print_json(shown)
        return
    from wsisum_cli.figures.words import size

    rows: list[tuple[str, ...]] = [(key, text_of(value)) for key, value in shown["card"].items()]
    rows += [("file", f"{file['file']}, {size(file['bytes'])}") for file in shown["files"]]
    rows += [("input", text_of_port(port)) for port in shown["inputs"]]
    rows += [("output", text_of_port(port)) for port in shown["outputs"]]
    print_columns(rows)


@models_app.command("add")
def add_model(
    file: Annotated[Path, typer.Argument(help="An ONNX file.", metavar="FILE")],
    card: Annotated[
        Path | None, typer.Option(help="The card as a TOML file (default: the one in the model's metadata).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model (default: the one in its card).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an added model with this name.")] = False,
    device: Where = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Add a model to your folder, after a trial run."""
    from wsisum_cli.models.registry import add_model_file

    added = add_model_file(file, user_folder(), card, name, force, device.value)
    if as_json:
        print_json({"name": added.name, "file": str(added.path), "card": added.card.as_dict()})
        return
    typer.echo(f"{added.name}: {added.card.kind}, {added.card.dims} dims, in {added.path.parent}")


@models_app.command("verify")
def verify_models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of models (default: all).", metavar="[NAME...]")
    ] = None,
    device: Where = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Check that models are intact and run as their cards say.

    The exit code is 1 if a model fails.
    """
    from wsisum_cli.models.registry import models_at_hand, verify_model

    at_hand = models_at_hand((user_folder(),))
    unknown = sorted(set(names or ()) - {model.name for model in at_hand})
    if unknown:
        raise UsageError(f"{', '.join(unknown)}: no model with this name (wsisum models list shows those there are)")
    results: list[dict[str, Any]] = []
    for model in at_hand:
        if not names or model.name in names:
            problems = verify_model(model, device.value)
            results.append({"name": model.name, "where": model.where, "ok": not problems, "problems": problems})
    if as_json:
        print_json({"models": results})
    else:
        print_columns([(result["name"], result["where"], "ok" if result["ok"] else "not ok") for result in results])
        for problem in (problem for result in results for problem in result["problems"]):
            typer.echo(f"{problem['code']}: {problem['message']}", err=True)
    raise typer.Exit(0 if all(result["ok"] for result in results) else FOUND)


@models_app.command("export")
def export_model(
    module: Annotated[
        str,
        typer.Argument(
            help="timm:NAME, package.module:function, or FILE.py:function.", metavar="MODULE", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    card: Annotated[
        Path, typer.Option(help="The card as a TOML file; its table [arguments] is passed to the function.")
    ],
    weights: Annotated[Path | None, typer.Option(help="Checkpoint or safetensors file with the weights.")] = None,
    pool: Annotated[
        Pool, typer.Option(help="Tokens that make the features; none if the module pools by itself.")
    ] = Pool.none,
    prefix_tokens: Annotated[
        int | None, typer.Option(min=0, help="Number of tokens that are not patches (default: the module's own).")
    ] = None,
    uint8: Annotated[
        bool, typer.Option("--uint8/--float", help="Whether the graph takes uint8 pixels and normalises them.")
    ] = True,
    tolerance: Annotated[float, typer.Option(min=0, help="Maximum allowed difference from PyTorch.")] = 1e-4,
) -> None:
    """Export a patch encoder from your own weights to ONNX.

    Nothing is written unless ONNX Runtime and PyTorch agree. Needs torch: pip install 'wsisum[train]'.
    """
    from wsisum_cli.models.registry import TABLES, read_card_file

    values = read_card_file(card)
    arguments = values.get("arguments", {})
    if not isinstance(arguments, dict):
        raise UsageError(f"{card.name}: arguments: expected a table, found {arguments!r:.40}")
    fields = {key: value for key, value in values.items() if key not in TABLES}
    try:
        from wsisum_cli.training.export import export_encoder
        from wsisum_cli.training.foundation import make_module
    except ModuleNotFoundError as error:
        raise UsageError(f"export needs {error.name}, which is not installed: pip install 'wsisum[train]'") from error
    made = make_module(module, arguments, weights)
    difference = export_encoder(
        made, output, fields, tolerance, uint8=uint8, pool=pool.value, prefix_tokens=prefix_tokens
    )
    typer.echo(f"{output}: within {difference:.1e} of torch; wsisum models add {output}")


@models_app.command("import-wsisum")
def import_authors_weights(
    checkpoint: Annotated[Path, typer.Argument(help="The .pth checkpoint.", metavar="CHECKPOINT")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    dims: Annotated[int, typer.Option(min=1, help="Length of the patch features it was trained on.")] = 768,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "wsisum",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "none stated by the authors",
    encoder: Annotated[str, typer.Option(help="Name of the encoder that made the features (default: any).")] = "",
) -> None:
    """Convert a checkpoint of WSISum's authors to a summarizer.

    No code in the checkpoint is run. Needs torch: pip install 'wsisum[train]'.
    """
    try:
        from wsisum_cli.training.summarizer.import_wsisum import import_wsisum
    except ModuleNotFoundError as error:
        raise UsageError(f"import needs {error.name}, which is not installed: pip install 'wsisum[train]'") from error
    made = import_wsisum(checkpoint, output, dims, name, licence, encoder)
    typer.echo(f"{output}: {made.sizes}, within {made.difference:.1e} of torch; wsisum models add {output}")


def print_json(value: Any) -> None:
    typer.echo(plain_json(value))


def print_columns(rows: list[tuple[str, ...]]) -> None:
    """The last column runs on."""
    if not rows:
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def text_of(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def text_of_port(port: dict[str, Any]) -> str:
    sizes = "unknown shape" if port["shape"] is None else f"({', '.join(str(n or 'any') for n in port['shape'])})"
    return f"{port['name']}, {port['dtype'] or 'another type'} {sizes}"
