"""The summary slide: one slide's patches, features, weights and provenance in one file. See docs/format.md.

For use by other programs:

    from wsisum_cli.summary.reader import open_summary

    with open_summary("B12.ozx") as summary:
        summary.patches[0], summary.features, summary.coords, summary.weights, summary.embedding
        summary.provenance["source"]["sha256"]
"""

from __future__ import annotations

import json
import math
import operator
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.quality.random_draws import Draws
from wsisum_cli.selection.prefixes import Prefixes, join
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.patches import Reading, Tile, cut_patch
from wsisum_cli.slides.remote.url import Address
from wsisum_cli.summary.attribute_checks import check_attributes, wrong_geometry
from wsisum_cli.summary.attributes import VERSIONS, Attributes
from wsisum_cli.summary.container import Member, find_summaries, name_of, open_anywhere, read_member, read_members
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

JPEG_CODECS = ("imagecodecs_jpeg", "crc32c")  # before format 2.0
ROW_CODECS = ("bytes", "zstd", "crc32c")
MAX_ROW = 1 << 26  # bytes of a stream, and of the zeros behind it
MAX_PIXELS = 1 << 26  # per image, 200 MB decoded


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
    """Each summary slide below `folder`, a path or an address, by path; closed when the next is asked for.

    Raises SummaryError at the first that cannot be opened.
    """
    for path in find_summaries(folder):
        with open_summary(path) as summary:
            yield summary


def parse_json(data: bytes) -> Any:
    """Parse strict JSON, without NaN and Infinity. Raises ValueError."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not valid JSON")

    try:
        return json.loads(data, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class Summary:
    """An open summary slide. Arrays are read on first use, patches one by one.

    `file` is seekable and holds the whole file; `name` is its name in messages. Properties raise SummaryError when
    their data are missing or damaged. Not thread-safe: open it once per thread.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self.file = file
        self.listed: list[Member] = read_members(file, name)
        self.members = {member.name: member for member in self.listed}
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
        return read_member(self.file, self.members[name], start, size)

    def _attributes(self) -> dict[str, Any]:
        try:
            attributes = parse_json(self.read(ROOT))["attributes"]["wsisum"]
            version = attributes["format_version"].split(".")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SummaryError(f"{self.name}: not a summary slide: its zarr.json has no wsisum attributes") from error
        if version[0] not in {known.split(".")[0] for known in VERSIONS}:
            found = attributes["format_version"]
            raise SummaryError(f"{self.name}: format {found:.20}, this program reads {FORMAT_VERSION}; update wsisum")
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


class JpegRows:
    """JPEG streams in one shard, read and decoded one by one: a row each, or before format 2.0 an image each.

    `side` (height, width) is what every image has; None where it is the image that says so. Raises SummaryError when
    the shard, or a requested stream, does not match its metadata.
    """

    def __init__(self, summary: Summary, array: str, side: tuple[int, int] | None = None) -> None:
        from wsisum_cli.summary.chunks import read_layout, shard_index_size, unpack_shard_index

        self._summary = summary
        try:
            layout = read_layout(summary.read(f"{array}/zarr.json"))
            self._lengths, stored = self._plan(array, layout)
            self.member = f"{array}/c/{'/'.join(['0'] * len(layout.shape))}"
            summary.read(self.member, 0, 0)  # raises if it is missing
            start = summary.members[self.member].size - shard_index_size(layout.shape[0])
            if start < 0 or layout.shape[1] > MAX_ROW or (stored and math.prod(stored) > MAX_PIXELS):
                raise ValueError(f"it cannot hold {layout.shape[0]} images")
            self._index = unpack_shard_index(summary.read(self.member, start))
        except ValueError as error:
            raise SummaryError(f"{summary.name}: {array} cannot be read: {error}") from error
        self._longest, self._end = layout.shape[1], start  # end of the chunks
        self.side = stored or side

    def _plan(self, array: str, layout: Layout) -> tuple[list[int] | None, tuple[int, int] | None]:
        """The lengths of rows, None where a chunk is a stream, and the size of images where the array has it.

        Raises ValueError for an array that holds no streams.
        """
        from wsisum_cli.summary.chunks import decode_array

        shape, read = layout.shape, self._summary.read
        codecs, sides = (JPEG_CODECS, 4) if self._summary.is_first_major else (ROW_CODECS, 2)
        if layout.codecs != codecs or len(shape) != sides or layout.dtype != np.uint8 or not shape[0]:
            raise ValueError(f"it has the shape {shape} and the codecs {', '.join(layout.codecs)}")
        if self._summary.is_first_major:
            if shape[3] != 3:
                raise ValueError(f"it has {shape[3]} colours")
            return None, (shape[1], shape[2])
        lengths = decode_array(read(f"{array}_bytes/zarr.json"), read(f"{array}_bytes/c/0"))
        if lengths.dtype != np.int32 or lengths.shape != shape[:1] or not ((lengths > 0) & (lengths <= shape[1])).all():
            raise ValueError(f"{array}_bytes does not match it")
        return lengths.tolist(), None

    def __len__(self) -> int:
        return len(self._index)

    @property
    def is_gapless(self) -> bool:
        """Whether the chunks follow each other from the start of the shard to its index, as they are written."""
        ends = [0, *(offset + size for offset, size in self._index)]
        return [offset for offset, _ in self._index] == ends[:-1] and ends[-1] == self._end

    def stream(self, row: int) -> bytes:
        """One complete JPEG stream."""
        from wsisum_cli.summary.chunks import checked, decode_row

        offset, size = self._index[row]
        if offset + size > self._end:
            raise self._wrong(row, "lies outside the shard")
        try:
            chunk = checked(self._summary.read(self.member, offset, size))
            if self._lengths is None:
                return chunk
            stream, zeros = np.split(np.frombuffer(decode_row(chunk, self._longest), np.uint8), [self._lengths[row]])
            if zeros.any():
                raise ValueError("bytes stand behind its stream")
            return stream.tobytes()
        except ValueError as error:
            raise self._wrong(row, f"is damaged: {error}") from error

    def padded(self, row: int) -> np.ndarray:
        """A row as the array has it: the stream with zeros behind it."""
        return np.frombuffer(self.stream(row).ljust(self._longest, b"\0"), np.uint8)

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of one image, by its frame header."""
        return self._sized(row, self.stream(row))

    def _sized(self, row: int, stream: bytes) -> tuple[int, int]:
        found = jpeg.frame_size(stream)
        if len(found) != 2 or math.prod(found) > MAX_PIXELS or self.side not in (None, found):
            raise self._wrong(row, f"is an image of {found}, expected {self.side or 'two sides'} (height, width)")
        return found[0], found[1]

    def decoded(self, row: int, shrink: int = 1) -> np.ndarray:
        """Decode one image, each side divided by `shrink` inside the JPEG decoder."""
        stream = self.stream(row)
        self._sized(row, stream)  # before the decoder allocates memory
        try:
            return jpeg.decode(stream, shrink)
        except ValueError as error:
            raise self._wrong(row, f"cannot be decoded: {error}") from error

    def _wrong(self, row: int, what: str) -> SummaryError:
        return SummaryError(f"{self._summary.name}: chunk {row} of {self.member} {what}")


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
