"""A SpatialData store, read back by SpatialData where that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import wsisum
from summaries import DIMS, KEPT, TISSUE, write_tiny

from wsisum_cli.errors import UsageError
from wsisum_cli.exports import targets
from wsisum_cli.exports.export import export_summary
from wsisum_cli.exports.targets import TARGETS

SUFFIX = TARGETS["spatialdata"].suffix
#: In a process of its own: its imports warn of many things.
READ = """
import json, sys, spatialdata
data = spatialdata.read_zarr(sys.argv[1])
obs, extent = data.tables["features"].obs, spatialdata.get_extent(data["overview"])
print(json.dumps({
    "rows": {name: len(shapes) for name, shapes in data.shapes.items()},
    "features": data.tables["features"].X.shape,
    "weight": obs["weight"].sum(), "represents": int(obs["represents"].sum()),
    "note": data.attrs["wsisum"]["note"], "extent": [float(side) for axis in "xy" for side in extent[axis]],
    "bounds": data["patches"].geometry.iloc[0].bounds,
}))
"""


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'wsisum\[spatialdata\]'"):
        export_summary(write_tiny(tmp_path / "B12.ozx"), tmp_path / f"B12{SUFFIX}", TARGETS["spatialdata"])
    assert [path.name for path in tmp_path.iterdir()] == ["B12.ozx"]


@pytest.mark.skipif(not TARGETS["spatialdata"].is_available, reason="needs the extra spatialdata")
def test_spatialdata_reads_it_back(tmp_path: Path):
    summary = write_tiny(tmp_path / "B12.ozx", "source")
    stores = [tmp_path / name / f"B12{SUFFIX}" for name in ("a", "b")]
    for store in stores:
        done = wsisum("export", summary, "--to", "spatialdata", "-o", store.parent)
        assert (done.returncode, done.stderr) == (0, "")
    read = [sys.executable, "-W", "ignore", "-c", READ, str(stores[0])]
    found = json.loads(subprocess.run(read, capture_output=True, text=True, check=True).stdout)
    assert (found["rows"]["patches"], found["rows"]["tissue"], found["features"]) == (KEPT, TISSUE, [KEPT, DIMS])
    assert (found["weight"], found["represents"]) == (pytest.approx(1), TISSUE)
    assert found["extent"] == [0, 640, 0, 640]
    assert found["bounds"] == [0, 0, 64, 64]
    assert found["note"].startswith("This is not a slide.")
    first, second = (
        {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}
        for store in stores
    )
    assert first == second
    assert not [name for name, content in first.items() if str(tmp_path).encode() in content]
    again = wsisum("export", summary, "--to", "spatialdata", "-o", stores[0].parent, "--force")
    assert (again.returncode, again.stderr) == (0, "")
