"""Files of every format that was ever written open, verify, and can be brought to the current one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.pipeline.migrate import migrate_summary
from wsisum_cli.summary.attributes import VERSIONS
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.summary.writer import FORMAT_VERSION, PIXELS, TILES
from wsisum_cli.verification.verify import verify_summary

FOLDER = Path(__file__).parents[1] / "data" / "formats"
OLDER = sorted(FOLDER.glob("1.*.ozx"))
each = pytest.mark.parametrize("path", OLDER, ids=lambda path: path.stem)


def streams(summary: Summary) -> list[bytes]:
    shard = summary.patches.shard
    return [shard.stream(row) for row in range(len(shard))]


def test_there_is_a_file_of_every_earlier_format_and_kind_of_pixels():
    assert {path.stem for path in OLDER} == {f"{v}-{mode}" for v in VERSIONS[:-1] for mode in ("jpeg", "source")}


@each
def test_files_of_earlier_formats_are_intact(path: Path):
    with open_summary(path) as summary:
        assert summary.record.format_version == path.stem.split("-")[0]
        assert summary.patches[0].shape[2] == 3
    assert not [finding for finding in verify_summary(path).findings if finding.severity == "error"]


@each
def test_migration_loses_nothing(path: Path, tmp_path: Path):
    done = migrate_summary(path, tmp_path / "new.ozx")
    assert done.migrated_from == path.stem.split("-")[0]
    with open_summary(path) as old, open_summary(tmp_path / "new.ozx") as new:
        assert (new.record.format_version, new.record.migrated_from) == (FORMAT_VERSION, done.migrated_from)
        assert new.record.revision == old.record.revision
        changed = {"format_version", "migrated_from", "members"}
        assert {k: v for k, v in new.attributes.items() if k not in changed} == {
            k: v for k, v in old.attributes.items() if k not in changed
        }
        assert streams(new) == streams(old)
        assert all(np.array_equal(*pair) for pair in zip(new.patches, old.patches, strict=True))
        assert np.array_equal(new.overview, old.overview)
        arrays = {name.removesuffix("/zarr.json") for name in old.members if "/c/" not in name and "/" in name}
        for name in arrays - {
            TILES,
            PIXELS,
            "overview/pixels",
            "patches",
            "tissue",
            "reference",
            "overview",
            "artefact",
        }:
            assert np.array_equal(old.array(name), new.array(name)), name
    old_found, new_found = verify_summary(path), verify_summary(tmp_path / "new.ozx")
    assert [finding.code for finding in old_found.findings] == [finding.code for finding in new_found.findings]
    assert old_found.verdict == new_found.verdict


def test_a_current_summary_is_copied_and_nothing_is_replaced_unasked(tmp_path: Path):
    migrate_summary(OLDER[-1], tmp_path / "a.ozx")
    done = migrate_summary(tmp_path / "a.ozx", tmp_path / "b.ozx")
    assert done.migrated_from is None
    assert (tmp_path / "b.ozx").read_bytes() == (tmp_path / "a.ozx").read_bytes()
    with pytest.raises(UsageError, match="already exists; use --force"):
        migrate_summary(OLDER[0], tmp_path / "a.ozx")


def test_a_damaged_summary_is_not_migrated(tmp_path: Path):
    data = bytearray(OLDER[0].read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "old.ozx").write_bytes(data)
    with pytest.raises(SummaryError, match=r"old\.ozx: damaged, cannot be migrated"):
        migrate_summary(tmp_path / "old.ozx", tmp_path / "new.ozx")
    assert not (tmp_path / "new.ozx").exists()


#: A program that has zarr-python alone: its list of codecs is emptied of this package's.
PLAIN = """
import importlib.metadata, sys
found = importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **wanted: importlib.metadata.EntryPoints(
    point for point in (found(**wanted) if wanted else
        (p for d in importlib.metadata.distributions() for p in d.entry_points)) if "wsisum" not in point.value)
import zarr
from zarr.storage import ZipStore
root = zarr.open_group(ZipStore(sys.argv[1], mode="r"), mode="r")
arrays = {name: node for name, node in root.members(max_depth=None) if isinstance(node, zarr.Array)}
for name, array in arrays.items():
    array[...]
row = arrays["patches/pixels" if "patches/pixels" in arrays else "patches/tiles"][0]
assert row[:2].tobytes() == bytes((0xFF, 0xD8)), row[:2]
assert "wsisum_cli" not in sys.modules
print(len(arrays))
"""


@pytest.mark.parametrize("mode", ["jpeg", "source"])
def test_zarr_without_this_package_reads_every_array(mode: str, tmp_path: Path):
    migrate_summary(FOLDER / f"1.4-{mode}.ozx", tmp_path / "new.ozx")
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, tmp_path / "new.ozx"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) > 15
