"""What the attributes of a summary must hold: names, types, ranges. docs/summary.schema.json says the same to others.

Only what readers rely on is listed; more may stand there, as later minor versions of the format add to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from wsisum_cli.selection.budget import BOUNDS
from wsisum_cli.tissue.artefacts import KINDS

MISSING = object()
LARGEST = 1e300  # above it, whole numbers are none that arithmetic can take
LITTLE_TISSUE = 0.5  # share; other programs find tissue otherwise, but hardly less than half of it
MUCH_SUSPECT = 0.01  # share
MAX_SIDE = 8192  # px of a patch or a tile; a reader makes room for its square
MAX_TILES = 64  # that a patch spans in one direction
MAX_COUNT = 2**53  # JSON numbers are exact up to here


@dataclass(frozen=True)
class Kind:
    """A kind of value, and how messages call it."""

    name: str
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Finite, and no bool, which Python counts among the integers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_version(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", value) is not None


def is_member(value: Any) -> bool:
    return isinstance(value, dict) and COUNT.fits(value.get("bytes")) and is_sha256(value.get("sha256"))


def is_ascending(value: Any) -> bool:
    sizes = isinstance(value, list) and bool(value) and all(map(SIZE.fits, value))
    return sizes and all(low < high for low, high in pairwise(value))


def is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def one_of(*values: Any) -> Kind:
    return Kind(f"one of {', '.join(map(str, values))}", lambda value: type(value) in (str, int) and value in values)


TEXT = Kind("text", lambda value: isinstance(value, str))
TEXT_OR_NULL = Kind("text or null", lambda value: value is None or isinstance(value, str))
VERSION = Kind("a version", is_version)
YES_OR_NO = Kind("true or false", lambda value: isinstance(value, bool))
YES_NO_OR_NULL = Kind("true, false or null", lambda value: value is None or isinstance(value, bool))
COUNT = Kind("a whole number", whole(0, MAX_COUNT))
SIZE = Kind("a whole number above 0", whole(1, 2**31 - 1))
SIDE = Kind(f"a whole number of px from 1 to {MAX_SIDE}", whole(1, MAX_SIDE))
POSITIVE = Kind("a number above 0", lambda value: is_number(value) and 1e-9 < value < 1e9)
COSINE = Kind("a number from -1 to 1", lambda value: is_number(value) and abs(value) <= 1 + 1e-6)
SHA256 = Kind("a SHA-256 in lower-case hex", is_sha256)
COSINE_OR_NULL = Kind("a number from -1 to 1, or null", lambda value: value is None or COSINE.fits(value))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
OBJECT_OR_NULL = Kind("an object or null", lambda value: value is None or isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))
SHARE = Kind("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1 + 1e-6)
SIZE_OR_NULL = Kind("a whole number above 0, or null", lambda value: value is None or SIZE.fits(value))
ASCENDING = Kind("a list of ascending whole numbers above 0", lambda value: is_ascending(value))
NUMBERS = Kind("an object of numbers", lambda value: isinstance(value, dict) and all(map(is_number, value.values())))
THRESHOLDS = Kind(
    "an object of pairs of percentiles",
    lambda value: isinstance(value, dict) and all(map(is_pair, value.values())),
)
MEMBERS = Kind(
    "an object of members with bytes and sha256",
    lambda value: isinstance(value, dict) and bool(value) and all(map(is_member, value.values())),
)

REQUIRED: dict[str, Kind] = {
    "format_version": VERSION,
    "disclaimer": TEXT,
    "source.name": TEXT,
    "source.bytes": COUNT,
    "source.files": SIZE,
    "source.sha256": SHA256,
    "source.vendor": TEXT,
    "source.scanner": TEXT_OR_NULL,
    "source.reader": TEXT,
    "source.width": SIZE,
    "source.height": SIZE,
    "source.mpp": POSITIVE,
    "source.mpp_source": TEXT,
    "tissue_patches": SIZE,
    "patches": SIZE,
    "patch.patch_size": SIDE,
    "patch.patch_size_level0": SIZE,
    "patch.mpp": POSITIVE,
    "patch.aligned": YES_OR_NO,
    "patch.reading.level": COUNT,
    "patch.reading.shrink": one_of(1, 2, 4, 8),
    "patch.reading.scale": POSITIVE,
    "patch.reading.side": SIDE,
    "patch.reading.patch_size": SIDE,
    "patch.reading.tile_width": SIDE,
    "patch.reading.tile_height": SIDE,
    "patch.reading.width": SIZE,
    "patch.reading.height": SIZE,
    "pixels.mode": one_of("source", "jpeg"),
    "encoder.name": TEXT,
    "provider": TEXT,
    "features.origin": one_of("computed", "given"),
    "quality.coverage": COSINE,
    "quality.coverage_p05": COSINE,
    "quality.coverage_min": COSINE,
    "quality.weighted_cosine": COSINE,
    "options": OBJECT,
    "broken_tiles.count": COUNT,
    "broken_tiles.positions": LIST,
    "versions": OBJECT,
    "members": MEMBERS,
}

#: What is required besides, where an attribute has a certain value.
REQUIRED_WHERE: dict[tuple[str, str], dict[str, Kind]] = {
    ("pixels.mode", "source"): {"pixels.tiles": SIZE},
    ("pixels.mode", "jpeg"): {"pixels.quality": COUNT, "pixels.subsampling": TEXT},
    ("features.origin", "computed"): {
        "encoder.sha256": SHA256,
        "encoder.dims": SIZE,
        "encoder.patch_size": SIDE,
        "encoder.mpp": POSITIVE,
    },
    ("features.origin", "given"): {"features.sha256": SHA256, "features.left_out": COUNT},
}

#: What format 1.1 requires besides: the models that see whole slides, and how well one makes the rest again.
REQUIRED_SINCE_1_1: dict[str, Kind] = {
    "summarizer": OBJECT_OR_NULL,
    "slide_encoder": OBJECT_OR_NULL,
    "quality.reconstruction": COSINE_OR_NULL,
    "quality.embedding_cosine": COSINE_OR_NULL,
}

#: What format 1.2 requires besides: figures that say more, and what they are held against.
REQUIRED_SINCE_1_2: dict[str, Kind] = {
    "quality.composition": SHARE,
    "quality.slide_cosine": COSINE_OR_NULL,
    "draws.keep": ASCENDING,
    "draws.models": LIST,
    "draws.count": COUNT,
    "draws.model_count": COUNT,
    "draws.seed": COUNT,
    "verdict.verdict": one_of("PASS", "REVIEW", "FAIL"),
    "verdict.percentiles": OBJECT,
    "verdict.reasons": LIST,
    "verdict.thresholds.percentiles": THRESHOLDS,
    "verdict.thresholds.values": NUMBERS,
    "guarantee.cosine": COSINE,
    "guarantee.area_mm2": POSITIVE,
    "guarantee.areas_mm2": OBJECT,
    "trimmed_from": SIZE_OR_NULL,
    "bound": one_of(*BOUNDS),
    "target_reached": YES_NO_OR_NULL,
}

#: What is required of these models where they are not null.
REQUIRED_OF_MODELS: dict[str, dict[str, Kind]] = {
    "summarizer": {"name": TEXT, "sha256": SHA256, "dims": SIZE, "embedding_dims": SIZE, "provider": TEXT},
    "slide_encoder": {
        "name": TEXT,
        "sha256": SHA256,
        "dims": SIZE,
        "embedding_dims": SIZE,
        "prototypes": SIZE,
        "provider": TEXT,
    },
}


def look_up(attributes: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path. Raises KeyError."""
    value: Any = attributes
    for name in path.split("."):
        if not isinstance(value, dict):
            raise KeyError(path)
        value = value[name]
    return value


