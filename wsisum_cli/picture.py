"""A summary as one picture: where the kept patches lie, and what they show. After the figures of the WSISum paper.

Left the overview with every kept patch as a numbered frame, beside it the patches themselves, heaviest first. The
page is a grid of columns; the overview takes the first of them, and patches for which there is no room beside it
flow on beneath.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from wsisum_cli.container import writing_aside
from wsisum_cli.errors import SummaryError
from wsisum_cli.summary import Summary

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

INK: Colour = (28, 30, 34)
GREY: Colour = (104, 108, 116)
HAIRLINE: Colour = (208, 210, 214)
WHITE: Colour = (255, 255, 255)
#: From light to heavy. Its lightness rises throughout, and no stain of the field has these hues.
RAMP = np.array([(24, 78, 160), (0, 134, 168), (24, 176, 112), (150, 208, 48), (255, 226, 32)], float)

MARGIN, GAP, GUTTER, ROW_GAP = 80, 18, 56, 20  # px
HEADER, HEADING, FOOTER = 144, 46, 64  # px high: title, the line over each panel, the last line
TOP = HEADER + HEADING
PAD = 28  # px of white around the overview, into which numbers may run
LEGEND = 78  # px high, under the overview: scale bar and colours
MIN_THUMB, MAX_THUMB = 96, 400  # px
MIN_PANEL, MAX_PANEL = 420, 0.62  # px; share of the page's width
MAX_MAP = 2000  # px high
MAX_ZOOM, SMALL_MAP = 8, 480  # an overview is enlarged eightfold, or more where it stays smaller than this
STACKED = 2.5  # an overview this many times as wide as high may have the whole width
MIN_BOX, HALO = 10, 3  # px; of the dark rim around numbers
DIRECTIONS, DISTANCES = 16, (0.0, 0.6, 1.2, 2.0, 3.0, 4.5, 6.5)  # of numbers from their boxes, in their heights
SMOOTH, DPI = 4, 300  # supersampling of slanted lines; said in the file
NOTICE = "A selection of the slide's patches, not the slide. Not for diagnosis."


@dataclass(frozen=True)
class Entry:
    """One kept patch. They are numbered by falling weight, from 1."""

    number: int
    row: int  # of the K patches in the file
    x: int  # level-0 px
    y: int
    weight: float
    colour: Colour


@dataclass(frozen=True)
class Facts:
    """What the picture says in words, and its frames of reference."""

    name: str
    details: str
    size: tuple[float, float]  # width, height of level 0
    mpp: float
    side: float  # of a patch, level-0 px


@dataclass(frozen=True)
class Plan:
    """The page as a grid: `columns` wide, of which the overview takes the first `panel_columns`."""

    width: int
    count: int
    columns: int
    panel_columns: int
    panel_width: int  # px
    flows: bool  # whether patches that find no room beside the overview go on beneath it
    thumb: int
    map_size: tuple[int, int]  # px of the scaled overview

    @property
    def caption(self) -> int:
        """Font size under the patches."""
        return min(22, max(14, round(self.thumb / 8.5)))

    @property
    def cell_height(self) -> int:
        return self.thumb + round(2.7 * self.caption) + ROW_GAP

    @property
    def panel(self) -> tuple[int, int, int, int]:
        """Left, upper, right, lower of the framed overview."""
        return MARGIN, TOP, MARGIN + self.panel_width, TOP + self.map_size[1] + 2 * PAD

    @property
    def beside(self) -> tuple[int, int]:
        """Columns and rows of patches beside the overview; the rest of the patches go on beneath."""
        columns = self.columns - self.panel_columns
        needed = math.ceil(self.count / columns) if columns else 0
        level = round((self.panel[3] + LEGEND - TOP) / self.cell_height)
        return columns, min(needed, max(1, level)) if self.flows else needed

    @property
    def beneath(self) -> int:
        """The page's px at which the patches beneath the overview begin."""
        columns, rows = self.beside
        return max(self.panel[3] + LEGEND, TOP + rows * self.cell_height) + (0 if columns else HEADING)

    @property
    def height(self) -> int:
        more = max(0, self.count - math.prod(self.beside))
        return self.beneath + math.ceil(more / self.columns) * self.cell_height + FOOTER

    @property
    def score(self) -> float:
        """How well the page is used: full, the overview large, lying, and all patches beside the overview."""
        page = self.width * self.height
        overview, patches = self.map_size[0] * self.map_size[1] / page, self.count * self.thumb**2 / page
        tall = max(0.0, self.height / self.width - 0.75)
        return patches + overview + min(overview, 0.4) - 0.15 * self.flows - 0.4 * tall

    def cell(self, index: int) -> tuple[int, int]:
        """Upper left px of patch `index`."""
        columns, rows = self.beside
        if index < columns * rows:
            row, column = divmod(index, columns)
            column, top = column + self.panel_columns, TOP
        else:
            row, column = divmod(index - columns * rows, self.columns)
            top = self.beneath
        return MARGIN + column * (self.thumb + GAP), top + row * self.cell_height


