"""Bring a summary of an earlier major format to the current one. The slide is not needed."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsisum_cli.errors import SummaryError
from wsisum_cli.summary.arrays import encode_rows
from wsisum_cli.summary.container import refuse_existing, write_container, writing_aside
from wsisum_cli.summary.limits.metadata import parse_json
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.summary.stored.jpeg_rows import JpegRows
from wsisum_cli.summary.writer import (
    EMBEDDINGS,
    FORMAT_VERSION,
    ICC_DIMENSIONS,
    ICC_PROFILE,
    OVERVIEW,
    PIXELS,
    ROOT,
    TILES,
    list_members,
)
from wsisum_cli.verification.verify import verify_summary

#: Arrays of JPEG streams, and what their rows are.
STREAMS = {TILES: "tile", PIXELS: "patch", OVERVIEW: "image"}


@dataclass(frozen=True)
class MigrateResult:
    """What became of one summary."""

    name: str
    migrated_from: str | None  # None where it had the current format and was copied
    bytes_in: int
    bytes_out: int


def migrate_summary(path: Path, output: Path, force: bool = False) -> MigrateResult:
    """Write the summary at `path` to `output` in the current format, with all that it holds; a current one is copied.

    `output` may be `path` itself with `force`. Raises SummaryError when the summary is damaged or what was written does
    not verify, UsageError when `output` exists and `force` is not set, OSError.
    """
    refuse_existing([output], force)
    refuse_damaged(path, path.name)
    before = path.stat().st_size
    with open_summary(path) as summary:
        old = summary.record.format_version if summary.is_first_major else None
        files = migrated_files(summary) if summary.is_first_major else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    with writing_aside(output) as aside:
        if old is None:
            shutil.copyfile(path, aside)
        else:
            write_container(aside, files)
        refuse_damaged(aside, f"{output.name} as written")
    return MigrateResult(path.name, old, before, output.stat().st_size)


def refuse_damaged(path: Path, name: str) -> None:
    """Raise SummaryError unless the file at `path` verifies."""
    bad = [finding for finding in verify_summary(path).findings if finding.severity == "error"]
    if bad:
        raise SummaryError(f"{name}: damaged, cannot be migrated: {bad[0].message}; run wsisum verify on it")


def migrated_files(summary: Summary) -> dict[str, bytes]:
    """All members of the summary in the current format."""
    files = current_members(summary)
    root = parse_json(summary.read(ROOT))
    root["attributes"]["wsisum"] = {**current_attributes(summary), "members": list_members(files)}
    return {**files, ROOT: json.dumps(root, separators=(",", ":"), allow_nan=False).encode()}


def current_attributes(summary: Summary) -> dict[str, Any]:
    """The attributes as the current format has them."""
    if not summary.is_first_major:
        return summary.attributes
    return {
        "format_version": FORMAT_VERSION,
        "migrated_from": summary.attributes["format_version"],
        **{name: value for name, value in summary.attributes.items() if name != "format_version"},
    }


def current_members(summary: Summary) -> dict[str, bytes]:
    """All members but the root's metadata, as the current format stores them."""
    streams = tuple(f"{name}/" for name in STREAMS)
    copied = {name: summary.read(name) for name in summary.members if name != ROOT}
    if not summary.is_first_major:
        return copied
    files = {name: renamed(name, data) for name, data in copied.items() if not name.startswith(streams)}
    for array, dimension in STREAMS.items():
        if f"{array}/zarr.json" in summary.members:
            rows = JpegRows(summary, array)
            files |= encode_rows(array, [rows.stream(row) for row in range(len(rows))], dimension)
    return files


def renamed(member: str, data: bytes) -> bytes:
    """The metadata of an array whose dimensions have other names since 2.0; all else as it is."""
    names = {f"reference/{array}": dimensions for array, (_, dimensions) in EMBEDDINGS.items()}
    names[ICC_PROFILE] = ICC_DIMENSIONS
    array, _, rest = member.rpartition("/")
    if rest != ROOT or array not in names:
        return data
    metadata = {**json.loads(data), "dimension_names": names[array]}
    return json.dumps(metadata, separators=(",", ":")).encode()
