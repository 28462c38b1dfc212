"""The ZIP container of a summary slide, as in OME-NGFF RFC-9: stored members, ZIP64, metadata first, fixed dates.

A list of members has exactly one byte sequence, so a reader can rebuild and compare every header: no byte of the file
is arbitrary. Layout as in PKWARE's APPNOTE 6.3.10.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import secrets
import struct
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePath
from typing import IO, Any, cast

from wsisum_cli.errors import AccessError, ChangedSlideError, RemoteError, SummaryError, UnreachableError, UsageError
from wsisum_cli.slides.remote.file import RangedFile
from wsisum_cli.slides.remote.store import list_files
from wsisum_cli.slides.remote.url import Address, name_of_place, parse_place

SUFFIX = ".ozx"
PART = ".part"
OWNER = re.compile(r"[.-](?P<host>[0-9a-f]{8})-(?P<pid>\d{1,10})-[0-9a-f]{8}\.")  # as `new_owner` writes it
ABANDONED_AFTER = 48 * 3600  # s since a temporary file was last written to; writing one takes minutes
QUICK, LISTING_SHARE = 0.005, 0.01  # s that listing a folder may take each time, and else the share of a run
LISTED: dict[Path, tuple[float, float]] = {}  # folder -> when it was listed, by the monotonic clock, and s it took
BOOT = Path("/proc/sys/kernel/random/boot_id")
COMMENT = json.dumps(
    {"ome": {"version": "0.5", "zipFile": {"centralDirectory": {"jsonFirst": True}}}}, separators=(",", ":")
).encode()
VERSION_NEEDED = 45  # ZIP64
MADE_BY_UNIX = 3 << 8 | VERSION_NEEDED
DATE = 1 << 5 | 1  # 1980-01-01, the earliest ZIP date
IN_ZIP64 = 0xFFFFFFFF
REGULAR_FILE = 0o100644 << 16
UTF8_NAMES = 1 << 11
ENCRYPTED = 1 << 0
LOCAL_HEADER = 30  # bytes, minimum
#: Of members compressed by another tool; summaries store theirs. Pixels and arrays hardly get smaller once more.
FREE_INFLATED, MAX_INFLATION = 1 << 20, 20
MAX_MEMBERS, MAX_DIRECTORY = 1_000, 1 << 20  # members, and bytes of their list; a summary has some 80, and 10 kB


@dataclass(frozen=True)
class Member:
    """One file in the container."""

    name: str
    offset: int  # of its local header, in bytes
    size: int
    crc: int
    start: int  # of its first stored byte
    deflated: int | None = None  # compressed bytes, if another ZIP tool compressed it; None if stored


def member_order(name: str) -> tuple[Any, ...]:
    """Sort key: zarr.json files first, breadth first from the root; then data by name."""
    parts = name.split("/")
    metadata = parts[-1] == "zarr.json"
    return (not metadata, len(parts) if metadata else 0, name)


def refuse_existing(outputs: Iterable[Path], force: bool) -> None:
    """Raise UsageError where one of the outputs exists, unless it may be replaced."""
    there = None if force else next((output for output in outputs if output.exists()), None)
    if there is not None:
        raise UsageError(f"{there} already exists; use --force to replace it, or choose another --output")


@contextmanager
def writing_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` when the block succeeds and removed when it fails.

    So `path` holds either a complete file or its old content. The temporary name is this call's alone: of two processes
    that write one file, the last to finish stays. Leftovers of processes that are gone are removed too.
    """
    for stale in leftovers(path):
        stale.unlink(missing_ok=True)
    aside = path.with_name(f".{short_name(path)}.{new_owner()}{PART}")
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if error.filename != str(aside):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # name the requested file
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def short_name(path: Path) -> str:
    """What temporary files of `path` are called; it leaves room for long names."""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]


def leftovers(path: Path) -> list[Path]:
    """Temporary files and folders of `path` that processes left which are gone.

    A folder that takes long to list is looked at now and then only: listing it for each file would take most of a run.
    """
    folder, began = path.parent, time.monotonic()
    at, took = LISTED.get(folder, (-math.inf, 0.0))
    if took > QUICK and began - at < took / LISTING_SHARE:
        return []
    prefix = f".{short_name(path)}."
    try:
        named = [name for name in os.listdir(folder) if name.startswith(prefix) and name.endswith(PART)]
    except OSError:
        return []  # writing to the folder will say why
    LISTED[folder] = (began, time.monotonic() - began)
    return [found for found in map(folder.joinpath, named) if is_abandoned(found)]


