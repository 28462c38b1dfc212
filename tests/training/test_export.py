"""Torch modules to ONNX: the same numbers, the same bytes, nothing of the machine they were made on."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from places import DOCS

torch = pytest.importorskip("torch", reason="training and export need torch")

from torch import Tensor, nn  # noqa: E402

from wsisum_cli.errors import ModelError  # noqa: E402
from wsisum_cli.models.card import Fields, parse_card  # noqa: E402
from wsisum_cli.models.encoder import load_encoder  # noqa: E402
from wsisum_cli.models.metadata import read_metadata, weight_files  # noqa: E402
from wsisum_cli.training import export  # noqa: E402
from wsisum_cli.training.export import OPSET, export_encoder, export_onnx  # noqa: E402
from wsisum_cli.training.foundation import make_module, read_weights  # noqa: E402

DIMS, SIDE = 6, 16
DYNAMIC = {
    "features": {0: "batch", 1: "candidates"},
    "valid": {0: "batch", 1: "candidates"},
    "kept": {0: "batch", 1: "kept"},
}
CARD = {"name": "small", "kind": "summarizer", "dims": DIMS, "licence": "CC0-1.0"}
ENCODER_CARD = {
    "name": "small-encoder",
    "patch_size": SIDE,
    "mpp": 0.5,
    "mean": [0.5, 0.25, 0.75],
    "std": [0.5, 0.25, 0.125],
    "dims": 4,
    "licence": "CC0-1.0",
}


class Attention(nn.Module):
    """What makes exports hard: attention with a mask, gather, scatter, sizes that follow from the input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, dropout=0.5)
        self.widen, self.narrow = nn.Linear(DIMS, 8), nn.Linear(8, DIMS)
        self.masked = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, features: Tensor, unused: Tensor, valid: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        batch, candidates, _ = features.shape
        rows = kept[..., None].expand(-1, -1, 8)
        visible = self.widen(features).gather(1, rows)
        seen = self.layer(visible, src_key_padding_mask=~valid.gather(1, kept))
        places = self.masked.expand(batch, candidates, 8).scatter(1, rows, seen)
        return self.narrow(places), seen.mean(dim=1)


def example(batch: int, candidates: int, kept: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(candidates)
    return {
        "features": torch.randn(batch, candidates, DIMS, generator=generator),
        "unused": torch.zeros(2),
        "valid": torch.ones(batch, candidates, dtype=torch.bool),
        "kept": torch.stack([torch.randperm(candidates, generator=generator)[:kept] for _ in range(batch)]),
    }


EXAMPLES = [example(2, 9, 3), example(1, 40, 1), example(5, 4, 4)]
OUTPUTS = ["reconstruction", "embedding"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, nn.Module]:
    path = tmp_path_factory.mktemp("export") / "new" / "small.onnx"
    module = Attention()
    module.narrow.eval()
    return path, export_onnx(module, EXAMPLES, OUTPUTS, DYNAMIC, CARD, path), module


def test_it_computes_the_same_at_every_size(exported):
    path, difference, _ = exported
    assert 0 < difference < 1e-5
    assert [file.name for file in path.parent.iterdir()] == ["small.onnx"]


def test_axes_are_free_and_inputs_without_use_stay(exported):
    graph = onnx.load(exported[0]).graph
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes["features"] == ["batch", "candidates", DIMS]
    assert shapes["kept"] == ["batch", "kept"]
    assert shapes["unused"] == [2]
    assert shapes["reconstruction"] == ["batch", "candidates", DIMS]
    assert shapes["embedding"] == ["batch", 8]


def test_the_card_is_all_it_says_of_itself(exported):
    path = exported[0]
    assert read_metadata(path) == {"wsisum.card": json.dumps(CARD, sort_keys=True)}
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert OPSET <= 20
    onnx.checker.check_model(model)
    content = path.read_bytes()
    for private in (b".py", b"site-packages", b"forward", b"stack_trace", b"wsisum_cli", str(Path.home()).encode()):
        assert private not in content


def test_the_same_module_gives_the_same_bytes(exported, tmp_path):
    path, _, module = exported
    export_onnx(module, EXAMPLES, OUTPUTS, DYNAMIC, dict(reversed(CARD.items())), tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").read_bytes() == path.read_bytes()


def test_the_module_is_left_in_the_mode_it_was_in(exported):
    module = exported[2]
    assert module.training
    assert module.layer.training
    assert not module.narrow.training


# ------------------------------------------------------------------------------------------------ refusals


class Doubled(nn.Module):
    """Twice its input, and a flaw."""

    def __init__(self, flaw: str) -> None:
        super().__init__()
        self.flaw = flaw

    def forward(self, values: Tensor) -> Tensor:
        if self.flaw == "branch" and values.sum() > 0:
            return values
        if self.flaw == "random":
            return values + torch.rand_like(values)
        if self.flaw == "nan":
            return torch.sqrt(-values.abs() - 1)
        return values * 2


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ("branch", r"bad\.onnx: torch cannot export this module .*; write it without"),
        ("random", r"bad\.onnx: doubled: expected ONNX Runtime within 0\.0001 of torch, found a difference of"),
        ("nan", r"bad\.onnx: doubled: some values are not finite"),
    ],
)
def test_what_cannot_be_trusted_is_not_written(tmp_path, flaw, words):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"what was there")
    with pytest.raises(ModelError, match=words):
        export_onnx(Doubled(flaw), [{"values": torch.ones(3)}], ["doubled"], {"values": {0: "count"}}, {}, path)
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_tolerance_is_relative_above_one():
    class Session:
        source, inputs = "x.onnx", ()

        def run(self, *_: Any) -> list[np.ndarray]:
            return [np.array([1000.05, 0.00005], np.float32)]

    def compare(tolerance: float) -> float:
        module = Doubled("none")
        return export._compare(module, Session(), [{"values": torch.tensor([500.0, 0.0])}], ["doubled"], tolerance)

    assert compare(1e-4) == pytest.approx(0.05, rel=1e-3)
    with pytest.raises(ModelError, match="nothing was written"):
        compare(1e-5)


