"""Whether the pages of a TIFF may be followed, found by walking over them before tifffile does.

tifffile follows chains of pages wherever they lead, and reads the values of all tags that it knows, as often as tags
point to them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wsisum_cli.errors import NotASlideError, SlideError

#: Pages of one file, sub-pages included. Slides have a dozen, stacks of planes a few thousand.
MAX_PAGES = 20_000
#: Tags of all pages together. A page of a slide has some twenty.
MAX_TAGS = 1_000_000
#: Bytes that the values of all tags take together. A slide of 200,000 px a side has 30 MiB of offsets and sizes.
MAX_TAG_BYTES = 1 << 27
MAX_SUBPAGES = 100  # of one page; pyramids have a dozen
MAX_DEPTH = 8  # of sub-pages within sub-pages
MAX_TAGS_OF_PAGE = 4096  # with more, tifffile takes a page for damage
NDPI_TAG = 65420  # of files whose offsets take 8 bytes though they are no BigTIFF
WIDTH, HEIGHT, SUBPAGES = 256, 257, 330
SHORT = 3
#: Bytes of a value, by the type of its tag (TIFF 6.0, and BigTIFF from 16 on).
BYTES_OF_TYPE = np.zeros(1 << 16, np.int64)
BYTES_OF_TYPE[[1, 2, 6, 7]] = 1
BYTES_OF_TYPE[[3, 8]] = 2
BYTES_OF_TYPE[[4, 9, 11, 13]] = 4
BYTES_OF_TYPE[[5, 10, 12, 16, 17, 18]] = 8
#: Tags by which microscopes' stacks are known, none of which is a slide: MetaMorph, Zeiss LSM, FluoView, NIH Image,
#: MicroManager. What tifffile makes of them follows the numbers in them.
STACK_TAGS = (*range(33628, 33632), 34412, 34361, 34362, 43314, 51123)

Size = tuple[int, int]  # width and height in px


@dataclass(frozen=True)
class Layout:
    """How a file stores its pages."""

    order: str  # of bytes: < or >
    big: bool  # BigTIFF
    ndpi: bool

    @property
    def head(self) -> struct.Struct:
        """How many tags a page has."""
        return struct.Struct(self.order + ("Q" if self.big else "H"))

    @property
    def following(self) -> struct.Struct:
        """Where the next page begins."""
        return struct.Struct(self.order + ("Q" if self.big or self.ndpi else "I"))

    @property
    def tag(self) -> np.dtype:
        wide = self.order + ("u8" if self.big else "u4")
        short = self.order + "u2"
        return np.dtype([("code", short), ("type", short), ("count", wide), ("value", wide)])


@dataclass
class Budget:
    """What is left of what all pages may ask for."""

    pages: int = MAX_PAGES
    tags: int = MAX_TAGS
    bytes: int = MAX_TAG_BYTES

    def spend(self, name: str, tags: int, size: int) -> None:
        self.pages, self.tags, self.bytes = self.pages - 1, self.tags - tags, self.bytes - size
        if self.pages < 0:
            raise SlideError(f"{name}: expected a slide of at most {MAX_PAGES} pages, found more")
        if self.tags < 0 or self.bytes < 0:
            raise SlideError(
                f"{name}: damaged TIFF structure, its tags ask for more than {MAX_TAG_BYTES >> 20} MiB; fetch it again"
            )


def check_pages(path: Path) -> list[Size]:
    """The sizes of the pages that follow one another; none for what is no TIFF, which what opens it will say.

    Raises SlideError when they follow each other in a ring, are too many, or ask for too much, and NotASlideError for
    stacks of microscopes. OSError passes.
    """
    with open(path, "rb") as file:
        try:
            offset, layout = read_first(file)
        except (struct.error, ValueError):
            return []
        size = path.stat().st_size
        budget, sizes, seen = Budget(MAX_PAGES, MAX_TAGS, MAX_TAG_BYTES), [], set[int]()
        while 0 < offset < size:
            if offset in seen:
                raise SlideError(f"{path.name}: damaged TIFF structure, its pages lead in a ring; fetch it again")
            seen.add(offset)
            tags, following = read_page(file, offset, layout)
            if not seen - {offset} and np.isin(tags["code"], STACK_TAGS).any():
                raise NotASlideError(f"{path.name}: a stack of images of a microscope, not a slide")
            check_tags(path.name, file, tags, layout, budget, size)
            sizes.append((first_value(tags, WIDTH, layout), first_value(tags, HEIGHT, layout)))
            offset = following
    return sizes


def read_first(file: BinaryIO) -> tuple[int, Layout]:
    """Offset of the first page, and how pages are laid out. Raises struct.error, ValueError."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        raise ValueError("no TIFF")
    (version,) = struct.unpack_from(order + "H", head, 2)
    if version == 43:
        return struct.unpack_from(order + "Q", head, 8)[0], Layout(order, True, False)
    (offset,) = struct.unpack_from(order + "I", head, 4)
    plain = Layout(order, False, False)
    tags, _ = read_page(file, offset, plain)
    return offset, Layout(order, False, order == "<" and NDPI_TAG in tags["code"])


