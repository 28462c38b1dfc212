"""Pruning loses nothing unless it is asked to."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archives import jobs_of, outcome_for, write_run, write_slides, write_summary_of
from running import wsisum

from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.state.journal import Journal
from wsisum_cli.archive.state.prune import Pruning, is_worse, lacks_addition, plan_pruning, prune
from wsisum_cli.archive.state.status import Comparison, summary_attributes
from wsisum_cli.errors import UsageError
from wsisum_cli.pipeline.job import Job
from wsisum_cli.summary.attributes import EncoderCard, GivenFeatures, Reembedded, TissueFeatures
from wsisum_cli.summary.signature.minisign import signature_path

NAMES = [f"{number}.svs" for number in range(12)]
PACKED = TissueFeatures(bytes=8, components=4, cosine_mean=1.0, cosine_p05=1.0, cosine_min=1.0)


def given(sha256: str) -> GivenFeatures:
    return GivenFeatures(origin="given", encoder="e", sha256=sha256, left_out=0, patch_encoder_sha256="0" * 64)


def further(name: str) -> Reembedded:
    """Features by a further encoder, as far as pruning looks at them."""
    card = EncoderCard.model_construct(name=name, sha256=name)
    return Reembedded.model_construct(encoder=card)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_slides(tmp_path / "in", *NAMES)
    write_run(tmp_path / "in", tmp_path / "out")
    return tmp_path / "in"


def plan(archive: Path, gone: bool = False, force: bool = False) -> Pruning:
    return plan_pruning(Comparison(archive.parent / "out", archive, Manifest()), gone, force)


def decisions(archive: Path, **options: bool) -> dict[str, tuple[str, str]]:
    return {found.summary: (found.action, found.reason) for found in plan(archive, **options).decisions}


def rename(archive: Path) -> Path:
    (archive / "new").mkdir()
    return (archive / "1.svs").rename(archive / "new/name.svs")


def summarize_again(archive: Path) -> Job:
    """As `wsisum compress` does after a slide was renamed."""
    job = jobs_of(archive, archive.parent / "out")["new/name.svs"]
    write_summary_of(job)
    journal = Journal(archive.parent / "out", {"product": "summary", "shard": None, "todo": []})
    journal.note(outcome_for("new/name.svs", job))
    journal.end()
    return job


def test_nothing_goes_while_every_slide_is_there(archive: Path):
    assert decisions(archive, gone=True) == {}


def test_the_only_remains_of_a_slide_stay(archive: Path):
    (archive / "1.svs").unlink()
    found = plan(archive)
    assert [(one.action, one.reason) for one in found.decisions] == [("keep", "gone")]
    assert "all that remains" in found.decisions[0].message
    assert decisions(archive, gone=True) == {"1.ozx": ("remove", "gone")}


def test_a_summary_of_a_renamed_slide_stays_until_the_new_name_has_one(archive: Path):
    rename(archive)
    assert decisions(archive, gone=True) == {"1.ozx": ("keep", "renamed")}
    summarize_again(archive)
    assert decisions(archive) == {"1.ozx": ("remove", "renamed")}


@pytest.mark.parametrize("how", ["damaged", "stale", "another slide"])
def test_a_summary_stays_where_the_new_one_is_no_match(archive: Path, how: str):
    rename(archive)
    job = summarize_again(archive)
    if how == "damaged":
        with open(job.output, "r+b") as file:
            file.seek(job.output.stat().st_size // 2)
            file.write(b"damage")
        os.utime(job.output, ns=(job.output.stat().st_mtime_ns,) * 2)
    elif how == "stale":
        job.source.path.write_bytes(job.source.path.read_bytes() + b"more")
    else:
        shutil.copy(archive.parent / "out/2.ozx", job.output)
    action, _ = decisions(archive)["1.ozx"]
    assert action == "keep"


@pytest.mark.parametrize(
    ("there", "twin", "why"),
    [
        ({}, {"represented": None}, "represents less of the tissue"),
        ({}, {"verdict": None}, "has a worse verdict"),
        ({"features": given("1" * 64)}, {"features": given("2" * 64)}, "has features of another encoder"),
        ({"tissue_features": PACKED}, {}, "has no features of all tissue"),
        ({"reembedded": [further("new")]}, {"reembedded": [further("old")]}, "has no features by new"),
        ({"features": given("1" * 64)}, {"features": given("1" * 64)}, ""),
        ({"reembedded": [further("new")], "tissue_features": PACKED},) * 2 + ("",),
        ({"represented": None, "verdict": None}, {}, ""),
    ],
)
def test_a_summary_stays_where_the_new_one_is_worse(
    archive: Path, there: dict[str, Any], twin: dict[str, Any], why: str
):
    attributes = summary_attributes(archive.parent / "out/1.ozx", False)
    assert attributes is not None
    ours, theirs = (attributes.model_copy(update=changes) for changes in (there, twin))
    assert (is_worse(theirs, ours, None) or lacks_addition(theirs, ours)) == why


def test_a_signed_summary_stays_where_the_new_one_is_not(archive: Path):
    rename(archive)
    job = summarize_again(archive)
    signature_path(archive.parent / "out/1.ozx").write_text("signature")
    (found,) = plan(archive).decisions
    assert (found.action, found.message.endswith("is not signed")) == ("keep", True)
    signature_path(job.output).write_text("signature")
    assert decisions(archive) == {"1.ozx": ("remove", "renamed")}


@pytest.mark.parametrize("delete", [False, True])
def test_a_signature_goes_with_its_summary(archive: Path, delete: bool):
    (archive / "1.svs").unlink()
    signature_path(archive.parent / "out/1.ozx").write_text("signature")
    _, aside = prune(archive.parent / "out", plan(archive, gone=True), delete)
    assert not list((archive.parent / "out").glob("1.ozx*"))
    assert (aside is None) == delete
    assert aside is None or {path.name for path in aside.iterdir()} == {"1.ozx", "1.ozx.minisig"}


def test_an_unreadable_summary_stays(archive: Path):
    (archive / "1.svs").unlink()
    (archive.parent / "out/1.ozx").write_bytes(b"PK")
    assert decisions(archive, gone=True) == {"1.ozx": ("keep", "cannot be read")}


def test_an_archive_that_is_not_all_there_removes_nothing(archive: Path, tmp_path: Path):
    for name in NAMES[:3]:
        (archive / name).unlink()
    with pytest.raises(UsageError, match="mounted"):
        plan(archive, gone=True)
    assert set(decisions(archive, gone=True, force=True).values()) == {("remove", "gone")}
    assert set(decisions(archive).values()) == {("keep", "gone")}
    (archive / "disk").symlink_to(tmp_path / "not mounted")
    with pytest.raises(UsageError, match="leads nowhere"):
        plan(archive, gone=True, force=True)
    shutil.rmtree(archive)
    archive.mkdir()
    with pytest.raises(UsageError, match="no slides"):
        plan(archive, gone=True, force=True)


def test_summaries_are_moved_aside_with_their_paths(archive: Path):
    (archive / "1.svs").unlink()
    content = (archive.parent / "out/1.ozx").read_bytes()
    done, aside = prune(archive.parent / "out", plan(archive, gone=True), delete=False)
    assert [one.summary for one in done] == ["1.ozx"]
    assert aside is not None
    assert (aside / "1.ozx").read_bytes() == content
    assert not (archive.parent / "out/1.ozx").exists()
    assert plan(archive, gone=True).summaries == 11


def test_a_summary_that_changed_meanwhile_stays(archive: Path):
    (archive / "1.svs").unlink()
    planned = plan(archive, gone=True)
    path = archive.parent / "out/1.ozx"
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))
    assert prune(archive.parent / "out", planned, delete=True) == ([], None)
    assert path.is_file()


def test_the_command_asks_first(archive: Path):
    (archive / "1.svs").unlink()
    out = archive.parent / "out"
    done = wsisum("prune", out, "--source", archive, "--gone")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert "1.ozx" in done.stdout
    done = wsisum("prune", out, "--source", archive, "--gone", "--dry-run", "--json")
    assert [row["action"] for row in json.loads(done.stdout)] == ["remove"]
    assert (out / "1.ozx").is_file()
    assert wsisum("prune", out, "--source", archive, "--gone", "--yes").returncode == 0
    assert not (out / "1.ozx").exists()
    assert replace(jobs_of(archive, out)["2.svs"]).output.is_file()
