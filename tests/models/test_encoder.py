"""ONNX files in, encoders out: cards, devices, determinism; and the texture encoder that ships."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import simplejpeg
from onnx import TensorProto, helper
from onnx_models import write_slide_encoder, write_summarizer
from places import MODELS
from tiny_encoder import CARD, DIMS, SIDE, card, weights, write_model

from wsisum_cli.errors import DeviceError, ModelError, UsageError
from wsisum_cli.models import places, session
from wsisum_cli.models.card import Card
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.models.places import find_model, shipped_models

needs_no_gpu = pytest.mark.skipif(session.nvidia_driver_found(), reason="this machine has an NVIDIA driver")


# ------------------------------------------------------------------------------------------- tiny models


def write_one_node(path: Path, kind: str, dtype: int, shape: tuple[Any, ...], output: tuple[Any, ...]) -> Path:
    node = helper.make_node(kind, ["pixels"], ["features"])
    pixels = helper.make_tensor_value_info("pixels", dtype, shape)
    features = helper.make_tensor_value_info("features", dtype, output)
    graph = helper.make_graph([node], "one", [pixels], [features])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, card())
    path.write_bytes(model.SerializeToString())
    return path


def random_patches(count: int, side: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def expected_features(pixels: np.ndarray) -> np.ndarray:
    normalised = (pixels / 255 - np.array(CARD["mean"])) / np.array(CARD["std"])
    return normalised.mean(axis=(1, 2)) @ weights()


def he_patches(count: int, side: int = 256) -> np.ndarray:
    """Purple blobs of random sizes on pink of random strength, every patch different."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:side, :side]
    patches = np.empty((count, side, side, 3), np.uint8)
    for patch in patches:
        pink = rng.uniform(0.2, 1)
        patch[:] = np.array([255 - 20 * pink, 255 - 90 * pink, 255 - 45 * pink]) + rng.normal(0, 2)
        for _ in range(rng.integers(0, 60)):
            centre, radius = rng.integers(0, side, 2), rng.integers(4, 16)
            patch[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = rng.integers(80, 140, 3)
    return patches


# ---------------------------------------------------------------------------------------- what is loaded


def test_float_model_gets_normalised_channels_first(tmp_path):
    encoder = load_encoder(write_model(tmp_path / "a.onnx", card()), "cpu")
    pixels = random_patches(5, SIDE)
    features = encoder(pixels)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected_features(pixels), rtol=1e-4, atol=1e-5)


def test_float16_model_gives_float32(tmp_path):
    encoder = load_encoder(write_model(tmp_path / "a.onnx", card(), dtype=TensorProto.FLOAT16), "cpu")
    pixels = random_patches(5, SIDE)
    features = encoder(pixels)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected_features(pixels), atol=0.02)


def test_uint8_model_gets_raw_pixels_and_needs_no_mean_and_std(tmp_path):
    encoder = load_encoder(write_model(tmp_path / "a.onnx", card(mean=..., std=...), uint8=True), "cpu")
    pixels = random_patches(5, SIDE)
    np.testing.assert_allclose(encoder(pixels), pixels.mean(axis=(1, 2)) @ weights(), rtol=1e-4)


def test_card_is_json_able(tmp_path):
    path = write_model(tmp_path / "a.onnx", card())
    read = load_encoder(path, "cpu").card
    assert isinstance(read, Card)
    fields = read.as_dict()
    assert len(fields.pop("sha256")) == 64
    assert json.loads(json.dumps(fields)) == CARD


def test_card_can_use_separate_metadata_keys(tmp_path):
    separate = {
        "patch_size": str(SIDE),
        "mpp": "0.5",
        "mean": "[0.5, 0.25, 0.75]",
        "std": "0.5, 0.25, 0.125",
        "dims": str(DIMS),
        "license": "MIT",
    }
    read = load_encoder(write_model(tmp_path / "mine.onnx", separate), "cpu").card
    assert (read.name, read.licence, read.kind, read.version) == ("mine", "MIT", "encoder", "unknown")
    assert (read.mean, read.std) == ((0.5, 0.25, 0.75), (0.5, 0.25, 0.125))


