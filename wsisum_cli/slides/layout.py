"""What a TIFF container holds: its images, with the pages of their levels, focal planes and colour planes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from wsisum_cli.slides.checks.xml_text import parse_xml
from wsisum_cli.slides.images import ContainerImage, Role, have_same_shape, role_of_name

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

NDPI_LENS = 65421  # magnification; negative for the macro (-1) and the map of focus points (-2)
PAGE_NAME = 285
REDUCED, MASK = 1, 4  # bits of NewSubfileType (TIFF 6.0)
UNNAMED_KINDS = ("generic", "uniform")  # of images that tifffile puts together by their size alone
MAX_STACK = 64  # pages of one size that are looked at one by one
MAX_NAME = 200  # characters; longer descriptions are headers
#: Names that tifffile gives to the images of layouts that it knows.
KNOWN_NAMES: dict[str, dict[str, Role]] = {
    "svs": {"Baseline": Role.SLIDE, "Thumbnail": Role.THUMBNAIL, "Label": Role.LABEL, "Macro": Role.MACRO},
    "qpi": {"Baseline": Role.SLIDE, "Thumbnail": Role.THUMBNAIL, "Label": Role.LABEL, "Macro": Role.MACRO},
    "philips": {"Baseline": Role.SLIDE, "Label": Role.LABEL, "Macro": Role.MACRO, "Other": Role.OTHER},
    "bif": {"Baseline": Role.SLIDE, "Thumbnail": Role.THUMBNAIL, "Label": Role.LABEL, "Unknown": Role.OTHER},
}
FLUORESCENT = ("EmissionWavelength", "ExcitationWavelength", "Fluor")
PRIMARIES = ("red", "green", "blue")

POSITIVE = r"(?=.*[1-9])[0-9]*\.?[0-9]+(?:[eE][+-]?\d+)?|(?=.*[1-9])[0-9]+\.(?:[eE][+-]?\d+)?"  # a number above 0


@dataclass(frozen=True)
class TiffImage:
    """An image of a TIFF and where its pages are."""

    image: ContainerImage
    levels: tuple[TiffPageSeries, ...]  # level 0 first; none where tifffile cannot put the pages together
    ome: OmeImage | None = None


@dataclass(frozen=True)
class OmeImage:
    """What OME-XML says of one image."""

    name: str
    width: int
    height: int
    channels: tuple[str, ...]  # their names in lower case; empty where none is described
    channel_count: int  # SizeC: samples of all channels
    planes: int  # focal planes times points in time
    dtype: str
    pixel_size: tuple[float, str] | None
    fluorescent: bool


def list_tiff_images(tif: TiffFile) -> list[TiffImage]:
    """All images in the order in which tifffile finds them, then those that it leaves out. Raises as tifffile does."""
    described = ome_images(tif)
    found: list[TiffImage] = []
    listed = [image for stack in tif.series for image in unstack(stack)]
    if listed and listed[0].kind in UNNAMED_KINDS:
        listed.sort(key=lambda series: series.keyframe.index)  # a stack may have held the first and the last page
    for series in listed:
        ome = take_matching(described, series)
        levels, apart = split_levels(series)
        found.append(tiff_image(tif, len(found), levels, ome))
        for level in apart:
            found.append(tiff_image(tif, len(found), (level,), None))
    found += [left_out(len(found) + n, ome) for n, ome in enumerate(described)]
    return [*found, *unlisted_images(tif, found)]


def unstack(series: TiffPageSeries) -> list[TiffPageSeries]:
    """Pages of one size that tifffile stacks though they are called differently, each as an image of its own."""
    from tifffile import TiffPageSeries

    count = len(series.pages)
    if series.kind not in UNNAMED_KINDS or series.axes[:1] != "I" or count > MAX_STACK or series.levels[1:]:
        return [series]
    pages = [page.aspage() for page in series.pages if page is not None]
    if len({page_name(page) for page in pages}) == 1:
        return [series]
    return [TiffPageSeries([page], page.shape, page.dtype, page.axes, kind=series.kind) for page in pages]


def tiff_image(tif: TiffFile, index: int, levels: tuple[TiffPageSeries, ...], ome: OmeImage | None) -> TiffImage:
    series, page = levels[0], levels[0].keyframe
    name = (series.name if series.kind in ("ome", "scn") else "") or (ome.name if ome else "") or page_name(page)
    image = ContainerImage(
        index,
        name,
        page.imagewidth,
        page.imagelength,
        role_by_tags(tif, series),
        series.axes,
        tuple(series.shape),
        str(series.dtype),
        page.is_tiled,
        bool(int(page.subfiletype) & REDUCED),
        ome is not None,
        ome.pixel_size if ome else None,
    )
    return TiffImage(image, levels, ome)


def left_out(index: int, ome: OmeImage) -> TiffImage:
    """An image that OME-XML describes and whose pages tifffile does not find."""
    shape = (ome.planes, ome.height, ome.width, ome.channel_count)
    image = ContainerImage(
        index,
        ome.name,
        ome.width,
        ome.height,
        axes="QYXC",
        shape=shape,
        dtype=ome.dtype,
        described=True,
        pixel_size=ome.pixel_size,
    )
    return TiffImage(image, (), ome)


def unlisted_images(tif: TiffFile, found: list[TiffImage]) -> Iterator[TiffImage]:
    """Pages that are in none of the images found, each as an image of its own."""
    listed = {
        page.offset for series in tif.series for level in series.levels for page in level.pages if page is not None
    }
    fixed = tif.series and tif.series[0].kind in KNOWN_NAMES and tif.series[0].kind != "svs"
    index = len(found)
    for frame in tif.pages:
        key = frame.keyframe
        if frame.offset in listed or (key is not None and key.offset in listed):
            continue  # a frame whose key frame is listed has the shape of that image, and is one of its planes
        page = frame.aspage()
        role = Role.OTHER if fixed else subfile_role(page)
        reduced = bool(int(page.subfiletype) & REDUCED)
        size = (page.imagewidth, page.imagelength)
        yield TiffImage(
            ContainerImage(
                index, page_name(page), *size, role, page.axes, page.shape, str(page.dtype), page.is_tiled, reduced
            ),
            (),
        )
        index += 1


def role_by_tags(tif: TiffFile, series: TiffPageSeries) -> Role:
    """What the layout and the type tags tell of an image; unknown where the name has to."""
    page = series.keyframe
    if series.kind == "ndpi":  # whose series tifffile names by what the user typed in
        lens = float(page.tags.valueof(NDPI_LENS, default=1))
        return Role.UNKNOWN if lens > 0 else (Role.MACRO if lens == -1 else Role.OTHER)
    if series.kind == "scn":
        return Role.MACRO if shows_all_of_the_glass(tif, series.name, page) else role_or(series.name, Role.SLIDE)
    role = KNOWN_NAMES.get(series.kind, {}).get(series.name, Role.UNKNOWN)
    if role is Role.UNKNOWN:
        return subfile_role(page)
    if role is Role.SLIDE:
        return role_or(page_name(page), Role.SLIDE)
    first = tif.series[0].keyframe
    larger = page.imagewidth * page.imagelength > first.imagewidth * first.imagelength
    return Role.UNKNOWN if larger or (role is Role.THUMBNAIL and page.is_tiled and series.kind == "svs") else role


def role_or(name: str, role: Role) -> Role:
    """The role that `name` tells of, `role` where it tells of none."""
    told = role_of_name(name)
    return role if told is Role.UNKNOWN else told


def subfile_role(page: TiffPage) -> Role:
    return Role.OTHER if int(page.subfiletype) & MASK else Role.UNKNOWN


def page_name(page: TiffPage) -> str:
    """What a page calls itself: its PageName, or the first field of a short description; headers are none."""
    name = page.tags.valueof(PAGE_NAME)
    text = page.description.partition("|")[0].strip()
    if not text or text[0] in "<{[" or len(text) > MAX_NAME:
        text = ""
    return f"{name} {text}".strip() if isinstance(name, str) else text


def split_levels(series: TiffPageSeries) -> tuple[tuple[TiffPageSeries, ...], list[TiffPageSeries]]:
    """The levels of an image, and images that tifffile takes for its levels and that call themselves otherwise.

    A smaller level of another shape than level 0 is neither: it is left out.
    """
    first = series.levels[0].keyframe
    levels, apart = [series.levels[0]], []
    for level in series.levels[1:]:
        page = level.keyframe
        name = page_name(page)
        if role_of_name(name) is not Role.UNKNOWN and name != page_name(first):
            apart.append(level)
        elif have_same_shape((first.imagewidth, first.imagelength), (page.imagewidth, page.imagelength)):
            levels.append(level)
        elif page.imagewidth * page.imagelength > first.imagewidth * first.imagelength:
            apart.append(level)  # the slide, behind a label that stands first
    return tuple(levels), apart


def shows_all_of_the_glass(tif: TiffFile, name: str, page: TiffPage) -> bool:
    """Whether an image of an SCN file is its macro: its view is as large as the collection's."""
    with contextlib.suppress(ElementTree.ParseError):
        for collection in parse_xml(tif.pages.first.description):
            glass = (collection.get("sizeX"), collection.get("sizeY"))
            for image in collection:
                sizes = {node.tag.rpartition("}")[2]: (node.get("sizeX"), node.get("sizeY")) for node in image}
                mine = sizes.get("pixels") == (str(page.imagewidth), str(page.imagelength))
                if image.get("name") == name and mine and sizes.get("view") == glass:
                    return True
    return False


