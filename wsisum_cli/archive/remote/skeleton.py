"""A remote archive as a local folder without its pixels, so that slides are found there as in any folder.

Every file has its name, size and time; the holes in it take no space. Of those whose content says what they are, the
beginning is there too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from wsisum_cli.archive.formats import is_left_out
from wsisum_cli.archive.outcome import FAILED, Outcome
from wsisum_cli.errors import RemoteError, UsageError
from wsisum_cli.slides.remote.store import RemoteFile, find_file, list_files, read_range
from wsisum_cli.slides.remote.url import Address
from wsisum_cli.slides.slide import DICOM_SUFFIX, VENDOR_SUFFIXES
from wsisum_cli.summary.container import SUFFIX

HEAD = 256 << 10  # bytes of the beginning of a DICOM file, a list of images or a summary
END = 66 << 10  # bytes of the end of a summary, which lists its members
LISTS = (".vms", ".vmu")
#: Suffixes that DICOM files have beside `.dcm`, and none at all; a UID ends in a number.
DICOM_SUFFIXES = ("", DICOM_SUFFIX, ".dicom", ".dic", ".ima")
MAX_NAME = 255  # bytes


def list_archive(folder: Address, output: Address | None) -> dict[str, RemoteFile]:
    """The files below a folder of a store by their paths in it, without those of `output`.

    Raises UsageError where there are none, RemoteError, AccessError.
    """
    start = len(folder.key) + 1 if folder.key else 0
    found = {
        file.address.key[start:]: file
        for file in list_files(folder)
        if output is None or not output.contains(file.address)
    }
    if not found:
        raise UsageError(f"{folder}: no such file or folder, or nothing in it; check the address")
    return found


def list_slide(address: Address) -> dict[str, RemoteFile] | None:
    """A single file, by its name, with those beside it where a slide may have several; None where it is a folder.

    Raises UsageError where a server has no such file, RemoteError, AccessError.
    """
    file = find_file(address) if address.key else None
    if file is None:
        if not address.is_store:
            raise UsageError(f"{address}: no such file on the server; a folder of a server cannot be listed")
        return None
    several = address.is_store and needs_company(address.name)
    parent = Address(address.scheme, address.host, address.key.rpartition("/")[0])
    return {address.name: file, **(list_archive(parent, None) if several else {})}


def needs_company(name: str) -> bool:
    """Whether a slide with such a file may have further ones."""
    return (needs_head(name) and not needs_end(name)) or PurePosixPath(name).suffix.lower() in VENDOR_SUFFIXES


def lay_out(root: Path, files: Mapping[str, RemoteFile]) -> list[Outcome]:
    """Make the folder; outcomes of files that cannot be there. Raises AccessError."""
    outcomes = []
    folders = {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
    for name, file in sorted(files.items()):
        if is_hidden(name) or (not file.bytes and name in folders):  # some programs make an empty object for a folder
            continue
        try:
            if not is_plain(name):
                raise ValueError
            lay_out_file(root / name, file, needs_head(name), needs_end(name))
        except (FileExistsError, NotADirectoryError, IsADirectoryError, ValueError):
            message = f"{PurePosixPath(name).name}: no file can have this name here beside the others; rename it"
            outcomes.append(Outcome(name, FAILED, "name not possible", message))
        except RemoteError as error:  # it went since it was listed, or has a name that the store does not give again
            outcomes.append(Outcome(name, FAILED, error.reason, str(error)))
    return outcomes


def lay_out_file(path: Path, file: RemoteFile, head: bool, end: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as skeleton:
        if head:
            skeleton.write(read_range(file, 0, min(HEAD, file.bytes)))
        if end:
            start = max(0, file.bytes - END)
            skeleton.seek(start)
            skeleton.write(read_range(file, start, file.bytes))
        skeleton.truncate(file.bytes)
    stamp = file.stamp
    os.utime(path, ns=(stamp, stamp))


def is_hidden(name: str) -> bool:
    *folders, last = PurePosixPath(name).parts
    return last.startswith(".") or any(is_left_out(folder) for folder in folders)


def is_plain(name: str) -> bool:
    """Whether a path of a store stays inside the folder that it is laid out in."""
    parts = name.split("/")
    fits = all(part not in ("", ".", "..") and len(part.encode()) <= MAX_NAME for part in parts)
    return fits and "\0" not in name and (os.sep == "/" or not set(name) & set('\\:*?"<>|'))


def needs_end(name: str) -> bool:
    """Whether the end of a file tells with its beginning what it is: the members of a ZIP are listed there."""
    return PurePosixPath(name).suffix.lower() == SUFFIX


def needs_head(name: str) -> bool:
    """Whether the content of a file says what it is, or which others belong to it."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in (*DICOM_SUFFIXES, SUFFIX) or suffix in LISTS or suffix[1:].isdigit()
