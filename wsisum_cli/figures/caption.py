"""What a figure says in words of a summary, and the frames of reference of what it shows."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wsisum_cli.errors import SummaryError
from wsisum_cli.summary.reader import Summary

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


def percent(weight: float) -> str:
    share = 100 * weight
    return f"{share:.1f} %" if share >= 0.095 or share == 0 else f"{share:.2f} %"
