"""Whether attributes are complete and agree with each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from typing import Any

from pydantic import ValidationError

from wsisum_cli.models.plain_errors import plain_errors
from wsisum_cli.quality.represented import LISTED
from wsisum_cli.summary.attributes import (
    MAX_POSITIONS,
    NULLABLE,
    REQUIRED_SINCE,
    Artefacts,
    Attributes,
    LeftOut,
    Patch,
    Represented,
    Suspect,
    revision_of,
)
from wsisum_cli.tissue.artefacts import KINDS

#: Attributes that are one of several models; pydantic says in paths which of them it tried.
UNIONS = frozenset({"pixels", "features", "encoder"})
MOST_ERRORS = 50  # that are listed: a file made to do harm has any number
MAX_TILES = 64  # that a patch spans in one direction


def wrong_attributes(raw: Any) -> Iterator[str]:
    """What is missing, of another type than required, or contradicts another attribute; the first of these kinds."""
    yield from check_attributes(raw)[1]


def check_attributes(raw: Any) -> tuple[Attributes | None, list[str]]:
    """The attributes as typed data, None where they cannot be parsed, and what is wrong with them."""
    if not isinstance(raw, dict):
        return None, ["the attributes are not an object"]
    try:
        attributes = parse_attributes(raw)
    except ValidationError as error:
        return None, list(islice(plain_errors(error, UNIONS), MOST_ERRORS))
    missing = [*missing_since(raw), *missing_from_cards(attributes)]
    return attributes, missing or list(contradictions(attributes))


def parse_attributes(raw: Mapping[str, Any]) -> Attributes:
    """The attributes as read from JSON. Raises pydantic's ValidationError."""
    # A lone surrogate is no valid JSON; summaries of files whose names are not UTF-8 once held such.
    text = json.dumps(without_later(raw), ensure_ascii=False).encode(errors="replace")
    return Attributes.model_validate_json(text, strict=True)


