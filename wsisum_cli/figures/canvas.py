"""What figures are drawn on: text, frames, images, lines. pillow lives here."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from wsisum_cli.figures.colour import GREY, HAIRLINE, INK, WHITE, Colour, Scale, as_seen, ramp_colours
from wsisum_cli.figures.layout import SWATCH_ROW, scale_bar
from wsisum_cli.summary.container import writing_aside
from wsisum_cli.summary.reader import Summary

if TYPE_CHECKING:
    from PIL import ImageFont

HALO = 3  # px; of the dark rim around numbers
SMOOTH, DPI = 4, 300  # supersampling of slanted lines; said in the file

Box = Sequence[int]  # left, upper, right, lower px


@dataclass(frozen=True)
class Style:
    """How a line of text is set; it shrinks to fit its place before it is cut."""

    size: int
    smallest: int
    colour: Colour = INK


TITLE, DETAILS, HEADLINE, SMALL = Style(46, 28), Style(24, 15, GREY), Style(23, 14), Style(19, 12, GREY)


class Canvas:
    """A page, or a part of one, that is white at first."""

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
        """One line; `anchor` says, as Pillow has it, what of it lies at `at`: by default where its baseline begins."""
        self._draw.text(at, text, colour, font(size), anchor=anchor)

    def write(self, at: tuple[float, float], text: str, style: Style, width: float) -> None:
        """One line with its baseline beginning at `at`, at most `width` px wide."""
        text, chosen = fitted(text, style, width)
        self._draw.text(at, text, style.colour, chosen, anchor="ls")

    def upright(self, at: tuple[int, int], text: str, style: Style, room: int) -> None:
        """One line from below upwards, its left edge and its middle at `at`, at most `room` px high."""
        from PIL import Image, ImageDraw

        text, chosen = fitted(text, style, room)
        line = Image.new("L", (round(chosen.getlength(text)) + 2, 2 * style.size))
        ImageDraw.Draw(line).text((1, 1.4 * style.size), text, 255, chosen, anchor="ls")
        mask = line.transpose(Image.Transpose.ROTATE_90)
        self._image.paste(style.colour, (at[0], at[1] - mask.height // 2), mask)

    def number(self, corner: tuple[float, float], text: str, size: int) -> None:
        """White in a dark halo, the upper left of both at `corner`; `number_extent` says how large they are."""
        left, upper, *_ = font(size).getbbox(text)
        x, y = corner[0] + HALO - left, corner[1] + HALO - upper
        self._draw.text((x, y), text, WHITE, font(size), stroke_width=HALO, stroke_fill=INK)

    def bar(self, box: Box, colour: Colour) -> None:
        """A filled rectangle."""
        left, upper, right, lower = box
        self._draw.rectangle((left, upper, right - 1, lower - 1), fill=colour)

    def outline(self, box: Box, colour: Colour) -> None:
        """A line of 1 px just outside `box`."""
        left, upper, right, lower = box
        self._draw.rectangle((left - 1, upper - 1, right, lower), outline=colour)

    def frame(self, box: Box, colour: Colour) -> None:
        """A coloured frame between two dark lines, inside `box`."""
        left, upper, right, lower = box
        wide = min(4, max(2, (right - left) // 10))
        self.outline(box, INK)
        self._draw.rectangle((left, upper, right - 1, lower - 1), outline=colour, width=wide)
        if right - left > 4 * wide:
            self._draw.rectangle((left + wide, upper + wide, right - 1 - wide, lower - 1 - wide), outline=INK)

    def leaders(self, lines: np.ndarray) -> None:
        """(L, 4) x0, y0, x1, y1: dark lines with a white core, smoothed by drawing them larger."""
        from PIL import Image, ImageDraw

        for colour, width in ((INK, 4.5), (WHITE, 2.0)) if len(lines) else ():
            mask = Image.new("L", (self.width * SMOOTH, self.height * SMOOTH))
            draw = ImageDraw.Draw(mask)
            for line in (lines * SMOOTH).tolist():
                draw.line(line, 255, round(width * SMOOTH))
            self._image.paste(colour, (0, 0), mask.reduce(SMOOTH))

    def image(self, pixels: np.ndarray, corner: tuple[int, int]) -> None:
        """(H, W, 3) uint8 RGB with its upper left at `corner`."""
        from PIL import Image

        self._image.paste(Image.fromarray(pixels), corner)

    def canvas(self, other: Canvas, corner: tuple[int, int]) -> None:
        self._image.paste(other._image, corner)


def enlarged(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 to this width and height, bicubic, as suits what is mostly enlarged."""
    from PIL import Image

    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def reduced(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 to this width and height, by Lanczos's window, as suits what is mostly made smaller."""
    from PIL import Image

    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))  # the other kind is for no size


def text_width(text: str, size: int) -> float:
    return font(size).getlength(text)


def number_extent(text: str, size: int) -> tuple[float, float]:
    """Width and height of a number in its halo."""
    left, upper, right, lower = font(size).getbbox(text)
    return right - left + 2 * HALO, lower - upper + 2 * HALO


