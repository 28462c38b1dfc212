"""The bytes of Zarr v3 chunks and shards, and what a reader needs of their metadata. Reads without zarr-python.

zarr-python takes longer to import than a summary takes to read.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc, zstd

ZSTD_LEVEL = 3  # JPEG streams hardly get smaller; only the zeros behind them do
MAX_BYTES = 2**31 - 1  # of an array other than images; Blosc's limit
SAFE_BYTES, SAFE_RATIO = 64 << 20, 200  # larger arrays may not be compressed more than this
TYPES = ("uint8", "int8", "int16", "int32", "float16", "float32", "float64")
#: The index of a shard as it has to be: at the end, with a checksum.
STANDARD_INDEX: dict[str, Any] = {"index_location": "end", "index_codecs": [{"name": "bytes"}, {"name": "crc32c"}]}
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in TYPES}


def checksum(data: bytes) -> bytes:
    """The checksum that Zarr's crc32c codec appends to data."""
    return struct.pack("<I", google_crc32c.value(data))


def checked(data: bytes) -> bytes:
    """Strip and check the appended checksum. Raises ValueError on a mismatch."""
    if len(data) < 4 or checksum(data[:-4]) != data[-4:]:
        raise ValueError("its checksum does not match")
    return data[:-4]


def encode_row(stream: bytes, longest: int) -> bytes:
    """A JPEG stream, filled up with zeros to `longest` bytes, as a zstd frame."""
    return bytes(zstd.compress(stream.ljust(longest, b"\0"), ZSTD_LEVEL))


def decode_row(chunk: bytes, longest: int) -> bytes:
    """A row of `longest` bytes as `encode_row` made it. Raises ValueError for anything else, before it takes memory."""
    if content_size(chunk) != longest:
        raise ValueError(f"its frame does not state the {longest} bytes of a row")
    row = bytearray(longest)
    try:
        zstd.decompress(chunk, row)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"it cannot be decompressed ({error})") from error
    return bytes(row)


def content_size(chunk: bytes) -> int | None:
    """Bytes that a zstd frame states to hold (RFC 8878, 3.1.1.1); None where it does not say, or is no such frame."""
    if len(chunk) < 6 or chunk[:4] != b"\x28\xb5\x2f\xfd":
        return None
    single, flag = chunk[4] >> 5 & 1, chunk[4] >> 6
    at = 5 + (1 - single) + (0, 1, 2, 4)[chunk[4] & 3]
    width = (single, 2, 4, 8)[flag]
    if not width or len(chunk) < at + width:
        return None
    return int.from_bytes(chunk[at : at + width], "little") + (256 if width == 2 else 0)


def pack_shard(chunks: Sequence[bytes]) -> bytes:
    """Concatenate chunks and append the index: offset and size of each as uint64, and the index's CRC-32C."""
    ends = np.cumsum([len(chunk) for chunk in chunks], dtype=np.uint64)
    sizes = np.array([len(chunk) for chunk in chunks], np.uint64)
    index = np.stack([ends - sizes, sizes], axis=1).astype("<u8").tobytes()
    return b"".join([*chunks, index, checksum(index)])


def shard_index_size(chunks: int) -> int:
    return 16 * chunks + 4


def unpack_shard_index(index: bytes) -> list[tuple[int, int]]:
    """Offset and size of each chunk. Raises ValueError when the index fails its checksum."""
    return [(int(offset), int(size)) for offset, size in np.frombuffer(checked(index), "<u8").reshape(-1, 2)]


@dataclass(frozen=True)
class Layout:
    """The parts of an array's zarr.json that a reader needs."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    codecs: tuple[str, ...]  # names; of the inner chunks if the array is sharded

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_layout(metadata: bytes) -> Layout:
    """Parse a zarr.json. Raises ValueError unless it is an array of one chunk with at most `MAX_BYTES`."""
    try:
        found = json.loads(metadata)
        shape = tuple(found["shape"])
        chunk = tuple(found["chunk_grid"]["configuration"]["chunk_shape"])
        codecs = found["codecs"]
        inner = [codecs[0]["configuration"]["chunk_shape"]] if codecs[0]["name"] == "sharding_indexed" else []
        codecs = codecs[0]["configuration"]["codecs"] if inner else codecs
        layout = Layout(shape, DTYPES[found["data_type"]], tuple(str(codec["name"]) for codec in codecs))
        endian = [codec.get("configuration", {}).get("endian") for codec in codecs if codec["name"] == "bytes"]
        sharding = found["codecs"][0]["configuration"] if inner else STANDARD_INDEX
        index = (sharding.get("index_location", "end"), [codec["name"] for codec in sharding["index_codecs"]])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"its zarr.json does not describe an array ({type(error).__name__}: {error})") from error
    if found.get("zarr_format") != 3 or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("its zarr.json does not describe a Zarr v3 array")
    if chunk != tuple(max(1, side) for side in shape) or inner not in ([], [[1, *shape[1:]]]):
        raise ValueError("it is not stored in one chunk or shard, as this format requires")
    if index != ("end", ["bytes", "crc32c"]):
        raise ValueError("the index of its shard is not stored as this format requires")
    swapped = any(order != "little" for order in endian) and layout.dtype.itemsize > 1
    if swapped or (layout.bytes > MAX_BYTES and not inner):
        raise ValueError(f"it is not little-endian, or larger than {MAX_BYTES} bytes")
    return layout


def decode_array(metadata: bytes, chunk: bytes) -> np.ndarray:
    """Decode an array in one chunk. Raises ValueError for anything else, before allocating memory.

    zarr-python reads the same files, but first allocates whatever a damaged shape states.
    """
    layout = read_layout(metadata)
    if layout.codecs != ("bytes", "blosc"):
        raise ValueError(f"it is encoded with {', '.join(layout.codecs)}, expected bytes, blosc")
    sizes = struct.unpack("<III", chunk[4:16]) if len(chunk) >= 16 else ()
    if not sizes or sizes[0] != layout.bytes or sizes[2] != len(chunk):
        raise ValueError("the size of its chunk does not match its shape")
    if layout.bytes > max(SAFE_BYTES, SAFE_RATIO * len(chunk)):
        raise ValueError(f"its chunk of {len(chunk)} bytes claims to hold {layout.bytes}")
    try:
        data = blosc.decompress(chunk)
    except RuntimeError as error:  # numcodecs raises it for any fault
        raise ValueError(f"its chunk cannot be decompressed ({error})") from error
    return np.frombuffer(data, layout.dtype).reshape(layout.shape).copy()  # writable, unlike the buffer
