"""The user's folder of models: what is taken in, what is refused, and what the commands say."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import write_slide_encoder, write_summarizer
from places import DOCS
from tiny_encoder import CARD, card, constant, write_model
from typer.main import get_command
from typer.testing import CliRunner

from wsisum_cli.commands import models as models_cli
from wsisum_cli.commands.main import app
from wsisum_cli.errors import ModelError, UsageError
from wsisum_cli.models.card import Fields
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.models.metadata import copy_with_metadata, read_metadata, weight_files
from wsisum_cli.models.places import find_model, shipped_models
from wsisum_cli.models.registry import (
    MANIFEST,
    RECORD,
    add_model_file,
    describe,
    models_at_hand,
    parse_any_card,
    read_card_file,
    show_model_file,
    verify_model,
)

CARD_TOML = """
name = "lab"
patch_size = 32
mpp = 0.5
mean = [0.5, 0.25, 0.75]
std = [0.5, 0.25, 0.125]
dims = 21
licence = "MIT"
trained_on = "our archive"

[arguments]
img_size = 32
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "a.onnx", card())


def write_card(path: Path, **changes: Any) -> Path:
    """CARD as TOML; a field changed to ... is left out."""
    fields = {key: value for key, value in (CARD | changes).items() if value is not ...}
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()))
    return path


def of(model: Path, folder: Path) -> Any:
    return next(found for found in models_at_hand((folder,)) if found.path == model)


# ------------------------------------------------------------------------------------------- what is taken in


def test_added_model_is_found_by_name(encoder, folder):
    added = add_model_file(encoder, folder)
    assert added.path == folder / "tiny" / "tiny.onnx" == find_model("tiny", [folder])
    assert sorted(file.name for file in added.path.parent.iterdir()) == [RECORD, "tiny.onnx"]
    assert [entry.name for entry in folder.iterdir()] == ["tiny"]
    assert verify_model(of(added.path, folder)) == []
    with pytest.raises(ModelError, match=r"tiny: no model with this name; .*texture"):
        find_model("tiny")


def test_toml_card_is_written_into_the_file(tmp_path, folder):
    model, toml = write_model(tmp_path / "a.onnx", {"maker": "elsewhere"}), tmp_path / "card.toml"
    toml.write_text(CARD_TOML)
    added = add_model_file(model, folder, toml)
    stored = read_metadata(added.path)
    assert stored["maker"] == "elsewhere"
    fields = json.loads(stored["wsisum.card"])
    assert (fields["name"], fields["trained_on"]) == ("lab", "our archive")
    assert "arguments" not in fields
    onnx.checker.check_model(onnx.load(added.path))
    assert load_encoder(added.path, "cpu").card.licence == "MIT"


def test_option_overrides_toml_which_overrides_metadata(encoder, tmp_path, folder):
    toml = tmp_path / "card.toml"
    toml.write_text('name = "second"\nlicense = "BSD-3-Clause"\n')
    added = add_model_file(encoder, folder, toml, name="third")
    assert (added.name, added.card.name, added.card.licence, added.card.mpp) == ("third", "third", "BSD-3-Clause", 0.5)


def test_model_name_defaults_to_the_file_name(tmp_path, folder):
    model = write_model(tmp_path / "ours.onnx", {})
    assert add_model_file(model, folder, write_card(tmp_path / "card.toml", name=...)).name == "ours"


def test_adding_a_model_is_deterministic(encoder, tmp_path):
    first, second = (add_model_file(encoder, tmp_path / name).path.parent for name in "ab")
    assert {f.name: f.read_bytes() for f in first.iterdir()} == {f.name: f.read_bytes() for f in second.iterdir()}


@pytest.mark.parametrize(("write", "kind"), [(write_summarizer, "summarizer"), (write_slide_encoder, "slide-encoder")])
def test_every_kind_can_be_added(tmp_path, folder, write, kind):
    added = add_model_file(write(tmp_path / "m.onnx"), folder)
    assert added.card.kind == kind
    row = describe(of(added.path, folder))
    assert (row["kind"], row["dims"], row["embedding_dims"], row["problem"]) == (kind, 12, 5, None)
    assert verify_model(of(added.path, folder)) == []


