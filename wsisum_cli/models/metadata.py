"""The metadata of an ONNX file, and the names of its external weight files.

The onnx package would parse gigabytes for this, and is only installed for training. An ONNX file is one protobuf
message, a sequence of numbered fields; values that do not matter are skipped here, and copied unchanged.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from wsisum_cli.errors import ModelError

#: Field numbers of onnx.proto: ModelProto.graph, .metadata_props, .functions.
_GRAPH, _METADATA, _FUNCTIONS = 7, 14, 25
#: The path from the model to the names of weight files: message -> field -> message in it.
_SCHEMA: Mapping[str, Mapping[int, str]] = {
    "model": {_GRAPH: "graph", _FUNCTIONS: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {13: "entry"},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types
_DEEPEST = 64  # nested graphs; models of this package have none

#: Number, first byte of the field, first and last byte of its value.
_Field = tuple[int, int, int, int]


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata keys and values; the last wins if a key repeats. Raises ModelError when the file is not ONNX."""
    with _mapped(path) as data:
        return dict(_entry(data, field) for field in _fields(data, 0, len(data)) if field[0] == _METADATA)


def weight_files(path: Path) -> list[str]:
    """The model's external weight files, as it names them: relative to its folder, with /.

    Raises ModelError when the file is not ONNX.
    """
    with _mapped(path) as data:
        return sorted({entries["location"] for entries in _external(data, "model", 0, len(data))})


def check_weights(path: Path) -> None:
    """Raise ModelError unless all weights in other files lie in the model's folder, and are there in full.

    onnxruntime reads whatever file a model names; through a link or a path that leads out, any on this machine.
    """
    with _mapped(path) as data:
        wanted = [_place(path, entries) for entries in _external(data, "model", 0, len(data))]
    # The cache of Hugging Face has links for both, to files in one folder.
    home, beside, ends = path.parent.resolve(), path.resolve().parent, dict[str, int]()
    for location, end in wanted:
        ends[location] = max(ends.get(location, 0), end)
    for location, end in sorted(ends.items()):
        file = path.parent / location
        parts = PurePosixPath(location).parts
        if "\\" in location or "\0" in location or Path(location).is_absolute() or ".." in parts or not parts:
            raise ModelError(
                f"{path.name}: keeps weights in {location!r:.80}; export it with them in one file beside it"
            )
        if not file.is_file():
            raise ModelError(f"{path.name}: keeps weights in {location}, which is not beside it; put it there")
        if not file.resolve().is_relative_to(home) and file.resolve().parent != beside:
            raise ModelError(f"{path.name}: keeps weights in {location}, a link to another folder; copy the file there")
        if end > (found := file.stat().st_size):
            raise ModelError(
                f"{path.name}: expected {end} bytes of weights in {location}, found {found}; copy the whole file there"
            )


def _place(path: Path, entries: Mapping[str, str]) -> tuple[str, int]:
    """The file of a tensor's weights, and where in it they end at least. Raises ModelError."""
    try:
        offset, length = (int(entries.get(key, "0")) for key in ("offset", "length"))
    except ValueError:
        offset = length = -1
    if min(offset, length) < 0:
        raise ModelError(f"{path.name}: expected numbers as the places of its weights, found others; export it again")
    return entries["location"], offset + length


def copy_with_metadata(path: Path, copy: Path, key: str, value: str) -> None:
    """Copy an ONNX file with one metadata entry changed or added; all other bytes stay the same.

    Raises ModelError when the file is not ONNX.
    """
    with _mapped(path) as data, memoryview(data) as view, copy.open("wb") as target:
        for field in _fields(data, 0, len(data)):
            if field[0] == _METADATA and _entry(data, field)[0] == key:
                continue
            with view[field[1] : field[3]] as same:
                target.write(same)
        target.write(_message(_METADATA, _message(1, key.encode()) + _message(2, value.encode())))


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """Memory-map the file. Raises ModelError when the block finds that it is not ONNX."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except (ValueError, IndexError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{path.name}: expected an ONNX model, found another kind of file or a damaged one; export it again"
        ) from error


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """Yield the fields of the message in a byte range. Raises ValueError or IndexError if it is not a message."""
    while start < end:
        key, place = _varint(data, start)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            after = _varint(data, place)[1]
        elif wire == _BYTES:
            length, place = _varint(data, place)
            after = place + length
        elif wire in (_FIXED32, _FIXED64):
            after = place + (4 if wire == _FIXED32 else 8)
        else:
            raise ValueError
        if number == 0 or after > end:
            raise ValueError
        yield number, start, place, after
        start = after


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """Read a varint, seven bits per byte; returns it and the position after it."""
    number = shift = 0
    while shift < 70:
        byte = data[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
    raise ValueError


def _entry(data: mmap.mmap, field: _Field) -> tuple[str, str]:
    """Key and value of an entry."""
    texts = {number: data[start:end].decode() for number, _, start, end in _fields(data, field[2], field[3])}
    return texts.get(1, ""), texts.get(2, "")


def _external(data: mmap.mmap, message: str, start: int, end: int, depth: int = 0) -> Iterator[dict[str, str]]:
    """What is said of each tensor that is stored in another file."""
    if depth > _DEEPEST:
        raise ValueError
    entries: dict[str, str] = {}
    for field in _fields(data, start, end):
        inner = _SCHEMA[message].get(field[0])
        if inner == "entry":
            key, value = _entry(data, field)
            entries[key] = value
        elif inner is not None:
            yield from _external(data, inner, field[2], field[3], depth + 1)
    if "location" in entries:
        yield entries


def _message(number: int, content: bytes) -> bytes:
    """Encode a field of bytes."""
    length, head = len(content), bytearray([number << 3 | _BYTES])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes([*head, length]) + content
