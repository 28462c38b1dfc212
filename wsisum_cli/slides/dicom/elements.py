"""Elements of a DICOM file, parsed by pydicom. Those asked for are read and no others: a header names a patient too."""

from __future__ import annotations

import logging
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from wsisum_cli.errors import SlideError

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE, MAGIC = 128, b"DICM"
#: Bytes and reads of a header that are parsed, without its pixels and what it says of each frame.
MAX_BYTES, MAX_READS = 1 << 25, 100_000
#: The same of each frame, of which headers say some 200 bytes in 40 reads.
FRAME_BYTES, FRAME_READS = 4096, 512


class DamageError(ValueError):
    """The file contradicts itself or the standard. Its message is ours and quotes no value."""


#: Transfer syntax -> how frames are coded.
RAW, JPEG, JPEG2000, JPEG_LS, RLE = "raw", "jpeg", "jpeg 2000", "jpeg-ls", "rle"
SYNTAXES = {
    "1.2.840.10008.1.2": RAW,  # implicit VR
    "1.2.840.10008.1.2.1": RAW,
    "1.2.840.10008.1.2.4.50": JPEG,
    "1.2.840.10008.1.2.4.51": JPEG,
    "1.2.840.10008.1.2.4.80": JPEG_LS,
    "1.2.840.10008.1.2.4.81": JPEG_LS,
    "1.2.840.10008.1.2.4.90": JPEG2000,
    "1.2.840.10008.1.2.4.91": JPEG2000,
    "1.2.840.10008.1.2.4.201": JPEG2000,  # with the fast entropy coder of JPEG 2000 part 15
    "1.2.840.10008.1.2.4.202": JPEG2000,
    "1.2.840.10008.1.2.4.203": JPEG2000,
    "1.2.840.10008.1.2.5": RLE,
}
IMPLICIT = "1.2.840.10008.1.2"
#: Those whose headers are compressed, or have their bytes in the other order.
UNPARSABLE = {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
UNDEFINED = 0xFFFFFFFF  # length of what ends with a delimiter


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Whatever a damaged file ends in becomes a SlideError; what pydicom says may quote a patient and is dropped."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except SlideError:
            raise
        # pydicom meets damaged files with any exception there is; all of them mean one thing.
        except Exception as error:  # noqa: BLE001 - raised again as one kind
            if isinstance(error, OSError) and error.strerror:
                raise SlideError(f"{path.name}: cannot be read ({error.strerror})") from None
            found = describe_damage(error)
            raise SlideError(f"{path.name}: damaged DICOM header ({found}); fetch the file again") from None


def describe_damage(error: Exception) -> str:
    """In our words: pydicom's may quote a value."""
    if isinstance(error, DamageError):
        return str(error)
    if isinstance(error, AttributeError):
        return f"no {error.name}"
    return type(error).__name__


class HeaderFile:
    """A file of which a header is parsed: no read goes beyond its end, and their number is limited."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self._size = os.fstat(file.fileno()).st_size
        self._bytes, self._reads = MAX_BYTES, MAX_READS

    def allow(self, frames: int) -> None:
        """Let as much more be read as a header may say of so many frames."""
        self._bytes, self._reads = self._bytes + FRAME_BYTES * frames, self._reads + FRAME_READS * frames

    def read(self, count: int = -1) -> bytes:
        rest = max(0, self._size - self.tell())
        data = self._file.read(rest if count < 0 else min(count, rest))
        self._bytes, self._reads = self._bytes - len(data), self._reads - 1
        if self._bytes < 0 or self._reads < 0:
            raise DamageError("larger than any header")
        return data


def read_meta(file: BinaryIO) -> tuple[Dataset, HeaderFile]:
    """The file meta information, and the file at the first element behind it."""
    from pydicom.filereader import read_dataset

    file.seek(PREAMBLE + len(MAGIC))
    head = HeaderFile(file)
    meta = read_dataset(cast("BinaryIO", head), False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    return meta, head


def check_syntax(path: Path, meta: Dataset, parsed_only: bool = False) -> str:
    """The transfer syntax. Raises SlideError for one that is not read, or with `parsed_only` whose header is not."""
    from pydicom.uid import UID

    syntax = UID(str(meta.get("TransferSyntaxUID", "")))
    if syntax in UNPARSABLE if parsed_only else syntax not in SYNTAXES:
        name = syntax.name if syntax.is_transfer_syntax and not syntax.is_private else "unknown"
        raise SlideError(f"{path.name}: transfer syntax {name} is not read; convert it to JPEG or JPEG 2000")
    return str(syntax)


def read_elements(head: HeaderFile, meta: Dataset, keywords: Sequence[str], last: int) -> Dataset:
    """Top-level elements up to the tag `last`; the file stands before the next one afterwards."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset

    tags: list[Any] = [tag_for_keyword(keyword) for keyword in keywords]
    return read_dataset(
        cast("BinaryIO", head), is_implicit(meta), True, stop_when=lambda tag, *_: tag > last, specific_tags=tags
    )


def is_implicit(meta: Dataset) -> bool:
    return str(meta.TransferSyntaxUID) == IMPLICIT


def read_element_header(head: HeaderFile, meta: Dataset) -> tuple[int, int]:
    """Tag and length of the next element, one of those whose length takes four bytes."""
    data = head.read(8 if is_implicit(meta) else 12)
    if len(data) < 8:
        return 0, 0
    group, element = struct.unpack_from("<HH", data)
    return group << 16 | element, int.from_bytes(data[-4:], "little")


def skip_or_read_items(head: HeaderFile, meta: Dataset, tag: int, wanted: bool) -> Iterator[Dataset]:
    """The items of the sequence `tag` one at a time, if it comes next; it is behind the file's position afterwards.

    Of a sequence that is not `wanted` items are given only where they must be parsed to find its end.
    """
    from pydicom.filereader import read_sequence_item

    start = head.tell()
    found, length = read_element_header(head, meta)
    if found != tag:
        head.seek(start)
        return
    end = None if length == UNDEFINED else head.tell() + length
    if end is not None and not wanted:
        head.seek(end)
        return
    while end is None or head.tell() < end:
        item = read_sequence_item(cast("BinaryIO", head), is_implicit(meta), True, "iso8859")
        if item is None:
            return
        yield item


def values_of(value: Any) -> list[Any]:
    """Of an element that may be missing, hold one value, or several."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def first_item(dataset: Dataset | None, *keywords: str) -> Dataset | None:
    """The first item of a sequence within the first item of a sequence, and so on; None where one is missing."""
    for keyword in keywords:
        items = dataset.get(keyword) if dataset is not None else None
        dataset = items[0] if items else None
    return dataset


def numbers(dataset: Dataset | None, *keywords: str) -> tuple[float, ...] | None:
    """The values of all these elements one after the other, None where one is missing or empty."""
    found = [values_of(dataset.get(keyword)) if dataset is not None else [] for keyword in keywords]
    return tuple(float(value) for values in found for value in values) if all(found) else None
