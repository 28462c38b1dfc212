"""The OME-Zarr hierarchy of a summary as a folder, for programs that read no ZIP."""

from __future__ import annotations

from pathlib import Path

from wsisum_cli.exports.folders import put
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.writer import ROOT

MARKER = ROOT


def write_zarr(summary: Summary, folder: Path, _options: ExportOptions) -> None:
    """Write every member, byte for byte, into an empty folder. Their names were checked when the ZIP was read."""
    for member in summary.listed:
        path = folder.joinpath(*member.name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, summary.read(member.name))
