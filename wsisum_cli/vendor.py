"""Slides in vendors' own formats, decoded by OpenSlide: MRXS, VMS, DICOM, and TIFFs not readable by tile."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsisum_cli.dicom import read_header
from wsisum_cli.errors import NotASlideError, SlideError, TileError
from wsisum_cli.pyramid import Level, Pyramid, downsample
from wsisum_cli.scanner import clean_model, positive

if TYPE_CHECKING:
    from openslide import OpenSlide

TILE = 512  # px a side; OpenSlide has no tiles of its own to offer, so levels are cut evenly
MODEL_PROPERTIES = ("dicom.ManufacturerModelName", "hamamatsu.Product", "leica.device-model")


class VendorPyramid(Pyramid):
    """Raises NotASlideError or SlideError."""

    def __init__(self, path: Path) -> None:
        import openslide

        self.path = path
        self.reader = f"openslide {openslide.__library_version__}"
        if path.suffix.lower() == ".dcm":
            refuse_associated_image(path)
        self._reopening = threading.Lock()
        try:
            self._slide: OpenSlide = openslide.OpenSlide(path)
        except (openslide.OpenSlideError, OSError) as error:
            why = str(error).replace(str(path), path.name)  # paths stay out of reports
            raise SlideError(f"{path.name}: no reader can open it ({why})") from error
        properties = self._slide.properties
        self.vendor = properties.get("openslide.vendor", "unknown")
        found = (properties.get(key) for key in MODEL_PROPERTIES)
        self.scanner = clean_model(next((value for value in found if value), None))
        self.mpp = pixel_size(properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y"))
        self.mpp_source = f"{self.vendor} header by OpenSlide" if self.mpp else ""
        profile = self._slide.color_profile
        self.icc_profile = profile.tobytes() if profile else None
        self._background = background(properties.get("openslide.background-color"))
        width0, height0 = self._slide.dimensions
        self.levels = tuple(
            Level(width, height, TILE, TILE, downsample(width0, height0, width, height))
            for width, height in self._slide.level_dimensions
        )

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> np.ndarray | None:
        import cv2
        import openslide

        at = self.levels[level]
        width = min(TILE, at.width - column * TILE)
        height = min(TILE, at.height - row * TILE)
        x0, y0 = (round(index * TILE * at.downsample) for index in (column, row))
        slide = self._slide
        try:
            rgba = np.asarray(slide.read_region((x0, y0), level, (width, height)))
        except openslide.OpenSlideError as error:
            self._reopen(slide)
            where = f"tile at column {column}, row {row} of level {level}"
            raise TileError(f"{self.path.name}: {where} cannot be decoded ({error})") from error
        pixels = over_background(rgba, self._background)
        if pixels is None or shrink == 1:
            return pixels
        small = (max(1, width // shrink), max(1, height // shrink))
        return np.asarray(cv2.resize(pixels, small, interpolation=cv2.INTER_AREA))

    def close(self) -> None:
        self._slide.close()

    def _reopen(self, failed: OpenSlide) -> None:
        """After one error OpenSlide's handle answers every read with that error."""
        import openslide

        with self._reopening:
            if self._slide is failed:
                self._slide = openslide.OpenSlide(self.path)


def refuse_associated_image(path: Path) -> None:
    """Raise NotASlideError for a DICOM label, overview or thumbnail."""
    kind = read_header(path).associated
    if kind:
        raise NotASlideError(f"{path.name}: a DICOM {kind} image, not the slide itself", f"{kind} image")


def pixel_size(x: str | None, y: str | None) -> tuple[float, float] | None:
    try:
        return positive((float(x or ""), float(y or "")))
    except ValueError:
        return None


def background(colour: str | None) -> tuple[int, int, int]:
    """OpenSlide's background-color property, six hex digits; white where there is none."""
    red, green, blue = bytes.fromhex(colour or "FFFFFF")
    return red, green, blue


def over_background(rgba: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray | None:
    """Premultiplied (H, W, 4) over the background as (H, W, 3); None where nothing was scanned."""
    alpha = rgba[..., 3:]
    if not alpha.any():
        return None
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    mixed = rgba[..., :3] * (alpha / 255.0) + np.array(colour) * (1 - alpha / 255.0)
    return mixed.round().astype(np.uint8)
