"""h5 files of features and embeddings without their slide: what training reads, and what we write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from wsisum_cli.errors import FeaturesError
from wsisum_cli.features import h5
from wsisum_cli.features.h5 import (
    FeatureFileContents,
    is_whole,
    load_h5,
    read_embedding_file,
    read_feature_file,
    read_provenance,
    write_feature_file,
)

FEATURES = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
COORDS = np.array([[0, 0], [512, 0], [1024, 0], [0, 512], [512, 1024]])


def write_h5(path: Path, datasets: dict[str, Any], **attributes: dict[str, Any]) -> Path:
    """`attributes` by dataset, those of the file itself as `root`."""
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
        for name, found in attributes.items():
            (file if name == "root" else file[name]).attrs.update(found)
    return path


# -- arrays that are not in the file ---------------------------------------------------------------------------


def secret(folder: Path) -> Path:
    path = folder / "secret.bin"
    path.write_bytes(FEATURES.tobytes())
    return path


def external_storage(file: h5py.File, folder: Path) -> None:
    outside = [(str(secret(folder)), 0, FEATURES.nbytes)]
    file.create_dataset("features", FEATURES.shape, "f4", external=outside)


def external_link(file: h5py.File, folder: Path) -> None:
    write_h5(folder / "other.h5", {"features": FEATURES})
    file["features"] = h5py.ExternalLink(str(folder / "other.h5"), "/features")


def soft_link(file: h5py.File, _folder: Path) -> None:
    file["deeper/features"] = FEATURES
    file["features"] = h5py.SoftLink("/deeper/features")


def virtual(file: h5py.File, folder: Path) -> None:
    write_h5(folder / "other.h5", {"features": FEATURES})
    layout = h5py.VirtualLayout(FEATURES.shape, "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "features", FEATURES.shape)
    file.create_virtual_dataset("features", layout)


def unallocated(file: h5py.File, _folder: Path) -> None:
    file.create_dataset("features", (2**22, 2**10), "f4", chunks=(64, 64))


def inflated(file: h5py.File, _folder: Path) -> None:
    features = file.create_dataset("features", (2**22, 2**10), "f4", chunks=(64, 64), compression="gzip")
    features[:64, :64] = 1


def contiguous_and_unwritten(file: h5py.File, _folder: Path) -> None:
    file.create_dataset("features", (2**22, 2**10), "f4")


@pytest.mark.parametrize("read", [read_feature_file, read_embedding_file, is_whole])
@pytest.mark.parametrize(
    ("put", "complaint"),
    [
        (external_storage, "features is stored in other files"),
        (external_link, "features is a link"),
        (soft_link, "features is a link"),
        (virtual, "features is stored in other files"),
        (unallocated, "of which 0 are stored"),
        (inflated, "17179869184 bytes, of which"),
        (contiguous_and_unwritten, "of which 0 are stored"),
    ],
)
def test_what_is_not_stored_in_the_file_is_refused(
    tmp_path: Path, read: Callable[[Path], Any], put: Callable[[h5py.File, Path], None], complaint: str
):
    """Before it is looked at, and before there is room for it."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        put(file, tmp_path)
        file["coords"] = COORDS
    with pytest.raises(FeaturesError, match=complaint) as caught:
        read(path)
    assert str(tmp_path) not in str(caught.value)


def test_compressed_features_are_read(tmp_path: Path):
    """Also where they are easy to compress."""
    values = np.zeros((5, 4096), np.float32)
    values[:, 0] = 1
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=values, chunks=(5, 4096), compression="gzip", shuffle=True)
        file["coords"] = COORDS
    np.testing.assert_array_equal(read_feature_file(tmp_path / "a.h5").features, values)


# -- patch features ------------------------------------------------------------------------------------------


def test_trident_and_clam_coords_are_level_0_px(tmp_path: Path):
    about = {"patch_size": 256, "patch_size_level0": 512}
    found = read_feature_file(write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS}, coords=about))
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.coords, COORDS)
    assert (found.features.dtype, found.coords.dtype) == (np.float32, np.float64)
    assert (found.name, found.patch_size_level0, found.encoder, found.encoder_sha256) == ("a.h5", 512, "unknown", None)
    clam = {"patch_size": 256, "patch_level": 1, "downsample": np.array([2.0, 2.0])}
    path = write_h5(tmp_path / "b.h5", {"features": FEATURES[None], "coords": COORDS}, coords=clam)
    assert read_feature_file(path).patch_size_level0 == 512


