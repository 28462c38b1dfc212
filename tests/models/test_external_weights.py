"""Weights beside a model: its folder alone is read, and no card is larger than cards are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tiny_encoder import card, write_model

from wsisum_cli.errors import ModelError
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.models.metadata import check_weights
from wsisum_cli.models.registry import read_card, read_card_file


def move_weights(path: Path, location: str, **places: Any) -> Path:
    """The weights of the model now lie in another file, `location`."""
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "length": len(data), **places}.items():
        tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())
    weights = path.parent / location
    if not Path(location).is_absolute() and ".." not in location:
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(data)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return write_model(folder / "m.onnx", card())


def test_weights_beside_a_model_are_read(model: Path):
    for location in ("w.bin", "inner/w.bin"):
        load_encoder(move_weights(write_model(model, card()), location), "cpu")


@pytest.mark.parametrize("location", ["../w.bin", "inner/../../w.bin", "/etc/passwd", "in\\w.bin"])
def test_weights_elsewhere_are_refused(model: Path, location: str):
    with pytest.raises(ModelError, match=r"m\.onnx: keeps weights in"):
        load_encoder(move_weights(model, location), "cpu")


@pytest.mark.parametrize("of_folder", [False, True])
def test_links_out_of_the_folder_are_refused(model: Path, of_folder: bool):
    move_weights(model, "inner/w.bin")
    inside, outside = model.parent / "inner", model.parent.parent / "outside"
    if of_folder:
        inside.rename(outside)
        inside.symlink_to(outside, target_is_directory=True)
    else:
        (inside / "w.bin").rename(outside)
        (inside / "w.bin").symlink_to(outside)
    with pytest.raises(ModelError, match="a link to another folder"):
        load_encoder(model, "cpu")


def test_links_within_the_folder_are_followed(model: Path):
    move_weights(model, "w.bin")
    (model.parent / "w.bin").rename(model.parent / "other.bin")
    (model.parent / "w.bin").symlink_to("other.bin")
    load_encoder(model, "cpu")


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"length": 1 << 40}, "expected 1099511627776 bytes of weights in w.bin, found 252"),
        ({"offset": 8}, "expected 260 bytes"),
        ({"offset": -8}, "numbers as the places"),
        ({"offset": "all"}, "numbers as the places"),
    ],
)
def test_weights_that_are_not_all_there_are_refused(model: Path, places: dict[str, Any], said: str):
    with pytest.raises(ModelError, match=said):
        check_weights(move_weights(model, "w.bin", **places))


def test_missing_weights_are_refused(model: Path):
    move_weights(model, "w.bin")
    (model.parent / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"w\.bin, which is not beside it"):
        load_encoder(model, "cpu")


def test_operators_of_other_libraries_are_refused(model: Path):
    found = onnx.load(model)
    found.graph.node[4].domain = "ai.evil"
    found.opset_import.append(helper.make_opsetid("ai.evil", 1))
    model.write_bytes(found.SerializeToString())
    with pytest.raises(ModelError, match=r"expected a model that onnxruntime .* can load"):
        load_encoder(model, "cpu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "is no JSON"),
        (json.dumps({"name": "x" * (1 << 20)}), "expected at most 1048576"),
        (json.dumps({"more": json.loads("[" * 50 + "]" * 50)}), "nested more than 20 deep"),
    ],
)
def test_cards_larger_or_deeper_than_cards_are_refused(model: Path, text: str, said: str):
    write_model(model, {"wsisum.card": text})
    for read in (read_card, lambda path: load_encoder(path, "cpu")):
        with pytest.raises(ModelError, match=said):
            read(model)


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "[" * 50 + "]" * 50, "#" * (1 << 20) + "\na = 1"])
def test_cards_as_toml_are_bounded_too(tmp_path: Path, text: str):
    path = tmp_path / "card.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"card\.toml: expected a card as TOML"):
        read_card_file(path)
