"""Features of a slide's patches: computed here, or read from an h5 of TRIDENT, CLAM or STAMP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.damage import Damage
from wsisum_cli.errors import BrokenSlideError, FeaturesError
from wsisum_cli.inference import Encoder
from wsisum_cli.patch import Reading, map_ahead, read_patches
from wsisum_cli.pyramid import Pyramid
from wsisum_cli.slide import Slide
from wsisum_cli.source import sha256_of

#: STAMP 1 resized each slide so that 224 px are 256 µm. Its coords count those px, and its files do not say so.
STAMP1 = "STAMP-extract"
STAMP1_TILE_UM, STAMP1_TILE_PX = 256.0, 224

#: Attributes are free text, which may hold anything; a summary takes no more than a name over.
ENCODER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+@()-]{0,79}")

Progress = Callable[[int, int], None]  # patches done, patches in all


@dataclass(frozen=True)
class GivenFeatures:
    """Features that somebody computed before."""

    features: np.ndarray  # (N, D) float32
    coords: np.ndarray  # (N, 2) int32 level-0 px
    patch_size_level0: int
    encoder: str  # as the file calls it, "unknown" where it does not
    sha256: str  # of the file
    left_out: int  # rows that reach beyond the slide, or are augmentations


def encode_patches(
    pyramid: Pyramid,
    coords: np.ndarray,
    reading: Reading,
    encoder: Encoder,
    damage: Damage,
    threads: int = 1,
    progress: Progress = lambda done, total: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of the patches at `coords`: (M, D) float32, and the (M,) ascending rows they belong to.

    Rows whose patch touches a broken tile are missing. Batches are encoded while the next are decoded.
    Raises BrokenSlideError when nothing or too little is left.
    """
    features = np.empty((len(coords), encoder.card.dims), np.float32)
    found = np.zeros(len(coords), bool)
    batches = in_batches(read_patches(pyramid, coords, reading, damage, threads), encoder.batch_size)

    def encode(batch: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        rows, pixels = batch
        return rows, encoder(pixels)

    with ThreadPoolExecutor(threads) as pool:
        for rows, values in map_ahead(pool, encode, batches, threads):
            features[rows], found[rows] = values, True
            progress(int(found.sum()), len(coords))
    damage.check(pyramid.path.name)
    if not found.any():
        raise BrokenSlideError(f"{pyramid.path.name}: not one patch of tissue can be read; fetch the file again")
    rows = np.flatnonzero(found)
    return features[rows], rows


def in_batches(blocks: Iterator[tuple[np.ndarray, np.ndarray]], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Regroup (rows, pixels) blocks of any length into batches of `size`, the last one shorter."""
    rows: list[np.ndarray] = []
    pixels: list[np.ndarray] = []
    waiting = 0
    for block_rows, block_pixels in blocks:
        rows.append(block_rows)
        pixels.append(block_pixels)
        waiting += len(block_rows)
        if waiting >= size:
            all_rows, all_pixels = np.concatenate(rows), np.concatenate(pixels)
            whole = waiting // size * size
            for start in range(0, whole, size):
                yield all_rows[start : start + size], all_pixels[start : start + size]
            rows, pixels, waiting = [all_rows[whole:]], [all_pixels[whole:]], waiting - whole
    if waiting:
        yield np.concatenate(rows), np.concatenate(pixels)


def find_features(folder: Path, slide: Path) -> Path:
    """The h5 named like the slide, anywhere below `folder`; in another case only where none has its own.

    Raises FeaturesError when none or several are.
    """
    names = {f"{slide.name}.h5", f"{slide.stem}.h5", f"{re.split(r'(?i)[.]ome[.]', slide.name)[0]}.h5"}
    lowered = {name.lower() for name in names}
    similar = sorted(path for path in folder.rglob("*.[hH]5") if path.name.lower() in lowered)
    found = [path for path in similar if path.name in names] or similar
    if len(found) == 1:
        return found[0]
    expected = " or ".join(sorted(names))
    if not found:
        raise FeaturesError(f"{slide.name}: no {expected} in the folder of features", "no features")
    listed = ", ".join(path.relative_to(folder).as_posix() for path in found[:4])
    raise FeaturesError(f"{slide.name}: expected one {expected}, found {listed}; give the folder that holds one")


def read_features(path: Path, slide: Slide, patch_size_level0: int | None = None) -> GivenFeatures:
    """`patch_size_level0` serves where the file does not state its own.

    Raises FeaturesError when the file is damaged or its patches do not lie on the slide.
    """
    file = load_h5(path)
    file.check_extent(slide)
    size = file.patch_size_level0(slide.mpp) or patch_size_level0
    if not size or size < 1:
        raise file.error("the file does not state the size of its patches; pass --patch-size-level0")
    coords = file.coords_level0(slide.mpp)
    kept = lie_inside(file, coords, size, slide) & file.original
    if not kept.any():
        raise file.error("no patch lies wholly inside the slide; is it another slide's file?")
    return GivenFeatures(
        file.features[kept],
        coords[kept].astype(np.int32),
        size,
        file.encoder,
        sha256_of(path),
        int((~kept).sum()),
    )


@dataclass(frozen=True)
class FeatureFile:
    """An h5 of features as its maker wrote it."""

    name: str
    features: np.ndarray  # (N, D) float32
    coords: np.ndarray  # (N, 2) float64, in px or µm
    original: np.ndarray  # (N,) bool, False where a row is an augmentation of another
    attributes: dict[str, Any]

    def error(self, message: str) -> FeaturesError:
        return FeaturesError(f"{self.name}: {message}")

    @property
    def encoder(self) -> str:
        """What the file calls the encoder, without the folder it lay in; "unknown" where that is no plain name."""
        said = re.split(r"[\\/]", self.text("encoder") or self.text("extractor"))[-1]
        return said if ENCODER_NAME.fullmatch(said) else "unknown"

    @property
    def um_per_unit(self) -> float | None:
        """What coords count, in µm; None where that is level-0 px."""
        if self.text("extractor").startswith(STAMP1):
            return STAMP1_TILE_UM / STAMP1_TILE_PX
        return 1.0 if "tile_size_um" in self.attributes or self.text("unit") == "um" else None

    def coords_level0(self, mpp: float) -> np.ndarray:
        """(N, 2) float64 whole numbers of level-0 px."""
        unit = self.um_per_unit
        return np.rint(self.coords if unit is None else self.coords * (unit / mpp))

    def patch_size_level0(self, mpp: float) -> int | None:
        """Side of a patch in level-0 px, None where nothing says so. Raises FeaturesError when it is no size."""
        side = self.stated_side(mpp)
        if side is None:
            return None
        if not 1 <= side < 2**31:
            raise self.error(f"a patch size of {side:g} level-0 px is none; make it again")
        return round(side)

    def stated_side(self, mpp: float) -> float | None:
        """As TRIDENT, STAMP or CLAM write it."""
        if "patch_size_level0" in self.attributes:
            return self.number("patch_size_level0")
        if self.um_per_unit is not None:
            return self.tile_um() / mpp
        if "patch_size" in self.attributes and "downsample" in self.attributes:
            return self.number("patch_size") * self.number("downsample")
        at_level0 = "patch_level" in self.attributes and self.number("patch_level") == 0
        return self.number("patch_size") if at_level0 and "patch_size" in self.attributes else None

    def tile_um(self) -> float:
        """Side of a patch in µm: STAMP has called it by two names, and once did not write it."""
        name = "tile_size_um" if "tile_size_um" in self.attributes else "tile_size"
        if name not in self.attributes and self.text("extractor").startswith(STAMP1):
            return STAMP1_TILE_UM
        return self.number(name)

    def check_extent(self, slide: Slide) -> None:
        """Raise FeaturesError when the file says that its slide has another size, as TRIDENT does."""
        names = ("level0_width", "level0_height")
        if all(name in self.attributes for name in names):
            stated, found = [self.number(name) for name in names], slide.size
            if stated != list(found):
                raise self.error(
                    f"made from a slide of {stated[0]:g} x {stated[1]:g} px, {slide.name} has {found[0]} x {found[1]}; "
                    "is it another slide's file?"
                )

    def number(self, name: str) -> float:
        """A finite number among the attributes; of several the first. Raises FeaturesError."""
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


def load_h5(path: Path) -> FeatureFile:
    """Raises FeaturesError when the file is damaged, or holds no features of patches."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            values = dataset(file, path, "features", "feats")
            places = dataset(file, path, "coords")
            features = rows_of(values, path, np.float32)
            coords = rows_of(places, path, np.float64, columns=2)
            augmented = np.ravel(file["augmented"][()]) if "augmented" in file else np.zeros(len(coords), bool)
            attributes = {**places.attrs, **values.attrs, **file.attrs}
    except FeaturesError:
        raise
    # What h5py raises over damage depends on what is damaged.
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        why = str(error).replace(str(path), path.name)  # paths stay out of reports
        raise FeaturesError(f"{path.name}: not a readable h5 file ({why})") from error
    counts = {len(features), len(coords), len(augmented)}
    if len(counts) > 1:
        raise FeaturesError(f"{path.name}: {len(features)} features but {len(coords)} coords; make it again")
    if not (np.isfinite(features).all() and np.isfinite(coords).all()):
        raise FeaturesError(f"{path.name}: some features or coords are not finite; make it again")
    return FeatureFile(path.name, features, coords, ~augmented.astype(bool), attributes)


def dataset(file: Any, path: Path, *names: str) -> Any:
    """The first of these that is an array of numbers."""
    for name in names:
        kind = getattr(file.get(name), "dtype", np.dtype(object)).kind
        if kind in "iuf":
            return file[name]
    raise FeaturesError(f"{path.name}: expected numbers as {' or '.join(names)}, found {', '.join(file) or 'nothing'}")


def rows_of(values: Any, path: Path, dtype: type, columns: int | None = None) -> np.ndarray:
    """A dataset (N, `columns`), any number where that is None; some programs write (1, N, D)."""
    shape = values.shape[1:] if len(values.shape) == 3 and values.shape[0] == 1 else values.shape
    if len(shape) != 2 or 0 in shape or (columns is not None and shape[1] != columns):
        wanted = f"(N, {columns or 'D'})"
        raise FeaturesError(f"{path.name}: expected {values.name[1:]} of shape {wanted}, found {values.shape}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        return np.asarray(values[()], dtype).reshape(shape)


def lie_inside(file: FeatureFile, coords: np.ndarray, size: int, slide: Slide) -> np.ndarray:
    """(N,) bool: which patches lie wholly inside. Raises FeaturesError when one begins outside the slide."""
    extent = np.array(slide.size)
    outside = (coords < 0) | (coords >= extent)
    if outside.any():
        x, y = coords[outside.any(axis=1)][0]
        raise file.error(
            f"a patch at ({x:g}, {y:g}) lies outside the slide of {extent[0]} x {extent[1]} px; "
            "is it another slide's file, or of another level?"
        )
    return np.asarray((coords + size <= extent).all(axis=1))
