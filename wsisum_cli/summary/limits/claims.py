"""Claims of a summary that a slide, its overview or the size of the file rule out, found before any array is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.writer import ROOT

ROUNDED_SIDE = 1.5  # px by which rounding may change the side of an overview
#: Tissue patches that any file may list, and bytes of the file for each above that. An honest one takes three or more.
FREE_TISSUE, TISSUE_BYTES = 20_000, 2
#: Bytes of arrays that any file may hold, and how many times its own size above that. Honest ones hold up to 6 times.
FREE_BYTES, MAX_RATIO = 16 << 20, 20
#: px of images that any file may hold, and px for each byte above that; no JPEG stream holds more.
FREE_PX, PX_PER_BYTE = 1 << 26, 512


@dataclass(frozen=True)
class Excess:
    """A claim that cannot be true."""

    message: str
    member: str
    expected: str | None = None
    found: str | None = None


def excessive_claims(record: Attributes, overviews: Mapping[str, tuple[int, int]], size: int) -> Iterator[Excess]:
    """What cannot be, of attributes, of the width and height of each overview, and of a file of `size` bytes."""
    from wsisum_cli.slides.slide import MAX_EXTENT_UM  # slow to import

    source, side = record.source, record.patch.patch_size_level0
    width, height = source.width, source.height
    if max(width, height) * source.mpp > MAX_EXTENT_UM:
        metres = max(width, height) * source.mpp / 1e6
        yield Excess(f"a slide cannot be {metres:.3g} m wide", ROOT, f"{MAX_EXTENT_UM / 1e6:g} m")
    claimed, room = record.tissue_patches, (width // side) * (height // side)
    if not record.features_are_given and claimed > room:
        message = f"{claimed} tissue patches are more than the slide has room for"
        yield Excess(message, ROOT, f"at most {room}", str(claimed))
    pixels = max((across * down for across, down in overviews.values()), default=claimed)
    if claimed > pixels:
        message = f"{claimed} tissue patches are more than the overview has px"
        yield Excess(message, ROOT, f"at most {pixels}", str(claimed))
    most = max(FREE_TISSUE, size // TISSUE_BYTES)
    if claimed > most:
        message = f"{claimed} tissue patches are more than a file of {size} bytes can list"
        yield Excess(message, ROOT, f"at most {most}", str(claimed))
    for name, (across, down) in overviews.items():
        scale = max(across / width, down / height)
        if max(abs(width * scale - across), abs(height * scale - down)) > ROUNDED_SIDE:
            yield Excess(f"{name} has not the shape of the slide", name, None, f"{across} x {down}")


def most_bytes(size: int) -> int:
    """Bytes that all arrays of a file of `size` bytes may hold together, once they are decompressed."""
    return max(FREE_BYTES, MAX_RATIO * size)


def most_pixels(size: int) -> int:
    """Px that the JPEG streams in `size` bytes may hold together."""
    return max(FREE_PX, PX_PER_BYTE * size)
