"""A folder of bounded size for copies of remote files. Several processes and runs may share it.

    KEY/            files that are whole
    KEY.part/       files that are being fetched, renamed to KEY/ when all are there
    KEY.bytes       how many bytes are set aside for them; its time is that of the last use
    KEY.use.*       one for each that has them open, locked as long as that lasts
    locks/          taken to fetch, and for a moment to look at and change any of the above

Locks end with their process, so one that is killed leaves nothing behind that a later run does not clean up.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wsisum_cli.errors import RemoteError
from wsisum_cli.slides.remote.locks import POLL, is_held, lock, locked

SPARE = 256 << 20  # bytes of the disk that are left free
USED, UNUSED = "used", "unused"
NO_ROOM = "no room to fetch it"
COUNTER = itertools.count()


class NoRoomYetError(Exception):
    """Others use so much of the cache that this does not fit beside."""


@dataclass(frozen=True)
class Cache:
    """Where copies are kept, and how much of them."""

    folder: Path
    limit: int  # bytes

    @contextmanager
    def holding(
        self,
        key: str,
        size: int,
        fill: Callable[[Path], None],
        waiting: Callable[[], None] = lambda: None,
        patient: bool = True,
    ) -> Iterator[Path]:
        """Yield the folder of `key`, which `fill` fills if it is not there yet. It stays until the block ends.

        `size` is in bytes. `waiting` is called while others fetch the same, or use up the cache. Raises RemoteError
        where the cache or the disk is too small, NoRoomYetError where `patient` is False and others use it up.
        """
        self.prepare()
        with self._used(key):
            entry = self.folder / key
            with locked(self._fetch_lock(key), waiting):
                if not entry.is_dir():
                    self._set_aside(key, size, waiting, patient)
                    self._fill(entry, fill)
            yield entry
            if patient:
                self._note_use(key)

    def was_used(self, key: str) -> bool:
        """Whether someone has had its files before; not those who only fetched them ahead."""
        with self._alone():
            return self._sizes(key).read_text().endswith(f" {USED}")

    def prepare(self) -> None:
        (self.folder / "locks").mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty folder that is removed at the end, as are those of processes that were killed."""
        self.prepare()
        name = f"scratch-{os.getpid()}-{next(COUNTER)}"
        with self._mark(self.folder / f"{name}.use"):
            for stale in self.folder.glob("scratch-*.use"):
                if not is_held(stale):
                    shutil.rmtree(stale.with_suffix(""), ignore_errors=True)
                    stale.unlink(missing_ok=True)
            folder = self.folder / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _fetch_lock(self, key: str) -> Path:
        return self.folder / "locks" / hashlib.sha256(key.encode()).hexdigest()[:2]  # files do not pile up

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with locked(self.folder / "locks" / "all"):
            yield

    @contextmanager
    def _used(self, key: str) -> Iterator[None]:
        with self._mark(self.folder / f"{key}.use.{os.getpid()}.{next(COUNTER)}"):
            yield

    @contextmanager
    def _mark(self, path: Path) -> Iterator[Path]:
        """Hold the lock of a new file, which is removed at the end."""
        with self._alone():  # else another might take it for one of a dead process before it is locked
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            lock(handle)
        try:
            yield path
        finally:
            os.close(handle)
            path.unlink(missing_ok=True)

    def _fill(self, entry: Path, fill: Callable[[Path], None]) -> None:
        part = entry.with_name(f"{entry.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(mode=0o700)
            fill(part)
            os.replace(part, entry)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            self._sizes(entry.name).unlink(missing_ok=True)
            raise

    def _sizes(self, key: str) -> Path:
        return self.folder / f"{key}.bytes"

    def _set_aside(self, key: str, size: int, waiting: Callable[[], None], patient: bool) -> None:
        if size > self.limit:
            raise RemoteError(
                f"expected at most the {self.limit} bytes of the cache, found {size}; raise --cache-size", NO_ROOM
            )
        while True:
            with self._alone():
                self._remove(key)  # what a killed process left of it
                if self._make_room(size, patient):
                    self._sizes(key).write_text(f"{size} {UNUSED}")
                    return
            if not patient:
                raise NoRoomYetError
            waiting()
            time.sleep(POLL)

    def _make_room(self, size: int, patient: bool) -> bool:
        """Remove what is not in use until `size` bytes fit. False where that must wait for others.

        What was fetched ahead does not make room for what is fetched ahead, where `patient` is False.

        Raises RemoteError where the disk is too full and there is nothing to remove or to wait for.
        """
        entries = self._entries()
        total = sum(entry.size for entry in entries)
        free = shutil.disk_usage(self.folder).free - SPARE - sum(entry.missing for entry in entries)
        done = [entry for entry in entries if not entry.is_busy and (entry.used or patient)]
        idle = sorted(done, key=lambda entry: (not entry.used, entry.time))
        while idle and (total + size > self.limit or free < size):
            oldest = idle.pop(0)
            self._remove(oldest.key)
            total, free = total - oldest.size, free + oldest.size
        if total + size <= self.limit and free >= size:
            return True
        if free < size and patient and not any(entry.is_busy for entry in entries):
            raise RemoteError(
                f"expected {size + SPARE} free bytes on the disk of the cache, found {free + SPARE}; free some, or "
                "choose another --cache-dir",
                NO_ROOM,
            )
        return False

    def _entries(self) -> list[Entry]:
        return [self._entry(path) for path in self.folder.glob("*.bytes")]

    def _entry(self, path: Path) -> Entry:
        key = path.name.removesuffix(".bytes")
        size, _, state = path.read_text().partition(" ")
        busy = False
        for mark in self.folder.glob(f"{key}.use.*"):
            if is_held(mark):
                busy = True
            else:
                mark.unlink(missing_ok=True)
        arriving = busy and not (self.folder / key).is_dir()
        missing = max(0, int(size or 0) - bytes_in(self.folder / f"{key}.part")) if arriving else 0
        return Entry(key, int(size or 0), missing, state == USED, path.stat().st_mtime_ns, busy)

    def _remove(self, key: str) -> None:
        shutil.rmtree(self.folder / key, ignore_errors=True)
        shutil.rmtree(self.folder / f"{key}.part", ignore_errors=True)
        self._sizes(key).unlink(missing_ok=True)

    def _note_use(self, key: str) -> None:
        with self._alone():
            sizes = self._sizes(key)
            sizes.write_text(f"{sizes.read_text().partition(' ')[0]} {USED}")


@dataclass(frozen=True)
class Entry:
    """What the cache has of one key."""

    key: str
    size: int  # bytes set aside
    missing: int  # bytes of them that are still to be fetched
    used: bool  # else it was fetched ahead
    time: int  # of the last use
    is_busy: bool


def bytes_in(folder: Path) -> int:
    """Of all files in a folder, some of which may be going."""
    total = 0
    for found in folder.rglob("*"):
        try:
            total += found.stat().st_size if found.is_file() else 0
        except OSError:
            continue
    return total