def write_external(folder: Path, location: str = "weights.bin") -> Path:
    """An encoder whose weights are larger than onnx leaves in the file."""
    path = write_model(folder / "plain.onnx", card())
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(constant("weights", np.tile(np.eye(3, 21), (1, 1))))
    onnx.save_model(model, folder / "big.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return folder / "big.onnx"


def test_external_weights_are_copied(tmp_path, folder):
    model = write_external(tmp_path)
    assert weight_files(model) == ["weights.bin"]
    added = add_model_file(model, folder)
    (tmp_path / "weights.bin").unlink()
    assert sorted(file.name for file in added.path.parent.iterdir()) == [RECORD, "tiny.onnx", "weights.bin"]
    files = json.loads((added.path.parent / RECORD).read_text())["files"]
    assert set(files) == {"tiny.onnx", "weights.bin"}
    assert show_model_file(added.path)["card"]["weights_sha256"] == {"weights.bin": files["weights.bin"]}
    assert load_encoder(added.path, "cpu")(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 21)
    assert [file["file"] for file in show_model_file(added.path)["files"]] == ["tiny.onnx", "weights.bin"]


def test_missing_external_weights_are_reported(tmp_path, folder):
    model = write_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"big\.onnx: keeps weights in weights\.bin, which is not beside it"):
        add_model_file(model, folder)


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/hostname", "tiny.onnx", RECORD])
def test_weights_outside_the_folder_are_refused(tmp_path, folder, place):
    model = onnx.load(write_external(tmp_path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = place
    (tmp_path / "big.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="export it with them in one file beside it"):
        add_model_file(tmp_path / "big.onnx", folder)
    assert list(folder.iterdir()) == []


def test_weights_of_nested_graphs_are_found(tmp_path):
    tensor = constant("w", np.ones(3))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="inner/w.bin")
    inner = helper.make_graph([helper.make_node("Constant", [], ["w"], value=tensor)], "inner", [], [])
    outer = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)], "o", [], [])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(outer).SerializeToString())
    assert weight_files(tmp_path / "m.onnx") == ["inner/w.bin"]


# -------------------------------------------------------------------------------------------- what is refused


def refused(model: Path, folder: Path, words: str, card: Path | None = None, **options: Any) -> None:
    with pytest.raises((ModelError, UsageError), match=words):
        add_model_file(model, folder, card, **options)
    assert not folder.exists() or not list(folder.iterdir())


def test_model_without_a_card_is_refused(tmp_path, folder):
    model = write_model(tmp_path / "bare.onnx", {})
    words = r"^bare\.onnx: expected a card, found none of its fields; give one as TOML \(wsisum models add --card"
    refused(model, folder, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dims": 20}, r"^a\.onnx: card field 'dims': expected the 21 .*, found 20; correct it in card\.toml$"),
        ({"patch_size": 64}, r"^a\.onnx: card field 'patch_size': expected the 32 px .*, found 64; correct it in card"),
        ({"licence": ...}, r"card\.toml: the card lacks 'licence', .*; correct it in card\.toml"),
        ({"mean": ...}, r"a\.onnx: the card lacks 'mean', .*; correct it in card\.toml"),
        ({"mpp": "fine"}, r"card\.toml: card field 'mpp': .*; correct it in card\.toml"),
        ({"kind": "summarizer"}, r"card\.toml: the card lacks 'embedding_dims'"),
        ({"kind": "oracle"}, r"card\.toml: card field 'kind': expected one of encoder, summarizer, slide-encoder"),
        ({"name": "../escape"}, r"'\.\./escape' is no plain name; .*--name"),
        ({"name": "two words"}, "is no plain name"),
    ],
)
def test_card_that_contradicts_the_graph_is_refused(tmp_path, folder, changes, words):
    model = write_model(tmp_path / "a.onnx", {})
    refused(model, folder, words, write_card(tmp_path / "card.toml", **changes))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = \nmpp = 1", r"card\.toml: expected a card as TOML, found .*line 1"),
        ("mpp = nan", r"card\.toml: expected a card as TOML"),
        ("when = 2026-01-01", r"card\.toml: expected a card as TOML"),
        (None, r"card\.toml: no such file"),
        ("\udcff", r"card\.toml: expected a card as TOML, found no text"),
    ],
)
def test_invalid_card_file_is_refused(encoder, tmp_path, folder, text, words):
    if text is not None:
        (tmp_path / "card.toml").write_bytes(text.encode(errors="surrogateescape"))
    refused(encoder, folder, words, tmp_path / "card.toml")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08\xff", bytes(40), b"\x3a\xff\xff\xff\xff\x0f"])