def found(attributes: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, `MISSING` where there is none."""
    try:
        return look_up(attributes, path)
    except KeyError:
        return MISSING


def wrong_attributes(attributes: Any) -> Iterator[str]:
    """What is missing, of another kind than required, or contradicts another attribute; the first of these kinds."""
    if not isinstance(attributes, dict):
        yield "the attributes are not an object"
        return
    wrong = list(of_wrong_kind(attributes, required(attributes)))
    wrong = wrong or [*wrong_reading(attributes), *contradictions(attributes), *wrong_models(attributes)]
    yield from wrong or [*wrong_artefacts(attributes), *wrong_suspects(attributes)]


def required(attributes: Mapping[str, Any]) -> dict[str, Kind]:
    """All that attributes of this version, mode, origin and these models must hold."""
    kinds = dict(REQUIRED)
    for (path, value), more in REQUIRED_WHERE.items():
        kinds |= more if found(attributes, path) == value else {}
    if knows_models(attributes):
        kinds |= REQUIRED_SINCE_1_1
        for name, more in REQUIRED_OF_MODELS.items():
            if isinstance(attributes.get(name), dict):
                kinds |= {f"{name}.{path}": kind for path, kind in more.items()}
    kinds |= REQUIRED_SINCE_1_2 if minor_version(attributes) >= 2 else {}
    return kinds | (REQUIRED_SINCE_1_3 if minor_version(attributes) >= 3 else {})


def knows_models(attributes: Mapping[str, Any]) -> bool:
    """Whether the format is that of 1.1 or later, which record a summarizer and a slide encoder."""
    return minor_version(attributes) >= 1


def minor_version(attributes: Mapping[str, Any]) -> int:
    """The second number of the format's version; 0 where there is none."""
    version = attributes.get("format_version")
    return int(version.split(".")[1]) if isinstance(version, str) and is_version(version) else 0


def model_used(attributes: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The card of the `summarizer` or `slide_encoder`; None where none was used. Needs attributes that are in order."""
    card: dict[str, Any] | None = attributes[name] if knows_models(attributes) else None
    return card


def wrong_geometry(attributes: Mapping[str, Any]) -> Iterator[str]:
    """The same of `patch` alone: whether patches can be put together from tiles by it."""
    kinds = {path: kind for path, kind in REQUIRED.items() if path.startswith("patch.")}
    yield from list(of_wrong_kind(attributes, kinds)) or wrong_reading(attributes)


def of_wrong_kind(attributes: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Iterator[str]:
    for path, kind in kinds.items():
        value = found(attributes, path)
        if value is MISSING:
            yield f"{path} is missing"
        elif not kind.fits(value):
            yield f"{path} is not {kind.name}"


def wrong_reading(attributes: Mapping[str, Any]) -> Iterator[str]:
    patch, reading = attributes["patch"], attributes["patch"]["reading"]
    if reading["patch_size"] != patch["patch_size"]:
        yield "patch.reading.patch_size is not patch.patch_size"
    if abs(reading["side"] * reading["scale"] - patch["patch_size_level0"]) > 0.501 * reading["scale"]:
        yield "patch.reading.side does not cover patch.patch_size_level0"
    if reading["side"] > MAX_TILES * min(reading["tile_width"], reading["tile_height"]):
        yield f"a patch spans more than {MAX_TILES} tiles"


def contradictions(attributes: Mapping[str, Any]) -> Iterator[str]:
    patch = attributes["patch"]
    mpp = attributes["source"]["mpp"] * patch["patch_size_level0"] / patch["patch_size"]
    if abs(patch["mpp"] / mpp - 1) > 1e-6:
        yield f"patch.mpp is {patch['mpp']:g}, by source.mpp and the patch's sizes it is {mpp:g}"
    if attributes["patches"] > attributes["tissue_patches"]:
        yield "more patches are kept than there is tissue"
    computed = attributes["features"]["origin"] == "computed"
    if computed and attributes["encoder"]["patch_size"] != patch["patch_size"]:
        yield "patch.patch_size is not the encoder's"


def wrong_since_1_2(attributes: Mapping[str, Any]) -> Iterator[str]:
    """A figure of a slide encoder that was not used; fewer patches before a summary was cut down than after."""
    if minor_version(attributes) < 2:
        return
    before, used = attributes["trimmed_from"], attributes["slide_encoder"] is not None
    known = attributes["quality"]["slide_cosine"] is not None
    if known != used and (known or before is None):
        yield "quality.slide_cosine is there without a slide encoder, or not there with one"
    if before is not None and before <= attributes["patches"]:
        yield f"trimmed_from is {before}, and there are {attributes['patches']} patches"


def wrong_models(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Figures of a summarizer that was not used, or the lack of them; models of other features."""
    if not knows_models(attributes):
        return
    quality, summarizer = attributes["quality"], attributes["summarizer"]
    trimmed = attributes.get("trimmed_from") is not None  # perhaps where no model was at hand
    if (summarizer is None) != (quality["embedding_cosine"] is None) and not (trimmed and summarizer is not None):
        yield "quality.embedding_cosine is there without a summarizer, or not there with one"
    if summarizer is None and quality["reconstruction"] is not None:
        yield "quality.reconstruction is there without a summarizer"
    yield from wrong_since_1_2(attributes)
    dims = attributes["encoder"].get("dims")
    for name in REQUIRED_OF_MODELS:
        card = attributes[name]
        if card is not None and dims not in (None, card["dims"]):
            yield f"{name}.dims is {card['dims']}, encoder.dims {dims}"


#: What is required of `artefacts` where it is there; before it was, nobody looked.
REQUIRED_OF_ARTEFACTS: dict[str, Kind] = {
    "artefacts.count": COUNT,
    "artefacts.kinds": OBJECT,
    "artefacts.looked_at": COUNT,
    "artefacts.ignored": YES_OR_NO,
}


def wrong_artefacts(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Kinds that are none, or do not add up to their count."""
    if "artefacts" not in attributes:
        return
    wrong = list(of_wrong_kind(attributes, REQUIRED_OF_ARTEFACTS))
    yield from wrong
    if not wrong:
        artefacts = attributes["artefacts"]
        counts = artefacts["kinds"]
        if not all(name in KINDS[1:] and SIZE.fits(count) for name, count in counts.items()):
            yield f"artefacts.kinds has others than {', '.join(KINDS[1:])}, or counts that are none"
        elif sum(counts.values()) != artefacts["count"] or artefacts["count"] > artefacts["looked_at"]:
            yield "artefacts.kinds do not add up to artefacts.count, or more were found than looked at"


#: What format 1.3 requires besides: tissue that is suspect.
REQUIRED_SINCE_1_3: dict[str, Kind] = {"suspect.count": COUNT, "suspect.kinds": OBJECT}


def wrong_suspects(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Kinds that are none, or do not add up to their count; more suspects than tissue."""
    if minor_version(attributes) < 3:
        return
    suspect = attributes["suspect"]
    counts = suspect["kinds"]
    if not all(name in KINDS[1:] and SIZE.fits(count) for name, count in counts.items()):
        yield f"suspect.kinds has others than {', '.join(KINDS[1:])}, or counts that are none"
    elif sum(counts.values()) != suspect["count"] or suspect["count"] > attributes["tissue_patches"]:
        yield "suspect.kinds do not add up to suspect.count, or more patches are suspect than there is tissue"


def artefacts_found(attributes: Mapping[str, Any]) -> int:
    """How many arrays `artefact/*` list; 0 before there were such. Needs attributes that are in order."""
    return int(attributes["artefacts"]["count"]) if "artefacts" in attributes else 0


def suspects_found(attributes: Mapping[str, Any]) -> int:
    """How many tissue patches are suspect; 0 before format 1.3. Needs attributes that are in order."""
    return int(attributes["suspect"]["count"]) if minor_version(attributes) >= 3 else 0


def what_to_look_at(attributes: Mapping[str, Any]) -> str:
    """What a person should look at, in words; empty where nothing is. Needs attributes that are in order."""
    return "; ".join(filter(None, (little_tissue(attributes), much_suspect(attributes))))


def much_suspect(attributes: Mapping[str, Any]) -> str:
    """That more than 1 % of the tissue looked at is suspect, in words; empty where it is not."""
    count = suspects_found(attributes)
    artefacts = attributes.get("artefacts") or {"looked_at": 0, "count": 0}
    share = count / max(artefacts["looked_at"] - artefacts["count"], count, 1)
    if share <= MUCH_SUSPECT:
        return ""
    kinds = ", ".join(f"{number} {name}" for name, number in attributes["suspect"]["kinds"].items())
    return f"{share:.1%} of the tissue may be an artefact ({kinds}); look at it with wsisum inspect --map artefact"


def little_tissue(attributes: Mapping[str, Any]) -> str:
    """That given features are of little of the tissue, in words; empty where they are not. Needs what is in order."""
    share = attributes["features"].get("tissue_share")  # since 1.2, and of given ones alone
    if not is_number(share) or share >= LITTLE_TISSUE:
        return ""
    return (
        f"the given features are of {share:.0%} of the tissue, for which alone the summary stands; are they complete?"
    )
