"""One image in every coding that TIFF and DICOM files hold."""

from __future__ import annotations

from collections.abc import Callable

import imagecodecs
import numpy as np

PIXELS = np.random.default_rng(0).integers(0, 256, (37, 300, 3), dtype=np.uint8)
#: Of 300 x 37 px.
STREAMS: dict[str, Callable[[], bytes]] = {
    "png": lambda: imagecodecs.png_encode(PIXELS),
    "webp": lambda: imagecodecs.webp_encode(PIXELS),
    "lossless webp": lambda: imagecodecs.webp_encode(PIXELS, lossless=True),
    "jpeg xl": lambda: imagecodecs.jpegxl_encode(PIXELS),
    "jpeg xl in boxes": lambda: imagecodecs.jpegxl_encode(PIXELS, usecontainer=True),
    "jpeg 2000": lambda: imagecodecs.jpeg2k_encode(PIXELS),
    "bare jpeg 2000": lambda: imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k"),
    "jpeg xr": lambda: imagecodecs.jpegxr_encode(PIXELS),
    "lerc": lambda: imagecodecs.lerc_encode(PIXELS),
}
