"""Folders that are put in place whole, or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from wsisum_cli.exports.folders import put, writing_folder_aside
from wsisum_cli.features.h5 import EXPORT_KIND


def fill(path: Path, text: str) -> None:
    with writing_folder_aside(path, "about.json") as aside:
        put(aside / "about.json", json.dumps({"kind": EXPORT_KIND, "text": text}).encode())


def text_in(path: Path) -> str:
    return str(json.loads((path / "about.json").read_bytes())["text"])


def fail(path: Path) -> None:
    with writing_folder_aside(path, "about.json") as aside:
        put(aside / "about.json", b"{}")
        raise RuntimeError


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    fill(tmp_path / "a", "first")
    with pytest.raises(RuntimeError):
        fail(tmp_path / "a")
    assert text_in(tmp_path / "a") == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path):
    fill(tmp_path / "a", "first")
    with writing_folder_aside(tmp_path / "a", "about.json") as aside:
        left = tmp_path / aside.name.replace(str(os.getpid()), "999999")
        put(aside / "about.json", json.dumps({"kind": EXPORT_KIND, "text": "second"}).encode())
    left.mkdir()
    fill(tmp_path / "a", "third")
    assert text_in(tmp_path / "a") == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_was_being_replaced_is_put_back(tmp_path: Path):
    fill(tmp_path / "a", "first")
    with writing_folder_aside(tmp_path / "a", "about.json") as aside:
        old = tmp_path / aside.name.replace(str(os.getpid()), "999999").replace(".new", ".old")
        put(aside / "about.json", json.dumps({"kind": EXPORT_KIND, "text": "second"}).encode())
    (tmp_path / "a").rename(old)  # killed between the two renames
    with pytest.raises(RuntimeError):
        fail(tmp_path / "a")
    assert text_in(tmp_path / "a") == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
