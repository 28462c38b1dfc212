"""The canvas for figures: text, frames, images, lines. The only room that imports pillow."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from wsisum_cli.figures.colour import GREY, HAIRLINE, INK, LUMA, WHITE, Colour, Scale, as_seen, ramp_colours
from wsisum_cli.figures.layout import SWATCH_ROW, Tissue, leaders, place_labels, scale_bar
from wsisum_cli.quality import verdict
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.container import writing_aside
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.standing import tissue_words

if TYPE_CHECKING:
    from PIL import ImageFont

HALO = 3  # px, dark rim around numbers
SMOOTH, DPI = 4, 300  # supersampling of slanted lines; resolution stated in the file

Box = Sequence[int]  # left, upper, right, lower px
Boxes = np.ndarray  # (N, 4) of them


@dataclass(frozen=True)
class Style:
    """Style of a line of text, which shrinks to `smallest` before it is cut."""

    size: int
    smallest: int
    colour: Colour = INK


TITLE, DETAILS, HEADLINE, SMALL = Style(46, 28), Style(24, 15, GREY), Style(23, 14), Style(19, 12, GREY)


class Canvas:
    """A page or part of one, initially white."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        self.width, self.height = width, height
        self._image = Image.new("RGB", (width, height), WHITE)
        self._draw = ImageDraw.Draw(self._image)

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return np.array(self._image)

    def text(self, at: tuple[float, float], text: str, size: int, colour: Colour = INK, anchor: str = "ls") -> None:
        """Draw one line; `anchor`, as in Pillow, is the point placed at `at`, by default the start of the baseline."""
        self._draw.text(at, text, colour, font(size), anchor=anchor)

    def write(self, at: tuple[float, float], text: str, style: Style, width: float, anchor: str = "ls") -> None:
        """Draw one line, at most `width` px wide, with its `anchor` at `at`, by default the start of the baseline."""
        text, face = fitted(text, style, width)
        self._draw.text(at, text, style.colour, face, anchor=anchor)

    def upright(self, at: tuple[int, int], text: str, style: Style, room: int) -> None:
        """Draw one line rotated upwards, with its left edge and middle at `at`, at most `room` px high."""
        from PIL import Image, ImageDraw

        text, face = fitted(text, style, room)
        line = Image.new("L", (round(face.getlength(text)) + 2, 2 * style.size))
        ImageDraw.Draw(line).text((1, 1.4 * style.size), text, 255, face, anchor="ls")
        mask = line.transpose(Image.Transpose.ROTATE_90)
        self._image.paste(style.colour, (at[0], at[1] - mask.height // 2), mask)

    def number(self, corner: tuple[float, float], text: str, size: int, colour: Colour = WHITE) -> None:
        """Draw a light number in a dark halo, upper left at `corner`; `number_extent` gives the size."""
        left, upper, *_ = font(size).getbbox(text)
        x, y = corner[0] + HALO - left, corner[1] + HALO - upper
        self._draw.text((x, y), text, colour, font(size), stroke_width=HALO, stroke_fill=INK)

    def bar(self, box: Box, colour: Colour) -> None:
        """Draw a filled rectangle."""
        left, upper, right, lower = box
        self._draw.rectangle((left, upper, right - 1, lower - 1), fill=colour)

    def outline(self, box: Box, colour: Colour) -> None:
        """Draw a 1 px line just outside `box`."""
        left, upper, right, lower = box
        self._draw.rectangle((left - 1, upper - 1, right, lower), outline=colour)

    def frame(self, box: Box, colour: Colour) -> None:
        """Draw a coloured frame between two dark lines, inside `box`."""
        left, upper, right, lower = box
        wide = min(4, max(2, (right - left) // 10))
        self.outline(box, INK)
        self._draw.rectangle((left, upper, right - 1, lower - 1), outline=colour, width=wide)
        if right - left > 4 * wide:
            self._draw.rectangle((left + wide, upper + wide, right - 1 - wide, lower - 1 - wide), outline=INK)

    def leaders(self, lines: np.ndarray) -> None:
        """Draw lines (L, 4) x0, y0, x1, y1, dark with a white core, antialiased by supersampling."""
        from PIL import Image, ImageDraw

        for colour, width in ((INK, 4.5), (WHITE, 2.0)) if len(lines) else ():
            mask = Image.new("L", (self.width * SMOOTH, self.height * SMOOTH))
            draw = ImageDraw.Draw(mask)
            for line in (lines * SMOOTH).tolist():
                draw.line(line, 255, round(width * SMOOTH))
            self._image.paste(colour, (0, 0), mask.reduce(SMOOTH))

    def image(self, pixels: np.ndarray, corner: tuple[int, int]) -> None:
        """Paste (H, W, 3) uint8 RGB with its upper left at `corner`."""
        from PIL import Image

        self._image.paste(Image.fromarray(pixels), corner)

    def canvas(self, other: Canvas, corner: tuple[int, int]) -> None:
        self._image.paste(other._image, corner)


def enlarged(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) uint8 to this width and height, bicubic, best for enlarging."""
    from PIL import Image

    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def reduced(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) uint8 to this width and height with Lanczos, best for reducing."""
    from PIL import Image

    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) uint8 to this width and height, by what is best for that."""
    return (enlarged if pixels.shape[1] < size[0] else reduced)(pixels, size)


def part(pixels: np.ndarray, box: Sequence[float], side: int, beyond: Colour) -> np.ndarray:
    """Enlarge a square `box` of (H, W, 3) uint8 pixels, in fractions of px, to (side, side, 3).

    Off the pixels, which the box must touch, it is `beyond`. Linear: no edge appears that the pixels lack.
    """
    from PIL import Image

    square, limit = np.asarray(box, float), np.tile(pixels.shape[1::-1], 2)
    inside = np.clip(square, 0, limit)
    origin, zoom = np.tile(square[:2], 2), side / np.tile(square[2:] - square[:2], 2)
    left, upper, right, lower = ((inside - origin) * zoom).round().astype(int).tolist()
    first, last = np.floor(inside[:2]).astype(int), np.ceil(inside[2:]).astype(int)
    cut = Image.fromarray(np.ascontiguousarray(pixels[first[1] : last[1], first[0] : last[0]]))
    where = tuple((inside - np.tile(first, 2)).tolist())
    image = np.full((side, side, 3), beyond, np.uint8)
    found = cut.resize((right - left, lower - upper), Image.Resampling.BILINEAR, where)
    image[upper:lower, left:right] = np.asarray(found)
    return image


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))  # the other type has no size


def text_width(text: str, size: int) -> float:
    return font(size).getlength(text)


def number_extent(text: str, size: int) -> tuple[float, float]:
    """Width and height of a number in its halo."""
    left, upper, right, lower = font(size).getbbox(text)
    return right - left + 2 * HALO, lower - upper + 2 * HALO


def fitted(text: str, style: Style, width: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """Fit `text` into `width` px: the largest font that fits, or else the smallest with the middle of the text cut."""
    for size in range(style.size, style.smallest - 1, -1):
        if font(size).getlength(text) <= width:
            return text, font(size)
    smallest = font(style.smallest)
    half = len(text) // 2
    cuts = (f"{text[: half - cut]}…{text[len(text) - half + cut :]}" for cut in range(half + 1))
    return next((short for short in cuts if smallest.getlength(short) <= width), ""), smallest


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, atomically. The same pixels give the same bytes."""
    from PIL import Image

    with writing_aside(path) as aside, open(aside, "wb") as file:
        Image.fromarray(pixels).save(file, "PNG", dpi=(DPI, DPI))
        file.flush()
        os.fsync(file.fileno())


def as_png(pixels: np.ndarray) -> bytes:
    """(H, W, 4) uint8 RGBA as PNG. The same pixels give the same bytes."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def half_blocks(pixels: np.ndarray, columns: int) -> list[list[tuple[Colour, Colour]]]:
    """Rows of `columns` terminal cells, each with the colours of its upper and lower half."""
    from PIL import Image

    height, width = pixels.shape[:2]
    columns = max(1, columns)
    rows = max(1, round(height * columns / width / 2))
    small = np.array(Image.fromarray(pixels).resize((columns, 2 * rows), Image.Resampling.BOX)).tolist()
    halves = zip(small[::2], small[1::2], strict=True)
    return [[(tuple(upper), tuple(lower)) for upper, lower in zip(*pair, strict=True)] for pair in halves]


RAMP_WIDTH, RAMP_HEIGHT, TICK = 560, 18, 6  # px


SWATCH, SWATCH_GAP = 24, 34  # px: side; gap between a swatch's text and the next swatch


GLASS = 228  # lightness 0..255 from which a pixel of an overview is glass


@dataclass(frozen=True)
class Swatch:
    """A colour and its meaning, with a letter on the colour where there is a `mark`."""

    colour: Colour
    words: str
    mark: str = ""


@dataclass(frozen=True)
class Label:
    """Text that names a patch or a region on an overview."""

    text: str
    box: Box  # px of the canvas, of what it names
    colour: Colour = WHITE


def draw_labels(
    canvas: Canvas, labels: Sequence[Label], size: int, panel: Box, tissue: Tissue, others: Boxes | None = None
) -> None:
    """Draw labels in dark haloes, in or near their boxes, off the tissue where glass is near, with leader lines.

    They stay on the `panel`, of which `tissue` tells where it shows tissue; `others` (M, 4) are boxes without labels.
    """
    if not labels:
        return
    corner, size_of_panel = np.array(panel[:2]), (panel[2] - panel[0], panel[3] - panel[1])
    boxes = np.array([label.box for label in labels], float) - np.tile(corner, 2)
    sizes = np.array([number_extent(label.text, size) for label in labels])
    unlabelled = None if others is None else others - np.tile(corner, 2)
    places = place_labels(boxes, sizes, size_of_panel, tissue, unlabelled)
    canvas.leaders(leaders(boxes, places, sizes) + np.tile(corner, 2))
    for label, place in zip(labels, (places + corner).tolist(), strict=True):
        canvas.number(place, label.text, size, label.colour)


def find_tissue(pixels: np.ndarray, corner: tuple[int, int], panel: Box) -> Tissue:
    """Where a panel shows tissue that has the (H, W, 3) uint8 `pixels` at `corner`, as px of the canvas."""
    mask = np.zeros((panel[3] - panel[1], panel[2] - panel[0]), bool)
    left, upper = corner[0] - panel[0], corner[1] - panel[1]
    high, wide = pixels.shape[:2]
    mask[upper : upper + high, left : left + wide] = pixels @ LUMA < GLASS
    return Tissue(mask)


def draw_scale_bar(canvas: Canvas, at: tuple[int, int], mm: float, room: int) -> None:
    """Draw a scale bar below `at`, at most `room` px wide, for px of `mm` each."""
    left, lower = at
    length, words = scale_bar(mm, 0.7 * room)
    canvas.bar((left, lower + 18, left + length, lower + 26), INK)
    canvas.write((left, lower + 52), words, SMALL, room)


def draw_scale(canvas: Canvas, corner: tuple[int, int], room: int, scale: Scale, ground: float) -> None:
    """Draw a colour bar with ticks and name, right end near `corner`; colours as over tissue of lightness `ground`."""
    half = round(text_width(scale.words[-1], SMALL.size) / 2)
    wide = min(RAMP_WIDTH, room - half)
    left, upper = corner[0] - half - wide, corner[1] + 18
    for x, colour in enumerate(ramp_colours((np.arange(wide) + 0.5) / wide, scale.ramp), left):
        canvas.bar((x, upper, x + 1, upper + RAMP_HEIGHT), as_seen(colour, ground))
    lower = upper + RAMP_HEIGHT
    for share, words in zip(scale.share(np.array(scale.ticks)).tolist(), scale.words, strict=True):
        x = left + min(round(share * wide), wide - 1)
        canvas.bar((x, lower, x + 1, lower + TICK), INK)
        canvas.text((x, lower + TICK + 20), words, SMALL.size, GREY, "ms")
    canvas.text((left + wide / 2, lower + TICK + 46), scale.name, SMALL.size, GREY, "ms")


def swatch_columns(swatches: Sequence[Swatch], room: int) -> tuple[int, int]:
    """Number of swatches per row of `room` px, and the column width."""
    words = max((text_width(swatch.words, SMALL.size) for swatch in swatches), default=0.0)
    column = SWATCH + 10 + round(words) + SWATCH_GAP
    return max(1, (room + SWATCH_GAP) // column), column


def draw_swatches(
    canvas: Canvas, at: tuple[int, int], room: int, swatches: Sequence[Swatch], ground: float | None
) -> None:
    """Draw swatches row by row from `at`; colours as over tissue of lightness `ground`, or as they are if None."""
    count, wide = swatch_columns(swatches, room)
    for index, swatch in enumerate(swatches):
        row, column = divmod(index, count)
        left, upper = at[0] + column * wide, at[1] + row * SWATCH_ROW
        box = (left, upper, left + SWATCH, upper + SWATCH)
        canvas.bar(box, swatch.colour if ground is None else as_seen(swatch.colour, ground))
        canvas.outline(box, HAIRLINE)
        canvas.text((left + SWATCH / 2, upper + 19), swatch.mark, SMALL.size, INK, "ms")
        canvas.text((left + SWATCH + 10, upper + 19), swatch.words, SMALL.size, GREY)


NOTICE = "A selection of the slide's patches, not the slide. Not for diagnosis."


@dataclass(frozen=True)
class Facts:
    """The text of a figure, and its frames of reference."""

    name: str
    details: str
    size: tuple[float, float]  # width, height of level 0
    mpp: float
    side: float  # of a patch, level-0 px
    stored_mpp: float  # of the stored pixels of the patches


def facts_of(summary: Summary, title: str | None = None) -> Facts:
    """`title` takes the place of the slide's name, unless it is None."""
    source, side = summary.record.source, summary.record.patch.patch_size_level0
    words, name = "   ·   ".join(details(summary)), plain(source.name if title is None else title)
    return Facts(name, words, (source.width, source.height), source.mpp, side, stored_mpp(summary.record))


def stored_mpp(record: Attributes) -> float:
    """µm per stored px: of the level that copied tiles come from, or of a patch as the encoder sees it."""
    reading = record.patch.reading
    return record.source.mpp * reading.scale / reading.shrink if record.pixels.mode == "source" else record.patch.mpp


def details(summary: Summary) -> Iterator[str]:
    record = summary.record
    yield f"{len(summary.weights):,} of {record.tissue_patches:,} tissue patches"
    if record.represented is not None:
        share, whole = verdict.percent(record.represented.share), area(record.represented.tissue_mm2)
        yield f"{share} of {whole} of {tissue_words(record)} represented"
    else:
        yield f"coverage {record.quality.coverage:.3f}"
    before, after = record.source.bytes, summary.file.seek(0, os.SEEK_END)
    if before and after:
        yield f"{after / 1e6:,.1f} MB instead of {before / 1e6:,.1f} MB (ratio {before / after:,.1f})"
    version = f" {record.encoder_card.version}" if record.encoder_card is not None else ""
    yield plain(f"{'' if record.encoder.name == 'encoder' else 'encoder '}{record.encoder.name}{version}")


def plain(text: str) -> str:
    """Convert `text` to ASCII, since Pillow's own font has little else: drop accents, replace other letters by `?`."""
    letters = unicodedata.normalize("NFKD", " ".join(text.split()))
    kept = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" else "?" for letter in kept)


def area(mm2: float) -> str:
    """An area as elsewhere, without the raised 2, which Pillow's own font lacks."""
    return verdict.area(mm2).replace("mm²", "sq mm")


def patch_numbers(weights: np.ndarray) -> np.ndarray:
    """The number (K,) of each kept patch: its rank by falling weight, from 1; ties keep the order of picking."""
    numbers = np.empty(len(weights), int)
    numbers[np.argsort(-np.asarray(weights, float), kind="stable")] = np.arange(1, len(weights) + 1)
    return numbers


def percent(weight: float) -> str:
    share = 100 * weight
    return f"{share:.1f} %" if share >= 0.095 or share == 0 else f"{share:.2f} %"
