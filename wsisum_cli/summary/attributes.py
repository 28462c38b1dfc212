"""The attributes of a summary as typed models: the source of their validation, the JSON Schema and the tables of keys.

A model lists what this version writes. Readers ignore further keys, which later minor versions add; the schema
forbids them. `REQUIRED_SINCE` says which keys a minor version added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from wsisum_cli.models.card import Card, SlideEncoderCard, SummarizerCard
from wsisum_cli.quality.represented import LISTED
from wsisum_cli.summary.limits.values import (
    Answer,
    Area,
    Cosine,
    Count,
    Figure,
    Finite,
    Limited,
    Limits,
    Positive,
    Provider,
    Recompressed,
    Sha256,
    Share,
    Shrink,
    Side,
    Size,
)

MAX_POSITIONS = 20  # of broken tiles
MAX_REEMBEDDED = 16  # further encoders

#: Formats that are read, in order. 2.0 stores pixels in another way, and has the keys of 1.4.
VERSIONS = ("1.0", "1.1", "1.2", "1.3", "1.4", "2.0")

#: Place in `VERSIONS` -> the keys that this format added and requires.
REQUIRED_SINCE: dict[int, tuple[str, ...]] = {
    0: ("members",),
    1: ("summarizer", "slide_encoder", "quality.reconstruction", "quality.embedding_cosine"),
    2: (
        *("draws", "verdict", "guarantee", "trimmed_from", "bound", "target_reached"),
        *("quality.composition", "quality.slide_cosine"),
        *("options.draws", "options.thresholds", "options.max_bytes", "options.target"),
    ),
    3: ("suspect",),
    4: ("represented", "verdict.representative", "verdict.well_chosen", "verdict.chance"),
}

#: Of these, null is a value.
NULLABLE = {
    *("summarizer", "slide_encoder", "quality.reconstruction", "quality.embedding_cosine", "quality.slide_cosine"),
    *("trimmed_from", "target_reached", "options.max_bytes", "options.target", "verdict.chance"),
}


class Section(BaseModel):
    """An object among the attributes."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, defer_build=True)


class Source(Section):
    """The slide that a summary was made from."""

    name: str = Field(pattern="^[^/]*$", description="file name, or what the manifest calls the slide; never a path")
    bytes: Count = Field(description="size of all files of the slide")
    files: Size = Field(description="number of files")
    sha256: Sha256 = Field(description="of all files, one after the other")
    vendor: str = Field(description="of the scanner or the file format")
    scanner: str | None = Field(description="model, never a serial number; null where the file does not say")
    reader: str = Field(description="library and version that decoded the pixels")
    width: Size = Field(description="level-0 px")
    height: Size = Field(description="level-0 px")
    mpp: Positive = Field(description="µm per level-0 px")
    mpp_source: str = Field(description="where the pixel size was found; `given` by the user")
    mpp_stated: Positive | None = Field(None, description="what the file states, where a manifest's row won over it")
    notes: list[str] | None = Field(None, description="what a person should know of how the slide was read")
    image: Size | None = Field(None, description="which of several slides in the file, from 1")
    focal_plane: Size | None = Field(None, description="which of several focal planes was read, from 1")
    focal_planes: Size | None = Field(None, description="number of focal planes")


class Reading(Section):
    """How patches are read from the slide."""

    level: Count = Field(description="level of the slide; 0 is the finest")
    shrink: Shrink = Field(description="by which JPEG decoding divides each side")
    scale: Positive = Field(description="level-0 px per px read")
    side: Side = Field(description="px read for one patch")
    patch_size: Side = Field(description="px after resizing")
    tile_width: Side = Field(description="px read")
    tile_height: Side = Field(description="px read")
    width: Size = Field(description="px read, of the whole level")
    height: Size = Field(description="px read, of the whole level")


class Patch(Section):
    """The geometry of a patch."""

    patch_size: Side = Field(description="px, as the encoder sees it")
    patch_size_level0: Size = Field(description="level-0 px")
    mpp: Positive = Field(description="µm per px of a patch")
    aligned: bool = Field(description="whether every patch ends where tiles end")
    reading: Reading = Field(description="how patches are cut from the slide")


