"""Patches are cut out of tiles as if out of the whole level, and no tile is decoded twice without need."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsisum_cli.errors import TileError
from wsisum_cli.slides import patches as patch
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import (
    BLOCK,
    GLASS,
    Reading,
    Tile,
    TileCache,
    blocks,
    cut_patch,
    map_ahead,
    paste,
    plan_reading,
    read_patches,
)
from wsisum_cli.slides.pixels import shrunk
from wsisum_cli.slides.pyramid import Level, Pyramid, downsample

Image = np.ndarray


class Painted(Pyramid):
    """A slide whose levels are images in memory; counts how often each tile is decoded."""

    def __init__(self, images: list[Image], tile: int) -> None:
        height0, width0 = images[0].shape[:2]
        self.images, self.decoded = images, Counter[Tile]()
        self.broken: set[Tile] = set()
        self.bare: set[Tile] = set()  # tiles the file does not store
        self.seconds = 0.0  # that each tile takes, more or less
        self._lock = threading.Lock()
        self.levels = tuple(
            Level(w, h, tile, tile, downsample(width0, height0, w, h)) for h, w, _ in (i.shape for i in images)
        )

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> Image | None:
        at = self.levels[level]
        assert 0 <= column < at.columns
        assert 0 <= row < at.rows
        with self._lock:
            self.decoded[column, row] += 1
        if self.seconds:
            time.sleep(self.seconds * ((7 * column + 3 * row) % 5))
        if (column, row) in self.broken:
            raise TileError(f"tile at column {column}, row {row} of level {level} is broken")
        if (column, row) in self.bare:
            return None
        upper, left = row * at.tile_height, column * at.tile_width
        part = self.images[level][upper : upper + at.tile_height, left : left + at.tile_width]
        whole = ((0, at.tile_height - part.shape[0]), (0, at.tile_width - part.shape[1]), (0, 0))
        return shrunk(np.pad(part, whole, mode="edge"), shrink)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def image() -> Image:
    """Smooth, so that averaging by tile and by window agree, and different everywhere."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (2430, 1810), interpolation=cv2.INTER_CUBIC))


@pytest.fixture
def slide(image: Image) -> Painted:
    return Painted([image], 240)


def grid(image: Image, size: int, step: int | None = None) -> np.ndarray:
    """(N, 2) corners of all patches of `size` px that fit, `step` px apart."""
    height, width = image.shape[:2]
    corners = np.mgrid[0 : height - size + 1 : step or size, 0 : width - size + 1 : step or size]
    return np.ascontiguousarray(corners[::-1].reshape(2, -1).T.astype(np.int32))


def read_all(
    slide: Painted, coords: np.ndarray, reading: Reading, threads: int = 1, damage: Damage | None = None
) -> dict[int, Image]:
    """Patches by row, in the order they come."""
    found = read_patches(slide, coords, reading, damage or Damage(), threads)
    return {row: one for rows, patches in found for row, one in zip(rows.tolist(), patches, strict=True)}


# --- pixels


@pytest.mark.parametrize(("size", "threads"), [(512, 1), (512, 3), (480, 2), (300, 2), (256, 2)])
def test_patches_equal_crops_of_the_whole_level(size: int, threads: int, slide: Painted, image: Image) -> None:
    reading = plan_reading(slide.levels, size, size, 0.0)
    assert (reading.shrink, reading.scale, reading.side) == (1, 1.0, size)
    coords = grid(image, size)
    found = read_all(slide, coords, reading, threads)
    assert sorted(found) == list(range(len(coords)))
    for row, (x, y) in enumerate(coords.tolist()):
        np.testing.assert_array_equal(found[row], image[y : y + size, x : x + size])


