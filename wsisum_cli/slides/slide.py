"""Open a whole-slide image: choose the reader, settle the pixel size, read the overview."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsisum_cli.errors import MppError, NotASlideError, SlideError, TileError
from wsisum_cli.slides.checks.plausibility import check_pyramid
from wsisum_cli.slides.checks.repair import MAX_ANISOTROPY, PartlyReadError, RepairedPyramid, SquarePyramid
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.pixels import resize, shrunk
from wsisum_cli.slides.pyramid import Level, Pyramid, choose_scale

if TYPE_CHECKING:
    from wsisum_cli.slides.tiff import NeedsOpenSlideError

# A reader is imported when a slide needs it: a summary is read without any.

TIFF_SUFFIXES = {".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".btf", ".tf8", ".qptiff"}
VENDOR_SUFFIXES = {".mrxs", ".vms", ".vmu", ".svslide"}
DICOM_SUFFIX, CZI_SUFFIX = ".dcm", ".czi"
#: Vendors whose level 0 OpenSlide puts together from areas or overlapping tiles.
JOINED_BY_OPENSLIDE = {"leica", "ventana"}
SLIDE_SUFFIXES = TIFF_SUFFIXES | VENDOR_SUFFIXES | {DICOM_SUFFIX, CZI_SUFFIX}

#: µm: below the diffraction limit of any objective, and coarser than any slide scan.
PLAUSIBLE_MPP = (0.05, 10.0)
IMPLAUSIBLE = "implausible pixel size"
MAX_EXTENT_UM = 500_000.0  # of a side of a slide; the largest glass is 200 mm long
#: Relative difference of pixel width and height past which one of them is likely wrong.
LIKELY_ANISOTROPY = 0.1
NOTED_DIFFERENCE = 0.05  # relative, of the pixel size given and the one that the file states
GIVEN, FROM_MANIFEST = "given", "manifest"  # sources of a pixel size beside the file's own
OVERVIEW_MPP = 8.0
OVERVIEW_SIDE = 4096  # px at most, so that memory does not grow with the slide
GLASS = 255


@dataclass(frozen=True)
class Slide:
    """An open slide whose pixel size is known."""

    name: str  # file name, or what the manifest calls it; never a path
    pyramid: Pyramid
    mpp: float  # µm per level-0 px
    mpp_source: str
    mpp_stated: float | None = None  # what the file says where a manifest says something else
    notes: tuple[str, ...] = ()  # what a person should know of how it was read; a clause each

    @property
    def all_notes(self) -> list[str]:
        """Those that were known when it was opened, and what was repaired since."""
        repaired = len(self.pyramid.repaired) if isinstance(self.pyramid, RepairedPyramid) else 0
        tiles = f"{repaired} {'tile' if repaired == 1 else 'tiles'}"
        return [
            *self.notes,
            *([f"{tiles} of lower levels missing or damaged; finer levels stood in"] * bool(repaired)),
        ]

    @property
    def levels(self) -> tuple[Level, ...]:
        return self.pyramid.levels

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 px."""
        return self.levels[0].width, self.levels[0].height


