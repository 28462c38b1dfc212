"""JPEG streams as JPEG XL files: every byte comes back, or the file is refused before it is decoded."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from vendors import jpeg as vendor_jpeg
from vendors import split_tables

from wsisum_cli.slides import jpeg
from wsisum_cli.slides.checks.stream_sizes import image_size
from wsisum_cli.summary.stored.jpeg_xl import MOST_DATA, MOST_PIXELS, MOST_SCANS, restore, transcode

HEIGHT, WIDTH = 72, 104
RNG = np.random.default_rng(0)
PIXELS = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
)


def by_pillow(mode: str = "RGB", **options: Any) -> bytes:
    written = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(written, "JPEG", **options)
    return written.getvalue()


def rejoined(stream: bytes) -> bytes:
    """A stream whose tables were in another place, and then spliced in."""
    tables, rest = split_tables(stream)
    return jpeg.complete_stream(rest, tables, rgb=False).stream


MADE = {
    "4:4:4": by_pillow(subsampling=0),
    "4:2:2": by_pillow(subsampling=1),
    "4:2:0": by_pillow(subsampling=2),
    "4:4:0": bytes(imagecodecs.jpeg8_encode(PIXELS, 80, subsampling="440")),
    "RGB": vendor_jpeg(PIXELS, rgb=True),
    "progressive": by_pillow(progressive=True),
    "restart markers": by_pillow(restart_marker_blocks=2),
    "a comment": by_pillow(comment=b"hi"),
    "spliced tables": rejoined(vendor_jpeg(PIXELS)),
    "Adobe marker": jpeg.redeclare_colour(by_pillow(subsampling=0), rgb=True),
    "bytes behind its end": by_pillow() + b"behind",
    "optimized": jpeg.encode(PIXELS),
}


@pytest.mark.parametrize("name", MADE)
def test_every_byte_comes_back(name: str):
    stream = MADE[name]
    packed = transcode(stream)
    assert packed is not None
    assert packed == transcode(stream)
    assert restore(packed, len(stream), (HEIGHT, WIDTH)) == stream
    assert image_size(packed) == (WIDTH, HEIGHT)


def with_frame(stream: bytes, marker: int, bits: int = 8) -> bytes:
    """Its frame header as one of another process, or of another precision."""
    at = stream.index(b"\xff\xc0")
    return stream[: at + 1] + bytes((marker,)) + stream[at + 2 : at + 4] + bytes((bits,)) + stream[at + 5 :]


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(with_frame(by_pillow(), 0xC9), id="arithmetic coding"),
        pytest.param(with_frame(by_pillow(), 0xC1, 12), id="12 bits"),
        pytest.param(by_pillow("CMYK"), id="CMYK"),
        pytest.param(by_pillow("L"), id="grey"),
        pytest.param(bytes(imagecodecs.jpeg8_encode(PIXELS, 80, subsampling="411")), id="4:1:1"),
        pytest.param(by_pillow()[:-40], id="cut short"),
        pytest.param(by_pillow(exif=b"Exif\0\0" + bytes(40)), id="Exif"),
        pytest.param(b"no JPEG", id="no JPEG"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_does_not_come_back_is_not_transcoded(stream: bytes):
    assert transcode(stream) is None


def test_a_stream_that_comes_back_otherwise_is_not_transcoded(monkeypatch: pytest.MonkeyPatch):
    stream = MADE["4:2:0"]
    monkeypatch.setattr(imagecodecs, "jpegxl_decode_jpeg", lambda *_, **__: stream[:-1] + b"\xd8")
    assert transcode(stream) is None


# ---------------------------------------------------------------------------------------------------- hostile files

STREAM = MADE["4:4:4"]
PACKED = transcode(STREAM) or b""
FRAME = PACKED.rindex(b"jxlp") + 8  # the second part of the codestream begins with the header of the frame


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(data), kind) + data


def parts(packed: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and contents of each box."""
    found, at = [], 0
    while at < len(packed):
        size, kind = struct.unpack_from(">I4s", packed, at)
        found.append((kind, packed[at + 8 : at + size]))
        at += size
    return found


def rebuilt(change: Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]) -> bytes:
    return b"".join(box(kind, data) for kind, data in change(parts(PACKED)))


