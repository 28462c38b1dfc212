"""Zeiss CZI, decoded by pylibCZIrw, which is an extra: each scene is a slide; label and macro are no scenes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from wsisum_cli.errors import NotASlideError, SeveralSlidesError, SlideError, TileError
from wsisum_cli.slides.checks.xml_text import parse_xml
from wsisum_cli.slides.header import clean_model, positive
from wsisum_cli.slides.pixels import shrunk
from wsisum_cli.slides.pyramid import Level, Pyramid, describe_error, downsample

if TYPE_CHECKING:
    from pylibCZIrw.czi import CziReader

TILE = 512  # px a side; regions are read across the tiles of the file, which lie as the scanner's camera saw them
WHITE = (1.0, 1.0, 1.0)  # what lies outside of the tiles was not scanned
RGB = "Bgr24"
METRES = 1e6  # µm
MAX_FACTOR = 256
MISSING = "needs the extra czi"

Box = tuple[int, int, int, int]  # x, y, width, height in px of the file, where a scene may begin anywhere


class CziPyramid(Pyramid):
    """Raises NotASlideError, SlideError, and SeveralSlidesError where there are several scenes and no `image`."""

    def __init__(self, path: Path, image: int | None = None) -> None:
        try:
            from pylibCZIrw import czi
        except ImportError as error:
            hint = "install it with: pip install 'wsisum[czi]'"
            raise SlideError(f"{path.name}: CZI is read by pylibCZIrw, which is missing; {hint}", MISSING) from error
        self.path, self.image = path, image
        self.reader = f"pylibCZIrw {installed_version()}"
        self.vendor, self.icc_profile = "zeiss", None
        self._lock = threading.Lock()
        try:
            self._czi: CziReader = czi.CziReader(str(path))
        # pybind11 turns what libCZI throws into several exceptions.
        except Exception as error:
            raise SlideError(f"{path.name}: no reader can open it ({describe_error(error, path)})") from error
        try:
            self._describe()
        except SlideError:
            self.close()
            raise
        except Exception as error:
            self.close()
            found = describe_error(error, path)
            raise SlideError(f"{path.name}: damaged CZI structure ({found}); fetch the file again") from error

    def _describe(self) -> None:
        self._plane, self.focal_plane = self._choose_plane()
        self._scene, (self._x, self._y, width, height) = self._choose_scene()
        self.mpp, self.scanner = read_metadata(self._czi.raw_metadata)
        self.mpp_source = "CZI Scaling" if self.mpp else ""
        sizes = [(f, width // f, height // f) for f in self._factors() if min(width, height) >= f]
        self.levels = tuple(Level(w, h, TILE, TILE, downsample(width, height, w, h)) for _, w, h in sizes)
        self._steps = [factor for factor, _, _ in sizes]

    def _choose_plane(self) -> tuple[dict[str, int], tuple[int, int] | None]:
        """Channel, time and the middle focal plane; number and count of the latter. Raises NotASlideError."""
        pixel_types, box = self._czi.pixel_types, self._czi.total_bounding_box_no_pyramid
        counts = {axis: end - start for axis, (start, end) in box.items() if axis not in "XYZ" and end - start > 1}
        if set(pixel_types.values()) != {RGB} or counts:
            more = "".join(f", {count} along {axis}" for axis, count in sorted(counts.items()))
            raise NotASlideError(
                f"{self.path.name}: expected one RGB image of 8 bits, found {', '.join(map(str, pixel_types.values()))}"
                f"{more}; only brightfield slides can be summarized",
                "not brightfield RGB",
            )
        first, end = box.get("Z", (0, 1))
        depth = end - first
        plane = {axis: start for axis, (start, _) in box.items() if axis not in "XY"}
        if depth <= 1:
            return plane, None
        middle = (depth - 1) // 2
        return {**plane, "Z": first + middle}, (middle + 1, depth)

    def _choose_scene(self) -> tuple[int | None, Box]:
        """The number of a scene in the file, None where it has none, and where it lies."""
        scenes = sorted(self._czi.scenes_bounding_rectangle_no_pyramid.items())
        if self.image is None and len(scenes) > 1:
            raise SeveralSlidesError(self.path.name, len(scenes))
        number = self.image or 1
        if not 1 <= number <= max(1, len(scenes)):
            raise SlideError(f"{self.path.name}: expected slide {number} of the file, found {len(scenes)}")
        scene, at = scenes[number - 1] if scenes else (None, self._czi.total_bounding_rectangle_no_pyramid)
        if at.w < 1 or at.h < 1:
            raise SlideError(f"{self.path.name}: the file stores no tile of the slide at all", "no pixels")
        return scene, (at.x, at.y, at.w, at.h)

    def _factors(self) -> list[int]:
        """Whole numbers by which the file stores the slide smaller, 1 first."""
        found = {1}

        def note(_index: int, block: object) -> bool:
            factor = 1 / max(block.get_zoom(), 1e-9)  # type: ignore[attr-defined]
            if abs(factor - round(factor)) < 0.02 * factor and round(factor) <= MAX_FACTOR:
                found.add(round(factor))
            return True

        self._czi.enumerate_subblocks(note)
        return sorted(found)

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> np.ndarray | None:
        at, step = self.levels[level], self._steps[level]
        width, height = min(TILE, at.width - column * TILE), min(TILE, at.height - row * TILE)
        corner = (self._x + column * TILE * step, self._y + row * TILE * step)
        try:
            pixels = self._region((*corner, width * step, height * step), step)
        # libCZI meets damaged tiles with exceptions of its own; each means that this one is broken.
        except Exception as error:
            where = f"tile at column {column}, row {row} of level {level}"
            found = describe_error(error, self.path)
            raise TileError(f"{self.path.name}: {where} cannot be decoded ({found})") from error
        return shrunk(pixels[:height, :width], shrink)

    def _region(self, box: Box, step: int) -> np.ndarray:
        """(H, W, 3) RGB of a part of the slide, each side divided by `step`."""
        with self._lock:
            found = self._czi.read(
                roi=box, plane=self._plane, scene=self._scene, zoom=1.0 / step, background_pixel=WHITE
            )
        return np.ascontiguousarray(found[..., ::-1])  # libCZI has blue first

    def close(self) -> None:
        with self._lock:
            self._czi.close()


def installed_version() -> str:
    from importlib.metadata import version

    return version("pylibCZIrw")


def read_metadata(text: str) -> tuple[tuple[float, float] | None, str | None]:
    """Pixel size in µm and the microscope's model; None for what is not stated. Nothing else is read."""
    try:
        root = parse_xml(text)
        distances = {
            node.get("Id"): float(node.findtext("Value") or "") for node in root.iterfind(".//Scaling/Items/*")
        }
    except (ElementTree.ParseError, ValueError):
        return None, None
    microscope = root.find(".//Instrument/Microscopes/Microscope")
    model = clean_model(microscope.get("Name")) if microscope is not None else None
    return positive((distances.get("X", 0) * METRES, distances.get("Y", 0) * METRES)), model