def test_file_that_is_not_onnx_is_refused(tmp_path, folder, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    refused(tmp_path / "bad.onnx", folder, r"bad\.onnx: expected", write_card(tmp_path / "card.toml"))
    refused(tmp_path / "none.onnx", folder, r"none\.onnx: expected an ONNX file, found no such file; give the path")
    refused(tmp_path, folder, "expected an ONNX file, found a folder")


def write_patchwork(path: Path, nodes: list[Any], initializers: list[Any] = ()) -> Path:  # type: ignore[assignment]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ("batch", 3, 32, 32))
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ("batch", 3))
    mean = helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([mean, *nodes], "bad", [pixels], [features], list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, card(dims=3))
    path.write_bytes(model.SerializeToString())
    return path


def test_encoder_mixing_patches_of_a_batch_is_refused(tmp_path, folder):
    """Like batch normalisation in training mode."""
    nodes = [
        helper.make_node("ReduceMean", ["mean"], ["all"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["mean", "all"], ["features"]),
    ]
    refused(write_patchwork(tmp_path / "a.onnx", nodes), folder, "not to depend on the others in its batch")


def test_encoder_depending_on_batch_position_is_refused(tmp_path, folder):
    nodes = [
        helper.make_node("CumSum", ["mean", "axis"], ["features"]),
    ]
    model = write_patchwork(tmp_path / "a.onnx", nodes, [constant("axis", 0, np.int64)])
    refused(model, folder, "not to depend on its position in a batch")


def test_random_encoder_is_refused(tmp_path, folder):
    nodes = [
        helper.make_node("RandomUniformLike", ["mean"], ["noise"]),
        helper.make_node("Add", ["mean", "noise"], ["features"]),
    ]
    refused(write_patchwork(tmp_path / "a.onnx", nodes), folder, "expected the same features of the same patches again")


def test_constant_encoder_is_refused(tmp_path, folder):
    nodes = [helper.make_node("Mul", ["mean", "zero"], ["none"]), helper.make_node("Cos", ["none"], ["features"])]
    model = write_patchwork(tmp_path / "a.onnx", nodes, [constant("zero", 0)])
    refused(model, folder, "expected features that differ between patches")


def test_non_finite_encoder_is_refused(tmp_path, folder):
    nodes = [helper.make_node("Mul", ["mean", "zero"], ["none"]), helper.make_node("Log", ["none"], ["features"])]
    model = write_patchwork(tmp_path / "a.onnx", nodes, [constant("zero", 0)])
    refused(model, folder, "expected finite features")


def test_summarizer_leaking_masked_features_is_refused(tmp_path, folder):
    words = "not to depend on the features of masked candidates"
    refused(write_summarizer(tmp_path / "a.onnx", leaks=True), folder, words)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_summarizer, "expected the same numbers for the same candidates again"),
        (write_slide_encoder, "expected the same embedding of the same slide again"),
    ],
)
def test_random_model_is_refused(tmp_path, folder, write, words):
    refused(write(tmp_path / "a.onnx", last="RandomUniformLike"), folder, words)


@pytest.mark.parametrize("write", [write_summarizer, write_slide_encoder])
def test_non_finite_model_is_refused(tmp_path, folder, write):
    refused(write(tmp_path / "a.onnx", last="Sqrt"), folder, "expected finite numbers, found NaN")


def test_summarizer_using_invalid_rows_is_refused(tmp_path, folder):
    path = write_summarizer(tmp_path / "a.onnx")
    model = onnx.load(path)
    # coords are measured from the mean over all rows, valid or not, and no more relative to each other alone
    model.graph.node.insert(0, helper.make_node("ReduceMean", ["coords"], ["middle"], axes=[1], keepdims=1))
    model.graph.node.insert(1, helper.make_node("Mul", ["coords", "middle"], ["centred"]))
    for node in model.graph.node[2:]:
        node.input[:] = ["centred" if name == "coords" else name for name in node.input]
    path.write_bytes(model.SerializeToString())
    refused(path, folder, "invalid rows to change nothing")


def test_slide_encoder_with_invalid_prototype_weights_is_refused(tmp_path, folder):
    refused(write_slide_encoder(tmp_path / "a.onnx", shares=(0.5, 0.5, 0.5)), folder, "expected shares")


