"""The ZIP around a summary slide, as OME-NGFF RFC-9 asks: stored members, ZIP64, metadata first, fixed dates.

One list of members has exactly one byte sequence, so a reader can rebuild every header and compare: no byte of
the file is free. Layout as in PKWARE's APPNOTE 6.3.10.
"""

from __future__ import annotations

import glob
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from wsisum_cli.errors import SummaryError

SUFFIX = ".ozx"
PART = ".part"
COMMENT = json.dumps(
    {"ome": {"version": "0.5", "zipFile": {"centralDirectory": {"jsonFirst": True}}}}, separators=(",", ":")
).encode()
VERSION_NEEDED = 45  # ZIP64
MADE_BY_UNIX = 3 << 8 | VERSION_NEEDED
DATE = 1 << 5 | 1  # 1980-01-01, the earliest that ZIP can say
IN_ZIP64 = 0xFFFFFFFF
REGULAR_FILE = 0o100644 << 16
UTF8_NAMES = 1 << 11


@dataclass(frozen=True)
class Member:
    """One file of the container."""

    name: str
    offset: int  # of its local header, bytes
    size: int
    crc: int

    @property
    def start(self) -> int:
        """Offset of its first data byte."""
        return self.offset + len(local_header(self))


def member_order(name: str) -> tuple[Any, ...]:
    """zarr.json files first, breadth first, the root's before all; then the data by name."""
    parts = name.split("/")
    metadata = parts[-1] == "zarr.json"
    return (not metadata, len(parts) if metadata else 0, name)


@contextmanager
def writing_aside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; renamed to `path` when the block ends well, removed when it does not.

    So `path` holds either a whole file or what it held before. What a killed process left aside is removed too.
    """
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*{PART}"):
        stale.unlink(missing_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_container(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write the members in their order, and see them safely on the disk."""
    with open(path, "wb") as file:
        for part in container_parts(contents):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut, where the system offers that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def container_parts(contents: Mapping[str, bytes]) -> list[bytes]:
    """The bytes of the file, in order."""
    parts: list[bytes] = []
    members: list[Member] = []
    offset = 0
    for name in sorted(contents, key=member_order):
        data = contents[name]
        member = Member(name, offset, len(data), zlib.crc32(data))
        header = local_header(member)
        parts += [header, data]
        members.append(member)
        offset += len(header) + len(data)
    return [*parts, tail(members, offset)]


def local_header(member: Member) -> bytes:
    name = member.name.encode()
    sizes = struct.pack("<HHQQ", 1, 16, member.size, member.size)
    fields = (
        VERSION_NEEDED,
        UTF8_NAMES,
        0,
        0,
        DATE,
        member.crc,
        IN_ZIP64,
        IN_ZIP64,
        len(name),
        len(sizes),
    )
    return b"PK\3\4" + struct.pack("<HHHHHIIIHH", *fields) + name + sizes


def central_header(member: Member) -> bytes:
    name = member.name.encode()
    sizes = struct.pack("<HHQQQ", 1, 24, member.size, member.size, member.offset)
    head = (MADE_BY_UNIX, VERSION_NEEDED, UTF8_NAMES, 0, 0, DATE, member.crc, IN_ZIP64, IN_ZIP64)
    rest = (len(name), len(sizes), 0, 0, 0, REGULAR_FILE, IN_ZIP64)
    return b"PK\1\2" + struct.pack("<HHHHHHIII", *head) + struct.pack("<HHHHHII", *rest) + name + sizes


def tail(members: Sequence[Member], offset: int) -> bytes:
    """Central directory, ZIP64 end record and locator, end record with the RFC-9 comment."""
    directory = b"".join(map(central_header, members))
    end = offset + len(directory)
    count = len(members)
    record = (44, MADE_BY_UNIX, VERSION_NEEDED, 0, 0, count, count, len(directory), offset)
    return b"".join(
        [
            directory,
            b"PK\6\6" + struct.pack("<QHHIIQQQQ", *record),
            b"PK\6\7" + struct.pack("<IQI", 0, end, 1),
            b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, IN_ZIP64, IN_ZIP64, len(COMMENT)),
            COMMENT,
        ]
    )


def read_members(file: IO[bytes], name: str) -> list[Member]:
    """What the central directory lists. Raises SummaryError when `file` is no ZIP, or not one of plain files.

    `name` is how messages call the file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            found = archive.infolist()
    # zipfile meets a damaged directory with several exceptions, among them NotImplementedError.
    except Exception as error:
        raise SummaryError(f"{name}: not a readable ZIP file ({error}); it is damaged or cut short") from error
    for info in found:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise SummaryError(f"{name}: member {info.filename!r} is compressed; summary slides store members")
        if not is_plain_name(info.filename):
            raise SummaryError(f"{name}: member name {info.filename!r} leads out of the archive")
    return [Member(info.filename, info.header_offset, info.file_size, info.CRC) for info in found]


def is_plain_name(name: str) -> bool:
    """A relative path of plain parts, which stays inside whatever folder it is unpacked to."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts)
    return plain and name.isascii() and name.isprintable() and not set(name) & set('\\:*?"<>|')


def read_member(file: IO[bytes], member: Member, start: int = 0, size: int | None = None) -> bytes:
    """`size` bytes of a member from `start`, all of it when None. Does not look at checksums."""
    file.seek(member.start + start)
    return file.read(member.size - start if size is None else size)


def layout_differs(file: IO[bytes], members: Sequence[Member]) -> str | None:
    """What of the file's structure is not as RFC-9 and this format want it, None when all is.

    Compares every byte that is not a member's data with what the members' names, sizes and checksums call for.
    """
    file.seek(0, os.SEEK_END)
    size = file.tell()
    offset = 0
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        return "a member is listed twice"
    if names != sorted(names, key=member_order):
        return "members are out of order"
    for member in members:
        header = local_header(member)
        file.seek(offset)
        if member.offset != offset or file.read(len(header)) != header:
            return f"the header of {member.name} differs"
        offset += len(header) + member.size
    expected = tail(members, offset)
    if size != offset + len(expected):
        return f"the file has {size} bytes, its members call for {offset + len(expected)}"
    file.seek(offset)
    return None if file.read(len(expected)) == expected else "the central directory differs"
