"""Numpy arrays <-> the files of a Zarr v3 hierarchy. The Zarr v3 core specification, and its sharding codec.

Importing this module registers the codec `imagecodecs_jpeg` with zarr-python where nothing else has.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import google_crc32c
import numpy as np
import zarr
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import BloscCodec, BloscShuffle
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON
from zarr.registry import get_codec_class, register_codec
from zarr.storage import MemoryStore

from wsisum_cli import jpeg

JPEG_CODEC = "imagecodecs_jpeg"


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """A chunk of shape (1, H, W, 3) or (H, W, 3) as one complete JPEG stream.

    The same name and files as imagecodecs.zarr, which needs a newer Python than this package supports.
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
        raise NotImplementedError("the size of a JPEG stream is known only once it is encoded")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        pixels = jpeg.decode(chunk_data.to_bytes())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        pixels = chunk_data.as_numpy_array().reshape(chunk_spec.shape[-3:])
        stream = jpeg.encode(pixels, self.level or jpeg.QUALITY)
        return chunk_spec.prototype.buffer.from_bytes(stream)


def register() -> None:
    try:
        get_codec_class(JPEG_CODEC)
    except KeyError:
        register_codec(JPEG_CODEC, JpegCodec)


register()


def encode_groups(names: Iterable[str]) -> dict[str, bytes]:
    """zarr.json files of plain groups."""
    files: dict[str, Buffer] = {}
    for name in names:
        zarr.create_group(MemoryStore(files), path=name, zarr_format=3)
    return to_bytes(files)


def to_bytes(files: Mapping[str, Buffer]) -> dict[str, bytes]:
    """Everything but the root's metadata, which the summary writes itself; JSON without its indentation."""
    return {
        name: compact(data.to_bytes()) if name.endswith("zarr.json") else data.to_bytes()
        for name, data in files.items()
        if name != "zarr.json"
    }


def compact(text: bytes) -> bytes:
    return json.dumps(json.loads(text), separators=(",", ":")).encode()


def encode_array(name: str, values: np.ndarray, dimensions: Sequence[str], fill: int = 0) -> dict[str, bytes]:
    """The files of an array in one chunk, compressed without loss."""
    files: dict[str, Buffer] = {}
    array = zarr.create_array(
        MemoryStore(files),
        name=name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(max(1, side) for side in values.shape),
        compressors=BloscCodec(cname="zstd", clevel=9, shuffle=BloscShuffle.shuffle),
        fill_value=fill,
        dimension_names=list(dimensions),
        zarr_format=3,
    )
    array[...] = values
    return to_bytes(files)


def encode_jpegs(name: str, streams: Sequence[bytes], side: tuple[int, int]) -> dict[str, bytes]:
    """The files of an array of (len(streams), H, W, 3) uint8 whose chunks are these streams, in one shard."""
    files: dict[str, Buffer] = {}
    zarr.create_array(
        MemoryStore(files),
        name=name,
        shape=(len(streams), *side, 3),
        dtype=np.uint8,
        shards=(len(streams), *side, 3),
        chunks=(1, *side, 3),
        serializer=JpegCodec(),
        compressors=None,
        fill_value=255,
        dimension_names=["patch", "y", "x", "c"],
        zarr_format=3,
    )
    return {**to_bytes(files), f"{name}/c/0/0/0/0": pack_shard(streams)}


def pack_shard(chunks: Sequence[bytes]) -> bytes:
    """Chunks in a row, then the index: offset and size of each as uint64, and the index's CRC-32C."""
    ends = np.cumsum([len(chunk) for chunk in chunks], dtype=np.uint64)
    sizes = np.array([len(chunk) for chunk in chunks], np.uint64)
    index = np.stack([ends - sizes, sizes], axis=1).astype("<u8").tobytes()
    return b"".join([*chunks, index, struct.pack("<I", google_crc32c.value(index))])


def shard_index_size(chunks: int) -> int:
    return 16 * chunks + 4


def unpack_shard_index(index: bytes) -> list[tuple[int, int]]:
    """Offset and size of each chunk. Raises ValueError when the index fails its checksum."""
    entries, checksum = index[:-4], index[-4:]
    if struct.pack("<I", google_crc32c.value(entries)) != checksum:
        raise ValueError("the shard index fails its checksum")
    return [(int(offset), int(size)) for offset, size in np.frombuffer(entries, "<u8").reshape(-1, 2)]


def decode_array(name: str, files: Mapping[str, bytes]) -> np.ndarray:
    """The array `name` out of its files (zarr.json and chunks by their paths in the hierarchy).

    Raises ValueError for files that do not make an array.
    """
    prototype = zarr.core.buffer.default_buffer_prototype()
    stored = {path: prototype.buffer.from_bytes(data) for path, data in files.items()}
    try:
        array = zarr.open_array(MemoryStore(stored), path=name, mode="r")
        values: Any = array[...]
    # zarr and its codecs meet damaged files with exceptions of many kinds.
    except Exception as error:
        raise ValueError(f"{name} cannot be decoded ({error})") from error
    return np.asarray(values)
