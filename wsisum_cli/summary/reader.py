"""The summary slide: one slide's patches, features, weights and provenance in one file. See docs/format.md.

The door for other programs:

    from wsisum_cli.summary.reader import open_summary

    with open_summary("B12.ozx") as summary:
        summary.patches[0], summary.features, summary.coords, summary.weights, summary.embedding
        summary.provenance["source"]["sha256"]
"""

from __future__ import annotations

import json
import operator
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.quality.random_draws import Draws
from wsisum_cli.selection.prefixes import Prefixes, join
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.patches import Reading, Tile, cut_patch
from wsisum_cli.summary.attributes import artefacts_found, wrong_geometry
from wsisum_cli.summary.container import Member, read_member, read_members
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

JPEG_CODECS = ("imagecodecs_jpeg", "crc32c")
MAX_PIXELS = 1 << 26  # of one image: 200 MB decoded


def open_summary(path: str | Path) -> Summary:
    """Open a summary slide: a path, or any URL that fsspec knows (`s3://bucket/B12.ozx`, `https://...`).

    Nothing but the list of members and the attributes is read until it is asked for. Raises SummaryError when
    the file is missing, or is no summary slide.
    """
    name = name_of(path)
    try:
        file = open_anywhere(path)
    # Each of fsspec's file systems has exceptions of its own.
    except Exception as error:
        why = getattr(error, "strerror", None) or type(error).__name__  # its text may hold a path, or a URL's key
        remedy = "; check the address, and who may read there" if "://" in str(path) else ""
        raise SummaryError(f"{name}: cannot be opened ({why}){remedy}") from error
    try:
        return Summary(file, name)
    except BaseException:
        file.close()
        raise


def name_of(path: str | Path) -> str:
    """What messages call a path or URL: its last part, without the query that may hold a key."""
    return str(path).replace("\\", "/").partition("?")[0].rsplit("/", 1)[-1]


def open_anywhere(path: str | Path) -> IO[bytes]:
    if "://" not in str(path):
        return open(path, "rb")
    import fsspec

    opened: IO[bytes] = fsspec.open(str(path), "rb").open()
    return opened


