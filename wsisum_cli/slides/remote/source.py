"""A slide in a store or on a server: known by its listing, staged to a local cache to be read.

It is fetched whole. A summary records the sha256 of all its bytes, stores keep none that could serve instead, and what
is read of a slide and what is hashed must be the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsisum_cli.errors import RemoteError
from wsisum_cli.slides.remote.cache import Cache
from wsisum_cli.slides.remote.store import SECOND, RemoteFile, fetch
from wsisum_cli.slides.source import FileState, Source


@dataclass(frozen=True, kw_only=True)
class RemoteSource(Source):
    """One slide. Its paths hold no pixels: they stand for where it would lie if the archive were a local folder."""

    remote: tuple[RemoteFile, ...]  # in the order of `files`
    cache: Cache

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.remote)

    @property
    def modified(self) -> int:
        """Time of the last change, ns since 1970, as `RemoteFile.stamp`; of several files the digits tell of all."""
        stamps = [file.stamp for file in self.remote]
        if len(stamps) == 1:
            return stamps[0]
        digits = int(hashlib.sha256(f"{stamps}".encode()).hexdigest()[:12], 16)
        return max(stamps) - max(stamps) % SECOND + digits % SECOND

    @property
    def is_versioned(self) -> bool:
        """Whether a copy in the cache can be known for one of it."""
        return all(file.is_versioned for file in self.remote)

    @property
    def states(self) -> tuple[FileState, ...]:
        return tuple((file.bytes, file.stamp, 0) for file in self.remote)

    @property
    def version(self) -> str:
        """By its e-tags."""
        return self._versions if all(file.e_tag is not None for file in self.remote) else ""

    @property
    def sha256(self) -> str:
        """Of all files one after the other; fetches them."""
        with self.staged() as source:
            return source.sha256

    @property
    def _versions(self) -> str:
        """Digest of which versions of which files these are."""
        known = [(f.address.url, f.bytes, f.modified, f.e_tag, f.version) for f in self.remote]
        unknown = "" if self.is_versioned else f"{os.getpid()} {time.time_ns()}"
        return hashlib.sha256(f"{known} {unknown}".encode()).hexdigest()

    @contextmanager
    def staged(self, listen: Callable[[int, int], None] = lambda done, total: None) -> Iterator[Source]:
        """Raises ChangedSlideError where a file is no longer the one that was listed, RemoteError, AccessError."""
        with self._held(listen, patient=True) as source:
            yield source

    @contextmanager
    def staged_ahead(self, listen: Callable[[int, int], None]) -> Iterator[None]:
        """The same for a slide whose turn comes later. Raises NoRoomYetError where it would be in the way of others."""
        with self._held(listen, patient=False):
            yield

    @contextmanager
    def _held(self, listen: Callable[[int, int], None], patient: bool) -> Iterator[Source]:
        arrived = 0

        def hear(count: int) -> None:
            nonlocal arrived
            arrived += count
            listen(arrived, self.bytes)

        def fill(folder: Path) -> None:
            for file, name in zip(self.remote, self.names, strict=True):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                fetch(file, path, hear)

        try:
            key = self._versions
            holding = self.cache.holding(key, self.bytes, fill, lambda: listen(arrived, self.bytes), patient)
            with holding as folder:
                files = tuple(folder / name for name in self.names)
                fetched = 0 if self.cache.was_used(key) else self.bytes
                yield Source(files[0], files, fetched=fetched)
        except RemoteError as error:
            if str(error).startswith("expected "):
                raise RemoteError(f"{self.path.name}: {error}", error.reason) from None
            raise

    @property
    def names(self) -> list[PurePosixPath]:
        """Of its files, below the folder that they lie in."""
        return [PurePosixPath(file.relative_to(self.path.parent).as_posix()) for file in self.files]


def remote_source(source: Source, remote: tuple[RemoteFile, ...], cache: Cache) -> RemoteSource:
    return RemoteSource(source.path, source.files, remote=remote, cache=cache)
