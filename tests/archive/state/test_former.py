"""Tests of archive/state/former.py: the output of another slide is kept when a new one takes its place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from archives import set_back
from draw import draw_tissue, write_svs
from running import wsisum

from wsisum_cli.archive.state.former import REPLACED, hold, settle
from wsisum_cli.archive.state.journal import read_history
from wsisum_cli.archive.workers import Setup, make_product
from wsisum_cli.pipeline.job import Job, Options
from wsisum_cli.pipeline.product import SUMMARIES
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.signature.minisign import signature_path


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny slides."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(2):
        write_svs(folder / f"{number}.svs", draw_tissue(1024, 1024, seed=number), tile=256)
        set_back(folder / f"{number}.svs")
    return folder


@pytest.fixture(scope="module")
def made(slides: Path) -> Path:
    """A run over them."""
    output = slides.parent / "made"
    assert wsisum("compress", slides, "-o", output, "--workers", 1).returncode == 0
    return output


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    """A copy of its folder."""
    return shutil.copytree(made, tmp_path / "out")


def kept(output: Path) -> list[Path]:
    return sorted(path for path in (output / REPLACED).rglob("*") if path.is_file())


def test_a_slide_in_the_place_of_another_leaves_that_ones_summary(slides: Path, output: Path, tmp_path: Path):
    archive = tmp_path / "in"
    archive.mkdir()
    shutil.copy(slides / "1.svs", archive / "0.svs")
    before = (output / "0.ozx").read_bytes()
    done = wsisum("compress", archive, "-o", output, "-q")
    assert done.returncode == 0
    (copy,) = kept(output)
    assert copy.read_bytes() == before != (output / "0.ozx").read_bytes()
    row, other = json.loads((output / "report.json").read_text())["slides"]
    assert (other["source"], other["earlier"]) == ("1.svs", "not there")
    assert output / row["former"] == copy
    assert f"0.svs: its output replaces that of another slide, which is kept as {row['former']}" in done.stderr
    again = wsisum("compress", archive, "-o", output)
    assert "replaces" not in again.stderr
    assert kept(output) == [copy]


def test_a_summary_that_is_made_again_leaves_nothing(slides: Path, output: Path):
    before = (output / "0.ozx").read_bytes()
    assert wsisum("compress", slides, "-o", output, "--keep", 2).returncode == 0
    assert (output / "0.ozx").read_bytes() != before
    assert not (output / REPLACED).exists()


def test_the_first_run_records_what_lets_the_next_one_skip_its_summaries(made: Path):
    history = read_history(made)
    outcomes = [history.outcome(f"{number}.svs") for number in range(2)]
    assert all(outcome is not None and outcome.record is not None for outcome in outcomes)


def no_links(*_: object) -> None:
    raise OSError("no hard links here")


@pytest.mark.parametrize("links", [True, False])
def test_the_signature_is_kept_as_well(output: Path, links: bool, monkeypatch: pytest.MonkeyPatch):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = output / "0.ozx"
    signature_path(path).write_text("signed")
    before = path.read_bytes()
    held = hold(output, path)
    os.replace(output / "1.ozx", path)
    where = settle(output, held, path, SUMMARIES)
    assert (output / where).read_bytes() == before
    assert signature_path(output / where).read_text() == "signed"


@pytest.mark.parametrize("links", [True, False])
def test_what_was_not_replaced_is_not_kept_twice(output: Path, links: bool, monkeypatch: pytest.MonkeyPatch):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = output / "0.ozx"
    path.write_bytes(b"damaged")
    assert settle(output, hold(output, path), path, SUMMARIES) == ""
    assert not (output / REPLACED).exists()


def test_a_damaged_summary_is_kept(output: Path):
    path = output / "0.ozx"
    path.write_bytes(b"damaged")
    held = hold(output, path)
    os.replace(output / "1.ozx", path)
    assert (output / settle(output, held, path, SUMMARIES)).read_bytes() == b"damaged"


def test_where_nothing_was_nothing_is_kept(output: Path):
    assert hold(output, output / "new.ozx") is None
    assert settle(output, None, output / "0.ozx", SUMMARIES) == ""
    assert not (output / REPLACED).exists()


def test_a_slide_that_fails_after_its_output_was_written_keeps_the_former_one(slides: Path, output: Path):
    path = output / "0.ozx"
    before = path.read_bytes()

    def make(_job: Job, _options: Options, _tools: Any) -> dict[str, Any]:
        os.replace(output / "1.ozx", path)
        raise OSError(5, "the disk failed")

    outcome = make_with(make, slides, output)
    assert outcome.status == "failed"
    assert (output / outcome.former).read_bytes() == before


def test_a_slide_that_fails_before_leaves_all_as_it_was(slides: Path, output: Path):
    def make(_job: Job, _options: Options, _tools: Any) -> dict[str, Any]:
        raise OSError(5, "the disk failed")

    before = (output / "0.ozx").read_bytes()
    outcome = make_with(make, slides, output)
    assert (outcome.status, outcome.former) == ("failed", "")
    assert (output / "0.ozx").read_bytes() == before
    assert not (output / REPLACED).exists()


def make_with(make: Callable[..., dict[str, Any]], slides: Path, output: Path) -> Any:
    """The outcome of the first slide where `make` stands for the work on it."""
    setup = Setup(Options(), "texture", "cpu", 1, output, product=replace(SUMMARIES, make=make))
    job = Job(find_source(slides / "0.svs"), output / "0.ozx", "0.svs")
    return make_product("0.svs", job, setup, Mock(), Mock(), Mock())


def test_the_report_keeps_the_row_of_a_slide_that_is_gone(slides: Path, output: Path, tmp_path: Path):
    """Also where somebody deleted the journals."""
    archive = tmp_path / "in"
    shutil.copytree(slides, archive)
    (archive / "0.svs").unlink()
    for delete in (False, True, False):
        if delete:
            shutil.rmtree(output / ".wsisum/journal")
        assert wsisum("compress", archive, "-o", output).returncode == 0
        rows = {row["source"]: row for row in json.loads((output / "report.json").read_text())["slides"]}
        assert (rows["0.svs"]["earlier"], rows["0.svs"]["summary"]) == ("not there", "0.ozx")
        assert rows["1.svs"]["earlier"] == ""
    (orphan,) = [slide for slide in status(output, archive)["slides"] if slide["state"] == "orphaned"]
    assert (orphan["source"], orphan["summary"]) == ("0.svs", "0.ozx")
    (output / "0.ozx").unlink()
    assert wsisum("compress", archive, "-o", output).returncode == 0
    assert [row["source"] for row in json.loads((output / "report.json").read_text())["slides"]] == ["1.svs"]


def status(output: Path, archive: Path) -> Any:
    return json.loads(wsisum("status", output, archive, "--json").stdout)