def test_windows_of_512_px_over_240_px_tiles_at_half_size(slide: Painted, image: Image) -> None:
    reading = plan_reading(slide.levels, 512, 256, 0.0)
    assert (reading.shrink, reading.side, reading.tile_width) == (2, 256, 120)
    half = shrunk(image, 2)
    coords = grid(image, 512)
    for row, found in read_all(slide, coords, reading, 2).items():
        x, y = (coords[row] // 2).tolist()
        np.testing.assert_array_equal(found, half[y : y + 256, x : x + 256])


def test_patches_at_the_right_and_lower_edge(slide: Painted, image: Image) -> None:
    height, width = image.shape[:2]
    coords = np.array([[width - 512, height - 512], [width - 512, 0], [0, height - 512]], np.int32)
    found = read_all(slide, coords, plan_reading(slide.levels, 512, 512, 0.0))
    for row, (x, y) in enumerate(coords.tolist()):
        np.testing.assert_array_equal(found[row], image[y : y + 512, x : x + 512])
    assert found[0].min() == image[-512:, -512:].min()  # none of it is glass


def test_tiles_the_file_does_not_store_are_glass(slide: Painted, image: Image) -> None:
    slide.bare = {(1, 1)}
    reading = plan_reading(slide.levels, 512, 512, 0.0)
    found = read_all(slide, np.array([[0, 0]], np.int32), reading)[0]
    expected = image[:512, :512].copy()
    expected[240:480, 240:480] = GLASS
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [527, 541, 400, 777])
def test_fractional_scales(size: int, slide: Painted, image: Image) -> None:
    reading = plan_reading(slide.levels, size, 256, 0.0)
    assert reading.scale <= size / 256
    coords = grid(image, size)
    for row, found in read_all(slide, coords, reading, 2).items():
        x, y = coords[row].tolist()
        expected = cv2.resize(image[y : y + size, x : x + size], (256, 256), interpolation=cv2.INTER_AREA)
        assert found.shape == (256, 256, 3)
        assert np.abs(found.astype(float) - expected).mean() < 6  # up to half a px read away


def test_levels_of_fractional_downsample(image: Image) -> None:
    low = cv2.resize(image, (700, 521), interpolation=cv2.INTER_AREA)  # 3.47 times smaller
    slide = Painted([image, np.asarray(low)], 240)
    reading = plan_reading(slide.levels, 890, 256, 0.0)
    assert (reading.level, reading.shrink) == (1, 1)
    assert reading.scale == pytest.approx(3.473, abs=0.002)
    coords = np.concatenate([grid(image, 890, step=333), [[2430 - 890, 1810 - 890]]]).astype(np.int32)
    for row, found in read_all(slide, coords, reading).items():
        x, y = coords[row].tolist()
        expected = cv2.resize(image[y : y + 890, x : x + 890], (256, 256), interpolation=cv2.INTER_AREA)
        assert np.abs(found.astype(float) - expected).mean() < 8  # up to half a px of the level away


@given(data=st.data())
def test_patches_of_a_slide_never_leave_its_levels(data: st.DataObject) -> None:
    width, height = data.draw(st.tuples(*[st.integers(300, 5000)] * 2), "size")
    factor = data.draw(st.floats(1.0, 8.0), "downsample")
    tile = data.draw(st.sampled_from([16, 240, 250, 256, 512]), "tile")
    small = max(1, int(width / factor)), max(1, int(height / factor))
    sizes = [(width, height), small]
    levels = [Level(w, h, tile, tile, downsample(width, height, w, h)) for w, h in sizes]
    size = data.draw(st.integers(64, min(width, height)), "patch_size_level0")
    reading = plan_reading(levels, size, data.draw(st.integers(32, 512), "patch_size"), 0.1)
    x = data.draw(st.integers(0, width - size), "x")
    y = data.draw(st.integers(0, height - size), "y")
    level = levels[reading.level]
    touched = reading.tiles(x, y)
    assert touched
    assert all(0 <= column < level.columns and 0 <= row < level.rows for column, row in touched)
    left, upper = reading.corner(x, y)
    assert 0 <= left <= max(0, reading.width - reading.side)
    assert 0 <= upper <= max(0, reading.height - reading.side)
    assert abs(left - x / reading.scale) <= 2
    assert abs(upper - y / reading.scale) <= 2