def draw_summary(summary: Summary) -> np.ndarray:
    """(H, W, 3) uint8 RGB, 2000 to 3000 px wide: the overview with numbered frames, and the patches by weight.

    The same summary gives the same pixels. Raises SummaryError when what it shows is missing or damaged.
    """
    from PIL import Image

    facts, entries, overview = facts_of(summary), rank(summary), summary.overview
    plan = arrange(len(entries), (overview.shape[1], overview.shape[0]))
    page = Image.new("RGB", (plan.width, plan.height), WHITE)
    draw_words(page, plan, facts)
    draw_overview(page, plan, facts, entries, overview)
    draw_legend(page, plan, facts, entries)
    draw_patches(page, plan, entries, summary.patches)
    return np.array(page)


def facts_of(summary: Summary) -> Facts:
    attributes = summary.attributes
    try:
        source, patch = attributes["source"], attributes["patch"]
        sizes = (source["width"], source["height"], source["mpp"], patch["patch_size_level0"])
        width, height, mpp, side = map(float, sizes)
        if not all(0 < value < math.inf for value in (width, height, mpp, side)):
            raise ValueError(f"sizes {sizes}")
        words = "   ·   ".join(details(summary, attributes))
        return Facts(plain(str(source["name"])), words, (width, height), mpp, side)
    except (KeyError, TypeError, ValueError) as error:
        raise SummaryError(f"{summary.name}: the attributes lack what the picture shows ({error})") from error


def details(summary: Summary, attributes: dict[str, Any]) -> Iterator[str]:
    yield f"{len(summary.weights):,} of {attributes['tissue_patches']:,} tissue patches"
    yield f"coverage {attributes['quality']['coverage']:.3f}"
    before, after = attributes["source"].get("bytes"), summary.file.seek(0, os.SEEK_END)
    if before and after:
        yield f"{after / 1e6:,.1f} MB instead of {before / 1e6:,.1f} MB (ratio {before / after:,.1f})"
    encoder = attributes["encoder"]
    yield plain(" ".join(["encoder", *(str(encoder[key]) for key in ("name", "version") if encoder.get(key))]))


def plain(text: str) -> str:
    """`text` in ASCII, as Pillow's own font has little else: accents are dropped, other letters become `?`."""
    letters = unicodedata.normalize("NFKD", " ".join(text.split()))
    kept = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" else "?" for letter in kept)


def rank(summary: Summary) -> list[Entry]:
    """The kept patches, heaviest first; the selector's order decides between equals. Raises SummaryError."""
    weights = np.asarray(summary.weights, float)
    if not 0 < len(weights) == len(summary.coords) == len(summary.patches) or not np.isfinite(weights).all():
        raise SummaryError(f"{summary.name}: patches, coords and weights do not belong together; verify the file")
    colours = colours_of(weights)
    order = np.argsort(-weights, kind="stable").tolist()
    coords, shares = summary.coords.tolist(), weights.tolist()
    return [Entry(i, row, coords[row][0], coords[row][1], shares[row], colours[row]) for i, row in enumerate(order, 1)]


def colours_of(weights: np.ndarray) -> list[Colour]:
    """By the logarithm, because few patches stand for much of the tissue and many for little."""
    scaled = np.log(np.maximum(weights, 1e-9))
    low, high = scaled.min(), scaled.max()
    return ramp_colours((scaled - low) / (high - low) if high > low else np.ones(len(weights)))


def ramp_colours(shares: np.ndarray) -> list[Colour]:
    """Colours at 0..1 of the ramp."""
    at = np.linspace(0, 1, len(RAMP))
    mixed = np.stack([np.interp(shares, at, channel) for channel in RAMP.T], axis=1).round().astype(int)
    return [(red, green, blue) for red, green, blue in mixed.tolist()]


def arrange(count: int, overview: tuple[int, int]) -> Plan:
    """The best page for `count` patches and an overview of this width and height."""
    width = 2000 if count <= 6 else 2400 if count <= 72 else 3000
    return max(plans(width, count, overview), key=lambda plan: plan.score)


