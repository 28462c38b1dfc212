"""The images that one container holds, and the role of each: the slide, its label, a macro, a thumbnail.

All of them are listed before one is chosen. A lesser image never takes the place of one that cannot be read, and
where the role of an image is not certain the file is refused. Names of images may name a patient: they decide on
roles, and appear in no message.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from wsisum_cli.errors import NotASlideError, SlideError


class Role(StrEnum):
    SLIDE = "slide"
    LABEL = "label"
    MACRO = "macro"  # an overview of the whole glass, which shows the label
    THUMBNAIL = "thumbnail"  # a smaller copy of the slide
    OTHER = "other"  # a mask, a map of focus points, a picture that is none of the above
    UNKNOWN = "unknown"  # neither its name nor its tags tell


@dataclass(frozen=True)
class ContainerImage:
    """One image of a container. A pyramid counts as one image."""

    index: int  # in the container, from 0
    name: str  # as the container calls it; empty where it does not
    width: int  # px
    height: int
    role: Role = Role.UNKNOWN
    axes: str = "YXS"  # one letter a dimension, as tifffile names them
    shape: tuple[int, ...] = ()
    dtype: str = "uint8"
    tiled: bool = True
    reduced: bool = False  # the container says that it is a smaller copy, or associated with another image
    described: bool = False  # the container describes it as an image of its own, as OME-XML does
    pixel_size: tuple[float, str] | None = None  # with its unit, as the container states it

    @property
    def area(self) -> int:
        return self.width * self.height


#: Parts of words beside which a name of a role keeps its meaning, as in `labelimage` or `Makrobild`.
BEFORE = "(?:slide|scan|wsi|glass|barcode)?"
AFTER = "(?:s|e|es|area|image|images|img|scan|photo|picture|pic|view|bild|aufnahme|foto)?"
WORDS: dict[Role, str] = {
    Role.LABEL: "label|lbl|barcode|qr|qrcode|sticker|etikett[a-zåäö]*|étiquette|etiquette|etiqueta|etichetta"
    "|etykiet[a-z]*|beschriftung[a-z]*|nalepka|štítek",
    Role.MACRO: "macro|makro|overview|(?:ü|ue)bersicht[a-z]*|overzicht[a-z]*|[öo]versi[kg]t[a-z]*|ensemble|gross|photo"
    "|photograph|camera|localizer|localiser|macrograph|panoramica|panorámica",
    Role.THUMBNAIL: "thumbnail|thumb|preview|vorschau[a-z]*|miniature|miniatura|aperçu|apercu|anteprima|icon",
    Role.OTHER: "mask|focusmap|map|heatmap|segmentation|annotation|flatfield|darkfield|shading|calibration",
}
#: Scripts that put no space between words.
INSIDE: dict[Role, str] = {
    Role.LABEL: "标签|標籤|ラベル|라벨|этикетк",
    Role.MACRO: "宏观|概览|全景|マクロ|макро",
    Role.THUMBNAIL: "缩略图|縮圖|サムネイル|миниатюр",
}
SLIDE_WORDS = re.compile(
    "(?:scan)?(?:scene|szene|region|roi|section|schnitt|slide|tissue|gewebe|scan|specimen|sample|wsi|core|biopsy)s?"
)
#: What writers call any image that nobody named.
UNSPECIFIC = {"", "image", "img", "series", "bild", "untitled", "page", "ifd", "unknown", "default", "ome", "tif"}
COMPILED = {role: re.compile(f"{BEFORE}(?:{words}){AFTER}") for role, words in WORDS.items()}

MAX_ASSOCIATED = 10_000  # px a side; a label or macro is smaller, whatever it is called
TINY, SMALL = 1 / 64, 1 / 16  # of the area of the largest image
COARSER = 3.0  # times the pixel size of the slide: a macro
SAME_SHAPE = 0.01  # relative difference of two ratios of width to height


def words_of(name: str) -> list[str]:
    """Words in lower case; `LabelImage` and `label_image1` are `label` and `image`."""
    apart = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])", " ", unicodedata.normalize("NFC", name))
    return re.findall(r"[^\W\d_]+", apart.casefold())


def role_of_name(name: str) -> Role:
    """The role that a name tells of, `Role.UNKNOWN` where it tells of none."""
    words = words_of(name)
    for role in (Role.LABEL, Role.MACRO, Role.THUMBNAIL, Role.OTHER):
        if any(COMPILED[role].fullmatch(word) for word in words):
            return role
        if role in INSIDE and re.search(INSIDE[role], name.casefold()):
            return role
    return Role.SLIDE if any(SLIDE_WORDS.fullmatch(word) for word in words) else Role.UNKNOWN


def have_same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes have one ratio of width to height, up to the rounding of the smaller."""
    (width, height), (small_width, small_height) = sorted((a, b), reverse=True)
    tolerance = SAME_SHAPE + 1 / min(small_width, small_height)
    return abs(width * small_height / (height * small_width) - 1) <= tolerance


