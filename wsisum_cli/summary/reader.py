"""The summary slide: one slide's patches, features, weights and provenance in one file. See docs/format.md.

For use by other programs:

    from wsisum_cli.summary.reader import open_summary

    with open_summary("B12.ozx") as summary:
        summary.patches[0], summary.features, summary.coords, summary.weights, summary.embedding
        summary.provenance["source"]["sha256"]
"""

from __future__ import annotations

import hashlib
import operator
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.quality.random_draws import Draws
from wsisum_cli.selection.prefixes import Prefixes, join
from wsisum_cli.slides.patches import Reading, Tile, cut_patch
from wsisum_cli.slides.remote.url import Address
from wsisum_cli.summary.attribute_checks import check_attributes, wrong_geometry
from wsisum_cli.summary.attributes import VERSIONS, Attributes
from wsisum_cli.summary.container import (
    MAX_MEMBERS,
    Member,
    find_summaries,
    name_of,
    open_anywhere,
    read_member,
    read_members,
)
from wsisum_cli.summary.extras.additions import Additions
from wsisum_cli.summary.limits.claims import excessive_claims, most_bytes
from wsisum_cli.summary.limits.metadata import MAX_BYTES, parse_metadata
from wsisum_cli.summary.limits.shapes import Expected, expected_arrays
from wsisum_cli.summary.stored.jpeg_rows import JPEG_CODECS, ROW_CODECS, JpegRows
from wsisum_cli.summary.writer import (
    ARTEFACT,
    EMBEDDINGS,
    FORMAT_VERSION,
    ICC_PROFILE,
    OVERVIEW,
    PIXELS,
    PORTABLE,
    REFERENCE,
    ROOT,
    SUSPECT,
    TILES,
    Reference,
    TissueMap,
)
from wsisum_cli.tissue.artefacts import NO_ARTEFACTS, Artefacts

if TYPE_CHECKING:
    from wsisum_cli.summary.chunks import Layout

PART_BYTES = 1 << 20  # of a member that are hashed at a time


def open_summary(path: str | Path | Address) -> Summary:
    """Open a summary slide from a path, or an address of one of `SCHEMES` (`s3://bucket/B12.ozx`, `https://...`).

    Only the member list and attributes are read; the rest is read on demand, in ranges of what is remote. Raises
    SummaryError when the file is missing or not a summary slide, UnreachableError when its store does not answer.
    """
    name = name_of(path)
    try:
        file = open_anywhere(path)
    except SummaryError:
        raise
    except OSError as error:
        why = os.strerror(error.errno) if error.errno is not None else type(error).__name__  # its text holds the path
        raise SummaryError(f"{name}: cannot be opened ({why})") from error
    try:
        return Summary(file, name)
    except BaseException:
        file.close()
        raise


def iter_summaries(folder: str | Path) -> Iterator[Summary]:
    """Each summary slide below `folder`, a path or an address, by path, without hidden names.

    Each is closed when the next is asked for. Raises SummaryError at the first that cannot be opened.
    """
    for path in find_summaries(folder):
        with open_summary(path) as summary:
            yield summary


