"""What is fuzzed: each reader as a function of the bytes of a file, and small files to start from.

A reader may refuse a file by a `WsisumError`. Any other exception is a finding, and so is a process that dies.
A new reader is one entry in `TARGETS` and one in `SEEDS`.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import dicoms
import h5py
import imagecodecs
import numpy as np
import onnx_models
import tifffile
import vendors

from wsisum_cli.archive.manifest import read_manifest
from wsisum_cli.errors import FeaturesError
from wsisum_cli.features.h5 import read_embedding_file, read_feature_file, read_provenance
from wsisum_cli.models.card import read_fields
from wsisum_cli.models.metadata import read_metadata, weight_files
from wsisum_cli.models.registry import parse_any_card, read_card_file
from wsisum_cli.slides.colour_profile import colour_tables
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.jpeg import holds_only_pixels
from wsisum_cli.slides.slide import open_slide, read_overview
from wsisum_cli.tissue.given_mask import read_mask

FOLDER = Path(tempfile.mkdtemp(prefix="wsisum-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, True)

DICOM_MARK, CZI_MARK = b"DICM", b"ZISRAWFILE"


def stored(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


def read_slide(data: bytes, name: str) -> None:
    """Open the slide, read all of it at low resolution, and a tile as it is stored."""
    with open_slide(stored(name, data), mpp=0.5) as slide:
        read_overview(slide, Damage())
        colour_tables(slide.pyramid.icc_profile)
        if slide.pyramid.copies_jpeg(0):
            tile = slide.pyramid.encoded_tile(0, 0, 0)
            assert tile is None or holds_only_pixels(tile.stream) in (True, False)


def read_h5(data: bytes) -> None:
    path = stored("a.h5", data)
    failures = []
    for read in (read_feature_file, read_embedding_file, read_provenance):
        try:
            read(path)
        except FeaturesError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def read_model_card(data: bytes) -> None:
    """Of an ONNX file, or of a text in TOML."""
    if data[:1] == b"#":
        read_card_file(stored("a.toml", data))
        return
    path = stored("a.onnx", data)
    weight_files(path)
    parse_any_card(read_fields(read_metadata(path), path.name), "")


TARGETS: dict[str, Callable[[bytes], object]] = {
    "tiff": lambda data: read_slide(data, "a.tif"),
    "dicom": lambda data: read_slide(data, "a.dcm"),
    "czi": lambda data: read_slide(data, "a.czi"),
    "h5": read_h5,
    "card": read_model_card,
    "manifest": lambda data: read_manifest(stored("a.csv", data)),
    "mask": lambda data: read_mask(stored("a.json", data), (60, 80), 16.0),
}


# ------------------------------------------------------------------------------------------------------- seeds


def picture(side: int = 96) -> np.ndarray:
    """Stained specks on glass."""
    rng = np.random.default_rng(0)
    pixels = np.full((side, side, 3), (240, 238, 240), np.uint8)
    pixels[16:80, 16:80] = rng.integers((120, 60, 120), (200, 140, 190), (64, 64, 3))
    return pixels


def tiff_of(**options: object) -> bytes:
    path = FOLDER / "seed.tif"
    tifffile.imwrite(path, picture(), **{"photometric": "rgb", "tile": (32, 32), "metadata": None, **options})  # type: ignore[arg-type]
    return path.read_bytes()


def tiff_seeds() -> list[bytes]:
    pixels, path = picture(), FOLDER / "seed.tif"
    with tifffile.TiffWriter(path) as writer:
        about = {"tile": (32, 32), "photometric": "rgb", "compression": "jpeg", "metadata": None}
        writer.write(pixels, description="Aperio Fake|MPP = 0.5", **about)
        writer.write(pixels[::4, ::4], **about)
    aperio = path.read_bytes()
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(pixels, tile=(32, 32), photometric="rgb", compression="deflate", subifds=1)
        writer.write(pixels[::2, ::2], tile=(32, 32), photometric="rgb", compression="deflate", subfiletype=1)
    ome = path.read_bytes()
    vendors.write_ndpi(path, np.tile(pixels, (3, 3, 1)))
    return [
        aperio,
        ome,
        path.read_bytes(),
        tiff_of(bigtiff=True, compression="lzw"),
        tiff_of(byteorder=">", compression="zstd"),
        *(tiff_of(compression=name) for name in ("jpeg2000", "webp", "jpegxl", "lerc", "png", "lzma", "packbits")),
        tiff_of(planarconfig="separate", photometric="rgb", compression="jpeg"),
    ]


def dicom_seeds() -> list[bytes]:
    paths = [
        dicoms.write_level(FOLDER / "seed.dcm", picture()),
        dicoms.write_level(FOLDER / "seed2.dcm", picture(), codec="jpeg2000"),
    ]
    return [path.read_bytes() for path in paths]


def czi_seeds() -> list[bytes]:
    from pylibCZIrw import czi

    path = FOLDER / "seed.czi"
    path.unlink(missing_ok=True)
    with czi.create_czi(str(path)) as document:
        document.write(np.ascontiguousarray(picture()[..., ::-1]), plane={"T": 0, "Z": 0, "C": 0})
        document.write_metadata(document_name="x", scale_x=5e-7, scale_y=5e-7)
    return [path.read_bytes()]


def h5_seeds() -> list[bytes]:
    rng, seeds = np.random.default_rng(0), []
    for options in ({}, {"compression": "gzip", "chunks": True}):
        path = FOLDER / "seed.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("features", data=rng.random((9, 4), np.float32), **options)
            coords = file.create_dataset("coords", data=rng.integers(0, 99, (9, 2)), **options)
            coords.attrs.update({"patch_size_level0": 64, "name": "x"})
            file.attrs.update({"encoder": "tiny", "wsisum": json.dumps({"kind": "x"})})
        seeds.append(path.read_bytes())
    return seeds


def card_seeds() -> list[bytes]:
    path = FOLDER / "seed.onnx"
    onnx_models.write_summarizer(path)
    text = b'# card\nname = "a"\npatch_size = 224\nmpp = 0.5\nmean = [0.1, 0.2, 0.3]\nlicence = "MIT"\n'
    return [path.read_bytes(), text]


def mask_seeds() -> list[bytes]:
    marked = np.zeros((60, 80), np.uint8)
    marked[10:40, 10:50] = 255
    square = [[0, 0], [300, 0], [300, 300], [0, 300], [0, 0]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [square]}}
    collection = json.dumps({"type": "FeatureCollection", "features": [feature, feature]}).encode()
    coloured = np.dstack([marked] * 4)
    return [collection, bytes(imagecodecs.png_encode(marked)), bytes(imagecodecs.png_encode(coloured))]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "tiff": tiff_seeds,
    "dicom": dicom_seeds,
    "czi": czi_seeds,
    "h5": h5_seeds,
    "card": card_seeds,
    "manifest": lambda: [b"slide,mpp,mask,name\na.svs,0.5,,b\nc/d.svs,,,\n", b'slide,name\n"a ""b"".svs",x\n'],
    "mask": mask_seeds,
}