def replaced(kind: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """With other contents of the first box of a kind."""

    def apply(boxes: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        at = [found for found, _ in boxes].index(kind)
        return [*boxes[:at], (kind, change(boxes[at][1])), *boxes[at + 1 :]]

    return rebuilt(apply)


def flipped(bit: int, start: int = FRAME) -> bytes:
    """With one bit changed, counted from the header of the frame."""
    changed = bytearray(PACKED)
    changed[start + bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def packed_bits(*fields: tuple[int, int]) -> bytes:
    """Values of so many bits each, lowest first."""
    number, at = 0, 0
    for value, count in fields:
        number, at = number | value << at, at + count
    return number.to_bytes(-(-at // 8), "little")


def with_sides(height: int, width: int) -> bytes:
    """Other sides in the header of the codestream; all else as it is."""
    rest = int.from_bytes(parts(PACKED)[2][1][6:], "little") >> 14  # behind the size, which takes 14 bits
    size = ((0, 1), (3, 2), (height - 1, 30), (0, 3), (3, 2), (width - 1, 30))
    header = packed_bits(*size, (rest & (1 << 13) - 1, 13))
    return replaced(b"jxlp", lambda data: data[:6] + header)


def with_markers(*markers: int) -> bytes:
    """A JPEG stream of these markers and no more."""
    fields = [(0, 1), *((marker - 0xC0, 6) for marker in markers)]
    return replaced(b"jbrd", lambda data: packed_bits(*fields, (0, 8)) + data)


HOSTILE = {
    "huge sides": with_sides(1 << 30, 1 << 30),
    "more px than a tile": with_sides(4096, 4096),
    "metadata by default": flipped(14, PACKED.index(b"jxlp") + 10),
    "a preview or moving pictures": flipped(15, PACKED.index(b"jxlp") + 10),
    "samples that are floating": flipped(16, PACKED.index(b"jxlp") + 10),
    "more bits a sample": flipped(17, PACKED.index(b"jxlp") + 10),
    "further channels": flipped(20, PACKED.index(b"jxlp") + 10),
    "another colour space": flipped(23, PACKED.index(b"jxlp") + 10),
    "a frame by default": flipped(0),
    "a frame for reference": flipped(2),
    "a frame without cosines": flipped(3),
    "patches in the frame": flipped(7),
    "enlarged": flipped(21),
    "several passes": flipped(23),
    "a frame larger than the image": flipped(25),
    "blended frames": flipped(26),
    "a further frame": flipped(28),
    "a box of other data": rebuilt(lambda boxes: [*boxes, (b"Exif", bytes(9))]),
    "a box of a codestream that is none": rebuilt(lambda boxes: [*boxes[:2], (b"free", b"\xff\x0a\0"), *boxes[2:]]),
    "two rebuilding boxes": rebuilt(lambda boxes: [*boxes, (b"jbrd", bytes(9))]),
    "no rebuilding box": rebuilt(lambda boxes: [one for one in boxes if one[0] != b"jbrd"]),
    "no codestream": rebuilt(lambda boxes: [one for one in boxes if one[0] != b"jxlp"]),
    "two codestreams": rebuilt(lambda boxes: [*boxes, (b"jxlc", b"\xff\x0a")]),
    "parts in another order": rebuilt(lambda boxes: [*boxes[:2], boxes[4], boxes[3], boxes[2]]),
    "a part less": rebuilt(lambda boxes: boxes[:-1]),
    "a box beyond its end": PACKED + b"\xff\xff\xff\xffjxlp",
    "half a box": PACKED + b"\0\0",
    "very many boxes": PACKED + box(b"jxlp", b"") * 100_000,
    "no file": b"",
    "a bare codestream": bytes(imagecodecs.jpegxl_encode(PIXELS)),
    "a codestream of pixels": bytes(imagecodecs.jpegxl_encode(PIXELS, usecontainer=True)),
    "data of other programs": with_markers(*[0xE1] * (MOST_DATA + 1), 0xD9),
    "comments": with_markers(*[0xFE] * (MOST_DATA + 1), 0xD9),
    "bytes between segments": with_markers(*[0xFF] * (MOST_DATA + 1), 0xD9),
    "scans": with_markers(*[0xDA] * (MOST_SCANS + 1), 0xD9),
    "markers without an end": with_markers(*[0xC4] * 16_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_before_they_are_decoded(name: str, monkeypatch: pytest.MonkeyPatch):
    def decoded(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(imagecodecs, "jpegxl_decode_jpeg", decoded)
    with pytest.raises(AssertionError, match="decoded"):
        restore(PACKED, len(STREAM))
    with pytest.raises(ValueError, match=r"^it |^a box |^parts |^its "):
        restore(HOSTILE[name], len(STREAM))


@pytest.mark.parametrize("length", [0, -1, len(STREAM) - 1, len(STREAM) + 1, 1 << 26, 1 << 40])
def test_another_length_than_the_recorded_one_is_refused(length: int):
    with pytest.raises(ValueError, match=f"{length}|cannot resize"):
        restore(PACKED, length)


def test_another_size_than_that_of_a_patch_is_refused():
    with pytest.raises(ValueError, match=r"an image of \(72, 104\), expected \(104, 72\)"):
        restore(PACKED, len(STREAM), (WIDTH, HEIGHT))
    large = bytes(imagecodecs.jpeg8_encode(np.full((MOST_PIXELS // 1024 + 16, 1024, 3), 200, np.uint8), 50))
    assert transcode(large) is None


def test_files_with_any_fault_are_refused_or_give_as_many_bytes():
    rng = np.random.default_rng(1)
    refused = 0
    for at in rng.integers(0, len(PACKED), 300).tolist():
        faulty = bytearray(PACKED)
        faulty[at] ^= 1 << int(rng.integers(8))
        try:
            assert len(restore(bytes(faulty), len(STREAM), (HEIGHT, WIDTH))) == len(STREAM)
        except ValueError:
            refused += 1
    assert refused > 100
    for cut in rng.integers(0, len(PACKED), 50).tolist():
        with pytest.raises(ValueError, match=r"it |box|parts"):
            restore(PACKED[:cut], len(STREAM))