class Summary(Additions):
    """An open summary slide. Arrays are read on first use, patches one by one.

    `file` is seekable and holds the whole file; `name` is its name in messages. Properties raise SummaryError when
    their data are missing or damaged. Not thread-safe: open it once per thread.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self.file = file
        self.listed: list[Member] = read_members(file, name)
        self.members = {member.name: member for member in self.listed}
        self._claimed: dict[str, int] = {}  # bytes of the arrays that were read
        self._inflated: tuple[str, bytes] | None = None  # the member that was inflated last
        self.attributes = self._attributes()

    def __enter__(self) -> Summary:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()

    def __repr__(self) -> str:
        """One line that a person can read; short where the attributes are damaged."""
        try:
            record = self.record
        except SummaryError:
            return f"<Summary {self.name}: its attributes are damaged>"
        verdict = "no verdict" if record.verdict is None else record.verdict.verdict
        of = f"{record.patches} of {record.tissue_patches} patches of {record.source.name}"
        return f"<Summary {self.name}: {of}, {verdict}, format {record.format_version}>"

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """Read `size` bytes of a member from `start`, up to its end if None."""
        if name not in self.members:
            raise SummaryError(f"{self.name}: member {name} is missing; the file is not a complete summary slide")
        member = self.members[name]
        if name.endswith(ROOT) and member.size > MAX_BYTES:
            raise SummaryError(f"{self.name}: {name} has {member.size} bytes of metadata, expected at most {MAX_BYTES}")
        if member.deflated is None:
            return read_member(self.file, member, start, size)
        if self._inflated is None or self._inflated[0] != name:  # which takes long, and rows are read one by one
            self._inflated = (name, read_member(self.file, member))
        return self._inflated[1][start : None if size is None else start + size]

    def sha256(self, name: str) -> str:
        """The digest of a member, read a part at a time."""
        digest, member = hashlib.sha256(), self.members[name]
        for start in range(0, member.size, PART_BYTES):
            digest.update(self.read(name, start, PART_BYTES))
        return digest.hexdigest()

    def _attributes(self) -> dict[str, Any]:
        try:
            attributes = parse_metadata(self.read(ROOT))["attributes"]["wsisum"]
            version = attributes["format_version"].split(".")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SummaryError(f"{self.name}: not a summary slide: its zarr.json has no wsisum attributes") from error
        if version[0] not in {known.split(".")[0] for known in VERSIONS}:
            found = attributes["format_version"]
            raise SummaryError(f"{self.name}: format {found:.20}, this program reads {FORMAT_VERSION}; update wsisum")
        listed = attributes.get("members")
        if isinstance(listed, dict) and len(listed) > MAX_MEMBERS:
            raise SummaryError(f"{self.name}: it lists {len(listed)} members, expected at most {MAX_MEMBERS}")
        found_attributes: dict[str, Any] = attributes
        return found_attributes

    @property
    def is_first_major(self) -> bool:
        """Whether the file has a format before 2.0."""
        return bool(self.attributes["format_version"].split(".")[0] == "1")

    @property
    def attributes_are_whole(self) -> bool:
        """Whether the attributes are unchanged, by the checksum in the ZIP directory."""
        return zlib.crc32(self.read(ROOT)) == self.members[ROOT].crc

    def array(self, name: str) -> np.ndarray:
        """Read an array by its path. Raises SummaryError.

        JPEG streams are rows of bytes; before format 2.0 they are images, which are decoded.
        """
        from wsisum_cli.summary.chunks import SAFE_BYTES, SAFE_RATIO, decode_array, read_layout

        metadata = self.read(f"{name}/zarr.json")
        try:
            layout = read_layout(metadata)
            self._refuse_unfit(name, layout)
            if layout.codecs in (JPEG_CODECS, ROW_CODECS):
                rows = JpegRows(self, name)
                if layout.bytes > max(SAFE_BYTES, SAFE_RATIO * self.members[rows.member].size):
                    raise ValueError(f"it claims to hold {layout.bytes} bytes")
                if self.is_first_major:
                    return np.stack([rows.decoded(row) for row in range(len(rows))])
                return np.stack([rows.padded(row) for row in range(len(rows))])
            key = "/".join(["0"] * len(layout.shape))
            return decode_array(metadata, self.read(f"{name}/c/{key}"))
        except ValueError as error:
            raise SummaryError(f"{self.name}: {name} cannot be decoded: {error}") from error

    def _refuse_unfit(self, name: str, layout: Layout) -> None:
        """Raises ValueError for an array that no summary with these attributes has, before it takes memory."""
        expected = self._expected.get(name)
        if expected is not None and not expected.fits(layout.dtype, layout.shape):
            raise ValueError(f"expected {expected}, found {layout.dtype.name} {layout.shape}")
        if self._excess is not None:
            raise ValueError(self._excess)
        claimed, most = sum({**self._claimed, name: layout.bytes}.values()), most_bytes(self.size)
        if layout.codecs not in (JPEG_CODECS, ROW_CODECS):  # whose rows have limits of their own
            if claimed > most:
                raise ValueError(f"arrays claim {claimed} bytes, a file of {self.size} bytes holds at most {most}")
            self._claimed[name] = layout.bytes

    @cached_property
    def size(self) -> int:
        """Bytes of the file."""
        return self.file.seek(0, os.SEEK_END)

    @cached_property
    def _expected(self) -> dict[str, Expected]:
        """What each array must be; empty where the attributes are damaged."""
        try:
            return expected_arrays(self.record, self.members)
        except SummaryError:
            return {}

    @cached_property
    def _excess(self) -> str | None:
        """A claim of the attributes that cannot be true, without a look at the overview; None where there is none."""
        try:
            found = list(excessive_claims(self.record, {}, self.size))
        except SummaryError:
            return None
        return found[0].message if found else None

    def overview_sizes(self) -> dict[str, tuple[int, int]]:
        """Width and height of each overview by its name, without those that cannot be told."""
        from wsisum_cli.summary.chunks import read_layout

        found = {}
        with suppress(SummaryError, ValueError):
            _, height, width = read_layout(self.read(f"{PORTABLE}/zarr.json")).shape
            found[PORTABLE] = (width, height)
        with suppress(SummaryError, ValueError):
            height, width = JpegRows(self, OVERVIEW).size(0)
            found[OVERVIEW] = (width, height)
        return found

    def optional(self, name: str) -> np.ndarray | None:
        """Read an array by its path; None if the summary lacks it. Raises SummaryError."""
        return self.array(name) if f"{name}/zarr.json" in self.members else None

    @cached_property
    def record(self) -> Attributes:
        """The attributes as typed data. Raises SummaryError where they are not what the format asks for."""
        attributes, wrong = check_attributes(self.attributes)
        if attributes is None or wrong:
            raise SummaryError(f"{self.name}: {wrong[0]}; run wsisum verify on it")
        return attributes

    @property
    def provenance(self) -> dict[str, Any]:
        """Source, patch geometry, models, options, versions and quality; see docs/format.md."""
        return {name: value for name, value in self.attributes.items() if name != "members"}

    @cached_property
    def coords(self) -> np.ndarray:
        """(K, 2) int32 x, y of the upper left corners of the kept patches, in level-0 px."""
        return self.array("patches/coords")

    @cached_property
    def features(self) -> np.ndarray:
        """(K, D) float16 features of the encoder (float32 if float16 would overflow)."""
        return self.array("patches/features")

    @cached_property
    def weights(self) -> np.ndarray:
        """(K,) float64 weight of each kept patch in the slide's mean; sums to 1."""
        return self.array("patches/weights")

    @cached_property
    def counts(self) -> np.ndarray:
        """(K,) int32 number of tissue patches that each kept patch represents, itself included; sums to N."""
        found = self.optional("patches/counts")
        representative = self.tissue.representative
        return np.bincount(representative, minlength=len(self.coords)).astype(np.int32) if found is None else found

    @cached_property
    def cluster(self) -> np.ndarray:
        """(K,) int16 cluster of each kept patch."""
        return self.array("patches/cluster")

    @cached_property
    def embedding(self) -> np.ndarray:
        """(D,) float32 mean of the features of all tissue patches: the slide embedding that every summary has."""
        return self.array("reference/mean")

    @cached_property
    def summarizer_embedding(self) -> np.ndarray | None:
        """(E,) float32 the summarizer's embedding of all candidates; None if no summarizer was used."""
        return self.optional("reference/embedding")

    @cached_property
    def slide_embedding(self) -> np.ndarray | None:
        """(E,) float32 the slide encoder's embedding of all tissue patches; None if no slide encoder was used."""
        return self.optional("reference/slide_embedding")

    @cached_property
    def tissue(self) -> TissueMap:
        """Every tissue patch of the slide and its representative."""
        names = ("coords", "representative", "similarity", "cluster")
        coords, representative, similarity, cluster = (self.array(f"tissue/{name}") for name in names)
        return TissueMap(coords, representative, similarity, cluster, suspect=self.optional(SUSPECT))

    @cached_property
    def prefixes(self) -> Prefixes | None:
        """The representative of each tissue patch for every smaller number of patches; None before format 1.2."""
        counts, picks, cosines = (
            self.optional(f"tissue/earlier_{name}") for name in ("count", "representative", "similarity")
        )
        if counts is None:
            return None
        if picks is None or cosines is None:  # only one kept patch
            picks, cosines = np.empty(0, np.int32), np.empty(0, np.float16)
        tissue = self.tissue
        fits = len(counts) == len(tissue.coords) and counts.min(initial=0) >= 0
        if not fits or not counts.sum(dtype=np.int64) == len(picks) == len(cosines):
            raise SummaryError(f"{self.name}: tissue/earlier_count does not match tissue/earlier_*; they are damaged")
        return join(counts, picks, cosines, tissue.representative, tissue.similarity)

    @cached_property
    def draws(self) -> Draws | None:
        """Figures of random draws of as many patches; None before format 1.2."""
        by_features, by_models = self.optional("reference/draws"), self.optional("reference/model_draws")
        if by_features is None:
            return None
        if by_models is None:
            by_models = np.empty((0, by_features.shape[-1]), np.float32)
        made = self.record.draws
        if made is None:
            raise SummaryError(f"{self.name}: draws is missing; run wsisum verify on it")
        counts = (made.count, made.model_count, made.seed)
        return Draws(tuple(made.keep), by_features, tuple(made.models), by_models, *counts)

    @cached_property
    def artefacts(self) -> Artefacts:
        """The patches that were removed from the tissue, and their kinds; none where nobody looked."""
        found = self.record.artefacts
        if found is None or not found.count:
            return NO_ARTEFACTS
        coords, kind = self.array(f"{ARTEFACT}/coords"), self.array(f"{ARTEFACT}/kind")
        return Artefacts(coords, kind, found.looked_at, found.ignored)

    @cached_property
    def reference(self) -> Reference:
        """Statistics and embeddings of the features of all tissue patches."""
        mean, components, variances = (self.array(f"reference/{name}") for name in REFERENCE)
        embeddings = {name: self.optional(f"reference/{name}") for name in EMBEDDINGS}
        return Reference(mean, components, variances, **embeddings)

    @cached_property
    def icc_profile(self) -> bytes | None:
        """The source's ICC profile, which applies to the patches' pixels; None if it has none."""
        profile = self.optional(ICC_PROFILE)
        return None if profile is None else profile.tobytes()

    @cached_property
    def patches(self) -> Patches:
        """Pixels of the kept patches: a sequence of (P, P, 3) uint8 RGB, decoded one by one."""
        pixels = self.attributes.get("pixels")  # of a damaged file too, of which patches can still be read
        is_source = isinstance(pixels, dict) and pixels.get("mode") == "source"
        return SourcePatches(self) if is_source else Patches(self)

    @cached_property
    def overview(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, the finest overview in the file."""
        if f"{OVERVIEW}/zarr.json" in self.members:
            return JpegRows(self, OVERVIEW).decoded(0)
        return np.moveaxis(self.array(PORTABLE), 0, 2)


def patch_side(attributes: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of a stored patch; None where damaged attributes do not say."""
    patch = attributes.get("patch")
    side = patch.get("patch_size") if isinstance(patch, dict) else None
    return (side, side) if type(side) is int else None


def reading_of(attributes: Mapping[str, Any]) -> Reading:
    """How the patches were read from the slide, ignoring attributes of later format versions."""
    stored = attributes["patch"]["reading"]
    return Reading(**{field.name: stored[field.name] for field in fields(Reading)})


class Patches(Sequence[np.ndarray]):
    """The kept patches as (P, P, 3) uint8 RGB. Each is read separately."""

    def __init__(self, summary: Summary, array: str = PIXELS, side: tuple[int, int] | None = None) -> None:
        self.shard = JpegRows(summary, array, side or patch_side(summary.attributes))

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, row: Any) -> Any:
        """One patch, or (M, P, P, 3) for a slice. Raises IndexError, and SummaryError for a damaged patch."""
        if isinstance(row, slice):
            found = [self[i] for i in range(*row.indices(len(self)))]
            return np.stack(found) if found else np.empty((0, *self[0].shape), np.uint8)
        row = operator.index(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f"patch {row} of {len(self)}")
        return self._patch(row % len(self))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def _patch(self, row: int) -> np.ndarray:
        return self.shard.decoded(row)


