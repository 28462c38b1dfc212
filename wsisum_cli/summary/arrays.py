"""Convert numpy arrays to the files of a Zarr v3 hierarchy, as in the core specification and sharding codec.

Importing this module registers the codec `imagecodecs_jpeg` with zarr-python unless it is already registered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import zarr
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON
from zarr.registry import get_codec_class, register_codec
from zarr.storage import MemoryStore

from wsisum_cli.slides import jpeg
from wsisum_cli.summary.chunks import ZSTD_LEVEL, checksum, encode_row, pack_shard

JPEG_CODEC = "imagecodecs_jpeg"
LEVEL = 8  # of Blosc: 9 takes 20 to 50 times as long on an overview, and saves up to 4 kB


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
        compressors=BloscCodec(cname="zstd", clevel=LEVEL, shuffle=shuffle, blocksize=max(values.nbytes, 1)),
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
    rows = [encode_row(stream, longest) for stream in streams]
    lengths = encode_array(f"{name}_bytes", np.array([len(stream) for stream in streams], np.int32), [dimension])
    return {**to_bytes(files), **lengths, f"{name}/c/0/0": pack_shard([row + checksum(row) for row in rows])}