def read_page(file: BinaryIO, offset: int, layout: Layout) -> tuple[np.ndarray, int]:
    """The tags of the page at `offset`, and where the next one begins, 0 for none.

    As tifffile reads it: of a page cut short, the last bytes of the file say where the next one begins.
    """
    none = np.zeros(0, layout.tag)
    file.seek(offset)
    head = file.read(layout.head.size)
    if len(head) < layout.head.size:
        return none, 0
    (count,) = layout.head.unpack(head)
    if count > MAX_TAGS_OF_PAGE:
        return none, 0
    wanted = count * layout.tag.itemsize
    data = file.read(wanted + layout.following.size)
    if len(data) < layout.following.size:
        return none, 0
    following: int = layout.following.unpack(data[-layout.following.size :])[0]
    return np.frombuffer(data, layout.tag, count) if len(data) >= wanted else none, following


def check_tags(
    name: str, file: BinaryIO, tags: np.ndarray, layout: Layout, budget: Budget, size: int, depth: int = 0
) -> None:
    """Take what a page and its sub-pages ask for from the budget. Raises SlideError."""
    wide = bytes_of(tags)
    inline = layout.tag["count"].itemsize
    outside = (wide > inline) & (wide <= size)
    if not layout.ndpi:  # whose offsets go on elsewhere
        outside &= tags["value"] + wide <= size
    budget.spend(name, len(tags), int(wide[outside].sum()))
    if depth > MAX_DEPTH:
        raise SlideError(f"{name}: damaged TIFF structure, its pages lead in a ring; fetch it again")
    for offset in subpages(name, file, tags, layout):
        inner, _ = read_page(file, offset, layout)
        check_tags(name, file, inner, layout, budget, size, depth + 1)


def bytes_of(tags: np.ndarray) -> np.ndarray:
    """Of the values of each tag, as float64: some are larger than any integer."""
    return np.asarray(tags["count"].astype(np.float64) * BYTES_OF_TYPE[tags["type"]])


def subpages(name: str, file: BinaryIO, tags: np.ndarray, layout: Layout) -> list[int]:
    """Where the sub-pages of a page begin. Raises SlideError when they are too many."""
    found = []
    for at in np.flatnonzero(tags["code"] == SUBPAGES):
        each, count = int(BYTES_OF_TYPE[tags["type"][at]]), int(tags["count"][at])
        if each not in (4, 8):
            continue
        if count > MAX_SUBPAGES:
            raise SlideError(f"{name}: expected a page of at most {MAX_SUBPAGES} sub-pages, found {count}")
        data = tags["value"][at : at + 1].tobytes()
        if each * count > len(data):
            file.seek(int(tags["value"][at]))
            data = file.read(each * count)
        found += np.frombuffer(data[: len(data) // each * each], f"{layout.order}u{each}")[:count].tolist()
    return [offset for offset in found if offset >= 8]


def first_value(tags: np.ndarray, code: int, layout: Layout) -> int:
    """The number of a tag; 0 where there is none."""
    found = tags[tags["code"] == code]
    if not len(found):
        return 0
    data = found["value"][:1].tobytes()  # a short number stands first, whatever the order of its bytes
    width = 2 if found[0]["type"] == SHORT else min(4, len(data))
    return int.from_bytes(data[:width], "little" if layout.order == "<" else "big")