def test_paste_copies_what_lies_on_the_canvas() -> None:
    tile = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    for left in range(-8, 12):
        for upper in range(-6, 9):
            canvas = np.zeros((7, 9, 3), np.uint8)
            paste(canvas, tile, left, upper)
            expected = np.zeros((27, 29, 3), np.uint8)
            expected[upper + 10 : upper + 14, left + 10 : left + 16] = tile
            np.testing.assert_array_equal(canvas, expected[10:17, 10:19])


# --- tiles


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("step", [512, 300, 97])
def test_each_tile_is_decoded_once(step: int, threads: int, slide: Painted, image: Image) -> None:
    slide.seconds = 0.0005
    coords = grid(image, 512, step)
    reading = plan_reading(slide.levels, 512, 256, 0.0)
    damage = Damage()
    assert len(read_all(slide, coords, reading, threads, damage)) == len(coords)
    touched = {tile for x, y in coords.tolist() for tile in reading.tiles(x, y)}
    assert slide.decoded == Counter(touched)
    damage.check("a.svs")


def test_any_number_of_threads_gives_the_same(image: Image) -> None:
    coords = grid(image, 512, 130)
    np.random.default_rng(0).shuffle(coords)
    results = []
    for threads in (1, 2, 7):
        slide = Painted([image], 240)
        slide.seconds, slide.broken = 0.0005, {(3, 3)}
        reading = plan_reading(slide.levels, 512, 256, 0.0)
        found = read_patches(slide, coords, reading, Damage(), threads)
        results.append([(rows.tolist(), patches.tobytes()) for rows, patches in found])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("threads", [1, 3])
def test_past_the_memory_cap_tiles_are_decoded_again(
    threads: int, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch, "CACHE_BYTES", 1)  # leaves the least number of tiles
    least, slide = 64, Painted([image], 16)
    slide.bare = {(20, 20)}
    held: list[int] = []

    class Watched(TileCache):
        def get(self, tile: Tile) -> Image | None:
            pixels = super().get(tile)
            held.append(len(self._tiles))
            return pixels

    monkeypatch.setattr(patch, "TileCache", Watched)
    coords = grid(image, 300, 150)[:20]
    reading = plan_reading(slide.levels, 300, 300, 0.0)
    expected = image.copy()
    expected[320:336, 320:336] = GLASS
    for row, found in read_all(slide, coords, reading, threads).items():
        x, y = coords[row].tolist()
        np.testing.assert_array_equal(found, expected[y : y + 300, x : x + 300])
    assert max(slide.decoded.values()) > 1
    assert max(held) <= least + threads


def test_nothing_is_held_in_the_end(slide: Painted, image: Image) -> None:
    coords = grid(image, 512)
    reading = plan_reading(slide.levels, 512, 256, 0.0)
    cache = TileCache(slide, reading, coords, Damage())
    for x, y in coords.tolist():
        cut_patch(reading, x, y, cache.get)
        cache.release(reading.tiles(x, y))
    assert not cache._tiles


@pytest.mark.parametrize("threads", [1, 4])
def test_a_broken_tile_drops_the_patches_that_touch_it(threads: int, slide: Painted, image: Image) -> None:
    slide.broken = {(2, 2), (7, 0)}
    slide.seconds = 0.0005
    coords = grid(image, 512, 256)
    reading = plan_reading(slide.levels, 512, 256, 0.0)
    damage = Damage()
    found = read_all(slide, coords, reading, threads, damage)
    fine = {row for row, (x, y) in enumerate(coords.tolist()) if not slide.broken & set(reading.tiles(x, y))}
    assert set(found) == fine
    assert 0 < len(fine) < len(coords)
    assert damage.positions == [(0, 2, 2), (0, 7, 0)]
    assert max(slide.decoded.values()) == 1


