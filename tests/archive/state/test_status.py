"""The state of every slide, and why."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from archives import jobs_of, outcome_for, request_for, set_back, write_run, write_slides, write_summary_of
from running import wsisum

from wsisum_cli.archive.manifest import Entry, Manifest
from wsisum_cli.archive.outcome import FAILED, SKIPPED, Outcome
from wsisum_cli.archive.retention.plan import Row, SourceFacts
from wsisum_cli.archive.retention.standing import COLD, KEEP
from wsisum_cli.archive.retention.table import plan_table, released
from wsisum_cli.archive.state.journal import STATE_FOLDER, Journal
from wsisum_cli.archive.state.record import fingerprint_of
from wsisum_cli.archive.state.status import SlideState, Status, read_status
from wsisum_cli.errors import UsageError
from wsisum_cli.slides.source import find_source


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_slides(tmp_path / "in", "a.svs", "b.svs", "c/d.svs")
    write_run(tmp_path / "in", tmp_path / "out")
    return tmp_path / "in"


def states(archive: Path, check: bool = False) -> dict[str, tuple[str, str]]:
    return {slide.source: (slide.state, slide.reason) for slide in status(archive, check).slides}


def status(archive: Path, check: bool = False) -> Status:
    return read_status(archive.parent / "out", archive, Manifest(), check)


def slide(archive: Path, state: str) -> SlideState:
    return next(slide for slide in status(archive).slides if slide.state == state)


def note(archive: Path, *outcomes: Outcome) -> None:
    journal = Journal(archive.parent / "out", {"product": "summary", "shard": None, "todo": []})
    for outcome in outcomes:
        journal.note(outcome)
    journal.end()


def test_a_finished_archive_is_up_to_date(archive: Path):
    assert set(states(archive).values()) == {("up to date", "")}
    assert set(states(archive, check=True).values()) == {("in review", "")}  # as the summaries themselves say


def test_new_failed_and_lost_slides_are_told(archive: Path):
    write_slides(archive, "new.svs", "bad.svs")
    note(archive, Outcome("bad.svs", FAILED, "unreadable", "bad.svs: damaged"))
    (archive.parent / "out/a.ozx").unlink()
    (archive.parent / "out/b.ozx").write_bytes(b"PK")
    found = states(archive)
    assert found["new.svs"] == ("new", "")
    assert found["bad.svs"] == ("failed", "unreadable")
    assert found["a.svs"] == ("lost", "its summary is missing")
    assert found["b.svs"] == ("lost", "its summary cannot be read")
    assert found["c/d.svs"] == ("up to date", "")


def failed(archive: Path, known: bool) -> Outcome:
    path = archive / "bad.svs"
    sizes = {"bytes_in": path.stat().st_size, "modified": path.stat().st_mtime_ns}
    return Outcome("bad.svs", FAILED, "unreadable", "bad.svs: damaged", known=known, **sizes)


@pytest.mark.parametrize(
    ("in_the_run", "entry", "state"),
    [
        (True, None, "known failure"),
        (False, None, "failed"),
        (False, Entry(known="unreadable"), "known failure"),
        (False, Entry(known="yes"), "known failure"),
        (True, Entry(known="no pixel size"), "failed"),  # what the manifest says now counts
        (True, Entry(), "failed"),
    ],
)
def test_a_failure_that_the_manifest_knows_needs_nothing(
    archive: Path, in_the_run: bool, entry: Entry | None, state: str
):
    write_slides(archive, "bad.svs")
    note(archive, failed(archive, known=in_the_run))
    manifest = Manifest({} if entry is None else {"bad.svs": entry})
    found = {slide.source: slide.state for slide in read_status(archive.parent / "out", archive, manifest).slides}
    assert found["bad.svs"] == state
    if entry is None:
        found = {slide.source: slide.state for slide in read_status(archive.parent / "out", None, manifest).slides}
        assert found["bad.svs"] == state


def test_a_known_failure_that_was_replaced_is_new(archive: Path):
    write_slides(archive, "bad.svs")
    note(archive, failed(archive, known=True))
    assert slide(archive, "known failure").source == "bad.svs"
    (archive / "bad.svs").write_bytes(b"a good slide")
    assert states(archive)["bad.svs"] == ("new", "the slide changed")
    note(archive, Outcome("bad.svs", FAILED, "unreadable", known=True))
    assert states(archive)["bad.svs"] == ("failed", "unreadable")


def test_a_known_failure_ends_the_command_well(archive: Path):
    write_slides(archive, "bad.svs")
    note(archive, failed(archive, known=True))
    done = wsisum("status", archive.parent / "out", archive)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "known failure" in done.stdout


def test_a_changed_slide_is_stale(archive: Path):
    (archive / "a.svs").write_bytes(b"other")
    content = (archive / "b.svs").read_bytes()
    (archive / "b.svs").write_bytes(bytes(len(content)))
    set_back(archive / "b.svs", 5)
    set_back(archive / "c/d.svs", 5)  # as a copy without times has it
    found = states(archive)
    assert found["a.svs"] == ("stale", "the slide changed")
    assert found["b.svs"] == found["c/d.svs"] == ("unchecked", "time of change differs")
    checked = states(archive, check=True)
    assert checked["b.svs"] == ("stale", "the slide changed")
    assert checked["c/d.svs"] == ("in review", "")


def test_other_options_than_the_last_run_are_stale(archive: Path):
    path = archive.parent / "out/report.json"
    report = json.loads(path.read_text())
    report["options"]["keep"], report["settings"] = 32, "2.0:0123456789abcdef"
    path.write_text(json.dumps(report))
    found = slide(archive, "stale")
    assert found.reason == "other options or models"
    assert "keep" in found.message
    assert "-> 32" in found.message


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Entry(mpp=0.4), "another pixel size"),
        (Entry(name="other"), "another name"),
        (Entry(mask=Path(__file__)), "another mask"),
    ],
)
def test_a_slide_of_which_the_manifest_says_something_else_is_stale(archive: Path, entry: Entry, reason: str):
    found = read_status(archive.parent / "out", archive, Manifest({"a.svs": entry}))
    states = {slide.source: (slide.state, slide.reason) for slide in found.slides}
    assert states == {"a.svs": ("stale", reason), "b.svs": ("up to date", ""), "c/d.svs": ("up to date", "")}


def test_what_a_run_was_given_beside_the_manifest_makes_nothing_stale(archive: Path):
    """As --mpp and features do: they are in the record, and not known here."""
    out = archive.parent / "out"
    job = replace(jobs_of(archive, out)["a.svs"], mpp=0.25)
    job = replace(job, fingerprint=fingerprint_of(request_for(archive, out).settings, job))
    note(archive, outcome_for("a.svs", job))
    assert states(archive)["a.svs"] == ("in review", "")


def test_without_a_record_the_options_in_the_summary_are_compared(archive: Path):
    shutil.rmtree(archive.parent / "out" / STATE_FOLDER)
    assert {state for state, _ in states(archive).values()} == {"in review"}
    path = archive.parent / "out/report.json"
    report = json.loads(path.read_text())
    report["options"]["seed"] = 5
    path.write_text(json.dumps(report))
    assert set(states(archive).values()) == {("stale", "other options or models")}
    assert "seed 0 -> 5" in slide(archive, "stale").message
    report["options"]["seed"], report["encoder_sha256"] = 0, "e" * 64
    path.write_text(json.dumps(report))
    assert slide(archive, "stale").message == "another encoder"


def test_a_slide_without_tissue_that_has_changed_is_new(archive: Path):
    write_slides(archive, "empty.svs")
    path = archive / "empty.svs"
    seen = {"bytes_in": path.stat().st_size, "modified": path.stat().st_mtime_ns}
    note(archive, Outcome("empty.svs", SKIPPED, "no tissue", **seen))
    assert states(archive)["empty.svs"] == ("skipped", "no tissue")
    set_back(path, 5)
    assert states(archive)["empty.svs"] == ("new", "the slide changed")


def test_an_older_format_is_stale(archive: Path):
    out = archive.parent / "out"
    job = jobs_of(archive, out)["a.svs"]
    known = outcome_for("a.svs", job)
    assert known.record is not None
    note(archive, replace(known, record=replace(known.record, fingerprint="1.4:x:y")))
    assert states(archive)["a.svs"] == ("stale", "format 1.4 -> 2.0")


def test_a_doubtful_verdict_is_in_review(archive: Path):
    out = archive.parent / "out"
    jobs = jobs_of(archive, out)
    note(archive, replace(outcome_for("a.svs", jobs["a.svs"]), verdict="FAIL"))
    found = status(archive)
    assert found.counts["in review"] == 1
    assert found.reasons("in review") == [("FAIL", 1)]


def write_plan_of(archive: Path, *slides: str) -> Path:
    """A plan that lets these slides go."""
    rows = []
    for name in slides:
        source = find_source(archive / name)
        facts = SourceFacts(1, source.bytes, source.sha256, datetime(2020, 1, 1, tzinfo=UTC))
        rows.append(Row(name, COLD, "PASS", facts))
    path = archive.parent / "plan.csv"
    path.write_bytes(plan_table([*rows, Row("c/d.svs", KEEP, "no summary")], [], date(2026, 1, 1)))
    return path


def test_slides_that_a_plan_let_go_are_retired(archive: Path):
    """One of which no summary is left is lost, and says so."""
    out, plan = archive.parent / "out", write_plan_of(archive, "a.svs", "b.svs")
    for name in ("a.svs", "b.svs"):
        (archive / name).unlink()
    (out / "b.ozx").unlink()
    found = read_status(out, archive, Manifest(), released=released(plan))
    (retired,) = [slide for slide in found.slides if slide.state == "retired"]
    assert (retired.source, retired.summary, retired.reason) == ("a.svs", "a.ozx", "as planned")
    (lost,) = [slide for slide in found.slides if slide.state == "lost"]
    assert (lost.source, lost.reason) == ("b.svs", "its summary is missing")
    assert found.counts["orphaned"] == 0
    done = wsisum("status", out, archive, "--plan", plan)
    assert "retired" in done.stdout
    assert done.returncode == 1  # by the lost one
    done = wsisum("status", out, "--plan", plan)
    assert (done.returncode, "expected the archive as SOURCE too" in done.stderr) == (2, True)


def test_a_plan_that_was_edited_retires_nothing(archive: Path):
    plan = write_plan_of(archive, "a.svs")
    plan.write_text(plan.read_text().replace("c/d.svs,keep", "c/d.svs,cold storage"))
    with pytest.raises(UsageError, match="expected a plan of wsisum verify --plan, found another file, or"):
        released(plan)


def test_a_renamed_slide_is_recognised(archive: Path):
    (archive / "moved").mkdir()
    (archive / "a.svs").rename(archive / "moved/other.svs")
    (archive / "b.svs").unlink()
    found = {slide.summary or slide.source: slide for slide in status(archive).slides}
    assert found["moved/other.svs"].state == "new"
    renamed, gone = found["a.ozx"], found["b.ozx"]
    assert (renamed.state, renamed.reason, renamed.source) == ("orphaned", "renamed", "a.svs")
    assert renamed.found_at == "moved/other.svs"
    assert (gone.state, gone.reason, gone.found_at) == ("orphaned", "gone", None)


def test_summaries_of_slides_in_one_file_belong_to_it(archive: Path):
    out = archive.parent / "out"
    write_slides(archive, "two.svs")
    job = jobs_of(archive, out)["two.svs"]
    ones = [replace(job, output=out / f"two.{number}.ozx", image=number) for number in (1, 2)]
    settings = request_for(archive, out).settings
    ones = [replace(one, fingerprint=fingerprint_of(settings, one)) for one in ones]
    for one in ones:
        write_summary_of(one)
    note(archive, *(outcome_for(f"two.svs#{one.image}", one) for one in ones))
    found = states(archive)
    assert found["two.svs#1"] == found["two.svs#2"] == ("up to date", "")
    assert "two.svs" not in found
    assert not [state for state, _ in found.values() if state == "orphaned"]


def test_without_the_archive_nothing_is_called_up_to_date(archive: Path):
    out = archive.parent / "out"
    (out / "a.ozx").unlink()
    found = read_status(out, None, Manifest())
    assert not found.compared
    assert {slide.source: slide.state for slide in found.slides} == {
        "a.svs": "lost",
        "b.svs": "unchecked",
        "c/d.svs": "unchecked",
    }


def test_what_was_moved_aside_is_not_looked_at(archive: Path):
    aside = archive.parent / "out" / STATE_FOLDER / "pruned/x"
    aside.mkdir(parents=True)
    shutil.copy(archive.parent / "out/a.ozx", aside / "z.ozx")
    assert len(status(archive).slides) == 3


def test_an_archive_that_is_not_there_is_an_error(archive: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="mounted"):
        read_status(archive.parent / "out", tmp_path / "empty", Manifest())
    with pytest.raises(UsageError, match="expected the output"):
        read_status(tmp_path / "empty", None, Manifest())


def test_the_command_fits_a_narrow_screen(archive: Path):
    write_slides(archive, "new.svs")
    (archive / "a.svs").unlink()
    done = wsisum("status", archive.parent / "out", archive)
    assert done.returncode == 1, done.stderr
    assert "orphaned" in done.stdout
    assert "its slide is nowhere in the archive" in done.stdout
    assert len(done.stdout.splitlines()) < 25
    stated = json.loads(wsisum("status", archive.parent / "out", archive, "--json").stdout)
    assert set(stated) == {"compared", "run", "counts", "running", "slides"}
    assert stated["counts"]["new"] == stated["counts"]["orphaned"] == 1
    assert set(stated["slides"][0]) == {"source", "state", "reason", "message", "summary", "verdict", "found_at"}
    os.unlink(archive / "new.svs")
