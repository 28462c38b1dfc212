"""Options and exit codes that several commands share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from wsisum_cli.errors import UsageError

#: Exit codes beside 0: a slide failed or something was found; the command could not start; the user stopped it.
FOUND, NOT_STARTED, INTERRUPTED = 1, 2, 130
PAGE_SUFFIXES = (".html", ".htm")
#: A path that was made of an address; the one letter of a drive is none.
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
DEFAULT_ENCODER = "encoder"
DEFAULT_SLIDE_TIMEOUT = 480.0  # minutes


def cache_folder() -> Path:
    """The platform's folder for what can be fetched again."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "wsisum"


class Device(StrEnum):
    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


def cores() -> int:
    """Number of CPU cores this process may use."""
    from wsisum_cli.archive.engines import resources

    return resources.cores()


def refuse_other_picture(image: Path | None) -> None:
    """Raise UsageError for a picture whose name is not that of a PNG."""
    if image is not None and image.suffix.lower() != ".png":
        raise UsageError(f"--image {image.name}: the picture is a PNG; use a file name ending in .png")


#: Phrases of typer's own validation, and what is said instead.
PHRASES = (
    (r"Input should be less than or equal to (.+)", r"expected at most \1"),
    (r"Input should be greater than or equal to (.+)", r"expected at least \1"),
    (r"Input should be less than (.+)", r"expected less than \1"),
    (r"Input should be greater than (.+)", r"expected more than \1"),
    (r"Input should be a valid integer.*", "expected a whole number"),
    (r"Input should be a valid number.*", "expected a number"),
    (r"Input should be (.+)", r"expected \1"),
    (r"Value error, ", ""),
    (r"'(\w+://[^']*)' does not exist\.?", r"'\1' is an address, and this takes paths only"),
)


class PlainCommand(TyperCommand):
    """A command whose paths are paths."""

    def invoke(self, ctx: Any) -> Any:
        refuse_addresses(ctx.params)
        return super().invoke(ctx)


def refuse_addresses(values: Mapping[str, Any]) -> None:
    """Raise UsageError where a path was made of an address: `s3://a/b` would be the folder `s3:` here."""
    for name, value in values.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, Path) and ADDRESS.match(one.as_posix()):
                raise UsageError(
                    f"--{name.replace('_', '-')}: expected a path, found an address; this takes paths only"
                )


class PlainGroup(TyperGroup):
    """A group whose errors are in plain words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for option in self.params:  # only those of commands have a variable, and --config one of its own
            option.allow_from_autoenv = option.show_envvar = False  # type: ignore[attr-defined]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if isinstance(getattr(error, "message", None), str):
                error.message = plain_message(error.message)  # type: ignore[attr-defined]
            raise


def plain_message(message: str) -> str:
    """The message without phrases of the library that validates options."""
    for pattern, words in PHRASES:
        message = re.sub(pattern, words, message)
    return message


def check_page_name(page: Path) -> None:
    """Raise UsageError unless the file is named as a page, so that no slide or summary is overwritten."""
    if page.suffix.lower() not in PAGE_SUFFIXES:
        raise UsageError(f"--html {page.name}: the page is HTML; use a file name ending in .html")


def command_group(summary: str, variables: str | None = None, completion: bool = False) -> typer.Typer:
    """A group of commands; every group behaves alike. `variables` is the prefix of those that set options."""
    return typer.Typer(
        cls=PlainGroup,
        help=summary,
        no_args_is_help=True,
        add_completion=completion,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": variables},
    )


PLACE = "PATH|URL"  # metavar of options that take a path or an address

# Of commands that walk an archive.
SlidesArgument = Annotated[
    str,
    typer.Argument(
        help="A folder of slides, or one slide: a path, s3://, gs:// or az://, or one slide at https://.",
        metavar="SOURCE",
    ),
]
CacheFolderOption = Annotated[
    Path | None,
    typer.Option("--cache-dir", help="Folder for copies of remote slides. Default: the user's cache.", file_okay=False),
]
CacheSizeOption = Annotated[str, typer.Option("--cache-size", help="Most disk space for these copies.", metavar="SIZE")]
DEFAULT_CACHE_SIZE = "50GB"
MppOption = Annotated[
    float | None, typer.Option(min=0.05, max=10, help="Pixel size in µm, for slides whose metadata lack it.")
]
ManifestOption = Annotated[
    Path | None, typer.Option(help="CSV with the columns slide, mpp, mask, name, known.", exists=True, dir_okay=False)
]
EncoderOption = Annotated[str, typer.Option(help="Name of a bundled or added encoder, or an ONNX file.")]
SlideTimeoutOption = Annotated[
    float,
    typer.Option(
        min=0.001,
        help="Minutes that one slide may take, an eighth of them without a sign of progress; past that it fails and "
        "the run goes on. The default is enough for 20 GB from a disk of 2 MB/s.",
        metavar="MINUTES",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, without doing it.")]
ThresholdOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Threshold of the verdict, repeatable: NAME=PASS/FAIL, with the names represented, largest_mm2 and "
        "chance, or a value, such as 'coverage>=0.9'.",
        metavar="THRESHOLD",
    ),
]
CheckOption = Annotated[
    bool,
    typer.Option("--check", help="Open and check every output, also those that are up to date by the journal."),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        help="Only the slides whose path falls to part N of M, by hash; each part has a report of its own.",
        metavar="N/M",
    ),
]
ReportOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]

# Of commands that take summaries.
SummariesArgument = Annotated[
    list[str], typer.Argument(help="Summary slides, or folders of them.", metavar="SUMMARY|FOLDER...")
]
SummarizerFileOption = Annotated[
    str | None, typer.Option(help="Summarizer file, if it is not one of the bundled or added models.")
]
SlideEncoderFileOption = Annotated[
    str | None, typer.Option(help="Slide encoder file, if it is not one of the bundled or added models.")
]
ModelsDeviceOption = Annotated[Device, typer.Option(help="Device on which the models run.")]