def plans(width: int, count: int, overview: tuple[int, int]) -> Iterator[Plan]:
    content = width - 2 * MARGIN
    for columns in range(3, (content + GAP) // (MIN_THUMB + GAP) + 1):
        thumb = (content + GAP) // columns - GAP
        for taken in range(1, columns + 1):
            panel = taken * (thumb + GAP) - (GAP if taken == columns else GUTTER)
            beside = MIN_PANEL <= panel <= MAX_PANEL * content
            stacked = taken == columns and overview[0] >= STACKED * overview[1]
            if thumb <= MAX_THUMB and (beside or stacked):
                for flows in (False, True):
                    map_size = fit_map(overview, panel - 2 * PAD)
                    yield Plan(width, count, columns, taken, panel, flows, thumb, map_size)


def fit_map(overview: tuple[int, int], width: int) -> tuple[int, int]:
    """The overview's size on the page, where `width` px are free."""
    zoom = min(width / overview[0], MAX_MAP / overview[1], max(MAX_ZOOM, SMALL_MAP / max(overview)))
    return max(1, round(overview[0] * zoom)), max(1, round(overview[1] * zoom))


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))  # the other kind is for no size


@dataclass(frozen=True)
class Style:
    """How a line of text is set; it shrinks to fit its place before it is cut."""

    size: int
    smallest: int
    colour: Colour = INK


TITLE, DETAILS, HEADLINE, SMALL = Style(46, 28), Style(24, 15, GREY), Style(23, 14), Style(19, 12, GREY)


def write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, style: Style, width: float) -> None:
    """One line with its baseline beginning at `at`, at most `width` px wide."""
    text, chosen = fitted(text, style, width)
    draw.text(at, text, style.colour, chosen, anchor="ls")


