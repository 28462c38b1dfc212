"""Small files that claim to be summaries of gigabytes, each in another way."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image
from summaries import KEPT, SIDE, sign_again, unpack

from wsisum_cli.summary.arrays import encode_array, encode_rows
from wsisum_cli.summary.chunks import checksum, pack_shard
from wsisum_cli.summary.container import container_parts

Bomb = Callable[[Path, dict[str, bytes]], Any]


def deflated(path: Path, contents: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def root_with(files: dict[str, bytes], **changes: Any) -> bytes:
    root = json.loads(files["zarr.json"])
    root["attributes"]["wsisum"] |= changes
    return json.dumps(root).encode()


def deflated_metadata(path: Path, members: dict[str, bytes]) -> None:
    deflated(path, members | {"zarr.json": b'{"attributes":[' + b"[]," * 60_000_000 + b"[]]}"})


def long_metadata(path: Path, members: dict[str, bytes]) -> None:
    path.write_bytes(b"".join(container_parts(members | {"zarr.json": b'{"attributes":[' + b"[]," * 5_000_000})))


def deep_metadata(path: Path, members: dict[str, bytes]) -> None:
    deep = b'{"a":' * 150_000 + b"1" + b"}" * 150_000
    path.write_bytes(b"".join(container_parts(members | {"zarr.json": deep})))


def escaped_quotes(path: Path, members: dict[str, bytes]) -> None:
    path.write_bytes(b"".join(container_parts(members | {"zarr.json": b'"' + b'\\"' * 500_000})))


def many_wrong_attributes(path: Path, members: dict[str, bytes]) -> None:
    listed = {f"{number:x}": 1 for number in range(70_000)}
    path.write_bytes(b"".join(container_parts(members | {"zarr.json": root_with(members, members=listed)})))


def many_wrong_notes(path: Path, members: dict[str, bytes]) -> None:
    sign_again(path, members, lambda attributes: attributes["source"].update(notes=[0] * 19_000))


def many_dimensions(path: Path, members: dict[str, bytes]) -> None:
    metadata = json.loads(members["tissue/coords/zarr.json"])
    metadata["shape"] = metadata["chunk_grid"]["configuration"]["chunk_shape"] = [10**4000] * 60
    sign_again(path, members | {"tissue/coords/zarr.json": json.dumps(metadata).encode()})


def many_members(path: Path, members: dict[str, bytes]) -> None:
    extra = {f"extra/{number}": b"" for number in range(9_000)}
    path.write_bytes(b"".join(container_parts(members | extra)))


def long_directory(path: Path, _members: dict[str, bytes]) -> None:
    """Entries of 60 bytes, of which the directory has a million."""
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, 0, 0, 0, 33, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + b"%08x" % number for number in range(1_000_000))
    tail = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1_000_000, 1_000_000, len(directory), 0)
    tail += struct.pack("<4sIQI", b"PK\6\7", 0, len(directory), 1)
    tail += struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(directory + tail)


def shared_bytes(path: Path, _members: dict[str, bytes]) -> None:
    """A thousand members of the same deflated 1 MB."""
    data = zlib.compress(bytes(1 << 20), 9)[2:-4]
    record = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 8, 0, 33, 0, len(data), 1 << 20, 8, 0) + b"%08x" % 0 + data
    entries = b""
    for number in range(900):
        head = (b"PK\1\2", 20, 20, 0, 8, 0, 33, 0, len(data), 1 << 20, 8, 0, 0, 0, 0, 0, 0)
        entries += struct.pack("<4sHHHHHHIIIHHHHHII", *head) + b"%08x" % number
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 900, 900, len(entries), len(record), 0)
    path.write_bytes(record + entries + end)


def wide_rows(path: Path, members: dict[str, bytes]) -> None:
    """Rows of 60 MB, of zeros but for a stream at the beginning."""
    longest = 60_000_000
    stream = imagecodecs.jpeg8_encode(np.zeros((SIDE, SIDE, 3), np.uint8))
    row = imagecodecs.zstd_encode(stream.ljust(longest, b"\0"), 3)
    files = encode_rows("patches/pixels", [stream] * KEPT, "patch")
    metadata = json.loads(files["patches/pixels/zarr.json"])
    metadata["shape"][1] = metadata["chunk_grid"]["configuration"]["chunk_shape"][1] = longest
    metadata["codecs"][0]["configuration"]["chunk_shape"][1] = longest
    files["patches/pixels/zarr.json"] = json.dumps(metadata).encode()
    files["patches/pixels/c/0/0"] = pack_shard([row + checksum(row)] * KEPT)
    sign_again(path, members | files)


def many_rows(path: Path, members: dict[str, bytes]) -> None:
    """Sixteen million rows, of which the shard holds none."""
    count = 16_000_000
    files = encode_array("patches/pixels_bytes", np.ones(count, np.int32), ["patch"])
    metadata = json.loads(members["patches/pixels/zarr.json"])
    for shape in (metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]):
        shape[0] = count
    files["patches/pixels/zarr.json"] = json.dumps(metadata).encode()
    sign_again(path, members | files)


def large_patches(path: Path, members: dict[str, bytes]) -> None:
    """Patches of 200 MB each, of few bytes: progressive, and cut off after the header."""
    stream = imagecodecs.jpeg8_encode(np.zeros((8192, 8192, 3), np.uint8), level=1, optimize=True)
    cut = bytes(stream[: stream.index(b"\xff\xda") + 64]) + b"\xff\xd9"

    def change(attributes: dict[str, Any]) -> None:
        patch = attributes["patch"]
        patch["patch_size"] = patch["reading"]["patch_size"] = attributes["encoder"]["patch_size"] = 8192
        patch["mpp"] = attributes["source"]["mpp"] * patch["patch_size_level0"] / 8192

    sign_again(path, members | encode_rows("patches/pixels", [cut] * KEPT, "patch"), change)


def packed_claims(path: Path, members: dict[str, bytes]) -> None:
    """JPEG XL files of a few bytes that claim 2^30 px a side, from JPEG streams of 64 MB."""
    stream = bytes(imagecodecs.jpeg8_encode(np.zeros((SIDE, 3 * SIDE, 3), np.uint8)))
    packed = bytes(imagecodecs.jpegxl_encode_jpeg(stream, usecontainer=True))
    at = packed.index(b"jxlp") + 10  # where the header begins, whose first 14 bits say the sides
    rest = int.from_bytes(packed[at : at + 4], "little") >> 14 & (1 << 13) - 1
    huge = (3 << 1) + ((1 << 30) - 1 << 3) + (3 << 36) + ((1 << 30) - 1 << 38) + (rest << 68)
    part = packed[at - 10 : at] + huge.to_bytes(11, "little")
    row = packed[: at - 14] + struct.pack(">I", 4 + len(part)) + part + packed[at + 4 :]
    files = encode_rows("patches/pixels", [row] * KEPT, "patch")
    files |= encode_array("patches/pixels_jpeg_bytes", np.full(KEPT, 1 << 26, np.int32), ["patch"])
    sign_again(path, members | files, lambda attributes: attributes["pixels"].update(recompressed="jxl"))


def large_packed_patches(path: Path, members: dict[str, bytes]) -> None:
    """Patches of half the px that any file may hold in JPEG XL, white, from progressive JPEG."""
    side = 1024
    stream = white_in_scans(side)
    row = bytes(imagecodecs.jpegxl_encode_jpeg(stream, usecontainer=True))

    def change(attributes: dict[str, Any]) -> None:
        patch = attributes["patch"]
        patch["patch_size"] = patch["reading"]["patch_size"] = attributes["encoder"]["patch_size"] = side
        patch["mpp"] = attributes["source"]["mpp"] * patch["patch_size_level0"] / side
        attributes["pixels"]["recompressed"] = "jxl"

    files = encode_rows("patches/pixels", [row] * KEPT, "patch")
    files |= encode_array("patches/pixels_jpeg_bytes", np.full(KEPT, len(stream), np.int32), ["patch"])
    sign_again(path, members | files, change)


def white_in_scans(side: int) -> bytes:
    """A white progressive JPEG."""
    written = io.BytesIO()
    Image.new("RGB", (side, side), "white").save(written, "JPEG", progressive=True, subsampling=0)
    return written.getvalue()


def empty_arrays(path: Path, members: dict[str, bytes]) -> None:
    """Sixty MB of zeros for every list of the tissue, in a few kB."""
    count = 7_000_000
    files: dict[str, bytes] = {}
    for name, dtype, shape in (
        ("coords", np.int32, (count, 2)),
        ("representative", np.int32, (count,)),
        ("similarity", np.float16, (count,)),
        ("cluster", np.int16, (count,)),
        ("earlier_count", np.int32, (count,)),
        ("earlier_representative", np.int32, (count,)),
        ("earlier_similarity", np.float16, (count,)),
    ):
        files |= encode_array(f"tissue/{name}", np.zeros(shape, dtype), ["tissue", "xy"][: len(shape)])
    sign_again(path, members | files, lambda attributes: attributes.update(tissue_patches=count))


def far_representative(path: Path, members: dict[str, bytes]) -> None:
    """A representative of which a count would take 16 GB."""
    count = len(np.zeros(json.loads(members["tissue/representative/zarr.json"])["shape"]))
    files = encode_array("tissue/representative", np.full(count, 2**31 - 1, np.int32), ["tissue"])
    sign_again(path, members | files)


def small_patches_on_a_wide_slide(path: Path, members: dict[str, bytes]) -> None:
    """Px of an ångström, two billion of them."""

    def change(attributes: dict[str, Any]) -> None:
        attributes["source"] |= {"width": 2**31 - 1, "height": 2**31 - 1, "mpp": 1e-7}
        attributes["patch"]["mpp"] = 1e-7 * attributes["patch"]["patch_size_level0"] / attributes["patch"]["patch_size"]

    sign_again(path, members, change)


BOMBS: tuple[Bomb, ...] = (
    deflated_metadata,
    long_metadata,
    deep_metadata,
    escaped_quotes,
    many_wrong_attributes,
    many_wrong_notes,
    many_dimensions,
    many_members,
    long_directory,
    shared_bytes,
    wide_rows,
    many_rows,
    large_patches,
    packed_claims,
    large_packed_patches,
    empty_arrays,
    far_representative,
    small_patches_on_a_wide_slide,
)


def write_bomb(bomb: Bomb, path: Path, summary: Path) -> Path:
    """Make a bomb of a small whole summary."""
    bomb(path, unpack(summary))
    return path