class SourcePatches(Patches):
    """Patches assembled from the scanner's own tiles, exactly as the encoder got them."""

    def __init__(self, summary: Summary) -> None:
        wrong = next(wrong_geometry(summary.attributes), None)
        if wrong is not None:
            raise SummaryError(f"{summary.name}: the attributes do not describe how patches are read: {wrong}")
        self.reading = reading_of(summary.attributes)
        shrink = self.reading.shrink
        super().__init__(summary, TILES, (self.reading.tile_height * shrink, self.reading.tile_width * shrink))
        self._coords = summary.coords
        self.positions = summary.array("patches/tile_positions")
        if self.positions.ndim != 2 or self.positions.shape[1] != 2 or self._coords.shape[1:] != (2,):
            raise SummaryError(f"{summary.name}: patches/coords and patches/tile_positions are not lists of positions")
        self._rows: dict[Tile, int] = {(c, r): i for i, (c, r) in enumerate(self.positions.tolist())}
        if len(self._rows) != len(self.shard):
            raise SummaryError(f"{summary.name}: {len(self.shard)} tiles at {len(self._rows)} positions")
        tile = tuple(side // shrink for side in self.shard.side or ())
        if tile != (self.reading.tile_height, self.reading.tile_width):
            raise SummaryError(f"{summary.name}: tiles of {self.shard.side} px do not match patch.reading")

    def __len__(self) -> int:
        return len(self._coords)

    def _patch(self, row: int) -> np.ndarray:
        x, y = self._coords[row].tolist()
        return cut_patch(self.reading, x, y, self._tile)

    def _tile(self, tile: Tile) -> np.ndarray | None:
        """A decoded tile; None if the source does not store it either."""
        return self.shard.decoded(self._rows[tile], self.reading.shrink) if tile in self._rows else None
