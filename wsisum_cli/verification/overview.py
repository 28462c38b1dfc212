"""The overview of a summary -> findings: held against its own patches and tissue, and against the slide's overview.

The overview is the one picture of the whole slide. Where it shows tissue that the tissue map leaves out, or nothing
where the kept patches show tissue, one of them is not the slide's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.slides.pixels import resize
from wsisum_cli.slides.slide import Overview, Slide
from wsisum_cli.summary.limits.metadata import parse_metadata
from wsisum_cli.summary.overview import GLASS, MIN_GLASS
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.writer import OVERVIEW, PORTABLE, ROOT, viewer_metadata
from wsisum_cli.tissue.artefacts import BLACK, BLANK
from wsisum_cli.tissue.coverage import LEAST_PATCHES, LeftOut, measure_areas, painted, wide_areas
from wsisum_cli.tissue.grid import MIN_TISSUE
from wsisum_cli.tissue.mask import find_tissue, is_brightfield
from wsisum_cli.verification.finding import Finding
from wsisum_cli.verification.left_out import check_left_out
from wsisum_cli.verification.unread import (
    MOST_OVER_UNREAD,
    Excused,
    excused_by_file,
    excused_by_slide,
)

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

BLOCK = 8  # px of the overview a side, whose mean colour is compared: JPEG and rounding change single px
MAX_BLOCK = 32  # grey levels between block means, which JPEG and rounding bring to a few
MAX_PATCH = 40  # the same of mean colours of a kept patch, whose level may be focused or stitched otherwise
ROUNDED_GLASS = 12  # grey levels by which JPEG takes white and the palest tissue apart
NIGHT = 60  # grey levels: what is called black is darker on average
#: A square of tissue of so many patches a side holds a whole patch, wherever the grid begins.
HIDDEN_SIDE = 2
FULL = 0.98  # share of such a square; the edges of patches are rounded to px of the overview
MAX_HIDDEN = 0.4  # share of the tissue that may lie in patches with too little of it
ROUNDED_SCALE = 0.01  # share by which the pixel size of the overview may differ: its sides are whole px
MOST_BLANKED = 0.9  # share of a kept patch that a broken tile of the overview may have cost
MAX_CLAIMED = 0.05  # share of the tissue patches that may lie where the overview is white


@dataclass(frozen=True)
class Frame:
    """Where patches lie on an overview."""

    downsample: float  # level-0 px per px
    side: float  # of a patch, px of the overview
    shape: tuple[int, int]  # height, width

    def corners(self, coords: NDArray[np.integer]) -> NDArray[np.int64]:
        """(N, 4) left, upper, right, lower of the whole px inside the patches at (N, 2) `coords`; at least one px."""
        first = coords / self.downsample
        low = np.ceil(first - 0.25).astype(np.int64)
        high = np.maximum(np.floor(first + self.side + 0.25).astype(np.int64), low + 1)
        extent = np.array(self.shape[::-1])
        return np.hstack([np.minimum(low, extent - 1), np.minimum(high, extent)])

    def painted(self, coords: NDArray[np.integer]) -> Mask:
        """(H, W) bool: px that lie in one of the patches."""
        left, upper, right, lower = self.corners(coords).T
        steps = np.zeros((self.shape[0] + 1, self.shape[1] + 1), np.int32)
        for row, column, step in ((upper, left, 1), (upper, right, -1), (lower, left, -1), (lower, right, 1)):
            np.add.at(steps, (row, column), step)
        return np.asarray(steps.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0)

    def shares(self, mask: Mask, coords: NDArray[np.integer]) -> NDArray[np.float64]:
        """(N,) share of each patch that is marked in `mask` (H, W)."""
        sums = np.zeros((self.shape[0] + 1, self.shape[1] + 1), np.int64)
        sums[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
        left, upper, right, lower = self.corners(coords).T
        inside = sums[lower, right] - sums[upper, right] - sums[lower, left] + sums[upper, left]
        return np.asarray(inside / ((right - left) * (lower - upper)))


def frame_of(summary: Summary, shape: tuple[int, ...]) -> Frame:
    source, patch = summary.record.source, summary.record.patch
    downsample = float(max(source.width / shape[1], source.height / shape[0]))
    return Frame(downsample, patch.patch_size_level0 / downsample, (shape[0], shape[1]))


def check_overview(summary: Summary) -> Iterator[Finding]:
    """Without the slide: both overviews, the kept patches and the tissue map show the same. Needs whole arrays."""
    yield from check_viewer_metadata(summary)
    overview = summary.overview
    yield from compare_portable(summary, overview)
    yield from compare_patches(summary, overview)
    frame, record = frame_of(summary, overview.shape), summary.record
    if record.has_mask or record.features_are_given:
        if is_brightfield(overview):
            yield from check_left_out(record, see_left_out(summary, overview), "the overview")
        return
    hidden = find_hidden(summary, overview)
    yield from check_tissue(hidden, excused_by_file(record, frame.downsample, frame.shape), "the overview")
    yield from check_claimed(summary, overview, "the overview")


def check_viewer_metadata(summary: Summary) -> Iterator[Finding]:
    """What viewers show besides the pixels, the name and the scale, is what the attributes say."""
    source = summary.record.source
    stored = parse_metadata(summary.read(ROOT))["attributes"].get("ome")
    height, width = summary.array(PORTABLE).shape[1:]
    pixel = source.mpp * max(source.width / width, source.height / height)
    try:
        found = float(stored["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"][-1])
        same = stored == viewer_metadata(source.name, found)
    except (KeyError, IndexError, TypeError, ValueError):
        found, same = pixel, False
    if not same:
        yield Finding("ome-differs", "the metadata for viewers are not those of this slide", ROOT)
    elif abs(found / pixel - 1) > ROUNDED_SCALE + 1 / min(width, height):
        message = "viewers are told another pixel size of the overview"
        yield Finding("ome-differs", message, ROOT, f"{pixel:.4g} µm", f"{found:.4g} µm")


def compare_with_slide(summary: Summary, slide: Slide, overview: Overview, broken: Mask) -> Iterator[Finding]:
    """`overview` is the slide's, read again; `broken` (H, W) is where tiles of it cannot be read."""
    stored = summary.overview
    expected = resize(overview.pixels, *stored.shape[:2])
    lost = resize(np.repeat(np.where(broken, np.uint8(255), np.uint8(0))[..., None], 3, axis=2), *stored.shape[:2])
    ignored = blanked(stored, expected) | (is_white(stored) & (lost[..., 0] > 0))
    apart = differences(stored, expected, ignored)
    yield from differ(apart, "the overview is not that of the slide", overview_member(summary))
    if summary.record.has_mask or summary.record.features_are_given:
        return  # which `measure_left_out` looks at
    hidden = find_hidden(summary, overview.pixels)
    excused = excused_by_slide(summary.record, slide, hidden.wide | hidden.whole_patches, hidden.frame.downsample)
    yield from check_tissue(hidden, excused, "the slide")
    yield from check_claimed(summary, overview.pixels, "the slide")


