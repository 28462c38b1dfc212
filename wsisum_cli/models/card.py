"""What an ONNX model says of itself: its card, read from the file's metadata.

The card is a JSON object under the key `wsisum.card`. Encoders made elsewhere may give the fields as metadata
keys of their own instead. There are three kinds of models, and a card for each: patch encoders, summarizers and
slide encoders.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from wsisum_cli.errors import ModelError

CARD_KEY = "wsisum.card"
#: Field of a card: sha256 of each file of weights beside the ONNX file, so that the sha256 of this one covers them.
WEIGHTS = "weights_sha256"
SHARES = 1e-3  # tolerance for the sum of the weights that a slide encoder gives to prototypes, which should be 1
MAX_CARD = 1 << 20  # bytes of a card; a long one takes a few thousand
MAX_DEPTH = 20  # of what lies within what; a card has two
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


def no_bool(value: Any) -> Any:
    """Python counts bools among the integers; a card does not."""
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _split(value: Any) -> Any:
    """Three numbers, also where metadata gives them as text."""
    value = value.strip(" []()").split(",") if isinstance(value, str) else value
    return tuple(value) if isinstance(value, list) else value


Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Text = Annotated[str, StringConstraints(strip_whitespace=True)]
Number = Annotated[float, BeforeValidator(no_bool)]
Dims = Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=65536)]
Sha256OrNone = Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
Mean = Annotated[Number, Field(ge=0, le=1)]
Std = Annotated[Number, Field(gt=0, le=1)]


class ModelCard(BaseModel):
    """What the cards of all kinds of models say. Descriptions of fields say what is expected of them."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, defer_build=True)

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return self.model_dump(mode="json")


class Card(ModelCard):
    """What an encoder says of itself: patches in, one vector each out."""

    name: Word = Field(description="a word")
    version: Word = Field("unknown", description="a word")
    kind: Literal["encoder"] = Field("encoder", description="encoder")
    #: Side of a patch in px, as the encoder sees it.
    patch_size: Dims = Field(description="a whole number of px")
    #: µm per px of such a patch.
    mpp: Annotated[Number, Field(gt=0, le=100)] = Field(description="µm per px, above 0 and up to 100")
    #: How far a patch may be from `mpp`, relative: 0.1 is a tenth more or less.
    mpp_tolerance: Annotated[Number, Field(ge=0, le=0.5)] = Field(0.1, description="a share from 0 to 0.5")
    #: Of R, G, B scaled to 0..1. Ignored when the graph takes uint8, because it then normalises by itself.
    mean: Annotated[tuple[Mean, Mean, Mean], BeforeValidator(_split)] = Field(description="3 numbers from 0 to 1")
    std: Annotated[tuple[Std, Std, Std], BeforeValidator(_split)] = Field(description="3 numbers above 0, up to 1")
    #: Length D of a feature vector.
    dims: Dims = Field(description="a whole number")
    licence: Word = Field(description="a licence, best as its SPDX name")
    description: Text = Field("", description="text")
    #: Of the ONNX file; it covers weights in other files where the card has their sha256 as `weights_sha256`.
    sha256: Sha256OrNone = Field(description="64 digits of base 16, or nothing")


class SummarizerCard(ModelCard):
    """What a summarizer says of itself: features of candidates in, their reconstruction and an embedding out."""

    name: Word = Field(description="a word")
    version: Word = Field("unknown", description="a word")
    kind: Literal["summarizer"] = Field("summarizer", description="summarizer")
    #: Length D of the patch features it takes.
    dims: Dims = Field(description="a whole number")
    #: Length E of the slide embedding.
    embedding_dims: Dims = Field(description="a whole number")
    #: The encoder whose features it was trained on, "" where nothing says so.
    encoder: Text = Field("", description="the name of an encoder, or nothing")
    #: Of that encoder's file; "" means that features of any encoder of D dims will do.
    encoder_sha256: Sha256OrNone = Field("", description="64 digits of base 16, or nothing")
    #: The most candidates it was trained with.
    candidates: Dims = Field(description="a whole number")
    #: Share of the candidates that was masked in training.
    mask_ratio: Annotated[Number, Field(ge=0, le=1)] = Field(0.875, description="a share from 0 to 1")
    licence: Word = Field(description="a licence, best as its SPDX name")
    description: Text = Field("", description="text")
    #: Of the ONNX file; it covers weights in other files where the card has their sha256 as `weights_sha256`.
    sha256: Sha256OrNone = Field(description="64 digits of base 16, or nothing")


