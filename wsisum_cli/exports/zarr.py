"""The OME-Zarr hierarchy of a summary as a folder, for programs that read no ZIP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from wsisum_cli.exports.folders import put
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.summary.limits.metadata import parse_json
from wsisum_cli.summary.reader import SourcePatches, Summary
from wsisum_cli.summary.writer import PIXELS, ROOT, TILES, list_members

MARKER = ROOT


def write_zarr(summary: Summary, folder: Path, _options: ExportOptions) -> None:
    """Write every member, byte for byte, into an empty folder. Their names were checked when the ZIP was read.

    JPEG streams that are stored as JPEG XL are written as JPEG, as any program reads them.
    """
    recompressed = summary.record.pixels.recompressed is not None
    for name, data in restored_members(summary) if recompressed else stored_members(summary):
        path = folder.joinpath(*name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, data)


def stored_members(summary: Summary) -> Iterator[tuple[str, bytes]]:
    return ((member.name, summary.read(member.name)) for member in summary.listed)


def restored_members(summary: Summary) -> Iterator[tuple[str, bytes]]:
    """The members of the same summary with JPEG streams in place of JPEG XL files. Raises SummaryError."""
    from wsisum_cli.summary.arrays import encode_rows

    array, dimension = (TILES, "tile") if isinstance(summary.patches, SourcePatches) else (PIXELS, "patch")
    shard, rows = summary.patches.shard, (f"{array}/", f"{array}_")
    files = {name: data for name, data in stored_members(summary) if name != ROOT and not name.startswith(rows)}
    files |= encode_rows(array, [shard.stream(row) for row in range(len(shard))], dimension)
    root = parse_json(summary.read(ROOT))
    attributes = root["attributes"]["wsisum"]
    del attributes["pixels"]["recompressed"]
    attributes["members"] = list_members(files)
    yield ROOT, json.dumps(root, separators=(",", ":"), allow_nan=False).encode()
    yield from files.items()