def compare_portable(summary: Summary, overview: Image) -> Iterator[Finding]:
    portable = np.moveaxis(summary.array(PORTABLE), 0, 2)
    expected = resize(overview, *portable.shape[:2])
    yield from differ(differences(portable, expected), "the two overviews do not show the same", PORTABLE)


def compare_patches(summary: Summary, overview: Image) -> Iterator[Finding]:
    """Each kept patch shows what the overview shows at its place."""
    frame, broken = frame_of(summary, overview.shape), summary.record.broken_tiles.count > 0
    worst, where = 0.0, 0
    for row, (left, upper, right, lower) in enumerate(frame.corners(summary.coords).tolist()):
        shown = overview[upper:lower, left:right]
        patch = resize(summary.patches[row], *shown.shape[:2])
        apart = shown.astype(np.float32) - patch
        # A broken tile blanks a part of a patch at most: where the overview shows nothing, no tissue is found.
        apart[blanked(shown, patch, anywhere=broken and is_white(shown).mean() < MOST_BLANKED)] = 0
        distance = float(np.abs(apart.mean(axis=(0, 1))).max())
        if distance > worst:
            worst, where = distance, row
    if worst > MAX_PATCH:
        message = f"the overview does not show what patch {where} does"
        yield Finding("overview-differs", message, overview_member(summary), f"{MAX_PATCH} grey levels", f"{worst:.0f}")


@dataclass(frozen=True)
class Hidden:
    """What an overview surely shows as tissue, and what of it lies in no patch, each (H, W) bool."""

    tissue: Mask
    without_patch: Mask
    pale_without_patch: Mask  # with what is about as bright as glass, as lumens are
    frame: Frame

    @property
    def side(self) -> int:
        """Side of a square that holds a whole patch wherever the grid begins, px."""
        return max(1, int(HIDDEN_SIDE * self.frame.side))

    @property
    def wide(self) -> Mask:
        """(H, W) bool: what of it lies in such squares."""
        return full_squares(self.without_patch, self.side)

    @property
    def whole_patches(self) -> Mask:
        """(H, W) bool: where a whole patch of tissue, bright parts included, lies in no patch."""
        return wide_areas(self.pale_without_patch, LEAST_PATCHES * self.frame.side)


def find_hidden(summary: Summary, overview: Image) -> Hidden:
    """Tissue that an overview shows, and that the tissue map leaves out."""
    frame = frame_of(summary, overview.shape)
    visible = overview.min(axis=2) < MIN_GLASS
    tissue = find_tissue(overview, summary.record.source.mpp * frame.downsample)
    free = tissue & ~covered(summary, overview, frame, visible) & on_grid(summary, frame)
    return Hidden(tissue & visible, free & visible, free, frame)


