"""Heaps of texts in h5 files that HDF5 would read for ever."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from wsisum_cli.errors import FeaturesError
from wsisum_cli.features.h5 import read_feature_file, read_provenance
from wsisum_cli.features.heaps import SIGNATURE, refuse_endless_heaps


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = np.ones((5, 8), np.float32), np.arange(10).reshape(5, 2)
        file.attrs.update({"encoder": "tiny", "wsisum": '{"kind": "x"}', "long": "x" * 50_000})
    return path


def set_length(path: Path, number: int, length: int) -> None:
    """Change the length of an object of the first heap."""
    data = bytearray(path.read_bytes())
    at = data.index(SIGNATURE) + 16
    for _ in range(number):
        at += 16 + (struct.unpack_from("<Q", data, at + 8)[0] + 7) // 8 * 8
    struct.pack_into("<Q", data, at + 8, length)
    path.write_bytes(data)


def test_heaps_as_hdf5_writes_them_are_sound(path: Path):
    refuse_endless_heaps(path)
    assert read_feature_file(path).encoder == "tiny"


@pytest.mark.parametrize("length", [0x400, 1 << 40, (1 << 64) - 16])
def test_an_object_that_leads_nowhere_is_refused(path: Path, length: int):
    """HDF5 goes on from it to an object of no size, and stays there."""
    set_length(path, 0, length)
    for read in (read_feature_file, read_provenance):
        with pytest.raises(FeaturesError, match="damaged heap of texts"):
            read(path)


@pytest.mark.parametrize("size", [1 << 14, 1 << 30, 1 << 63])
def test_a_heap_larger_than_its_file_is_refused(path: Path, size: int):
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, data.rindex(SIGNATURE) + 8, len(data) + size)
    path.write_bytes(data)
    with pytest.raises(FeaturesError, match="damaged heap of texts"):
        read_feature_file(path)


def test_an_empty_file_is_no_h5_file(tmp_path: Path):
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(FeaturesError, match="not a readable h5 file"):
        read_feature_file(tmp_path / "a.h5")