def test_stamp_coords_and_patch_side_share_a_unit(tmp_path: Path):
    """Their quotient is in patch sides, whatever the slide's pixel size."""
    about = {"unit": "um", "tile_size_um": 128.0, "extractor": "uni"}
    found = read_feature_file(write_h5(tmp_path / "a.h5", {"feats": FEATURES, "coords": COORDS * 0.25}, root=about))
    np.testing.assert_array_equal(found.coords / found.patch_size_level0, COORDS / 512)
    assert found.encoder == "uni"
    first = {"extractor": "STAMP-extract-001"}
    found = read_feature_file(write_h5(tmp_path / "b.h5", {"feats": FEATURES, "coords": COORDS * 224}, root=first))
    np.testing.assert_array_equal(found.coords / found.patch_size_level0, COORDS)


def test_unstated_patch_side_is_none(tmp_path: Path):
    assert (
        read_feature_file(write_h5(tmp_path / "a.h5", {"feats": FEATURES, "coords": COORDS})).patch_size_level0 is None
    )


def test_augmented_rows_are_dropped(tmp_path: Path):
    augmented = np.array([0, 0, 1, 0, 1], bool)
    path = write_h5(tmp_path / "a.h5", {"feats": FEATURES, "coords": COORDS, "augmented": augmented})
    found = read_feature_file(path)
    np.testing.assert_array_equal(found.features, FEATURES[~augmented])
    np.testing.assert_array_equal(found.coords, COORDS[~augmented])


def test_real_features_of_stamp_1(shared: Path):
    for path in sorted((shared / "features/ctranspath-crc").glob("*.h5")):
        found = read_feature_file(path, dims=768)
        steps = np.unique(np.diff(np.unique(found.coords[:, 0]))) / found.patch_size_level0
        assert np.array_equal(steps, np.rint(steps))


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "of another encoder": ({}, {"dims": 16}, "expected features of 16 numbers, found 8"),
    "empty": ({"features": FEATURES[:0], "coords": COORDS[:0]}, {}, "expected features of shape"),
    "NaN": ({"features": np.where(FEATURES > 1, np.nan, FEATURES)}, {}, "not finite"),
    "infinite coords": ({"coords": np.where(COORDS > 0, np.inf, 0)}, {}, "not finite"),
    "without features": ({"features": None}, {}, "expected a numeric array features or feats, found coords"),
    "without coords": ({"coords": None}, {}, "expected a numeric array coords, found features"),
    "of other length": ({"coords": COORDS[:3]}, {}, "5 features but 3 coords"),
    "augmented alone": ({"augmented": np.ones(5, bool)}, {}, "every row is an augmentation"),
}


@pytest.mark.parametrize("what", WRONG)
def test_unusable_feature_file_is_refused_by_name(tmp_path: Path, what: str):
    changes, options, complaint = WRONG[what]
    datasets = {"features": FEATURES, "coords": COORDS, **changes}
    path = write_h5(tmp_path / "a.h5", {name: values for name, values in datasets.items() if values is not None})
    with pytest.raises(FeaturesError, match=r"^a\.h5: ") as caught:
        read_feature_file(path, **options)
    assert complaint in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, np.nan, 1e12])
def test_impossible_patch_size_is_refused(tmp_path: Path, size: float):
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS}, coords={"patch_size_level0": size})
    with pytest.raises(FeaturesError, match=r"^a\.h5: .*patch"):
        read_feature_file(path)


@pytest.mark.parametrize("read", [read_feature_file, read_embedding_file])
@pytest.mark.parametrize("content", [b"", b"no h5 at all", "cut short", None])
def test_damaged_files_are_refused(tmp_path: Path, read: Callable[[Path], Any], content: bytes | str | None):
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS})
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:-40])
    with pytest.raises(FeaturesError, match=r"^a\.h5: not a readable h5 file") as caught:
        read(path)
    assert str(tmp_path) not in str(caught.value)


# -- embeddings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["features", "feats", "embedding"])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 1, 8)])
def test_an_embedding_is_one_row(tmp_path: Path, name: str, shape: tuple[int, ...]):
    path = write_h5(tmp_path / "a.h5", {"coords": COORDS, name: FEATURES[0].astype(np.float64).reshape(shape)})
    found = read_embedding_file(path, dims=8)
    np.testing.assert_array_equal(found, FEATURES[0])
    assert found.dtype == np.float32