def test_unknown_card_fields_are_ignored(tmp_path):
    assert load_encoder(write_model(tmp_path / "a.onnx", card(colour="blue")), "cpu").card.name == "tiny"


def test_fixed_batch_size_of_the_graph_takes_precedence(tmp_path):
    path = write_model(tmp_path / "a.onnx", card(), shape=(4, 3, SIDE, SIDE), output=(4, DIMS))
    encoder = load_encoder(path, "cpu", batch_size=32)
    assert encoder.batch_size == 4
    assert encoder(random_patches(7, SIDE)).shape == (7, DIMS)


def test_graph_with_free_shapes_loads(tmp_path):
    path = write_model(tmp_path / "a.onnx", card(), shape=("b", "c", "h", "w"), output=("b", "d"))
    assert load_encoder(path, "cpu")(random_patches(2, SIDE)).shape == (2, DIMS)


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": ...}, "lacks 'patch_size'"),
        ({"mpp": ...}, "lacks 'mpp'"),
        ({"mean": ...}, "lacks 'mean'"),
        ({"std": ...}, "lacks 'std'"),
        ({"dims": ...}, "lacks 'dims'"),
        ({"licence": ...}, "lacks 'licence'"),
        ({"patch_size": 64}, "expected the 32 px of the graph's input, found 64"),
        ({"patch_size": 0}, "'patch_size'"),
        ({"patch_size": 31.5}, "'patch_size'"),
        ({"patch_size": True}, "'patch_size'"),
        ({"dims": 20}, "expected the 21 of the graph's output, found 20"),
        ({"dims": "many"}, "'dims'"),
        ({"mpp": 0}, "'mpp'"),
        ({"mpp": -0.5}, "'mpp'"),
        ({"mpp": float("nan")}, "'mpp'"),
        ({"mpp": float("inf")}, "'mpp'"),
        ({"mpp": 10**400}, "'mpp'"),
        ({"mpp": None}, "'mpp'"),
        ({"mpp": [0.5]}, "'mpp'"),
        ({"mpp_tolerance": -0.1}, "'mpp_tolerance'"),
        ({"mpp_tolerance": 10}, "'mpp_tolerance'"),
        ({"mean": [0.5, 0.5]}, "'mean'"),
        ({"mean": 0.5}, "'mean'"),
        ({"mean": [123.7, 116.3, 103.5]}, "'mean'"),
        ({"mean": {"r": 0.5}}, "'mean'"),
        ({"std": [0.5, 0.5, 0]}, "'std'"),
        ({"std": [0.5, 0.5, 0.5, 0.5]}, "'std'"),
        ({"std": "a, b, c"}, "'std'"),
        ({"kind": "slide"}, "'kind'"),
        ({"name": ""}, "'name'"),
        ({"licence": 3}, "'licence'"),
        ({"description": ["x"]}, "'description'"),
    ],
)
def test_unusable_card_is_refused(tmp_path, changes, words):
    with pytest.raises(ModelError) as caught:
        load_encoder(write_model(tmp_path / "bad.onnx", card(**changes)), "cpu")
    message = str(caught.value)
    assert message.startswith("bad.onnx: ")
    assert words in message
    assert "metadata" in message


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "expected a card, found none of its fields"),
        ({"wsisum.card": "{"}, "is no JSON"),
        ({"wsisum.card": "[1, 2]"}, "expected a JSON object"),
        ({"wsisum.card": "{}"}, "found none of its fields"),
        ({"mpp": "0.5"}, "lacks 'patch_size'"),
    ],
)
def test_incomplete_card_is_refused(tmp_path, metadata, words):
    with pytest.raises(ModelError, match=words):
        load_encoder(write_model(tmp_path / "bad.onnx", metadata), "cpu")


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [
        (TensorProto.FLOAT, ("batch", 1, SIDE, SIDE), "expected one input"),
        (TensorProto.FLOAT, ("batch", SIDE, SIDE, 3), "expected one input"),
        (TensorProto.UINT8, ("batch", 3, SIDE, SIDE), "expected one input"),
        (TensorProto.DOUBLE, ("batch", 3, SIDE, SIDE), "expected one input"),
        (TensorProto.FLOAT, ("batch", 3, SIDE), "expected one input"),
        (TensorProto.UINT8, ("batch", SIDE, SIDE, 3), "expected a first output of floats"),
        (TensorProto.FLOAT, ("batch", 3, SIDE, SIDE), "expected a first output of floats"),
    ],
)
def test_graph_of_another_shape_is_refused(tmp_path, dtype, shape, words):
    path = write_one_node(tmp_path / "bad.onnx", "Identity", dtype, shape, shape)
    with pytest.raises(ModelError, match=rf"bad\.onnx: {words}"):
        load_encoder(path, "cpu")


