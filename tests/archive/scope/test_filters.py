"""Runs over a part of an archive: what is taken, what is left out and said, what the report keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from wsisum_cli.archive.inventory import read_inventory
from wsisum_cli.archive.manifest import Entry, Manifest
from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.plan import Plan, Request, plan_archive
from wsisum_cli.archive.report import read_report
from wsisum_cli.archive.run import Listener, Run
from wsisum_cli.archive.scope.filters import EVERYTHING, Filter, file_of, matches, read_list
from wsisum_cli.archive.scope.known import unexpected
from wsisum_cli.archive.workers import Setup
from wsisum_cli.errors import UsageError
from wsisum_cli.pipeline.job import Job, Options
from wsisum_cli.slides.source import Source

NAMES = ("a/1.svs", "a/2.svs", "b/1.tif", "b/c/3.svs", "4.svs")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Files that look like slides, and a text."""
    folder = tmp_path / "archive"
    for name in (*NAMES, "notes.txt", "b/old.vsi"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 10)
    return folder


def request(archive: Path, chosen: Filter) -> Request:
    return Request(archive, archive.parent / "out", Options(), "e", filter=chosen)


def plan(archive: Path, chosen: Filter = EVERYTHING) -> Plan:
    return plan_archive(request(archive, chosen), Manifest(), {})


def names(found: Plan) -> set[str]:
    return {name for name, _ in found.jobs}


class Engine:
    """Stands for the workers: every slide is written, or as `failing` says, or the file holds two."""

    def __init__(self, failing: Sequence[str] = (), several: Sequence[str] = ()) -> None:
        self.failing, self.several = failing, several

    def __call__(
        self, jobs: Sequence[tuple[str, Job]], setup: Setup, split: Any, **_listeners: Any
    ) -> Iterator[Outcome]:
        del setup
        for source, job in jobs:
            if source in self.several:
                more, known = split(source, job, 2)
                yield from known
                yield from self(more, None, split)  # type: ignore[arg-type]  # it is not looked at
            elif source in self.failing:
                yield Outcome(source, "failed", "unreadable", "it is broken")
            else:
                yield Outcome(source, "written", summary=f"{source}.ozx", sha256="s", modified=1)


def go(archive: Path, chosen: Filter = EVERYTHING, manifest: Manifest | None = None, **engine: Any) -> Run:
    wanted = request(archive, chosen)
    run = Run(wanted, Setup(Options(), "e", "cpu", 1, wanted.output), engine=Engine(**engine))
    run.go(manifest or Manifest(), Listener())
    return run


def rows(archive: Path) -> dict[str, tuple[str, str]]:
    report = read_report(archive.parent / "out")
    assert report is not None
    return {outcome.source: (outcome.status, outcome.earlier) for outcome in report.outcomes}


