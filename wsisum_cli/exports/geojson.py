"""Kept patches, unrepresented regions, tissue and suspect tissue as annotations in GeoJSON, as QuPath reads it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.exports.about import describe, statement
from wsisum_cli.exports.folders import put
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.outlines import Polygon, area, outlines
from wsisum_cli.quality.represented import TissuePlaces, is_represented, unrepresented
from wsisum_cli.summary.inspection import kept_patches
from wsisum_cli.summary.limits.plain_text import plain_json_text
from wsisum_cli.summary.reader import Summary
from wsisum_cli.tissue.artefacts import KINDS

# Colours that people with any colour vision tell apart (Okabe and Ito).
TISSUE = ("Tissue", (130, 130, 130))
MISSING = ("Not represented", (213, 94, 0))
SUSPECT = ("Suspect", (204, 121, 167))
REMOVED = ("Removed", (60, 60, 60))
KEPT = ("Kept patch", (0, 114, 178))
Class = tuple[str, tuple[int, int, int]]
Feature = dict[str, Any]


def write_geojson(summary: Summary, path: Path, _options: ExportOptions) -> None:
    """Write a FeatureCollection to `path`, in level-0 px. Raises SummaryError."""
    sha256 = summary.record.source.sha256
    features = list(all_features(summary))
    for number, feature in enumerate(features):
        # QuPath takes UUIDs alone; the same summary gives the same ones.
        feature["id"] = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{sha256} {number} {feature['properties']['name']}"))
    found = {"type": "FeatureCollection", "wsisum": describe(summary).as_json(), "features": features}
    text = json.dumps(found, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    put(path, plain_json_text(text).encode())


def all_features(summary: Summary) -> Iterator[Feature]:
    """Large ones first, so that none hides another."""
    places = places_of(summary)
    yield tissue_feature(summary, places)
    yield from missing_features(summary, places)
    suspect = summary.tissue.suspect
    if suspect is not None:
        yield from features_by_kind(SUSPECT, summary.tissue.coords, suspect, places)
    artefacts = summary.artefacts
    if not artefacts.ignored:
        yield from features_by_kind(REMOVED, artefacts.coords, artefacts.kind, places)
    yield from kept_features(summary, places)


def places_of(summary: Summary) -> TissuePlaces:
    record = summary.record
    unread = 0 if record.represented is None else record.represented.unread
    return TissuePlaces(summary.tissue.coords, record.patch.patch_size_level0, record.source.mpp, unread)


def tissue_feature(summary: Summary, places: TissuePlaces) -> Feature:
    """What all tissue patches cover, locked, with the statement on the summary as metadata."""
    count = len(places.coords)
    found = feature(TISSUE, "Tissue", outlines(places.coords, places.patch_size_level0), sizes(count, places))
    found["properties"] |= {"isLocked": True, "metadata": {"Summary": statement(summary.record)}}
    return found


def missing_features(summary: Summary, places: TissuePlaces) -> Iterator[Feature]:
    """Regions without a look-alike among the kept patches, largest first; none before format 1.4."""
    section = summary.record.represented
    if section is None:
        return
    tissue = summary.tissue
    numbers = numbers_by_row(summary)
    missing = np.flatnonzero(~is_represented(tissue.similarity, section.cosine))
    for index, rows in enumerate(unrepresented(places, missing), 1):
        nearest = int(np.bincount(tissue.representative[rows]).argmax())
        measured = {
            **sizes(len(rows), places),
            "Nearest kept patch": numbers[nearest],
            "Cosine to it": round(float(tissue.similarity[rows].astype(np.float64).mean()), 4),
        }
        shape = outlines(places.coords[rows], places.patch_size_level0)
        yield feature(MISSING, f"Not represented {index}", shape, measured)


def features_by_kind(base: Class, coords: np.ndarray, kinds: np.ndarray, places: TissuePlaces) -> Iterator[Feature]:
    """One feature for each kind and connected area of patches with that kind, 0 for none."""
    for code in sorted(set(kinds[kinds > 0].tolist())):
        shapes = outlines(coords[kinds == code], places.patch_size_level0)
        for index, shape in enumerate(shapes, 1):
            name = f"{base[0]}: {KINDS[code]}"
            yield feature((name, base[1]), f"{name} {index}", [shape], area_of(shape, places))


def kept_features(summary: Summary, places: TissuePlaces) -> Iterator[Feature]:
    """The kept patches, numbered as `inspect` numbers them: by falling weight."""
    for patch in kept_patches(summary):
        corner = np.array([[patch.x, patch.y]])
        represents = sizes(patch.stands_for, places)
        measured = {
            "Weight": patch.weight,
            "Represents patches": represents["Patches"],
            "Represents mm2": represents["Area mm2"],
            "Picked": patch.picked,
            "Cluster": patch.cluster,
        }
        name = f"Patch {patch.number}" + (f" ({patch.suspect})" if patch.suspect else "")
        yield feature(KEPT, name, outlines(corner, places.patch_size_level0), measured)


def numbers_by_row(summary: Summary) -> dict[int, int]:
    """The number of each kept patch by its row."""
    return {patch.picked - 1: patch.number for patch in kept_patches(summary)}


def sizes(count: int, places: TissuePlaces) -> dict[str, float]:
    return {"Patches": count, "Area mm2": round(count * places.patch_mm2, 6)}


def area_of(shape: Polygon, places: TissuePlaces) -> dict[str, float]:
    """Area of a polygon, as the squares cover it."""
    px = sum(area(ring) for ring in shape) / 2
    return {"Area mm2": round(px * places.mpp**2 * 1e-6, 6)}


def feature(kind: Class, name: str, shape: list[Polygon], measured: Mapping[str, float]) -> Feature:
    """An annotation of QuPath."""
    single = len(shape) == 1
    geometry = {"type": "Polygon" if single else "MultiPolygon", "coordinates": shape[0] if single else shape}
    classification = {"name": kind[0], "color": list(kind[1])}
    properties = {"objectType": "annotation", "name": name, "classification": classification}
    return {
        "type": "Feature",
        "id": "",
        "geometry": geometry,
        "properties": {**properties, "measurements": dict(measured)},
    }
