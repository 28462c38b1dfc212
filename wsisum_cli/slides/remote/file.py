"""A remote file as a seekable file, read in ranges."""

from __future__ import annotations

import io
import os
from collections import OrderedDict

from wsisum_cli.errors import RemoteError
from wsisum_cli.slides.remote.store import NO_PARTS, RemoteFile, find_file, read_end, read_range, read_whole
from wsisum_cli.slides.remote.url import Address

BLOCK = 64 << 10  # bytes
END = 66 << 10  # bytes of the end that are read first; who looks for the comment of a ZIP reads 64 kB and 22 bytes
MOST_AHEAD = 64  # blocks read ahead of one who reads on
OFTEN = 4  # requests, after which each brings twice as much: patches are not read in the order of the file
MOST_KEPT = 4096  # blocks


class RangedFile(io.RawIOBase):
    """Reads blocks as they are needed, more at a time the longer someone reads on, and keeps them.

    Raises ChangedSlideError where the file is replaced meanwhile, RemoteError, AccessError.
    """

    def __init__(self, address: Address) -> None:
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._file, self._end = self._open(address)
        self._position = 0
        self._next, self._ahead = -1, 1  # the block after the last one read, and how many to read there
        self.requests, self.fetched = 1, len(self._end)

    @property
    def length(self) -> int:
        """Of the whole file."""
        return self._file.bytes

    def _open(self, address: Address) -> tuple[RemoteFile, bytes]:
        """The file, and its end: a ZIP lists its members there."""
        try:
            return read_end(address, END)
        except RemoteError as error:
            if error.reason != NO_PARTS:
                raise
        # Azure serves parts, but no ends; some servers no parts at all.
        return (self._find(address), b"") if address.is_store else read_whole(address)

    def _find(self, address: Address) -> RemoteFile:
        file = find_file(address)
        if file is None:
            raise RemoteError(f"{address.name}: not found; check the address")
        return file

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Fewer bytes at the end of the file alone."""
        stop = self.length if size < 0 else min(self._position + size, self.length)
        start, self._position = self._position, max(stop, self._position)
        if stop <= start:
            return b""
        before = self._blocks_between(start, min(stop, self._middle)) if start < self._middle else b""
        return before + self._end[max(0, start - self._middle) : max(0, stop - self._middle)]

    @property
    def _middle(self) -> int:
        """Where the end begins that was read first."""
        return self.length - len(self._end)

    def _blocks_between(self, start: int, stop: int) -> bytes:
        first = start // BLOCK
        data = b"".join(self._get(first, (stop - 1) // BLOCK + 1))
        return data[start - first * BLOCK : stop - first * BLOCK]

    def _get(self, first: int, stop: int) -> list[bytes]:
        """Blocks, those that are missing in one request each gap."""
        found = {number: self._blocks[number] for number in range(first, stop) if number in self._blocks}
        missing = [number for number in range(first, stop) if number not in found]
        while missing:
            start, count = missing[0], 1
            while count < len(missing) and missing[count] == start + count:
                count += 1
            found |= self._fetch(start, count)
            missing = [number for number in missing if number not in found]
        for number in range(first, stop):
            self._keep(number, found[number])
        return [found[number] for number in range(first, stop)]

    def _fetch(self, start: int, count: int) -> dict[int, bytes]:
        read_on = 2 * self._ahead if start == self._next else 1
        self._ahead = min(max(read_on, 2 ** (self.requests // OFTEN)), MOST_AHEAD)
        end = min(start + max(count, self._ahead), -(-self._middle // BLOCK))
        while end > start + count and end - 1 in self._blocks:
            end -= 1
        data = read_range(self._file, start * BLOCK, min(end * BLOCK, self._middle))
        self.requests, self.fetched, self._next = self.requests + 1, self.fetched + len(data), end
        blocks = {start + i: data[i * BLOCK : (i + 1) * BLOCK] for i in range(end - start)}
        for number, block in blocks.items():
            self._keep(number, block)
        return blocks

    def _keep(self, number: int, block: bytes) -> None:
        self._blocks[number] = block
        self._blocks.move_to_end(number)
        while len(self._blocks) > MOST_KEPT:
            self._blocks.popitem(last=False)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.length}[whence]
        if start + offset < 0:
            raise ValueError("seek before the beginning of the file")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