def test_a_free_axis_of_one_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"values: the first example needs 2 or more along its free axis 0 \(count\)"):
        export_onnx(Doubled(""), [{"values": torch.ones(1)}], ["d"], {"values": {0: "count"}}, {}, tmp_path / "a.onnx")


# ------------------------------------------------------------------------------------------------- encoders


class Tokens(nn.Module):
    """Like a vision transformer: a class token, two registers, and one token for each quarter of the patch."""

    num_prefix_tokens = 3

    def __init__(self, dims: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Conv2d(3, dims, SIDE // 2, SIDE // 2)
        self.prefix = nn.Parameter(torch.randn(1, 3, dims))

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.embed(pixels).flatten(2).transpose(1, 2)
        first = self.prefix + tokens.mean(dim=1, keepdim=True) * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
        return torch.cat([first, tokens], dim=1)


def patches(count: int = 3) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def tokens_of(module: nn.Module, pixels: np.ndarray) -> np.ndarray:
    normalised = (pixels / 255 - ENCODER_CARD["mean"]) / ENCODER_CARD["std"]
    with torch.no_grad():
        return np.asarray(module(torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float()))


@pytest.mark.parametrize(("pool", "uint8", "dims"), [("cls", True, 4), ("mean", False, 4), ("cls+mean", True, 8)])
def test_tokens_are_pooled_and_pixels_normalised(tmp_path, pool, uint8, dims):
    module = Tokens()
    path = tmp_path / "e.onnx"
    assert export_encoder(module, path, ENCODER_CARD | {"dims": dims}, uint8=uint8, pool=pool) < 1e-4
    tokens = tokens_of(module, patches())
    cls, mean = tokens[:, 0], tokens[:, 3:].mean(axis=1)
    expected = {"cls": cls, "mean": mean, "cls+mean": np.hstack([cls, mean])}[pool]
    encoder = load_encoder(path, "cpu")
    np.testing.assert_allclose(encoder(patches()), expected, atol=1e-4)
    assert encoder.card.kind == "encoder"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dims": 5}, r"^e\.onnx: card field 'dims': expected the 4 that the module gives, found 5; correct it in the"),
        ({"patch_size": 3}, r"the module fails on patches of 3 px \(RuntimeError: .*; correct patch_size in the card"),
        ({"mean": None}, "card field 'mean'"),
        ({"kind": "summarizer"}, "expected 'encoder', found 'summarizer'"),
        ({"licence": ""}, "card field 'licence'"),
    ],
)
def test_a_card_that_does_not_fit_writes_nothing(tmp_path, changes, words):
    with pytest.raises(ModelError, match=words):
        export_encoder(Tokens(), tmp_path / "e.onnx", ENCODER_CARD | changes, pool="cls")
    assert list(tmp_path.iterdir()) == []