def new_owner() -> str:
    """A part of a file name that no other process, thread or machine uses: host, process, random."""
    return f"{this_host()}-{os.getpid()}-{secrets.token_hex(4)}"


@cache
def this_host() -> str:
    """A digest for this machine since it was started, and for the processes that can be seen from here."""
    facts = [platform.node()]
    try:
        facts += [BOOT.read_text(), os.readlink("/proc/self/ns/pid")]  # containers may share the name of their host
    except OSError:
        facts.append(str(uuid.getnode()))
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:8]


def is_abandoned(path: Path) -> bool:
    """Whether the process that owns a temporary file is known to be gone, or the file old enough to be no one's.

    Of another machine's processes nothing is known, so their files have to be old.
    """
    found = OWNER.search(path.name)
    if found is not None and found["host"] == this_host() and is_gone(int(found["pid"])):
        return True
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_AFTER
    except OSError:
        return False  # removed meanwhile


def is_gone(pid: int) -> bool:
    """Whether no process of this number runs; False where the system does not say."""
    if os.name != "posix":
        return False  # there os.kill ends the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # another user's
    return False


def write_container(path: Path, contents: Mapping[str, bytes], counted: bool = True) -> None:
    """Write the members in order and sync them to disk; `counted` as for `tail`."""
    with open(path, "wb") as file:
        for part in container_parts(contents, counted):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power cut, where the system supports that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def container_parts(contents: Mapping[str, bytes], counted: bool = True) -> list[bytes]:
    """The bytes of the file, in order; `counted` as for `tail`."""
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
    return [*parts, tail(members, offset, counted)]


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


def tail(members: Sequence[Member], offset: int, counted: bool = True) -> bytes:
    """Central directory, ZIP64 end record and locator, end record with the RFC-9 comment.

    `counted`: the end record has the true numbers as far as they fit, for programs that do not read ZIP64. Formats
    before 2.0 leave them to ZIP64.
    """
    directory = b"".join(map(central_header, members))
    end = offset + len(directory)
    count = len(members)
    counts = end_counts(count, len(directory), offset, counted)
    record = (44, MADE_BY_UNIX, VERSION_NEEDED, 0, 0, count, count, len(directory), offset)
    return b"".join(
        [
            directory,
            b"PK\6\6" + struct.pack("<QHHIIQQQQ", *record),
            b"PK\6\7" + struct.pack("<IQI", 0, end, 1),
            b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, *counts, len(COMMENT)),
            COMMENT,
        ]
    )


def end_counts(count: int, size: int, offset: int, counted: bool) -> tuple[int, int, int, int]:
    """Number of members twice, size and offset of the central directory, as the end record has them."""
    if not counted:
        return 0xFFFF, 0xFFFF, IN_ZIP64, IN_ZIP64
    number = min(count, 0xFFFF)
    return number, number, min(size, IN_ZIP64), min(offset, IN_ZIP64)


def read_members(file: IO[bytes], name: str) -> list[Member]:
    """Read the central directory, without folders. `name` is the file's name in messages.

    Raises SummaryError when `file` is not a ZIP, or a member is invalid: a path outside the archive, encrypted, larger
    than the file can hold, overlapping its neighbour. Nothing is allocated for these.
    """
    try:
        with zipfile.ZipFile(cast(IO[bytes], SmallReads(file))) as archive:
            found, directory = archive.infolist(), archive.start_dir
    # zipfile raises several exceptions for a damaged directory, including NotImplementedError.
    except Exception as error:
        raise SummaryError(f"{name}: not a readable ZIP file ({error}); it is damaged or truncated") from error
    if len(found) > MAX_MEMBERS:
        raise SummaryError(f"{name}: expected at most {MAX_MEMBERS} members, found {len(found)}; do not unpack it")
    ends = record_ends([info.header_offset for info in found], directory)
    if len(ends) < len(found):
        raise SummaryError(f"{name}: several members claim the same bytes; do not unpack this file")
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


class SmallReads:
    """A file of which only small parts are read at a time: zipfile reads a whole directory, however long."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Raises ValueError beyond `MAX_DIRECTORY` bytes."""
        data = self._file.read(MAX_DIRECTORY + 1 if size < 0 else min(size, MAX_DIRECTORY + 1))
        if len(data) > MAX_DIRECTORY:
            raise ValueError(f"its list of members has more than {MAX_DIRECTORY} bytes")
        return data


def record_ends(offsets: Sequence[int], directory: int) -> dict[int, int]:
    """Map the offset of each local header to the start of the next one, or of the central directory.

    Members end there, so a damaged local header does not shift its member's data.
    """
    edges = [*sorted(set(offsets)), directory]
    return dict(pairwise(edges))


