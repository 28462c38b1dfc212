"""What reads slides on this machine: each library imported, each codec tried on a tiny image made in memory."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from wsisum_cli.slides import jpeg

#: Readers, what is imported for them, and the extra that has it; empty where it is no extra.
READERS: Mapping[str, tuple[str, str]] = {
    "TIFF family": ("tifffile", ""),
    "DICOM": ("pydicom", ""),
    "OpenSlide": ("openslide", ""),
    "CZI": ("pylibCZIrw.czi", "czi"),
}
SIDE = 32  # px
LOSSY = 12  # grey levels by which a lossy codec may change a smooth image


def sample() -> np.ndarray:
    """(32, 32, 3) uint8, smooth, so that lossy codecs hardly change it."""
    ramp = np.linspace(60, 220, SIDE).astype(np.uint8)
    return np.stack(
        [np.tile(ramp, (SIDE, 1)), np.tile(ramp[:, None], (1, SIDE)), np.full((SIDE, SIDE), 128, np.uint8)], 2
    )


def decode_jpeg() -> np.ndarray:
    return jpeg.decode(jpeg.encode(sample()))


def decode_tiff(compression: str) -> np.ndarray:
    """The sample written as a TIFF in memory, and read back."""
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, sample(), compression=compression, tile=(SIDE, SIDE), photometric="rgb")
    file.seek(0)
    return np.asarray(tifffile.imread(file))


def decode_jpegls() -> np.ndarray:
    import imagecodecs

    return np.asarray(imagecodecs.jpegls_decode(imagecodecs.jpegls_encode(sample())))


CODECS: Mapping[str, Callable[[], np.ndarray]] = {
    "JPEG": decode_jpeg,
    "JPEG in TIFF": partial(decode_tiff, "jpeg"),
    "JPEG 2000": partial(decode_tiff, "jpeg2000"),
    "LZW": partial(decode_tiff, "lzw"),
    "Deflate": partial(decode_tiff, "zlib"),
    "PackBits": partial(decode_tiff, "packbits"),
    "Zstandard": partial(decode_tiff, "zstd"),
    "WebP": partial(decode_tiff, "webp"),
    "JPEG-LS": decode_jpegls,
    "JPEG XL": partial(decode_tiff, "jpegxl"),
}
#: Codecs that hardly any slide uses.
RARE = {"JPEG-LS", "JPEG XL", "WebP", "Zstandard", "PackBits"}


def try_codec(name: str) -> str | None:
    """Why a codec does not work here; None where it does."""
    try:
        found = CODECS[name]()
    except Exception as error:  # noqa: BLE001 - codecs throw what they like, and a missing one ImportError
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    expected = sample()
    if found.shape != expected.shape or found.dtype != np.uint8:
        return f"expected {expected.shape} of uint8, found {found.shape} of {found.dtype}"
    off = int(np.abs(found.astype(int) - expected).max())
    return None if off <= LOSSY else f"decoded pixels are off by {off} grey levels"


def try_reader(name: str) -> str | None:
    """Why a reader cannot be imported; None where it can."""
    try:
        importlib.import_module(READERS[name][0])
    except Exception as error:  # noqa: BLE001 - a broken native library raises OSError, or what it likes
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return None