def test_graph_of_another_kind_is_refused(tmp_path, folder):
    model = write_slide_encoder(tmp_path / "a.onnx", kind="summarizer", candidates=500)
    refused(model, folder, r"expected the inputs .*kept.*; found features")


# ----------------------------------------------------------------------------------------------------- names


def test_existing_names_need_force(encoder, folder):
    add_model_file(encoder, folder)
    with pytest.raises(UsageError, match=r"tiny: a model of this name is in your folder; .*--name.*--force"):
        add_model_file(encoder, folder)
    with pytest.raises(UsageError, match="texture: a model of this name is among those that ship"):
        add_model_file(encoder, folder, name="texture")
    before = (folder / "tiny" / "tiny.onnx").stat().st_ino
    add_model_file(encoder, folder, force=True)
    assert (folder / "tiny" / "tiny.onnx").stat().st_ino != before
    assert [entry.name for entry in folder.iterdir()] == ["tiny"]
    add_model_file(encoder, folder, name="texture", force=True)
    assert find_model("texture", [folder]) == folder / "texture" / "texture.onnx"
    assert find_model("texture") == shipped_models()["texture"]


@pytest.mark.parametrize("force", [False, True])
def test_foreign_files_are_never_deleted(encoder, folder, force):
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "pytorch_model.bin").write_bytes(b"weights")
    model = Path(shutil.copy(encoder, folder / "mine" / "export.onnx"))
    for file in (model, encoder):
        with pytest.raises(UsageError, match=r"mine: holds files that wsisum did not put there; .*--name"):
            add_model_file(file, folder, name="mine", force=force)
    assert sorted(entry.name for entry in (folder / "mine").iterdir()) == ["export.onnx", "pytorch_model.bin"]
    added = add_model_file(encoder, folder).path.parent
    (added / "inner").mkdir()
    (added / "inner" / "notes.txt").write_text("ours")
    with pytest.raises(UsageError, match="tiny: holds files"):
        add_model_file(encoder, folder, force=force)
    assert (added / "inner" / "notes.txt").read_text() == "ours"
    (folder / "linked").symlink_to(added)
    with pytest.raises(UsageError, match="linked: holds files"):
        add_model_file(encoder, folder, name="linked", force=force)


def test_added_weights_can_be_replaced(tmp_path, folder):
    (tmp_path / "inner").mkdir()
    model = write_external(tmp_path, "inner/weights.bin")
    path = add_model_file(model, folder).path
    add_model_file(model, folder, force=True)
    assert verify_model(of(path, folder)) == []


def test_model_inside_the_replaced_folder_is_refused(encoder, folder):
    path = add_model_file(encoder, folder).path
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"tiny\.onnx: lies in the folder it would replace; .*--name"):
        add_model_file(path, folder, force=True)
    assert path.read_bytes() == before


def test_refused_model_keeps_the_existing_one(encoder, tmp_path, folder):
    add_model_file(encoder, folder)
    with pytest.raises(ModelError):
        add_model_file(encoder, folder, write_card(tmp_path / "card.toml", dims=20), force=True)
    assert verify_model(of(folder / "tiny" / "tiny.onnx", folder)) == []


# ---------------------------------------------------------------------------------------------------- verify


def test_changed_bytes_are_found(encoder, folder):
    path = add_model_file(encoder, folder).path
    copy_with_metadata(path, path.with_suffix(".new"), "note", "changed")
    path.with_suffix(".new").replace(path)
    assert [problem["code"] for problem in verify_model(of(path, folder))] == ["checksum"]


def test_missing_files_are_found(tmp_path, folder):
    path = add_model_file(write_external(tmp_path), folder).path
    (path.parent / "weights.bin").unlink()
    assert [problem["code"] for problem in verify_model(of(path, folder))] == ["missing-file", "unusable"]
    assert "weights.bin" in describe(of(path, folder))["problem"]
    (path.parent / RECORD).write_text("{")
    assert [problem["code"] for problem in verify_model(of(path, folder))] == ["no-record", "unusable"]
    path.unlink()
    assert "tiny.onnx" in describe(of(path, folder))["problem"]
    assert [problem["code"] for problem in verify_model(of(path, folder))] == ["no-record"]


def test_missing_model_file_is_found(encoder, folder):
    path = add_model_file(encoder, folder).path
    path.unlink()
    assert describe(of(path, folder))["problem"].startswith("tiny: tiny.onnx: No such file")
    assert [problem["code"] for problem in verify_model(of(path, folder))] == ["missing-file"]