def fitted(text: str, style: Style, width: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """`text` in the largest font in which it is at most `width` px wide; its middle is cut where none is."""
    for size in range(style.size, style.smallest - 1, -1):
        if font(size).getlength(text) <= width:
            return text, font(size)
    smallest = font(style.smallest)
    half = len(text) // 2
    cuts = (f"{text[: half - cut]}…{text[len(text) - half + cut :]}" for cut in range(half + 1))
    return next((short for short in cuts if smallest.getlength(short) <= width), ""), smallest


def draw_words(page: Image.Image, plan: Plan, facts: Facts) -> None:
    """Title, panel headings, notice."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(page)
    content = plan.width - 2 * MARGIN
    write(draw, (MARGIN, 84), facts.name, TITLE, content)
    write(draw, (MARGIN, 128), facts.details, DETAILS, content)
    write(draw, (MARGIN, TOP - 14), "Where the kept patches lie", HEADLINE, plan.panel_width)
    x, y = plan.cell(0)
    words = f"Kept patches by weight, each {facts.side * facts.mpp / 1000:.2g} mm wide; x, y in level-0 px"
    write(draw, (x, y - 14), words, HEADLINE, plan.width - MARGIN - x)
    write(draw, (MARGIN, plan.height - 40), NOTICE, SMALL, content)


def draw_overview(page: Image.Image, plan: Plan, facts: Facts, entries: Sequence[Entry], overview: np.ndarray) -> None:
    """The framed overview with a numbered frame for each patch."""
    from PIL import Image, ImageDraw

    left, upper, right, lower = plan.panel
    panel = Image.new("RGB", (right - left, lower - upper), WHITE)
    corner = ((panel.width - plan.map_size[0]) // 2, PAD)
    panel.paste(Image.fromarray(overview).resize(plan.map_size, Image.Resampling.BICUBIC), corner)
    boxes = boxes_of(plan, facts, entries, corner)
    for entry, box in reversed(list(zip(entries, boxes.tolist(), strict=True))):  # the heaviest on top
        draw_frame(ImageDraw.Draw(panel), box, entry.colour)
    draw_numbers(panel, boxes)
    page.paste(panel, (left, upper))
    ImageDraw.Draw(page).rectangle((left - 1, upper - 1, right, lower), outline=HAIRLINE)


def boxes_of(plan: Plan, facts: Facts, entries: Sequence[Entry], corner: tuple[int, int]) -> np.ndarray:
    """(K, 4) int left, upper, right, lower px in the panel, each side at least `MIN_BOX`."""
    scale = np.array(plan.map_size) / facts.size
    coords = np.array([(entry.x, entry.y) for entry in entries], float)
    side = np.maximum(np.minimum(facts.side * scale, plan.map_size), MIN_BOX)
    upper_left = np.round((coords + facts.side / 2) * scale - side / 2)
    upper_left = np.clip(upper_left, -side, plan.map_size)  # a damaged file may say anything
    boxes = np.hstack([upper_left, upper_left + np.round(side)]).astype(int)
    return np.asarray(boxes + np.tile(corner, 2))


def draw_frame(draw: ImageDraw.ImageDraw, box: Sequence[int], colour: Colour) -> None:
    """A coloured frame between two dark lines, inside `box`."""
    left, upper, right, lower = box
    wide = min(4, max(2, (right - left) // 10))
    draw.rectangle((left - 1, upper - 1, right, lower), outline=INK)
    draw.rectangle((left, upper, right - 1, lower - 1), outline=colour, width=wide)
    if right - left > 4 * wide:
        draw.rectangle((left + wide, upper + wide, right - 1 - wide, lower - 1 - wide), outline=INK)


def draw_numbers(panel: Image.Image, boxes: np.ndarray) -> None:
    """1 to K in white with a dark halo, in or near their boxes, with a leader where they lie apart."""
    from PIL import ImageDraw

    used = font(number_size(len(boxes), int(boxes[0, 2] - boxes[0, 0])))
    texts = [str(number + 1) for number in range(len(boxes))]
    inked = [used.getbbox(text) for text in texts]
    sizes = np.array([(right - left, lower - upper) for left, upper, right, lower in inked]) + 2 * HALO
    places = place_labels(boxes.astype(float), sizes, (panel.width, panel.height))
    draw_leaders(panel, leaders(boxes, places, sizes))
    draw = ImageDraw.Draw(panel)
    for text, (x, y), (left, upper, *_) in zip(texts, places.tolist(), inked, strict=True):
        draw.text((x + HALO - left, y + HALO - upper), text, WHITE, used, stroke_width=HALO, stroke_fill=INK)


def number_size(count: int, side: int) -> int:
    """Font size: smaller for many numbers, and smaller still where so they fit into boxes of `side` px."""
    if count <= 72:
        return 28 if count <= 36 else 24
    sizes = range(20 if count <= 140 else 18, 15, -1)
    return next((size for size in sizes if font(size).getlength(str(count)) + 2 * HALO <= side), sizes[0])


def place_labels(boxes: np.ndarray, sizes: np.ndarray, panel: tuple[int, int]) -> np.ndarray:
    """(K, 2) int upper left of labels of `sizes` (K, 2): all in their (K, 4) boxes or all beside, as covers less."""
    beside, beside_cost = place_beside(boxes, sizes, panel)
    inside, inside_cost = place_inside(boxes, sizes)
    return (inside if inside_cost < beside_cost else beside).round().astype(int)


def place_inside(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, float]:
    """(K, 2) places in the boxes' upper left corners, and their cost."""
    room = boxes[:, 2:] - boxes[:, :2] - sizes
    if room.min() < 0:
        return boxes[:, :2], math.inf
    corners = boxes[:, :2] + np.minimum(4, room / 2)
    labels, areas = np.hstack([corners, corners + sizes]), sizes.prod(axis=1)
    covered = overlaps(labels, boxes).sum(axis=1) / np.prod(room + sizes, axis=1)
    crowded = overlaps(labels, labels).sum(axis=1) / areas - 1  # each overlaps itself
    return corners, float((1.2 * covered + 10 * crowded).sum())


def place_beside(boxes: np.ndarray, sizes: np.ndarray, panel: tuple[int, int]) -> tuple[np.ndarray, float]:
    """(K, 2) places around the boxes, each where it covers least, one after the other, and their cost."""
    placed, total = np.empty((0, 4)), 0.0
    whole = np.array([[0, 0, *panel]], float)
    for row, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
        options, costs = label_options(box, size)
        area = float(size.prod())
        costs = costs + 20 * overlaps(options, placed).sum(axis=1) / area
        costs += 3 * overlaps(options, np.delete(boxes, row, axis=0)).sum(axis=1) / area
        costs += 100 * (1 - overlaps(options, whole)[:, 0] / area)
        placed, total = np.vstack([placed, options[costs.argmin()]]), total + float(costs.min())
    return placed[:, :2], total


def label_options(box: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C, 4) places for a label of `size` at `box`, and what each costs by its distance."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2] + size) / 2
    angles = np.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS) - math.pi / 2
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    square = directions / np.abs(directions).max(axis=1, keepdims=True)
    offsets = np.concatenate([square * half + directions * step * size[1] for step in DISTANCES])
    corners = middle + offsets - size / 2
    costs = 0.3 * np.hypot(*offsets.T) / size[1]
    return np.hstack([corners, corners + size]), costs


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(A, B) px² that `boxes` (A, 4) share with `others` (B, 4)."""
    lower = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    upper = np.maximum(boxes[:, None, :2], others[None, :, :2])
    return np.asarray(np.maximum(lower - upper, 0).prod(axis=2))


def leaders(boxes: np.ndarray, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(L, 4) x0, y0, x1, y1 from box to label, where the two do not touch."""
    start = np.clip(places + sizes / 2, boxes[:, :2], boxes[:, 2:])
    end = np.clip(start, places, places + sizes)
    return np.asarray(np.hstack([start, end])[np.abs(end - start).max(axis=1) > 3])