class SlideEncoderCard(ModelCard):
    """What a slide encoder says of itself: all patch features of a slide in, embedding and prototypes out."""

    name: Word = Field(description="a word")
    version: Word = Field("unknown", description="a word")
    kind: Literal["slide-encoder"] = Field("slide-encoder", description="slide-encoder")
    #: Length D of the patch features it takes.
    dims: Dims = Field(description="a whole number")
    #: Length E of the slide embedding.
    embedding_dims: Dims = Field(description="a whole number")
    #: The encoder whose features it was trained on, "" where nothing says so.
    encoder: Text = Field("", description="the name of an encoder, or nothing")
    #: Of that encoder's file; "" means that features of any encoder of D dims will do.
    encoder_sha256: Sha256OrNone = Field("", description="64 digits of base 16, or nothing")
    #: How many prototypes P it gives.
    prototypes: Dims = Field(description="a whole number")
    #: Side of a region, in patches.
    region: Dims = Field(16, description="a whole number of patches")
    licence: Word = Field(description="a licence, best as its SPDX name")
    description: Text = Field("", description="text")
    #: Of the ONNX file; it covers weights in other files where the card has their sha256 as `weights_sha256`.
    sha256: Sha256OrNone = Field(description="64 digits of base 16, or nothing")


AnyCard = Card | SummarizerCard | SlideEncoderCard
CardType = TypeVar("CardType", bound=ModelCard)


@dataclass(frozen=True)
class Fields:
    """The raw fields of a card, and the file they were read from."""

    source: str
    values: Mapping[str, Any]
    #: What to do where one of them is wrong.
    remedy: str = REMEDY

    def wrong(self, key: str, expected: str, found: str) -> ModelError:
        found = found if len(found) <= 80 else found[:77] + "..."
        return ModelError(f"{self.source}: card field {key!r}: expected {expected}, found {found}; {self.remedy}")

    @property
    def kind(self) -> str:
        """One of KINDS; a card that does not say is an encoder's. Raises ModelError for any other."""
        kind = self.values.get("kind", ENCODER)
        if kind not in KINDS:
            raise self.wrong("kind", f"one of {', '.join(KINDS)}", repr(kind))
        return str(kind)

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
            check_size(metadata[CARD_KEY])
            fields = json.loads(metadata[CARD_KEY])
            check_depth(fields)
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


def check_size(text: str | bytes) -> None:
    """Raise ValueError for a text larger than any card."""
    if len(text) > MAX_CARD:
        raise ValueError(f"{len(text)} bytes, expected at most {MAX_CARD}")


def check_depth(value: Any) -> None:
    """Raise ValueError for what is nested deeper than any card: what writes it out may not come to its end."""
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [inner for outer in layer if isinstance(outer, dict | list) for inner in in_order(outer)]
    if layer:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")


def in_order(outer: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return outer.values() if isinstance(outer, dict) else outer


def parse_card(fields: Fields, takes_uint8: bool, sha256: str) -> Card:
    """An encoder's card. Raises ModelError for another kind, and for a field that is missing or wrong."""
    normalised = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)} if takes_uint8 else {}
    return _parse(Card, fields, ENCODER, sha256, normalised)


def parse_summarizer_card(fields: Fields, sha256: str) -> SummarizerCard:
    """Raises ModelError for a card of another kind, and for a field that is missing or wrong."""
    return _parse(SummarizerCard, fields, SUMMARIZER, sha256)


def parse_slide_encoder_card(fields: Fields, sha256: str) -> SlideEncoderCard:
    """Raises ModelError for a card of another kind, and for a field that is missing or wrong."""
    return _parse(SlideEncoderCard, fields, SLIDE_ENCODER, sha256)


def _parse(
    model: type[CardType], fields: Fields, kind: str, sha256: str, defaults: Mapping[str, Any] | None = None
) -> CardType:
    """The fields as a card; the first one that is wrong is named."""
    fields.check_kind(kind)
    name = {"name": Path(fields.source).stem}
    try:
        return model.model_validate({**name, **(defaults or {}), **fields.values, "kind": kind, "sha256": sha256})
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = str(detail["loc"][0])
        expected = str(model.model_fields[key].description)
        if detail["type"] == "missing" and len(detail["loc"]) == 1:
            raise ModelError(f"{fields.source}: the card lacks {key!r}, {expected}; {fields.remedy}") from None
        raise fields.wrong(key, expected, repr(fields.values.get(key))) from None