def test_free_dims_are_checked_by_a_trial_run(tmp_path):
    shapes = ("batch", 3, "h", "w"), ("batch", "dims")
    path = write_one_node(tmp_path / "bad.onnx", "Flatten", TensorProto.FLOAT, *shapes)
    with pytest.raises(ModelError, match=r"expected features \(8, 21\), found \(8, 3072\)"):
        load_encoder(path, "cpu")


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x08" + bytes(100)])
def test_file_that_is_not_an_encoder_is_refused(tmp_path, content, capfd):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx: expected"):
        load_encoder(path, "cpu")
    assert capfd.readouterr() == ("", "")


def test_unknown_name_lists_known_models():
    with pytest.raises(ModelError, match=r"textur: no model with this name; give .*texture"):
        load_encoder("textur")


def test_installed_package_finds_only_its_own_models(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "wsisum_cli"
    (package.parent / "models").mkdir(parents=True)
    (package.parent / "models" / "stranger.onnx").touch()
    monkeypatch.setattr(places, "__file__", str(package / "models" / "places.py"))
    assert shipped_models() == {}
    (package / "shipped").mkdir(parents=True)
    (package / "shipped" / "mine.onnx").touch()
    assert shipped_models() == {"mine": package / "shipped" / "mine.onnx"}


@pytest.mark.parametrize("write", [write_summarizer, write_slide_encoder])
def test_a_model_of_another_kind_is_refused(tmp_path, write):
    words = r"a\.onnx: card field 'kind': expected 'encoder', found '(summarizer|slide-encoder)' .*; give a model of"
    with pytest.raises(ModelError, match=words):
        load_encoder(write(tmp_path / "a.onnx"), "cpu")


def test_user_models_precede_bundled_ones_in_folder_order(tmp_path):
    for folder, name in (("a", "mine"), ("b", "mine"), ("b", "texture")):
        (tmp_path / folder / name).mkdir(parents=True)
        (tmp_path / folder / name / f"{name}.onnx").touch()
    (tmp_path / "a" / "half").mkdir()
    (tmp_path / "a" / "half" / "other.onnx").touch()
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "none"]
    assert find_model("mine", folders) == tmp_path / "a" / "mine" / "mine.onnx"
    assert find_model("texture", folders) == tmp_path / "b" / "texture" / "texture.onnx"
    assert find_model("texture") == shipped_models()["texture"]
    with pytest.raises(ModelError, match=r"half: no model with this name; give the name of a model \(.*mine.*\)"):
        find_model("half", folders)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"none\.onnx: no such file"):
        load_encoder(tmp_path / "none.onnx")


@pytest.mark.parametrize("last", ["Log", "Sqrt"])
def test_features_that_are_not_finite_are_refused(tmp_path, last):
    encoder = load_encoder(write_model(tmp_path / "a.onnx", card(), last=last), "cpu")
    with pytest.raises(ModelError, match=r"model 'tiny' .* found 3 of 3 patches with NaN or infinity"):
        encoder(random_patches(3, SIDE))


