"""CZI by scene and focal plane, in the pixels that were written."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pylibCZIrw import czi

from wsisum_cli.errors import NotASlideError, SeveralSlidesError, SlideError
from wsisum_cli.slides.czi import CziPyramid, read_metadata
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.pixels import shrunk
from wsisum_cli.slides.slide import open_pyramid, open_slide, read_level


def image(seed: int, height: int = 700, width: int = 1100) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3)).astype(np.uint8)
    return small.repeat(8, 0).repeat(8, 1)[:height, :width]


def write(path: Path, scenes: list[list[np.ndarray]]) -> Path:
    """Focal planes of each scene, which lie apart on the glass."""
    with czi.create_czi(str(path)) as document:
        for number, planes in enumerate(scenes):
            for depth, pixels in enumerate(planes):
                blue_first = np.ascontiguousarray(pixels[..., ::-1])
                at = (-500 + 3000 * number, 200)
                scene = {"scene": number} if len(scenes) > 1 else {}
                document.write(blue_first, plane={"Z": depth, "C": 0}, location=at, **scene)
        document.write_metadata(document_name="a", scale_x=0.25e-6, scale_y=0.5e-6)
    return path


def test_one_image(tmp_path: Path) -> None:
    pyramid = open_pyramid(write(tmp_path / "a.czi", [[image(0)]]))
    assert isinstance(pyramid, CziPyramid)
    assert (pyramid.vendor, pyramid.image, pyramid.focal_plane) == ("zeiss", None, None)
    assert pyramid.mpp == pytest.approx((0.25, 0.5))
    assert not pyramid.copies_jpeg(0)
    np.testing.assert_array_equal(read_level(pyramid, 0, 1, Damage(), 2), image(0))
    shrunk_tile = pyramid.tile(0, 1, 1, 4)
    assert shrunk_tile is not None
    np.testing.assert_array_equal(shrunk_tile, shrunk(image(0)[512:, 512:1024], 4))
    pyramid.close()


def test_each_scene_is_a_slide(tmp_path: Path) -> None:
    path = write(tmp_path / "a.czi", [[image(0)], [image(1, 600, 520)]])
    with pytest.raises(SeveralSlidesError, match=r"^a\.czi: holds 2 slides"):
        open_pyramid(path)
    for number, written in ((1, image(0)), (2, image(1, 600, 520))):
        pyramid = open_pyramid(path, number)
        np.testing.assert_array_equal(read_level(pyramid, 0, 1, Damage(), 1), written)
        pyramid.close()
    with pytest.raises(SlideError, match="expected slide 3 of the file, found 2"):
        open_pyramid(path, 3)


def test_the_middle_focal_plane_is_read(tmp_path: Path) -> None:
    pyramid = open_pyramid(write(tmp_path / "a.czi", [[image(n) for n in range(5)]]))
    assert pyramid.focal_plane == (3, 5)
    np.testing.assert_array_equal(read_level(pyramid, 0, 1, Damage(), 1), image(2))
    pyramid.close()


def test_channels_are_no_brightfield(tmp_path: Path) -> None:
    with czi.create_czi(str(tmp_path / "a.czi")) as document:
        for channel in range(2):
            document.write(image(channel)[..., 0].copy(), plane={"C": channel})
    with pytest.raises(NotASlideError, match=r"^a\.czi: expected one RGB image of 8 bits, found Gray8"):
        open_pyramid(tmp_path / "a.czi")


@pytest.mark.parametrize("content", [b"", b"ZISRAWFILE" + bytes(3000), b"photograph" * 300])
def test_damaged_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.czi").write_bytes(content)
    with pytest.raises(SlideError, match=r"^a\.czi: no reader can open it") as caught:
        open_pyramid(tmp_path / "a.czi")
    assert tmp_path.name not in str(caught.value)


def test_the_message_names_the_extra_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.czi", [[image(0)]])
    monkeypatch.setitem(sys.modules, "pylibCZIrw", None)
    with pytest.raises(SlideError, match=r"^a\.czi: .* pip install 'wsisum\[czi\]'") as caught:
        open_pyramid(path)
    assert caught.value.reason == "needs the extra czi"


@pytest.mark.parametrize("text", ["", "<a", "<a/>", '<a><Scaling><Items><Distance Id="X"/></Items></Scaling></a>'])
def test_metadata_without_a_pixel_size(text: str) -> None:
    assert read_metadata(text) == (None, None)


def test_a_real_file_is_read_as_its_library_reads_it(shared: Path) -> None:
    path = shared / "problems" / "he-pylibczirw-zstd1.czi"
    with czi.open_czi(str(path)) as document:
        reference = document.read(plane={"C": 0, "Z": 0, "T": 0})[..., ::-1]
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25)
        np.testing.assert_array_equal(read_level(slide.pyramid, 0, 1, Damage(), 2), reference)
