"""Headers of compressed images say how large they are."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import vendors
from streams import PIXELS, STREAMS

from wsisum_cli.slides.checks.stream_sizes import (
    image_size,
    is_subsampled_jpeg2000,
    jpeg2000_rgb_size,
    jpeg_rgb_size,
    jpegls_rgb_size,
)


@pytest.mark.parametrize("codec", STREAMS)
def test_the_size_of_a_stream_is_that_of_its_image(codec: str):
    assert image_size(bytes(STREAMS[codec]())) == (300, 37)


@pytest.mark.parametrize("size", [(256, 256), (8, 512), (1000, 700), (4096, 64)])
def test_the_size_of_jpeg_xl_in_all_its_forms(size: tuple[int, int]):
    stream = bytes(imagecodecs.jpegxl_encode(np.zeros((*size, 3), np.uint8)))
    assert image_size(stream) == size[::-1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 30])
def test_jpeg_xl_of_many_channels_has_no_size(dtype: type, channels: int):
    stream = bytes(imagecodecs.jpegxl_encode(np.zeros((channels, 16, 24), dtype), planar=True, photometric="gray"))
    if channels > 4:
        with pytest.raises(ValueError, match="many channels"):
            image_size(stream)
    else:
        assert image_size(stream) == (24, 16)


def test_subsampled_jpeg2000_is_recognised():
    stream = bytearray(vendors.jpeg2000(np.zeros((64, 64, 3), np.uint8), ycbcr=True))
    assert not is_subsampled_jpeg2000(bytes(stream))
    at = stream.index(b"\xff\x51")
    stream[at + 44] = stream[at + 47] = 2  # what native 33003 says of its chroma components
    assert is_subsampled_jpeg2000(bytes(stream))
    assert not is_subsampled_jpeg2000(b"no codestream")


RGB_SIZES = {"jpeg": jpeg_rgb_size, "jpeg 2000": jpeg2000_rgb_size, "jpeg-ls": jpegls_rgb_size}
ENCODERS = {
    "jpeg": lambda pixels: imagecodecs.jpeg8_encode(pixels),
    "jpeg 2000": lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k"),
    "jpeg-ls": lambda pixels: imagecodecs.jpegls_encode(pixels),
}


@pytest.mark.parametrize("codec", RGB_SIZES)
def test_only_three_components_have_the_size_of_rgb(codec: str):
    size, encode, pixels = RGB_SIZES[codec], ENCODERS[codec], PIXELS // 16
    assert size(bytes(encode(pixels))) == (37, 300)
    assert size(bytes(encode(np.ascontiguousarray(pixels[..., 0])))) == ()
    assert size(bytes(encode(pixels))[:20]) == ()
    assert size(b"") == ()