def what_is_wrong(info: zipfile.ZipInfo, end: int) -> str | None:
    """Why a member must not be read; None if it may."""
    if not is_plain_name(info.orig_filename.removesuffix("/")):
        return "points outside the archive"
    if info.flag_bits & ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is encrypted, or compressed with an unsupported method"
    if info.header_offset < 0:
        return "begins before the file"
    if info.header_offset + LOCAL_HEADER + info.compress_size > end:
        return f"claims {info.compress_size} bytes where there are fewer"
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        return f"claims {info.file_size} bytes, of which {info.compress_size} are stored"
    if info.file_size > max(FREE_INFLATED, MAX_INFLATION * info.compress_size):
        return f"claims to inflate from {info.compress_size} to {info.file_size} bytes"
    return None


def is_plain_name(name: str) -> bool:
    """Whether a name is a plain relative path, which stays inside the folder it is unpacked to."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts)
    return plain and name.isascii() and name.isprintable() and not set(name) & set('\\:*?"<>|')


def read_member(file: IO[bytes], member: Member, start: int = 0, size: int | None = None) -> bytes:
    """Read `size` bytes of a member from `start`, up to its end if None; fewer if it ends earlier.

    Does not check checksums. Raises SummaryError when a compressed member cannot be inflated.
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


def layout_differs(file: IO[bytes], members: Sequence[Member], counted: bool = True) -> str | None:
    """How the file's structure differs from RFC-9 and this format; None if it does not. `counted` as for `tail`.

    Every byte outside members' data is compared with what the members' names, sizes and checksums imply.
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
    expected = tail(members, offset, counted)
    size = file.seek(0, os.SEEK_END)
    if size != offset + len(expected):
        return f"the file has {size} bytes, but its members add up to {offset + len(expected)}"
    file.seek(offset)
    return None if file.read(len(expected)) == expected else "the central directory differs"


def name_of(path: str | Path | Address) -> str:
    """The name of a path or URL in messages: its last part, without keys, tokens and passwords."""
    return name_of_place(path)


def open_anywhere(path: str | Path | Address) -> IO[bytes]:
    """Raises SummaryError for a URL that is not opened, UnreachableError where a store does not answer, OSError."""
    place = place_of(path)
    if isinstance(place, Address):
        with reaching():
            return cast(IO[bytes], RemoteSummaryFile(place))
    return open(place, "rb")


def place_of(path: str | Path | Address) -> Path | Address:
    """Raises SummaryError for a URL that is not opened."""
    if not isinstance(path, str):
        return path
    try:
        return parse_place(path)
    except UsageError as error:
        raise SummaryError(str(error)) from None


def find_summaries(folder: str | Path) -> list[Path] | list[Address]:
    """The summaries below a folder, by path, without hidden names; of a store, all whose names end in `SUFFIX`.

    Raises SummaryError for an address that is not opened or cannot be listed, UnreachableError.
    """
    place = place_of(folder)
    if isinstance(place, Path):
        return sorted(visible_summaries(place))
    if not place.is_store:
        raise SummaryError(f"{place.name}: a folder of a server cannot be listed; give the address of a summary")
    with reaching():
        found = [file.address for file in list_files(place)]
    wanted = (one for one in found if one.name.endswith(SUFFIX) and not is_hidden(place.below(one)))
    return sorted(wanted, key=lambda one: one.key)


def visible_summaries(folder: Path) -> Iterator[Path]:
    """The summaries below a folder, in no order, leaving out hidden names and what lies in hidden folders."""
    for name, folders, files in os.walk(folder):
        folders[:] = [inside for inside in folders if not inside.startswith(".")]
        for file in files:
            path = Path(name) / file
            if file.endswith(SUFFIX) and not file.startswith(".") and path.is_file():
                yield path


def is_hidden(relative: PurePath) -> bool:
    """Whether a path below a folder is hidden there: temporary files, and what was moved aside."""
    return any(part.startswith(".") for part in relative.parts)


class RemoteSummaryFile(RangedFile):
    """Read in ranges. Raises UnreachableError where its store does not answer, SummaryError where it was replaced."""

    def read(self, size: int = -1) -> bytes:
        with reaching():
            return super().read(size)


@contextmanager
def reaching() -> Iterator[None]:
    try:
        yield
    except (RemoteError, AccessError) as error:
        raise UnreachableError(str(error)) from None
    except ChangedSlideError as error:
        raise SummaryError(str(error)) from None
