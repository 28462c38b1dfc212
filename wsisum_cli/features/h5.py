"""h5 files with patch features or slide embeddings, as written by TRIDENT, CLAM, STAMP and this package."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.errors import FeaturesError
from wsisum_cli.features.heaps import refuse_endless_heaps

#: STAMP 1 resizes each slide so that 224 px are 256 µm. Its coords are in these px, which its files do not state.
STAMP1 = "STAMP-extract"
STAMP1_TILE_UM, STAMP1_TILE_PX = 256.0, 224

#: Attributes are free text and may hold anything; a summary copies only a plain name.
ENCODER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+@()-]{0,79}")
#: Bytes that one stored byte can stand for, by whatever filter; deflate reaches 1,032 of zeros.
MAX_INFLATION = 1100
#: The same of arrays that take more bytes than this: numbers of an encoder shrink to a quarter at best.
LARGE, MAX_INFLATION_OF_LARGE = 1 << 28, 32
#: Patches of one slide, and numbers of one patch. A slide of 200,000 px a side has 700,000 patches of 240 px.
MAX_PATCHES, MAX_DIMS = 1 << 22, 1 << 16
#: `kind` of features of all tissue, packed and unpacked; and how near they are to the true ones, a mean cosine.
UNPACKED_KIND, LOSS = "features of all tissue, unpacked from a summary slide", "mean_cosine_to_true_features"
#: Attributes that are read, and bytes that one may take. Others may hold anything.
ATTRIBUTES = (
    *("encoder", "extractor", "encoder_sha256", "unit", "tile_size_um", "tile_size", "patch_size_level0"),
    *("patch_size", "downsample", "patch_level", "level0_width", "level0_height", LOSS),
)
MAX_ATTRIBUTE, MAX_PROVENANCE = 1 << 12, 1 << 24
LISTED = 8  # names of arrays in a message
#: Attributes of our own files: provenance, and the checksum of the whole content.
PROVENANCE, CHECKSUM = "wsisum", "content_sha256"
#: `kind` in the provenance of what was exported from a summary: features of the kept patches alone.
EXPORT_KIND = "export of a summary slide"
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FeatureFile:
    """Features of one slide's patches, read without the slide, for training."""

    name: str  # of the file
    features: np.ndarray  # (N, D) float32
    coords: np.ndarray  # (N, 2) float64 top left x, y in level-0 px, or in the file's own unit (STAMP: µm)
    patch_size_level0: float | None  # patch side in the unit of `coords`; None if not stated
    encoder: str  # name in the file; "unknown" if it has none
    encoder_sha256: str | None  # of the ONNX file; None if another program made the features


def read_feature_file(path: Path, dims: int | None = None) -> FeatureFile:
    """Read features and coordinates of one slide's patches, without augmented rows, which STAMP 1 may write.

    Raises FeaturesError when the file is damaged, empty, not finite, or has not `dims` numbers per patch.
    """
    stored = load_h5(path)
    stored.refuse_summary()
    found = stored.features.shape[1]
    if dims is not None and found != dims:
        raise stored.error(f"expected features of {dims} numbers, found {found}; were they made by another encoder?")
    if not stored.original.any():
        raise stored.error("every row is an augmentation; create the file again")
    unit = stored.um_per_unit
    side = stored.stated_side(mpp=1.0 if unit is None else unit)
    if side is not None and not 0 < side < 2**31:
        raise stored.error(f"the patch size {side:g} is invalid; create the file again")
    rows = stored.original
    return FeatureFile(
        stored.name,
        stored.features[rows],
        stored.coords[rows],
        side,
        stored.encoder,
        stored.encoder_sha256,
    )


def read_embedding_file(path: Path, dims: int | None = None) -> np.ndarray:
    """Read the embedding of one slide, (E,) float32, stored as (E,), (1, E) or (1, 1, E).

    `coords`, which some programs also write, are ignored. Raises FeaturesError when the file is damaged, has several
    rows, is not finite, or has not `dims` numbers.
    """
    with open_h5(path) as file:
        values = read_dataset(file, path, "features", "feats", "embedding", "embeddings")
        if values.size == 0 or values.shape[-1:] != (values.size,):
            raise FeaturesError(
                f"{path.name}: expected one embedding, (E,) or (1, E), found {values.shape}; are these patch features?"
            )
        with np.errstate(over="ignore"):
            embedding = np.asarray(values[()], np.float32).ravel()
    if dims is not None and len(embedding) != dims:
        raise FeaturesError(f"{path.name}: expected an embedding of {dims} numbers, found {len(embedding)}")
    if not np.isfinite(embedding).all():
        raise FeaturesError(f"{path.name}: some numbers of the embedding are not finite; create the file again")
    return embedding


