"""What an ONNX model says of itself: its card, read from the file's metadata.

The card is a JSON object under the key `wsisum.card`. Models made elsewhere may give the fields as metadata
keys of their own instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from wsisum_cli.errors import ModelError

T = TypeVar("T")

CARD_KEY = "wsisum.card"
REMEDY = f"correct it in the file's metadata, as a JSON object under {CARD_KEY!r}"
_CARD_KEYS = (
    *("name", "version", "kind", "patch_size", "mpp", "mpp_tolerance", "mean", "std", "dims"),
    *("licence", "license", "description"),
)


@dataclass(frozen=True)
class Card:
    """What an encoder says of itself."""

    name: str
    version: str
    #: Always "encoder": patches in, one vector each out.
    kind: str
    #: Side of a patch in px, as the encoder sees it.
    patch_size: int
    #: µm per px of such a patch.
    mpp: float
    #: How far a patch may be from `mpp`, relative: 0.1 is a tenth more or less.
    mpp_tolerance: float
    #: Of R, G, B scaled to 0..1. Ignored when the graph takes uint8, for it then normalises by itself.
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    #: Length D of a feature vector.
    dims: int
    licence: str
    description: str
    #: Of the ONNX file; weights it keeps in other files are not covered.
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}


def _number(value: Any) -> float:
    """A finite number, also where metadata gives it as text."""
    if isinstance(value, bool):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _between(low: float, high: float) -> Callable[[Any], float]:
    """A parser of numbers from `low` to `high`, both included."""

    def parse(value: Any) -> float:
        number = _number(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def _positive(high: float) -> Callable[[Any], float]:
    """A parser of numbers above 0, up to `high`."""
    return _between(math.ulp(0.0), high)


def _count(value: Any) -> int:
    number = _positive(65536)(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _mean(value: Any) -> tuple[float, float, float]:
    return _triple(value, _between(0, 1))


def _std(value: Any) -> tuple[float, float, float]:
    return _triple(value, _positive(1))


def _triple(value: Any, parse: Callable[[Any], float]) -> tuple[float, float, float]:
    if isinstance(value, str):
        value = value.strip(" []()").split(",")
    if not isinstance(value, list):
        raise TypeError
    red, green, blue = (parse(number) for number in value)
    return red, green, blue


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value.strip()


def _text(value: Any) -> str:
    return _word(value) if value != "" else ""


@dataclass(frozen=True)
class Fields:
    """The raw fields of a card, and the file they were read from."""

    source: str
    values: Mapping[str, Any]

    def take(self, key: str, expected: str, parse: Callable[[Any], T], default: T | None = None) -> T:
        """One field; `expected` says in words what `parse` accepts. None as default: it must be there."""
        if key not in self.values:
            if default is None:
                raise ModelError(f"{self.source}: the card lacks {key!r}, {expected}; {REMEDY}")
            return default
        try:
            return parse(self.values[key])
        except (TypeError, ValueError, OverflowError):
            raise self.wrong(key, expected, repr(self.values[key])) from None

    def wrong(self, key: str, expected: str, found: str) -> ModelError:
        found = found if len(found) <= 80 else found[:77] + "..."
        return ModelError(f"{self.source}: card field {key!r}: expected {expected}, found {found}; {REMEDY}")


def read_fields(metadata: Mapping[str, str], source: str) -> Fields:
    """The fields of `wsisum.card`, or else the metadata keys named like its fields."""
    fields: Any = {key: metadata[key] for key in _CARD_KEYS if key in metadata}
    if CARD_KEY in metadata:
        try:
            fields = json.loads(metadata[CARD_KEY])
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{source}: {CARD_KEY!r} is no JSON ({error}); {REMEDY}") from None
    if not isinstance(fields, dict):
        raise ModelError(f"{source}: {CARD_KEY!r}: expected a JSON object, found {fields!r:.40}; {REMEDY}")
    if not fields:
        raise ModelError(
            f"{source}: expected a card, found none of its fields; write one into the file's metadata, as a "
            f"JSON object under {CARD_KEY!r} with patch_size, mpp, mean, std, dims, licence"
        )
    if "licence" not in fields and "license" in fields:
        fields["licence"] = fields["license"]
    return Fields(source, fields)


def parse_card(fields: Fields, takes_uint8: bool, sha256: str) -> Card:
    take = fields.take
    kind = take("kind", '"encoder"', _word, "encoder")
    if kind != "encoder":
        raise fields.wrong("kind", '"encoder"', repr(kind))
    return Card(
        name=take("name", "a word", _word, Path(fields.source).stem),
        version=take("version", "a word", _word, "unknown"),
        kind=kind,
        patch_size=take("patch_size", "a whole number of px", _count),
        mpp=take("mpp", "µm per px, above 0 and up to 100", _positive(100)),
        mpp_tolerance=take("mpp_tolerance", "a share from 0 to 0.5", _between(0, 0.5), 0.1),
        mean=take("mean", "3 numbers from 0 to 1", _mean, (0.0, 0.0, 0.0) if takes_uint8 else None),
        std=take("std", "3 numbers above 0, up to 1", _std, (1.0, 1.0, 1.0) if takes_uint8 else None),
        dims=take("dims", "a whole number", _count),
        licence=take("licence", "a licence, best as its SPDX name", _word),
        description=take("description", "text", _text, ""),
        sha256=sha256,
    )
