"""The stored patches as another encoder sees them, cut and resized as they would be from the slide."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.models.card import Card
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.slides.patches import Reading, Tile, cut_patch, map_ahead, plan_reading
from wsisum_cli.slides.pixels import resize
from wsisum_cli.slides.pyramid import Level
from wsisum_cli.summary.attributes import Source
from wsisum_cli.summary.reader import SourcePatches, Summary

ROUNDING = 1e-9  # limits that are met exactly must not fail for the last bit of a float


@dataclass(frozen=True)
class View:
    """How an encoder sees the stored patches."""

    patch_size: int  # px, as the encoder sees a patch
    mpp: float  # µm per px of such a patch
    reading: Reading | None  # how patches are cut from the stored tiles; None where a stored patch is resized


def plan_view(summary: Summary, card: Card) -> View:
    """How the encoder of this card sees the stored patches.

    Raises SummaryError when it needs patches of another width, or finer pixels, than are stored.
    """
    record = summary.record
    side, size = record.patch.patch_size_level0, card.patch_size
    mpp = side * record.source.mpp / size
    if abs(mpp / card.mpp - 1) > card.mpp_tolerance + ROUNDING:
        raise SummaryError(
            f"{summary.name}: its patches are {side * record.source.mpp:.4g} µm wide, expected {size * card.mpp:.4g} "
            f"µm for {card.name} ({size} px at {card.mpp:g} µm); compress the slide again with that encoder"
        )
    patches = summary.patches
    stored = patches.reading.scale / patches.reading.shrink if isinstance(patches, SourcePatches) else None
    finest = stored or side / record.patch.patch_size
    if finest > side / size * (1 + card.mpp_tolerance) + ROUNDING:
        raise SummaryError(
            f"{summary.name}: its pixels are stored at {finest * record.source.mpp:.3g} µm, expected "
            f"{mpp * (1 + card.mpp_tolerance):.3g} µm or finer for {card.name}; compress the slide again with that "
            "encoder"
        )
    if not isinstance(patches, SourcePatches):
        return View(size, mpp, None)
    level = stored_level(patches.reading, record.source)
    reading = plan_reading((level,), side, size, card.mpp_tolerance)
    check_tiles(summary, patches, reading, card)
    # The level is the slide's, of which the plan saw no other.
    return View(size, mpp, Reading(**{**reading.as_dict(), "level": patches.reading.level}))


def stored_level(reading: Reading, source: Source) -> Level:
    """The level of the slide whose tiles are stored."""
    shrink, downsample = reading.shrink, reading.scale / reading.shrink
    # Of a level as read, up to `shrink` - 1 px at its right and lower edge are missing.
    width, height = (
        min(max(round(full / downsample), read * shrink), read * shrink + shrink - 1)
        for full, read in ((source.width, reading.width), (source.height, reading.height))
    )
    return Level(width, height, reading.tile_width * shrink, reading.tile_height * shrink, downsample)


def check_tiles(summary: Summary, patches: SourcePatches, reading: Reading, card: Card) -> None:
    """Raise SummaryError when a patch, whose corner is rounded otherwise, touches a tile that is not stored."""
    for row, (x, y) in enumerate(summary.coords.tolist()):
        if not set(reading.tiles(x, y)) <= set(patches.reading.tiles(x, y)):
            raise SummaryError(
                f"{summary.name}: patch {row} reaches beyond the stored tiles by a pixel as {card.name} sees it; "
                "compress the slide again with that encoder"
            )


def viewed_patches(summary: Summary, view: View) -> Iterator[np.ndarray]:
    """The kept patches as (P, P, 3) uint8 RGB, one by one. Raises SummaryError for a damaged patch."""
    patches, size = summary.patches, view.patch_size
    if not isinstance(patches, SourcePatches) or view.reading is None:
        yield from (resize(patch, size, size) for patch in patches)
        return
    rows: dict[Tile, int] = {(column, row): i for i, (column, row) in enumerate(patches.positions.tolist())}
    shard, reading = patches.shard, view.reading

    def tile(at: Tile) -> np.ndarray | None:
        return shard.decoded(rows[at], reading.shrink) if at in rows else None

    yield from (cut_patch(reading, x, y, tile) for x, y in summary.coords.tolist())


def encode_view(summary: Summary, view: View, encoder: Encoder, threads: int = 1) -> np.ndarray:
    """Features (K, D) float32 of the kept patches. Raises SummaryError for a damaged patch, ModelError."""
    with ThreadPoolExecutor(threads) as pool:
        batches = in_batches(viewed_patches(summary, view), encoder.batch_size)
        return np.concatenate(list(map_ahead(pool, encoder, batches, threads)))


def in_batches(patches: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Patches stacked into arrays of `size`; the last may be shorter."""
    waiting: list[np.ndarray] = []
    for patch in patches:
        waiting.append(patch)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)