class SourcePixels(Section):
    """Pixels stored as the scanner's own tiles."""

    mode: Literal["source"] = Field(description="the scanner's JPEG tiles, byte for byte")
    tiles: Size = Field(description="T, the number of tiles")
    recompressed: Recompressed = None


class JpegPixels(Section):
    """Pixels stored as one new JPEG a patch."""

    mode: Literal["jpeg"] = Field(description="each patch encoded once")
    quality: int = Field(ge=1, le=100, description="of the JPEG encoder")
    subsampling: Literal["4:4:4"] = Field(description="chroma is not subsampled")
    feature_cosine_mean: Cosine | None = Field(None, description="features before to features after encoding, mean")
    feature_cosine_min: Cosine | None = Field(None, description="the least of these cosines")
    recompressed: Recompressed = None


class EncoderCard(Card):
    """The card of the encoder that made the features."""

    sha256: Sha256 = Field(description="of the ONNX file")


class NamedEncoder(Section):
    """All that is known of an encoder whose features were given."""

    name: str = Field(description="as the file of features calls it")


class UsedSummarizer(SummarizerCard):
    """The card of the summarizer that was used, and what ran it."""

    sha256: Sha256 = Field(description="of the ONNX file")
    provider: Provider = Field(description="what ran it")


class UsedSlideEncoder(SlideEncoderCard):
    """The card of the slide encoder that was used, and what ran it."""

    sha256: Sha256 = Field(description="of the ONNX file")
    provider: Provider = Field(description="what ran it")


class ComputedFeatures(Section):
    """Features that `encoder` made of the slide."""

    origin: Literal["computed"] = Field(description="made from the slide by `encoder`")


class GivenFeatures(Section):
    """Features that came from a file."""

    origin: Literal["given"] = Field(description="taken from a file of features")
    encoder: str = Field(description="as the file calls it")
    sha256: Sha256 = Field(description="of the file")
    left_out: Count = Field(description="rows of the file that were not used")
    tissue_share: Share | None = Field(None, description="how much of the tissue lies in the patches of the file")
    encoder_sha256: Sha256 | None = Field(None, description="of the encoder that made them, where the file says so")
    patch_encoder_sha256: Sha256 = Field(description="of the encoder whose patch size the stored patches have")


class Reembedded(Section):
    """Features of the kept patches that another encoder made of their stored pixels."""

    encoder: EncoderCard = Field(description="its card")
    provider: Provider = Field(description="what ran it")
    mpp: Positive = Field(description="µm per px of a patch, as this encoder sees it")
    reading: Reading | None = Field(
        None, description="how patches are cut from the stored tiles; null where a stored patch is resized"
    )
    versions: dict[str, str] = Field(description="of the libraries that can change these features")


class TissueFeatures(Section):
    """Features of all tissue patches, packed into a few bytes each."""

    bytes: Size = Field(description="most bytes a patch that their codes were allowed, compressed")
    components: Size = Field(description="principal components that are stored")
    cosine_mean: Cosine = Field(description="unpacked features to the true ones, mean over the tissue")
    cosine_p05: Cosine = Field(description="the 5th percentile of these cosines")
    cosine_min: Cosine = Field(description="the least of them")


class Quality(Section):
    """Figures of the kept patches."""

    coverage: Cosine = Field(description="mean over the tissue of the cosine to the patch that stands for it")
    coverage_p05: Cosine = Field(description="their 5th percentile")
    coverage_min: Cosine = Field(description="their minimum")
    weighted_cosine: Cosine = Field(description="weighted mean of the kept features to the mean of all")
    composition: Share | None = Field(
        None, description="half the sum over clusters of the difference between their share of tissue and of counts"
    )
    reconstruction: Cosine | None = Field(
        None,
        description="candidates that were not kept: features the summarizer makes from the kept patches to the true "
        "ones, mean; null without a summarizer and where all candidates were kept",
    )
    embedding_cosine: Cosine | None = Field(
        None, description="the summarizer's embedding of the kept patches to that of all candidates; null without one"
    )
    slide_cosine: Cosine | None = Field(
        None, description="the slide encoder's embedding of the kept patches to that of all tissue; null without one"
    )


