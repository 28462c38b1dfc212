"""A file of several slides gives a job, a name and a row for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from containers import SLIDE, Part, write_container
from running import wsisum

from wsisum_cli.archive.manifest import Manifest, read_manifest
from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.plan import Request, plan_archive
from wsisum_cli.archive.run import Listener, Run, preview_outcomes
from wsisum_cli.archive.several import Splitter
from wsisum_cli.archive.walk import SourceIndex
from wsisum_cli.archive.workers import Setup
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.pipeline.job import Job, Options

SCENES = [Part(SLIDE, "Scene 1", 640, 512), Part(SLIDE, "Scene 2", 512, 512, seed=1)]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "in" / "a").mkdir(parents=True)
    write_container(tmp_path / "in" / "a" / "two.ome.tif", SCENES, ome=True)
    return tmp_path / "in"


def split(archive: Path, manifest: Manifest | None = None, **changes: Any) -> tuple[dict[str, Job], list[Outcome]]:
    """Jobs and outcomes of the slides of `a/two.ome.tif`."""
    wanted = Request(archive, archive.parent / "out", Options(), "0" * 64, **changes)
    manifest = manifest or Manifest()
    plan = plan_archive(wanted, manifest, {})
    name, job = next(found for found in plan.jobs if found[0].endswith("two.ome.tif"))
    jobs, outcomes = Splitter(wanted, manifest, plan, {})(name, job, 2)
    return dict(jobs), outcomes


def write_manifest(archive: Path, text: str) -> Manifest:
    path = archive.parent / "manifest.csv"
    path.write_text(text)
    (archive.parent / "mask.png").write_bytes(b"")
    return read_manifest(path)


def test_each_slide_has_a_number_and_a_name(archive: Path) -> None:
    jobs, outcomes = split(archive, mpp=0.5)
    assert outcomes == []
    assert [(name, job.output.relative_to(archive.parent).as_posix(), job.image) for name, job in jobs.items()] == [
        ("a/two.ome.tif#1", "out/a/two.1.ozx", 1),
        ("a/two.ome.tif#2", "out/a/two.2.ozx", 2),
    ]
    assert {job.name for job in jobs.values()} == {"two.ome.tif"}
    assert {job.mpp for job in jobs.values()} == {0.5}


def test_no_output_of_another_slide_is_written_over(archive: Path) -> None:
    (archive / "a" / "two.1.svs").write_bytes(b"x")
    jobs, _ = split(archive)
    assert [job.output.name for job in jobs.values()] == ["two.ome.tif.1.ozx", "two.2.ozx"]
    (archive / "a" / "two.ome.tif.1.svs").write_bytes(b"x")
    jobs, outcomes = split(archive)
    assert list(jobs) == ["a/two.ome.tif#2"]
    assert [(found.source, found.status, found.reason) for found in outcomes] == [
        ("a/two.ome.tif#1", "failed", "name taken")
    ]


def test_a_manifest_names_the_slides_of_a_file(archive: Path) -> None:
    manifest = write_manifest(
        archive, "slide,mpp,mask,name\na/two.ome.tif,0.5,,study-7\ntwo.ome.tif#2,0.25,mask.png,study-8\n"
    )
    jobs, _ = split(archive, manifest)
    first, second = jobs.values()
    assert (first.output.name, first.name, first.mpp, first.mask) == ("study-7.1.ozx", "study-7", 0.5, None)
    assert (second.output.name, second.name, second.mpp) == ("study-8.ozx", "study-8", 0.25)
    assert second.mask == archive.parent / "mask.png"
    assert manifest.unused == set()


def test_a_mask_is_for_one_slide(archive: Path) -> None:
    manifest = write_manifest(archive, "slide,mask\na/two.ome.tif,mask.png\n")
    jobs, outcomes = split(archive, manifest)
    assert jobs == {}
    assert [(found.status, found.reason) for found in outcomes] == [("failed", "mask does not fit")] * 2
    assert "list one for two.ome.tif#1 in the manifest" in outcomes[0].message


def test_given_features_are_looked_up_by_slide(archive: Path) -> None:
    folder = archive.parent / "h5"
    (folder / "a").mkdir(parents=True)
    for name in ("two.h5", "two.1.h5"):  # the first could be either slide's
        (folder / "a" / name).write_bytes(b"x")
    jobs, outcomes = split(archive, features=folder)
    assert {name: job.features for name, job in jobs.items()} == {"a/two.ome.tif#1": folder / "a" / "two.1.h5"}
    assert [(found.source, found.reason) for found in outcomes] == [("a/two.ome.tif#2", "no features")]
    assert "two.2.h5" in outcomes[0].message


def test_a_preview_lists_all_slides(archive: Path) -> None:
    wanted = Request(archive, archive.parent / "out", Options(), "0" * 64)
    plan = plan_archive(wanted, Manifest(), {})
    ((name, job),) = plan.jobs
    found = preview_outcomes(name, job, split=Splitter(wanted, Manifest(), plan, {}))
    assert [(row.source, row.status) for row in found] == [
        ("a/two.ome.tif#1", "would write"),
        ("a/two.ome.tif#2", "would write"),
    ]
    (alone,) = preview_outcomes(name, job)
    assert (alone.status, alone.reason) == ("failed", "several slides")
    assert alone.message == "two.ome.tif: holds 2 slides; expected one, or the number of one of them"


def run(archive: Path, *options: str) -> tuple[dict[str, tuple[str, str]], str]:
    output = archive.parent / "out"
    done = wsisum("compress", archive, "-o", output, "--encoder", "texture", *options)
    rows = json.loads((output / "report.json").read_text())["slides"]
    return {row["source"]: (row["status"], row["reason"]) for row in rows}, done.stderr


def test_a_second_run_makes_what_is_missing_alone(archive: Path) -> None:
    first, log = run(archive)
    assert first == {"a/two.ome.tif#1": ("written", ""), "a/two.ome.tif#2": ("written", "")}, log
    assert "[2/2]" in log
    (archive.parent / "out" / "a" / "two.2.ozx").unlink()
    second, _ = run(archive)
    assert second == {"a/two.ome.tif#1": ("skipped", "up to date"), "a/two.ome.tif#2": ("written", "")}
    third, _ = run(archive)
    assert set(third.values()) == {("skipped", "up to date")}


def test_a_slide_of_the_file_without_a_summary_is_left(archive: Path) -> None:
    run(archive)
    summaries = [archive.parent / "out" / "a" / f"two.{number}.ozx" for number in (1, 2)]
    for source, name in ((archive, "a/two.ome.tif"), (archive / "a" / "two.ome.tif", "two.ome.tif")):
        index = SourceIndex(source)
        found = index.find(summaries[0])
        assert found is not None
        assert found.path == archive / "a" / "two.ome.tif"
        assert index.left() == [f"{name}#2"]
        index.find(summaries[1])
        assert index.left() == []


def test_a_run_says_why_such_slides_are_made_again(archive: Path) -> None:
    heard: list[tuple[str, list[str]]] = []

    def go(keep: int) -> None:
        wanted = Request(
            archive, archive.parent / "out", Options(keep=keep), load_encoder("texture").card.sha256, mpp=0.5
        )
        Run(wanted, Setup(wanted.options, "texture", "cpu", 1, wanted.output)).go(
            Manifest(), Listener(again=lambda slide, why: heard.append((slide, why)))
        )

    go(4)
    assert heard == []
    go(5)
    assert sorted(heard) == [("a/two.ome.tif#1", ["keep 4 -> 5"]), ("a/two.ome.tif#2", ["keep 4 -> 5"])]
