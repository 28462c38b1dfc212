"""What a folder of summaries and its report say of an archive."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from running import wsisum
from summaries import LENIENT, write_as, write_tiny

from wsisum_cli.archive.gallery import gallery_of
from wsisum_cli.archive.inventory import Entry, Inventory, read_inventory
from wsisum_cli.archive.outcome import FAILED, SKIPPED, UP_TO_DATE, WRITTEN, Outcome
from wsisum_cli.archive.report import JSON_NAME, write_report
from wsisum_cli.archive.state.shard import Shard
from wsisum_cli.errors import UsageError
from wsisum_cli.summary.reader import open_summary

FACTS = {"wsisum": "0.1.0", "options": {"thresholds": list(LENIENT)}, "not_tried": ["d/later.svs"]}
OUTCOMES = (
    Outcome("a/good.svs", WRITTEN, summary="a/good.ozx", verdict="REVIEW"),
    Outcome("a/kept.svs", SKIPPED, UP_TO_DATE, summary="a/kept.ozx", verdict="REVIEW"),
    Outcome("b/lost.svs", WRITTEN, summary="b/lost.ozx", verdict="REVIEW", patches=8),
    Outcome("b/cut.svs", WRITTEN, summary="b/cut.ozx", verdict="REVIEW"),
    Outcome("c/bad.svs", FAILED, "no pixel size", "bad.svs: no pixel size in the file; pass --mpp"),
    Outcome("c/worse.svs", FAILED, "no pixel size", "worse.svs: no pixel size in the file; pass --mpp"),
    Outcome("c/broken.svs", FAILED, "unreadable", "broken.svs: damaged"),
    Outcome("c/label.svs", SKIPPED, "no tissue", "label.svs: no tissue"),
)


def write_archive(folder: Path) -> Path:
    for name in ("a/good", "a/kept", "b/cut"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_tiny(folder / f"{name}.ozx")
    cut = folder / "b/cut.ozx"
    cut.write_bytes(cut.read_bytes()[:500])
    write_report(folder, OUTCOMES, FACTS)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def inventory(folder: Path) -> Inventory:
    return read_inventory(folder)


def find(inventory: Inventory, source: str) -> Entry:
    return next(entry for entry in inventory.slides if entry.source == source)


def words(entry: Entry) -> str:
    return "; ".join(note.words for note in entry.attention)


def test_every_slide_is_there_once(inventory: Inventory):
    expected = sorted([*(outcome.source for outcome in OUTCOMES), "d/later.svs"])
    assert [entry.source for entry in inventory.slides] == expected


def test_figures_are_those_of_the_summaries(folder: Path, inventory: Inventory):
    good = find(inventory, "a/good.svs")
    with open_summary(folder / "a/good.ozx") as summary:
        record = summary.record
    assert (good.patches, good.tissue_patches) == (record.patches, record.tissue_patches)
    assert good.represented == record.represented.share
    assert good.bytes_in == record.source.bytes
    assert good.bytes_out == (folder / "a/good.ozx").stat().st_size
    assert good.ratio == round(good.bytes_in / good.bytes_out, 2)


def test_totals_are_of_the_summaries_that_could_be_read(inventory: Inventory):
    totals, good = inventory.totals, find(inventory, "a/good.svs")
    assert totals.summaries == 2
    assert totals.slides == len(OUTCOMES) + 1
    assert totals.statuses == {"written": 3, "skipped": 2, "failed": 3, "not tried": 1}
    assert totals.bytes_out == 2 * good.bytes_out
    assert totals.verdicts == {"PASS": 0, "REVIEW": 2, "FAIL": 0}
    assert totals.represented_mm2 == pytest.approx(2 * good.tissue_mm2 * good.represented, abs=1e-5)


def test_failures_are_grouped_by_reason_the_most_frequent_first(inventory: Inventory):
    assert [(group.reason, group.slides) for group in inventory.failed] == [
        ("no pixel size", ["c/bad.svs", "c/worse.svs"]),
        ("unreadable", ["c/broken.svs"]),
    ]
    assert [group.reason for group in inventory.skipped] == ["no tissue"]  # not what is up to date


def test_what_needs_eyes_most_comes_first(inventory: Inventory):
    urgent = [entry.source for entry in inventory.urgent]
    assert set(urgent[:2]) == {"b/lost.svs", "b/cut.svs"}
    assert set(urgent[2:5]) == {"c/bad.svs", "c/worse.svs", "c/broken.svs"}
    assert urgent[5] == "d/later.svs"
    assert "missing" in words(find(inventory, "b/lost.svs"))
    assert "cannot be read" in words(find(inventory, "b/cut.svs"))
    assert {entry.source for entry in inventory.broken} == {"b/lost.svs", "b/cut.svs"}


def test_nothing_is_claimed_of_a_summary_that_cannot_be_read(inventory: Inventory):
    for source in ("b/lost.svs", "b/cut.svs"):
        entry = find(inventory, source)
        assert (entry.verdict, entry.patches, entry.represented) == (None, None, None)


def test_verdicts_are_by_the_thresholds_of_the_run(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "a", tmp_path / "a")
    written = [replaced for replaced in OUTCOMES if replaced.source.startswith("a/")]
    write_report(tmp_path, written, {**FACTS, "options": {"thresholds": ["represented=1/1"]}})
    entry = find(read_inventory(tmp_path), "a/good.svs")
    assert entry.verdict == "FAIL"
    assert "says REVIEW, its summary is now FAIL" in words(entry)


def test_summaries_of_no_report_are_slides_too(folder: Path, tmp_path: Path):
    (tmp_path / "x").mkdir()
    shutil.copy(folder / "a/good.ozx", tmp_path / "x/one.ozx")
    shutil.copy(folder / "a/good.ozx", tmp_path / "x/two.ozx")  # of a slide of the same name
    inventory = read_inventory(tmp_path)
    assert [entry.source for entry in inventory.slides] == ["x/tiny.svs", "x/two.ozx"]
    assert {entry.file for entry in inventory.slides} == {"read"}
    assert inventory.run is None


def test_a_summary_of_another_run_does_not_hide_that_the_slide_failed(folder: Path, tmp_path: Path):
    shutil.copy(folder / "a/good.ozx", tmp_path / "tiny.ozx")
    write_report(tmp_path, [Outcome("tiny.svs", FAILED, "no pixel size", "tiny.svs: no pixel size")], {})
    (entry,) = read_inventory(tmp_path).slides
    assert (entry.status, entry.file, entry.message) == ("failed", "read", "tiny.svs: no pixel size")
    assert "an earlier or another run" in words(entry)


def test_a_summary_without_a_good_verdict_needs_eyes(folder: Path, tmp_path: Path):
    write_as(tmp_path / "older.ozx", folder / "a/good.ozx")
    (entry,) = read_inventory(tmp_path).slides
    assert entry.verdict == "REVIEW"
    assert words(entry).startswith("REVIEW: ")


def test_changed_attributes_need_eyes(folder: Path, tmp_path: Path):
    data = (folder / "a/good.ozx").read_bytes()
    (tmp_path / "forged.ozx").write_bytes(data.replace(b'"tiny.svs"', b'"tinY.svs"', 1))
    inventory = read_inventory(tmp_path)
    assert "changed after it was written" in words(inventory.slides[0])
    assert inventory.broken


def test_a_report_cannot_lead_out_of_the_folder(folder: Path, tmp_path: Path):
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copy(folder / "a/good.ozx", tmp_path / "outside.ozx")
    paths = ("../outside.ozx", str(tmp_path / "outside.ozx"))
    write_report(inside, [Outcome(f"{at}.svs", WRITTEN, summary=path) for at, path in enumerate(paths)], {})
    assert {entry.file for entry in read_inventory(inside).slides} == {"missing"}


@pytest.mark.parametrize("text", ["", "[]", '{"slides": 3}', '{"slides": [{"source": "a", "status": "lost"}]}'])
def test_a_report_that_cannot_be_read_is_refused(tmp_path: Path, text: str):
    (tmp_path / JSON_NAME).write_text(text)
    with pytest.raises(UsageError, match=r"report\.json: expected"):
        read_inventory(tmp_path)


def test_a_folder_without_summaries_is_refused(tmp_path: Path):
    done = wsisum("report", tmp_path)
    assert done.returncode == 2
    assert "found neither report.json nor a summary" in done.stderr


def test_the_command_prints_totals_and_what_needs_eyes(folder: Path):
    done = wsisum("report", folder)
    assert done.returncode == 1, done.stderr  # two summaries cannot be read
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["slides", "9:", "3", "written,", "2", "skipped,", "3", "failed,", "1", "not", "tried"]
    assert "2 no pixel size, 1 unreadable" in done.stdout
    assert done.stdout.index("b/lost.svs") < done.stdout.index("c/bad.svs") < done.stdout.index("d/later.svs")


def test_the_command_escapes_terminal_codes(tmp_path: Path):
    source = "\x1b[31m\u202e.svs"
    write_report(tmp_path, [Outcome(source, FAILED, "\x1b]0;x\x07", "")], {})
    done = wsisum("report", tmp_path)
    assert done.returncode == 0, done.stderr
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)
    assert r"\x1b[31m\u202e.svs" in done.stdout


def test_names_that_are_no_text_come_back_unchanged(tmp_path: Path):
    source = os.fsdecode(b"a\xff.svs")
    write_report(tmp_path, [Outcome(source, FAILED, "unreadable", "")], {"not_tried": [source + "2"]})
    found = json.loads(wsisum("report", tmp_path, "--json").stdout)
    assert [entry["source"] for entry in found["slides"]] == [source, source + "2"]
    done = wsisum("report", tmp_path, "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert r"a\udcff.svs" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_json_has_stable_keys(folder: Path):
    found = json.loads(wsisum("report", folder, "--json").stdout)
    assert list(found) == ["run", "totals", "failed", "skipped", "slides"]
    assert list(found["totals"]) == [
        *("slides", "summaries", "statuses", "verdicts", "attention", "bytes_in", "bytes_out", "ratio", "patches"),
        *("tissue_patches", "tissue_mm2", "represented_mm2"),
    ]
    assert list(found["slides"][0]) == [
        *("source", "status", "reason", "message", "summary", "file", "verdict", "represented"),
        *("largest_unrepresented_mm2", "tissue_mm2", "coverage", "patches", "tissue_patches", "bytes_in", "bytes_out"),
        *("target_reached", "suspect", "artefacts", "broken_tiles", "attention", "ratio"),
    ]
    assert found["slides"][2]["attention"][0].keys() == {"urgency", "words"}


def test_shards_without_a_report_are_no_whole_archive(folder: Path, tmp_path: Path):
    shutil.copy(folder / "a/good.ozx", tmp_path / "a.ozx")
    row = Outcome("a.svs", WRITTEN, summary="a.ozx", verdict="REVIEW")
    for number in (1, 3):
        write_report(tmp_path, [row], {"finished": f"2026-01-0{number}T00:00:00+00:00"}, Shard(number, 4))
    done = wsisum("report", tmp_path)
    assert "2/4, 4/4 not reported" in " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "2 of 4 shards have not reported" in gallery_of(tmp_path)[1]
    assert wsisum("status", tmp_path).returncode == 1
