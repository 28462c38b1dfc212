"""Writes containers of several images: slides, labels, macros and thumbnails under many names, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile

SLIDE, LABEL, MACRO, THUMBNAIL = "slide", "label", "macro", "thumbnail"
#: How writers call images of each role.
NAMES: dict[str, tuple[str, ...]] = {
    SLIDE: ("", "Scene", "scan", "Region", "Slide", "HE tissue", "ROI", "Schnitt", "ScanRegion", "Gewebe"),
    LABEL: ("label image", "Label", "LABEL", "labelimage", "Label_Image", "slide label", "SlideLabel", "Etikett"),
    MACRO: (
        "macro image",
        "Macro",
        "Overview 1",
        "overview",
        "Makrobild",
        "Übersichtsbild",
        "slide_macro",
    ),
    THUMBNAIL: ("thumbnail", "Thumbnail image", "thumb", "Preview", "Slide preview", "Vorschau", "thumbnail_0"),
}
#: How the pixels of an image are stored: samples as they are, 16 bits, channels of fluorescence.
RGB, DEEP, CHANNELS = "rgb", "16 bits", "channels"
OME_TYPES = {RGB: "uint8", DEEP: "uint16", CHANNELS: "uint16"}


@dataclass(frozen=True)
class Part:
    """One image of a container."""

    role: str
    name: str
    width: int
    height: int
    kind: str = RGB
    tiled: bool = True
    seed: int = 0  # of its pixels: no two images look alike
    mpp: float | None = 0.25

    def pixels(self) -> np.ndarray:
        """(H, W, 3), or (2, H, W) of channels."""
        rng = np.random.default_rng(self.seed)
        shape = (-(-self.height // 16), -(-self.width // 16), 3)
        small = rng.integers(0, 256, shape).astype(np.uint8)
        image = small.repeat(16, 0).repeat(16, 1)[: self.height, : self.width]
        if self.kind == DEEP:
            return image.astype(np.uint16) * 200
        return np.moveaxis(image[..., :2], 2, 0).astype(np.uint16) * 200 if self.kind == CHANNELS else image


def write_container(path: Path, parts: Sequence[Part], ome: bool) -> None:
    """An OME-TIFF, or a plain TIFF whose pages are called by their descriptions."""
    described = ome_xml(parts) if ome else None
    with tifffile.TiffWriter(path) as tiff:
        for index, part in enumerate(parts):
            pixels = part.pixels()
            planes = list(pixels) if part.kind == CHANNELS else [pixels]
            for number, plane in enumerate(planes):
                options: dict[str, Any] = {"tile": (256, 256)} if part.tiled else {"rowsperstrip": 64}
                if ome:
                    options["description"] = described if index == number == 0 else None
                else:
                    options["description"] = part.name.encode() or None
                    options |= {"resolution": (1e4 / part.mpp,) * 2, "resolutionunit": 3} if part.mpp else {}
                photometric = "minisblack" if part.kind == CHANNELS else "rgb"
                tiff.write(plane, photometric=photometric, compression="zlib", metadata=None, software=False, **options)


def ome_xml(parts: Sequence[Part]) -> bytes:
    images, page = [], 0
    for index, part in enumerate(parts):
        size = f'PhysicalSizeX="{part.mpp}" PhysicalSizeY="{part.mpp}"' if part.mpp else ""
        count, samples = (2, 1) if part.kind == CHANNELS else (1, 3)
        channels = "".join(f'<Channel ID="Channel:{index}:{n}" SamplesPerPixel="{samples}"/>' for n in range(count))
        name = f"Name={quoteattr(part.name)}" if part.name else ""
        images.append(
            f'<Image ID="Image:{index}" {name}><Pixels ID="Pixels:{index}" DimensionOrder="XYCZT" Type="'
            f'{OME_TYPES[part.kind]}" SizeX="{part.width}" SizeY="{part.height}" SizeC="{count * samples}" SizeZ="1" '
            f'SizeT="1" {size}>{channels}<TiffData IFD="{page}" PlaneCount="{count}"/></Pixels></Image>'
        )
        page += count
    root = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    return f'<?xml version="1.0" encoding="UTF-8"?>{root}{"".join(images)}</OME>'.encode()
