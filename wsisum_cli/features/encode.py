"""Features of a slide's patches: computed here, or read from an h5 of TRIDENT, CLAM or STAMP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wsisum_cli.errors import BrokenSlideError, FeaturesError
from wsisum_cli.features.h5 import LOSS, StoredFeatures, load_h5
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import Reading, map_ahead, read_patches
from wsisum_cli.slides.pyramid import Level, Pyramid
from wsisum_cli.slides.slide import Slide
from wsisum_cli.slides.source import sha256_of

MIN_DOWNSAMPLE = 1.5  # of a level whose px cannot be taken for those of level 0
MIN_ON_TISSUE = 0.4  # share of the patches' area; other programs find tissue otherwise
CENTRED, MIN_GAIN = 0.65, 0.02  # halves of a patch side; share of the area
MAX_BEYOND = 0.05  # share of patches that may reach beyond the slide; other programs pad a few at its edges

Progress = Callable[[int, int], None]  # patches done, all patches
Look = Callable[[np.ndarray, np.ndarray], None]  # rows and pixels of a batch; called from several threads


@dataclass(frozen=True)
class GivenFeatures:
    """Existing features, read from a file."""

    features: np.ndarray  # (N, D) float32
    coords: np.ndarray  # (N, 2) int32 level-0 px
    patch_size_level0: int
    encoder: str  # name in the file; "unknown" if it has none
    sha256: str  # of the file
    left_out: int  # rows dropped because they reach beyond the slide or are augmentations
    encoder_sha256: str | None  # of the encoder's ONNX file; None if another program made the features
    notes: tuple[str, ...] = ()  # what a person should check; a clause each

    def tissue_share(self, mask: np.ndarray, downsample: float) -> float:
        """Fraction of a tissue mask (H, W) that these patches cover; a mask px is `downsample` level-0 px wide."""
        covered = np.zeros_like(mask)
        for left, upper in np.rint(self.coords / downsample).astype(int).tolist():
            side = max(1, round(self.patch_size_level0 / downsample))
            covered[upper : upper + side, left : left + side] = True
        tissue = np.count_nonzero(mask)
        return np.count_nonzero(mask & covered) / tissue if tissue else 1.0


def encode_patches(
    pyramid: Pyramid,
    coords: np.ndarray,
    reading: Reading,
    encoder: Encoder,
    damage: Damage,
    threads: int = 1,
    progress: Progress = lambda done, total: None,
    look: Look | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Encode the patches at `coords`: features (M, D) float32, and the ascending rows (M,) they belong to.

    Rows whose patch touches a broken tile are missing. Batches are encoded while the next are decoded; `look` gets the
    pixels of each batch. Raises BrokenSlideError when no or too few patches are readable.
    """
    features = np.empty((len(coords), encoder.card.dims), np.float32)
    found = np.zeros(len(coords), bool)
    batches = in_batches(read_patches(pyramid, coords, reading, damage, threads), encoder.batch_size)

    def encode(batch: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        rows, pixels = batch
        if look is not None:
            look(rows, pixels)
        return rows, encoder(pixels)

    with ThreadPoolExecutor(threads) as pool:
        for rows, values in map_ahead(pool, encode, batches, threads):
            features[rows], found[rows] = values, True
            progress(int(found.sum()), len(coords))
    damage.check(pyramid.path.name)
    if not found.any():
        raise BrokenSlideError(f"{pyramid.path.name}: no tissue patch can be read; fetch the file again")
    rows = np.flatnonzero(found)
    return features[rows], rows


def in_batches(blocks: Iterator[tuple[np.ndarray, np.ndarray]], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Regroup (rows, pixels) blocks of any length into batches of `size`; the last may be shorter."""
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
    """Find the h5 named like the slide anywhere below `folder`; the case may differ if no name matches exactly.

    If `folder` is a file, it is returned. Raises FeaturesError when there is none, or several.
    """
    if folder.is_file():
        return folder
    names = {f"{slide.name}.h5", f"{slide.stem}.h5", f"{re.split(r'(?i)[.]ome[.]', slide.name)[0]}.h5"}
    lowered = {name.lower() for name in names}
    similar = sorted(path for path in folder.rglob("*.[hH]5") if path.name.lower() in lowered)
    found = [path for path in similar if path.name in names] or similar
    if len(found) == 1:
        return found[0]
    expected = " or ".join(sorted(names))
    if not found:
        raise FeaturesError(f"{slide.name}: no {expected} in the features folder", "no features")
    listed = ", ".join(path.relative_to(folder).as_posix() for path in found[:4])
    raise FeaturesError(f"{slide.name}: expected one {expected}, found {listed}; give a folder with only one")


def read_features(path: Path, slide: Slide, patch_size_level0: int | None = None) -> GivenFeatures:
    """Read the features of a slide. `patch_size_level0` is used if the file does not state its own.

    Raises FeaturesError when the file is damaged or its patches do not lie on the slide.
    """
    file = load_h5(path)
    file.refuse_summary()
    check_extent(file, slide)
    size = file.patch_size_level0(slide.mpp) or patch_size_level0
    if not size or size < 1:
        raise file.error("the file does not state the size of its patches; pass --patch-size-level0")
    coords = file.coords_level0(slide.mpp)
    inside = lie_inside(file, coords, size, slide)
    notes = check_corners(file, coords, size, slide, inside)
    kept = inside & file.original
    check_rows(file, coords, kept)
    if not kept.any():
        raise file.error("no patch lies inside the slide; is it another slide's file?")
    return GivenFeatures(
        file.features[kept],
        coords[kept].astype(np.int32),
        size,
        file.encoder,
        sha256_of(path),
        int((~kept).sum()),
        file.encoder_sha256,
        (*notes, *note_loss(file)),
    )


def note_loss(file: StoredFeatures) -> tuple[str, ...]:
    """What to note of features that a summary had packed."""
    if LOSS not in file.attributes:
        return ()
    return (f"the given features were unpacked from a summary: mean cosine to the true ones {file.number(LOSS):.4f}",)


def check_extent(file: StoredFeatures, slide: Slide) -> None:
    """Raise FeaturesError when the file states another slide size, as TRIDENT's files can."""
    names = ("level0_width", "level0_height")
    if all(name in file.attributes for name in names):
        stated, found = [file.number(name) for name in names], slide.size
        if stated != list(found):
            raise file.error(
                f"made from a slide of {stated[0]:g} x {stated[1]:g} px, but {slide.name} has {found[0]} x {found[1]}; "
                "is it another slide's file?"
            )


@dataclass(frozen=True)
class TissueBelow:
    """How much of the area of patches is tissue."""

    sums: np.ndarray  # (H + 1, W + 1) of the mask, from its upper left corner
    downsample: float  # level-0 px a px of the mask
    side: float  # of a patch, level-0 px

    def share(self, corners: np.ndarray) -> float:
        """Of patches at (N, 2) `corners`; what lies beyond the slide is none."""
        edges = np.array(self.sums.shape[::-1]) - 1
        left, upper = np.clip(np.rint(corners / self.downsample), 0, edges).astype(int).T
        right, lower = np.clip(np.rint((corners + self.side) / self.downsample), 0, edges).astype(int).T
        marked = self.sums[lower, right] - self.sums[upper, right] - self.sums[lower, left] + self.sums[upper, left]
        return float(marked.mean() / max(1.0, (self.side / self.downsample) ** 2))


def check_places(given: GivenFeatures, mask: np.ndarray, downsample: float, levels: Sequence[Level], name: str) -> None:
    """Raise FeaturesError when the patches lie on the tissue only if their coords are centres, or px of another level.

    `mask` (H, W) bool is the tissue, one px for `downsample` level-0 px a side; `name` is how messages call the file.
    Where tissue reaches all around, nothing tells, and nothing is said.
    """
    misplaced = describe_misplaced(given, mask, downsample, levels)
    if misplaced:
        raise FeaturesError(f"{name}: {misplaced}")


def describe_misplaced(
    given: GivenFeatures, mask: np.ndarray, downsample: float, levels: Sequence[Level]
) -> str | None:
    """What the coords seem to be instead of upper left corners in px of level 0, as for `check_places`."""
    sums = np.pad(mask.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    tissue = TissueBelow(sums, downsample, given.patch_size_level0)
    return describe_level(given, mask, tissue, levels) or describe_centres(given, tissue)


def describe_centres(given: GivenFeatures, tissue: TissueBelow) -> str | None:
    """What speaks for coords that are centres, in words; None where nothing does."""
    coords, half = given.coords.astype(np.float64), given.patch_size_level0 / 2
    before, as_given, after = (tissue.share(coords + shift) for shift in (-half, 0.0, half))
    bend = before - 2 * as_given + after
    # The vertex of a parabola through the three: where the patches lie best on the tissue, in halves of their side.
    best = (before - after) / (2 * bend) if bend < 0 else 0.0
    if best >= -CENTRED or before - after <= MIN_GAIN:
        return None
    return (
        f"expected the upper left corners of patches as coords, found what seem to be centres: as such {before:.1%} of "
        f"their area is tissue, else {as_given:.1%}; subtract half the patch size"
    )


def describe_level(given: GivenFeatures, mask: np.ndarray, tissue: TissueBelow, levels: Sequence[Level]) -> str | None:
    """What speaks for coords in px of a lower level, in words; None where nothing does."""
    extent = np.array([levels[0].width, levels[0].height])
    on_tissue, of_tissue = tissue.share(given.coords), given.tissue_share(mask, tissue.downsample)
    better: list[tuple[float, float]] = []  # share of the tissue covered, and the level's downsample
    for downsample in {level.downsample for level in levels if level.downsample > MIN_DOWNSAMPLE}:
        scaled = given.coords * downsample
        if (scaled >= extent).any():
            continue
        # Patches that lie over one another as given, as those of another level do, come to cover far more tissue.
        spread, found = replace(given, coords=scaled).tissue_share(mask, tissue.downsample), tissue.share(scaled)
        apart = spread > max(MIN_ON_TISSUE, 2 * of_tissue) and found > on_tissue - MIN_GAIN
        if found > MIN_ON_TISSUE and (apart or found > 2 * on_tissue):
            better.append((spread, downsample))
    if not better:
        return None
    spread, downsample = max(better)
    return (
        f"expected coords in px of level 0, found what seem to be those of a level {downsample:g} times smaller: as "
        f"such the patches cover {spread:.0%} of the tissue, else {of_tissue:.0%}; multiply them"
    )


def check_corners(
    file: StoredFeatures, coords: np.ndarray, size: int, slide: Slide, inside: np.ndarray
) -> tuple[str, ...]:
    """What to note where some patches reach beyond the slide, and none would if coords were their centres.

    Raises FeaturesError where many do.
    """
    beyond = 1 - float(inside.mean())
    as_centres = (coords >= size / 2) & (coords + size / 2 <= np.array(slide.size))
    if not beyond or not as_centres.all():
        return ()
    if beyond <= MAX_BEYOND:
        return ("every patch of the given features would lie on the slide if their coords were centres; are they?",)
    raise file.error(
        f"expected the upper left corners of patches as coords, found what seem to be centres: {beyond:.0%} of the "
        "patches would reach beyond the slide; subtract half the patch size, or leave out these rows"
    )


def check_rows(file: StoredFeatures, coords: np.ndarray, kept: np.ndarray) -> None:
    """Raise FeaturesError when rows among those (N,) `kept` say nothing of their patch, or two are of one patch.

    Zeros and other constants are what padding, and an encoder that failed, leave behind.
    """
    rows = np.flatnonzero(kept)
    features = file.features[rows]
    if len(rows) and features.shape[1] > 1 and (constant := features.min(axis=1) == features.max(axis=1)).any():
        raise file.error(
            f"{int(constant.sum())} of {len(rows)} rows of features hold one number throughout, the first is row "
            f"{rows[constant][0]}, expected those of an encoder; encode the slide again"
        )
    if len(rows) > 1 and (features == features[0]).all():
        raise file.error(f"all {len(rows)} rows of features are the same; encode the slide again")
    _, first, counts = np.unique(coords[rows], axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        x, y = coords[rows][first[counts > 1][0]]
        raise file.error(
            f"{int((counts - 1).sum())} rows are of patches that have a row already, the first at ({x:g}, {y:g}), "
            "expected one row a patch; leave the others out"
        )


def lie_inside(file: StoredFeatures, coords: np.ndarray, size: int, slide: Slide) -> np.ndarray:
    """Which patches lie fully inside the slide, (N,) bool. Raises FeaturesError when one starts outside it."""
    extent = np.array(slide.size)
    outside = (coords < 0) | (coords >= extent)
    if outside.any():
        x, y = coords[outside.any(axis=1)][0]
        raise file.error(
            f"a patch at ({x:g}, {y:g}) lies outside the slide of {extent[0]} x {extent[1]} px; "
            "is it another slide's file, or from another level?"
        )
    return np.asarray((coords + size <= extent).all(axis=1))
