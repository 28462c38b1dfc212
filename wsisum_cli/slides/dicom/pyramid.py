"""The levels of a DICOM slide, put together from its files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from wsisum_cli.errors import SlideError, TileError
from wsisum_cli.slides.dicom.decode import declare_colour, decode_frame, is_declared
from wsisum_cli.slides.dicom.elements import JPEG
from wsisum_cli.slides.dicom.instance import open_instance
from wsisum_cli.slides.dicom.levels import (
    NO_FRAME,
    LevelImage,
    assemble_levels,
    level_downsample,
    pixel_size,
    stack_levels,
)
from wsisum_cli.slides.pyramid import EncodedTile, Level, Pyramid

MAX_FILES = 512  # of one slide; each stays open


class DicomPyramid(Pyramid):
    """The files of one slide, all of them levels or shares of one. Raises NotASlideError or SlideError."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        import pydicom

        self.path = path
        self.reader = f"pydicom {pydicom.__version__}"
        self.vendor = "dicom"
        if len(files) > MAX_FILES:
            raise SlideError(f"{path.name}: a slide of {len(files)} files, expected {MAX_FILES} at most")
        with ExitStack() as opened:
            instances = [open_instance(file, opened) for file in files]
            self._images = stack_levels(path, assemble_levels(instances))
            self._describe()
            self._opened = opened.pop_all()

    def _describe(self) -> None:
        first = self._images[0].head
        self.scanner = first.model
        self.mpp, self.mpp_source = pixel_size(first)
        planes = self._images[0].planes
        #: Number of the one read, from 1, and how many there are.
        self.focal_plane: tuple[int, int] | None = ((planes + 1) // 2, planes) if planes > 1 else None
        self.icc_profile = first.colour.icc_profile
        self.levels = tuple(
            Level(m.width, m.height, m.tile_width, m.tile_height, level_downsample(first, image.head))
            for image in self._images
            for m in (image.head.matrix,)
        )
        self._copies = [declares_colour(image) for image in self._images]

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> np.ndarray | None:
        found = self._images[level].frame(column, row)
        if found is None:
            return None
        instance, number = found
        at = self.levels[level]
        least = (
            min(at.tile_height, at.height - row * at.tile_height),
            min(at.tile_width, at.width - column * at.tile_width),
        )
        try:
            return decode_frame(instance, instance.frame(number), least, shrink)
        # Decoders meet damaged streams with exceptions of their own; each means that this tile is broken.
        except Exception as error:
            raise TileError(self._where(level, column, row, f"cannot be decoded ({error})")) from error

    def encoded_tile(self, level: int, column: int, row: int) -> EncodedTile | None:
        found = self._images[level].frame(column, row)
        if found is None:
            return None
        instance, number = found
        try:
            return declare_colour(instance.frame(number), instance.colour.photometric)
        except (ValueError, OSError) as error:
            raise TileError(self._where(level, column, row, f"cannot be read ({error})")) from error

    def copies_jpeg(self, level: int) -> bool:
        """Streams whose marks contradict the file on colour are left to be encoded anew."""
        return self._copies[level]

    def close(self) -> None:
        self._opened.close()

    def _where(self, level: int, column: int, row: int, what: str) -> str:
        return f"{self.path.name}: tile at column {column}, row {row} of level {level} {what}"


def declares_colour(image: LevelImage) -> bool:
    """Whether the first frame stored is a JPEG stream that says what its colours are."""
    stored = image.frames[image.frames != NO_FRAME]
    if image.head.codec != JPEG or not len(stored):
        return False
    column, row = np.argwhere(image.frames != NO_FRAME)[0][::-1].tolist()
    try:
        instance, number = image.frame(column, row) or (image.head, 0)
        return is_declared(instance.frame(number), instance.colour.photometric)
    except (ValueError, OSError):
        return False  # damage, which reading the tile will tell of
