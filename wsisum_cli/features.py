"""Features of a slide's patches: computed here, or read from an h5 of TRIDENT, CLAM or STAMP."""

from __future__ import annotations

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

Progress = Callable[[int, int], None]  # patches done, patches in all


@dataclass(frozen=True)
class GivenFeatures:
    """Features that somebody computed before."""

    features: np.ndarray  # (N, D) float32
    coords: np.ndarray  # (N, 2) int32 level-0 px
    patch_size_level0: int
    encoder: str  # as the file calls it, "unknown" where it does not
    file: str  # name, without folder
    sha256: str
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
    """The h5 named like the slide, anywhere below `folder`. Raises FeaturesError when none or several are."""
    names = {f"{slide.name}.h5", f"{slide.stem}.h5", f"{slide.name.split('.ome.')[0]}.h5"}
    found = sorted(path for path in folder.rglob("*.h5") if path.name in names)
    if len(found) == 1:
        return found[0]
    expected = " or ".join(sorted(names))
    if not found:
        raise FeaturesError(f"{slide.name}: no {expected} in the folder of features", "no features")
    listed = ", ".join(str(path.relative_to(folder)) for path in found[:4])
    raise FeaturesError(f"{slide.name}: expected one {expected}, found {listed}; keep one")


def read_features(path: Path, slide: Slide, patch_size_level0: int | None = None) -> GivenFeatures:
    """`patch_size_level0` serves where the file does not state its own.

    Raises FeaturesError when the file is damaged or its patches do not lie on the slide.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            values = dataset(file, path, "features", "feats")
            places = dataset(file, path, "coords")
            attributes = {**places.attrs, **values.attrs, **file.attrs}
            features = np.asarray(values[()], np.float32)
            coords = np.asarray(places[()], np.float64).reshape(-1, 2)
            original = ~np.asarray(file["augmented"][()], bool) if "augmented" in file else None
    except OSError as error:
        raise FeaturesError(f"{path.name}: not a readable h5 file ({error})") from error
    features = features.reshape(-1, features.shape[-1])
    if len(features) != len(coords):
        raise FeaturesError(f"{path.name}: {len(features)} features but {len(coords)} coords; make it again")
    if not np.isfinite(features).all():
        raise FeaturesError(f"{path.name}: some features are not finite; make it again")
    if attributes.get("unit") == "um":  # STAMP 2
        coords = coords / slide.mpp
    size = stated_patch_size(attributes, slide.mpp) or patch_size_level0
    if size is None:
        raise FeaturesError(f"{path.name}: the file does not state the size of its patches; pass --patch-size-level0")
    inside = lie_inside(coords, size, slide, path)
    kept = inside if original is None else inside & original
    if not kept.any():
        raise FeaturesError(f"{path.name}: no patch lies wholly inside the slide; is it another slide's file?")
    return GivenFeatures(
        features[kept],
        np.rint(coords[kept]).astype(np.int32),
        size,
        encoder_name(attributes),
        path.name,
        sha256_of(path),
        int((~kept).sum()),
    )


def dataset(file: Any, path: Path, *names: str) -> Any:
    for name in names:
        if name in file:
            return file[name]
    raise FeaturesError(f"{path.name}: expected a dataset {' or '.join(names)}, found {', '.join(file)}")


def stated_patch_size(attributes: dict[str, Any], mpp: float) -> int | None:
    """Side of a patch in level-0 px as TRIDENT, STAMP 2 or CLAM write it, None where nothing says so."""
    if "patch_size_level0" in attributes:
        return int(attributes["patch_size_level0"])
    if "tile_size_um" in attributes:
        return round(float(attributes["tile_size_um"]) / mpp)
    if "patch_size" in attributes and "downsample" in attributes:
        return round(float(attributes["patch_size"]) * float(np.ravel(attributes["downsample"])[0]))
    if "patch_size" in attributes and int(attributes.get("patch_level", -1)) == 0:
        return int(attributes["patch_size"])
    return None


def lie_inside(coords: np.ndarray, size: int, slide: Slide, path: Path) -> np.ndarray:
    """(N,) bool: which patches lie wholly inside. Raises FeaturesError when one begins outside the slide."""
    extent = np.array(slide.size)
    outside = (coords < 0) | (coords >= extent)
    if outside.any():
        x, y = coords[outside.any(axis=1)][0]
        raise FeaturesError(
            f"{path.name}: a patch at ({x:g}, {y:g}) lies outside the slide of {extent[0]} x {extent[1]} px; "
            "is it another slide's file, or of another level?"
        )
    return np.asarray((coords + size <= extent).all(axis=1))


def encoder_name(attributes: dict[str, Any]) -> str:
    value = attributes.get("encoder", attributes.get("extractor", "unknown"))
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
