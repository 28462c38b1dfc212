"""What other Python programs call: the same as on the command line, with typed errors and nothing printed."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from draw import draw_tissue, write_svs
from summaries import write_tiny
from typer.models import OptionInfo

import wsisum_cli
from wsisum_cli.archive import door
from wsisum_cli.commands.compress import Artefacts, Pixels, Selector
from wsisum_cli.commands.compress import compress as compress_command
from wsisum_cli.commands.options import DEFAULT_ENCODER
from wsisum_cli.commands.verify import verify as verify_command
from wsisum_cli.errors import NotASlideError, SlideError, UsageError
from wsisum_cli.pipeline.job import Options
from wsisum_cli.summary.reader import open_summary


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "B12.svs"
    write_svs(path, draw_tissue(2048, 1536, 3))
    return path


def defaults(function: Any) -> dict[str, Any]:
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        value = parameter.default
        assert not isinstance(value, OptionInfo)
        found[name] = getattr(value, "value", value)
    return found


def test_defaults_are_those_of_the_command_line():
    of_command, of_function = defaults(compress_command), defaults(door.compress)
    del of_command["source"], of_command["force"]
    of_walks = {"manifest", "sweep", "workers", "slide_timeout", "dry_run", "as_json", "include", "exclude", "listed"}
    of_walks |= {"limit", "scheduler", "scheduler_file", "retries", "quiet", "verbose", "log_file", "check", "shard"}
    of_walks |= {"sign", "cache_dir", "cache_size", "name_by", "name_key"}
    assert set(of_command) - of_walks <= set(of_function)
    others = {"keep": None, "threshold": (), "output": "summaries"}  # auto, none, and a path as text
    for name, value in of_function.items():
        if name in of_command:
            assert value == others.get(name, of_command[name]), name
    assert of_command["keep"] == "auto"
    of_command, of_function = defaults(verify_command), defaults(door.verify)
    for name in of_function.keys() & of_command.keys() - {"threshold"}:
        assert of_function[name] == of_command[name], name
    assert door.DEFAULT_ENCODER == DEFAULT_ENCODER


def test_options_take_the_values_of_the_command_line():
    enums = {"selector": Selector, "pixels": Pixels, "artefacts": Artefacts}
    assert {name: sorted(values) for name, values in door.CHOICES.items()} == {
        name: sorted(enum) for name, enum in enums.items()
    }
    assert set(door.RANGES) <= {field.name for field in fields(Options)}


def test_a_slide_is_compressed_and_verified(slide: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    done = wsisum_cli.compress(slide, tmp_path, keep=8, encoder="texture", threads=1)
    assert done.output == tmp_path / "B12.ozx"
    assert done.bytes_out == done.output.stat().st_size
    assert done.attributes.patches == 8
    found = wsisum_cli.verify(done.output, slide, threads=1)
    assert found.ok
    assert found.tier == "source"
    assert found.verdict is not None
    assert wsisum_cli.verify(done.output, quick=True).tier == "quick"
    with open_summary(done.output) as summary:
        assert summary.record == done.attributes.model_copy(update={"members": summary.record.members})
    with pytest.raises(UsageError, match="force=True"):
        wsisum_cli.compress(slide, tmp_path)
    again = wsisum_cli.compress(slide, tmp_path / "again.ozx", keep=8, encoder="texture", threads=2)
    assert again.output.read_bytes() == done.output.read_bytes()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"selector": "best"}, "selector: expected one of"),
        ({"draws": 3}, "draws: expected 100 to"),
        ({"keep": 0}, "keep: expected 1 to"),
        ({"keep": 8, "max_keep": 9}, "max_keep limits"),
        ({"rare": 0.1, "selector": "random"}, "rare: expected the selector wsisum"),
        ({"patch_size_level0": 256}, "of given features"),
        ({"target": 1.5}, "above 0 and at most 1"),
        ({"threshold": ["nonsense"]}, "nonsense"),
        ({"encoder": "nobody"}, "no model with this name"),
    ],
)
def test_options_that_cannot_be_are_refused(slide: Path, tmp_path: Path, options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        wsisum_cli.compress(slide, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_what_is_no_slide_is_refused(tmp_path: Path):
    summary = write_tiny(tmp_path / "tiny.ozx")
    with pytest.raises(UsageError, match=r"tiny\.ozx: is a summary, not a slide"):
        wsisum_cli.compress(summary)
    with pytest.raises(UsageError, match=r"tiny\.ozx: is a summary, not a slide"):
        wsisum_cli.verify(summary, summary)
    with pytest.raises(UsageError, match="expected one slide, found a folder"):
        wsisum_cli.compress(tmp_path)
    with pytest.raises(UsageError, match="expected one slide, found nothing"):
        wsisum_cli.compress(tmp_path / "x.svs")
    (tmp_path / "x.svs").write_bytes(b"no slide")
    with pytest.raises(SlideError, match=r"x\.svs"):
        wsisum_cli.compress(tmp_path / "x.svs")
    write_svs(tmp_path / "small.svs", draw_tissue(100, 100, 1))
    with pytest.raises(NotASlideError) as caught:
        wsisum_cli.compress(tmp_path / "small.svs", tmp_path)
    assert caught.value.reason == "too small"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.svs", "tiny.ozx", "x.svs"]


def test_damage_is_a_finding(tmp_path: Path):
    data = bytearray(write_tiny(tmp_path / "tiny.ozx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "tiny.ozx").write_bytes(data)
    assert not wsisum_cli.verify(tmp_path / "tiny.ozx").ok
    assert [finding.code for finding in wsisum_cli.verify(tmp_path / "none.ozx").findings] == ["unreadable"]
    with pytest.raises(UsageError, match="quick cannot be combined"):
        wsisum_cli.verify(tmp_path / "tiny.ozx", quick=True, threshold=["represented=0.9"])


def test_every_name_of_the_door_resolves():
    assert set(wsisum_cli.__all__) <= set(dir(wsisum_cli))
    for name in wsisum_cli.__all__:
        assert getattr(wsisum_cli, name)
    with pytest.raises(AttributeError):
        _ = wsisum_cli.nothing
