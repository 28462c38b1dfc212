"""The h5 of an export, as the readers of CLAM, TRIDENT and STAMP take it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from draw import write_tiff
from summaries import DIMS, KEPT, SIDE, TISSUE, draw_slide, write_tiny

from wsisum_cli.errors import FeaturesError
from wsisum_cli.exports.export import export_summary
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.features.encode import read_features
from wsisum_cli.features.h5 import is_whole, load_h5, read_feature_file
from wsisum_cli.pipeline.product import features_provenance
from wsisum_cli.slides.slide import open_slide
from wsisum_cli.summary.reader import open_summary


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "B12.ozx")


def write(tiny: Path, layout: str) -> Path:
    output = tiny.with_name("out") / "B12.h5"
    export_summary(tiny, output, TARGETS["h5"], ExportOptions(layout=layout))
    return output


@pytest.mark.parametrize("layout", ["trident", "clam"])
def test_what_clam_and_trident_load(tiny: Path, layout: str):
    """CLAM's bags read features and coords whole; TRIDENT's slide encoders also patch_size_level0."""
    with h5py.File(write(tiny, layout)) as file, open_summary(tiny) as summary:
        features, coords = file["features"][:], file["coords"][:]
        assert (features.shape, features.dtype) == ((KEPT, DIMS), np.float32)
        assert (coords.shape, coords.dtype) == ((KEPT, 2), np.int64)
        np.testing.assert_array_equal(features, summary.features.astype(np.float32))
        np.testing.assert_array_equal(coords, summary.coords)
        about = dict(file["coords"].attrs)
        assert about["patch_size_level0"] == 2 * SIDE
        assert about["mpp"] == 0.25
        assert about["name"] == "B12"


def test_trident_attributes_give_the_size_of_a_patch(tiny: Path):
    """TRIDENT derives the level-0 side from patch_size and the two magnifications."""
    with h5py.File(write(tiny, "trident")) as file:
        about = dict(file["coords"].attrs)
        assert about["patch_size"] * about["level0_magnification"] // about["target_magnification"] == 2 * SIDE
        assert (about["level0_width"], about["level0_height"], about["overlap"]) == (640, 640, 0)
        assert (about["level0_magnification"], about["target_magnification"]) == (40, 20)


def test_clam_reads_the_same_squares_from_the_slide(tiny: Path):
    """CLAM reads patch_size px of patch_level at each of coords."""
    with h5py.File(write(tiny, "clam")) as file:
        about = dict(file["coords"].attrs)
        assert (about["patch_level"], about["patch_size"]) == (0, 2 * SIDE)
        assert about["downsample"].tolist() == [1, 1]
        assert about["level_dim"].tolist() == about["downsampled_level_dim"].tolist() == [640, 640]


def test_what_stamp_loads(tiny: Path):
    """STAMP takes feats, and coords in µm with tile_size_um and tile_size_px among the attributes of the file."""
    with h5py.File(write(tiny, "stamp")) as file, open_summary(tiny) as summary:
        assert (file["feats"].shape, file["feats"].dtype) == ((KEPT, DIMS), np.float32)
        np.testing.assert_allclose(file["coords"][:], summary.coords * 0.25)
        about = dict(file.attrs)
        assert (about["unit"], about["tile_size_um"], about["tile_size_px"]) == ("um", 2 * SIDE * 0.25, SIDE)
        assert "tile_size" not in about
        assert "stamp_version" not in about


@pytest.mark.parametrize("layout", ["trident", "stamp", "clam"])
def test_weights_and_counts_are_there_and_the_file_says_what_it_is(tiny: Path, layout: str):
    path = write(tiny, layout)
    assert is_whole(path)
    with h5py.File(path) as file, open_summary(tiny) as summary:
        np.testing.assert_array_equal(file["weights"][:], summary.weights)
        np.testing.assert_array_equal(file["counts"][:], summary.counts)
        assert file["weights"][:].sum() == pytest.approx(1)
        assert file["counts"][:].sum() == TISSUE
        about = json.loads(file.attrs["wsisum"])
        assert about["kind"] == "export of a summary slide"
        assert f"{KEPT} of its {TISSUE} tissue patches" in about["note"]
        assert about["note"].startswith("This is not a slide.")
        assert about["source"]["sha256"] == summary.record.source.sha256
        assert file.attrs["encoder_sha256"] == summary.record.features_encoder


@pytest.mark.parametrize("layout", ["trident", "stamp", "clam"])
def test_our_own_reader_understands_it(tiny: Path, layout: str):
    found = load_h5(write(tiny, layout))
    with open_summary(tiny) as summary:
        scale = 0.25 if layout == "stamp" else 1
        np.testing.assert_allclose(found.coords, summary.coords * scale)
        assert found.features.shape == summary.features.shape
        unit = found.um_per_unit
        assert found.stated_side(mpp=1.0 if unit is None else unit) == 2 * SIDE * scale
        assert (found.encoder, found.encoder_sha256) == ("stub", summary.record.features_encoder)


@pytest.mark.parametrize("layout", ["trident", "stamp", "clam"])
def test_training_and_evaluation_refuse_it(tiny: Path, layout: str):
    with pytest.raises(FeaturesError, match="expected features of all tissue"):
        read_feature_file(write(tiny, layout), DIMS)


def test_features_of_a_summary_are_not_taken_for_those_of_all_tissue(tiny: Path, tmp_path: Path):
    slide = tmp_path / "B12.tiff"
    write_tiff(slide, draw_slide(), mpp=0.25)
    with open_slide(slide) as opened, pytest.raises(FeaturesError, match="exported from a summary"):
        read_features(write(tiny, "trident"), opened, None)


def test_wsisum_features_leaves_it_alone(tiny: Path):
    """`wsisum features` takes for its own only what it can read the provenance of."""
    with pytest.raises(ValueError, match="FeatureProvenance"):
        features_provenance(write(tiny, "trident"))


def test_same_bytes_again(tiny: Path):
    first = write(tiny, "trident").read_bytes()
    export_summary(tiny, tiny.with_name("out") / "B12.h5", TARGETS["h5"], force=True)
    assert (tiny.with_name("out") / "B12.h5").read_bytes() == first