@dataclass(frozen=True)
class StoredFeatures:
    """The content of a feature file, unconverted."""

    name: str
    features: np.ndarray  # (N, D) float32
    coords: np.ndarray  # (N, 2) float64, in px or µm
    original: np.ndarray  # (N,) bool, False for augmented rows
    attributes: dict[str, Any]

    def error(self, message: str) -> FeaturesError:
        return FeaturesError(f"{self.name}: {message}")

    @property
    def encoder(self) -> str:
        """The encoder's name in the file, without its folder; "unknown" if that is not a plain name."""
        name = re.split(r"[\\/]", self.text("encoder") or self.text("extractor"))[-1]
        return name if ENCODER_NAME.fullmatch(name) else "unknown"

    @property
    def encoder_sha256(self) -> str | None:
        """sha256 of the encoder's ONNX file; None if another program made the features."""
        stated = self.text("encoder_sha256")
        return stated if SHA256.fullmatch(stated) else None

    @property
    def is_of_summary(self) -> bool:
        """Whether the file was exported from a summary, and so holds its kept patches alone."""
        try:
            found = json.loads(self.text(PROVENANCE) or "null")
        except (ValueError, RecursionError):
            return False
        return isinstance(found, dict) and found.get("kind") == EXPORT_KIND

    def refuse_summary(self) -> None:
        """Raise FeaturesError for an export of a summary, whose patches are not all tissue."""
        if self.is_of_summary:
            raise self.error(
                "exported from a summary, and so of its kept patches alone, expected features of all tissue; compute "
                "them with wsisum features"
            )

    @property
    def um_per_unit(self) -> float | None:
        """Unit of the coords in µm; None if it is level-0 px."""
        if self.text("extractor").startswith(STAMP1):
            return STAMP1_TILE_UM / STAMP1_TILE_PX
        return 1.0 if "tile_size_um" in self.attributes or self.text("unit") == "um" else None

    def coords_level0(self, mpp: float) -> np.ndarray:
        """Coordinates (N, 2) in level-0 px, float64, rounded to whole numbers."""
        unit = self.um_per_unit
        return np.rint(self.coords if unit is None else self.coords * (unit / mpp))

    def patch_size_level0(self, mpp: float) -> int | None:
        """Patch side in level-0 px; None if not stated. Raises FeaturesError when it is invalid."""
        side = self.stated_side(mpp)
        if side is None:
            return None
        if not 1 <= side < 2**31:
            raise self.error(f"the patch size of {side:g} level-0 px is invalid; create the file again")
        return round(side)

    def stated_side(self, mpp: float) -> float | None:
        """Patch side in level-0 px, as TRIDENT, STAMP or CLAM state it; None if not stated."""
        if "patch_size_level0" in self.attributes:
            return self.number("patch_size_level0")
        if self.um_per_unit is not None:
            return self.tile_um() / mpp
        if "patch_size" in self.attributes and "downsample" in self.attributes:
            return self.number("patch_size") * self.number("downsample")
        at_level0 = "patch_level" in self.attributes and self.number("patch_level") == 0
        return self.number("patch_size") if at_level0 and "patch_size" in self.attributes else None

    def tile_um(self) -> float:
        """Patch side in µm: STAMP has used two names for it, and STAMP 1 may not write it."""
        name = "tile_size_um" if "tile_size_um" in self.attributes else "tile_size"
        if name not in self.attributes and self.text("extractor").startswith(STAMP1):
            return STAMP1_TILE_UM
        return self.number(name)

    def number(self, name: str) -> float:
        """A finite number from the attributes; the first if there are several. Raises FeaturesError."""
        found: Any = self.attributes.get(name)
        try:
            value = float(np.ravel(found)[0])
        except (TypeError, ValueError, IndexError) as error:
            raise self.error(f"expected a number as {name}, found {found!r:.40}") from error
        if not np.isfinite(value):
            raise self.error(f"expected a number as {name}, found {value:g}")
        return value

    def text(self, name: str) -> str:
        value = self.attributes.get(name, "")
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def load_h5(path: Path) -> StoredFeatures:
    """Read a feature file. Raises FeaturesError when it is damaged or holds no patch features."""
    with open_h5(path) as file:
        values = read_dataset(file, path, "features", "feats")
        places = read_dataset(file, path, "coords")
        shape_of(values, path)
        coords = rows_of(places, path, np.float64, columns=2)
        features = rows_of(values, path, np.float32)
        augmented = read_marks(file, path, len(coords))
        attributes = {
            name: read_attribute(owner, path, name)
            for owner in (places, values, file)
            for name in ATTRIBUTES
            if name in owner.attrs
        }
        if PROVENANCE in file.attrs:
            attributes[PROVENANCE] = read_attribute(file, path, PROVENANCE, MAX_PROVENANCE)
    counts = {len(features), len(coords), len(augmented)}
    if len(counts) > 1:
        raise FeaturesError(f"{path.name}: {len(features)} features but {len(coords)} coords; create the file again")
    if not (np.isfinite(features).all() and np.isfinite(coords).all()):
        raise FeaturesError(f"{path.name}: some features or coords are not finite; create the file again")
    return StoredFeatures(path.name, features, coords, ~augmented.astype(bool), attributes)


@contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """Open an h5 file for reading. Any error of h5py on damaged files is raised as FeaturesError."""
    import h5py

    try:
        refuse_endless_heaps(path)
        with h5py.File(path, "r") as file:
            yield file
    except FeaturesError:
        raise
    # h5py's exception depends on what is damaged.
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as error:
        why = str(error).replace(str(path), path.name)  # paths stay out of reports
        raise FeaturesError(f"{path.name}: not a readable h5 file ({why})") from error


def read_dataset(file: Any, path: Path, *names: str) -> Any:
    """The first of these that is an array of numbers, stored whole in this file. Raises FeaturesError."""
    for name in names:
        found = own_dataset(file, path, name)
        if kind_of(found) in "iuf":
            return found
    raise FeaturesError(f"{path.name}: expected a numeric array {' or '.join(names)}, found {list_names(file)}")


def kind_of(found: Any) -> str:
    """The kind of the numbers of an array, as NumPy names it; that of objects for what is no array."""
    import h5py

    return str(found.dtype.kind) if isinstance(found, h5py.Dataset) else "O"


def own_dataset(file: Any, path: Path, name: str) -> Any:
    """What the file holds under this name, None where there is nothing.

    Raises FeaturesError for what leads out of the file, through which any file of this machine could be read, and for
    arrays of more numbers than the bytes stored for them can hold.
    """
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise FeaturesError(f"{path.name}: {name} is a link to another place, expected an array; copy it into the file")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        return found
    if found.external or found.is_virtual:
        raise FeaturesError(f"{path.name}: {name} is stored in other files, expected an array in this one; copy it in")
    if found.dtype.kind not in "iufb":
        return found
    stored, claimed = found.id.get_storage_size(), int(found.size or 0) * found.dtype.itemsize
    chunk = math.prod(found.chunks or ()) * found.dtype.itemsize if claimed else 0  # each is read as a whole
    claimed = max(claimed, chunk)
    inflation = MAX_INFLATION if claimed <= LARGE else MAX_INFLATION_OF_LARGE
    inflation = inflation if found.id.get_create_plist().get_nfilters() else 1
    if stored > path.stat().st_size or claimed > inflation * stored:
        raise FeaturesError(
            f"{path.name}: {name} of shape {found.shape} takes {claimed} bytes, of which {stored} are stored; "
            "it is damaged, make it again"
        )
    return found


def list_names(file: Any) -> str:
    """What arrays and groups a file holds, for a message."""
    # h5py gives a name that is no UTF-8 as bytes.
    found = (str(name) if isinstance(name, str) else "..." for name in itertools.islice(file, LISTED))
    names = [name if name.isprintable() and len(name) < 40 else "..." for name in found]
    return ", ".join(names + ["..."] * (len(file) > LISTED)) or "nothing"


def read_attribute(owner: Any, path: Path, name: str, most: int = MAX_ATTRIBUTE) -> Any:
    """An attribute of at most so many bytes.

    Raises FeaturesError: a list of texts may tell of far more than is stored, and HDF5 ends the process over values of
    a length and a kind that it does not know.
    """
    import h5py

    found = owner.attrs.get_id(name)
    size = math.prod(found.shape or ())
    is_word = size == 1 and h5py.check_string_dtype(found.dtype) is not None
    if size * max(1, found.dtype.itemsize) > most or (found.dtype.hasobject and not is_word):
        raise FeaturesError(f"{path.name}: expected a number or a word as {name}, found neither; create the file again")
    value = owner.attrs[name]
    if isinstance(value, str | bytes) and len(value) > most:
        raise FeaturesError(f"{path.name}: {name} has {len(value)} characters, expected at most {most}")
    return value


