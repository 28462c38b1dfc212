"""Files of every format that was ever written open, verify, and can be brought to the current one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import ENCODER
from schema import VALIDATOR

from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.models.card import Card
from wsisum_cli.pipeline.migrate import migrate_summary
from wsisum_cli.pipeline.reembed import reembed_summary
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


@each
def test_files_of_earlier_formats_take_further_features(path: Path, tmp_path: Path):
    with open_summary(path) as summary:
        patch, revision = summary.record.patch, summary.record.revision
        assert (summary.reembedded, summary.tissue_features) == ((), None)
    card = Card.model_validate({**ENCODER, "name": "mean", "patch_size": patch.patch_size, "mpp": patch.mpp, "dims": 3})

    class Mean:
        provider, batch_size = "CPUExecutionProvider", 4

        def __init__(self) -> None:
            self.card = card.model_copy(update={"sha256": "12" * 32})

        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            return pixels.mean(axis=(1, 2), dtype=np.float32)

    encoder: Any = Mean()
    reembed_summary(path, tmp_path / "new.ozx", encoder)
    with open_summary(tmp_path / "new.ozx") as summary:
        assert (summary.record.format_version, summary.record.revision) == (FORMAT_VERSION, revision)
        VALIDATOR.validate(summary.attributes)
        wanted = [patch.mean(axis=(0, 1), dtype=np.float32) for patch in summary.patches]
        np.testing.assert_array_equal(summary.reembedded[0], np.array(wanted, np.float16))
    found = verify_summary(tmp_path / "new.ozx", lambda card: encoder if card.name == "mean" else None)
    assert not [finding for finding in found.findings if finding.severity == "error"]


def test_a_dimension_of_the_root_is_in_no_group(tmp_path: Path):
    migrate_summary(FOLDER / "1.4-jpeg.ozx", tmp_path / "new.ozx")
    with open_summary(tmp_path / "new.ozx") as summary:
        names = {
            name: json.loads(summary.read(name)).get("dimension_names", [])
            for name in summary.members
            if name.endswith("zarr.json")
        }
    root = {name for member, found in names.items() if member.count("/") == 1 for name in found}
    groups = {name for member, found in names.items() if member.count("/") == 2 for name in found}
    assert root
    assert groups
    assert not root & groups


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