@pytest.mark.parametrize(("teacher", "dims"), [("TITAN", 768), ("CHIEF", 768), ("PRISM", 1280)])
def test_real_embeddings(shared: Path, teacher: str, dims: int):
    path = shared / "features/wsisum-demo" / teacher / "TCGA-3C-AALI-01.h5"
    assert read_embedding_file(path).shape == (dims,)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (FEATURES, r"expected one embedding, \(E,\) or \(1, E\), found \(5, 8\)"),
        (FEATURES.T[:, :1], "expected one embedding"),
        (FEATURES[0, 0], "expected one embedding"),
        (FEATURES[:0], "expected one embedding"),
        (FEATURES[0] * np.nan, "not finite"),
        (np.full(8, 1e300), "not finite"),
        (FEATURES[0, :4], "expected an embedding of 8 numbers, found 4"),
        (np.array([b"a", b"b"]), "expected a numeric array features"),
    ],
)
def test_invalid_embedding_is_refused(tmp_path: Path, values: np.ndarray, complaint: str):
    with pytest.raises(FeaturesError, match=rf"^a\.h5: .*{complaint}"):
        read_embedding_file(write_h5(tmp_path / "a.h5", {"features": values}), dims=8)


# -- files of our own ----------------------------------------------------------------------------------------


def contents(**changes: Any) -> FeatureFileContents:
    datasets = {
        "features": (FEATURES, {"name": "a", "encoder": "e"}),
        "coords": (COORDS, {"patch_size_level0": 512, "mpp": 0.25}),
    }
    return FeatureFileContents({**datasets, **changes}, {"encoder_sha256": "0" * 64}, {"source": {"name": "ä.svs"}})


def test_written_file_is_read_back(tmp_path: Path):
    write_feature_file(tmp_path / "a.h5", contents())
    found = read_feature_file(tmp_path / "a.h5")
    np.testing.assert_array_equal(found.features, FEATURES)
    assert (found.patch_size_level0, found.encoder, found.encoder_sha256) == (512, "e", "0" * 64)
    assert read_provenance(tmp_path / "a.h5") == {"source": {"name": "ä.svs"}}
    assert is_whole(tmp_path / "a.h5")


def test_arrays_are_contiguous(tmp_path: Path):
    """So that a reader maps or takes a slide in one go."""
    write_feature_file(tmp_path / "a.h5", contents())
    with h5py.File(tmp_path / "a.h5") as file:
        assert [file[name].chunks for name in file] == [None, None]
    assert FEATURES.tobytes() in (tmp_path / "a.h5").read_bytes()


def test_checksum_detects_any_change(tmp_path: Path):
    def changed(change: Callable[[h5py.File], None]) -> bool:
        write_feature_file(tmp_path / "a.h5", contents())
        with h5py.File(tmp_path / "a.h5", "a") as file:
            change(file)
        return not is_whole(tmp_path / "a.h5")

    assert not changed(lambda file: None)
    assert changed(lambda file: file["features"].write_direct(FEATURES + 1))
    assert changed(lambda file: file["coords"].attrs.modify("patch_size_level0", 256))
    assert changed(lambda file: file.attrs.modify("wsisum", '{"source": {"name": "b.svs"}}'))
    assert changed(lambda file: file.attrs.modify("encoder_sha256", "1" * 64))
    assert changed(lambda file: file.move("coords", "places"))
    assert changed(lambda file: file.create_dataset("more", data=1.0))
    assert changed(lambda file: file.attrs.pop("content_sha256") and None)


def test_checksum_detects_flipped_array_bytes(tmp_path: Path):
    path = tmp_path / "a.h5"
    write_feature_file(path, contents())
    whole = path.read_bytes()
    for array in (FEATURES, COORDS):
        begin = whole.index(array.tobytes())
        for at in np.random.default_rng(0).integers(begin, begin + array.nbytes, 20).tolist():
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert not is_whole(path)


def test_files_of_other_programs_have_no_provenance(tmp_path: Path):
    assert read_provenance(write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS})) is None
    path = write_h5(tmp_path / "b.h5", {"coords": COORDS}, root={"wsisum": "[1]"})
    with pytest.raises(FeaturesError, match=r"^b\.h5: expected a JSON object"):
        read_provenance(path)


