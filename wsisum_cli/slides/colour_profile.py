"""ICC profiles without the text in them: what turns colours into others, and nothing that names a person or a time.

Layout as in ICC.1:2022. Profiles hold free text (description, copyright, maker, calibration targets, private tags), a
date and an identifier; scanners write serial numbers and users into them. The tags below are numbers alone.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

HEADER, ENTRY = 128, 12  # bytes
MAX_TAGS = 100
SIGNATURE = slice(36, 40)
#: Bytes of the header that are kept: version, class, colour spaces, signature, intent, white point.
KEPT_OF_HEADER = ((8, 10), (12, 24), (36, 40), (66, 80))
CLASSES, CONNECTIONS = (b"scnr", b"mntr", b"prtr", b"spac"), (b"XYZ ", b"Lab ")
NO_DATE = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
#: Tag -> types of its data that hold nothing but numbers.
CURVES, TABLES = (b"curv", b"para"), (b"mft1", b"mft2", b"mAB ", b"mBA ")
NUMERIC = {
    **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC", b"kTRC"), CURVES),
    **dict.fromkeys((b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt", b"bkpt", b"lumi"), (b"XYZ ",)),
    **dict.fromkeys((b"A2B0", b"A2B1", b"A2B2", b"B2A0", b"B2A1", b"B2A2"), TABLES),
    b"chad": (b"sf32",),
}
#: What every profile must have besides, in both versions of the standard: they say nothing.
WORDS = b"colour profile"


def colour_tables(profile: bytes | None) -> bytes | None:
    """The profile with fixed words in place of its text and date; None where there is none, or none to be read.

    The same profile gives the same bytes.
    """
    if profile is None:
        return None
    try:
        tags = numeric_tags(profile)
    except (struct.error, ValueError, IndexError):
        return None
    if not tags:
        return None
    version = profile[8]
    tags |= {b"desc": describe(version), b"cprt": copyright_of(version)}
    return join_profile(profile, tags)


def numeric_tags(profile: bytes) -> dict[bytes, bytes]:
    """Data of the tags that hold numbers alone. Raises ValueError, struct.error for what is no profile."""
    known = profile[12:16] in CLASSES and profile[16:20] == b"RGB " and profile[20:24] in CONNECTIONS
    if profile[SIGNATURE] != b"acsp" or not known:
        raise ValueError("no ICC profile of RGB")
    (count,) = struct.unpack_from(">I", profile, HEADER)
    if count > MAX_TAGS:
        raise ValueError(f"{count} tags")
    found = {}
    for index in range(count):
        tag, offset, size = struct.unpack_from(">4sII", profile, HEADER + 4 + ENTRY * index)
        data = profile[offset : offset + size]
        if len(data) == size >= 8 and data[:4] in NUMERIC.get(tag, ()):
            found[tag] = data[:4] + bytes(4) + only_numbers(data)
    return found


def only_numbers(data: bytes) -> bytes:
    """What follows the type of a tag's data and four reserved bytes, without what stands between or behind its numbers.

    Raises ValueError, struct.error.
    """
    if data[:4] not in (b"mAB ", b"mBA "):
        return data[8 : size_of(data)]
    kept = bytearray(len(data))
    for start, stop in parts_of(data):
        if stop > len(data):
            raise ValueError(f"{data[:4]!r} of {len(data)} bytes, its numbers end at {stop}")
        kept[start:stop] = data[start:stop]
    return bytes(kept[8:])


def parts_of(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the numbers of a tag of type mAB or mBA lie: curves, a matrix and a table, at offsets that its head says.

    Raises ValueError, struct.error.
    """
    inputs, outputs = data[8], data[9]
    if not 0 < max(inputs, outputs) < 16:
        raise ValueError(f"{inputs} and {outputs} channels")
    b, matrix, m, table, a = struct.unpack_from(">5I", data, 12)
    yield from ((8, 10), (12, 32))
    if matrix:
        yield matrix, matrix + 4 * 12
    if table:
        grid, precision = data[table : table + inputs], data[table + 16]
        yield table, table + 17
        yield table + 20, table + 20 + math.prod(grid) * outputs * (2 if precision == 2 else 1)
    forward = data[:4] == b"mAB "
    for start, count in ((b, outputs if forward else inputs), (m, outputs if forward else inputs)):
        yield from curves_of(data, start, count)
    yield from curves_of(data, a, inputs if forward else outputs)


def curves_of(data: bytes, start: int, count: int) -> Iterator[tuple[int, int]]:
    """Where the numbers of so many curves lie, which follow one another from `start` on; 0 is for none."""
    for _ in range(count if start else 0):
        if data[start : start + 4] not in CURVES:
            raise ValueError("no curve is where the profile says")
        size = size_of(data[start:])
        yield start, start + 4
        yield start + 8, start + size
        start += -(-size // 4) * 4


def size_of(data: bytes) -> int:
    """Bytes that the numbers of a tag's data take with its head. Raises ValueError where they are not all there."""
    kind = data[:4]
    size = len(data)
    if kind == b"curv":
        size = 12 + 2 * struct.unpack_from(">I", data, 8)[0]
    elif kind == b"para":
        function = struct.unpack_from(">H", data, 8)[0]
        size = 12 + 4 * dict(enumerate((1, 3, 4, 5, 7))).get(function, 1 << 20)
    elif kind == b"XYZ ":
        size = 20  # the first of the list, which is all that these tags may hold
    elif kind == b"sf32":
        size = 8 + 4 * 9
    elif kind in (b"mft1", b"mft2"):
        inputs, outputs, grid = data[8], data[9], data[10]
        entries = struct.unpack_from(">HH", data, 48) if kind == b"mft2" else (256, 256)
        numbers = inputs * entries[0] + grid**inputs * outputs + outputs * entries[1]
        size = (52 + 2 * numbers) if kind == b"mft2" else (48 + numbers)
    if size > len(data):
        raise ValueError(f"{kind!r} of {len(data)} bytes, its numbers take {size}")
    return size


def describe(version: int) -> bytes:
    """The tag `desc`: a text of several languages since version 4, one of ASCII and empty others before."""
    if version >= 4:
        return multilingual()
    text = WORDS + b"\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)


def copyright_of(version: int) -> bytes:
    return multilingual() if version >= 4 else b"text" + bytes(4) + WORDS + b"\0"


def multilingual() -> bytes:
    text = WORDS.decode().encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text


def join_profile(original: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A profile of these tags, in the order of their names; equal data stand there once."""
    header = bytearray(HEADER)
    for start, stop in KEPT_OF_HEADER:
        header[start:stop] = original[start:stop]
    header[24:36] = NO_DATE
    place, table, body = HEADER + 4 + ENTRY * len(tags), b"", b""
    places: dict[bytes, int] = {}
    for tag, data in sorted(tags.items()):
        if data not in places:
            places[data] = place + len(body)
            body += data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", tag, places[data], len(data))
    header[:4] = struct.pack(">I", place + len(body))
    return bytes(header) + struct.pack(">I", len(tags)) + table + body
