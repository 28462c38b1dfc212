"""The formats that a summary can be exported to. A new one is a room of its own and a line in this list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from wsisum_cli.exports.geojson import write_geojson
from wsisum_cli.exports.h5 import write_h5
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.patches import MARKER as PATCHES_MARKER
from wsisum_cli.exports.patches import write_patches
from wsisum_cli.exports.report import MARKER as REPORT_MARKER
from wsisum_cli.exports.report import write_report
from wsisum_cli.exports.spatialdata import MARKER as SPATIALDATA_MARKER
from wsisum_cli.exports.spatialdata import PACKAGE, write_spatialdata
from wsisum_cli.exports.tiff.levels import write_tiff
from wsisum_cli.exports.zarr import MARKER as ZARR_MARKER
from wsisum_cli.exports.zarr import write_zarr
from wsisum_cli.summary.reader import Summary


@dataclass(frozen=True)
class Target:
    """A format. `write` gets a path at which nothing exists."""

    name: str
    suffix: str  # of the output, behind the summary's name
    write: Callable[[Summary, Path, ExportOptions], None]
    #: file within the folder by which a later run knows a folder of ours; None where the output is a file
    marker: str | None = None
    #: package that is an extra of the same name; None where nothing more is needed
    extra: str | None = None

    @property
    def is_available(self) -> bool:
        """Whether everything that it needs is installed."""
        return self.extra is None or find_spec(self.extra) is not None


#: By name. The suffix of all but h5 says that it is a summary: MIL tools find a slide's label by the name of its h5.
TARGETS = {
    target.name: target
    for target in (
        Target("h5", ".h5", write_h5),
        Target("geojson", ".summary.geojson", write_geojson),
        Target("tiff", ".summary.ome.tiff", write_tiff),
        Target("patches", ".patches", write_patches, PATCHES_MARKER),
        Target("zarr", ".summary.ome.zarr", write_zarr, ZARR_MARKER),
        Target("report", ".report", write_report, REPORT_MARKER),
        Target("spatialdata", ".summary.spatialdata.zarr", write_spatialdata, SPATIALDATA_MARKER, PACKAGE),
    )
}
