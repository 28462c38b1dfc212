"""`wsisum.toml` and the environment: what wins, what is refused, what is shown."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from wsisum_cli.commands.main import app
from wsisum_cli.commands.settings.sources import find_file, name_variables, options_of, read_defaults, shown
from wsisum_cli.errors import UsageError


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in [name for name in os.environ if name.startswith("WSISUM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def root() -> Any:
    group = typer.main.get_command(app)
    name_variables(group)
    return group


def defaults(folder: Path, text: str) -> dict[str, Any]:
    (folder / "wsisum.toml").write_text(text)
    return read_defaults(folder / "wsisum.toml", root())


def held(*arguments: str) -> dict[str, tuple[str, str]]:
    """What `wsisum config compress` says of each option."""
    done = CliRunner().invoke(app, [*arguments, "config", "compress", "--all", "--json"], prog_name="wsisum")
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)["options"]
    return {one["option"]: (one["value"], one["source"]) for one in found}


def test_an_output_is_a_path_from_the_folder_of_the_file_or_an_address(tmp_path: Path):
    found = defaults(tmp_path, "[compress]\noutput = 'made'\n[features]\noutput = 's3://bucket/made'")
    assert found["compress"]["output"] == str(tmp_path / "made")
    assert found["features"]["output"] == "s3://bucket/made"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kepe = 3", "wsisum.toml: kepe: no option of this name; did you mean keep?"),
        ("[compress]\nkepe = 3", "wsisum.toml: compress.kepe: no option of this name; did you mean compress.keep?"),
        ("[verify]\nkeep = 3", "wsisum.toml: verify.keep: no option of this name"),
        ("[compres]\nkeep = 3", "wsisum.toml: compres: no command of this name; did you mean compress?"),
        ("[train.encodre]\nepochs = 3", "train.encodre: no command of this name; did you mean train.encoder?"),
        (
            "[train.encoder]\nepoch = 3",
            "train.encoder.epoch: no option of this name; did you mean train.encoder.epochs?",
        ),
        ("threshold = ['represented=0/0']", "threshold: expected in the table of one command"),
        ("require = 'review'", "require: expected in the table of one command"),
        ("force = true", "force: expected in the table of one command"),
        ("[compress]\nforce = 'yes'", "compress.force: expected true or false, found 'yes'"),
        ("[compress]\nseed = -1", "compress.seed: expected at least 0"),
        ("[compress]\nseed = 1.5", "compress.seed: expected a whole number"),
        ("[compress]\ninclude = [true]", "compress.include: expected text or a number, found True"),
        ("[compress]\nmanifest = ['a']", "compress.manifest: expected one value"),
        ("[compress]\nkeep = 2026-01-01", "compress.keep: expected text or a number"),
        ("[compress]\npixels = 'png'", "compress.pixels: 'png' is not one of"),
        ("device = 'tpu'", "wsisum.toml: device: 'tpu' is not one of"),
        ("x =", "wsisum.toml: expected TOML"),
    ],
)
def test_a_wrong_key_or_type_is_an_error_that_names_it(tmp_path: Path, text: str, complaint: str):
    with pytest.raises(UsageError) as error:
        defaults(tmp_path, text)
    assert complaint in str(error.value)


def test_keys_outside_a_table_are_for_every_command_that_has_them(tmp_path: Path):
    found = defaults(tmp_path, "device = 'cpu'\nmax_keep = 9\n[features]\ndevice = 'cuda'\n")
    assert (found["compress"], found["features"]) == ({"device": "cpu", "max_keep": "9"}, {"device": "cuda"})
    assert found["train"]["encoder"] == {"device": "cpu"}
    assert found["report"] == {}


def test_paths_are_those_from_the_folder_of_the_file(tmp_path: Path):
    found = defaults(tmp_path, "[compress]\noutput = 'out'\nlist = '/a/list.txt'\nencoder = 'texture'\n")
    assert found["compress"] == {"output": str(tmp_path / "out"), "listed": "/a/list.txt", "encoder": "texture"}


def test_the_file_is_found_in_the_folder_or_above(tmp_path: Path):
    inside = tmp_path / "a/b"
    inside.mkdir(parents=True)
    assert find_file(inside) is None or not find_file(inside).is_relative_to(tmp_path)  # type: ignore[union-attr]
    (tmp_path / "wsisum.toml").touch()
    assert find_file(inside) == tmp_path / "wsisum.toml"
    (inside / "wsisum.toml").touch()
    assert find_file(inside) == inside / "wsisum.toml"


def test_command_line_then_environment_then_file_then_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert held()["keep"] == ("auto", "default")
    (tmp_path / "wsisum.toml").write_text("[compress]\nkeep = 4\nseed = 1\ninclude = ['*.svs']\n")
    assert held()["keep"] == ("4", "wsisum.toml")
    monkeypatch.setenv("WSISUM_COMPRESS_KEEP", "5")
    monkeypatch.setenv("WSISUM_COMPRESS_LIST", "mine.txt")
    found = held()
    assert found["keep"] == ("5", "WSISUM_COMPRESS_KEEP")
    assert found["list"] == ("mine.txt", "WSISUM_COMPRESS_LIST")
    assert found["seed"] == ("1", "wsisum.toml")
    assert found["include"] == ("*.svs", "wsisum.toml")
    assert found["draws"] == ("1000", "default")
    (tmp_path / "other.toml").write_text("[compress]\nseed = 2\n")
    assert held("--config", "other.toml")["seed"] == ("2", "other.toml")
    monkeypatch.setenv("WSISUM_CONFIG", "other.toml")
    assert held()["seed"] == ("2", "other.toml")


def test_the_run_says_what_it_takes_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not what its command line says; with --quiet what replaces files all the same."""
    (tmp_path / "wsisum.toml").write_text("[compress]\nforce = true\nseed = 3\n")
    monkeypatch.setenv("WSISUM_COMPRESS_DRAWS", "100")
    monkeypatch.setenv("WSISUM_COMPRES_KEEP", "3")

    def said(*options: str) -> str:
        return CliRunner().invoke(app, ["compress", "nowhere", *options], prog_name="wsisum").stderr

    lines = said("--keep", "3", "--seed", "4")
    assert "settings: draws 100 (WSISUM_COMPRESS_DRAWS), force True (wsisum.toml)" in lines
    assert "WSISUM_COMPRES_KEEP: no option has this variable; did you mean WSISUM_COMPRESS_KEEP?" in lines
    assert "settings: force True (wsisum.toml)" in said("--quiet")