class Options(Section):
    """What the user chose, as far as it decides the bytes; null stands for the default."""

    keep: int | None = Field(ge=1, description="patches asked for")
    max_bytes: int | None = Field(None, ge=1, description="largest size of the file")
    target: float | None = Field(None, gt=0, le=1, description="share of tissue to represent (before 1.4: coverage)")
    max_keep: int | None = Field(None, ge=1, description="since 1.4: most patches, where the number is not given")
    selector: str = Field(description="how patches are picked")
    rare: float | None = Field(None, ge=0, le=0.5, description="share of the kept patches for rare tissue")
    seed: int = Field(description="seed of all random draws")
    candidates: int = Field(ge=1, description="most candidates")
    clusters: int = Field(ge=1, description="clusters from which candidates are drawn")
    pixels: Literal["auto", "source", "jpeg"] = Field(description="how pixels are stored")
    quality: int = Field(ge=1, le=100, description="of the JPEG encoder")
    artefacts: Literal["guard", "keep"] | None = Field(None, description="what is done with artefacts")
    patch_size_level0: int | None = Field(ge=1, description="of given features whose file does not say")
    draws: int | None = Field(None, ge=1, description="random draws to compare with")
    thresholds: list[str] | None = Field(None, description="of the verdict, where they are not the default")
    tissue_features: Size | None = Field(None, description="bytes a patch for packed features; missing without")
    recompress: Recompressed = Field(None, description="how JPEG streams were to be stored; missing: as they are")
    mask_sha256: Sha256 | None = Field(description="of the user's tissue mask")


class BrokenTiles(Section):
    """Tiles of the slide that could not be read."""

    count: Count = Field(description="number of them")
    positions: list[Annotated[list[Count], Field(min_length=3, max_length=3)]] = Field(
        max_length=MAX_POSITIONS, description="level, column and row of the first of them"
    )


class LeftOut(Section):
    """Tissue that no patch covers, because a mask leaves it out or no features of it were given."""

    share: Share = Field(description="of the tissue that the slide shows, 0 to 1")
    mm2: Area = Field(description="its area")
    largest_mm2: Area = Field(description="the largest connected area of it")


class Artefacts(Section):
    """Patches that were removed from the tissue because they show nothing."""

    count: Count = Field(description="A, patches listed in `artefact/coords` and `artefact/kind`")
    kinds: dict[str, Size] = Field(description="how many of each kind")
    looked_at: Count = Field(description="patches that were judged")
    ignored: bool = Field(description="before 1.3: whether they stay tissue, as hardly anything else is there")


class Suspect(Section):
    """Tissue that may be pen, a fold or out of focus."""

    count: Count = Field(description="suspect tissue patches, marked in `tissue/suspect`")
    kinds: dict[str, Size] = Field(description="how many of each kind")


class MemberEntry(Section):
    """One member of the container."""

    bytes: Count = Field(description="size")
    sha256: Sha256 = Field(description="of its bytes")


class Draws(Section):
    """The random draws that the figures are compared with."""

    keep: list[Size] = Field(min_length=1, description="numbers of patches drawn, ascending; the last is K")
    models: list[Figure] = Field(description="figures of `reference/model_draws`, in files that have it")
    count: Count = Field(description="draws of `reference/draws`")
    model_count: Count = Field(description="draws of `reference/model_draws`; 0 without it")
    seed: Count = Field(description="seed of the draws")


class Thresholds(Section):
    """What a verdict asks for."""

    limits: dict[Limited, Limits] | None = Field(
        None, description="since 1.4: where a figure passes, and past which it fails"
    )
    percentiles: dict[Figure, Limits] | None = Field(
        None, description="before 1.4: percentile from which a figure passes, and below which it fails"
    )
    values: dict[Figure, Finite] = Field(description="what a figure must reach")


class Chance(Section):
    """How the patches compare with random draws, at the best of the numbers of patches drawn."""

    percentile: Annotated[int, Field(ge=0, le=100)] = Field(
        description="share of draws, in percent, that are not better in coverage or in represented tissue, the lower"
    )
    keep: Size = Field(description="the number of patches")
    alike: bool = Field(description="whether all draws have the same coverage")


