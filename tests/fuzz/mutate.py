"""Files with faults: small changes to good ones, all drawn from one seed."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable

#: Numbers at which programs go wrong: bounds of types, and sizes that no memory holds.
NUMBERS = (0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 4095, 8191, 32767, 32768, 65535, 65536, 1 << 20, 1 << 24, 1 << 28)
WIDE = (*NUMBERS, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 2_000_000_000, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
FORMATS = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")
WORDS = (b"2000000000", b"-1", b"1e999", b"nan", b"\0", b"=1+1", b"../../x", b"[" * 3000, b'"', b"\xff" * 9, b"9" * 400)
#: Tags that readers look at: sizes, offsets, sub-pages, depth, private ones of microscopes and scanners.
TAGS = (*range(254, 260), 262, 270, 273, 277, 279, 284, 317, *range(322, 326), 330, 338, 347, 700, 32997, 32998)
TAGS += (33560, 33628, 33629, 34118, 34361, 34412, 34665, 34675, 43314, 50838, 50839, 51123, 65420, 65421, 65426)
MOST_BYTES = 1 << 20
DIGITS = re.compile(rb"\d+")


def set_number(data: bytearray, rng: random.Random) -> None:
    form = rng.choice(FORMATS)
    size = struct.calcsize(form)
    if len(data) > size:
        at = rng.randrange(len(data) - size)
        struct.pack_into(form, data, at, rng.choice(WIDE) & ((1 << 8 * size) - 1))


def set_bytes(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)


def flip_bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def copy_within(data: bytearray, rng: random.Random) -> None:
    """One part over another: offsets come to point to where others point, so rings and overlaps arise."""
    size = rng.choice((2, 4, 8, 12, 20, 64))
    if len(data) > size:
        source, target = (rng.randrange(len(data) - size) for _ in range(2))
        data[target : target + size] = data[source : source + size]


def repeat(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    part = data[start : start + rng.choice((1, 12, 100, 1000))]
    data[start:start] = part * rng.choice((1, 2, 50))


def cut(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 2, 12, 100, len(data)))]


def put_word(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    word = rng.choice(WORDS)
    data[at : at + rng.choice((0, len(word)))] = word


def set_digits(data: bytearray, rng: random.Random) -> None:
    """Another number in place of one that is written as text."""
    found = [*DIGITS.finditer(bytes(data[: 1 << 16]))]
    if found:
        place = rng.choice(found)
        data[place.start() : place.end()] = str(rng.choice(WIDE)).encode()


def set_tag(data: bytearray, rng: random.Random) -> None:
    """Type, count or value of a tag on the first page of a TIFF, or the offset of the page behind it."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None or len(data) < 16:
        set_number(data, rng)
        return
    big = data[2:4] in (b"+\0", b"\0+")
    try:
        at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
        count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
        entry = at + (8 if big else 2) + (20 if big else 12) * rng.randrange(min(count, 100) + 1)
        wide = "Q" if big else "I"
        field, form = rng.choice(((0, "H"), (2, "H"), (4, wide), (12 if big else 8, wide)))
        size = struct.calcsize(order + form)
        known = struct.unpack_from(order + form, data, rng.randrange(0, len(data) - size))[0]
        value = rng.choice((*WIDE, *TAGS, at, entry, len(data), known))
        struct.pack_into(order + form, data, entry + field, value & ((1 << 8 * size) - 1))
    except (struct.error, OverflowError):
        set_number(data, rng)


CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(set_number, set_number, set_bytes, flip_bit, copy_within, repeat, cut, put_word, set_digits),
    *(set_tag, set_tag, set_tag),
)


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """One of the seeds with one to six changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if data:
            rng.choice(CHANGES)(data, rng)
    return bytes(data[:MOST_BYTES])
