"""A SpatialData store: patches as table and shapes, tissue and what is missing as shapes, the overview as image."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.exports.about import describe
from wsisum_cli.exports.folders import put
from wsisum_cli.exports.geojson import missing_features, places_of
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.summary.inspection import kept_patches
from wsisum_cli.summary.limits.plain_text import plain_json
from wsisum_cli.summary.reader import Summary
from wsisum_cli.tissue.artefacts import KINDS

MARKER, PACKAGE = "summary.json", "spatialdata"
STORE = "store.zarr"  # SpatialData writes to a path at which nothing exists


def write_spatialdata(summary: Summary, folder: Path, _options: ExportOptions) -> None:
    """Write the store into an empty folder. All coordinates are level-0 px. Raises SummaryError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about the next versions of libraries
        write_store(summary, folder / STORE)
    for found in sorted((folder / STORE).iterdir()):
        found.rename(folder / found.name)
    (folder / STORE).rmdir()
    put(folder / MARKER, plain_json(describe(summary).as_json()).encode())


def write_store(summary: Summary, path: Path) -> None:
    from spatialdata import SpatialData

    shapes = {"patches": kept_shapes(summary), "tissue": tissue_shapes(summary), **missing_shapes(summary)}
    data = SpatialData(
        images={"overview": overview_image(summary)},
        shapes=shapes,
        tables={"features": feature_table(summary)},
        attrs={"wsisum": describe(summary).as_json()},
    )
    data.write(path)


def overview_image(summary: Summary) -> Any:
    """The overview, scaled to level-0 px."""
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale

    source, overview = summary.record.source, summary.overview
    scale = Scale([source.width / overview.shape[1], source.height / overview.shape[0]], axes=("x", "y"))
    pixels = np.moveaxis(overview, 2, 0)
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations={"global": scale})


def squares(coords: np.ndarray, side: int, columns: dict[str, Any]) -> Any:
    """A row for each square of `side` with its upper left corner at `coords` (M, 2)."""
    from geopandas import GeoDataFrame
    from shapely import box
    from spatialdata.models import ShapesModel

    corners = coords.astype(float)
    frame = GeoDataFrame(columns, geometry=box(*corners.T, *(corners + side).T))
    return ShapesModel.parse(frame)


def kept_shapes(summary: Summary) -> Any:
    """The kept patches, in order of picking."""
    return squares(summary.coords, summary.record.patch.patch_size_level0, {"weight": summary.weights})


def tissue_shapes(summary: Summary) -> Any:
    """All tissue patches, with the row of the kept patch that represents each."""
    tissue = summary.tissue
    suspect = np.zeros(len(tissue.coords), int) if tissue.suspect is None else tissue.suspect
    columns = {
        "representative": tissue.representative,
        "similarity": tissue.similarity.astype(np.float32),
        "cluster": tissue.cluster,
        "suspect": ["" if not code else KINDS[code] for code in suspect.tolist()],
    }
    return squares(tissue.coords, summary.record.patch.patch_size_level0, columns)


def missing_shapes(summary: Summary) -> dict[str, Any]:
    """The unrepresented regions; empty where there are none, or before format 1.4."""
    from geopandas import GeoDataFrame
    from shapely.geometry import shape
    from spatialdata.models import ShapesModel

    features = list(missing_features(summary, places_of(summary)))
    if not features:
        return {}
    measured = [feature["properties"]["measurements"] for feature in features]
    columns = {
        "mm2": [each["Area mm2"] for each in measured],
        "nearest_patch": [each["Nearest kept patch"] for each in measured],
        "cosine": [each["Cosine to it"] for each in measured],
    }
    frame = GeoDataFrame(columns, geometry=[shape(feature["geometry"]) for feature in features])
    return {"not_represented": ShapesModel.parse(frame)}


def feature_table(summary: Summary) -> Any:
    """Features of the kept patches, with what is known of each; it annotates the shapes `patches`."""
    from anndata import AnnData
    from pandas import Categorical, DataFrame
    from spatialdata.models import TableModel

    rows = {patch.picked - 1: patch for patch in kept_patches(summary)}
    kept = [rows[row] for row in range(len(rows))]
    about = DataFrame(
        {
            "number": [patch.number for patch in kept],
            "weight": summary.weights,
            "represents": summary.counts,
            "cluster": summary.cluster,
            "suspect": [patch.suspect or "" for patch in kept],
            "region": Categorical(["patches"] * len(kept)),
            "instance": np.arange(len(kept)),
        },
        index=[str(row) for row in range(len(kept))],
    )
    table = AnnData(summary.features.astype(np.float32), obs=about)
    table.obsm["spatial"] = summary.coords + summary.record.patch.patch_size_level0 / 2
    return TableModel.parse(table, region="patches", region_key="region", instance_key="instance")
