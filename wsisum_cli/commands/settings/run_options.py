"""Options of the commands that run over an archive, and what they ask for together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsisum_cli.commands.options import DEFAULT_CACHE_SIZE, cache_folder
from wsisum_cli.errors import UsageError

if TYPE_CHECKING:
    from wsisum_cli.archive.engines.resources import Crew
    from wsisum_cli.archive.scope.filters import Filter
    from wsisum_cli.archive.scope.naming import Naming
    from wsisum_cli.slides.remote.cache import Cache

AUTO = "auto"


class NameBy(StrEnum):
    stem = "stem"
    hash = "hash"
    manifest = "manifest"


IncludeOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Take only slides whose path in the archive matches, such as '*.svs'; repeatable.", metavar="GLOB"
    ),
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(help="Leave out slides whose path matches; repeatable.", metavar="GLOB")
]
ListOption = Annotated[
    Path | None,
    typer.Option(
        "--list", help="Take only the slides that this file lists, one path a line.", exists=True, dir_okay=False
    ),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Stop after N slides that need work.", metavar="N")]
WorkersOption = Annotated[
    str,
    typer.Option(
        help="Slides to process at a time, each in its own process; auto: one a GPU, or one a core if memory allows.",
        metavar="N|auto",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and the result only.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show each stage of each slide with its seconds.")]
LogFileOption = Annotated[
    Path | None, typer.Option(help="Append what happens to this file, one JSON object a line.", dir_okay=False)
]
SchedulerOption = Annotated[
    str | None, typer.Option(help="Dask scheduler that gives the slides to its workers.", metavar="tcp://HOST:PORT")
]
SchedulerFileOption = Annotated[
    Path | None, typer.Option(help="File in which a Dask scheduler wrote its address.", exists=True, dir_okay=False)
]
RetriesOption = Annotated[
    int, typer.Option(min=0, help="With a Dask scheduler: how often a slide is tried again when its worker dies.")
]
NameByOption = Annotated[
    NameBy,
    typer.Option(
        "--name-by",
        help="How to name outputs. stem: after the slide, in the same folders. Where those names are private, manifest "
        "(its column name) or hash (of the slide's path, with --name-key), all in one folder.",
    ),
]
NameKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--name-key",
        help="Key file for --name-by hash, 16 to 4096 bytes. Make one with head -c 32 /dev/urandom > name.key, keep it "
        "secret, and keep a copy.",
        exists=True,
        dir_okay=False,
        metavar="FILE",
    ),
]
# Of commands that look at what a run has left.
UsedNameByOption = Annotated[
    NameBy | None,
    typer.Option("--name-by", help="How the run named its outputs. Default: as it recorded."),
]
UsedNameKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--name-key", help="Key file of the run, for names by hash.", exists=True, dir_okay=False, metavar="FILE"
    ),
]


@dataclass(frozen=True)
class Running:
    """How a run over an archive is asked for, whatever it makes."""

    manifest: Path | None = None
    include: list[str] | None = None
    exclude: list[str] | None = None
    listed: Path | None = None
    limit: int | None = None
    workers: str = "1"
    scheduler: str | None = None
    scheduler_file: Path | None = None
    retries: int = 2
    quiet: bool = False
    verbose: bool = False
    log_file: Path | None = None
    dry_run: bool = False
    as_json: bool = False
    check_all: bool = False  # outputs that are up to date by the journal, too
    shard: str | None = None
    sign: Path | None = None
    cache_dir: Path | None = None  # None: the user's cache
    cache_size: str = DEFAULT_CACHE_SIZE
    name_by: NameBy = NameBy.stem
    name_key: Path | None = None

    def check(self) -> None:
        """Raise UsageError for options that do not go together."""
        parse_workers(self.workers)
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose contradict each other; leave one out")
        if self.scheduler and self.scheduler_file:
            raise UsageError("--scheduler and --scheduler-file name one scheduler; leave one out")
        if self.on_cluster and self.workers != "1":
            raise UsageError("--workers is of this machine; a Dask scheduler has its own workers, so leave it out")

    @property
    def on_cluster(self) -> bool:
        return bool(self.scheduler or self.scheduler_file)

    def cache(self) -> Cache:
        """Where copies of remote slides lie. Raises UsageError."""
        return cache_of(self.cache_dir, self.cache_size)

    def naming(self, output: str) -> Naming:
        """How to name outputs. Raises UsageError, also where the key lies among them."""
        from wsisum_cli.archive.scope.naming import read_naming, refuse_key_inside
        from wsisum_cli.slides.remote.url import parse_place

        if self.name_by == NameBy.manifest and self.manifest is None:
            raise UsageError("--name-by manifest: expected a --manifest with a name for every slide, found none")
        place = parse_place(output)
        if isinstance(place, Path):
            refuse_key_inside(self.name_key, place)
            refuse_key_inside(self.sign, place, "--sign")
        return read_naming(self.name_by.value, self.name_key)

    def filter(self, source: Path) -> Filter:
        """Which slides are asked for. Raises UsageError when the list cannot be read."""
        return filter_of(self.include, self.exclude, self.listed, self.limit, source)

    def crew(self, device: str) -> Crew:
        """How many workers on this machine, and what each has."""
        from wsisum_cli.archive.engines.resources import choose_crew, this_machine

        return choose_crew(parse_workers(self.workers), this_machine(os.environ.get("CUDA_VISIBLE_DEVICES")), device)


def cache_of(folder: Path | None, size: str) -> Cache:
    """Where copies of remote slides lie; None for the user's cache. Raises UsageError."""
    from wsisum_cli.selection.budget import parse_bytes
    from wsisum_cli.slides.remote.cache import Cache

    return Cache(folder or cache_folder(), parse_bytes(size, "--cache-size"))


def used_naming(by: NameBy | None, key: Path | None) -> Naming | None:
    """How a run is said to have named its outputs; None where nothing is said. Raises UsageError."""
    from wsisum_cli.archive.scope.naming import Naming, read_naming

    if key is None:
        return None if by is None else Naming(by.value)
    return read_naming((by or NameBy.hash).value, key)


def filter_of(
    include: list[str] | None, exclude: list[str] | None, listed: Path | None, limit: int | None, source: Path
) -> Filter:
    """The filter that options ask for. Raises UsageError when the list cannot be read."""
    from wsisum_cli.archive.scope.filters import Filter, read_list

    names: Any = read_list(listed, source) if listed else None
    return Filter(tuple(include or ()), tuple(exclude or ()), names, listed.name if listed else "", limit)


def parse_workers(text: str) -> int | None:
    """The number of workers; None for `auto`. Raises UsageError."""
    if text == AUTO:
        return None
    if not text.isdecimal() or not int(text):
        raise UsageError(f"--workers {text}: expected a number from 1, or {AUTO}")
    return int(text)