def read_marks(file: Any, path: Path, count: int) -> np.ndarray:
    """Which rows are augmentations, (N,); none where the file does not say. Raises FeaturesError."""
    marks = own_dataset(file, path, "augmented")
    if marks is None:
        return np.zeros(count, bool)
    if kind_of(marks) not in "iufb" or marks.size != count:
        raise FeaturesError(f"{path.name}: expected {count} marks as augmented, found others; create the file again")
    return np.ravel(marks[()])


def shape_of(values: Any, path: Path, columns: int | None = None) -> tuple[int, int]:
    """As for `rows_of`, before anything is read."""
    shape = values.shape[1:] if len(values.shape) == 3 and values.shape[0] == 1 else values.shape
    if len(shape) != 2 or 0 in shape or (columns is not None and shape[1] != columns):
        wanted = f"{values.name[1:]} of shape (N, {columns or 'D'})"
        remedy = "no patches; encode the slide again, or remove the file" if 0 in shape else "create the file again"
        raise FeaturesError(f"{path.name}: expected {wanted}, found {values.shape}; {remedy}")
    if shape[0] > MAX_PATCHES or shape[1] > MAX_DIMS:
        raise FeaturesError(
            f"{path.name}: expected at most {MAX_PATCHES} patches of {MAX_DIMS} numbers, found {values.shape}"
        )
    return shape[0], shape[1]


def rows_of(values: Any, path: Path, dtype: type, columns: int | None = None) -> np.ndarray:
    """Read a dataset of shape (N, `columns`), or (N, any) if None; also (1, N, D), which some programs write."""
    shape = shape_of(values, path, columns)
    with np.errstate(over="ignore"):  # overflow of float32 becomes infinite, and is refused
        return np.asarray(values[()], dtype).reshape(shape)


# --------------------------------------------------------------------------------------------------- our own files


@dataclass(frozen=True)
class FeatureFileContents:
    """The content of a feature file."""

    #: by name, in the order of writing, each with its attributes
    datasets: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]]
    attributes: Mapping[str, Any]  # of the file
    provenance: Mapping[str, Any]  # everything needed to reproduce it, JSON-able


def write_feature_file(path: Path, contents: FeatureFileContents) -> None:
    """Write `contents` to `path` and sync it to disk. The same contents give the same bytes.

    Arrays are contiguous and uncompressed: readers load whole slides, and gzip saves only a tenth on float features.
    """
    import h5py

    attributes = {**contents.attributes, PROVENANCE: json.dumps(contents.provenance)}
    with h5py.File(path, "w") as file:
        for name, (values, about) in contents.datasets.items():
            file.create_dataset(name, data=values, track_times=False).attrs.update(about)
        file.attrs.update(attributes)
        file.attrs[CHECKSUM] = checksum(contents.datasets, attributes)
    with open(path, "rb+") as raw:
        os.fsync(raw.fileno())


def checksum(datasets: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]], attributes: Mapping[str, Any]) -> str:
    """SHA-256 of the content of a feature file; HDF5 itself has no checksum."""
    digest = hashlib.sha256(as_json(attributes))
    for name in sorted(datasets):
        values, about = datasets[name]
        digest.update(as_json([name, values.dtype.str, list(values.shape), as_json(about).decode()]))
        digest.update(values.tobytes())
    return digest.hexdigest()


def as_json(value: Any) -> bytes:
    """Serialize values so that Python numbers and the numpy numbers that h5py returns give the same text."""
    return json.dumps(value, sort_keys=True, default=lambda number: np.asarray(number).tolist()).encode()


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Provenance of a file; None if another program wrote it. Raises FeaturesError when it is damaged."""
    with open_h5(path) as file:
        if PROVENANCE not in file.attrs:
            return None
        found = json.loads(read_attribute(file, path, PROVENANCE, MAX_PROVENANCE))
        if not isinstance(found, dict):
            raise FeaturesError(f"{path.name}: expected a JSON object as {PROVENANCE}, found {found!r:.40}")
        return found


def is_whole(path: Path) -> bool:
    """Whether one of our own files is unchanged; reads every byte. Raises FeaturesError when it is unreadable."""
    with open_h5(path) as file:
        members = {name: own_dataset(file, path, name) for name in file}
        datasets = {name: (member[()], dict(member.attrs)) for name, member in members.items()}
        attributes = dict(file.attrs)
        stated = attributes.pop(CHECKSUM, None)
        return bool(stated == checksum(datasets, attributes))
