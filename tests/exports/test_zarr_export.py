"""A summary as a folder: the same members, readable without a ZIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from summaries import unpack, write_tiny

from wsisum_cli.exports.export import export_summary
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.summary.container import write_container
from wsisum_cli.summary.reader import open_summary


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("zarr")
    summary, output = write_tiny(folder / "B12.ozx", "source"), folder / "B12.summary.ome.zarr"
    export_summary(summary, output, TARGETS["zarr"])
    return summary, output


def test_every_member_is_there_byte_for_byte(made: tuple[Path, Path], tmp_path: Path):
    summary, folder = made
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == unpack(summary)
    write_container(tmp_path / "again.ozx", found)
    assert (tmp_path / "again.ozx").read_bytes() == summary.read_bytes()


def test_zarr_opens_it(made: tuple[Path, Path]):
    summary, folder = made
    root = zarr.open_group(folder, mode="r")
    with open_summary(summary) as opened:
        np.testing.assert_array_equal(root["patches/weights"][:], opened.weights)
        np.testing.assert_array_equal(root["patches/features"][:], opened.features)
        np.testing.assert_array_equal(root["0"][:], opened.array("0"))
        assert root.attrs["wsisum"]["disclaimer"] == opened.record.disclaimer


def test_ome_zarr_finds_the_image(made: tuple[Path, Path]):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    location = parse_url(made[1])
    assert location is not None
    (node,) = list(Reader(location)())[:1]
    with open_summary(made[0]) as opened:
        np.testing.assert_array_equal(np.asarray(node.data[0]), opened.array("0"))
