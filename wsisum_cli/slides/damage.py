"""Tiles of a slide that cannot be read: where they are, and how many a summary may leave out."""

from __future__ import annotations

import threading

from wsisum_cli.errors import BrokenSlideError

#: Share of the tiles tried that may be broken; past it a summary would no longer stand for the slide.
MAX_BROKEN_SHARE = 0.05
LISTED = 20  # positions written down; the count covers all


class Damage:
    """Counts reads from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = 0
        self._broken: dict[tuple[int, int, int], str] = {}  # (level, column, row) -> message

    def tried(self) -> None:
        """Note one tile that was read."""
        with self._lock:
            self._read += 1

    def note(self, level: int, column: int, row: int, message: str) -> None:
        """Note one tile that could not be read."""
        with self._lock:
            self._broken[level, column, row] = message

    @property
    def count(self) -> int:
        return len(self._broken)

    @property
    def positions(self) -> list[tuple[int, int, int]]:
        """Level, column and row of the first broken tiles, in that order."""
        return self.everywhere[:LISTED]

    @property
    def everywhere(self) -> list[tuple[int, int, int]]:
        """The same of all broken tiles."""
        return sorted(self._broken)

    def check(self, name: str) -> None:
        """Raise BrokenSlideError when the share of broken tiles is past `MAX_BROKEN_SHARE`."""
        tried = self._read + self.count
        if self.count > MAX_BROKEN_SHARE * tried:
            first = self._broken[min(self._broken)]
            raise BrokenSlideError(
                f"{name}: {self.count} of {tried} tiles cannot be read, more than {MAX_BROKEN_SHARE:.0%}; "
                f"first: {first.removeprefix(name + ': ')}; fetch the file again"
            )
