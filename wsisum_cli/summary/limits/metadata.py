"""JSON of a summary, parsed within limits: a small file can hold metadata that take gigabytes once parsed."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_BYTES = 1 << 20  # of one zarr.json of a summary; a root has some 20 kB
MAX_DEPTH = 32  # of objects and lists; a root has 9
MAX_VALUES = 20_000  # in one zarr.json; a root has some 1,000
#: A string, whose brackets do not count, whole or cut off.
STRING = re.compile(rb'"(?:[^"\\]|\\.?)*+"?', re.DOTALL)
BRACKETS = b"[]{}"
OTHERS = bytes(code for code in range(256) if code not in BRACKETS)


def parse_metadata(data: bytes) -> Any:
    """A zarr.json of a summary. Raises ValueError as `parse_json`, and for one that is much larger than any."""
    if len(data) > MAX_BYTES or data.count(b",") > MAX_VALUES:  # of text, too, which has few
        raise ValueError(f"more than {MAX_VALUES} values, or {MAX_BYTES} bytes of metadata")
    return parse_json(data)


def parse_json(data: bytes) -> Any:
    """Parse strict JSON: UTF-8, no NaN and Infinity, no key twice, not nested deeply. Raises ValueError."""
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and depth(data) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    return json.loads(data.decode(), parse_constant=refuse_constant, object_pairs_hook=without_twins)


def depth(data: bytes) -> int:
    """How deeply objects and lists are nested."""
    now = deepest = 0
    for bracket in STRING.sub(b"", data).translate(None, OTHERS):
        now += 1 if bracket in b"[{" else -1
        deepest = max(deepest, now)
    return deepest


def refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not valid JSON")


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Raises ValueError where a key comes twice: readers differ in which they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice in an object")
    return found
