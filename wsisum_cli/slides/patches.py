"""Patch coords -> pixels. Each tile is decoded once for all the patches it touches."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from wsisum_cli.errors import TileError
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.pixels import resize
from wsisum_cli.slides.pyramid import Level, Pyramid, choose_scale

GLASS = 255
BLOCK = 4  # patches a side that one thread reads together
MIN_CACHED = 16  # tiles, however large
CACHE_BYTES = 192 << 20  # decoded tiles held for later patches; past it the oldest is decoded again when needed

Item = TypeVar("Item")
Result = TypeVar("Result")
Tile = tuple[int, int]  # column, row


@dataclass(frozen=True)
class Reading:
    """How a patch is cut out of a slide. All sizes are px as read: of `level`, divided by `shrink`."""

    level: int
    shrink: int
    scale: float  # level-0 px per px read
    side: int  # of the square read for one patch
    patch_size: int  # of the square handed to the encoder
    tile_width: int
    tile_height: int
    width: int  # of the whole level
    height: int

    def corner(self, x: int, y: int) -> tuple[int, int]:
        """Upper left px read of the patch at level-0 (x, y); rounding never leads beyond the level."""
        left = min(round(x / self.scale), self.width - self.side)
        upper = min(round(y / self.scale), self.height - self.side)
        return max(0, left), max(0, upper)

    def tiles(self, x: int, y: int) -> list[Tile]:
        """The tiles that the patch at level-0 (x, y) touches, row by row."""
        return self.tiles_at(*self.corner(x, y))

    def tiles_at(self, left: int, upper: int) -> list[Tile]:
        """The tiles that the patch with this upper left px read touches, row by row."""
        right, lower = min(left + self.side, self.width), min(upper + self.side, self.height)
        columns = range(left // self.tile_width, (right - 1) // self.tile_width + 1)
        rows = range(upper // self.tile_height, (lower - 1) // self.tile_height + 1)
        return [(column, row) for row in rows for column in columns]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_reading(levels: Sequence[Level], patch_size_level0: int, patch_size: int, tolerance: float) -> Reading:
    """The cheapest way to read patches that is at most `tolerance` coarser than the encoder asks for."""
    index, shrink, scale = choose_scale(tuple(levels), patch_size_level0 / patch_size, tolerance)
    level = levels[index]
    return Reading(
        level=index,
        shrink=shrink,
        scale=scale,
        side=max(1, round(patch_size_level0 / scale)),
        patch_size=patch_size,
        tile_width=level.tile_width // shrink,
        tile_height=level.tile_height // shrink,
        width=level.width // shrink,
        height=level.height // shrink,
    )


def cut_patch(reading: Reading, x: int, y: int, get_tile: Callable[[Tile], np.ndarray | None]) -> np.ndarray:
    """One patch as (P, P, 3) uint8 RGB. `get_tile` gives a tile as read, None for glass."""
    found = np.empty((reading.patch_size, reading.patch_size, 3), np.uint8)
    cut_into(found, reading, x, y, get_tile)
    return found


def cut_into(
    found: np.ndarray, reading: Reading, x: int, y: int, get_tile: Callable[[Tile], np.ndarray | None]
) -> None:
    """The same, written into `found` (P, P, 3)."""
    resized = reading.side != reading.patch_size
    pixels = np.empty((reading.side, reading.side, 3), np.uint8) if resized else found
    left, upper = reading.corner(x, y)
    if left + reading.side > reading.width or upper + reading.side > reading.height:
        pixels[:] = GLASS  # the level is smaller than a patch
    for column, row in reading.tiles_at(left, upper):
        lay_tile(pixels, reading, get_tile((column, row)), (column, row), (left, upper))
    if resized:
        found[:] = resize(pixels, reading.patch_size, reading.patch_size)


def lay_tile(pixels: np.ndarray, reading: Reading, tile: np.ndarray | None, at: Tile, corner: tuple[int, int]) -> None:
    """Copy what a patch, whose `corner` is (left, upper) px read, has of a tile; glass where the tile has no px."""
    x, y = at[0] * reading.tile_width - corner[0], at[1] * reading.tile_height - corner[1]
    if tile is None or tile.shape[:2] != (reading.tile_height, reading.tile_width):
        pixels[max(y, 0) : max(y + reading.tile_height, 0), max(x, 0) : max(x + reading.tile_width, 0)] = GLASS
    if tile is not None:
        paste(pixels, tile, x, y)


def paste(canvas: np.ndarray, tile: np.ndarray, left: int, upper: int) -> None:
    """Copy the part of `tile` that lies on `canvas` when its corner is put at (left, upper)."""
    x0, y0 = max(left, 0), max(upper, 0)
    x1, y1 = min(left + tile.shape[1], canvas.shape[1]), min(upper + tile.shape[0], canvas.shape[0])
    if x0 < x1 and y0 < y1:
        canvas[y0:y1, x0:x1] = tile[y0 - upper : y1 - upper, x0 - left : x1 - left]


class TileCache:
    """Decodes tiles; one that several patches touch is kept until the last of them is cut. For several threads.

    Where the grid lies on the tiles, no patch shares any: they are decoded and handed on, without a lock.
    """

    def __init__(self, pyramid: Pyramid, reading: Reading, coords: np.ndarray, damage: Damage) -> None:
        self._pyramid, self._reading, self._damage = pyramid, reading, damage
        self._uses = shared_tiles(reading, coords)
        self._tiles: dict[Tile, Future[np.ndarray | None]] = {}
        self._lock = threading.Lock()
        self._capacity = max(MIN_CACHED, CACHE_BYTES // (reading.tile_width * reading.tile_height * 3))

    def get(self, tile: Tile) -> np.ndarray | None:
        """The tile as read. Raises TileError, each time for the same broken tile."""
        if tile not in self._uses:
            return self._read(tile)
        with self._lock:
            future = self._tiles.get(tile)
            first = future is None
            if future is None:
                future = self._tiles[tile] = Future()
                self._evict()
        if first:
            self._decode(tile, future)
        return future.result()

    def release(self, tiles: Iterable[Tile]) -> None:
        """Say that one patch touching these tiles is done."""
        if not self._uses:
            return
        with self._lock:
            for tile in tiles:
                if tile in self._uses:  # its number stays, so that no thread takes it for a tile of one patch
                    self._uses[tile] -= 1
                    if self._uses[tile] == 0:
                        self._tiles.pop(tile, None)

    def _read(self, tile: Tile) -> np.ndarray | None:
        level = self._reading.level
        try:
            pixels = self._pyramid.tile(level, *tile, self._reading.shrink)
        except TileError as error:
            self._damage.note(level, *tile, str(error))
            raise
        self._damage.tried()
        return pixels

    def _decode(self, tile: Tile, future: Future[np.ndarray | None]) -> None:
        try:
            future.set_result(self._read(tile))
        except TileError as error:
            future.set_exception(error)
        except BaseException as error:
            future.set_exception(error)  # whoever waits for this tile must wake up
            raise

    def _evict(self) -> None:
        if len(self._tiles) > self._capacity:
            oldest = next((t for t, future in self._tiles.items() if future.done()), None)
            if oldest is not None:
                del self._tiles[oldest]


def shared_tiles(reading: Reading, coords: np.ndarray) -> dict[Tile, int]:
    """The tiles that several patches at (N, 2) `coords` touch, and how many do."""
    touched = Counter(tile for x, y in coords.tolist() for tile in reading.tiles(x, y))
    return {tile: count for tile, count in touched.items() if count > 1}


def read_patches(
    pyramid: Pyramid, coords: np.ndarray, reading: Reading, damage: Damage, threads: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels of the patches at `coords` (N, 2), block by block: rows (B,) of N and (B, P, P, 3) uint8.

    Patches that touch a broken tile are noted in `damage` and left out.
    """
    cache = TileCache(pyramid, reading, coords, damage)

    def read_block(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.empty((len(rows), reading.patch_size, reading.patch_size, 3), np.uint8)
        kept: list[int] = []
        for row in rows.tolist():
            if is_cut(pixels[len(kept)], *coords[row].tolist()):
                kept.append(row)
        return np.array(kept, np.int64), pixels[: len(kept)]

    def is_cut(into: np.ndarray, x: int, y: int) -> bool:
        try:
            cut_into(into, reading, x, y, cache.get)
        except TileError:
            return False
        finally:
            cache.release(reading.tiles(x, y))
        return True

    with ThreadPoolExecutor(threads) as pool:
        yield from map_ahead(pool, read_block, blocks(coords, reading), 2 * threads)


def blocks(coords: np.ndarray, reading: Reading) -> list[np.ndarray]:
    """Rows of `coords` grouped into squares of `BLOCK` patches, row by row of squares."""
    if not len(coords):
        return []
    side = max(1, round(reading.side * reading.scale)) * BLOCK
    square = coords // side
    order = np.lexsort((coords[:, 0], coords[:, 1], square[:, 0], square[:, 1]))
    edges = np.flatnonzero(np.any(np.diff(square[order], axis=0), axis=1)) + 1
    return list(np.split(order, edges))


def map_ahead(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Like `map` over a pool, in order, but with at most `ahead` items begun before their turn."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
