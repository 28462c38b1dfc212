"""The ZIP around a summary slide, as OME-NGFF RFC-9 asks: stored members, ZIP64, metadata first, fixed dates.

One list of members has exactly one byte sequence, so a reader can rebuild every header and compare: no byte of
the file is free. Layout as in PKWARE's APPNOTE 6.3.10.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
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
ENCRYPTED = 1 << 0
LOCAL_HEADER = 30  # bytes at least
MAX_INFLATED = 256 << 20  # bytes of a member that somebody compressed; summaries store theirs


@dataclass(frozen=True)
class Member:
    """One file of the container."""

    name: str
    offset: int  # of its local header, bytes
    size: int
    crc: int
    start: int  # of its first stored byte
    deflated: int | None = None  # bytes that it takes where somebody's ZIP tool compressed it, None where stored


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
    short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]  # a long name has no room for more
    for stale in path.parent.glob(f".{short}.*{PART}"):
        stale.unlink(missing_ok=True)
    aside = path.with_name(f".{short}.{os.getpid()}{PART}")
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if error.filename != str(aside):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # by the name that was asked for
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
        header = local_header(name, len(data), zlib.crc32(data))
        start = offset + len(header)
        members.append(Member(name, offset, len(data), zlib.crc32(data), start))
        parts += [header, data]
        offset = start + len(data)
    return [*parts, tail(members, offset)]


def local_header(name: str, size: int, crc: int) -> bytes:
    sizes = struct.pack("<HHQQ", 1, 16, size, size)
    flags = (VERSION_NEEDED, UTF8_NAMES, 0, 0, DATE)
    lengths = (IN_ZIP64, IN_ZIP64, len(name.encode()), len(sizes))
    return b"PK\3\4" + struct.pack("<HHHHHIIIHH", *flags, crc, *lengths) + name.encode() + sizes


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
    """What the central directory lists, folders left out. `name` is how messages call the file.

    Raises SummaryError when `file` is no ZIP, or when a member cannot be what it claims: named out of the
    archive, encrypted, larger than the file can hold, overlapping its neighbour. Nothing is allocated for those.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            found, directory = archive.infolist(), archive.start_dir
    # zipfile meets a damaged directory with several exceptions, among them NotImplementedError.
    except Exception as error:
        raise SummaryError(f"{name}: not a readable ZIP file ({error}); it is damaged or cut short") from error
    ends = record_ends([info.header_offset for info in found], directory)
    for info in found:
        wrong = what_is_wrong(info, ends[info.header_offset])
        if wrong:
            raise SummaryError(f"{name}: member {info.orig_filename!r} {wrong}; do not unpack this file")
    return [
        Member(
            info.orig_filename,
            info.header_offset,
            info.file_size,
            info.CRC,
            ends[info.header_offset] - info.compress_size,
            info.compress_size if info.compress_type == zipfile.ZIP_DEFLATED else None,
        )
        for info in found
        if not info.orig_filename.endswith("/")
    ]


def record_ends(offsets: Sequence[int], directory: int) -> dict[int, int]:
    """Offset of each local header -> where the next one, or the central directory, begins.

    Members end there, so damage to one local header does not move the data of its member.
    """
    edges = [*sorted(set(offsets)), directory]
    return dict(pairwise(edges))


def what_is_wrong(info: zipfile.ZipInfo, end: int) -> str | None:
    """Why a member must not be read, None when it may."""
    if not is_plain_name(info.orig_filename.removesuffix("/")):
        return "leads out of the archive"
    if info.flag_bits & ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is encrypted, or compressed in a way this program does not read"
    if info.header_offset + LOCAL_HEADER + info.compress_size > end:
        return f"claims {info.compress_size} bytes where there are fewer"
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        return f"claims {info.file_size} bytes, of which {info.compress_size} are stored"
    if info.file_size > max(info.compress_size, MAX_INFLATED):
        return f"claims to inflate to {info.file_size} bytes"
    return None


def is_plain_name(name: str) -> bool:
    """A relative path of plain parts, which stays inside whatever folder it is unpacked to."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts)
    return plain and name.isascii() and name.isprintable() and not set(name) & set('\\:*?"<>|')


def read_member(file: IO[bytes], member: Member, start: int = 0, size: int | None = None) -> bytes:
    """`size` bytes of a member from `start`, all of it when None; fewer where it ends before.

    Does not look at checksums. Raises SummaryError when a compressed member cannot be inflated.
    """
    stop = member.size if size is None else min(start + size, member.size)
    if member.deflated is None:
        file.seek(member.start + start)
        return file.read(max(0, stop - start))
    file.seek(member.start)
    try:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(member.deflated), max(1, member.size))
    except zlib.error as error:
        raise SummaryError(f"member {member.name} cannot be inflated ({error})") from error
    return data[start:stop]


def layout_differs(file: IO[bytes], members: Sequence[Member]) -> str | None:
    """What of the file's structure is not as RFC-9 and this format want it, None when all is.

    Compares every byte that is not a member's data with what the members' names, sizes and checksums call for.
    """
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        return "a member is listed twice"
    if names != sorted(names, key=member_order):
        return "members are out of order"
    offset = 0
    for member in members:
        header = local_header(member.name, member.size, member.crc)
        file.seek(offset)
        if member.offset != offset or file.read(len(header)) != header:
            return f"the header of {member.name} differs"
        offset += len(header) + member.size
    expected = tail(members, offset)
    size = file.seek(0, os.SEEK_END)
    if size != offset + len(expected):
        return f"the file has {size} bytes, its members call for {offset + len(expected)}"
    file.seek(offset)
    return None if file.read(len(expected)) == expected else "the central directory differs"