def test_patches_of_another_shape_or_type_are_refused(tmp_path):
    encoder = load_encoder(write_model(tmp_path / "a.onnx", card()), "cpu")
    for pixels in (random_patches(2, SIDE + 1), random_patches(2, SIDE)[0], np.zeros((2, SIDE, SIDE, 3))):
        with pytest.raises(ModelError, match=r"expected uint8 patches \(B, 32, 32, 3\), found"):
            encoder(pixels)


def test_model_that_fails_while_running_is_refused(tmp_path, capfd):
    """Only the card says how large a patch is, and pooling takes another size."""
    path = write_model(tmp_path / "a.onnx", card(patch_size=8), shape=("b", "c", "h", "w"), pool=16)
    with pytest.raises(ModelError, match=r"a\.onnx: cannot be run"):
        load_encoder(path, "cpu")
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------------- devices


@needs_no_gpu
def test_cuda_that_does_not_become_active_is_an_error(capfd):
    with pytest.raises(DeviceError) as caught:
        load_encoder("texture", "cuda")
    message = str(caught.value)
    assert "NVIDIA driver not found" in message
    assert "onnxruntime " in message
    assert "--device cpu" in message
    assert capfd.readouterr() == ("", "")


@needs_no_gpu
def test_auto_uses_the_cpu_quietly_without_a_driver(capfd):
    assert load_encoder("texture", "auto").provider == "CPUExecutionProvider"
    assert capfd.readouterr() == ("", "")


@needs_no_gpu
def test_auto_uses_the_cpu_with_only_a_driver(capfd, monkeypatch):
    monkeypatch.setattr(session, "nvidia_driver_found", lambda: True)
    encoder = load_encoder("texture", "auto")
    assert encoder.provider == "CPUExecutionProvider"
    assert encoder(he_patches(1)).shape == (1, 144)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not session.nvidia_driver_found(), reason="this machine has no NVIDIA driver")
def test_cuda_agrees_with_the_cpu():
    pixels = he_patches(9)
    try:
        on_cuda = load_encoder("texture", "cuda")
    except DeviceError as error:
        pytest.skip(str(error))
    assert on_cuda.provider == "CUDAExecutionProvider"
    np.testing.assert_allclose(on_cuda(pixels), load_encoder("texture", "cpu")(pixels), atol=1e-3)


@needs_no_gpu
def test_device_failure_differs_from_file_failure(tmp_path, monkeypatch):
    """Only what the CPU runs well is the device's fault."""
    monkeypatch.setattr(session, "nvidia_driver_found", lambda: True)
    with pytest.raises(DeviceError, match="NVIDIA driver found"):
        load_encoder("texture", "cuda")
    with pytest.raises(ModelError, match="found none of its fields"):
        load_encoder(write_model(tmp_path / "bare.onnx", {}), "cuda")


def test_unknown_device_and_empty_batches_are_refused():
    with pytest.raises(UsageError, match="expected one of auto, cuda, cpu, found 'tpu'"):
        load_encoder("texture", "tpu")
    with pytest.raises(UsageError, match="at least 1"):
        load_encoder("texture", "cpu", batch_size=0)


# ----------------------------------------------------------------------------------------- determinism


@pytest.fixture(scope="module")
def texture():
    return load_encoder("texture", "cpu", batch_size=8)


@pytest.fixture(scope="module")
def patches():
    return he_patches(19)


def test_features_do_not_depend_on_the_batch(texture, patches):
    together = texture(patches)
    assert np.array_equal(np.concatenate([texture(patches[i : i + 1]) for i in range(19)]), together)
    assert np.array_equal(np.concatenate([texture(patches[:5]), texture(patches[5:])]), together)
    assert np.array_equal(texture(patches[::-1])[::-1], together)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_texture_features_do_not_depend_on_batch_size(texture, patches, batch_size):
    assert np.array_equal(load_encoder("texture", "cpu", batch_size)(patches), texture(patches))


