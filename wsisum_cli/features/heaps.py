"""Global heaps of HDF5 files, looked at before HDF5 reads them: it never ends over an object of no size, and makes room
for a heap that is larger than its file.

Texts of attributes lie in such heaps (HDF5 File Format Specification 3.0, III.E).
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from wsisum_cli.errors import FeaturesError

SIGNATURE = b"GCOL\x01\0\0\0"
HEAD, OBJECT = struct.Struct("<8sQ"), struct.Struct("<HHIQ")
ALIGNED = 8  # bytes to which the data of an object are filled up
MOST_BYTES = 1 << 24  # of one heap; HDF5 makes them of 4 kB, or of one long text


def refuse_endless_heaps(path: Path) -> None:
    """Raise FeaturesError for a file with a heap that has no end, or is larger than the file; OSError."""
    with open(path, "rb") as file:
        if not path.stat().st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = data.find(SIGNATURE)
            while at >= 0:
                if not is_sound(data, at):
                    raise damaged(path)
                at = data.find(SIGNATURE, at + len(SIGNATURE))


def damaged(path: Path) -> FeaturesError:
    return FeaturesError(f"{path.name}: expected an h5 file, found a damaged heap of texts; create the file again")


def is_sound(data: mmap.mmap, start: int) -> bool:
    """Whether each object of the heap at `start` is followed by another, or by the end."""
    if start + HEAD.size > len(data):
        return False
    _, size = HEAD.unpack_from(data, start)
    end = start + size
    if size > MOST_BYTES or end > len(data):  # HDF5 makes room for a heap of whatever size before it reads it
        return False
    at = start + HEAD.size
    while at + OBJECT.size <= end:
        index, _, _, length = OBJECT.unpack_from(data, at)
        step = length if index == 0 else OBJECT.size + -(-length // ALIGNED) * ALIGNED
        if step < OBJECT.size or at + step > end:
            return False
        at += step
    return True
