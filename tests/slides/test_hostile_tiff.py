"""Small TIFF files made to do harm: each is refused, or its tiles are broken, in words."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from wsisum_cli.errors import SlideError, TileError
from wsisum_cli.slides.slide import open_pyramid

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
PLANAR, SOFTWARE, DEPTH, TILE_DEPTH = 284, 305, 32997, 32998


def write(path: Path, **options: object) -> Path:
    about = {"photometric": "rgb", "tile": (32, 32), "metadata": None, "software": "x"}
    tifffile.imwrite(path, PIXELS, **{**about, **options})  # type: ignore[arg-type]
    return path


def set_tag(path: Path, place: int, code: int, value: int) -> None:
    """Write a tag over the one called `place`."""
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages.first.tags[place].offset
    with open(path, "rb+") as file:
        file.seek(offset)
        file.write(struct.pack("<HHII", code, 4, 1, value))


@pytest.mark.parametrize("compression", ["zstd", "lerc", None])
@pytest.mark.parametrize("value", [0, 3, 255])
def test_colours_stored_in_no_known_way_are_refused(tmp_path: Path, compression: str | None, value: int):
    path = write(tmp_path / "a.tif", compression=compression)
    open_pyramid(path).close()
    set_tag(path, PLANAR, PLANAR, value)
    with pytest.raises(SlideError, match=r"planar configuration unknown|damaged TIFF"):
        open_pyramid(path)


@pytest.mark.parametrize("code", [DEPTH, TILE_DEPTH])
def test_tiles_that_are_deep_are_not_left_to_tifffile(tmp_path: Path, code: int):
    """It makes room for a tile as deep as the file says."""
    path = write(tmp_path / "a.tif", compression="zlib")
    pyramid = open_pyramid(path)
    assert pyramid.reader.startswith("tifffile")
    pyramid.close()
    set_tag(path, SOFTWARE, code, 1 << 16)
    pyramid = open_pyramid(path)
    assert pyramid.reader.startswith("openslide")
    pyramid.close()


def bomb() -> bytes:
    stream = bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(PIXELS[:32, :32, 0])))
    at = stream.index(b"\xff\xc0")
    return stream[: at + 5] + struct.pack(">HH", 65_500, 65_500) + stream[at + 9 :]


def test_a_jpeg_of_one_colour_that_asks_for_gigabytes_is_a_broken_tile(tmp_path: Path):
    path = tmp_path / "a.tif"
    planes = np.ascontiguousarray(np.moveaxis(PIXELS, 2, 0))
    tiles = iter([bomb() for _ in range(12)])
    options: dict[str, object] = {"photometric": "rgb", "planarconfig": "separate", "compression": "jpeg"}
    tifffile.imwrite(path, tiles, shape=planes.shape, dtype=np.uint8, tile=(32, 32), metadata=None, **options)  # type: ignore[arg-type]
    pyramid = open_pyramid(path)
    with pytest.raises(TileError, match="an image of 65500 x 65500 px"):
        pyramid.tile(0, 0, 0)
    pyramid.close()


@pytest.mark.parametrize("encode", [imagecodecs.png_encode, imagecodecs.webp_encode, imagecodecs.jpegxl_encode])
def test_a_tile_of_other_colours_is_broken(tmp_path: Path, encode: Callable[[np.ndarray], bytes]):
    grey = np.ascontiguousarray(PIXELS[:32, :32, 0])
    picture = np.dstack([grey] * 4) if encode is imagecodecs.webp_encode else grey
    name = {"png_encode": "png", "webp_encode": "webp"}.get(encode.__name__, "jpegxl")
    path = tmp_path / "a.tif"
    tiles = iter([bytes(encode(picture)) for _ in range(4)])
    options: dict[str, object] = {"photometric": "rgb", "compression": name, "metadata": None}
    tifffile.imwrite(path, tiles, shape=PIXELS.shape, dtype=np.uint8, tile=(32, 32), **options)  # type: ignore[arg-type]
    pyramid = open_pyramid(path)
    with pytest.raises(TileError, match="cannot be decoded"):
        pyramid.tile(0, 0, 0)
    pyramid.close()