# -- what asks for more than a file holds ------------------------------------------------------------------------


def long_list(file: h5py.File) -> None:
    file.attrs["encoder"] = ["x" * 99] * 200


def long_text(file: h5py.File) -> None:
    file.attrs["encoder"] = "x" * 5000


def huge_chunk(file: h5py.File) -> None:
    del file["coords"]
    file.create_dataset("coords", COORDS.shape, "i8", COORDS, chunks=(1 << 14, 2), maxshape=(None, 2), compression=9)


def other_marks(file: h5py.File) -> None:
    file["augmented"] = np.zeros(4, bool)


def words_as_marks(file: h5py.File) -> None:
    file["augmented"] = ["no"] * 5


def too_wide(file: h5py.File) -> None:
    del file["features"]
    file["features"] = np.zeros((1, 70_000), "f4")


def large_and_empty(file: h5py.File) -> None:
    """A byte of deflate can stand for a thousand, as no numbers of an encoder do."""
    del file["features"]
    made = file.create_dataset("features", (1 << 9, 1 << 10), "f4", chunks=(1 << 8, 1 << 10), compression="gzip")
    made[: 1 << 8] = 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (long_list, "a number or a word as encoder"),
        (long_text, "encoder has 5000 characters"),
        (huge_chunk, "takes 262144 bytes"),
        (other_marks, "expected 5 marks as augmented"),
        (words_as_marks, "expected 5 marks as augmented"),
        (too_wide, "at most 4194304 patches of 65536 numbers"),
        (large_and_empty, "takes 2097152 bytes"),
    ],
)
def test_what_asks_for_more_than_is_stored_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[h5py.File], None], said: str
):
    monkeypatch.setattr(h5, "LARGE", 1 << 16)
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS})
    read_feature_file(path)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(FeaturesError, match=said):
        read_feature_file(path)


def test_provenance_nested_without_end_is_refused(tmp_path: Path):
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS}, root={"wsisum": "[" * 60_000})
    assert len(read_feature_file(path).features) == 5
    with pytest.raises(FeaturesError, match="not a readable h5 file"):
        read_provenance(path)


def test_attributes_that_nobody_asks_for_are_not_read(tmp_path: Path):
    about = {"patient": "DOE^JANE", "list": ["x" * 1000] * 60, "encoder": "tiny"}
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS}, root=about)
    assert read_feature_file(path).encoder == "tiny"
    assert set(load_h5(path).attributes) == {"encoder"}


def test_names_of_arrays_are_told_up_to_a_few(tmp_path: Path):
    path = write_h5(tmp_path / "a.h5", {f"{number:02}": FEATURES for number in range(40)})
    with pytest.raises(FeaturesError, match=r"found 00, 01, 02, 03, 04, 05, 06, 07, \.\.\.$"):
        read_feature_file(path)


def test_values_of_no_known_kind_are_refused(tmp_path: Path):
    """HDF5 ends the process when it is to read them."""
    path = write_h5(tmp_path / "a.h5", {"features": FEATURES, "coords": COORDS}, root={"encoder": "tiny"})
    data = bytearray(path.read_bytes())
    kind = data.index(b"encoder\0\x19\x01") + 9  # of values without a set length: 0 for lists, 1 for text
    data[kind] = 5
    path.write_bytes(data)
    with pytest.raises(FeaturesError, match="expected a number or a word as encoder, found neither"):
        read_feature_file(path)


def test_a_type_where_an_array_is_expected_is_refused(tmp_path: Path):
    path = write_h5(tmp_path / "a.h5", {"coords": COORDS})
    with h5py.File(path, "a") as file:
        file["features"] = np.dtype(np.float32)
    with pytest.raises(FeaturesError, match="expected a numeric array features or feats"):
        read_feature_file(path)
    with h5py.File(path, "a") as file:
        del file["features"]
        file["features"], file["augmented"] = FEATURES, np.dtype(np.uint8)
    with pytest.raises(FeaturesError, match="marks as augmented"):
        read_feature_file(path)


def test_names_that_are_no_text_are_listed_as_dots(tmp_path: Path):
    path = write_h5(tmp_path / "a.h5", {"other": FEATURES})
    path.write_bytes(path.read_bytes().replace(b"other\0", b"oth\xffr\0"))
    with pytest.raises(FeaturesError, match=r"found \.\.\."):
        read_feature_file(path)
