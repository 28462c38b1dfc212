"""Fetch slides while those before them are computed.

One thread of the parent does it for all workers: it knows the order, and the cache is shared. It only ever fetches
what fits beside everything in use, so that no worker waits for a slide whose turn comes later.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from wsisum_cli.errors import WsisumError
from wsisum_cli.pipeline.job import Job
from wsisum_cli.slides.remote.cache import NoRoomYetError
from wsisum_cli.slides.remote.source import RemoteSource

RETRY = 1.0  # s until it looks again whether there is room


class StoppedError(Exception):
    """The run ended while a slide was fetched ahead."""


class Prefetcher:
    """Fetches the remote slides of `jobs` in their order, at most `ahead` beyond those that are finished or under way.

    Use it as a context. Slides that cannot be fetched are left to their workers, which say why.
    """

    def __init__(self, jobs: Sequence[tuple[str, Job]], workers: int, ahead: int = 1) -> None:
        remote = [job.source for _, job in jobs if isinstance(job.source, RemoteSource)]
        self._sources = [source for source in remote if source.is_versioned]
        self._lead = workers + max(ahead, workers)
        self._finished = 0
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Prefetcher:
        if self._sources:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._sources:
            self._thread.join()

    def finished(self) -> None:
        """One more slide is done."""
        with self._changed:
            self._finished += 1
            self._changed.notify()

    def _run(self) -> None:
        for number, source in enumerate(self._sources):
            with self._changed:
                self._changed.wait_for(lambda at=number: self._ended or at < self._finished + self._lead)  # type: ignore[misc]
                passed = number < self._finished
            if self._ended:
                return
            if not passed:
                self._fetch(source)

    def _fetch(self, source: RemoteSource) -> None:
        while not self._ended:
            try:
                with source.staged_ahead(self._go_on):
                    return
            except NoRoomYetError:
                with self._changed:
                    self._changed.wait(RETRY)
            except (WsisumError, OSError, StoppedError):
                return

    def _go_on(self, _done: int, _total: int) -> None:
        if self._ended:
            raise StoppedError
