"""Features that others computed, found and placed on their slide; and features computed here."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisum_cli.errors import BrokenSlideError, FeaturesError, ModelError, TileError
from wsisum_cli.features.encode import (
    GivenFeatures,
    check_places,
    encode_patches,
    find_features,
    in_batches,
    read_features,
)
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import plan_reading
from wsisum_cli.slides.pyramid import Level, Pyramid
from wsisum_cli.slides.slide import Slide

COORDS = np.array([[0, 0], [512, 0], [1024, 512], [1536, 1024]])
FEATURES = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)


class DrawnPyramid(Pyramid):
    """Tiles whose colour says where they are; some are broken."""

    reader, vendor, scanner, mpp, mpp_source, icc_profile = "drawn", "none", None, (0.25, 0.25), "test", None

    def __init__(self, width: int, height: int, broken: frozenset[tuple[int, int]] = frozenset()) -> None:
        self.path = Path("/archive/drawn.svs")
        self.levels = (Level(width, height, 256, 256, 1.0),)
        self.broken = broken

    def tile(self, level: int, column: int, row: int, shrink: int = 1) -> np.ndarray:
        if (column, row) in self.broken:
            raise TileError(f"drawn.svs: tile at column {column}, row {row} of level {level} is broken")
        pixels = np.full((256 // shrink, 256 // shrink, 3), 200, np.uint8)
        pixels[..., 0], pixels[..., 1] = column * 3, row * 3
        return pixels

    def close(self) -> None: ...


def stub_slide(width: int = 4000, height: int = 3000, mpp: float = 0.25) -> Slide:
    return Slide("a.svs", DrawnPyramid(width, height), mpp, "test")


def write_h5(path: Path, datasets: dict[str, Any], attributes: dict[str, dict[str, Any]] | None = None) -> Path:
    """`attributes` by dataset, those of the file itself under "/"."""
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
        for name, found in (attributes or {}).items():
            file[name].attrs.update(found)
    return path


def plain(path: Path, **changes: Any) -> Path:
    """As TRIDENT writes them, unless something is changed; None leaves a dataset out."""
    datasets = {"features": FEATURES, "coords": COORDS, **changes}
    found = {name: values for name, values in datasets.items() if values is not None}
    return write_h5(path, found, {"coords": {"patch_size_level0": 512}} if "coords" in found else None)


# -- the layouts of other programs ---------------------------------------------------------------------------


def test_trident_file_is_read(tmp_path: Path):
    about = {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20}
    about |= {"overlap": 0, "name": "a", "savetodir": "/home/jane/x", "level0_width": 4000, "level0_height": 3000}
    named = {"name": "a", "savetodir": "/home/jane/x", "encoder": "conch_v15"}
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS}, {"coords": about, "features": named})
    found = read_features(path, stub_slide())
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.coords, COORDS)
    assert (found.features.dtype, found.coords.dtype) == (np.float32, np.int32)
    assert (found.patch_size_level0, found.encoder, found.left_out) == (512, "conch_v15", 0)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_trident_file_of_another_slide_size_is_refused(tmp_path: Path):
    about = {"patch_size_level0": 512, "level0_width": 4000, "level0_height": 3001}
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS}, {"coords": about})
    with pytest.raises(FeaturesError, match=r"a\.h5: made from a slide of 4000 x 3001 px, but a\.svs has 4000 x 3000"):
        read_features(path, stub_slide())


def test_trident_without_tissue(tmp_path: Path):
    path = plain(tmp_path / "a.h5", features=np.empty((0, 16), np.float32), coords=np.empty((0, 2), np.int64))
    with pytest.raises(FeaturesError, match=r"a\.h5: expected features of shape \(N, D\), found \(0, 16\)"):
        read_features(path, stub_slide())


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"patch_size": 512, "patch_level": 0, "downsample": np.array([1.0, 1.0])}, 512),
        ({"patch_size": 256, "patch_level": 1, "downsample": np.array([4.0, 4.0])}, 1024),
        ({"patch_size": 256, "patch_level": 1, "downsample": np.array([2.0003, 2.0001])}, 512),
        ({"patch_size": 512, "patch_level": 0}, 512),
    ],
)
def test_clam_file_is_read(tmp_path: Path, about: dict[str, Any], expected: int):
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS}, {"coords": about})
    assert read_features(path, stub_slide()).patch_size_level0 == expected


def test_clam_file_without_patch_size_needs_the_option(tmp_path: Path):
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS})
    with pytest.raises(FeaturesError, match=r"a\.h5: .*--patch-size-level0"):
        read_features(path, stub_slide())
    found = read_features(path, stub_slide(), 448)
    assert (found.patch_size_level0, found.encoder) == (448, "unknown")


def test_clam_file_of_unknown_downsample_needs_the_option(tmp_path: Path):
    about = {"patch_size": 256, "patch_level": 1}
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS}, {"coords": about})
    with pytest.raises(FeaturesError, match="--patch-size-level0"):
        read_features(path, stub_slide())


def test_file_overrides_the_option(tmp_path: Path):
    assert read_features(plain(tmp_path / "a.h5"), stub_slide(), 99).patch_size_level0 == 512


def test_stamp_1_coords_are_px_of_a_resized_slide(tmp_path: Path):
    coords = np.array([[0, 0], [224, 0], [448, 224], [448, 448]])  # 256 µm steps: 1024 px at 0.25 µm
    augmented = np.array([False, False, False, True])
    half = FEATURES.astype(np.float16)
    extractor = {"extractor": "STAMP-extract-001_01-10-2023_xiyuewang-ctranspath-7c998680"}
    path = write_h5(tmp_path / "a.h5", {"feats": half, "coords": coords, "augmented": augmented}, {"/": extractor})
    found = read_features(path, stub_slide(), 99)
    assert found.coords.tolist() == [[0, 0], [1024, 0], [2048, 1024]]
    assert (found.patch_size_level0, found.left_out) == (1024, 1)
    assert found.encoder == extractor["extractor"]
    np.testing.assert_array_equal(found.features, half[:3].astype(np.float32))


def test_stamp_1_without_extractor_name_needs_the_size(tmp_path: Path):
    path = write_h5(tmp_path / "a.h5", {"feats": FEATURES.astype(np.float16), "coords": COORDS})
    with pytest.raises(FeaturesError, match="--patch-size-level0"):
        read_features(path, stub_slide())
    assert read_features(path, stub_slide(), 512).coords.tolist() == COORDS.tolist()


@pytest.mark.parametrize("about", [{"tile_size_um": 128.0, "tile_size_px": 224}, {"tile_size": 128.0}])
def test_stamp_2_coords_are_um(tmp_path: Path, about: dict[str, Any]):
    about = {**about, "unit": "um", "extractor": "mahmood-uni2", "stamp_version": "2.1.0"}
    path = write_h5(tmp_path / "a.h5", {"feats": FEATURES, "coords": COORDS * 0.25}, {"/": about})
    found = read_features(path, stub_slide())
    assert found.coords.tolist() == COORDS.tolist()
    assert (found.patch_size_level0, found.encoder) == (512, "mahmood-uni2")


def test_leading_axis_of_length_one_is_dropped(tmp_path: Path):
    found = read_features(plain(tmp_path / "a.h5", features=FEATURES[None], coords=COORDS[None]), stub_slide())
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.coords, COORDS)


def test_patches_reaching_beyond_the_slide_are_dropped_and_counted(tmp_path: Path):
    found = read_features(plain(tmp_path / "a.h5"), stub_slide(1600, 3000))
    assert found.coords.tolist() == COORDS[:3].tolist()
    np.testing.assert_array_equal(found.features, FEATURES[:3])
    assert found.left_out == 1


def test_centres_that_reach_beyond_the_slide_as_corners_are_refused(tmp_path: Path):
    path = plain(tmp_path / "a.h5", coords=COORDS + 256)
    width, height = (COORDS.max(axis=0) + 512).tolist()
    with pytest.raises(FeaturesError, match="seem to be centres"):
        read_features(path, stub_slide(width, height))
    assert read_features(plain(tmp_path / "b.h5"), stub_slide(width, height)).left_out == 0


def test_a_few_patches_at_the_edge_make_no_centres(tmp_path: Path):
    coords = np.stack([np.arange(40) * 512 + 300, np.full(40, 300)], axis=1)
    features = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    found = read_features(plain(tmp_path / "a.h5", features=features, coords=coords), stub_slide(20_480, 3_000))
    assert (len(found.coords), found.left_out) == (39, 1)


def test_path_in_the_encoder_name_is_dropped(tmp_path: Path):
    for said, expected in (("/home/jane/uni.bin", "uni.bin"), (r"C:\Users\jane\uni", "uni"), (b"conch", "conch")):
        path = plain(tmp_path / "a.h5")
        with h5py.File(path, "a") as file:
            file.attrs["encoder"] = said
        assert read_features(path, stub_slide()).encoder == expected


# -- real files ----------------------------------------------------------------------------------------------


def test_real_ctranspath_features_of_stamp_1(shared: Path):
    files = sorted((shared / "features" / "ctranspath-crc").glob("*.h5"))
    assert len(files) == 4
    for path in files:
        found = read_features(path, stub_slide(200_000, 200_000))
        assert found.features.shape[1] == 768
        assert len(found.features) == len(found.coords) > 2000
        assert found.patch_size_level0 == 1024
        steps = np.unique(np.diff(np.unique(found.coords[:, 0])))
        assert steps.min() == 1024
        assert not (steps % 1024).any()
        assert found.left_out == 0


def test_real_coords_of_clam(shared: Path, tmp_path: Path):
    with h5py.File(shared / "features" / "clam-coords" / "TCGA-2V-A95S-01Z-00-DX1.h5") as file:
        coords, about = file["coords"][()], dict(file["coords"].attrs)
    features = np.random.default_rng(0).standard_normal((len(coords), 8)).astype(np.float32)
    path = write_h5(tmp_path / "a.h5", {"features": features, "coords": coords}, {"coords": about})
    width, height = about["level_dim"].tolist()
    found = read_features(path, stub_slide(width, height))
    assert found.patch_size_level0 == 512
    assert len(found.coords) + found.left_out == 1481
    with pytest.raises(FeaturesError, match="outside the slide"):
        read_features(path, stub_slide(width // 2, height // 2))


def replaced(row: int, values: Any) -> np.ndarray:
    features = FEATURES.copy()
    features[row] = values
    return features


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"features": replaced(2, 0)}, "1 of 4 rows of features hold one number throughout, the first is row 2"),
        ({"features": replaced(1, 0.5)}, "the first is row 1"),
        ({"features": FEATURES * 0}, "4 of 4 rows"),
        ({"features": np.repeat(FEATURES[:1], 4, axis=0)}, "all 4 rows of features are the same"),
        ({"coords": COORDS[[0, 1, 2, 1]]}, r"1 rows are of patches that have a row already, the first at \(512, 0\)"),
    ],
)
def test_rows_that_say_nothing_or_come_twice_are_refused(tmp_path: Path, changes: dict[str, Any], complaint: str):
    with pytest.raises(FeaturesError, match=complaint):
        read_features(plain(tmp_path / "a.h5", **changes), stub_slide())


def test_augmentations_of_a_patch_are_no_second_row(tmp_path: Path):
    path = plain(tmp_path / "a.h5", coords=COORDS[[0, 1, 2, 2]], augmented=np.array([False, False, False, True]))
    assert len(read_features(path, stub_slide()).features) == 3


LEVELS = tuple(Level(16384 // factor, 12288 // factor, 256, 256, float(factor)) for factor in (1, 4, 16))


def on_tissue(coords: np.ndarray) -> GivenFeatures:
    return GivenFeatures(np.zeros((len(coords), 1), np.float32), coords, 512, "unknown", "", 0, None)


def tissue_and_patches(left: int, upper: int, right: int, lower: int) -> tuple[np.ndarray, np.ndarray]:
    """A mask of 32 level-0 px a px with an ellipse of tissue, and patches of 512 level-0 px over it."""
    y, x = np.mgrid[: 12288 // 32, : 16384 // 32] * 32
    middle, radius = ((left + right) / 2, (upper + lower) / 2), ((right - left) / 2, (lower - upper) / 2)
    mask = ((x - middle[0]) / radius[0]) ** 2 + ((y - middle[1]) / radius[1]) ** 2 < 1
    share = mask.reshape(12288 // 512, 16, 16384 // 512, 16).mean(axis=(1, 3))
    return mask, np.argwhere(share >= 0.25)[:, ::-1] * 512


@pytest.mark.parametrize("box", [(2000, 2000, 9000, 7000), (0, 0, 16384, 12288), (9000, 6000, 15000, 11000)])
def test_coords_that_are_no_corners_of_level_0_are_seen_by_the_tissue(box: tuple[int, int, int, int]):
    mask, coords = tissue_and_patches(*box)
    check_places(on_tissue(coords), mask, 32.0, LEVELS, "a.svs")
    check_places(on_tissue(coords[::3]), mask, 32.0, LEVELS, "a.svs")
    check_places(on_tissue(np.concatenate([coords, coords + np.array([256, 0])])), mask, 32.0, LEVELS, "a.svs")
    with pytest.raises(FeaturesError, match=r"a\.svs: expected the upper left corners of patches as coords"):
        check_places(on_tissue(coords + 256), mask, 32.0, LEVELS, "a.svs")
    for factor in (4, 16):
        with pytest.raises(FeaturesError, match=f"seem to be those of a level {factor} times smaller"):
            check_places(on_tissue(coords // factor), mask, 32.0, LEVELS, "a.svs")


def test_where_all_is_tissue_nothing_tells():
    mask, coords = tissue_and_patches(-40000, -40000, 60000, 50000)
    assert mask.all()
    check_places(on_tissue(coords), mask, 32.0, LEVELS, "a.svs")


def test_coords_without_features_are_refused(shared: Path):
    path = shared / "features" / "clam-coords" / "TCGA-2V-A95S-01Z-00-DX1.h5"
    with pytest.raises(FeaturesError, match="expected a numeric array features or feats, found coords"):
        read_features(path, stub_slide(100_000, 100_000))


def test_real_features_with_an_extra_row_are_refused(shared: Path):
    path = shared / "features" / "wsisum-demo" / "TCGA-3C-AALI-01_cluster.h5"
    with pytest.raises(FeaturesError, match="501 features but 500 coords"):
        read_features(path, stub_slide(200_000, 200_000), 1024)


# -- files that cannot serve ---------------------------------------------------------------------------------

NAN = np.where(np.arange(64).reshape(4, 16) == 5, np.nan, FEATURES)
WRONG = {
    "of other length": ({"coords": COORDS[:3]}, "4 features but 3 coords"),
    "not finite": ({"features": NAN}, "not finite"),
    "too large for float32": ({"features": np.full((4, 16), 1e300)}, "not finite"),
    "coords not finite": ({"coords": np.where(COORDS == 512, np.nan, COORDS)}, "not finite"),
    "of one vector": ({"features": FEATURES[0]}, "features of shape"),
    "without dimensions": ({"features": np.empty((4, 0), np.float32)}, "features of shape"),
    "scalar": ({"features": 3.5}, "features of shape"),
    "coords of three": ({"coords": np.zeros((4, 3))}, "coords of shape (N, 2), found (4, 3)"),
    "coords of three that fill pairs": ({"coords": np.zeros((2, 4))}, "coords of shape (N, 2), found (2, 4)"),
    "texts": ({"features": np.array([[b"a", b"b"]] * 4)}, "expected a numeric array features"),
    "booleans": ({"coords": COORDS > 0}, "expected a numeric array coords"),
    "complex": ({"features": FEATURES.astype(np.complex64)}, "expected a numeric array features"),
    "misnamed": ({"features": None, "embeddings": FEATURES}, "features or feats, found coords, embeddings"),
    "without coords": ({"coords": None}, "expected a numeric array coords"),
    "negative": ({"coords": COORDS - 1}, "a patch at (-1, -1) lies outside the slide of 4000 x 3000 px"),
    "of another level": ({"coords": COORDS * 4}, "a patch at (4096, 2048) lies outside"),
    "past int32": ({"coords": COORDS * 2**40}, "lies outside"),
    "augmented of other length": ({"augmented": np.zeros(3, bool)}, "create the file again"),
    "augmented alone": ({"augmented": np.ones(4, bool)}, "no patch lies inside"),
}


@pytest.mark.parametrize("what", WRONG)
def test_invalid_content_is_refused_by_name(tmp_path: Path, what: str):
    changes, message = WRONG[what]
    path = plain(tmp_path / "a.h5", **changes)
    with pytest.raises(FeaturesError) as caught:
        read_features(path, stub_slide())
    assert str(caught.value).startswith("a.h5: ")
    assert message in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_datasets_of_objects_and_groups_are_refused(tmp_path: Path):
    path = plain(tmp_path / "a.h5", features=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("features", (4,), h5py.vlen_dtype(np.float32))
    with pytest.raises(FeaturesError, match="expected a numeric array features"):
        read_features(path, stub_slide())
    with h5py.File(path, "w") as file:
        file.create_group("features")
        file["coords"] = COORDS
    with pytest.raises(FeaturesError, match="expected a numeric array features"):
        read_features(path, stub_slide())


@pytest.mark.parametrize("size", [0, -512, 0.2, np.nan, np.inf, 1e12, "None", np.array([], int), "x"])
def test_invalid_patch_size_in_the_file_is_refused(tmp_path: Path, size: Any):
    path = plain(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["coords"].attrs["patch_size_level0"] = size
    with pytest.raises(FeaturesError, match=r"^a\.h5: .*(patch size|patch_size_level0)"):
        read_features(path, stub_slide())


@pytest.mark.parametrize("size", [0, -1])
def test_invalid_patch_size_option_is_refused(tmp_path: Path, size: int):
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS})
    with pytest.raises(FeaturesError, match="--patch-size-level0"):
        read_features(path, stub_slide(), size)


def test_patches_larger_than_the_slide_are_refused(tmp_path: Path):
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS * 0})
    with pytest.raises(FeaturesError, match="no patch lies inside"):
        read_features(path, stub_slide(), 3001)


def test_error_on_a_damaged_file_hides_its_folder(tmp_path: Path):
    whole = plain(tmp_path / "whole.h5").read_bytes()
    cases = {"empty": b"", "text": b"no h5 at all", "png": b"\x89PNG\r\n\x1a\n" * 9, "cut": whole[: len(whole) // 2]}
    for name, data in cases.items():
        path = tmp_path / f"{name}.h5"
        path.write_bytes(data)
        with pytest.raises(FeaturesError, match=rf"^{name}\.h5: not a readable h5 file") as caught:
            read_features(path, stub_slide())
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(FeaturesError, match="not a readable h5 file") as caught:
        read_features(tmp_path / "gone.h5", stub_slide())
    assert str(tmp_path) not in str(caught.value)


def test_any_flipped_byte_is_read_or_refused(tmp_path: Path):
    whole = plain(tmp_path / "whole.h5").read_bytes()
    path = tmp_path / "flipped.h5"
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 150).tolist():
        data = bytearray(whole)
        data[at] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            found = read_features(path, stub_slide())
        except FeaturesError:
            continue
        assert len(found.features) == len(found.coords)


# -- which file is the slide's -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slide", "file"),
    [
        ("slide.svs", "slide.h5"),
        ("slide.svs", "slide.svs.h5"),
        ("slide.svs", "20x_256px/features_uni/slide.h5"),
        ("a.ome.tiff", "a.h5"),
        ("a.ome.tiff", "a.ome.h5"),
        ("a.ome.tiff", "a.ome.tiff.h5"),
        ("A.OME.TIF", "A.h5"),
        ("TCGA-1.4f2e.svs", "TCGA-1.4f2e.h5"),
        ("Slide.SVS", "slide.h5"),
        ("slide.svs", "SLIDE.H5"),
        ("[a] b*.svs", "[a] b*.h5"),
    ],
)
def test_features_are_found_by_the_slide_s_name(tmp_path: Path, slide: str, file: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    for other in ("slide2.h5", "slid.h5", "slide.h5.part", "slide_patches.h5", "b.h5", "a.tiff.h5", "slide.pt"):
        (tmp_path / other).touch()
    assert find_features(tmp_path, Path("/archive") / slide) == path


def test_exact_case_is_preferred(tmp_path: Path):
    for name in ("a.h5", "A.h5"):
        (tmp_path / name).touch()
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system does not tell cases apart")
    assert find_features(tmp_path, Path("a.svs")).name == "a.h5"
    assert find_features(tmp_path, Path("A.svs")).name == "A.h5"


def test_missing_features_name_the_expected_file(tmp_path: Path):
    with pytest.raises(FeaturesError, match=r"^slide\.svs: no slide\.h5 or slide\.svs\.h5") as caught:
        find_features(tmp_path, Path("/archive/slide.svs"))
    assert caught.value.reason == "no features"
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(FeaturesError):
        find_features(tmp_path / "gone", Path("slide.svs"))


def test_ambiguous_features_are_refused(tmp_path: Path):
    for encoder in ("conch", "uni"):
        (tmp_path / encoder).mkdir()
        (tmp_path / encoder / "slide.h5").touch()
    with pytest.raises(FeaturesError, match=r"found conch/slide\.h5, uni/slide\.h5; give a folder with only one"):
        find_features(tmp_path, Path("slide.svs"))
    assert find_features(tmp_path / "uni", Path("slide.svs")) == tmp_path / "uni" / "slide.h5"


# -- batches -------------------------------------------------------------------------------------------------


def as_blocks(sizes: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    ends = np.cumsum([0, *sizes])
    for begin, end in pairwise(ends):
        rows = np.arange(begin, end)
        yield rows, np.repeat(rows, 12).reshape(-1, 2, 2, 3).astype(np.uint8)


@given(st.lists(st.integers(0, 20), max_size=12), st.integers(1, 17))
@settings(max_examples=150, deadline=None)
def test_batches_keep_all_rows_in_order(sizes: list[int], size: int):
    batches = list(in_batches(as_blocks(sizes), size))
    assert [len(rows) for rows, _ in batches[:-1]] == [size] * (len(batches) - 1)
    assert all(0 < len(rows) <= size for rows, _ in batches)
    assert [row for rows, _ in batches for row in rows] == list(range(sum(sizes)))
    for rows, pixels in batches:
        assert pixels.shape == (len(rows), 2, 2, 3)
        assert (pixels[:, 0, 0, 0] == rows.astype(np.uint8)).all()


# -- encoding ------------------------------------------------------------------------------------------------


class StubEncoder:
    """Mean colours, and a memory of the batches it was given."""

    provider = "none"

    def __init__(self, batch_size: int = 8, dims: int = 3) -> None:
        self.card: Any = SimpleNamespace(dims=dims)
        self.batch_size = batch_size
        self.batches: list[int] = []
        self.lock = threading.Lock()

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        with self.lock:
            self.batches.append(len(pixels))
        return pixels.astype(np.float32).mean(axis=(1, 2))


def laid(pyramid: DrawnPyramid, size: int = 512) -> np.ndarray:
    level = pyramid.levels[0]
    x, y = np.meshgrid(np.arange(0, level.width - size + 1, size), np.arange(0, level.height - size + 1, size))
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int32)


def encode(pyramid: DrawnPyramid, encoder: Any, threads: int = 1, **more: Any) -> tuple[np.ndarray, np.ndarray]:
    reading = plan_reading(pyramid.levels, 512, 256, 0.1)
    return encode_patches(pyramid, laid(pyramid), reading, encoder, more.pop("damage", Damage()), threads, **more)


def test_each_patch_gets_its_own_features_with_any_threads():
    pyramid = DrawnPyramid(256 * 20, 256 * 14)
    coords = laid(pyramid)
    expected = np.stack([(coords[:, 0] / 256 + 0.5) * 3, (coords[:, 1] / 256 + 0.5) * 3, np.full(70, 200)], axis=1)
    for threads in (1, 2, 5):
        features, rows = encode(pyramid, StubEncoder(), threads)
        np.testing.assert_array_equal(rows, np.arange(70))
        np.testing.assert_allclose(features, expected)
        assert features.dtype == np.float32


@pytest.mark.parametrize("batch_size", [1, 8, 64, 500])
def test_encoder_gets_full_batches(batch_size: int):
    encoder = StubEncoder(batch_size)
    encode(DrawnPyramid(256 * 20, 256 * 14), encoder)
    full, rest = divmod(70, batch_size)
    assert encoder.batches == [batch_size] * full + [rest] * bool(rest)


def test_progress_reaches_the_total():
    heard: list[tuple[int, int]] = []
    encode(DrawnPyramid(256 * 20, 256 * 14), StubEncoder(), 2, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(min(8 * n, 70), 70) for n in range(1, 10)]


def test_patches_on_broken_tiles_are_skipped():
    damage = Damage()
    pyramid = DrawnPyramid(256 * 20, 256 * 14, broken=frozenset({(3, 2), (19, 13)}))
    whole, _ = encode(DrawnPyramid(256 * 20, 256 * 14), StubEncoder())
    features, rows = encode(pyramid, StubEncoder(), 2, damage=damage)
    lost = [11, 69]
    assert rows.tolist() == [row for row in range(70) if row not in lost]
    np.testing.assert_array_equal(features, np.delete(whole, lost, axis=0))
    assert damage.positions == [(0, 3, 2), (0, 19, 13)]


def test_too_many_broken_tiles_fail():
    broken = frozenset((column, row) for column in range(20) for row in range(4))
    with pytest.raises(BrokenSlideError, match=r"^drawn\.svs: \d+ of \d+ tiles cannot be read"):
        encode(DrawnPyramid(256 * 20, 256 * 14, broken), StubEncoder())


def test_no_readable_patch_fails():
    damage = Damage()
    for _ in range(100):
        damage.tried()  # of the overview
    broken = frozenset({(0, 0), (2, 0)})
    with pytest.raises(BrokenSlideError, match="no tissue patch"):
        encode(DrawnPyramid(1100, 600, broken), StubEncoder(), damage=damage)


def test_encoder_errors_propagate():
    class Failing(StubEncoder):
        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            if len(self.batches) == 2:
                raise ModelError("out of memory")
            return super().__call__(pixels)

    with pytest.raises(ModelError, match="out of memory"):
        encode(DrawnPyramid(256 * 20, 256 * 14), Failing(), 2)