def see_left_out(summary: Summary, overview: Image) -> LeftOut:
    """How much of the tissue that the overview surely shows lies in no patch."""
    hidden = find_hidden(summary, overview)
    wide = wide_areas(hidden.without_patch, LEAST_PATCHES * hidden.frame.side)
    return measure_areas(wide, hidden.tissue, summary.record.source.mpp * hidden.frame.downsample)


def check_tissue(hidden: Hidden, excused: Excused, of: str) -> Iterator[Finding]:
    """The tissue that an overview surely shows lies in patches of the tissue map, or where none could be read."""
    elsewhere = hidden.without_patch & ~excused.where
    lost = min(excused.most_px, np.count_nonzero(hidden.without_patch & excused.where))
    share = float((hidden.without_patch.sum() - lost) / max(1, int(hidden.tissue.sum())))
    whole = bool(full_squares(elsewhere, hidden.side).any())
    if whole or share > MAX_HIDDEN:
        message = f"the tissue map leaves out tissue that {of} shows"
        expected = "no area of whole patches" if whole else f"at most {MAX_HIDDEN:.0%}"
        yield Finding("tissue-differs", message, "tissue/coords", expected, f"{share:.1%} of the tissue")
        return
    px = hidden.frame.side**2
    under = int((hidden.whole_patches & excused.where).sum())
    if under > MOST_OVER_UNREAD * excused.most_px + px:
        message = (
            f"the tissue map leaves out more tissue under broken tiles than the file counts as unread; {of} shows it"
        )
        expected, found = f"{excused.most_px / px:.0f} patches", f"{under / px:.0f} patches"
        yield Finding("tissue-differs", message, "tissue/coords", expected, found)


def check_claimed(summary: Summary, overview: Image, of: str) -> Iterator[Finding]:
    """Patches of the tissue map lie on what the overview shows."""
    white = frame_of(summary, overview.shape).shares(is_white(overview), summary.tissue.coords) == 1
    if white.mean() > MAX_CLAIMED:
        message = f"tissue patches lie where {of} shows none"
        yield Finding("tissue-differs", message, "tissue/coords", f"at most {MAX_CLAIMED:.0%}", f"{white.mean():.1%}")


def covered(summary: Summary, overview: Image, frame: Frame, visible: Mask) -> Mask:
    """(H, W) bool: what the tissue map holds, and artefacts that look as they are called."""
    artefacts = summary.artefacts
    light = frame.shares(visible, artefacts.coords) < 0.5
    dark = frame.shares(np.asarray(overview.mean(axis=2) < NIGHT), artefacts.coords) > MIN_TISSUE / 2
    as_called = np.where(artefacts.kind == BLANK, light, np.where(artefacts.kind == BLACK, dark, True))
    return frame.painted(np.concatenate([summary.tissue.coords, artefacts.coords[as_called]]))


def on_grid(summary: Summary, frame: Frame) -> Mask:
    """(H, W) bool: px where a whole patch can lie; past the last one the slide is too narrow for another."""
    side, source = summary.record.patch.patch_size_level0, summary.record.source
    width, height = (int(length // side * side / frame.downsample) for length in (source.width, source.height))
    inside = np.zeros(frame.shape, bool)
    inside[:height, :width] = True
    return inside


def full_squares(mask: Mask, side: int) -> Mask:
    """(H, W) bool: the squares of `side` px that are marked nearly throughout."""
    if side > min(mask.shape):
        return np.zeros(mask.shape, bool)
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    sums[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    marked = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    rows, columns = np.nonzero(marked >= FULL * side * side)
    return painted(mask.shape, np.stack([columns, rows], axis=1), side)


def blanked(shown: Image, original: Image, anywhere: bool = False) -> Mask:
    """(H, W) bool: px that the summary shows white, as it may where the original is bright, or cannot be read."""
    white = is_white(shown)
    return white if anywhere else white & (original.min(axis=2) >= MIN_GLASS - ROUNDED_GLASS)


def is_white(image: Image) -> Mask:
    """(H, W) bool: px that were white before they went through JPEG."""
    return np.asarray(image.min(axis=2) >= GLASS - ROUNDED_GLASS)


def differences(a: Image, b: Image, ignored: Mask | None = None) -> Image:
    """Mean absolute differences of blocks, per channel: (H / 8, W / 8, 3)."""
    apart = np.maximum(a, b) - np.minimum(a, b)
    if ignored is not None:
        apart[ignored] = 0
    return resize(apart, *(max(1, side // BLOCK) for side in apart.shape[:2]))


def differ(apart: Image, message: str, member: str) -> Iterator[Finding]:
    if (worst := int(apart.max())) > MAX_BLOCK:
        yield Finding("overview-differs", message, member, f"at most {MAX_BLOCK} grey levels", str(worst))


def overview_member(summary: Summary) -> str:
    return OVERVIEW if f"{OVERVIEW}/zarr.json" in summary.members else PORTABLE
