"""From where the slides of a run come, and where its outputs go: folders here, or places in a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.remote.here import HERE, Outputs
from wsisum_cli.archive.remote.outputs import RemoteOutputs
from wsisum_cli.archive.remote.skeleton import lay_out, list_archive, list_slide
from wsisum_cli.errors import UsageError
from wsisum_cli.slides.remote.cache import Cache
from wsisum_cli.slides.remote.source import remote_source
from wsisum_cli.slides.remote.store import RemoteFile
from wsisum_cli.slides.remote.url import Address, parse_place
from wsisum_cli.slides.source import Source


@dataclass(frozen=True)
class Archive:
    """Where slides are looked for. Of a remote archive the folder has all of their files, without the pixels."""

    path: Path
    shown: str  # for messages
    cache: Cache | None = None
    root: Path = Path()
    remote: Mapping[str, RemoteFile] = field(default_factory=dict)  # by path within `root`
    outcomes: Sequence[Outcome] = ()  # of files that cannot be slides

    def attach(self, sources: Sequence[Source]) -> list[Source]:
        """The slides that were found here, each with what it takes to fetch it."""
        return [self._attached(source) for source in sources]

    def _attached(self, source: Source) -> Source:
        if self.cache is None:
            return source
        files = tuple(self.remote[file.relative_to(self.root).as_posix()] for file in source.files)
        return remote_source(source, files, self.cache)


@dataclass(frozen=True)
class Sites:
    """Both ends of a run."""

    archive: Archive
    output: Path  # the folder in which outputs are made
    outputs: Outputs


def local_archive(path: Path) -> Archive:
    return Archive(path, str(path))


@contextmanager
def open_sites(source: str, output: str, cache: Cache) -> Iterator[Sites]:
    """Yield both ends; `source` and `output` are paths or addresses.

    Raises UsageError where an address is not one that is opened or has no slides, RemoteError, AccessError.
    """
    there, goal = parse_place(source), parse_place(output)
    with ExitStack() as stack:
        outputs, folder = HERE, goal
        if isinstance(goal, Address):
            if not goal.is_store:
                raise UsageError(f"{goal}: a server cannot be written to; choose a folder, or s3://, gs:// or az://")
            if isinstance(there, Address) and there == goal:
                raise UsageError(f"{goal}: slides and outputs would share this folder; choose another --output")
            folder = stack.enter_context(cache.scratch())
            outputs = RemoteOutputs(folder, goal).listed()
            outputs.fetch_run_files()
        assert isinstance(folder, Path)
        if isinstance(there, Path):
            archive = local_archive(there)
        else:
            archive = stack.enter_context(open_archive(there, goal if isinstance(goal, Address) else None, cache))
        yield Sites(archive, folder, outputs)


@contextmanager
def open_archive(address: Address, output: Address | None, cache: Cache) -> Iterator[Archive]:
    """Raises as `open_sites`."""
    single = list_slide(address)
    files = list_archive(address, output) if single is None else single
    with cache.scratch() as root:
        outcomes = lay_out(root, files)
        yield Archive(root if single is None else root / address.name, str(address), cache, root, files, outcomes)
