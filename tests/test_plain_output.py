"""Text in a summary that would drive a terminal, turn lines around or be markup: no command lets it through."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from summaries import sign_again, tiny_contents, unpack

from wsisum_cli.commands.main import app
from wsisum_cli.errors import WsisumError
from wsisum_cli.summary.limits.plain_text import LONGEST, plain_json, printable, printable_lines
from wsisum_cli.summary.writer import write_summary

#: A colour and a title of a terminal (7 and 8 bits), a line of its own, turned text, rich's markup, HTML, a formula.
EVIL = (
    "\x1b[31mred\x1b]0;title\x07\x9b2J\r\nslide.ozx: ok\u202egnp.\u2066x\u200b\u2028 [bold red]loud[/] "
    "[link=x]y[/link] <script>alert(1)</script> \x7f\x00 =1+1"
)
#: What must not come out as it is.
HARMFUL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
#: Attributes that are free text.
PLACES = (
    ("source", "name"),
    ("source", "vendor"),
    ("source", "scanner"),
    ("source", "reader"),
    ("source", "mpp_source"),
    ("source", "notes"),
    ("encoder", "name"),
    ("encoder", "description"),
    ("options", "selector"),
    ("disclaimer",),
    ("versions",),
)
#: The same that follow from others: a summary with them is not whole.
FOLLOWING = (("options", "thresholds"), ("verdict", "reasons"))


def poison(attributes: dict[str, Any], places: tuple[tuple[str, ...], ...] = PLACES) -> None:
    for *parents, name in places:
        section = attributes
        for parent in parents:
            section = section[parent]
        section[name] = {"numpy": EVIL} if name == "versions" else EVIL
        if name in ("notes", "thresholds", "reasons"):
            section[name] = [EVIL]
    attributes["source"]["name"] = EVIL.replace("/", "\\")


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evil") / "evil.ozx"
    write_summary(path, tiny_contents())
    members = unpack(path)
    root = json.loads(members["zarr.json"])
    root["attributes"]["ome"]["multiscales"][0]["name"] = EVIL.replace("/", "\\")
    return sign_again(path, members | {"zarr.json": json.dumps(root).encode()}, poison)


COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "SUMMARY"),
    "inspect --details": ("inspect", "SUMMARY", "--details"),
    "inspect --json": ("inspect", "SUMMARY", "--json"),
    "inspect --html": ("inspect", "SUMMARY", "--html", "page.html"),
    "verify": ("verify", "SUMMARY", "--explain"),
    "verify --json": ("verify", "SUMMARY", "--json"),
    "verify --quick": ("verify", "SUMMARY", "--quick", "--explain"),
    "trim": ("trim", "SUMMARY", "--keep", "2", "-o", "trimmed"),
    "trim --json": ("trim", "SUMMARY", "--keep", "2", "-o", "trimmed.json", "--json"),
    "migrate": ("migrate", "SUMMARY", "-o", "migrated"),
    "export": ("export", "SUMMARY", "--to", "geojson", "-o", "exported"),
    "report": ("report", "FOLDER"),
    "report --json": ("report", "FOLDER", "--json"),
    "report --html": ("report", "FOLDER", "--html", "archive.html"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("colours", [False, True], ids=["plain", "in colours"])
def test_nothing_harmful_is_printed(
    evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, colours: bool
):
    monkeypatch.chdir(tmp_path)
    if colours:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")
    arguments = [str({"SUMMARY": evil, "FOLDER": evil.parent}.get(part, part)) for part in COMMANDS[name]]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            app(arguments, standalone_mode=False)
        except WsisumError as error:
            raise AssertionError(name) from error
    text = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()) if colours else said.getvalue()
    assert HARMFUL.search(text) is None, HARMFUL.search(text)
    assert "\nslide.ozx: ok" not in text
    for page in tmp_path.glob("*.html"):
        assert HARMFUL.search(page.read_text(encoding="utf-8")) is None
        assert "<script>alert" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [["inspect"], ["inspect", "--json"], ["verify", "--explain"], ["verify", "--json"]])
def test_what_should_follow_from_figures_is_no_way_in(
    evil: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
):
    path = sign_again(tmp_path / "x.ozx", unpack(evil), lambda attributes: poison(attributes, FOLLOWING))
    app([command[0], str(path), *command[1:]], standalone_mode=False)
    said = capsys.readouterr()
    assert said.out
    assert HARMFUL.search(said.out + said.err) is None


@pytest.mark.parametrize("target", ["geojson", "tiff", "report", "zarr"])
def test_nothing_harmful_is_in_exports(evil: Path, tmp_path: Path, target: str):
    app(["export", str(evil), "--to", target, "-o", str(tmp_path)], standalone_mode=False)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        data = path.read_bytes()
        for code in (b"\x1b[31m", b"\x1b]0;", "\x9b2J".encode(), "\u202e".encode()):
            assert code not in data, (path.name, code)


def test_a_damaged_summary_says_nothing_harmful_either(evil: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    members = unpack(evil)
    path = sign_again(tmp_path / "x.ozx", members, lambda attributes: attributes.update(format_version=f"9{EVIL}.0"))
    for command in (["inspect"], ["verify"], ["trim", "--keep", "2", "-o", str(tmp_path / "out")]):
        app([command[0], str(path), *command[1:]], standalone_mode=False)
    said = capsys.readouterr()
    assert HARMFUL.search(said.out + said.err) is None


@pytest.mark.skipif(os.name == "nt", reason="names hold no such characters there")
def test_a_file_name_is_printed_in_one_plain_line(evil: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "a\x1b[31m\nb.ozx: ok\u202e.ozx"
    path.write_bytes(evil.read_bytes())
    for command in (["inspect"], ["verify", "--quick"], ["migrate", "-o", str(tmp_path / "out")]):
        app([command[0], str(path), *command[1:]], standalone_mode=False)
    app(["inspect", str(tmp_path / "none\x1b[31m\n.ozx")], standalone_mode=False)
    said = capsys.readouterr()
    assert HARMFUL.search(said.out + said.err) is None
    assert "\nb.ozx: ok" not in said.out + said.err


def test_plain_text_is_one_line_of_bounded_length():
    assert printable("B12 µm × 3, Schnitt – 7") == "B12 µm × 3, Schnitt – 7"
    assert printable("a\nb\x1b") == "a\\nb\\x1b"
    assert printable_lines("a\nb\x1b") == "a\nb\\x1b"
    assert len(printable("x" * 10_000_000)) < LONGEST + 4
    assert HARMFUL.search(printable(EVIL)) is None


def test_json_says_the_same_to_a_program():
    value = {EVIL: [EVIL, "é µ 組織 \U0001f52c", 1.5, None]}
    text = plain_json(value)
    assert json.loads(text) == value
    assert HARMFUL.search(text) is None
    assert "é µ 組織 \U0001f52c" in text


def test_json_escapes_all_that_a_terminal_may_act_on():
    everything = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    text = plain_json(everything)
    assert json.loads(text) == everything
    harmful = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    assert not [character for character in text if unicodedata.category(character) in harmful]
