"""Convert numpy arrays to and from the files of a Zarr v3 hierarchy, as in the core specification and sharding codec.

Importing this module registers the codec `imagecodecs_jpeg` with zarr-python unless it is already registered.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc, zstd
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON
from zarr.registry import get_codec_class, register_codec
from zarr.storage import MemoryStore

from wsisum_cli.slides import jpeg

JPEG_CODEC = "imagecodecs_jpeg"
ZSTD_LEVEL = 3  # JPEG streams hardly get smaller; only the zeros behind them do
MAX_BYTES = 2**31 - 1  # of an array other than images; Blosc's limit
SAFE_BYTES, SAFE_RATIO = 64 << 20, 200  # larger arrays may not be compressed more than this
TYPES = ("uint8", "int16", "int32", "float16", "float32", "float64")
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in TYPES}


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """Stores a chunk of shape (1, H, W, 3) or (H, W, 3) as one complete JPEG stream.

    Same name and format as imagecodecs.zarr, which needs a newer Python than this package.
    """

    is_fixed_size: ClassVar[bool] = False  # type: ignore[misc]  # the base class declares a plain attribute
    level: int | None = None

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        configuration = data.get("configuration")
        level = configuration.get("level") if isinstance(configuration, Mapping) else None
        return cls(level if isinstance(level, int) else None)

    def to_dict(self) -> dict[str, JSON]:
        configuration: dict[str, JSON] = {} if self.level is None else {"level": self.level}
        return {"name": JPEG_CODEC, "configuration": configuration}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError("the size of a JPEG stream is only known after encoding")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        pixels = jpeg.decode(chunk_data.to_bytes())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        pixels = chunk_data.as_numpy_array().reshape(chunk_spec.shape[-3:])
        stream = jpeg.encode(pixels, self.level or jpeg.QUALITY)
        return chunk_spec.prototype.buffer.from_bytes(stream)


def register() -> None:
    """Register the codec, unless imagecodecs has registered its own, which reads the same files."""
    try:
        get_codec_class(JPEG_CODEC)
    except (KeyError, ValueError):  # depends on zarr's version
        register_codec(JPEG_CODEC, JpegCodec)
        # Otherwise zarr warns about two codecs if imagecodecs is imported later.
        zarr.config.set({f"codecs.{JPEG_CODEC}": f"{JpegCodec.__module__}.{JpegCodec.__qualname__}"})


register()


def encode_groups(names: Iterable[str]) -> dict[str, bytes]:
    """The zarr.json files of plain groups."""
    files: dict[str, Buffer] = {}
    for name in names:
        zarr.create_group(MemoryStore(files), path=name, zarr_format=3)
    return to_bytes(files)


def to_bytes(files: Mapping[str, Buffer]) -> dict[str, bytes]:
    """All files except the root's metadata, which the summary writes itself; JSON without indentation."""
    return {
        name: compact(data.to_bytes()) if name.endswith("zarr.json") else data.to_bytes()
        for name, data in files.items()
        if name != "zarr.json"
    }


def compact(text: bytes) -> bytes:
    return json.dumps(json.loads(text), separators=(",", ":")).encode()


def encode_array(name: str, values: np.ndarray, dimensions: Sequence[str], fill: int = 0) -> dict[str, bytes]:
    """The files of an array in one chunk, compressed losslessly.

    The chunk is one Blosc block: several threads may write several blocks in any order.
    """
    files: dict[str, Buffer] = {}
    shuffle = BloscShuffle.shuffle
    array = zarr.create_array(
        MemoryStore(files),
        name=name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(max(1, side) for side in values.shape),
        compressors=BloscCodec(cname="zstd", clevel=9, shuffle=shuffle, blocksize=max(values.nbytes, 1)),
        fill_value=fill,
        dimension_names=list(dimensions),
        zarr_format=3,
        config={"write_empty_chunks": True},
    )
    array[...] = values
    return to_bytes(files)


def encode_rows(name: str, streams: Sequence[bytes], dimension: str) -> dict[str, bytes]:
    """The files of a uint8 array (len(streams), longest) with a JPEG stream in each row, filled up with zeros.

    Each row is a chunk of one shard, so that a reader gets it with two requests. `<name>_bytes` has the lengths.
    """
    files: dict[str, Buffer] = {}
    longest = max(map(len, streams))
    zarr.create_array(
        MemoryStore(files),
        name=name,
        shape=(len(streams), longest),
        dtype=np.uint8,
        shards=(len(streams), longest),
        chunks=(1, longest),
        compressors=[ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()],
        fill_value=0,
        dimension_names=[dimension, "byte"],
        zarr_format=3,
    )
    rows = [zstd.compress(stream.ljust(longest, b"\0"), ZSTD_LEVEL) for stream in streams]
    lengths = encode_array(f"{name}_bytes", np.array([len(stream) for stream in streams], np.int32), [dimension])
    return {**to_bytes(files), **lengths, f"{name}/c/0/0": pack_shard([row + checksum(row) for row in rows])}


def decode_row(chunk: bytes, longest: int) -> bytes:
    """A row as `encode_rows` wrote it, without its checksum. Raises ValueError, before more memory is taken than that.

    What claims to be smaller than it is, or larger, is refused by the decompressor.
    """
    row = bytearray(longest)
    try:
        zstd.decompress(chunk, row)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"it cannot be decompressed ({error})") from error
    return bytes(row)


def checksum(data: bytes) -> bytes:
    """The checksum that Zarr's crc32c codec appends to data."""
    return struct.pack("<I", google_crc32c.value(data))


def checked(data: bytes) -> bytes:
    """Strip and check the appended checksum. Raises ValueError on a mismatch."""
    if len(data) < 4 or checksum(data[:-4]) != data[-4:]:
        raise ValueError("its checksum does not match")
    return data[:-4]


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
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"its zarr.json does not describe an array ({type(error).__name__}: {error})") from error
    if found.get("zarr_format") != 3 or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("its zarr.json does not describe a Zarr v3 array")
    if chunk != tuple(max(1, side) for side in shape) or inner not in ([], [[1, *shape[1:]]]):
        raise ValueError("it is not stored in one chunk or shard, as this format requires")
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