def test_a_slide_of_broken_tiles_gives_no_patches(slide: Painted, image: Image) -> None:
    slide.broken = {(column, row) for column in range(11) for row in range(8)}
    found = list(read_patches(slide, grid(image, 512), plan_reading(slide.levels, 512, 256, 0.0), Damage(), 2))
    assert all(rows.shape == (0,) and patches.shape == (0, 256, 256, 3) for rows, patches in found)


def test_no_coords_no_patches(slide: Painted) -> None:
    nothing = np.empty((0, 2), np.int32)
    assert read_all(slide, nothing, plan_reading(slide.levels, 512, 256, 0.0)) == {}


def test_other_errors_reach_the_caller_and_leave_no_thread_waiting(slide: Painted, image: Image) -> None:
    class FullError(Exception):
        pass

    def fail(seconds: float) -> None:
        time.sleep(seconds)
        raise FullError

    slide.tile = lambda *at: fail(0.001)  # type: ignore[method-assign]
    with pytest.raises(FullError):
        read_all(slide, grid(image, 512, 100), plan_reading(slide.levels, 512, 256, 0.0), threads=4)


def test_reading_may_be_given_up(slide: Painted, image: Image) -> None:
    found = read_patches(slide, grid(image, 300), plan_reading(slide.levels, 300, 300, 0.0), Damage(), 2)
    next(found)
    found.close()
    assert sum(slide.decoded.values()) < slide.levels[0].columns * slide.levels[0].rows


# --- order


def test_blocks_hold_each_patch_once_and_neighbours_together(slide: Painted, image: Image) -> None:
    coords = grid(image, 130, 130)
    np.random.default_rng(1).shuffle(coords)
    found = blocks(coords, plan_reading(slide.levels, 130, 130, 0.0))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(coords)))
    assert max(map(len, found)) == BLOCK**2
    for rows in found:
        assert np.ptp(coords[rows], axis=0).max() <= 130 * (BLOCK - 1)


def test_map_ahead_keeps_the_order() -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.002 * (5 - item % 6))
        return item * item

    with ThreadPoolExecutor(4) as pool:
        assert list(map_ahead(pool, slow_first, range(30), 8)) == [n * n for n in range(30)]
        assert list(map_ahead(pool, slow_first, [], 8)) == []


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_map_ahead_begins_no_more_than_it_may(ahead: int) -> None:
    begun = 0

    def items() -> Iterator[int]:
        nonlocal begun
        for item in range(20):
            begun += 1
            yield item

    with ThreadPoolExecutor(2) as pool:
        for done, _ in enumerate(map_ahead(pool, lambda item: item, items(), ahead), 1):
            assert begun <= done + ahead
    assert begun == 20


def test_map_ahead_passes_errors_on_and_cancels_the_rest() -> None:
    begun: list[int] = []

    def fail_at_three(item: int) -> int:
        begun.append(item)
        time.sleep(0.002)
        if item == 3:
            raise TileError("three")
        return item

    with ThreadPoolExecutor(1) as pool:
        found = map_ahead(pool, fail_at_three, range(100), 10)
        assert [next(found) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(TileError, match="three"):
            next(found)
    assert len(begun) < 10


def test_real_slide_reads_the_same_in_any_number_of_threads(shared: Path) -> None:
    from wsisum_cli.slides.slide import open_slide, read_level

    with open_slide(shared / "fixtures" / "CMU-1-Small-Region.svs") as slide:
        coords = np.array([[x, y] for y in range(0, 2900, 512) for x in range(0, 2200, 512)], np.int32)
        coords = np.minimum(coords, np.array(slide.size) - 512)
        reading = plan_reading(slide.levels, 512, 256, 0.0)
        whole = read_level(slide.pyramid, 0, 2, Damage(), 1)
        for threads in (1, 2):
            for rows, patches in read_patches(slide.pyramid, coords, reading, Damage(), threads):
                for row, found in zip(rows.tolist(), patches, strict=True):
                    left, upper = reading.corner(*coords[row].tolist())
                    np.testing.assert_array_equal(found, whole[upper : upper + 256, left : left + 256])
