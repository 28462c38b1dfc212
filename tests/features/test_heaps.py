"""Heaps of texts in h5 files that HDF5 would read for ever."""

from __future__ import annotations

import struct
import time
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
        with pytest.raises(FeaturesError, match="damaged heap"):
            read(path)


@pytest.mark.parametrize("size", [1 << 14, 1 << 30, 1 << 63])
def test_a_heap_larger_than_its_file_is_refused(path: Path, size: int):
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, data.rindex(SIGNATURE) + 8, len(data) + size)
    path.write_bytes(data)
    with pytest.raises(FeaturesError, match="damaged heap"):
        read_feature_file(path)


def test_reserved_bytes_do_not_hide_a_heap(path: Path):
    """HDF5 does not look at them."""
    set_length(path, 0, (1 << 64) - 16)
    data = bytearray(path.read_bytes())
    data[data.index(SIGNATURE) + 5] = 1
    path.write_bytes(data)
    with pytest.raises(FeaturesError, match="damaged heap"):
        read_feature_file(path)


def test_bytes_that_only_look_like_a_heap_are_left_alone(tmp_path: Path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = np.ones((5, 8), np.float32), np.arange(10).reshape(5, 2)
        file["other"] = np.frombuffer(SIGNATURE + b"\x90" * 11, np.uint8)
    assert len(read_feature_file(path).features) == 5


def test_long_texts_and_lists_of_any_length_are_read(tmp_path: Path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["features"], file["coords"] = np.ones((5, 8), np.float32), np.arange(10).reshape(5, 2)
        file["outlines"] = "x" * (17 << 20)
        rows = file.create_dataset("rows", (3,), h5py.vlen_dtype(np.float64))
        rows[0] = np.zeros(3_000_000)
        file["names"] = [f"patch {number}" for number in range(20_000)]
        file.attrs["encoder"] = "tiny"
    assert read_feature_file(path).encoder == "tiny"


def test_heaps_within_heaps_take_no_time(tmp_path: Path):
    """Each of them reaches to the end of the file, so walking them all would take as long as there are pairs."""
    size, path = 1 << 20, tmp_path / "a.h5"
    one = b"".join(struct.pack("<8sQHHIQ", SIGNATURE + b"\0\0\0", size - at, 1, 0, 0, 16) for at in range(0, size, 40))
    path.write_bytes(one[:size])
    began = time.process_time()
    with pytest.raises(FeaturesError):
        refuse_endless_heaps(path)
    assert time.process_time() - began < 5


def test_an_empty_file_is_no_h5_file(tmp_path: Path):
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(FeaturesError, match="not a readable h5 file"):
        read_feature_file(tmp_path / "a.h5")
