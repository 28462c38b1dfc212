"""The strings planted in a slide that no output may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import draw
import numpy as np
import tifffile
import vendors

PLANTED = ("DOE^JANE", "S20-1234", "jane.doe", "SS1234", "1961-04-12", "DOE", "jane")


SLIDE = "slides/stomach/stomach-metaplasia.svs"

#: Layouts besides Aperio's, and the same with a slide that no reader takes.
LAYOUTS = ("planted.ome.tif", "planted.ndpi", "planted.tiff")
UNREADABLE = ("deep.ome.tif", "broken.ndpi", "broken.tiff")


def draw_planted_label() -> np.ndarray:
    """(700, 1000, 3) uint8: a label as scanners photograph it, with what it says of the patient."""
    label = np.full((700, 1000, 3), 238, np.uint8)
    for row, text in enumerate(("DOE^JANE", "S20-1234", "1961-04-12", "SS1234")):
        cv2.putText(label, text, (40, 140 + 160 * row), 0, 3.5, (20, 150, 40), 14)  # green is no colour of the slide
    return label


def write_planted_slides(folder: Path) -> None:
    """Slides of `LAYOUTS` and `UNREADABLE` whose headers, labels and macros name a patient."""
    image, label = draw.draw_tissue(2048, 1536, seed=3), draw_planted_label()
    text = " ".join(PLANTED[:5])
    for name in ("planted.ome.tif", "deep.ome.tif"):
        write_ome_with_label(folder / name, image, label, text, deep=name.startswith("deep"))
    for name in ("planted.ndpi", "broken.ndpi"):
        vendors.write_ndpi(folder / name, image, label=label, text=text)
    for name in ("planted.tiff", "broken.tiff"):
        vendors.write_philips(folder / name, image, tile=256, label=label, text=text)
    for name in ("broken.ndpi", "broken.tiff"):
        erase_slide(folder / name)


def write_ome_with_label(path: Path, image: np.ndarray, label: np.ndarray, text: str, deep: bool) -> None:
    """The label first, as large as Bio-Formats leaves it; `deep` slides have 16 bits."""
    kind = "uint16" if deep else "uint8"
    described = "".join(
        f'<Image ID="Image:{n}" Name="{text} {name}"><Description>{text}</Description><Pixels ID="Pixels:{n}" '
        f'DimensionOrder="XYCZT" Type="{dtype}" SizeX="{pixels.shape[1]}" SizeY="{pixels.shape[0]}" SizeC="3" '
        f'SizeZ="1" SizeT="1" PhysicalSizeX="0.25" PhysicalSizeY="0.25">'
        f'<Channel ID="Channel:{n}:0" SamplesPerPixel="3"/><TiffData IFD="{n}" PlaneCount="1"/></Pixels></Image>'
        for n, (name, dtype, pixels) in enumerate((("label image", "uint8", label), ("#1", kind, image)))
    )
    root = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    options: dict[str, Any] = {"photometric": "rgb", "compression": "zlib", "tile": (256, 256), "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(label, description=f"{root}{described}</OME>".encode(), software=text, **options)
        tiff.write(image.astype(kind) * (200 if deep else 1), datetime="1961:04:12 00:00:00", **options)


def erase_slide(path: Path) -> None:
    """Overwrite the pixels of all levels and leave those of label and macro."""
    with tifffile.TiffFile(path) as tiff:
        levels = [page for level in tiff.series[0].levels for page in level.pages]
        places = [place for page in levels for place in zip(page.dataoffsets, page.databytecounts, strict=True)]
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(b"\x11" * count)