def ome_images(tif: TiffFile) -> list[OmeImage]:
    """The images that OME-XML describes; none where there is none, or none that can be parsed."""
    if not tif.is_ome or not tif.ome_metadata:
        return []
    try:
        root = parse_xml(tif.ome_metadata)
        return [ome for node in root if local_name(node) == "Image" for ome in ome_image(node)]
    except (ElementTree.ParseError, ValueError):
        return []


def ome_image(node: ElementTree.Element) -> Iterator[OmeImage]:
    for pixels in node:
        if local_name(pixels) != "Pixels":
            continue
        channels = [child for child in pixels if local_name(child) == "Channel"]
        size, unit = pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm")
        yield OmeImage(
            name=node.get("Name", ""),
            width=int(pixels.get("SizeX", 0)),
            height=int(pixels.get("SizeY", 0)),
            channels=tuple((channel.get("Name") or "").strip().lower() for channel in channels),
            channel_count=int(pixels.get("SizeC", 1)),
            planes=int(pixels.get("SizeZ", 1)) * int(pixels.get("SizeT", 1)),
            dtype=pixels.get("Type", ""),
            pixel_size=(float(size), unit) if size and re.fullmatch(POSITIVE, size) else None,
            fluorescent=any(name in channel.attrib for channel in channels for name in FLUORESCENT),
        )


