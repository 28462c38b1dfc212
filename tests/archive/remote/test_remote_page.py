"""docs/remote.md: its commands and its example run, and what it says of the code is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from draw import draw_tissue, write_svs
from running import wsisum
from stores import S3

from wsisum_cli.commands.options import DEFAULT_CACHE_SIZE
from wsisum_cli.slides.remote import store as module
from wsisum_cli.slides.remote.url import SCHEMES

PAGE = (Path(__file__).parents[3] / "docs" / "remote.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_every_command_and_example_runs(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "slides").mkdir()
    write_svs(tmp_path / "slides/B12.svs", draw_tissue(1536, 1280, seed=1), tile=256)
    s3.upload(tmp_path / "slides", s3.make_bucket("hospital"), "slides/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.splitlines() if not line.startswith("export")]
    assert len(lines) == 8
    for line in lines:
        program, *arguments = shlex.split(line.replace("/scratch", str(tmp_path / "scratch")))
        done = wsisum(*arguments)
        assert program == "wsisum"
        # So small a slide gets the verdict REVIEW, for which verify ends with 1.
        assert done.returncode == 0 or arguments[0] == "verify", (line, done.stderr)
        assert ": not ok" not in done.stdout, (line, done.stdout)
    keys = set(s3.objects("hospital", "summaries/"))
    assert keys == {f"summaries/{name}" for name in ("B12.ozx", "report.csv", "report.json")}
    assert (tmp_path / "summaries/B12.ozx").read_bytes() == s3.objects("hospital")["summaries/B12.ozx"]
    (example,) = blocks("python")
    exec(compile(example, "remote.md", "exec"), {})
    assert "B12.ozx 1" in capsys.readouterr().out


def test_figures_on_the_page_are_those_of_the_code():
    for number in (*module.WAITS, module.PART >> 20):
        assert re.search(rf"\b{number:g}\b", PAGE), number
    assert f"{len(module.WAITS)} times" in PAGE
    assert DEFAULT_CACHE_SIZE.replace("GB", " GB") in PAGE
    assert all(f"`{scheme}://" in PAGE for scheme in SCHEMES)