def test_unloadable_model_is_found(encoder, folder):
    path = add_model_file(encoder, folder).path
    path.write_bytes(b"\x08\x08")
    row = describe(of(path, folder))
    assert row["kind"] is None
    assert "expected a card" in row["problem"]
    assert [problem["code"] for problem in verify_model(of(path, folder))] == ["checksum", "unusable"]


def test_shipped_models_are_checked_against_their_manifest(tmp_path, monkeypatch):
    shipped = {"texture": Path(shutil.copy(shipped_models()["texture"], tmp_path / "texture.onnx"))}
    monkeypatch.setattr("wsisum_cli.models.registry.shipped_models", lambda: shipped)

    def codes() -> list[str]:
        return [problem["code"] for problem in verify_model(models_at_hand()[0])]

    assert codes() == ["no-record"]
    sha256 = describe(models_at_hand()[0])["sha256"]
    (tmp_path / MANIFEST).write_text(json.dumps({"texture": {"file": "texture.onnx", "sha256": sha256}}))
    assert codes() == []
    (tmp_path / MANIFEST).write_text(json.dumps({"texture": {"file": "texture.onnx", "sha256": "0" * 64}}))
    assert codes() == ["checksum"]
    for broken in ("[]", '{"texture": 3}', "{"):
        (tmp_path / MANIFEST).write_text(broken)
        assert codes() == ["no-record"]
    (tmp_path / MANIFEST).write_text(json.dumps({"gone": {"file": "gone.onnx", "sha256": sha256}}))
    assert {model.name: [problem["code"] for problem in verify_model(model)] for model in models_at_hand()} == {
        "gone": ["missing-file"],
        "texture": ["no-record"],
    }


# -------------------------------------------------------------------------------------------------- metadata


def test_only_metadata_changes_in_the_copy(encoder, tmp_path):
    copy_with_metadata(encoder, tmp_path / "b.onnx", "wsisum.card", "{}")
    copy_with_metadata(tmp_path / "b.onnx", tmp_path / "c.onnx", "µ" * 200, "x" * 70_000)
    before, after = onnx.load(encoder), onnx.load(tmp_path / "c.onnx")
    assert {entry.key: entry.value for entry in after.metadata_props} == read_metadata(tmp_path / "c.onnx")
    assert read_metadata(tmp_path / "c.onnx") == {"wsisum.card": "{}", "µ" * 200: "x" * 70_000}
    for model in (before, after):
        model.ClearField("metadata_props")
    assert before == after


# ---------------------------------------------------------------------------------------------- command line


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.setenv("WSISUM_MODELS", str(folder))

    def invoke(*arguments: Any) -> Any:
        return CliRunner().invoke(app, ["models", *map(str, arguments)])

    return invoke


def test_models_commands_agree(run, encoder, folder):
    added = run("add", encoder)
    assert (added.exit_code, added.stdout) == (0, f"tiny: encoder, 21 dims, in {folder / 'tiny'}\n")
    listed = json.loads(run("list", "--json").stdout)
    assert listed["folder"] == str(folder)
    row = next(row for row in listed["models"] if row["name"] == "tiny")
    assert set(row) == {
        *("name", "kind", "version", "dims", "embedding_dims", "licence"),
        *("bytes", "sha256", "where", "hidden", "file", "problem"),
    }
    assert (row["kind"], row["where"], row["licence"], row["problem"]) == ("encoder", "user", "CC0-1.0", None)
    shown = json.loads(run("show", "tiny", "--json").stdout)
    assert set(shown) == {"card", "bytes", "files", "inputs", "outputs"}
    assert (shown["card"]["sha256"], shown["bytes"]) == (row["sha256"], row["bytes"])
    assert shown["inputs"] == [{"name": "pixels", "dtype": "float32", "shape": [None, 3, 32, 32]}]
    checked = run("verify", "tiny", "--json")
    assert json.loads(checked.stdout) == {"models": [{"name": "tiny", "where": "user", "ok": True, "problems": []}]}
    assert checked.exit_code == 0


def test_add_prints_json(run, encoder, folder):
    added = json.loads(run("add", encoder, "--json").stdout)
    assert set(added) == {"name", "file", "card"}
    assert added["file"] == str(folder / "tiny" / "tiny.onnx")
    assert added["card"] == json.loads(run("show", "tiny", "--json").stdout)["card"]


