"""Files of one series -> the levels of one slide, or the reason why they are not one. PS3.3 C.8.12."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from wsisum_cli.errors import NotASlideError, SlideError
from wsisum_cli.slides.dicom.elements import JPEG, JPEG2000
from wsisum_cli.slides.dicom.instance import Instance, Pair
from wsisum_cli.slides.pyramid import downsample

TOLERANCE = 0.02  # relative, of lengths that the levels of one slide share
SHIFT = 0.1  # of the imaged area, by which the corners of two levels may lie apart
NO_FRAME = -1
COLOURS = ("RGB", "YBR_FULL")
MORE_COLOURS = {JPEG: ("YBR_FULL_422",), JPEG2000: ("YBR_ICT", "YBR_RCT")}


@dataclass(frozen=True)
class LevelImage:
    """One level: the files that share its frames, and where each frame lies."""

    shares: tuple[Instance, ...]  # in order of their frames; several in a concatenation
    frames: np.ndarray  # (rows, columns) frame counted over all shares, NO_FRAME where none is stored
    planes: int  # focal planes stored; the middle one is read

    @property
    def head(self) -> Instance:
        return self.shares[0]

    def frame(self, column: int, row: int) -> tuple[Instance, int] | None:
        """The file and its frame; None where none is stored."""
        number = int(self.frames[row, column])
        for share in self.shares if number != NO_FRAME else ():
            if number < len(share.spans):
                return share, number
            number -= len(share.spans)
        return None


def assemble_levels(instances: Sequence[Instance]) -> list[LevelImage]:
    """One a file, or one a concatenation; copies of a file count once. Raises SlideError."""
    groups: dict[str, list[Instance]] = {}
    copies: set[tuple[str, int]] = set()
    for instance in instances:
        known = (instance.uid, instance.file.size)
        if not instance.uid or known not in copies:
            groups.setdefault(instance.concatenation[0] or instance.name, []).append(instance)
        copies.add(known)
    return [place_frames(sorted(group, key=lambda share: share.concatenation[1])) for group in groups.values()]


def place_frames(shares: list[Instance]) -> LevelImage:
    """Raises SlideError where frames are missing or lie beside the grid."""
    head = shares[0]
    counts = [len(share.spans) for share in shares]
    firsts = [share.concatenation[1] for share in shares]
    complete = firsts == list(accumulate(counts, initial=0))[:-1] and head.concatenation[2] in (0, len(shares))
    alike = len({(replace(s.matrix, frames=0), s.positions is None) for s in shares}) == 1
    if not (complete and alike):
        raise SlideError(f"{head.name}: other files of its concatenation are missing; put all of them into one folder")
    if head.positions is None:
        return place_in_order(tuple(shares), sum(counts))
    return place_by_position(tuple(shares), np.concatenate([share.positions for share in shares]))


def place_in_order(shares: tuple[Instance, ...], count: int) -> LevelImage:
    """Frames row by row, one focal plane after the other."""
    columns, rows = shares[0].matrix.grid
    planes, rest = divmod(count, columns * rows)
    if rest or not planes:
        expected = f"{columns} x {rows} frames"
        raise SlideError(f"{shares[0].name}: expected {expected}, found {count}; fetch all files of the slide again")
    frames = np.arange(columns * rows, dtype=np.int64).reshape(rows, columns)
    return LevelImage(shares, frames + (planes - 1) // 2 * columns * rows, planes)


def place_by_position(shares: tuple[Instance, ...], positions: np.ndarray) -> LevelImage:
    """Frames where the header says; of several at one place the middle one in z."""
    head = shares[0]
    columns, rows = head.matrix.grid
    corners = positions[:, :2].astype(np.int64)
    cells, off = np.divmod(corners, (head.matrix.tile_width, head.matrix.tile_height))
    if len(positions) != sum(len(share.spans) for share in shares):
        raise SlideError(f"{head.name}: damaged DICOM header, not every frame has a position; fetch the file again")
    if off.any() or (cells < 0).any() or (cells >= (columns, rows)).any():
        raise SlideError(
            f"{head.name}: its tiles overlap or lie beside one another at odd places; convert it to a grid"
        )
    frames = np.full(rows * columns, NO_FRAME, np.int64)
    flat = cells[:, 1] * columns + cells[:, 0]
    order = np.lexsort((positions[:, 2], flat))
    places, first, planes = np.unique(flat[order], return_index=True, return_counts=True)
    frames[places] = order[first + (planes - 1) // 2]
    return LevelImage(shares, frames.reshape(rows, columns), int(planes.max(initial=1)))


def stack_levels(path: Path, images: list[LevelImage]) -> list[LevelImage]:
    """Falling resolution. Raises NotASlideError when the largest is not brightfield RGB, SlideError for several slides.

    A lesser level whose pixels are of another kind is left out.
    """
    images = sorted(images, key=lambda image: image.head.matrix.width * image.head.matrix.height, reverse=True)
    first = images[0].head
    obstacle = why_not_rgb(first)
    if obstacle:
        found = f"expected RGB of 8 bits, found {obstacle}; only brightfield slides can be summarized"
        raise NotASlideError(f"{path.name}: {found}", "not brightfield RGB")
    levels = images[:1]
    for image in images[1:]:
        conflict = why_not_level(image.head, levels)
        if conflict:
            names = f"one series holds {first.name} and {image.head.name}"
            found = f"which are not levels of one slide ({conflict})"
            raise SlideError(f"{path.name}: {names}, {found}; put each slide into a folder of its own")
        if why_not_rgb(image.head) is None:
            levels.append(image)
    return levels


def why_not_rgb(instance: Instance) -> str | None:
    colour = instance.colour
    if colour.optical_paths > 1:
        return f"{colour.optical_paths} optical paths"
    if (colour.samples, colour.bits) != (3, (8, 8)):
        return f"{colour.samples} samples of {colour.bits[0]} bits"
    if colour.photometric not in (*COLOURS, *MORE_COLOURS.get(instance.codec, ())):
        return "another photometric interpretation"
    return None


def why_not_level(instance: Instance, levels: Sequence[LevelImage]) -> str | None:
    """What keeps a file from being a lower level of the slide above it, None when nothing does."""
    first, last = levels[0].head, levels[-1].head
    if (instance.matrix.width, instance.matrix.height) == (last.matrix.width, last.matrix.height):
        return "both of the same size" if last is first else "two levels are of the same size"
    if not is_close(first.area.orientation, instance.area.orientation, 0.01):
        return "they lie in different directions"
    if not covers_same(first, instance):
        return "they show areas of different size"
    extent = max(physical_size(first) or (0.0, 0.0))
    if extent and not is_close(first.area.origin, instance.area.origin, SHIFT * extent):
        return "they show different areas"
    return None


def is_close(one: tuple[float, ...] | None, other: tuple[float, ...] | None, margin: float) -> bool:
    """Whether no value differs by more; also where one of the two is not known."""
    if one is None or other is None or len(one) != len(other):
        return True
    return all(abs(a - b) <= margin for a, b in zip(one, other, strict=True))


def covers_same(first: Instance, other: Instance) -> bool:
    """Whether both show an area of one size; the lower level may be filled up to whole tiles."""
    steps = steps_between(first, other)
    return is_reduced(first.matrix.width / steps[0], other.matrix.width, other.matrix.tile_width) and is_reduced(
        first.matrix.height / steps[1], other.matrix.height, other.matrix.tile_height
    )


def is_reduced(expected: float, side: int, tile: int) -> bool:
    off = side - expected
    return abs(off) <= TOLERANCE * expected + 2 or (0 < off < tile and side % tile == 0)


def steps_between(first: Instance, other: Instance) -> Pair:
    """Level-0 px per px in x and y: by the pixel sizes, by the larger ratio of the sides where these are missing."""
    if first.area.spacing and other.area.spacing:
        return other.area.spacing[0] / first.area.spacing[0], other.area.spacing[1] / first.area.spacing[1]
    step = max(first.matrix.width / other.matrix.width, first.matrix.height / other.matrix.height)
    return step, step


def level_downsample(first: Instance, other: Instance) -> float:
    """By the sides, by the pixel sizes where the level is filled up to whole tiles."""
    step = sum(steps_between(first, other)) / 2
    padded = other.matrix.width > first.matrix.width / step + 2 or other.matrix.height > first.matrix.height / step + 2
    return (
        step if padded else downsample(first.matrix.width, first.matrix.height, other.matrix.width, other.matrix.height)
    )


def physical_size(instance: Instance) -> Pair | None:
    """Mm in x and y."""
    if instance.area.spacing is None:
        return None
    return instance.matrix.width * instance.area.spacing[0], instance.matrix.height * instance.area.spacing[1]


def pixel_size(instance: Instance) -> tuple[Pair | None, str]:
    """µm per px in x and y, and which element says so."""
    if instance.area.spacing:
        return (instance.area.spacing[0] * 1e3, instance.area.spacing[1] * 1e3), "DICOM PixelSpacing"
    if instance.area.extent:
        x, y = (
            instance.area.extent[0] / instance.matrix.width * 1e3,
            instance.area.extent[1] / instance.matrix.height * 1e3,
        )
        if abs(x / y - 1) <= TOLERANCE:
            return (x, y), "DICOM ImagedVolumeWidth"
    return None, ""
