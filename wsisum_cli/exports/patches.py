"""The kept patches as image files, with a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsisum_cli.exports.about import describe
from wsisum_cli.exports.folders import put
from wsisum_cli.exports.images import choose_images
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.tables import as_csv
from wsisum_cli.quality.guarantee import MM2
from wsisum_cli.summary.inspection import StoredPatch, kept_patches
from wsisum_cli.summary.limits.plain_text import plain_json, printable
from wsisum_cli.summary.reader import Summary

MARKER, TABLE, PROFILE = "summary.json", "patches.csv", "icc_profile.icc"
COLUMNS = ("file", "number", "picked", "x", "y", "side", "mpp", "weight", "represents", "represents_mm2", "cluster")


def write_patches(summary: Summary, folder: Path, options: ExportOptions) -> None:
    """Write the patches into an empty folder, numbered by falling weight. Raises SummaryError."""
    record, images = summary.record, choose_images(summary, options.images)
    side, kept = record.patch.patch_size_level0, kept_patches(summary)
    rows: list[list[Any]] = [[*COLUMNS, "suspect", "slide"]]
    patch_mm2 = (side * record.source.mpp) ** 2 * MM2
    for patch in kept:
        name = file_name(patch, len(kept), images.suffix)
        images.write(patch.picked - 1, folder / name)
        area = round(patch.stands_for * patch_mm2, 6)
        places = (patch.number, patch.picked, patch.x, patch.y, side, f"{images.mpp:.6g}")
        measured = (f"{patch.weight:.6f}", patch.stands_for, area, patch.cluster, patch.suspect or "")
        rows.append([name, *places, *measured, printable(record.source.name)])
    put(folder / TABLE, as_csv(rows).encode())
    put(folder / MARKER, plain_json(describe(summary).as_json()).encode())
    if summary.icc_profile is not None:
        put(folder / PROFILE, summary.icc_profile)


def file_name(patch: StoredPatch, count: int, suffix: str) -> str:
    """The name of a patch's file: numbers have as many digits as the highest one, so that names sort."""
    return f"patch-{patch.number:0{len(str(count))}}{suffix}"
