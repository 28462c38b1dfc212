"""What an ONNX model says of itself: its card, read from the file's metadata.

The card is a JSON object under the key `wsisum.card`. Encoders made elsewhere may give the fields as metadata
keys of their own instead. There are three kinds of models, and a card for each: patch encoders, summarizers and
slide encoders.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from wsisum_cli.errors import ModelError

T = TypeVar("T")

CARD_KEY = "wsisum.card"
#: Field of a card: sha256 of each file of weights beside the ONNX file, so that the sha256 of this one covers them.
WEIGHTS = "weights_sha256"
REMEDY = f"correct it in the file's metadata, as a JSON object under {CARD_KEY!r} (wsisum models add --card writes it)"
ENCODER, SUMMARIZER, SLIDE_ENCODER = "encoder", "summarizer", "slide-encoder"
KINDS = (ENCODER, SUMMARIZER, SLIDE_ENCODER)
#: The fields that a card of each kind cannot be without.
NEEDED = {
    ENCODER: "patch_size, mpp, mean, std, dims, licence",
    SUMMARIZER: "kind, dims, embedding_dims, candidates, licence",
    SLIDE_ENCODER: "kind, dims, embedding_dims, prototypes, licence",
}
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
    #: Of the ONNX file; it covers weights in other files where the card has their sha256 as `weights_sha256`.
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class SummarizerCard:
    """What a summarizer says of itself: features of candidates in, their reconstruction and an embedding out."""

    name: str
    version: str
    #: Always "summarizer".
    kind: str
    #: Length D of the patch features it takes.
    dims: int
    #: Length E of the slide embedding.
    embedding_dims: int
    #: Name of the encoder whose features it was trained on, "" where nothing says so.
    encoder: str
    #: Of that encoder's file; "" means that features of any encoder of D dims will do.
    encoder_sha256: str
    #: The most candidates it was trained with.
    candidates: int
    #: Share of the candidates that was masked in training.
    mask_ratio: float
    licence: str
    description: str
    #: Of the ONNX file; it covers weights in other files where the card has their sha256 as `weights_sha256`.
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class SlideEncoderCard:
    """What a slide encoder says of itself: all patch features of a slide in, embedding and prototypes out."""

    name: str
    version: str
    #: Always "slide-encoder".
    kind: str
    #: Length D of the patch features it takes.
    dims: int
    #: Length E of the slide embedding.
    embedding_dims: int
    #: Name of the encoder whose features it was trained on, "" where nothing says so.
    encoder: str
    #: Of that encoder's file; "" means that features of any encoder of D dims will do.
    encoder_sha256: str
    #: How many prototypes P it gives.
    prototypes: int
    #: Side of a region, in patches.
    region: int
    licence: str
    description: str
    #: Of the ONNX file; it covers weights in other files where the card has their sha256 as `weights_sha256`.
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return asdict(self)


AnyCard = Card | SummarizerCard | SlideEncoderCard


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


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("([0-9a-f]{64})?", value):
        raise ValueError
    return value


@dataclass(frozen=True)
class Fields:
    """The raw fields of a card, and the file they were read from."""

    source: str
    values: Mapping[str, Any]
    #: What to do where one of them is wrong.
    remedy: str = REMEDY

    def take(self, key: str, expected: str, parse: Callable[[Any], T], default: T | None = None) -> T:
        """One field; `expected` says in words what `parse` accepts. None as default: it must be there."""
        if key not in self.values:
            if default is None:
                raise ModelError(f"{self.source}: the card lacks {key!r}, {expected}; {self.remedy}")
            return default
        try:
            return parse(self.values[key])
        except (TypeError, ValueError, OverflowError):
            raise self.wrong(key, expected, repr(self.values[key])) from None

    def wrong(self, key: str, expected: str, found: str) -> ModelError:
        found = found if len(found) <= 80 else found[:77] + "..."
        return ModelError(f"{self.source}: card field {key!r}: expected {expected}, found {found}; {self.remedy}")

    @property
    def kind(self) -> str:
        """One of KINDS; a card that does not say is an encoder's. Raises ModelError for any other."""
        kind = self.take("kind", f"one of {', '.join(KINDS)}", _word, ENCODER)
        if kind not in KINDS:
            raise self.wrong("kind", f"one of {', '.join(KINDS)}", repr(kind))
        return kind

    def check_kind(self, wanted: str) -> None:
        """Raise ModelError when the model is of another kind."""
        if self.kind != wanted:
            raise ModelError(
                f"{self.source}: card field 'kind': expected {wanted!r}, found {self.kind!r} in the file's metadata; "
                f"give a model of that kind (wsisum models list)"
            )


def read_fields(metadata: Mapping[str, str], source: str, wanted: str = ENCODER) -> Fields:
    """The fields of `wsisum.card`, or else the metadata keys named like an encoder's. None is an error.

    `wanted` is the kind of model that is needed. Raises ModelError where there is no card.
    """
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
            f"JSON object under {CARD_KEY!r} with {NEEDED[wanted]} (wsisum models add --card writes it)"
        )
    if "licence" not in fields and "license" in fields:
        fields["licence"] = fields["license"]
    return Fields(source, fields)


def parse_card(fields: Fields, takes_uint8: bool, sha256: str) -> Card:
    """An encoder's card. Raises ModelError for another kind, and for a field that is missing or wrong."""
    fields.check_kind(ENCODER)
    take = fields.take
    return Card(
        name=take("name", "a word", _word, Path(fields.source).stem),
        version=take("version", "a word", _word, "unknown"),
        kind=ENCODER,
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


def _shared(fields: Fields, kind: str, sha256: str) -> dict[str, Any]:
    """What cards of summarizers and slide encoders have in common."""
    fields.check_kind(kind)
    take = fields.take
    return {
        "name": take("name", "a word", _word, Path(fields.source).stem),
        "version": take("version", "a word", _word, "unknown"),
        "kind": kind,
        "dims": take("dims", "a whole number", _count),
        "embedding_dims": take("embedding_dims", "a whole number", _count),
        "encoder": take("encoder", "the name of an encoder, or nothing", _text, ""),
        "encoder_sha256": take("encoder_sha256", "64 digits of base 16, or nothing", _sha256, ""),
        "licence": take("licence", "a licence, best as its SPDX name", _word),
        "description": take("description", "text", _text, ""),
        "sha256": sha256,
    }


def parse_summarizer_card(fields: Fields, sha256: str) -> SummarizerCard:
    """Raises ModelError for a card of another kind, and for a field that is missing or wrong."""
    shared = _shared(fields, SUMMARIZER, sha256)
    return SummarizerCard(
        **shared,
        candidates=fields.take("candidates", "a whole number", _count),
        mask_ratio=fields.take("mask_ratio", "a share from 0 to 1", _between(0, 1), 0.875),
    )


def parse_slide_encoder_card(fields: Fields, sha256: str) -> SlideEncoderCard:
    """Raises ModelError for a card of another kind, and for a field that is missing or wrong."""
    shared = _shared(fields, SLIDE_ENCODER, sha256)
    return SlideEncoderCard(
        **shared,
        prototypes=fields.take("prototypes", "a whole number", _count),
        region=fields.take("region", "a whole number of patches", _count, 16),
    )
