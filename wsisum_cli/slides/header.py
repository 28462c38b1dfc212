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

from wsisum_cli.slides.checks.xml_text import parse_xml

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

#: µm in a unit, by names in small letters; both letters mu, and what broken encodings leave of one, are read as u.
MICROMETRES = {
    **dict.fromkeys(("um", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"), 1.0),
    "pm": 1e-6,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "nanometers": 1e-3,
    "mm": 1e3,
    "millimeter": 1e3,
    "millimeters": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "centimeters": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "meter": 1e6,
    **dict.fromkeys(("in", "inch", "inches", '"'), 25_400.0),
}
MU = re.compile("Âµ|Î¼|\\\\u00b5|\\\\u03bc|[µμ\ufffd\xb5]", re.IGNORECASE)
NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?")
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
        if getattr(tif, f"is_{flag}") or (flag == "svs" and description(page).startswith("Aperio ")):
            try:
                mpp, source, model = read(tif, page)
            except UNPARSABLE:
                mpp, source, model = None, "", None
            if positive(mpp) is None and flag not in NO_RESOLUTION_TAGS:
                mpp, source = resolution_tags(page)
            return Scanner(vendor, clean_model(model), positive(mpp), source)
    mpp, source = resolution_tags(page)
    return Scanner("generic-tiff", None, positive(mpp), source)


def number(text: Any) -> float | None:
    """The number that a field begins with, with a decimal point or comma; None where it begins with none."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    found = NUMBER.match(str(text).strip().strip("\"'").strip())
    value = float(found[0].replace(",", ".")) if found else math.nan
    return value if math.isfinite(value) else None


def micrometres(text: Any, unit: str | None = None) -> float | None:
    """A length in µm: the number with the unit behind it, else with `unit`; None where it has neither or no number."""
    value = number(text)
    own = NUMBER.sub("", str(text).strip().strip("\"'").strip(), count=1).strip()
    factor = unit_in_micrometres(own or unit)
    return None if value is None or factor is None else value * factor


def unit_in_micrometres(unit: str | None) -> float | None:
    """None for what is no unit of length."""
    name = MU.sub("u", (unit or "").strip()).lower()
    return MICROMETRES.get(name) or MICROMETRES.get(name.rstrip("."))


def description(page: TiffPage) -> str:
    """Tag 270, of whatever bytes; an empty string where there is none."""
    value = page.tags.valueof(270, default="")
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def clean_model(model: str | None) -> str | None:
    """A model name such as `NanoZoomer S360`; anything longer or stranger is not one, and is dropped."""
    model = (model or "").strip()
    return model if MODEL.fullmatch(model) else None


def positive(mpp: tuple[float, float] | None) -> tuple[float, float] | None:
    return mpp if mpp and all(math.isfinite(side) and side > 0 for side in mpp) else None


Found = tuple[tuple[float, float] | None, str, str | None]


def read_aperio(_tif: TiffFile, page: TiffPage) -> Found:
    found = re.search(r"\|\s*MPP\s*=\s*([^|]+)", description(page))
    side = micrometres(found[1], "um") if found else None
    return (None, "", None) if side is None else ((side, side), "Aperio MPP", None)


def read_hamamatsu(_tif: TiffFile, page: TiffPage) -> Found:
    mpp, source = resolution_tags(page)
    return mpp, source, tag_text(page, 272)


def read_philips(_tif: TiffFile, page: TiffPage) -> Found:
    root = parse_xml(description(page))
    model = own_attributes(root).get("DICOM_MANUFACTURERS_MODEL_NAME")
    scans = [own_attributes(node) for node in root.iter("DataObject") if node.get("ObjectType") == "DPScannedImage"]
    slide = next(scan for scan in scans if scan.get("PIM_DP_IMAGE_TYPE") == "WSI")
    # DICOM order: the distance between rows, which is y, comes first; in mm.
    y, x = (micrometres(side, "mm") for side in re.findall(r"[0-9.,eE+-]+", slide["DICOM_PIXEL_SPACING"]))
    return both(x, y), "Philips DICOM_PIXEL_SPACING", model


def own_attributes(node: ElementTree.Element) -> dict[str, str]:
    """Attributes of a Philips object itself; those of the images and levels inside it have the same names."""
    return {child.get("Name", ""): (child.text or "").strip() for child in node.findall("Attribute")}


def read_leica(tif: TiffFile, page: TiffPage) -> Found:
    root = parse_xml(tif.pages.first.description)
    device = next((node.get("model", "") for node in root.iter() if node.tag.endswith("}device")), "")
    mpp, source = resolution_tags(page)
    return mpp, source, device.split(";")[0]


def read_ventana(tif: TiffFile, _page: TiffPage) -> Found:
    for page in tif.pages:
        xmp = page.aspage().tags.valueof(700)
        if xmp and b"iScan" in bytes(xmp):
            scan = next(n for n in parse_xml(bytes(xmp).strip(b"\0")).iter() if n.tag == "iScan")
            side = micrometres(scan.attrib["ScanRes"], "um")
            return both(side, side), "Ventana ScanRes", scan.get("ScannerModel")
    return None, "", None


def read_ome(tif: TiffFile, page: TiffPage) -> Found:
    root = parse_xml(tif.ome_metadata or "")
    size = (str(page.imagewidth), str(page.imagelength))
    for node in root.iter():
        if node.tag.endswith("}Pixels") and (node.get("SizeX"), node.get("SizeY")) == size:
            x, y = (
                micrometres(node.get(f"PhysicalSize{axis}"), node.get(f"PhysicalSize{axis}Unit", "um")) for axis in "XY"
            )
            return both(x, y), "OME PhysicalSize", None
    return None, "", None


def both(x: float | None, y: float | None) -> tuple[float, float] | None:
    return None if x is None or y is None else (x, y)


def resolution_tags(page: TiffPage) -> tuple[tuple[float, float] | None, str]:
    """Without a ResolutionUnit, the unit that ImageJ writes into the description."""
    try:
        unit = RESOLUTION_UNITS.get(int(page.tags.valueof(296, default=0)))
        x, y = (rational(page.tags.valueof(code)) for code in (282, 283))
    except UNPARSABLE:
        return None, ""
    if unit is None:
        stated = re.search(r"^unit=(.+)$", description(page), re.MULTILINE)
        unit = unit_in_micrometres(stated[1]) if stated else None
    if unit is None:
        return None, ""
    if x <= 0 or y <= 0:
        return None, ""
    return (unit / x, unit / y), "TIFF resolution tags"


def rational(value: Any) -> float:
    """0 for a tag that is missing."""
    numerator, denominator = value if isinstance(value, tuple) else (value or 0, 1)
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
#: Formats whose resolution tags are not those of level 0.
NO_RESOLUTION_TAGS = {"svs"}