@dataclass(frozen=True)
class Overview:
    """The whole slide at low resolution."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB
    downsample: float  # level-0 px per overview px
    mpp: float


@contextmanager
def open_slide(
    path: Path,
    mpp: float | None = None,
    name: str | None = None,
    mpp_wins: bool = False,
    image: int | None = None,
    files: Sequence[Path] = (),
) -> Iterator[Slide]:
    """Open `path`.

    `mpp` serves where the file states no pixel size, or wins over what it states. `image` (from 1) says which of
    several slides in the file is meant. `files` are all files of the slide, `path` among them; when empty they are
    looked for.

    Raises SeveralSlidesError where the file holds several slides and `image` is None, SlideError or one of its
    children: MppError when no plausible pixel size is known, ColourError when the colours are not those of a slide.
    """
    pyramid = open_pyramid(path, image, files)
    try:
        square = make_square(pyramid, mpp)
        size, source = settle_mpp(square, mpp, mpp_wins)
        check_extent(square, size)
        stated = side_of(square.mpp) if square.mpp is not None and source == FROM_MANIFEST else None
        check = check_pyramid(square)
        notes = (*check.notes, *compare_sizes(square, mpp, mpp_wins))
        yield Slide(name or path.name, RepairedPyramid(square, check.levels), size, source, stated, notes)
    finally:
        pyramid.close()


def open_pyramid(path: Path, image: int | None = None, files: Sequence[Path] = ()) -> Pyramid:
    """Pydicom for DICOM, pylibCZIrw for CZI, tifffile where it can read tile by tile, OpenSlide for the rest.

    `image` is which of several slides, from 1.
    """
    if path.is_dir():
        raise NotASlideError(f"{path.name}: a folder, not a file", "not a file")
    from wsisum_cli.slides.dicom.series import is_dicom

    if path.suffix.lower() == DICOM_SUFFIX or is_dicom(path):
        return open_dicom(path, files)
    if path.suffix.lower() == CZI_SUFFIX:
        from wsisum_cli.slides.czi import CziPyramid

        return CziPyramid(path, image)
    if path.suffix.lower() in VENDOR_SUFFIXES:
        from wsisum_cli.slides.openslide import VendorPyramid

        return VendorPyramid(path)
    return open_tiff(path, image)


def open_dicom(path: Path, files: Sequence[Path]) -> Pyramid:
    from wsisum_cli.slides.dicom.pyramid import DicomPyramid
    from wsisum_cli.slides.dicom.series import find_series, refuse_other_images

    refuse_other_images(path)
    return DicomPyramid(path, files or find_series(path))


def open_tiff(path: Path, image: int | None) -> Pyramid:
    """By tifffile, or by OpenSlide where that needs it."""
    from wsisum_cli.slides.tiff import NeedsOpenSlideError, TiffPyramid

    try:
        return TiffPyramid(path, image)
    except NeedsOpenSlideError as error:
        return open_as_vendor(path, error)


def open_as_vendor(path: Path, why: NeedsOpenSlideError) -> Pyramid:
    from wsisum_cli.slides.openslide import VendorPyramid

    try:
        pyramid = VendorPyramid(path)
    except SlideError as error:
        also = str(error).removeprefix(f"{path.name}: ")
        raise SlideError(f"{path.name}: not readable by tile ({why}), and {also}") from error
    try:
        refuse_another_image(pyramid, why)
    except SlideError:
        pyramid.close()
        raise
    return pyramid


def refuse_another_image(pyramid: Pyramid, why: NeedsOpenSlideError) -> None:
    """Raise SlideError unless the levels that OpenSlide sees are those of the slide.

    It takes every tiled image of a plain TIFF for a level, a label as well, and leaves out what it cannot decode.
    """
    from wsisum_cli.slides.images import have_same_shape

    if pyramid.vendor in JOINED_BY_OPENSLIDE:
        return  # its level 0 is put together from areas or overlapping tiles, and labels are kept apart
    first = pyramid.levels[0]
    wanted = why.size or (first.width, first.height)
    sizes = [(level.width, level.height) for level in pyramid.levels]
    guessed = pyramid.vendor == "generic-tiff" and why.size is None
    if guessed or sizes[0] != wanted or not all(have_same_shape(size, wanted) for size in sizes):
        raise SlideError(
            f"{pyramid.path.name}: the slide is not readable by tile ({why}), and no other image of the file is read "
            "in its place; export the slide as a tiled RGB pyramid"
        )


def make_square(pyramid: Pyramid, given: float | None) -> Pyramid:
    """The pyramid, resampled where the file states pixels that are not square. Raises MppError.

    Where width and height differ so much that one of them is likely wrong, a size has to be given.
    """
    stated = pyramid.mpp
    if stated is None or not all(is_plausible(side) for side in stated) or difference(*stated) <= MAX_ANISOTROPY:
        return pyramid
    if given is None and difference(*stated) > LIKELY_ANISOTROPY:
        raise MppError(
            f"{pyramid.path.name}: pixels of {stated[0]:g} x {stated[1]:g} µm are not square; if that is right, pass "
            "the shorter side as --mpp, or list it in --manifest, and they are resampled",
            IMPLAUSIBLE,
        )
    return SquarePyramid(pyramid, stated)


def difference(one: float, other: float) -> float:
    """Of two sizes, relative to the smaller one."""
    return abs(one - other) / min(one, other)


def side_of(mpp: tuple[float, float]) -> float:
    return sum(mpp) / 2


def settle_mpp(pyramid: Pyramid, given: float | None, wins: bool = False) -> tuple[float, str]:
    """The pixel size that a manifest gives, else the file states, else is given; never a guess. Raises MppError."""
    name, stated = pyramid.path.name, pyramid.mpp
    hint = "pass --mpp, or list it in --manifest"
    low, high = PLAUSIBLE_MPP
    if stated is not None and all(is_plausible(side) for side in stated) and not (wins and given is not None):
        return side_of(stated), pyramid.mpp_source
    if given is not None:
        if not is_plausible(given):
            raise MppError(f"{name}: the pixel size given, {given:g} µm, is outside {low:g} to {high:g}", IMPLAUSIBLE)
        return given, FROM_MANIFEST if wins else GIVEN
    if stated is None:
        raise MppError(f"{name}: no pixel size in the file; {hint}")
    size = f"{stated[0]:g} x {stated[1]:g} µm ({pyramid.mpp_source})"
    raise MppError(f"{name}: a pixel size of {size} is outside {low:g} to {high:g}; {hint}", IMPLAUSIBLE)


def check_extent(pyramid: Pyramid, mpp: float) -> None:
    """Raise SlideError when no slide is that large: whoever walks over its tiles would not come to an end."""
    longest = max(pyramid.levels[0].width, pyramid.levels[0].height)
    if longest * mpp > MAX_EXTENT_UM:
        raise SlideError(
            f"{pyramid.path.name}: damaged header, {longest} px of {mpp:g} µm are {longest * mpp / 1e6:.3g} m, "
            f"expected at most {MAX_EXTENT_UM / 1e6:g} m; fetch the file again, or give its pixel size in --manifest"
        )


def compare_sizes(pyramid: Pyramid, given: float | None, wins: bool) -> tuple[str, ...]:
    """What to say where the file states another pixel size than was given."""
    if given is None or pyramid.mpp is None or difference(given, side_of(pyramid.mpp)) <= NOTED_DIFFERENCE:
        return ()
    stated = f"{side_of(pyramid.mpp):.4g} µm ({pyramid.mpp_source})"
    if wins:
        return (f"the manifest's pixel size of {given:g} µm is used, though the file states {stated}",)
    if all(is_plausible(side) for side in pyramid.mpp):
        return (
            f"the file's pixel size of {stated} is used, not the {given:g} µm of --mpp; a manifest's row would win",
        )
    return ()


def is_plausible(mpp: float) -> bool:
    low, high = PLAUSIBLE_MPP
    return low <= mpp <= high


def read_overview(slide: Slide, damage: Damage, threads: int = 1) -> Overview:
    """The slide at about `OVERVIEW_MPP`, coarser where it would exceed `OVERVIEW_SIDE`.

    Tiles that cannot be read are noted in `damage` and left as glass. Raises BrokenSlideError when those are
    too many.
    """
    width0, height0 = slide.size
    scale = max(OVERVIEW_MPP / slide.mpp, max(width0, height0) / OVERVIEW_SIDE, 1.0)
    shape = (max(1, round(height0 / scale)), max(1, round(width0 / scale)))
    index, shrink, read_scale = choose_scale(slide.levels, scale)
    average = averaging_factor(slide.levels[index], shrink, scale / read_scale)
    canvas = read_level(slide.pyramid, index, shrink, damage, threads, average)
    return Overview(resize(canvas, *shape), scale, slide.mpp * scale)


def averaging_factor(level: Level, shrink: int, factor: float) -> int:
    """The largest power of two up to `factor` that divides the tiles as read.

    Tiles of a slide without low levels are averaged by it one by one, so that the whole is never held larger.
    """
    sides = (level.tile_width // shrink, level.tile_height // shrink)
    powers = (1 << n for n in range(1, 16))
    return max((p for p in powers if p <= factor and all(side % p == 0 for side in sides)), default=1)


def read_level(pyramid: Pyramid, index: int, shrink: int, damage: Damage, threads: int, average: int = 1) -> np.ndarray:
    """A whole level as (H, W, 3), each side divided by `shrink` while decoding and by `average` afterwards.

    Tiles that cannot be read are noted in `damage` and left as glass. Raises BrokenSlideError when those are
    too many.
    """
    level = pyramid.levels[index]
    factor = shrink * average
    step_x, step_y = level.tile_width // factor, level.tile_height // factor
    # A last pixel that is not all on the level would take in the padding of the edge tiles, which may be black.
    height, width = max(1, level.height // factor), max(1, level.width // factor)
    canvas = np.full((height, width, 3), GLASS, np.uint8)

    def place(column: int, row: int) -> None:
        tile = read_tile(pyramid, (index, column, row), shrink, damage)
        if tile is not None:
            tile = shrunk(tile, average)
            part = canvas[row * step_y : (row + 1) * step_y, column * step_x : (column + 1) * step_x]
            height, width = min(part.shape[0], tile.shape[0]), min(part.shape[1], tile.shape[1])
            part[:height, :width] = tile[:height, :width]

    def place_row(row: int) -> None:
        for column in range(level.columns):
            place(column, row)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(place_row, range(level.rows)):
            pass
    damage.check(pyramid.path.name)
    return canvas


def read_tile(pyramid: Pyramid, at: tuple[int, int, int], shrink: int, damage: Damage) -> np.ndarray | None:
    """The tile at (level, column, row), None where there is none or where it is broken.

    Of one that is broken at every level in part, the rest; its lost parts are noted as tiles of the finer level.
    """
    try:
        tile = pyramid.tile(*at, shrink)
    except PartlyReadError as error:
        for lost, message in error.lost.items():
            damage.note(*lost, message)
        for _ in range(error.read):
            damage.tried()
        return error.pixels
    except TileError as error:
        damage.note(*at, str(error))
        return None
    damage.tried()
    return tile
