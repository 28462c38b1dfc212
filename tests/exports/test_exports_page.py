"""docs/exports.md: its examples run, and it names every format."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest
from running import wsisum
from summaries import write_tiny

from wsisum_cli.exports.options import IMAGES
from wsisum_cli.exports.patches import COLUMNS
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.features.layouts import LAYOUTS

PAGE = (Path(__file__).parents[2] / "docs" / "exports.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def target_of(line: str) -> str:
    """The format that a line of an example exports to."""
    words = shlex.split(line)
    return words[words.index("--to") + 1]


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "summaries").mkdir()
    write_tiny(tmp_path / "summaries" / "B12.ozx", "source")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert {target_of(line) for line in lines} == set(TARGETS)
    for line in (line for line in lines if TARGETS[target_of(line)].is_available):
        program, *arguments = shlex.split(line)
        done = wsisum(*arguments)
        assert (program, done.returncode, done.stderr) == ("wsisum", 0, ""), line
    examples = blocks("python")
    assert len(examples) == len(TARGETS) + 1
    missing = [target.extra for target in TARGETS.values() if target.extra and not target.is_available]
    for example in (each for each in examples if not any(f"import {name}\n" in each for name in missing)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what other packages import
            exec(compile(example, "exports.md", "exec"), {})
    assert "Never say that something is absent" in capsys.readouterr().out


def test_every_format_and_option_is_on_the_page():
    table = dict(re.findall(r"^\| `([a-z0-9]+)` \| `NAME([^`]+)`", PAGE, flags=re.MULTILINE))
    assert {name: suffix.rstrip("/") for name, suffix in table.items()} == {
        target.name: target.suffix for target in TARGETS.values()
    }
    assert all(f"| `{name}`" in PAGE for name in (*LAYOUTS, *IMAGES[1:]))
    assert all(f"`{name}`" in PAGE for name in COLUMNS)
