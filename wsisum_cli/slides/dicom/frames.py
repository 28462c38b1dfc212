"""Where the frames of a DICOM file lie, and their bytes. PS3.5 A.4."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from wsisum_cli.slides import jpeg
from wsisum_cli.slides.dicom.elements import RAW, SYNTAXES, UNDEFINED, DamageError, HeaderFile, read_element_header

if TYPE_CHECKING:
    from pydicom import Dataset

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
PIXEL_DATA = 0x7FE00010


class FrameFile:
    """An open file that several threads read from."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._lock = file, threading.Lock()
        self.size = os.fstat(file.fileno()).st_size

    def read(self, offset: int, count: int) -> bytes:
        """Raises DamageError where the file ends earlier."""
        if offset + count > self.size:
            raise DamageError(f"it ends at byte {offset + count} of a file of {self.size}; the file is cut short")
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)


def find_frames(file: FrameFile, dataset: Dataset, head: HeaderFile, meta: Dataset, frames: int) -> np.ndarray:
    """(frames, 2) where each begins, and where it ends at the latest. `head` stands before the element of the pixels.

    Frames beyond the end of a file that is cut short are placed behind it. Raises DamageError.
    """
    tag, length = read_element_header(head, meta)
    at = head.tell()
    if tag != PIXEL_DATA:
        raise DamageError("it stores no pixels")
    if SYNTAXES[str(meta.TransferSyntaxUID)] == RAW:
        each = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated) // 8
        starts = at + each * np.arange(frames, dtype=np.int64)
        return np.stack([starts, starts + each], axis=1)
    if length != UNDEFINED:
        raise DamageError("compressed pixels of a defined length")
    table = file.read(at + 8, int.from_bytes(file.read(at, 8)[4:], "little"))
    first = at + 8 + len(table)
    listed = offset_table(dataset, table, frames)
    if listed is not None:
        starts = first + listed
        ends = np.append(starts[1:], file.size)
        if all(holds_item(file, starts[index]) for index in (0, frames // 2, frames - 1)):
            return np.stack([starts, ends], axis=1)
    return walk_frames(file, first, frames)


def offset_table(dataset: Dataset, basic: bytes, frames: int) -> np.ndarray | None:
    """Where frames begin, from the first item on. None where no table tells, or where it has overflowed."""
    extended = bytes(dataset.get("ExtendedOffsetTable") or b"")
    for table, kind in ((extended, "<u8"), (basic, "<u4")):
        if len(table) == frames * int(kind[-1]):
            offsets = np.frombuffer(table, kind).astype(np.int64)
            if offsets[0] == 0 and (np.diff(offsets) > 0).all():
                return offsets
    return None


def holds_item(file: FrameFile, at: int) -> bool:
    """Also said of what lies beyond the end of a file cut short."""
    return at + 8 > file.size or file.read(int(at), 4) == ITEM


def walk_frames(file: FrameFile, first: int, frames: int) -> np.ndarray:
    """Frames as the items follow one another: one each, or all of one frame. Raises DamageError."""
    starts, at = [], first
    while at + 8 <= file.size and (head := file.read(at, 8))[:4] == ITEM:
        starts.append(at)
        at += 8 + int.from_bytes(head[4:], "little")
    ends = [*starts[1:], at]
    cut_short = at + 8 > file.size
    if len(starts) > frames:
        closing = [end for end in ends if jpeg.EOI in file.read(end - 10, 10)] if at <= file.size else []
        starts = [first, *closing[:-1]]
        starts, ends = (starts, closing) if frames > 1 else ([first], [at])
    if len(starts) < frames and cut_short:
        missing = [file.size] * (frames - len(starts))
        starts, ends = [*starts, *missing], [*ends, *(end + 8 for end in missing)]
    if len(starts) != frames:
        raise DamageError(f"{len(starts)} frames found, {frames} expected")
    return np.stack([np.array(starts, np.int64), np.array(ends, np.int64)], axis=1)


def fragments(file: FrameFile, start: int, end: int, limit: int) -> Iterator[bytes]:
    """The items of one frame. Raises DamageError."""
    at = start
    while at < end or at == start:
        head = file.read(at, 8)
        length = int.from_bytes(head[4:], "little")
        if at > start and head[:4] == DELIMITER:
            return
        if head[:4] != ITEM or at + length - start > limit:
            raise DamageError("no frame is where the file says")
        yield file.read(at + 8, length)
        at += 8 + length