class Verdict(Section):
    """What the figures come to."""

    verdict: Answer = Field(description="the worse of `representative` and `well_chosen`")
    representative: Answer | None = Field(None, description="whether the kept patches represent the tissue")
    well_chosen: Answer | None = Field(None, description="whether the kept patches are better than random ones")
    chance: Chance | None = Field(None, description="the comparison with random draws; null without draws")
    percentiles: dict[Figure, int | None] | None = Field(
        None, description="before 1.4: share of random draws that are not better, in whole percent"
    )
    reasons: list[str] = Field(description="what does not pass")
    thresholds: Thresholds = Field(description="by which the verdict was reached")


class Region(Section):
    """A connected area of tissue that no kept patch represents."""

    patches: Size = Field(description="tissue patches in it")
    mm2: Area = Field(description="its area")
    x: int = Field(description="left edge, level-0 px")
    y: int = Field(description="upper edge, level-0 px")
    width: Size = Field(description="level-0 px")
    height: Size = Field(description="level-0 px")
    nearest: Count = Field(description="row of the kept patch that is most like most of it")
    cosine: Cosine = Field(description="mean of its patches to their most similar kept patch")


class Represented(Section):
    """How much of the tissue some kept patch is as like as adjacent patches of the slide are to each other."""

    share: Share = Field(description="of the tissue, 0 to 1")
    mm2: Area = Field(description="represented tissue")
    tissue_mm2: Area = Field(
        description="all tissue, with what could not be read; since 2.0, what several patches cover counts once"
    )
    unread: Count = Field(description="tissue patches that could not be read; they count as not represented")
    patch_mm2: Area = Field(description="area of a patch")
    cosine: Cosine = Field(description="at which a patch represents another: the median of adjacent patches")
    pairs: Count = Field(description="adjacent pairs; 0 where there are too few, and nearest patches were compared")
    contrast: Share = Field(description="how often adjacent patches are more alike than random ones; ties count half")
    needed: Size | None = Field(description="fewest patches that would represent 95 %; null where not found")
    region_count: Count = Field(description="connected areas that are not represented")
    regions: list[Region] = Field(max_length=LISTED, description="the largest of them, largest first")


class Guarantee(Section):
    """The smallest area of tissue that is certainly represented."""

    cosine: Cosine = Field(description="the 5th percentile of coverage")
    area_mm2: Positive = Field(description="every connected tissue area of this size has a patch within `cosine`")
    areas_mm2: dict[str, Annotated[float, Field(gt=0)]] = Field(description="the same for round cosines")


def _encoder_kind(value: Any) -> str:
    return "card" if isinstance(value, Card) or (isinstance(value, dict) and "sha256" in value) else "named"


