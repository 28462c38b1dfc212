"""The maps of a summary as transparent layers over its overview, each with a legend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsisum_cli.figures.canvas import as_png
from wsisum_cli.figures.colour import OPACITY, Colour, Scale, as_seen, ground, ramp_colours, squares
from wsisum_cli.figures.heatmap import MAPS, Layer
from wsisum_cli.figures.pages.render import data_uri
from wsisum_cli.summary.reader import Summary

STEPS = 48  # of a colour scale
TITLES = {
    "represented": "Represented",
    "coverage": "Coverage",
    "weight": "Weight",
    "cluster": "Clusters",
    "artefact": "Artefacts",
}


@dataclass(frozen=True)
class LegendEntry:
    """A colour as `#rrggbb`, the letter on it, and what it means."""

    colour: str
    mark: str
    words: str


@dataclass(frozen=True)
class Tick:
    """A labelled place on a colour scale, in percent of its length."""

    at: float
    words: str


@dataclass(frozen=True)
class ColourScale:
    """A colour scale: its colours from low to high, and its ticks."""

    name: str
    colours: tuple[str, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Overlay:
    """One map. Without an `image`, the `note` says why there is none."""

    name: str
    title: str
    heading: str
    image: str | None
    entries: tuple[LegendEntry, ...] = ()
    scale: ColourScale | None = None
    note: str = ""


def overlays(summary: Summary, layers: dict[str, Layer]) -> list[Overlay]:
    """Every map of `layers` as an overlay, in order, and why a map is missing.

    Raises SummaryError when data are damaged.
    """
    overview, source = summary.overview, summary.record.source
    found = []
    for name in MAPS:
        if name not in layers:
            note = f"The format {summary.record.made_as} does not say what tissue is represented."
            found.append(Overlay(name, TITLES[name], "", None, note=note))
            continue
        layer, side = layers[name], summary.record.patch.patch_size_level0
        boxes = squares(layer.coords, side, (source.width, source.height), (overview.shape[1], overview.shape[0]))
        image = data_uri("png", as_png(painted(overview.shape[:2], boxes, layer.colours))) if len(boxes) else None
        found.append(overlay_of(name, layer, image, ground(overview, boxes)))
    return found


def layers_of(summary: Summary) -> dict[str, Layer]:
    """The maps that the summary's format knows. Raises SummaryError when data are damaged."""
    known = [name for name in MAPS if name != "represented" or summary.record.represented is not None]
    return {name: MAPS[name](summary) for name in known}


def overlay_of(name: str, layer: Layer, image: str | None, lightness: float) -> Overlay:
    """The overlay of a layer whose colours lie over tissue of this mean lightness."""
    entries = tuple(
        LegendEntry(hexadecimal(as_seen(swatch.colour, lightness)), swatch.mark, with_units(swatch.words))
        for swatch in layer.swatches
    )
    scale = None if layer.scale is None else scale_of(layer.scale, lightness)
    return Overlay(name, TITLES[name], with_units(layer.heading), image, entries, scale, layer.note)


def scale_of(scale: Scale, lightness: float) -> ColourScale:
    ramp = ramp_colours((np.arange(STEPS) + 0.5) / STEPS, scale.ramp)
    places = scale.share(np.array(scale.ticks)).tolist()
    ticks = [Tick(round(100 * place, 2), words) for place, words in zip(places, scale.words, strict=True)]
    return ColourScale(scale.name, tuple(hexadecimal(as_seen(colour, lightness)) for colour in ramp), tuple(ticks))


def painted(shape: tuple[int, int], boxes: np.ndarray, colours: list[Colour]) -> np.ndarray:
    """The (N, 4) `boxes` in their colours, (H, W, 4) uint8, transparent elsewhere and half so inside."""
    image = np.zeros((*shape, 4), np.uint8)
    for (left, upper, right, lower), colour in zip(boxes.tolist(), colours, strict=True):
        image[upper:lower, left:right] = (*colour, round(255 * OPACITY))
    return image


def hexadecimal(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def with_units(text: str) -> str:
    """Words of a picture, whose font lacks the raised 2."""
    return text.replace("sq mm", "mm²")
