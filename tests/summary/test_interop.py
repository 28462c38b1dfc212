"""Programs that people have already read a summary: they list it, and read arrays and a patch's JPEG row.

Each runs in a process that cannot import this package.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from summaries import write_tiny

from wsisum_cli.slides import jpeg
from wsisum_cli.summary.reader import open_summary

#: Hides this package and its codec, as on a machine without it.
ALONE = """
import importlib.metadata, json, sys
found = importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **wanted: importlib.metadata.EntryPoints(
    point for point in (found(**wanted) if wanted else
        (p for d in importlib.metadata.distributions() for p in d.entry_points)) if "wsisum" not in point.value)
sys.modules["wsisum_cli"] = None
path, row = sys.argv[1:]

def tell(names, coords, features, weights, stream):
    numbers = [float(coords.sum()), float(features.astype("f8").sum()), float(weights.sum())]
    print(json.dumps({"names": sorted(names), "numbers": numbers, "stream": bytes(stream).hex()}))
"""
TENSORSTORE = """
import tensorstore as ts, zipfile
names = [name.removesuffix("/zarr.json") for name in zipfile.ZipFile(path).namelist() if name.endswith("/zarr.json")]

def read(name):
    store = {"driver": "zip", "base": {"driver": "file", "path": path}, "path": name + "/"}
    return ts.open({"driver": "zarr3", "kvstore": store}, read=True, open=True).result().read().result()

arrays = {}
for name in names:
    try:
        arrays[name] = read(name)
    except ValueError as error:
        if "node_type" not in str(error):
            raise  # but a group is no array
tell(arrays, arrays["patches/coords"], arrays["patches/features"], arrays["patches/weights"], arrays[row][0])
"""
XARRAY = """
import xarray, zarr
from zarr.storage import ZipStore
tree = xarray.open_datatree(ZipStore(path, mode="r"), engine="zarr", consolidated=False, create_default_indexes=False)
names = [f"{node.path.strip('/')}/{name}".strip("/") for node in tree.subtree for name in node.data_vars]
patches = tree["patches"]
group, _, name = row.partition("/")
single = xarray.open_zarr(ZipStore(path, mode="r"), group="patches", consolidated=False, chunks=None)
assert (single["coords"].values == patches["coords"].values).all()
read = {each: patches[each].values for each in ("coords", "features", "weights")}
tell(names, *read.values(), tree[group][name].values[0])
"""
DASK = """
import dask.array, zarr
from zarr.storage import ZipStore
root = zarr.open_group(ZipStore(path, mode="r"), mode="r")
arrays = {name: dask.array.from_zarr(node) for name, node in root.members(max_depth=None) if hasattr(node, "shape")}
read = {name: array.compute(scheduler="synchronous") for name, array in arrays.items()}
tell(read, read["patches/coords"], read["patches/features"], read["patches/weights"], arrays[row][0].compute())
"""
ZARR = """
import zarr
from zarr.storage import ZipStore
root = zarr.open_group(ZipStore(path, mode="r"), mode="r")
read = {name: node[...] for name, node in root.members(max_depth=None) if hasattr(node, "shape")}
tell(read, read["patches/coords"], read["patches/features"], read["patches/weights"], read[row][0])
"""
NGFF_ZARR = """
import ngff_zarr, zarr
from zarr.storage import ZipStore
image = ngff_zarr.from_ngff_zarr(path, version="0.5").images[0]
root = zarr.open_group(ZipStore(path, mode="r"), mode="r")
assert image.dims == ("c", "y", "x"), image.dims
assert image.axes_units["x"] == "micrometer", image.axes_units
assert (image.data.compute() == root["0"][...]).all()
read = {name: node[...] for name, node in root.members(max_depth=None) if hasattr(node, "shape")}
tell(read, read["patches/coords"], read["patches/features"], read["patches/weights"], read[row][0])
"""
PROGRAMS = {
    "zarr": ZARR,
    "tensorstore": TENSORSTORE,
    "xarray": XARRAY,
    "dask": DASK,
    "ngff_zarr": NGFF_ZARR,
}


def told(program: str, path: Path, row: str) -> dict[str, Any]:
    """What the program found in the summary. Warnings are no errors of ours."""
    command = [sys.executable, "-W", "ignore", "-c", ALONE + program, path, row]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("mode", ["source", "models"])
def test_a_program_lists_and_reads_a_summary(name: str, mode: str, tmp_path: Path):
    if find_spec(name) is None:
        pytest.skip(f"needs {name}")
    path = write_tiny(tmp_path / "tiny.ozx", mode)
    row = "patches/tiles" if mode == "source" else "patches/pixels"
    found = told(PROGRAMS[name], path, row)
    with open_summary(path) as summary:
        arrays = [name.removesuffix("/zarr.json") for name in summary.members if name.endswith("/zarr.json")]
        groups = {"patches", "tissue", "reference", "overview", "artefact"}
        assert found["names"] == sorted(array for array in arrays if array not in {*groups, "zarr.json"})
        wanted = [summary.coords.sum(), summary.features.astype(float).sum(), summary.weights.sum()]
        assert found["numbers"] == pytest.approx([float(number) for number in wanted])
        stored = jpeg.decode(bytes.fromhex(found["stream"]))  # with the zeros behind it
        shard = summary.patches.shard
        np.testing.assert_array_equal(stored, shard.decoded(0))
