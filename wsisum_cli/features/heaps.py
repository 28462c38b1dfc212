"""Global heaps of HDF5 files, looked at before HDF5 reads them: it never ends over an object of no size, and makes room
for a heap that is larger than its file.

Texts and lists of any length lie in such heaps (HDF5 File Format Specification 3.0, III.E). They are found by their
signature, so the whole file is read once: HDF5 does not say where they are without reading them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wsisum_cli.errors import FeaturesError

SIGNATURE = b"GCOL\x01"  # and three bytes that HDF5 writes as zeros, and does not look at
HEAD, OBJECT = struct.Struct("<5s3sQ"), struct.Struct("<HHIQ")
ALIGNED = 8  # bytes to which the data of an object are filled up
BLOCK = 1 << 22  # bytes read at a time


def refuse_endless_heaps(path: Path) -> None:
    """Raise FeaturesError for a file with a heap that has no end, or is larger than the file; OSError."""
    with open(path, "rb") as file:
        heaps = Heaps(file.fileno(), os.fstat(file.fileno()).st_size)
        if not all(map(heaps.is_sound, heaps.places())):
            raise FeaturesError(f"{path.name}: expected an h5 file, found a damaged heap in it; create the file again")


@dataclass
class Heaps:
    """The heaps of an open file of `size` bytes."""

    file: int  # its descriptor
    size: int
    steps: int = 0  # from object to object, in all heaps: sound ones do not overlap, so they have a bound
    _start: int = 0  # of what was read last
    _data: bytes = field(default=b"", repr=False)

    def places(self) -> Iterator[int]:
        """Where the signature stands, from the start of the file."""
        overlap = len(SIGNATURE) - 1
        for start in range(0, self.size, BLOCK):
            data = os.pread(self.file, BLOCK + overlap, start)
            at = data.find(SIGNATURE)
            while at >= 0:
                yield start + at
                at = data.find(SIGNATURE, at + 1)

    def is_sound(self, start: int) -> bool:
        """Whether each object of the heap at `start` is followed by another, or by the end."""
        head = self._read(start, HEAD.size)
        if len(head) < HEAD.size:
            return True  # the file is too short for a heap
        _, reserved, size = HEAD.unpack(head)
        end = start + size
        if end > self.size:
            return any(reserved)  # five bytes that only look like a signature are met by chance
        at = start + HEAD.size
        while at + OBJECT.size <= end:
            index, _, _, length = OBJECT.unpack(self._read(at, OBJECT.size))
            step = length if index == 0 else OBJECT.size + -(-length // ALIGNED) * ALIGNED
            self.steps += 1
            if step < OBJECT.size or at + step > end or self.steps > self.size // OBJECT.size:
                return False
            at += step
        return True

    def _read(self, at: int, count: int) -> bytes:
        """Bytes of the file, out of what was read last where they are in it. Fewer at the end of the file."""
        if not self._start <= at <= at + count <= self._start + len(self._data):
            self._start, self._data = at, os.pread(self.file, 1 << 16, at)
        return self._data[at - self._start : at - self._start + count]