def local_name(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]


def take_matching(described: list[OmeImage], series: TiffPageSeries) -> OmeImage | None:
    """Remove the description of `series` from those left and return it; None where none fits."""
    size = (series.keyframe.imagewidth, series.keyframe.imagelength)
    fitting = [ome for ome in described if (ome.width, ome.height) == size]
    fitting.sort(key=lambda ome: ome.name != (series.name or ""))  # the sort is stable: those of this name come first
    if fitting:
        described.remove(fitting[0])
        return fitting[0]
    return None


@dataclass(frozen=True)
class Planes:
    """The pages that hold one level: one of RGB, or three of grey in the order of red, green, blue."""

    pages: tuple[TiffPage, ...]
    focal: tuple[int, int] | None  # number from 1 of the focal plane, and how many there are; None where there is one

    @property
    def stored_apart(self) -> bool:
        """Whether red, green and blue are not stored together, or come with an alpha channel."""
        page = self.pages[0]
        return len(self.pages) > 1 or page.planarconfig == 2 or page.samplesperpixel != 3


def select_planes(level: TiffPageSeries, ome: OmeImage | None) -> Planes | None:
    """The middle focal plane of a level; None where the level has other dimensions than colour and depth."""
    page = level.keyframe
    leading = level.axes[: len(level.axes) - len(page.axes)]
    sizes = level.shape[: len(leading)]
    index, focal, colour_stride = 0, None, 0
    stride = 1
    for axis, size in reversed(list(zip(leading, sizes, strict=True))):
        if axis == "Z" and size > 1:
            focal = ((size - 1) // 2 + 1, size)
            index += (focal[0] - 1) * stride
        elif size == 3 and page.samplesperpixel == 1 and holds_colours(axis, ome):
            colour_stride = stride
        elif size > 1:
            return None
        stride *= size
    wanted = [index + n * colour_stride for n in colour_order(ome)] if colour_stride else [index]
    if len(level.pages) < stride:
        return None
    found = [frame.aspage() for n in wanted if (frame := level.pages[n]) is not None]
    return Planes(tuple(found), focal) if len(found) == len(wanted) else None


def holds_colours(axis: str, ome: OmeImage | None) -> bool:
    """Whether three grey pages along `axis` may be red, green and blue; whether they are is for the pixels to show."""
    if ome is None or ome.channel_count != 3 or ome.fluorescent:
        return False
    return axis == "C" or (axis in "IQ" and ome.planes == 1)


def colour_order(ome: OmeImage | None) -> tuple[int, ...]:
    """Positions of red, green and blue among three channels; in this order where their names do not say otherwise."""
    names = ome.channels if ome is not None else ()
    return tuple(names.index(name) for name in PRIMARIES) if sorted(names) == sorted(PRIMARIES) else (0, 1, 2)