def test_float_features_do_not_depend_on_the_batch(tmp_path):
    encoder = load_encoder(write_model(tmp_path / "a.onnx", card()), "cpu", batch_size=16)
    pixels = random_patches(19, SIDE)
    together = encoder(pixels)
    assert np.array_equal(np.concatenate([encoder(pixels[i : i + 1]) for i in range(19)]), together)


def test_threads_give_the_same_features(texture, patches):
    together = texture(patches)
    with ThreadPoolExecutor(4) as pool:
        for features in pool.map(texture, [patches] * 8):
            assert np.array_equal(features, together)


def test_no_patches_give_no_features(texture):
    features = texture(np.empty((0, 256, 256, 3), np.uint8))
    assert features.shape == (0, 144)
    assert features.dtype == np.float32


# ------------------------------------------------------------------------------------- the texture encoder


@pytest.fixture(scope="module")
def make_texture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_texture", MODELS / "make_texture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        # a dataclass looks for its module there
        patch.setitem(sys.modules, "make_texture", module)
        spec.loader.exec_module(module)
    return module


def test_texture_is_bundled(texture):
    assert "texture" in shipped_models()
    read = texture.card
    assert (read.name, read.kind, read.patch_size, read.mpp) == ("texture", "encoder", 256, 0.5)
    assert (read.mpp_tolerance, read.dims, read.licence) == (0.1, 144, "Apache-2.0")
    assert "no learning" in read.description
    assert "Pathology Atlas" in read.description


def test_texture_card_page_names_the_shipped_file(texture):
    page = (MODELS / "texture.md").read_text(encoding="utf-8")
    assert texture.card.sha256 in page
    assert "Pathology Atlas" in page


def test_recorded_constants_rebuild_the_shipped_file(make_texture):
    model, names = make_texture.build(make_texture.load_constants())
    assert len(names) == len(set(names)) == 144
    assert model.SerializeToString(deterministic=True) == (MODELS / "texture.onnx").read_bytes()


def test_logarithms_fill_whole_vectors(make_texture):
    logarithmic, _ = make_texture.statistics(make_texture.Graph())
    assert sum(statistic.dims for statistic in logarithmic) % 16 == 0


def test_constants_round_trip(make_texture, tmp_path):
    constants = make_texture.load_constants()
    _, names = make_texture.build(constants)
    make_texture.save_constants(constants, names, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (MODELS / "texture.json").read_bytes()


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (128, 128, 128), (255, 0, 0), (190, 90, 160)])
def test_texture_is_finite_and_of_unit_length_on_flat_patches(texture, colour):
    features = texture(np.full((1, 256, 256, 3), colour, np.uint8))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)


def test_texture_is_nearly_invariant_to_rotation_and_flips(texture, patches):
    features = texture(patches)
    for turned in (np.rot90(patches, axes=(1, 2)), patches[:, ::-1], patches[:, :, ::-1]):
        assert (features * texture(np.ascontiguousarray(turned))).sum(axis=1).min() > 0.95


def test_texture_separates_tissue_types(texture, shared):
    with zipfile.ZipFile(shared / "tiles" / "atlas-he-0.5mpp.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][::40]
        features = texture(np.stack([simplejpeg.decode_jpeg(archive.read(name)) for name in names]))
    cosines = (features @ features.T)[np.triu_indices(len(features), 1)]
    assert np.percentile(cosines, 5) < -0.3
    assert np.percentile(cosines, 95) > 0.5


def test_sha256_covers_the_file(texture, tmp_path):
    copy = Path(shutil.copy(shipped_models()["texture"], tmp_path / "other.onnx"))
    with copy.open("ab") as file:
        file.write(b"\x32\x00")  # an empty doc_string: the same model, another file
    assert load_encoder(copy, "cpu").card.sha256 != texture.card.sha256
