"""Frames of DICOM files that ask for more than their tile: each is a broken tile, found before the memory is filled."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from dicoms import Slide, image_of, save

from wsisum_cli.errors import TileError
from wsisum_cli.slides.dicom.pyramid import DicomPyramid

SIDE = 64
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def rle_of(segment: bytes) -> bytes:
    """A frame of three equal colour planes."""
    places = [64 + number * len(segment) for number in range(3)]
    return struct.pack("<16I", 3, *places, *([0] * 12)) + 3 * segment


def tiny_precincts() -> bytes:
    stream = bytes(imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k", mct=False))
    at = stream.index(b"\xff\x52")
    (length,) = struct.unpack_from(">H", stream, at + 2)
    coding = bytearray(stream[at : at + 2 + length])
    coding[4] |= 1
    coding += bytes(coding[9] + 1)
    struct.pack_into(">H", coding, 2, len(coding) - 2)
    return stream[:at] + bytes(coding) + stream[at + 2 + length :]


def frame(path: Path, data: bytes, syntax: str) -> np.ndarray:
    save(path, image_of(Slide(), (SIDE, SIDE), SIDE, "RGB", "VOLUME", 0.0005), [data], syntax, "basic")
    pyramid = DicomPyramid(path, [path])
    try:
        found = pyramid.tile(0, 0, 0)
        assert found is not None
        return found
    finally:
        pyramid.close()


def test_runs_that_stand_for_more_than_the_tile_are_refused(tmp_path: Path):
    plane = 32 * bytes([0x81, 7])  # 128 px each
    assert (frame(tmp_path / "a.dcm", rle_of(plane), "1.2.840.10008.1.2.5") == 7).all()
    with pytest.raises(TileError, match="cannot be decoded"):
        frame(tmp_path / "b.dcm", rle_of(1000 * plane), "1.2.840.10008.1.2.5")


def test_jpeg2000_of_tiny_precincts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wsisum_cli.slides.checks.bounds.MAX_PRECINCTS", 1000)
    with pytest.raises(TileError, match="precincts"):
        frame(tmp_path / "a.dcm", tiny_precincts(), "1.2.840.10008.1.2.4.90")