class Attributes(Section):
    """The object `wsisum` among the attributes of the root's zarr.json."""

    format_version: str = Field(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$", description="MAJOR.MINOR")
    migrated_from: str | None = Field(
        None,
        pattern=r"^1\.[0-9]{1,4}$",
        description="the format that the file had before; its keys are those of that format",
    )
    disclaimer: str = Field(description="what a summary is not for")
    source: Source = Field(description="the slide that the summary was made from")
    tissue_patches: Size = Field(description="N")
    patch: Patch = Field(description="geometry of a patch")
    encoder: Annotated[
        Annotated[EncoderCard, Tag("card")] | Annotated[NamedEncoder, Tag("named")],
        Discriminator(_encoder_kind),
    ] = Field(description="the card of the encoder; its name alone where features were given")
    provider: Literal["CPUExecutionProvider", "CUDAExecutionProvider", "none"] = Field(
        description="what ran the encoder; `none` where features were given"
    )
    features: ComputedFeatures | GivenFeatures = Field(discriminator="origin", description="where features come from")
    options: Options = Field(description="what the user chose, as far as it decides the bytes; null: the default")
    broken_tiles: BrokenTiles = Field(description="tiles of the slide that could not be read")
    left_out: LeftOut | None = Field(
        None, description="tissue that a mask, or given features, leave out; missing without these, or where not known"
    )
    artefacts: Artefacts | None = Field(None, description="patches removed from tissue; missing where nobody looked")
    suspect: Suspect | None = Field(None, description="tissue that may be an artefact")
    versions: dict[str, str] = Field(description="of the libraries that can change the bytes")
    summarizer: UsedSummarizer | None = Field(None, description="the summarizer's card; null where none was used")
    slide_encoder: UsedSlideEncoder | None = Field(None, description="the slide encoder's card; null without one")
    draws: Draws | None = Field(None, description="random draws that the figures are compared with")
    verdict: Verdict | None = Field(None, description="what the figures come to")
    represented: Represented | None = Field(None, description="how much of the tissue is represented")
    guarantee: Guarantee | None = Field(None, description="the smallest area of tissue that is certainly represented")
    trimmed_from: Size | None = Field(None, description="K before the summary was first trimmed; null where it was not")
    patches: Size = Field(description="K")
    bound: Literal["auto", "keep", "max_bytes", "target", "tissue", "most", "least"] | None = Field(
        None, description="what decided on K when the slide was summarized"
    )
    target_reached: bool | None = Field(
        None, description="whether the share asked for is represented (before 1.4: covered); null: none asked for"
    )
    pixels: SourcePixels | JpegPixels = Field(discriminator="mode", description="how pixels are stored")
    quality: Quality = Field(description="figures of the kept patches, of what is stored")
    reembedded: list[Reembedded] | None = Field(
        None,
        min_length=1,
        max_length=MAX_REEMBEDDED,
        description="features of the kept patches by further encoders, in `reembedded/0` and so on; weights, figures "
        "and verdict do not rest on them",
    )
    tissue_features: TissueFeatures | None = Field(
        None, description="what packed features of all tissue lost; missing where there are none"
    )
    members: dict[str, MemberEntry] = Field(
        default_factory=dict, min_length=1, description="each member but the root's zarr.json"
    )

    def as_json(self) -> dict[str, Any]:
        """The keys that are set, JSON-able, in the order of the fields."""
        return self.model_dump(mode="json", exclude_unset=True)

    @property
    def made_as(self) -> str:
        """The format in which the summary was made: of a migrated one, that before."""
        return self.migrated_from or self.format_version

    @property
    def revision(self) -> int:
        """Place in `VERSIONS` of the format whose keys there are; see `revision_of`."""
        return revision_of({"format_version": self.format_version, "migrated_from": self.migrated_from})

    @property
    def counts_overlap_twice(self) -> bool:
        """Whether areas count what several patches cover for each of them, as before format 2.0."""
        return self.revision < VERSIONS.index("2.0")

    @property
    def encoder_card(self) -> Card | None:
        """The encoder's card; None where features were given."""
        return self.encoder if isinstance(self.encoder, Card) else None

    @property
    def features_are_given(self) -> bool:
        """Whether the features came from a file."""
        return isinstance(self.features, GivenFeatures)

    @property
    def has_mask(self) -> bool:
        """Whether a user's mask says what is tissue."""
        return self.options.mask_sha256 is not None

    @property
    def features_encoder(self) -> str | None:
        """The sha256 of the encoder that made the features; None where nobody knows."""
        if isinstance(self.features, GivenFeatures):
            return self.features.encoder_sha256
        return self.encoder_card.sha256 if self.encoder_card is not None else None

    @property
    def used_models(self) -> dict[str, UsedSummarizer | UsedSlideEncoder]:
        """The cards of the models that saw the whole slide, by kind; without those that were not used."""
        found = {"summarizer": self.summarizer, "slide_encoder": self.slide_encoder}
        return {name: card for name, card in found.items() if card is not None}

    @property
    def suspect_count(self) -> int:
        """How many tissue patches are suspect; 0 before format 1.3."""
        return 0 if self.suspect is None else self.suspect.count

    @property
    def artefact_count(self) -> int:
        """How many patches the arrays `artefact/*` list; 0 where nobody looked."""
        return 0 if self.artefacts is None else self.artefacts.count


def revision_of(raw: Mapping[str, Any]) -> int:
    """Place in `VERSIONS` of the format whose keys some attributes have: their own, or that of the file migrated.

    That of 1.0 where they do not say; that of the last known one where a later one added to it.
    """
    stated = raw.get("migrated_from") or raw.get("format_version")
    found = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", stated) if isinstance(stated, str) else None
    if found is None:
        return 0
    same_major = [place for place, version in enumerate(VERSIONS) if version.split(".")[0] == found[1]]
    return min(same_major[0] + int(found[2]), same_major[-1]) if same_major else 0
