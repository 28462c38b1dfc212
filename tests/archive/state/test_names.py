"""No folder of outputs gets names of two kinds, or by two keys; status and prune know which names are meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from archives import jobs_of, outcome_for, request_for, set_back, write_run, write_slides, write_summary_of

from wsisum_cli.archive.manifest import Entry, Manifest
from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.plan import plan_archive
from wsisum_cli.archive.scope.naming import HASH, MANIFEST, STEM, Naming
from wsisum_cli.archive.state.journal import STATE_FOLDER, Journal
from wsisum_cli.archive.state.names import recorded_in
from wsisum_cli.archive.state.prune import plan_pruning
from wsisum_cli.archive.state.status import Comparison, Status, read_status
from wsisum_cli.errors import UsageError

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
HASHES, OTHERS, KEYLESS, NAMES, STEMS = (
    *(Naming(HASH, KEY), Naming(HASH, OTHER_KEY), Naming(HASH), Naming(MANIFEST), Naming(STEM)),
)
SLIDES = ("a.svs", "b.svs", "DOE/c.svs")
MANIFEST_OF_ALL = Manifest({name: Entry(name=f"study-{number}") for number, name in enumerate(SLIDES)})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_slides(tmp_path / "in", *SLIDES)
    return tmp_path / "in"


@pytest.fixture
def hashed(archive: Path) -> Path:
    """Of an archive whose last run named by a hash, the folder of summaries."""
    write_run(archive, archive.parent / "out", HASHES)
    return archive.parent / "out"


@pytest.fixture
def listed(archive: Path) -> Path:
    """The same, named by the manifest."""
    write_run(archive, archive.parent / "out", NAMES, MANIFEST_OF_ALL)
    return archive.parent / "out"


def status(folder: Path, asked: Naming | None = None, manifest: Manifest | None = None) -> Status:
    return read_status(folder, folder.parent / "in", manifest or Manifest(), asked=asked)


def states(found: Status) -> dict[str, tuple[str, str]]:
    return {slide.source: (slide.state, slide.reason) for slide in found.slides}


def forget(folder: Path, reports: bool = True) -> None:
    shutil.rmtree(folder / STATE_FOLDER)
    for path in folder.glob("report.*") if reports else ():
        path.unlink()


def plan_with(folder: Path, naming: Naming, manifest: Manifest | None = None) -> None:
    plan_archive(request_for(folder.parent / "in", folder, naming=naming), manifest or Manifest(), {})


def prune(folder: Path, asked: Naming | None, manifest: Manifest | None = None) -> dict[str, tuple[str, str]]:
    found = plan_pruning(Comparison(folder, folder.parent / "in", manifest or Manifest(), asked=asked), False, False)
    return {one.summary: (one.action, one.reason) for one in found.decisions}


# runs


@pytest.mark.parametrize("kept", ["journal and report", "report"])
@pytest.mark.parametrize("naming", [STEMS, NAMES, OTHERS])
def test_a_run_that_names_otherwise_is_refused(hashed: Path, kept: str, naming: Naming):
    if kept == "report":
        forget(hashed, reports=False)
    plan_with(hashed, HASHES)
    with pytest.raises(
        UsageError, match="another one" if naming is OTHERS else f"found --name-by {naming.by}; give --name-by hash"
    ):
        plan_with(hashed, naming, MANIFEST_OF_ALL)


def test_without_a_record_the_summaries_tell_of_another_naming(archive: Path, hashed: Path):
    """Neither journal nor report is there to say how they were named."""
    forget(hashed)
    plan_with(hashed, HASHES)
    with pytest.raises(UsageError, match="found another one, or another archive"):
        plan_with(hashed, OTHERS)
    by_stem = archive.parent / "stems"
    write_run(archive, by_stem)
    forget(by_stem)
    plan_with(by_stem, STEMS)
    for naming in (HASHES, NAMES):
        with pytest.raises(UsageError, match="that have the names of slides"):
            plan_with(by_stem, naming, MANIFEST_OF_ALL)
    shutil.rmtree(by_stem / "DOE")  # what is left lies in no folder
    with pytest.raises(UsageError, match="that have the names of slides"):
        plan_with(by_stem, HASHES)


def test_a_run_before_there_was_a_choice_named_by_stem(archive: Path):
    out = archive.parent / "out"
    write_run(archive, out)
    facts = json.loads((out / "report.json").read_text())
    del facts["name_by"]
    (out / "report.json").write_text(json.dumps(facts))
    shutil.rmtree(out / STATE_FOLDER)
    plan_with(out, STEMS)
    with pytest.raises(UsageError, match="expected --name-by stem"):
        plan_with(out, HASHES)


def test_a_run_that_did_nothing_leaves_the_choice_open(archive: Path):
    out = archive.parent / "out"
    Journal(out, {"product": "summary", **STEMS.facts(), "todo": ["a.svs"]}).end()
    assert recorded_in(out) is None
    plan_with(out, HASHES)


def test_a_run_that_is_going_on_or_was_killed_counts(archive: Path):
    out = archive.parent / "out"
    going = Journal(out, {"product": "features", **OTHERS.facts(), "todo": ["a.svs"]})
    assert recorded_in(out) == (HASH, OTHERS.check)
    with pytest.raises(UsageError, match="another one"):
        plan_with(out, HASHES)
    going.end()


def test_two_keys_in_one_folder_stop_every_command(hashed: Path):
    """As two runs leave them that began at the same time."""
    other = Journal(hashed, {"product": "summary", **OTHERS.facts(), "todo": []})
    other.note(Outcome("a.svs", "skipped", "no tissue"))
    other.end()
    for act in (lambda: plan_with(hashed, HASHES), lambda: status(hashed), lambda: prune(hashed, HASHES)):
        with pytest.raises(UsageError, match="found runs with several keys"):
            act()


def test_a_report_that_cannot_be_read_stops_no_run(archive: Path):
    out = archive.parent / "out"
    out.mkdir()
    (out / "report.json").write_text("{")
    plan_with(out, HASHES)


def test_hashes_without_a_report_get_no_other_names_beside_them(hashed: Path):
    forget(hashed)
    with pytest.raises(UsageError, match="names by hash; give --name-by hash"):
        plan_with(hashed, STEMS)
    plan_with(hashed, HASHES)


# status


@pytest.mark.parametrize("asked", [None, KEYLESS, HASHES])
def test_status_needs_no_key_where_there_is_a_report(hashed: Path, asked: Naming | None):
    found = states(status(hashed, asked))
    assert found == dict.fromkeys(SLIDES, ("up to date", ""))


@pytest.mark.parametrize("asked", [None, HASHES])
def test_status_tells_what_is_new_stale_lost_and_gone(hashed: Path, asked: Naming | None):
    archive = hashed.parent / "in"
    write_slides(archive, "new.svs")
    (archive / "a.svs").write_bytes(b"other")
    (hashed / jobs_of(archive, hashed, HASHES)["b.svs"].output.name).unlink()
    (archive / "DOE/c.svs").unlink()
    assert states(status(hashed, asked)) == {
        "new.svs": ("new", ""),
        "a.svs": ("stale", "the slide changed"),
        "b.svs": ("lost", "its summary is missing"),
        "DOE/c.svs": ("orphaned", "gone"),
    }


@pytest.mark.parametrize("asked", [STEMS, NAMES, OTHERS])
def test_status_and_prune_refuse_another_way_and_another_key(hashed: Path, asked: Naming):
    for act in (status, prune):
        with pytest.raises(UsageError, match="another one" if asked is OTHERS else "expected --name-by hash"):
            act(hashed, asked, MANIFEST_OF_ALL)


def test_a_name_that_left_the_manifest_is_another_name(archive: Path):
    out = archive.parent / "out"
    write_run(archive, out, HASHES, Manifest({"a.svs": Entry(name="study-7")}))
    for asked in (None, HASHES):
        assert states(status(out, asked))["a.svs"] == ("stale", "another name")


def test_summaries_that_no_report_has_are_told_apart_by_the_key_alone(hashed: Path):
    forget(hashed)
    with pytest.raises(UsageError, match="names by hash; give --name-by hash"):
        status(hashed)
    found = status(hashed, KEYLESS)
    assert found.counts["orphaned"] == 0
    assert [(one.state, one.reason) for one in found.slides if not one.source] == [
        ("unchecked", "no --name-key given")
    ] * len(SLIDES)
    assert states(status(hashed, HASHES)) == dict.fromkeys(SLIDES, ("unchecked", "time of change differs"))


def test_status_needs_the_manifest_that_names(listed: Path):
    for act in (status, prune):
        with pytest.raises(UsageError, match="named by a manifest; give the --manifest"):
            act(listed, None)
    assert states(status(listed, manifest=MANIFEST_OF_ALL)) == dict.fromkeys(SLIDES, ("up to date", ""))


def test_a_slide_without_a_name_is_failed(listed: Path):
    entries = {name: entry for name, entry in MANIFEST_OF_ALL.entries.items() if name != "a.svs"}
    found = status(listed, manifest=Manifest(entries))
    assert states(found)["a.svs"] == ("failed", "no name in the manifest")
    assert found.counts["orphaned"] == 0


def test_slides_of_a_file_are_known_by_their_hashes(archive: Path):
    out = archive.parent / "out"
    write_run(archive, out, HASHES)
    note_slides_of_file(archive, out)
    for asked in (None, HASHES):
        found = states(status(out, asked))
        assert {name: state for name, (state, _) in found.items()} == {
            **{f"a.svs#{number}": "up to date" for number in (1, 2)},
            **dict.fromkeys(("b.svs", "DOE/c.svs"), "up to date"),
        }
    assert prune(out, HASHES) == {}


def note_slides_of_file(archive: Path, out: Path) -> None:
    """As a run has it in which a.svs turned out to hold two slides."""
    from wsisum_cli.archive.several import Splitter

    jobs_of(archive, out, HASHES)["a.svs"].output.unlink()
    request = request_for(archive, out, naming=HASHES, force=True)
    plan = plan_archive(request, Manifest(), {})
    jobs, _ = Splitter(request, Manifest(), plan, {})("a.svs", dict(plan.jobs)["a.svs"], 2)
    shutil.rmtree(out / STATE_FOLDER)
    report = json.loads((out / "report.json").read_text())
    report["slides"] = [row for row in report["slides"] if row["source"] != "a.svs"]
    (out / "report.json").write_text(json.dumps(report))
    journal = Journal(out, {"product": "summary", "shard": None, **HASHES.facts(), "todo": []})
    for name, job in jobs:
        write_summary_of(job)
        journal.note(outcome_for(name, job, flat=True))
    for name in ("b.svs", "DOE/c.svs"):
        journal.note(outcome_for(name, jobs_of(archive, out, HASHES)[name], flat=True))
    journal.end()


# prune


def test_prune_needs_the_key(hashed: Path):
    for asked in (None, KEYLESS):
        with pytest.raises(UsageError, match="named by hash; give the --name-key"):
            prune(hashed, asked)
    assert prune(hashed, HASHES) == {}


@pytest.mark.parametrize("asked", [HASHES, NAMES])
def test_prune_removes_the_summary_of_a_renamed_slide_once_it_has_another(archive: Path, asked: Naming):
    out, manifest = archive.parent / "out", MANIFEST_OF_ALL if asked is NAMES else Manifest()
    write_run(archive, out, asked, manifest)
    before = jobs_of(archive, out, asked, manifest)["a.svs"].output.name
    (archive / "a.svs").rename(archive / "moved.svs")
    if asked is NAMES:
        manifest = Manifest({**MANIFEST_OF_ALL.entries, "moved.svs": Entry(name="study-9")})
    assert prune(out, asked, manifest) == {before: ("keep", "renamed")}
    job = jobs_of(archive, out, asked, manifest)["moved.svs"]
    write_summary_of(job)
    journal = Journal(out, {"product": "summary", "shard": None, **asked.facts(), "todo": []})
    journal.note(outcome_for("moved.svs", job, flat=True))
    journal.end()
    assert prune(out, asked, manifest) == {before: ("remove", "renamed")}


@pytest.mark.parametrize("naming", [HASHES, NAMES])
def test_a_wrong_guess_without_a_report_removes_nothing(archive: Path, naming: Naming):
    """The archive holds one slide twice, so that content alone would let one summary go for the other."""
    out = archive.parent / "out"
    (archive / "DOE/d.svs").write_bytes((archive / "a.svs").read_bytes())
    set_back(archive / "DOE/d.svs")
    manifest = Manifest({**MANIFEST_OF_ALL.entries, "a.svs": Entry(name="a"), "DOE/d.svs": Entry(name="d")})
    write_run(archive, out, naming, manifest if naming is NAMES else Manifest())
    forget(out)
    guess = STEMS if naming is HASHES else None
    assert {action for action, _ in prune(out, guess, manifest if naming is NAMES else Manifest()).values()} <= {"keep"}
    assert prune(out, naming, manifest if naming is NAMES else Manifest()) == {}
