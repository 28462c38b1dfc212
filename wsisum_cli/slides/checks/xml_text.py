"""XML in the headers of slides: parsed only where it is as small and as plain as headers are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from wsisum_cli.errors import SlideError
from wsisum_cli.slides.checks.tiff_pages import MAX_PAGES, Size, check_pages

#: Tags in one text; OME-XML of a stack of 20,000 planes has a few hundred thousand.
MAX_NODES = 1_000_000
#: No header of a slide declares a type of document. Entities, which grow when they are read, come with one.
DOCTYPE = "<!DOCTYPE"
#: Entries of the list of pages that tifffile makes for one image. It divides the px of the image by those of a page,
#: which may be a small label.
MAX_LISTED = 20_000_000
MAX_OTHER_FILES = 512  # that an OME-XML names, each of which tifffile opens
LISTING = ("OME", "scn")  # whose XML tifffile takes for lists of images
DEPTH_AXES, SIDES = ("SizeZ", "SizeC", "SizeT"), ("SizeX", "SizeY")

Node = ElementTree.Element


def parse_xml(text: str | bytes) -> Node:
    """Raises ElementTree.ParseError for what is no XML, and for XML that no header of a slide is."""
    if found := why_no_header(text):
        raise ElementTree.ParseError(found)
    return ElementTree.fromstring(text)


def why_no_header(text: str | bytes) -> str:
    """What tells XML from that of a header; empty where nothing does."""
    plain = text if isinstance(text, str) else text.replace(b"\0", b"").decode("latin-1")
    if DOCTYPE in plain:
        return "it declares a type of document"
    return f"it has more than {MAX_NODES} nodes" if plain.count("<") > 2 * MAX_NODES else ""


def check_description(text: str, pages: Sequence[Size], path: Path) -> None:
    """Raise SlideError when the XML that describes the images of a TIFF tells of more than a file holds.

    `pages` are the sizes of the file's pages. tifffile makes lists as long as the XML says, and opens the files that it
    names. What is no XML passes.
    """
    if not text.lstrip("\ufeff \t\r\n\0").startswith("<"):
        return
    if found := why_no_header(text):
        raise damaged(path, found)
    try:
        root = parse_xml(text)
    except ElementTree.ParseError:
        return
    if not local_name(root).endswith(LISTING):
        return
    nodes = list(root.iter())
    try:
        planes, listed = count_planes(nodes, len(pages)), count_listed(nodes, pages)
    except (ValueError, ArithmeticError) as error:
        raise damaged(path, "a number in it is none") from error
    if planes > MAX_PAGES or listed > MAX_LISTED:
        raise damaged(path, f"it tells of {max(planes, listed)} planes, expected at most {MAX_PAGES}")
    check_other_files(nodes, path)


def damaged(path: Path, found: str) -> SlideError:
    return SlideError(f"{path.name}: damaged XML in its header, {found}; export it again")


def local_name(node: Node) -> str:
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


def count_planes(nodes: Sequence[Node], pages: int) -> int:
    """How many planes tifffile makes room for, or goes through one by one. Raises ValueError, ArithmeticError."""
    planes = counted = 0
    for node in nodes:
        kind = local_name(node)
        if kind.endswith("Pixels"):
            planes += math.prod(max(1, abs(number(node, axis, 1))) for axis in DEPTH_AXES)
        elif kind.endswith("TiffData"):
            stated = number(node, "PlaneCount", number(node, "NumPlanes", 1 if "IFD" in node.attrib else 0))
            counted += stated or pages
        elif kind[:-1].endswith("Along") and "Start" in node.attrib:
            start, end, step = (float(node.get(key, "1")) for key in ("Start", "End", "Step"))
            planes += max(0, math.ceil((end - start) / step))
    planes += count_leica_planes([node for node in nodes if local_name(node).endswith("dimension")])
    return max(planes, counted)


def count_leica_planes(dimensions: Sequence[Node]) -> int:
    """Of an SCN file: each level has room for all channels at all depths."""
    channels, depths = (max((number(node, key) for node in dimensions), default=0) + 1 for key in "cz")
    return max(1, channels) * max(1, depths) * len(dimensions)


def count_listed(nodes: Sequence[Node], pages: Sequence[Size]) -> int:
    """Entries of the longest list of pages that tifffile makes for an image. Raises ValueError."""
    smallest = min((area for width, height in pages if (area := width * height)), default=1)
    images = [node for node in nodes if local_name(node).endswith("Pixels")]
    px = [math.prod(max(1, abs(number(node, axis, 1))) for axis in (*DEPTH_AXES, *SIDES)) for node in images]
    return max(px, default=0) // smallest


def number(node: Node, key: str, default: int = 0) -> int:
    return int(node.get(key, default))


def check_other_files(nodes: Sequence[Node], path: Path) -> None:
    """Raise SlideError for files of other folders, or whose pages may not be followed: tifffile opens all of them."""
    names = {node.get("FileName") for node in nodes if local_name(node).endswith("UUID")} - {None, "", path.name}
    if len(names) > MAX_OTHER_FILES:
        raise damaged(path, f"it names {len(names)} files, expected at most {MAX_OTHER_FILES}")
    for name in sorted(filter(None, names)):
        if "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
            raise damaged(path, "it names a file in another folder")
        beside = path.parent / name
        if beside.is_file():
            check_pages(beside)
        elif beside.exists():
            raise damaged(path, "it names something that is no file")