def parse_json(data: bytes) -> Any:
    """Strict JSON: NaN and Infinity are none. Raises ValueError."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(data, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class Summary:
    """An open summary slide. Arrays are read when first asked for, patches one by one.

    `file` is seekable and holds the whole file; `name` is how messages call it. Properties raise SummaryError
    when what they need is missing or damaged. Not safe to use from several threads at once: open it in each.
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

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """`size` bytes of a member from `start`, all of it when None."""
        if name not in self.members:
            raise SummaryError(f"{self.name}: member {name} is missing; the file is not a whole summary slide")
        return read_member(self.file, self.members[name], start, size)

    def _attributes(self) -> dict[str, Any]:
        try:
            attributes = parse_json(self.read(ROOT))["attributes"]["wsisum"]
            version = attributes["format_version"].split(".")[0]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SummaryError(f"{self.name}: no summary slide: its zarr.json has no wsisum attributes") from error
        if version != FORMAT_VERSION.split(".")[0]:
            found = attributes["format_version"]
            raise SummaryError(f"{self.name}: format {found:.20}, this program reads {FORMAT_VERSION}; update wsisum")
        found_attributes: dict[str, Any] = attributes
        return found_attributes

    @property
    def attributes_are_whole(self) -> bool:
        """Whether they are as they were written, by the checksum of the file's list."""
        return zlib.crc32(self.read(ROOT)) == self.members[ROOT].crc

    def array(self, name: str) -> np.ndarray:
        """One array of the hierarchy by its path, images decoded. Raises SummaryError."""
        from wsisum_cli.summary.arrays import decode_array, read_layout

        metadata = self.read(f"{name}/zarr.json")
        try:
            layout = read_layout(metadata)
            if layout.codecs == JPEG_CODECS:
                shard = JpegShard(self, name)
                return np.stack([shard.decoded(row) for row in range(len(shard))])
            key = "/".join(["0"] * len(layout.shape))
            return decode_array(metadata, self.read(f"{name}/c/{key}"))
        except ValueError as error:
            raise SummaryError(f"{self.name}: {name} cannot be decoded: {error}") from error

    def optional(self, name: str) -> np.ndarray | None:
        """One array by its path, None where the summary has none. Raises SummaryError."""
        return self.array(name) if f"{name}/zarr.json" in self.members else None

    @property
    def provenance(self) -> dict[str, Any]:
        """Source, patch geometry, models, options, versions and quality; see docs/format.md."""
        return {name: value for name, value in self.attributes.items() if name != "members"}

    @cached_property
    def coords(self) -> np.ndarray:
        """(K, 2) int32 x, y of the kept patches' upper left corners, level-0 px."""
        return self.array("patches/coords")

    @cached_property
    def features(self) -> np.ndarray:
        """(K, D) float16 as the encoder gave them (float32 where float16 would overflow)."""
        return self.array("patches/features")

    @cached_property
    def weights(self) -> np.ndarray:
        """(K,) float64 share of each kept patch in the slide's mean; sums to 1."""
        return self.array("patches/weights")

    @cached_property
    def counts(self) -> np.ndarray:
        """(K,) int32 how many tissue patches each kept patch stands for, itself included; they sum to N."""
        found = self.optional("patches/counts")
        stand_in = self.tissue.representative
        return np.bincount(stand_in, minlength=len(self.coords)).astype(np.int32) if found is None else found

    @cached_property
    def cluster(self) -> np.ndarray:
        """(K,) int16 cluster of each kept patch."""
        return self.array("patches/cluster")

    @cached_property
    def embedding(self) -> np.ndarray:
        """(D,) float32 mean of the features of all tissue patches: the slide embedding that is always there."""
        return self.array("reference/mean")

    @cached_property
    def summarizer_embedding(self) -> np.ndarray | None:
        """(E,) float32 the summarizer's embedding of all candidates; None where none was used."""
        return self.optional("reference/embedding")

    @cached_property
    def slide_embedding(self) -> np.ndarray | None:
        """(E,) float32 the slide encoder's embedding of all tissue patches; None where none was used."""
        return self.optional("reference/slide_embedding")

    @cached_property
    def tissue(self) -> TissueMap:
        """Every tissue patch of the slide and the kept patch that stands for it."""
        names = ("coords", "representative", "similarity", "cluster")
        coords, representative, similarity, cluster = (self.array(f"tissue/{name}") for name in names)
        return TissueMap(coords, representative, similarity, cluster, suspect=self.optional(SUSPECT))

    @cached_property
    def prefixes(self) -> Prefixes | None:
        """Who stood for each tissue patch before later ones were picked; None in summaries before format 1.2."""
        counts, picks, cosines = (
            self.optional(f"tissue/earlier_{name}") for name in ("count", "representative", "similarity")
        )
        if counts is None:
            return None
        if picks is None or cosines is None:  # of one kept patch
            picks, cosines = np.empty(0, np.int32), np.empty(0, np.float16)
        tissue = self.tissue
        fits = len(counts) == len(tissue.coords) and counts.min(initial=0) >= 0
        if not fits or not counts.sum(dtype=np.int64) == len(picks) == len(cosines):
            raise SummaryError(f"{self.name}: tissue/earlier_count does not count tissue/earlier_*; they are damaged")
        return join(counts, picks, cosines, tissue.representative, tissue.similarity)

    @cached_property
    def draws(self) -> Draws | None:
        """What random draws of as many patches reach; None in summaries before format 1.2."""
        by_features, by_models = self.optional("reference/draws"), self.optional("reference/model_draws")
        if by_features is None:
            return None
        if by_models is None:
            by_models = np.empty((0, by_features.shape[-1]), np.float32)
        said = self.attributes["draws"]
        counts = (said["count"], said["model_count"], said["seed"])
        return Draws(tuple(said["keep"]), by_features, tuple(said["models"]), by_models, *counts)

    @cached_property
    def artefacts(self) -> Artefacts:
        """The patches that were removed from the tissue, and their kinds; none where nobody looked."""
        if not artefacts_found(self.attributes):
            return NO_ARTEFACTS
        looked_at, ignored = (self.attributes["artefacts"][name] for name in ("looked_at", "ignored"))
        return Artefacts(self.array(f"{ARTEFACT}/coords"), self.array(f"{ARTEFACT}/kind"), looked_at, ignored)

    @cached_property
    def reference(self) -> Reference:
        """What is remembered of the features of all tissue patches."""
        mean, components, variances = (self.array(f"reference/{name}") for name in REFERENCE)
        embeddings = {name: self.optional(f"reference/{name}") for name in EMBEDDINGS}
        return Reference(mean, components, variances, **embeddings)

    @cached_property
    def icc_profile(self) -> bytes | None:
        """The source's colour profile, to which the patches' pixels belong; None where it has none."""
        profile = self.optional(ICC_PROFILE)
        return None if profile is None else profile.tobytes()

    @cached_property
    def patches(self) -> Patches:
        """Pixels of the kept patches: a sequence of (P, P, 3) uint8 RGB, decoded one by one."""
        return SourcePatches(self) if self.attributes["pixels"]["mode"] == "source" else Patches(self)

    @cached_property
    def overview(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, the finest overview in the file."""
        if f"{OVERVIEW}/zarr.json" in self.members:
            return JpegShard(self, OVERVIEW).decoded(0)
        return np.moveaxis(self.array(PORTABLE), 0, 2)


def reading_of(attributes: Mapping[str, Any]) -> Reading:
    """How the patches were cut out of the slide; attributes that later versions of the format add are left out."""
    stored = attributes["patch"]["reading"]
    return Reading(**{field.name: stored[field.name] for field in fields(Reading)})


class JpegShard:
    """An array of (count, H, W, 3) uint8 stored as JPEG streams in one shard, read and decoded one by one.

    Raises SummaryError when the shard, or the chunk asked for, is not what its metadata say.
    """

    def __init__(self, summary: Summary, array: str) -> None:
        from wsisum_cli.summary.arrays import read_layout, shard_index_size, unpack_shard_index

        self._summary = summary
        self.member = f"{array}/c/0/0/0/0"
        metadata = summary.read(f"{array}/zarr.json")
        summary.read(self.member, 0, 0)  # raises when it is missing
        try:
            layout = read_layout(metadata)
            if layout.codecs != JPEG_CODECS or len(layout.shape) != 4 or layout.shape[3] != 3:
                raise ValueError(f"it has the shape {layout.shape} and the codecs {', '.join(layout.codecs)}")
            start = summary.members[self.member].size - shard_index_size(layout.shape[0])
            if start < 0 or layout.shape[1] * layout.shape[2] > MAX_PIXELS:
                raise ValueError(f"it cannot hold {layout.shape[0]} images of {layout.shape[1:3]} px")
            self._index = unpack_shard_index(summary.read(self.member, start))
        except ValueError as error:
            raise SummaryError(f"{summary.name}: {array} cannot be read: {error}") from error
        self._end = start  # of the chunks
        self.side = layout.shape[1:3]

    def __len__(self) -> int:
        return len(self._index)

    def stream(self, row: int) -> bytes:
        """The complete JPEG stream of one chunk."""
        from wsisum_cli.summary.arrays import checked

        offset, size = self._index[row]
        if offset + size > self._end:
            raise self._wrong(row, "lies outside the shard")
        try:
            return checked(self._summary.read(self.member, offset, size))
        except ValueError as error:
            raise self._wrong(row, f"is damaged: {error}") from error

    def decoded(self, row: int, shrink: int = 1) -> np.ndarray:
        """One image, each side divided by `shrink` inside the JPEG decoder."""
        stream = self.stream(row)
        found = jpeg.frame_size(stream)
        if found != self.side:  # looked at before the decoder makes room for it
            raise self._wrong(row, f"is an image of {found}, expected {self.side} (height, width)")
        try:
            return jpeg.decode(stream, shrink)
        except ValueError as error:
            raise self._wrong(row, f"cannot be decoded: {error}") from error

    def _wrong(self, row: int, what: str) -> SummaryError:
        return SummaryError(f"{self._summary.name}: chunk {row} of {self.member} {what}")


class Patches(Sequence[np.ndarray]):
    """The kept patches as (P, P, 3) uint8 RGB. Reading one reads no other."""

    def __init__(self, summary: Summary, array: str = PIXELS) -> None:
        self.shard = JpegShard(summary, array)

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, row: Any) -> Any:
        """One patch, or a list of them for a slice. Raises IndexError, and SummaryError for a damaged patch."""
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        row = operator.index(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f"patch {row} of {len(self)}")
        return self._patch(row % len(self))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def _patch(self, row: int) -> np.ndarray:
        return self.shard.decoded(row)


class SourcePatches(Patches):
    """Patches put together from the scanner's own tiles, exactly as the encoder saw them."""

    def __init__(self, summary: Summary) -> None:
        super().__init__(summary, TILES)
        wrong = next(wrong_geometry(summary.attributes), None)
        if wrong is not None:
            raise SummaryError(f"{summary.name}: the attributes do not say how patches are read: {wrong}")
        self.reading = reading_of(summary.attributes)
        self._coords = summary.coords
        self.positions = summary.array("patches/tile_positions")
        if self.positions.ndim != 2 or self.positions.shape[1] != 2 or self._coords.shape[1:] != (2,):
            raise SummaryError(f"{summary.name}: patches/coords and patches/tile_positions are not lists of places")
        self._rows: dict[Tile, int] = {(c, r): i for i, (c, r) in enumerate(self.positions.tolist())}
        if len(self._rows) != len(self.shard):
            raise SummaryError(f"{summary.name}: {len(self.shard)} tiles at {len(self._rows)} places")
        tile = tuple(side // self.reading.shrink for side in self.shard.side)
        if tile != (self.reading.tile_height, self.reading.tile_width):
            raise SummaryError(f"{summary.name}: tiles of {self.shard.side} px are not those of patch.reading")

    def __len__(self) -> int:
        return len(self._coords)

    def _patch(self, row: int) -> np.ndarray:
        x, y = self._coords[row].tolist()
        return cut_patch(self.reading, x, y, self._tile)

    def _tile(self, tile: Tile) -> np.ndarray | None:
        """None for tiles that the source does not store either."""
        return self.shard.decoded(self._rows[tile], self.reading.shrink) if tile in self._rows else None