def test_list_prints_columns(run, encoder):
    run("add", encoder)
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "KIND", "DIMS", "LICENCE", "SIZE", "WHERE"]
    assert next(line for line in lines if line.startswith("tiny ")).split()[:4] == ["tiny", "encoder", "21", "CC0-1.0"]
    assert "input" in run("show", encoder).stdout


def test_hidden_bundled_model_is_marked(run, encoder):
    run("add", encoder, "--name", "texture", "--force")
    rows = [row for row in json.loads(run("list", "--json").stdout)["models"] if row["hidden"]]
    assert [(row["name"], row["where"]) for row in rows] == [("texture", "shipped")]
    lines = [line for line in run("list").stdout.splitlines() if line.startswith("texture ")]
    assert [line.endswith("shipped, hidden") for line in lines] == [True, False]


def test_verify_fails_for_changed_models(run, encoder, folder):
    run("add", encoder)
    (folder / "tiny" / RECORD).unlink()
    result = run("verify", "tiny")
    assert result.exit_code == 1
    assert result.stdout.split() == ["tiny", "user", "not", "ok"]
    assert "no-record" in result.stderr


def test_invalid_name_is_refused(run):
    assert isinstance(run("verify", "nothing").exception, UsageError)
    assert isinstance(run("show", "nothing").exception, ModelError)


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"WSISUM_MODELS": "/m"}, "/m"),
        ("linux", {"XDG_DATA_HOME": "/x"}, "/x/wsisum/models"),
        ("linux", {}, "~/.local/share/wsisum/models"),
        ("darwin", {"XDG_DATA_HOME": "/x"}, "~/Library/Application Support/wsisum/models"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/wsisum/models"),
    ],
)
def test_user_folder_is_the_platform_data_folder(monkeypatch, platform, environment, expected):
    for name in ("WSISUM_MODELS", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert models_cli.user_folder() == Path(expected).expanduser()


def test_export_names_missing_packages(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("wsisum_cli.training.")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "card.toml").write_text(CARD_TOML)
    error = run("export", "timm:vit", "-o", tmp_path / "m.onnx", "--card", tmp_path / "card.toml").exception
    assert isinstance(error, UsageError)
    assert "pip install 'wsisum[train]'" in str(error)


def test_lab_weights_become_a_named_model(run, tmp_path, folder):
    torch = pytest.importorskip("torch", reason="export needs torch")
    (tmp_path / "lab.py").write_text(
        "from torch import nn\n\n\ndef made(dims):\n"
        "    return nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3, dims))\n"
    )
    torch.manual_seed(0)
    torch.save({"2.weight": torch.randn(21, 3), "2.bias": torch.randn(21)}, tmp_path / "w.pt")
    (tmp_path / "card.toml").write_text(CARD_TOML.replace("img_size = 32", "dims = 21"))
    options = ["-o", tmp_path / "lab.onnx", "--card", tmp_path / "card.toml", "--weights", tmp_path / "w.pt"]
    result = run("export", f"{tmp_path / 'lab.py'}:made", *options)
    assert result.exit_code == 0, result.exception
    assert result.stdout.endswith(f"of torch; wsisum models add {tmp_path / 'lab.onnx'}\n")
    assert run("add", tmp_path / "lab.onnx").exit_code == 0
    shown = json.loads(run("show", "lab", "--json").stdout)
    assert shown["inputs"] == [{"name": "pixels", "dtype": "uint8", "shape": [None, 32, 32, 3]}]
    assert find_model("lab", [folder]).is_file()


# ------------------------------------------------------------------------------------------------- documents

PAGE = (DOCS / "models.md").read_text()


@pytest.mark.parametrize("line", re.findall(r"^ *\$ wsisum models (.*)$", PAGE, re.MULTILINE))
def test_the_commands_of_the_page_are_understood(line):
    name, *words = shlex.split(line)
    get_command(models_cli.models_app).commands[name].make_context(name, words)


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL), ids=lambda text: text.split()[1])
def test_the_cards_of_the_page_are_good(tmp_path, text):
    (tmp_path / "card.toml").write_text(text)
    values = read_card_file(tmp_path / "card.toml")
    assert parse_any_card(Fields("card.toml", values), "").name == values["name"]
    assert not text.startswith("#") or text.startswith(f"# {values['name']}.toml\n")
    assert not set(values) - {"name", "patch_size", "mpp", "mean", "std", "dims", "licence", "arguments"}