def test_pooling_that_does_not_fit_is_told(tmp_path):
    path, pooled = tmp_path / "e.onnx", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1))
    with pytest.raises(ModelError, match=r"expected features .*, found tokens \(1, 7, 4\); .*--pool cls"):
        export_encoder(Tokens(), path, ENCODER_CARD)
    with pytest.raises(ModelError, match=r"expected tokens .*, found \(1, 4, 1, 1\); .*--pool none"):
        export_encoder(pooled, path, ENCODER_CARD, pool="mean")
    with pytest.raises(ModelError, match="more than 7, to pool"):
        export_encoder(Tokens(), path, ENCODER_CARD, pool="mean", prefix_tokens=7)
    assert list(tmp_path.iterdir()) == []
    export_encoder(pooled, path, ENCODER_CARD)
    assert load_encoder(path, "cpu")(patches()).shape == (3, 4)


def test_unknown_pooling_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"expected one of none, cls, mean, cls\+mean, found 'max'"):
        export_encoder(Tokens(), tmp_path / "e.onnx", ENCODER_CARD, pool="max")


def test_weights_too_large_for_one_file_go_into_a_second(tmp_path, monkeypatch):
    """A summary knows its encoder by the sha256 of the ONNX file alone, so that other weights must change that."""
    monkeypatch.setattr(export, "MAX_BYTES", 100)
    module, models = Tokens(64), [tmp_path / name / "e.onnx" for name in ("one", "other")]
    for path in models:
        module.prefix.data += 1
        export_encoder(module, path, ENCODER_CARD | {"dims": 64}, pool="cls")
        assert sorted(file.name for file in path.parent.iterdir()) == ["e.onnx", "e.onnx.data"]
        assert weight_files(path) == ["e.onnx.data"]
        data = hashlib.sha256((path.parent / "e.onnx.data").read_bytes()).hexdigest()
        assert json.loads(read_metadata(path)["wsisum.card"])["weights_sha256"] == {"e.onnx.data": data}
    assert models[0].read_bytes() != models[1].read_bytes()
    assert load_encoder(models[0], "cpu")(patches()).shape == (3, 64)


# --------------------------------------------------------------------------------------- a lab's own weights


LAB = """
import torch
from torch import nn

def encoder(dims, act=None, path=None):
    return nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(3, dims), act() if act else nn.Identity())

def with_transform(dims):
    return encoder(dims), lambda image: image

def no_module():
    return 3
"""


@pytest.fixture
def lab(tmp_path) -> str:
    (tmp_path / "lab.py").write_text(LAB)
    return str(tmp_path / "lab.py")


def test_a_function_of_a_file_gives_the_module(lab):
    assert make_module(f"{lab}:encoder", {"dims": 5})[2].out_features == 5
    assert make_module(f"{lab}:with_transform", {"dims": 5})[2].out_features == 5
    assert not make_module(f"{lab}:encoder", {"dims": 5}).training


def test_text_that_names_something_of_pythons_stands_for_it(lab):
    assert isinstance(make_module(f"{lab}:encoder", {"dims": 2, "act": "torch.nn:SiLU"})[3], nn.SiLU)
    assert make_module(f"{lab}:encoder", {"dims": 2, "path": "C:/models/a b"}) is not None


def test_timm_makes_no_classifier_and_fetches_nothing(monkeypatch):
    """timm is a stand-in here, which only records how it is called."""
    called: dict[str, Any] = {}
    timm = ModuleType("timm")
    timm.create_model = lambda **given: called.update(given) or nn.Identity()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    make_module("timm:vit_large_patch16_224", {"img_size": 224, "init_values": 1e-5, "act_layer": "torch.nn:SiLU"})
    assert called == {
        "model_name": "vit_large_patch16_224",
        "pretrained": False,
        "num_classes": 0,
        "img_size": 224,
        "init_values": 1e-5,
        "act_layer": nn.SiLU,
    }


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("encoder", "encoder: expected timm:NAME, package.module:function or FILE.py:function"),
        ("no_such_package.at_all:encoder", "no_such_package.at_all: cannot be imported"),
        ("torch.nn:Conv9d", "torch.nn: has no Conv9d"),
        ("none.py:encoder", r"none\.py: cannot be imported \(no such file\)"),
        ("LAB:no_module", "expected a torch module, found a int"),
        ("LAB:encoder", r"cannot be made \(TypeError: .*dims.*\); correct the card's \[arguments\]"),
    ],
)
def test_a_module_that_cannot_be_made_is_told(lab, source, words):
    with pytest.raises(ModelError, match=words):
        make_module(source.replace("LAB", lab), {})


def test_timm_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"timm: cannot be imported .*; install it"):
        make_module("timm:vit_large_patch16_224", {})