def decide_roles(images: Sequence[ContainerImage], file_name: str) -> list[ContainerImage]:
    """Every image with its role, none of which is unknown. Raises SlideError where one cannot be told."""
    named = [replace(image, role=role_of_name(image.name)) if image.role is Role.UNKNOWN else image for image in images]
    for image in named:
        if image.role in (Role.LABEL, Role.MACRO, Role.THUMBNAIL) and min(image.width, image.height) > MAX_ASSOCIATED:
            raise undecided(image, named, file_name, f"is called a {image.role} and is too large for one")
    if not any(image.role in (Role.SLIDE, Role.UNKNOWN) for image in named):
        named = [replace(image, role=Role.UNKNOWN) if is_other_by_name(image) else image for image in named]
    unknown = [image for image in named if image.role is Role.UNKNOWN]
    slides = [image for image in named if image.role is Role.SLIDE]
    if unknown and not slides:
        largest = max(unknown, key=lambda image: (image.area, -image.index))
        slides = [replace(largest, role=Role.SLIDE)]
    if not slides:
        return named
    main = max(slides, key=lambda image: (image.area, -image.index))
    decided = []
    for image in named:
        role = main.role if image.index == main.index else image.role
        if role is Role.UNKNOWN:
            role = role_beside(image, main)
        if role is Role.UNKNOWN:
            raise undecided(image, named, file_name, "may be another slide or a label, and is not named")
        if role is Role.SLIDE and not is_scanned_like(image, main):
            raise undecided(image, named, file_name, "is named like a slide and has a far coarser pixel size, or none")
        decided.append(replace(image, role=role))
    return decided


def is_other_by_name(image: ContainerImage) -> bool:
    """Whether words such as `mask` or `map` alone keep an image from being a slide: names of studies hold them too."""
    return image.role is Role.OTHER and role_of_name(image.name) is Role.OTHER


def role_beside(image: ContainerImage, main: ContainerImage) -> Role:
    """The role of an image without a telling name beside the slide `main`; unknown where it is not certain."""
    smaller = image.area < main.area
    same_shape = have_same_shape((image.width, image.height), (main.width, main.height))
    coarser = times_coarser(image, main)
    if smaller and same_shape and (image.reduced or is_copy(image, main) or coarser > 1.5):
        return Role.THUMBNAIL
    if smaller and (image.reduced or coarser >= COARSER):
        return Role.MACRO
    sized = image.pixel_size is not None and main.pixel_size is not None
    if share_a_name(image.name, main.name) and sized and image.area > SMALL * main.area:
        return Role.SLIDE
    stated = image.pixel_size is not None
    tiny = image.area <= TINY * main.area and not stated and (main.pixel_size is not None or not image.described)
    if tiny or (not image.tiled and image.area <= SMALL * main.area):
        return Role.OTHER
    return Role.UNKNOWN


def is_copy(image: ContainerImage, main: ContainerImage) -> bool:
    """Whether an image of the shape of `main` is a level or thumbnail of it: nothing describes it as more.

    Levels are smaller by whole numbers; a tiled image that is not may be another slide.
    """
    times = main.width / image.width
    whole = round(times) >= 2 and abs(times - round(times)) <= 0.02 * times
    return not image.described and (whole or not image.tiled)


def is_scanned_like(image: ContainerImage, main: ContainerImage) -> bool:
    """Whether the pixel sizes of two slides are both stated and of one order, or both not stated."""
    both = (image.pixel_size is None) == (main.pixel_size is None)
    return both and 1 / COARSER < times_coarser(image, main) < COARSER


def times_coarser(image: ContainerImage, main: ContainerImage) -> float:
    """Pixel size of `image` over that of `main`; 1 where either is not stated, or in another unit."""
    if image.pixel_size is None or main.pixel_size is None or image.pixel_size[1] != main.pixel_size[1]:
        return 1.0
    return image.pixel_size[0] / main.pixel_size[0]


def share_a_name(a: str, b: str) -> bool:
    """Whether two names differ in their numbers alone and are no names that writers give by default."""
    specific = set(words_of(a)) - UNSPECIFIC
    return bool(specific) and re.sub(r"\d+", "#", a) == re.sub(r"\d+", "#", b)


def undecided(image: ContainerImage, images: Sequence[ContainerImage], file_name: str, why: str) -> SlideError:
    return SlideError(
        f"{file_name}: holds {len(images)} images, of which number {image.index + 1} ({image.width} x {image.height} "
        f"px) {why}; export the slide into a file of its own, or name the images (slide, label, macro)",
        "several images",
    )


def choose_slides(images: Sequence[ContainerImage], file_name: str) -> list[ContainerImage]:
    """The images that are slides, in the order of the container; at least one.

    Raises NotASlideError where all are labels, macros and the like, SlideError where that cannot be told.
    """
    slides = [image for image in decide_roles(images, file_name) if image.role is Role.SLIDE]
    if not slides:
        raise NotASlideError(
            f"{file_name}: holds label and macro images only, by their names; if one of them "
            "is the slide, export it under another name",
            "label or macro image",
        )
    return slides
