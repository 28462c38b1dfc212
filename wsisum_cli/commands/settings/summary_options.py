"""Options of `wsisum compress` that decide what is in a summary."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wsisum_cli.commands.options import PLACE


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


class Recompress(StrEnum):
    jxl = "jxl"


class Artefacts(StrEnum):
    guard = "guard"
    keep = "keep"


OutputOption = Annotated[
    str,
    typer.Option("--output", "-o", help="Folder for the summaries: a path, s3://, gs:// or az://.", metavar=PLACE),
]
SummarizerOption = Annotated[
    str, typer.Option(help="Summarizer: name, ONNX file, none, or auto (one trained on the encoder, if any).")
]
SlideEncoderOption = Annotated[
    str, typer.Option(help="Slide encoder: name, ONNX file, none, or auto (one trained on the encoder, if any).")
]
FeaturesOption = Annotated[
    Path | None,
    typer.Option(help="Folder of existing h5 features (TRIDENT, CLAM, STAMP).", exists=True, file_okay=False),
]
PatchSizeOption = Annotated[
    int | None, typer.Option(min=1, help="Patch side in level-0 px, for features whose file lacks it.")
]
KeepOption = Annotated[
    str, typer.Option(help="Patches to keep; auto keeps the fewest that reach --target.", metavar="K|auto")
]
MaxKeepOption = Annotated[
    int | None, typer.Option(min=1, help="Most patches to keep when --target decides. Default: 256.", metavar="K")
]
MaxBytesOption = Annotated[
    str | None, typer.Option(help="Largest size of a summary, such as 5MB, 800kB or 4MiB.", metavar="SIZE")
]
TargetOption = Annotated[
    float | None,
    typer.Option(
        help="Keep the fewest patches, at least 8, that represent this share of the tissue. Default: 0.95.",
        metavar="SHARE",
    ),
]
TissueFeaturesOption = Annotated[
    int | None,
    typer.Option(
        min=4,
        max=1024,
        help="Also store features of all tissue, packed into this many bytes a patch, such as 64.",
        metavar="BYTES",
    ),
]
SweepOption = Annotated[
    bool,
    typer.Option("--sweep", help="Write a table and a plot of 8 to 256 patches for each slide instead of summaries."),
]
SelectorOption = Annotated[Selector, typer.Option(help="How patches are picked.")]
RareOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=0.5,
        help="Fraction of patches reserved for rare tissue. Default: 3 to 12 %, depending on slide size.",
        metavar="SHARE",
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.")]
DrawsOption = Annotated[int, typer.Option(min=100, help="Random draws to compare the summary with.")]
PixelsOption = Annotated[
    Pixels, typer.Option(help="source copies the slide's JPEG tiles; jpeg encodes patches anew; auto chooses.")
]
RecompressOption = Annotated[
    Recompress | None,
    typer.Option(
        help="Store JPEG streams as JPEG XL, which takes 9 to 40 % less; the original bytes can be restored. "
        "Other programs then need JPEG XL to show a patch."
    ),
]
ArtefactsOption = Annotated[
    Artefacts, typer.Option(help="guard marks pen, blur and folds, and picks clean tissue first; keep does not.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Rewrite summaries that are up to date.")]