def draw_leaders(panel: Image.Image, lines: np.ndarray) -> None:
    """Dark lines with a white core, smoothed by drawing them larger."""
    from PIL import Image, ImageDraw

    for colour, width in ((INK, 4.5), (WHITE, 2.0)) if len(lines) else ():
        mask = Image.new("L", (panel.width * SMOOTH, panel.height * SMOOTH))
        draw = ImageDraw.Draw(mask)
        for line in (lines * SMOOTH).tolist():
            draw.line(line, 255, round(width * SMOOTH))
        panel.paste(colour, (0, 0), mask.reduce(SMOOTH))


def draw_legend(page: Image.Image, plan: Plan, facts: Facts, entries: Sequence[Entry]) -> None:
    """Under the overview: scale bar on the left, what the colours mean on the right."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(page)
    left, _, right, lower = plan.panel
    room = plan.panel_width // 2 - 30
    length, words = scale_bar(facts.mpp / 1000 * facts.size[0] / plan.map_size[0], 0.7 * room)
    draw.rectangle((left, lower + 18, left + length - 1, lower + 25), fill=INK)
    write(draw, (left, lower + 52), words, SMALL, room)
    draw_ramp(draw, (right, lower), min(room, 300), entries[0], entries[-1])


def draw_ramp(draw: ImageDraw.ImageDraw, corner: tuple[int, int], wide: int, heavy: Entry, light: Entry) -> None:
    """Colours from the lightest to the heaviest weight, their right end under `corner`."""
    right, lower = corner
    if heavy.colour == light.colour:
        draw.rectangle((right - 60, lower + 16, right - 1, lower + 27), fill=heavy.colour)
        draw.text((right, lower + 52), f"weight {percent(heavy.weight)}", GREY, font(SMALL.size), anchor="rs")
        return
    for x, colour in enumerate(ramp_colours(np.linspace(0, 1, wide)), right - wide):
        draw.line((x, lower + 16, x, lower + 27), colour)
    draw.text((right - wide, lower + 52), percent(light.weight), GREY, font(SMALL.size), anchor="ls")
    draw.text((right - wide / 2, lower + 52), "weight, log", GREY, font(SMALL.size), anchor="ms")
    draw.text((right, lower + 52), percent(heavy.weight), GREY, font(SMALL.size), anchor="rs")


def scale_bar(mm: float, room: float) -> tuple[int, str]:
    """Length in px and its words, for px of `mm` each and at most `room` of them: 1, 2 or 5 times a power of ten."""
    largest = max(mm * room, 1e-6)
    power = 10.0 ** math.floor(math.log10(largest))
    length = max(step * power for step in (1, 2, 5) if step * power <= largest * 1.000001)
    return max(1, round(length / mm)), f"{length:g} mm"


def draw_patches(page: Image.Image, plan: Plan, entries: Sequence[Entry], patches: Sequence[np.ndarray]) -> None:
    """Every patch in its frame, under it number, weight and coords."""
    from PIL import Image, ImageDraw

    draw = ImageDraw.Draw(page)
    coords = Style(plan.caption, 8, GREY)
    for index, entry in enumerate(entries):
        x, y = plan.cell(index)
        patch = Image.fromarray(patches[entry.row])
        page.paste(patch.resize((plan.thumb, plan.thumb), Image.Resampling.LANCZOS), (x, y))
        draw_frame(draw, (x, y, x + plan.thumb, y + plan.thumb), entry.colour)
        first = y + plan.thumb + round(1.25 * plan.caption)
        draw.text((x, first), str(entry.number), INK, font(plan.caption + 2), anchor="ls")
        draw.text((x + plan.thumb, first), percent(entry.weight), INK, font(plan.caption), anchor="rs")
        write(draw, (x, first + round(1.2 * plan.caption)), f"{entry.x}, {entry.y}", coords, plan.thumb)


def percent(weight: float) -> str:
    share = 100 * weight
    return f"{share:.1f} %" if share >= 0.095 or share == 0 else f"{share:.2f} %"


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
