"""The published checkpoint's layout to a summarizer graph, held against numbers that the reference itself computed.

`data/wsisum_reference.npz` holds them: the reference's modules, run in eval mode on two slides of 500 candidates with
weights and features drawn as `drawn` draws them, masks from its own generator. The model is its class at a small size;
its own published size goes through the same code.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from places import DATA
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs wsisum[train]")
pytest.importorskip("onnx", reason="needs wsisum[train]")

import onnxruntime  # noqa: E402

from wsisum_cli.commands.models import models_app  # noqa: E402
from wsisum_cli.errors import ModelError  # noqa: E402
from wsisum_cli.models.summarizer import load_summarizer  # noqa: E402
from wsisum_cli.training.summarizer import published  # noqa: E402
from wsisum_cli.training.summarizer.import_wsisum import LICENCE, import_wsisum, sinusoids  # noqa: E402
from wsisum_cli.training.summarizer.published import PUBLISHED, Sizes, published_layout  # noqa: E402

#: The size at which the reference was run.
SMALL = Sizes(width=192, depth=2, decoder_width=128, decoder_depth=1, mlp_ratio=4, unused_side=8)
REFERENCE = np.load(DATA / "wsisum_reference.npz")
SEED = int(REFERENCE["seed"])

Arrays = Mapping[str, NDArray[Any]]


def drawn(*seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Numbers of a stream that numpy promises to keep."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def seeded_weights() -> dict[str, Any]:
    """Weights of a size at which each of them matters to the result."""
    state = {}
    for number, (name, shape) in enumerate(sorted(published_layout(SMALL).items())):
        values = drawn(SEED, number, shape=shape)
        if "norm" in name and name.endswith("weight"):
            values = 1 + np.float32(0.1) * values
        elif len(shape) == 2:
            values /= np.float32(math.sqrt(shape[1]))
        elif len(shape) == 1:
            values *= np.float32(0.1)
        state[name] = torch.from_numpy(values)
    return state


def seeded_features() -> NDArray[np.float32]:
    return drawn(SEED, 10**6, shape=(len(REFERENCE["kept"]), 500, SMALL.width))


def save(content: Any, folder: Path, **options: Any) -> Path:
    path = folder / "checkpoint-299.pth"
    torch.save(content, path, **options)
    return path


def run(path: Path, inputs: Arrays) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Reconstruction and embedding."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return tuple(session.run(["reconstruction", "embedding"], dict(inputs)))


def inputs_of(features: NDArray[np.float32], kept: NDArray[Any]) -> dict[str, NDArray[Any]]:
    batch, candidates, _ = features.shape
    return {
        "features": features,
        "coords": np.zeros((batch, candidates, 2), np.float32),
        "valid": np.ones((batch, candidates), bool),
        "kept": kept.astype(np.int64),
    }


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    return seeded_weights()


@pytest.fixture(scope="module")
def imported(weights: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    path = folder / "wsisum.onnx"
    result = import_wsisum(save({"model": weights}, folder), path, dims=SMALL.width, name="authors", licence="asked")
    assert result.sizes == SMALL
    assert result.difference < 1e-4
    return path


# ------------------------------------------------------------------------------------------- the reference


def test_the_graph_computes_what_the_reference_does(imported: Path):
    kept = REFERENCE["kept"]
    reconstruction, embedding = run(imported, inputs_of(seeded_features(), kept))
    masked = np.stack([np.delete(rows, visible, 0) for rows, visible in zip(reconstruction, kept, strict=True)])

    assert masked.shape == (2, 437, SMALL.width)
    np.testing.assert_allclose(embedding, REFERENCE["embedding"], atol=1e-4)
    np.testing.assert_allclose(masked[:, :16], REFERENCE["reconstruction_start"], atol=1e-4)
    np.testing.assert_allclose(masked[:, -16:], REFERENCE["reconstruction_end"], atol=1e-4)
    directions = drawn(int(REFERENCE["projection_seed"]), shape=(SMALL.width, 4)) / np.float32(math.sqrt(SMALL.width))
    np.testing.assert_allclose(masked @ directions, REFERENCE["projection"], atol=1e-4)


def test_the_recorded_numbers_tell_models_apart(imported: Path):
    """Were rows swapped or features ignored, the comparison above would notice."""
    features, kept = seeded_features(), REFERENCE["kept"]
    _, embedding = run(imported, inputs_of(features, kept))
    _, shifted = run(imported, inputs_of(np.roll(features, 1, 1), (kept + 1) % 500))
    assert np.abs(shifted - embedding).max() > 1e-2
    assert REFERENCE["projection"].std(axis=1).min() > 0.05


def test_published_layout_is_the_references_own():
    """Names and shapes of `pretrain_mae_base_patch16_224`, by their fingerprint."""
    layout = published_layout(PUBLISHED)
    lines = "\n".join(sorted(f"{name} {shape}" for name, shape in layout.items()))
    assert len(layout) == 219
    assert sum(math.prod(shape) for shape in layout.values()) == 93_326_208
    assert hashlib.sha256(lines.encode()).hexdigest().startswith("5e066e67b74b8a01903f4017cfbf7d43")


# ----------------------------------------------------------------------------------------------- the graph


def test_it_serves_as_a_summarizer(imported: Path):
    summarizer = load_summarizer(imported, "cpu")
    card = summarizer.card
    assert (card.name, card.licence, card.encoder, card.encoder_sha256) == ("authors", "asked", "", "")
    assert (card.dims, card.embedding_dims, card.candidates, card.mask_ratio) == (192, 192, 500, 0.875)
    assert "2 x 192" in card.description
    assert "row numbers" in card.description
    made = summarizer(drawn(2, shape=(30, 192)), np.arange(60).reshape(30, 2), 256, np.array([[0, 4], [7, 29]]))
    assert made.reconstruction.shape == (2, 30, 192)
    assert made.embedding.shape == (2, 192)


def test_graph_has_the_summarizers_inputs(imported: Path):
    session = onnxruntime.InferenceSession(str(imported), providers=["CPUExecutionProvider"])
    assert {value.name: value.type for value in session.get_inputs()} == {
        "features": "tensor(float)",
        "coords": "tensor(float)",
        "valid": "tensor(bool)",
        "kept": "tensor(int64)",
    }


def small_inputs() -> dict[str, NDArray[Any]]:
    return inputs_of(drawn(1, shape=(2, 20, SMALL.width)), np.array([[0, 3, 8], [1, 2, 11]]))


def test_what_stands_in_invalid_rows_does_not_matter(imported: Path):
    inputs = small_inputs()
    inputs["valid"][:, 12:] = False
    inputs["features"][:, 12:] = np.nan
    reconstruction, embedding = run(imported, inputs)
    shorter = {name: value if name == "kept" else value[:, :12] for name, value in inputs.items()}
    alone = run(imported, shorter)
    np.testing.assert_allclose(reconstruction[:, :12], alone[0], atol=1e-5)
    np.testing.assert_allclose(embedding, alone[1], atol=1e-5)


def test_masked_features_and_coords_are_never_seen(imported: Path):
    inputs = small_inputs()
    expected = run(imported, inputs)
    masked = np.ones((2, 20), bool)
    np.put_along_axis(masked, inputs["kept"], False, 1)
    inputs["features"][masked] = 7
    inputs["coords"] += 1000
    for found, known in zip(run(imported, inputs), expected, strict=True):
        np.testing.assert_array_equal(found, known)


def test_each_slide_of_a_batch_is_on_its_own(imported: Path):
    inputs = small_inputs()
    together = run(imported, inputs)
    alone = run(imported, {name: value[1:] for name, value in inputs.items()})
    for found, known in zip(alone, together, strict=True):
        np.testing.assert_allclose(found, known[1:], atol=1e-5)


def test_positions_go_on_past_500():
    encoded = sinusoids(1001, 6, torch.device("cpu")).numpy()
    row, dim = 1000, 4  # the third pair
    angle = row / 10000 ** (dim / 6)
    np.testing.assert_allclose(encoded[row, dim : dim + 2], [math.sin(angle), math.cos(angle)], atol=1e-6)
    np.testing.assert_array_equal(encoded[0], [0, 1] * 3)


# ------------------------------------------------------------------------------------------- the checkpoint


def same_parameters(checkpoint: Path, weights: dict[str, Any]) -> bool:
    read = published.read_checkpoint(checkpoint)
    return read.keys() == weights.keys() and all(torch.equal(read[name], weights[name]) for name in weights)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nested", [True, False])
def test_where_parameters_may_stand(weights: dict[str, Any], tmp_path: Path, prefix: str, nested: bool):
    named = {prefix + name: value for name, value in weights.items()}
    assert same_parameters(save({"model": named} if nested else named, tmp_path), weights)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_as_training_saves_it(weights: dict[str, Any], tmp_path: Path, legacy: bool):
    """With optimizer, arguments and numpy's learning rates, which weights-only loading would refuse."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr_scale": 1.0}], lr=1e-4)
    parameter.sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.linspace(0, 1e-4, 7)[3]
    content = {
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "epoch": 299,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "args": argparse.Namespace(mask_ratio=0.875, opt_betas=None, window_size=(14, 14), output_dir="/data"),
    }
    checkpoint = save(content, tmp_path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(checkpoint, weights_only=True)
    assert same_parameters(checkpoint, weights)


def test_numpy_before_2_names_its_scalars_otherwise(weights: dict[str, Any], tmp_path: Path):
    saved = save({"model": weights, "lr": np.float64(1e-4)}, tmp_path)
    older = tmp_path / "older.pth"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(older, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert published.read_checkpoint(older).keys() == weights.keys()


def test_half_precision_becomes_float32(weights: dict[str, Any], tmp_path: Path):
    halves = {name: value.half() for name, value in weights.items()}
    read = published.read_checkpoint(save(halves, tmp_path))
    assert {value.dtype for value in read.values()} == {torch.float32}


def test_same_bytes_each_time(weights: dict[str, Any], imported: Path, tmp_path: Path):
    path = tmp_path / "again.onnx"
    import_wsisum(save({"model": weights}, tmp_path), path, dims=192, name="authors", licence="asked")
    assert path.read_bytes() == imported.read_bytes()


def test_command(weights: dict[str, Any], tmp_path: Path):
    checkpoint, out = save({"model": weights}, tmp_path), tmp_path / "models" / "authors.onnx"
    asked = [str(checkpoint), "-o", str(out), "--dims", "192", "--encoder", "conch-v1.5"]
    result = CliRunner().invoke(models_app, ["import-wsisum", *asked])
    assert result.exit_code == 0, result.output
    assert "encoder 2 x 192, decoder 1 x 128, within" in result.output
    card = load_summarizer(out, "cpu").card
    assert (card.name, card.licence, card.encoder) == ("wsisum", LICENCE, "conch-v1.5")


# ---------------------------------------------------------------------------------------------- bad input


def refused(checkpoint: Path, dims: int = 192) -> str:
    """The message, once it is clear that nothing was written."""
    out = checkpoint.parent / "out.onnx"
    with pytest.raises(ModelError) as caught:
        import_wsisum(checkpoint, out, dims=dims)
    assert not out.exists()
    assert str(caught.value).startswith(checkpoint.name)
    return str(caught.value)


class Foreign:
    """Writes a file when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("function", [os.mkdir, open, exec])
def test_foreign_pickles_are_refused_and_not_run(tmp_path: Path, function: Any, nested: bool, legacy: bool):
    trace = tmp_path / "ran"
    foreign = Foreign(*{os.mkdir: (os.mkdir, str(trace)), open: (open, str(trace), "w")}.get(
        function, (exec, f"open({str(trace)!r}, 'w')")
    ))  # fmt: skip
    content = {"model": {"mask_token": torch.zeros(1)}, "args": foreign} if nested else foreign
    checkpoint = save(content, tmp_path, _use_new_zipfile_serialization=not legacy)
    message = refused(checkpoint)
    assert not trace.exists()
    assert function.__name__ in message
    assert "was not" in message
    assert "save its parameters alone" in message


def test_pickles_that_run_things_through_the_bookkeeping(tmp_path: Path):
    """Names that are let through stand for nothing that could do harm."""
    trace = tmp_path / "ran"
    state = {"model": {}, "args": argparse.Namespace(hook=Foreign(os.mkdir, str(trace)))}
    assert "mkdir" in refused(save(state, tmp_path))
    assert not trace.exists()


def test_nothing_stays_allowed(weights: dict[str, Any], tmp_path: Path):
    before = set(torch.serialization.get_safe_globals())
    published.read_checkpoint(save(weights, tmp_path))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("content", [b"", b"no checkpoint\n", b"PK\x03\x04 cut off", b"\x80\x04N."])
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes):
    path = tmp_path / "notes.pth"
    path.write_bytes(content)
    assert "expected a checkpoint of torch" in refused(path)


def test_a_checkpoint_cut_off(weights: dict[str, Any], tmp_path: Path):
    whole = save(weights, tmp_path)
    whole.write_bytes(whole.read_bytes()[:-2000])
    assert "fetch it again" in refused(whole)


def test_no_file(tmp_path: Path):
    assert "no such file" in refused(tmp_path / "missing.pth")
    assert "no such file" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "a list"),
        ({}, "nothing"),
        ({"model": {}}, "nothing"),
        ({"epoch": 3}, "a int as 'epoch'"),
        ({3: torch.zeros(1)}, "as 3"),
        ({"mask_token": torch.zeros(1, dtype=torch.int64)}, "torch.int64"),
        ({"mask_token": torch.tensor([math.nan])}, "NaN"),
        ({"mask_token": torch.eye(2).to_sparse()}, "sparse"),
    ],
)
def test_checkpoints_of_other_things(tmp_path: Path, content: Any, found: str):
    assert found in refused(save(content, tmp_path))


def test_wrong_layout_lists_every_sort(weights: dict[str, Any], tmp_path: Path):
    changed = dict(weights)
    del changed["encoder.blocks.1.attn.v_bias"]
    changed["encoder.pos_embed"] = torch.zeros(1, 501, 192)
    changed["decoder.head.weight"] = torch.zeros(768, 128)
    message = refused(save(changed, tmp_path))
    assert "missing: encoder.blocks.1.attn.v_bias;" in message
    assert "unexpected: encoder.pos_embed;" in message
    assert "of another shape: decoder.head.weight (768, 128) instead of (192, 128);" in message


def test_another_model_altogether(tmp_path: Path):
    state = {f"layer{number}.weight": torch.zeros(3, 3) for number in range(30)}
    message = refused(save({"model": state}, tmp_path))
    assert "and 207 more" in message
    assert "layer0.weight" in message
    assert "and 18 more" in message


def test_published_size_is_not_mistaken_for_a_shallower_one():
    shapes = published_layout(PUBLISHED)
    lacking = {
        name: torch.empty(shape, device="meta") for name, shape in shapes.items() if "encoder.blocks.11." not in name
    }
    with pytest.raises(ModelError, match=r"missing: encoder\.blocks\.11\.norm1\.weight.*and 1 more"):
        published.check_layout(lacking, published.sizes_of(lacking), "cut.pth")


def test_other_dims_than_asked_for(weights: dict[str, Any], tmp_path: Path):
    assert "--dims 192" in refused(save(weights, tmp_path), dims=768)


def test_a_card_that_says_nothing(weights: dict[str, Any], tmp_path: Path):
    with pytest.raises(ModelError, match="'licence': expected a licence"):
        import_wsisum(save(weights, tmp_path), tmp_path / "out.onnx", dims=192, licence=" ")
    assert not (tmp_path / "out.onnx").exists()


def test_widths_that_no_heads_divide(tmp_path: Path):
    layout = published_layout(Sizes(width=96, depth=1, decoder_width=64, decoder_depth=1, mlp_ratio=2, unused_side=4))
    state = {name: torch.zeros(shape) for name, shape in layout.items()}
    assert "multiples of the 64 dims" in refused(save(state, tmp_path), dims=96)