@pytest.mark.filterwarnings("default")
def test_a_transformer_of_timm_is_exported(tmp_path):
    """With all that sets foundation models apart: registers, SwiGLU, scaled layers, tokens pooled outside."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    arguments = {
        "img_size": 32,
        "depth": 1,
        "embed_dim": 24,
        "num_heads": 3,
        "mlp_ratio": 5.3375,
        "init_values": 0.5,
        "reg_tokens": 4,
        "global_pool": "",
        "dynamic_img_size": True,
        "mlp_layer": "timm.layers:SwiGLUPacked",
        "act_layer": "torch.nn:SiLU",
    }
    torch.manual_seed(0)
    module = make_module("timm:vit_tiny_patch16_224", arguments)
    assert module.num_prefix_tokens == 5, timm.__version__
    torch.save(module.state_dict(), tmp_path / "w.bin")
    again = make_module("timm:vit_tiny_patch16_224", arguments, tmp_path / "w.bin")
    path, card = tmp_path / "e.onnx", ENCODER_CARD | {"patch_size": 32, "dims": 48}
    assert export_encoder(again, path, card, uint8=True, pool="cls+mean") < 1e-4
    pixels = np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), np.uint8)
    tokens = tokens_of(module, pixels)
    expected = np.hstack([tokens[:, 0], tokens[:, 5:].mean(axis=1)])
    np.testing.assert_allclose(load_encoder(path, "cpu")(pixels), expected, atol=1e-4)


def documented_modules() -> list[Any]:
    """Module, pooling and card of the foundation models of docs/models.md that timm makes."""
    page = (DOCS / "models.md").read_text()
    cards = dict(re.findall(r"```toml\n# (\S+)\n(.*?)```", page, re.DOTALL))
    lines = re.findall(r"wsisum models export (timm:\S+) --card (\S+) (.*)", page)
    return [
        pytest.param(module, pool[0] if (pool := re.findall(r"--pool (\S+)", rest)) else "none", cards[card], id=card)
        for module, card, rest in lines
    ]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("module", "pool", "card"), documented_modules())
def test_the_foundation_models_documented_give_what_their_cards_say(module, pool, card):
    pytest.importorskip("timm", reason="timm is not installed")
    fields = tomllib.loads(card)
    with torch.device("meta"):  # shapes without numbers: these have a billion parameters
        made = make_module(module, fields.pop("arguments"))
        wrapped = export._Patches(
            made, parse_card(Fields("card", fields), True, ""), True, pool, made.num_prefix_tokens
        )
        pixels = torch.empty(2, fields["patch_size"], fields["patch_size"], 3, dtype=torch.uint8)
        assert wrapped.to("meta")(pixels).shape == (2, fields["dims"])


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_found_where_checkpoints_keep_them(lab, tmp_path, wrap, prefix):
    state = make_module(f"{lab}:encoder", {"dims": 5}).state_dict()
    torch.save(wrap({prefix + name: value + 1 for name, value in state.items()}), tmp_path / "w.pt")
    module = make_module(f"{lab}:encoder", {"dims": 5}, tmp_path / "w.pt")
    assert set(module.state_dict()) == set(state)
    torch.testing.assert_close(module.state_dict(), read_weights(tmp_path / "w.pt"))


class Foreign:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it was run')",)


def test_a_checkpoint_with_foreign_pickles_is_refused_and_not_run(tmp_path):
    torch.save({"model": {"weight": torch.ones(2)}, "args": Foreign()}, tmp_path / "w.pt")
    with pytest.raises(
        ModelError, match=r"w\.pt: expected tensors alone, found .*exec, which would be run as code and"
    ):
        read_weights(tmp_path / "w.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Foreign()))
    with pytest.raises(ModelError, match=r"old\.pt: expected"):
        read_weights(tmp_path / "old.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "expected tensors by name, found a dict"),
        ([1], "expected tensors by name, found a list"),
        ({"weight": 3}, "expected a tensor as 'weight', found a int"),
        ({"2.weight": torch.ones(5, 3)}, r"found a file that lacks 1 \(2.bias\)"),
        ({"2.weight": torch.ones(5, 3), "2.bias": torch.ones(5), "x": torch.ones(1)}, "has beyond the module 1"),
        ({"2.weight": torch.ones(4, 3), "2.bias": torch.ones(5)}, r"size mismatch .*; correct the card's"),
    ],
)
def test_weights_of_another_module_are_refused(lab, tmp_path, content, words):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=rf"w\.pt: .*{words}"):
        make_module(f"{lab}:encoder", {"dims": 5}, tmp_path / "w.pt")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, monkeypatch):
    (tmp_path / "w.pt").write_bytes(b"\x80nothing")
    with pytest.raises(ModelError, match=r"w\.pt: expected a checkpoint of torch, found"):
        read_weights(tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"none\.pt: no such file"):
        read_weights(tmp_path / "none.pt")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "w.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="needs the package safetensors"):
        read_weights(tmp_path / "w.safetensors")