def facts(archive: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((archive.parent / "out/report.json").read_text())
    return found


@pytest.mark.parametrize(
    ("glob", "taken"),
    [
        ("*.svs", {"a/1.svs", "a/2.svs", "b/c/3.svs", "4.svs"}),
        ("1.*", {"a/1.svs", "b/1.tif"}),
        ("a", {"a/1.svs", "a/2.svs"}),
        ("a/", {"a/1.svs", "a/2.svs"}),
        ("b/*", {"b/1.tif", "b/c/3.svs"}),
        ("b/c", {"b/c/3.svs"}),
        ("c", {"b/c/3.svs"}),
        ("**/3.svs", {"b/c/3.svs"}),
        ("**/4.svs", {"4.svs"}),
        ("**/c/*.svs", {"b/c/3.svs"}),
        ("b/**/3.svs", {"b/c/3.svs"}),
        ("[!4].svs", {"a/1.svs", "a/2.svs", "b/c/3.svs"}),
        ("*.SVS", set()),
    ],
)
def test_globs_match_names_paths_and_folders(glob: str, taken: set[str]):
    assert {name for name in NAMES if matches(name, glob)} == taken


def test_include_and_exclude_choose_slides(archive: Path):
    found = plan(archive, Filter(include=("*.svs", "*.tif"), exclude=("b/c", "4.svs")))
    assert names(found) == {"a/1.svs", "a/2.svs", "b/1.tif"}
    assert found.left_out == {"b/c/3.svs", "4.svs"}
    assert found.outcomes == [], "what only looks like a slide is left out by its name as well"


def test_outputs_keep_the_names_that_the_whole_archive_gives_them(archive: Path):
    """Two slides of one stem: leaving one out must not rename the other."""
    (archive / "a/1.tif").write_bytes(b"x")
    assert [job.output.name for _, job in plan(archive, Filter(include=("a/1.svs",))).jobs] == ["1.svs.ozx"]


def test_a_filter_that_leaves_nothing_is_refused(archive: Path):
    with pytest.raises(UsageError, match=r"archive: --include left out every slide \(5\)"):
        plan(archive, Filter(include=("*.ndpi",)))


def test_a_folder_that_cannot_be_listed_stays_unless_it_is_excluded(archive: Path):
    unlisted = Outcome("c/locked", "failed", "file system", "the folder cannot be listed")
    sources = [Source(archive / name, (archive / name,)) for name in NAMES]
    for chosen in (Filter(include=("a",)), Filter(exclude=("*.svs", "b")), Filter(listed=("4.svs",))):
        assert unlisted in chosen.apply(sources, [unlisted], archive).outcomes
    assert not Filter(exclude=("locked",)).apply(sources, [unlisted], archive).outcomes


def test_a_glob_that_matches_nothing_is_told(archive: Path):
    assert plan(archive, Filter(exclude=("*.ndpi", "a"))).idle == ("--exclude *.ndpi matches no slide",)


def test_limit_takes_the_first_slides_that_need_work(archive: Path):
    found = plan(archive, Filter(limit=2))
    assert ([name for name, _ in found.jobs], found.beyond) == (
        ["4.svs", "a/1.svs"],
        ("a/2.svs", "b/1.tif", "b/c/3.svs"),
    )


def test_listed_slides_that_are_not_there_fail(archive: Path):
    run = go(archive, Filter(listed=("a/1.svs", "a/9.svs"), list_name="mine.txt"))
    assert {(done.source, done.status, done.reason) for done in run.outcomes} == {
        ("a/1.svs", "written", ""),
        ("a/9.svs", "failed", "not found"),
    }
    assert "mine.txt lists it" in next(done.message for done in run.outcomes if done.status == "failed")


def test_a_list_may_hold_paths_on_disk(archive: Path, tmp_path: Path):
    file = tmp_path / "list.txt"
    file.write_text(f"{archive}/a/1.svs\n\n  4.svs \n4.svs\n/elsewhere/private/5.svs\n")
    assert read_list(file, archive) == ("a/1.svs", "4.svs", "5.svs")
    file.write_text("\n")
    with pytest.raises(UsageError, match=r"list\.txt: expected paths"):
        read_list(file, archive)


def test_slides_of_a_file_of_several_are_chosen_one_by_one(archive: Path):
    assert file_of("a/1.svs#12") == "a/1.svs"
    run = go(
        archive, Filter(listed=("a/1.svs#2", "4.svs#1", "a/2.svs#3"), list_name="l"), several=("a/1.svs", "a/2.svs")
    )
    assert sorted((done.source, done.status) for done in run.outcomes) == [
        ("4.svs", "written"),
        ("4.svs#1", "failed"),
        ("a/1.svs#2", "written"),
        ("a/2.svs#3", "failed"),
    ]
    again = go(archive, Filter(exclude=("a/1.svs#1",)), several=("a/1.svs",))
    assert {"a/1.svs#1", "a/1.svs#2"} & {done.source for done in again.outcomes} == {"a/1.svs#2"}


def test_a_listed_slide_that_is_not_in_its_file_may_be_a_known_failure(archive: Path):
    manifest = Manifest({"4.svs#1": Entry(known="not found")})
    run = go(archive, Filter(listed=("4.svs#1",), list_name="l"), manifest)
    assert [(done.source, done.known) for done in run.outcomes if done.status == "failed"] == [("4.svs#1", True)]
    assert not unexpected(run.outcomes)


def test_a_partial_run_keeps_the_rows_of_an_earlier_one(archive: Path):
    go(archive, failing=("b/1.tif",))
    assert facts(archive)["partial"] is None
    run = go(archive, Filter(include=("a",), limit=1))
    assert [done.source for done in run.outcomes] == ["a/1.svs"]
    assert rows(archive) == {
        "4.svs": ("written", "left out"),
        "a/1.svs": ("written", ""),
        "a/2.svs": ("written", "needs work"),
        "b/1.tif": ("failed", "left out"),
        "b/c/3.svs": ("written", "left out"),
    }
    report = facts(archive)
    assert report["counts"] == {"written": 1, "skipped": 0, "failed": 0}, "of this run alone"
    assert report["partial"] == {
        "include": ["a"],
        "exclude": [],
        "listed": None,
        "limit": 1,
        "left_out": 3,
        "need_work": 1,
    }


def test_a_limit_alone_keeps_the_rows_of_an_earlier_run(archive: Path):
    go(archive)
    go(archive, Filter(limit=1))
    assert rows(archive) == {
        "4.svs": ("written", ""),
        **dict.fromkeys(("a/1.svs", "a/2.svs", "b/1.tif", "b/c/3.svs"), ("written", "needs work")),
        "b/old.vsi": ("skipped", ""),
    }


def test_a_partial_run_drops_the_rows_of_slides_that_are_gone(archive: Path):
    go(archive)
    (archive / "4.svs").unlink()
    go(archive, Filter(include=("a",)))
    assert "4.svs" not in rows(archive)


def test_what_no_run_has_tried_is_listed_as_such(archive: Path):
    go(archive, Filter(include=("a/*",), limit=1))
    assert sorted(facts(archive)["not_tried"]) == ["4.svs", "a/2.svs", "b/1.tif", "b/c/3.svs"]
    inventory = read_inventory(archive.parent / "out")
    assert {entry.source: entry.status for entry in inventory.slides}["4.svs"] == "not tried"


def test_a_full_run_after_a_partial_one_is_whole_again(archive: Path):
    go(archive, Filter(include=("a",)))
    go(archive)
    assert set(rows(archive).values()) == {("written", "")} | {("skipped", "")}
    assert facts(archive)["not_tried"] == []