def test_verify_says_which_thresholds_it_takes_from_elsewhere(tmp_path: Path):
    (tmp_path / "wsisum.toml").write_text("[verify]\nrequire = 'review'\nthreshold = ['represented=0/0']\n")
    done = CliRunner().invoke(app, ["verify", "nothing.ozx"], prog_name="wsisum")
    assert "settings: threshold represented=0/0 (wsisum.toml), require review (wsisum.toml)" in done.stderr


def test_every_variable_is_called_as_its_option():
    compress = root().commands["compress"]
    odd = {name for name, option in options_of(compress).items() if option.name != name.replace("-", "_")}
    assert odd == {"list", "json"}
    assert {options_of(compress)[name].envvar for name in odd} == {"WSISUM_COMPRESS_LIST", "WSISUM_COMPRESS_JSON"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("keep", 4, "4"),
        ("include", ["a", "b"], "a, b"),
        ("limit", None, ""),
        ("api-token", "x", "(not shown)"),
        ("scheduler", "tcp://me:pass@host:1", "tcp://host:1"),
        ("source", "https://host/a?sig=1", "https://host/a"),
    ],
)
def test_nothing_secret_is_shown(name: str, value: Any, expected: str):
    assert shown(name, value) == expected


def test_one_value_stands_for_a_list_of_one(tmp_path: Path):
    """Outside the tables, --keep is one number for compress, and several for evaluate."""
    found = defaults(tmp_path, "keep = 64\noutput = '~/out'\n")
    assert (found["compress"]["keep"], found["evaluate"]["keep"]) == ("64", ["64"])
    assert found["compress"]["output"] == str(Path.home() / "out")