def without_later(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes without keys that mean nothing in their version, because a later one added them."""
    known = revision_of(raw)
    later = [path for revision, paths in REQUIRED_SINCE.items() if revision > known for path in paths]
    copied = {name: dict(value) if isinstance(value, dict) else value for name, value in raw.items()}
    for path in later:
        *parents, name = path.split(".")
        section = copied.get(parents[0]) if parents else copied
        if isinstance(section, dict):
            section.pop(name, None)
    return copied


def missing_from_cards(attributes: Attributes) -> Iterator[str]:
    """Fields of cards that a model may leave out, and a summary states."""
    added = {f"reembedded.{place}.encoder": entry.encoder for place, entry in enumerate(attributes.reembedded or ())}
    cards = {"encoder": attributes.encoder_card, **attributes.used_models, **added}
    for name, card in cards.items():
        absent = type(card).model_fields.keys() - card.model_fields_set if card is not None else set()
        yield from (f"{name}.{field} is missing" for field in sorted(absent))


def missing_since(raw: Mapping[str, Any]) -> Iterator[str]:
    """Keys that the format's version requires, and that are missing."""
    for revision, paths in REQUIRED_SINCE.items():
        for path in paths if revision_of(raw) >= revision else ():
            *parents, name = path.split(".")
            section: Mapping[str, Any] = raw
            for parent in parents:
                section = section.get(parent) or {}  # which is missing itself, and listed so
            if name not in section or (section[name] is None and path not in NULLABLE):
                yield f"{path} is missing"


def wrong_geometry(raw: Mapping[str, Any]) -> Iterator[str]:
    """The same of `patch` alone: whether patches can be put together from tiles by it."""
    try:
        patch = Patch.model_validate_json(json.dumps(raw.get("patch")), strict=True)
    except ValidationError as error:
        yield from (f"patch.{line}" for line in plain_errors(error))
        return
    yield from wrong_reading(patch)


def contradictions(attributes: Attributes) -> Iterator[str]:
    """Attributes that contradict each other."""
    if attributes.migrated_from is not None and attributes.format_version.startswith("1."):
        yield f"migrated_from is {attributes.migrated_from} in a file of format {attributes.format_version}"
    if attributes.pixels.recompressed is not None and attributes.format_version.startswith("1."):
        yield f"pixels.recompressed is there in a file of format {attributes.format_version}"
    yield from list(wrong_reading(attributes.patch)) or wrong_sizes(attributes)
    yield from wrong_draws(attributes)
    if (attributes.source.focal_plane is None) != (attributes.source.focal_planes is None):
        yield "source.focal_plane and source.focal_planes are not there together"
    if attributes.revision >= 1:
        yield from wrong_models(attributes)
    if attributes.revision >= 2:
        yield from wrong_trim(attributes)
    if attributes.artefacts is not None:
        yield from wrong_artefacts(attributes.artefacts)
    if attributes.represented is not None:
        yield from wrong_represented(attributes.represented, attributes.patches)
    if attributes.suspect is not None:
        yield from wrong_suspects(attributes.suspect, attributes.tissue_patches)
    yield from wrong_reembedded(attributes)
    if len(attributes.broken_tiles.positions) != min(attributes.broken_tiles.count, MAX_POSITIONS):
        yield "broken_tiles.positions are not as many as broken_tiles.count says"
    if attributes.left_out is not None:
        yield from wrong_left_out(attributes, attributes.left_out)


def wrong_reading(patch: Patch) -> Iterator[str]:
    reading = patch.reading
    if reading.patch_size != patch.patch_size:
        yield "patch.reading.patch_size is not patch.patch_size"
    if abs(reading.side * reading.scale - patch.patch_size_level0) > 0.501 * reading.scale:
        yield "patch.reading.side does not cover patch.patch_size_level0"
    if reading.side > MAX_TILES * min(reading.tile_width, reading.tile_height):
        yield f"a patch spans more than {MAX_TILES} tiles"


def wrong_represented(represented: Represented, patches: int) -> Iterator[str]:
    """Regions that name a patch that is not kept, or are not as many as counted; areas that do not fit."""
    if any(region.nearest >= patches for region in represented.regions):
        yield "represented.regions names a patch that is not kept"
    if len(represented.regions) != min(represented.region_count, LISTED):
        yield "represented.regions are not as many as represented.region_count says"
    if abs(represented.share * represented.tissue_mm2 - represented.mm2) > 1e-4 * max(represented.tissue_mm2, 1):
        yield "represented.mm2 is not represented.share of represented.tissue_mm2"


def wrong_sizes(attributes: Attributes) -> Iterator[str]:
    """Sizes and numbers of patches that do not go together."""
    patch, card = attributes.patch, attributes.encoder_card
    mpp = attributes.source.mpp * patch.patch_size_level0 / patch.patch_size
    if abs(patch.mpp / mpp - 1) > 1e-6:
        yield f"patch.mpp is {patch.mpp:g}, but source.mpp and the sizes of the patch give {mpp:g}"
    if attributes.patches > attributes.tissue_patches:
        yield "there are more kept patches than tissue patches"
    if not attributes.features_are_given and card is None:
        yield "encoder.sha256 is missing"
    if not attributes.features_are_given and card is not None and card.patch_size != patch.patch_size:
        yield "patch.patch_size is not the encoder's"


def wrong_draws(attributes: Attributes) -> Iterator[str]:
    keep = attributes.draws.keep if attributes.draws is not None else []
    if any(low >= high for low, high in pairwise(keep)):
        yield "draws.keep does not ascend"


def wrong_models(attributes: Attributes) -> Iterator[str]:
    """Figures of a summarizer that was not used, or the lack of them; models of other features."""
    quality, summarizer = attributes.quality, attributes.summarizer
    trimmed = attributes.trimmed_from is not None  # perhaps where no model was at hand
    if (summarizer is None) != (quality.embedding_cosine is None) and not (trimmed and summarizer is not None):
        yield "quality.embedding_cosine is there without a summarizer, or missing with one"
    if summarizer is None and quality.reconstruction is not None:
        yield "quality.reconstruction is there without a summarizer"
    card = attributes.encoder_card
    for name, used in (("summarizer", summarizer), ("slide_encoder", attributes.slide_encoder)):
        if used is not None and card is not None and card.dims != used.dims:
            yield f"{name}.dims is {used.dims}, encoder.dims {card.dims}"


def wrong_trim(attributes: Attributes) -> Iterator[str]:
    """A figure of a slide encoder that was not used; fewer patches before a summary was trimmed than after."""
    before, used = attributes.trimmed_from, attributes.slide_encoder is not None
    known = attributes.quality.slide_cosine is not None
    if known != used and (known or before is None):
        yield "quality.slide_cosine is there without a slide encoder, or missing with one"
    if before is not None and before <= attributes.patches:
        yield f"trimmed_from is {before}, but there are {attributes.patches} patches"


def wrong_artefacts(artefacts: Artefacts) -> Iterator[str]:
    """Kinds that do not exist, or do not add up to their count."""
    if not set(artefacts.kinds) <= set(KINDS[1:]):
        yield f"artefacts.kinds has others than {', '.join(KINDS[1:])}"
    elif sum(artefacts.kinds.values()) != artefacts.count or artefacts.count > artefacts.looked_at:
        yield "artefacts.kinds do not add up to artefacts.count, or more were found than looked at"


def wrong_left_out(attributes: Attributes, left_out: LeftOut) -> Iterator[str]:
    """Tissue left out without a mask or given features; figures of it that do not go together."""
    if not (attributes.has_mask or attributes.features_are_given):
        yield "left_out is there without a mask or given features"
    if left_out.largest_mm2 > left_out.mm2 or (left_out.share > 0) != (left_out.mm2 > 0):
        yield "left_out.share, mm2 and largest_mm2 do not go together"


def wrong_reembedded(attributes: Attributes) -> Iterator[str]:
    """An encoder that added features twice; patches that are cut from tiles which are not stored."""
    found = attributes.reembedded or []
    if len({entry.encoder.sha256 for entry in found}) < len(found):
        yield "reembedded names an encoder twice"
    if any((entry.reading is not None) != (attributes.pixels.mode == "source") for entry in found):
        yield "reembedded.reading is there without stored tiles, or missing with them"


def wrong_suspects(suspect: Suspect, tissue_patches: int) -> Iterator[str]:
    """Kinds that do not exist, or do not add up to their count; more suspects than tissue."""
    if not set(suspect.kinds) <= set(KINDS[1:]):
        yield f"suspect.kinds has others than {', '.join(KINDS[1:])}"
    elif sum(suspect.kinds.values()) != suspect.count or suspect.count > tissue_patches:
        yield "suspect.kinds do not add up to suspect.count, or more patches are suspect than there is tissue"
