"""One of several parts of an archive, chosen by the names of slides, for machines that share only files."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsisum_cli.archive.outcome import FILE_SYSTEM, Outcome
from wsisum_cli.errors import UsageError
from wsisum_cli.slides.source import Source

MOST_SHARDS = 100_000
IMAGE = re.compile(r"#\d+$")  # of one slide in a file of several


@dataclass(frozen=True, order=True)
class Shard:
    """The slides whose name falls to `number` of `count`, from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, source: str) -> bool:
        """Whether a slide falls to this shard, by its path within the archive alone; all slides of a file do."""
        name = unicodedata.normalize("NFC", IMAGE.sub("", source))
        return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) % self.count == self.number - 1

    def part_of(self, outcomes: Iterable[Outcome], root: Path, sources: Sequence[Source]) -> list[Outcome]:
        """The outcomes of this shard; those of the further files of a slide go with its first.

        A folder that cannot be listed may hold slides of every shard, so it belongs to all of them.
        """
        first = {
            file.relative_to(root).as_posix(): source.path.relative_to(root).as_posix()
            for source in sources
            for file in source.files[1:]
            if file.is_relative_to(root)
        }
        return [
            found
            for found in outcomes
            if found.reason == FILE_SYSTEM or self.holds(first.get(found.source, found.source))
        ]


def parse_shard(text: str) -> Shard:
    """`3/16` as a shard. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count <= MOST_SHARDS:
        raise UsageError(f"--shard {text}: expected NUMBER/COUNT from 1/COUNT to COUNT/COUNT, such as 3/16")
    return Shard(number, count)
