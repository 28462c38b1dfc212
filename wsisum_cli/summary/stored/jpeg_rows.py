"""JPEG streams in one shard of a summary, read, restored and decoded one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.slides import jpeg
from wsisum_cli.summary.container import Member
from wsisum_cli.summary.limits.claims import FREE_PX, PX_PER_BYTE, most_pixels
from wsisum_cli.summary.stored.jpeg_xl import JXL, restore
from wsisum_cli.summary.writer import JPEG_BYTES, PIXELS, TILES

if TYPE_CHECKING:
    from wsisum_cli.summary.chunks import Layout

JPEG_CODECS = ("imagecodecs_jpeg", "crc32c")  # before format 2.0
ROW_CODECS = ("bytes", "zstd", "crc32c")
MAX_ROW = 1 << 26  # bytes of a stream, and of the zeros behind it
MAX_PIXELS = 1 << 26  # per image, 200 MB decoded
FREE_SIDE = 256  # px of a square image that any stream may hold
#: Bytes of rows that any shard may hold, and how many times its own size above that: zeros behind streams take none.
FREE_ROWS, ROW_RATIO = 16 << 20, 200
FREE_RESTORED = FREE_PX // 4  # px of images stored as JPEG XL, which take longer, that any file may hold


class Opened(Protocol):
    """An open summary, as far as its streams need it."""

    name: str

    @property
    def attributes(self) -> Mapping[str, Any]: ...

    @property
    def members(self) -> Mapping[str, Member]: ...

    @property
    def is_first_major(self) -> bool: ...

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes: ...


class JpegRows:
    """JPEG streams in one shard, read and decoded one by one: a row each, or before format 2.0 an image each.

    `side` (height, width) is what every image has; None where it is the image that says so. `jpeg_bytes` (rows,) int32
    are the bytes of the stream that comes back from each row that holds it as a JPEG XL file; None where rows hold
    streams. Raises SummaryError when the shard, or a requested stream, does not match its metadata.
    """

    def __init__(self, summary: Opened, array: str, side: tuple[int, int] | None = None) -> None:
        from wsisum_cli.summary.chunks import read_layout, shard_index_size, unpack_shard_index

        self._summary = summary
        try:
            layout = read_layout(summary.read(f"{array}/zarr.json"))
            self.member = f"{array}/c/{'/'.join(['0'] * len(layout.shape))}"
            summary.read(self.member, 0, 0)  # raises if it is missing
            size = summary.members[self.member].size
            start = size - shard_index_size(layout.shape[0] if layout.shape else 0)
            self._lengths, stored = self._plan(array, layout) if start >= 0 else (None, None)
            packed = self._lengths is not None and is_recompressed(summary.attributes, array)
            self.jpeg_bytes = self._read_lengths(array + JPEG_BYTES, layout.shape[0], MAX_ROW) if packed else None
            if start < 0 or not fits(layout, stored or side, size, packed):
                raise ValueError(f"{size} bytes cannot hold {layout.shape[0]} images of its shape {layout.shape}")
            self._index = unpack_shard_index(summary.read(self.member, start))
        except ValueError as error:
            raise SummaryError(f"{summary.name}: {array} cannot be read: {error}") from error
        self._longest, self._end = layout.shape[1], start  # end of the chunks
        self.side = stored or side

    def _plan(self, array: str, layout: Layout) -> tuple[np.ndarray | None, tuple[int, int] | None]:
        """The lengths of rows, None where a chunk is a stream, and the size of images where the array has it.

        Raises ValueError for an array that holds no streams.
        """
        shape = layout.shape
        codecs, sides = (JPEG_CODECS, 4) if self._summary.is_first_major else (ROW_CODECS, 2)
        if layout.codecs != codecs or len(shape) != sides or layout.dtype != np.uint8 or not shape[0]:
            raise ValueError(f"it has the shape {shape} and the codecs {', '.join(layout.codecs)}")
        if self._summary.is_first_major:
            if shape[3] != 3:
                raise ValueError(f"it has {shape[3]} colours")
            return None, (shape[1], shape[2])
        return self._read_lengths(f"{array}_bytes", shape[0], shape[1]), None

    def _read_lengths(self, name: str, rows: int, most: int) -> np.ndarray:
        """The bytes of streams, from 1 to `most`, one for each row. Raises ValueError, SummaryError."""
        from wsisum_cli.summary.chunks import decode_array

        lengths = decode_array(self._summary.read(f"{name}/zarr.json"), self._summary.read(f"{name}/c/0"))
        if lengths.dtype != np.int32 or lengths.shape != (rows,) or not ((lengths > 0) & (lengths <= most)).all():
            raise ValueError(f"{name} does not match it")
        return lengths

    def __len__(self) -> int:
        return len(self._index)

    @property
    def is_gapless(self) -> bool:
        """Whether the chunks follow each other from the start of the shard to its index, as they are written."""
        ends = np.cumsum(self._index[:, 1], dtype=np.uint64)
        starts = np.concatenate([np.zeros(1, np.uint64), ends[:-1]])
        return bool((self._index[:, 0] == starts).all() and int(ends[-1]) == self._end)

    def stored_bytes(self, row: int) -> int:
        """Bytes that a row takes in the file."""
        return int(self._index[row, 1])

    def stream(self, row: int) -> bytes:
        """One complete JPEG stream, byte for byte as it was before it was stored."""
        stored = self.stored(row)
        if self.jpeg_bytes is None:
            return stored
        try:
            return restore(stored, int(self.jpeg_bytes[row]), self.side)
        except ValueError as error:
            raise self._wrong(row, f"cannot be restored: {error}") from error

    def stored(self, row: int) -> bytes:
        """What a row holds: a JPEG stream, or the JPEG XL file from which it comes back."""
        from wsisum_cli.summary.chunks import checked, decode_row

        offset, size = self._index[row].tolist()
        if offset + size > self._end:
            raise self._wrong(row, "lies outside the shard")
        try:
            chunk = checked(self._summary.read(self.member, offset, size))
            if self._lengths is None:
                return chunk
            found, length = decode_row(chunk, self._longest), int(self._lengths[row])
            if found.count(0, length) < len(found) - length:
                raise ValueError("bytes stand behind its stream")
            return found[:length]
        except ValueError as error:
            raise self._wrong(row, f"is damaged: {error}") from error

    def padded(self, row: int) -> np.ndarray:
        """A row as the array has it: with zeros behind it."""
        return np.frombuffer(self.stored(row).ljust(self._longest, b"\0"), np.uint8)

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of one image, by its frame header."""
        return self._sized(row, self.stream(row))

    def _sized(self, row: int, stream: bytes) -> tuple[int, int]:
        found = jpeg.frame_size(stream)
        most = min(MAX_PIXELS, max(FREE_SIDE**2, PX_PER_BYTE * len(stream)))
        if len(found) != 2 or math.prod(found) > most or self.side not in (None, found):
            raise self._wrong(row, f"is an image of {found}, expected {self.side or 'two sides'} (height, width)")
        return found[0], found[1]

    def decoded(self, row: int, shrink: int = 1) -> np.ndarray:
        """Decode one image, each side divided by `shrink` inside the JPEG decoder."""
        stream = self.stream(row)
        self._sized(row, stream)  # before the decoder allocates memory
        try:
            return jpeg.decode(stream, shrink)
        except ValueError as error:
            raise self._wrong(row, f"cannot be decoded: {error}") from error

    def _wrong(self, row: int, what: str) -> SummaryError:
        return SummaryError(f"{self._summary.name}: chunk {row} of {self.member} {what}")


def is_recompressed(attributes: Mapping[str, Any], array: str) -> bool:
    """Whether rows of an array hold JPEG XL files. Raises ValueError where they hold what is not known."""
    pixels = attributes.get("pixels")
    stored = pixels.get("recompressed") if array in (TILES, PIXELS) and isinstance(pixels, dict) else None
    if stored not in (None, JXL):
        raise ValueError(f"its rows are stored as {stored!r:.20}, which this version does not know; update wsisum")
    return stored is not None


def fits(layout: Layout, side: tuple[int, int] | None, size: int, packed: bool = False) -> bool:
    """Whether a shard of `size` bytes can hold the streams of this layout, and images of this height and width.

    `packed`: whether they are stored as JPEG XL.
    """
    count, longest = layout.shape[:2]
    if layout.codecs == ROW_CODECS and not (longest <= MAX_ROW and count * longest <= max(FREE_ROWS, ROW_RATIO * size)):
        return False
    pixels = math.prod(side or (0,))
    return pixels <= MAX_PIXELS and count * pixels <= (most_restored(size) if packed else most_pixels(size))


def most_restored(size: int) -> int:
    """Px that the JPEG XL files in `size` bytes may hold together."""
    return max(FREE_RESTORED, PX_PER_BYTE * size)