def fitted(text: str, style: Style, width: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """`text` in the largest font in which it is at most `width` px wide; its middle is cut where none is."""
    for size in range(style.size, style.smallest - 1, -1):
        if font(size).getlength(text) <= width:
            return text, font(size)
    smallest = font(style.smallest)
    half = len(text) // 2
    cuts = (f"{text[: half - cut]}…{text[len(text) - half + cut :]}" for cut in range(half + 1))
    return next((short for short in cuts if smallest.getlength(short) <= width), ""), smallest


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as PNG. The same pixels give the same bytes; `path` holds all of it or is untouched."""
    from PIL import Image

    with writing_aside(path) as aside, open(aside, "wb") as file:
        Image.fromarray(pixels).save(file, "PNG", dpi=(DPI, DPI))
        file.flush()
        os.fsync(file.fileno())


def half_blocks(pixels: np.ndarray, columns: int) -> list[list[tuple[Colour, Colour]]]:
    """Rows of `columns` cells for a terminal, each the colours of its upper and its lower half."""
    from PIL import Image

    height, width = pixels.shape[:2]
    columns = max(1, columns)
    rows = max(1, round(height * columns / width / 2))
    small = np.array(Image.fromarray(pixels).resize((columns, 2 * rows), Image.Resampling.BOX)).tolist()
    halves = zip(small[::2], small[1::2], strict=True)
    return [[(tuple(upper), tuple(lower)) for upper, lower in zip(*pair, strict=True)] for pair in halves]


RAMP_WIDTH, RAMP_HEIGHT, TICK = 560, 18, 6  # px


SWATCH, SWATCH_GAP = 24, 34  # px: side; between one swatch's words and the next


@dataclass(frozen=True)
class Swatch:
    """A colour and what it stands for."""

    colour: Colour
    words: str


def draw_scale_bar(canvas: Canvas, at: tuple[int, int], mm: float, room: int) -> None:
    """Under the point `at`, in at most `room` px, where a px is of `mm`."""
    left, lower = at
    length, words = scale_bar(mm, 0.7 * room)
    canvas.bar((left, lower + 18, left + length, lower + 26), INK)
    canvas.write((left, lower + 52), words, SMALL, room)


def draw_scale(canvas: Canvas, corner: tuple[int, int], room: int, scale: Scale, ground: float) -> None:
    """A colour bar with its ticks and name, its right end near `corner`; colours as over that lightness of tissue."""
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
    """How many swatches stand in a row of `room` px, and how wide each column is."""
    words = max((text_width(swatch.words, SMALL.size) for swatch in swatches), default=0.0)
    column = SWATCH + 10 + round(words) + SWATCH_GAP
    return max(1, (room + SWATCH_GAP) // column), column


def draw_swatches(canvas: Canvas, at: tuple[int, int], room: int, swatches: Sequence[Swatch], ground: float) -> None:
    """Row by row from the point `at`; colours as over tissue of lightness `ground`."""
    count, wide = swatch_columns(swatches, room)
    for index, swatch in enumerate(swatches):
        row, column = divmod(index, count)
        left, upper = at[0] + column * wide, at[1] + row * SWATCH_ROW
        box = (left, upper, left + SWATCH, upper + SWATCH)
        canvas.bar(box, as_seen(swatch.colour, ground))
        canvas.outline(box, HAIRLINE)
        canvas.text((left + SWATCH + 10, upper + 19), swatch.words, SMALL.size, GREY)


NOTICE = "A selection of the slide's patches, not the slide. Not for diagnosis."


@dataclass(frozen=True)
class Facts:
    """What the picture says in words, and its frames of reference."""

    name: str
    details: str
    size: tuple[float, float]  # width, height of level 0
    mpp: float
    side: float  # of a patch, level-0 px


def facts_of(summary: Summary) -> Facts:
    source, side = summary.record.source, summary.record.patch.patch_size_level0
    words = "   ·   ".join(details(summary))
    return Facts(plain(source.name), words, (source.width, source.height), source.mpp, side)


def details(summary: Summary) -> Iterator[str]:
    record = summary.record
    yield f"{len(summary.weights):,} of {record.tissue_patches:,} tissue patches"
    yield f"coverage {record.quality.coverage:.3f}"
    before, after = record.source.bytes, summary.file.seek(0, os.SEEK_END)
    if before and after:
        yield f"{after / 1e6:,.1f} MB instead of {before / 1e6:,.1f} MB (ratio {before / after:,.1f})"
    version = f" {record.encoder_card.version}" if record.encoder_card is not None else ""
    yield plain(f"encoder {record.encoder.name}{version}")


def plain(text: str) -> str:
    """`text` in ASCII, as Pillow's own font has little else: accents are dropped, other letters become `?`."""
    letters = unicodedata.normalize("NFKD", " ".join(text.split()))
    kept = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" else "?" for letter in kept)


def percent(weight: float) -> str:
    share = 100 * weight
    return f"{share:.1f} %" if share >= 0.095 or share == 0 else f"{share:.2f} %"
