"""Who scanned a TIFF slide, and how large its pixels are. Reads an allow-list of fields and nothing else.

Slide headers name patients, accession numbers, users and serial numbers; none of those is touched here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

MICROMETRES = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
RESOLUTION_UNITS = {2: 25_400.0, 3: 10_000.0}  # TIFF 6.0 ResolutionUnit in µm: inch, centimetre
#: What parsing a damaged header ends in.
UNPARSABLE = (ElementTree.ParseError, LookupError, ValueError, TypeError, AttributeError, StopIteration, OverflowError)
MODEL = re.compile(r"[A-Za-z][A-Za-z0-9 ._/+()-]{0,39}")


@dataclass(frozen=True)
class Scanner:
    vendor: str
    model: str | None
    mpp: tuple[float, float] | None  # µm per level-0 px in x and y
    mpp_source: str


def identify(tif: TiffFile, page: TiffPage) -> Scanner:
    """`page` is level 0. A header that cannot be parsed counts as one that says nothing."""
    for flag, vendor, read in READERS:
        if getattr(tif, f"is_{flag}"):
            try:
                mpp, source, model = read(tif, page)
            except UNPARSABLE:
                mpp, source, model = None, "", None
            return Scanner(vendor, clean_model(model), positive(mpp), source)
    mpp, source = resolution_tags(page)
    return Scanner("generic-tiff", None, positive(mpp), source)


def clean_model(model: str | None) -> str | None:
    """A model name such as `NanoZoomer S360`; anything longer or stranger is not one, and is dropped."""
    model = (model or "").strip()
    return model if MODEL.fullmatch(model) else None


def positive(mpp: tuple[float, float] | None) -> tuple[float, float] | None:
    return mpp if mpp and all(math.isfinite(side) and side > 0 for side in mpp) else None


Found = tuple[tuple[float, float] | None, str, str | None]


def read_aperio(_tif: TiffFile, page: TiffPage) -> Found:
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description)
    if found:
        side = float(found[1])
        return (side, side), "Aperio MPP", None
    return None, "", None


def read_hamamatsu(_tif: TiffFile, page: TiffPage) -> Found:
    mpp, source = resolution_tags(page)
    return mpp, source, tag_text(page, 272)


def read_philips(_tif: TiffFile, page: TiffPage) -> Found:
    root = ElementTree.fromstring(page.description)
    model = own_attributes(root).get("DICOM_MANUFACTURERS_MODEL_NAME")
    scans = [own_attributes(node) for node in root.iter("DataObject") if node.get("ObjectType") == "DPScannedImage"]
    slide = next(scan for scan in scans if scan.get("PIM_DP_IMAGE_TYPE") == "WSI")
    # DICOM order: the distance between rows, which is y, comes first; in mm.
    y, x = (float(side) * 1e3 for side in re.findall(r"[0-9.eE+-]+", slide["DICOM_PIXEL_SPACING"]))
    return (x, y), "Philips DICOM_PIXEL_SPACING", model


def own_attributes(node: ElementTree.Element) -> dict[str, str]:
    """Attributes of a Philips object itself; those of the images and levels inside it have the same names."""
    return {child.get("Name", ""): (child.text or "").strip() for child in node.findall("Attribute")}


def read_leica(tif: TiffFile, page: TiffPage) -> Found:
    root = ElementTree.fromstring(tif.pages.first.description)
    device = next((node.get("model", "") for node in root.iter() if node.tag.endswith("}device")), "")
    mpp, source = resolution_tags(page)
    return mpp, source, device.split(";")[0]


def read_ventana(tif: TiffFile, _page: TiffPage) -> Found:
    for page in tif.pages:
        xmp = page.aspage().tags.valueof(700)
        if xmp and b"iScan" in bytes(xmp):
            scan = next(n for n in ElementTree.fromstring(bytes(xmp).strip(b"\0")).iter() if n.tag == "iScan")
            side = float(scan.attrib["ScanRes"])
            return (side, side), "Ventana ScanRes", scan.get("ScannerModel")
    return None, "", None


def read_ome(tif: TiffFile, page: TiffPage) -> Found:
    root = ElementTree.fromstring(tif.ome_metadata or "")
    size = (str(page.imagewidth), str(page.imagelength))
    for node in root.iter():
        if node.tag.endswith("}Pixels") and (node.get("SizeX"), node.get("SizeY")) == size:
            mpp = tuple(
                float(node.attrib[f"PhysicalSize{axis}"]) * MICROMETRES[node.get(f"PhysicalSize{axis}Unit", "µm")]
                for axis in "XY"
            )
            return (mpp[0], mpp[1]), "OME PhysicalSize", None
    return None, "", None


def resolution_tags(page: TiffPage) -> tuple[tuple[float, float] | None, str]:
    unit = RESOLUTION_UNITS.get(int(page.tags.valueof(296, default=0)))
    per_unit = [page.tags.valueof(code) for code in (282, 283)]
    if unit is None or not all(per_unit):
        return None, ""
    x, y = (rational(value) for value in per_unit)
    if x <= 0 or y <= 0:
        return None, ""
    return (unit / x, unit / y), "TIFF resolution tags"


def rational(value: Any) -> float:
    numerator, denominator = value
    return float(numerator) / float(denominator) if denominator else 0.0


def tag_text(page: TiffPage, code: int) -> str | None:
    value = page.tags.valueof(code)
    return value if isinstance(value, str) else None


READERS: tuple[tuple[str, str, Callable[[TiffFile, TiffPage], Found]], ...] = (
    ("svs", "aperio", read_aperio),
    ("ndpi", "hamamatsu", read_hamamatsu),
    ("philips", "philips", read_philips),
    ("scn", "leica", read_leica),
    ("bif", "ventana", read_ventana),
    ("ome", "ome-tiff", read_ome),
)
