"""What counts as up to date without opening the output, and what never does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from archives import jobs_of, outcome_for, record_for, request_for, set_back, write_run, write_slides, write_summary_of

from wsisum_cli.archive import plan as planning
from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.outcome import FAILED, Outcome
from wsisum_cli.archive.plan import plan_archive
from wsisum_cli.archive.state.ledger import Ledger
from wsisum_cli.archive.state.record import is_recorded, source_state, telling_time, version_in
from wsisum_cli.pipeline.job import Job, Options
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.writer import FORMAT_VERSION


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A slide and its summary."""
    write_slides(tmp_path / "in", "a.svs")
    found = jobs_of(tmp_path / "in", tmp_path / "out")["a.svs"]
    write_summary_of(found)
    return found


def rewrite(path: Path, content: bytes | None = None) -> None:
    """Write a file anew, with a time some seconds after the last."""
    before = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() if content is None else content)
    os.utime(path, ns=(before + 1_000_000_000, before + 1_000_000_000))


def flipped(path: Path) -> bytes:
    content = path.read_bytes()
    return content[:-1] + bytes([content[-1] ^ 1])


def touch_with(path: Path, modified: int) -> None:
    os.utime(path, ns=(modified, modified))


def test_an_output_as_recorded_is_up_to_date(job: Job):
    assert is_recorded(job, outcome_for("a.svs", job))
    assert version_in(record_for(job)) == FORMAT_VERSION


@pytest.mark.parametrize(
    "change",
    [
        lambda job: job.output.unlink(),
        lambda job: rewrite(job.output),
        lambda job: job.output.write_bytes(job.output.read_bytes()[:-1]),
        lambda job: rewrite(job.source.path),
        lambda job: rewrite(job.source.path, flipped(job.source.path)),
        lambda job: job.source.path.write_bytes(b"more and other bytes"),
        lambda job: job.source.path.unlink(),
        lambda job: touch_with(job.source.path, 0),
        lambda job: touch_with(job.source.path, time.time_ns() + 3_600_000_000_000),
    ],
    ids=["lost", "copied", "truncated", "copied source", "changed", "other size", "gone", "no time", "future"],
)
def test_any_change_of_a_file_is_looked_at(job: Job, change: Callable[[Job], None]):
    known = outcome_for("a.svs", job)
    change(job)
    assert not is_recorded(job, known)


@pytest.mark.parametrize(
    "change",
    [{"name": "b.svs"}, {"mpp": 0.5}, {"mpp_wins": True}, {"image": 1}],
)
def test_whatever_decides_the_output_is_in_the_fingerprint(job: Job, change: dict[str, object]):
    jobs = jobs_of(job.source.path.parent, job.output.parent)
    fingerprint = planning.fingerprint_of("settings", replace(jobs["a.svs"], **change))
    assert fingerprint != planning.fingerprint_of("settings", jobs["a.svs"])


def test_options_models_and_masks_are_in_the_fingerprint(job: Job, tmp_path: Path):
    mask = tmp_path / "mask.png"
    mask.write_bytes(b"a")
    first = planning.fingerprint_of("s", replace(job, mask=mask))
    mask.write_bytes(b"b")
    assert len({first, planning.fingerprint_of("s", replace(job, mask=mask)), planning.fingerprint_of("s", job)}) == 3
    request = request_for(tmp_path / "in", tmp_path / "out")
    others = [replace(request, options=Options(keep=9)), replace(request, encoder_sha256="1" * 64)]
    assert len({request.settings, *(other.settings for other in others)}) == 3


def test_given_features_that_change_are_looked_at(job: Job, tmp_path: Path):
    features = tmp_path / "a.h5"
    features.write_bytes(b"1")
    assert planning.fingerprint_of("s", replace(job, features=features)) == ""  # written just now
    set_back(features)
    first = planning.fingerprint_of("s", replace(job, features=features))
    rewrite(features, b"2")
    assert "" != first != planning.fingerprint_of("s", replace(job, features=features))
    features.unlink()
    assert planning.fingerprint_of("s", replace(job, features=features)) == ""


def test_a_slide_that_was_just_written_has_no_time_that_tells(tmp_path: Path):
    write_slides(tmp_path, "a.svs")
    source = find_source(tmp_path / "a.svs")
    assert telling_time(source) == source.modified
    assert source_state(source)
    os.utime(source.path)
    assert telling_time(source) is None
    assert source_state(source) == ""


def test_a_failed_slide_is_never_up_to_date(job: Job):
    known = outcome_for("a.svs", job)
    assert not is_recorded(job, replace(known, status=FAILED, reason="out of memory"))
    assert not is_recorded(job, replace(known, record=None))
    assert not is_recorded(
        replace(job, fingerprint=""), replace(known, record=replace(record_for(job), fingerprint=""))
    )


def test_a_finished_archive_is_planned_without_opening_a_summary(tmp_path: Path):
    archive, output = tmp_path / "in", tmp_path / "out"
    write_slides(archive, "a.svs", "b/c.svs")
    write_run(archive, output)
    opened: list[str] = []
    request = request_for(archive, output)
    product = replace(
        request.product, provenance=lambda path: opened.append(path.name) or request.product.provenance(path)
    )
    found = plan_archive(replace(request, product=product), Manifest(), Ledger(output, "summary").known)
    assert ([outcome.reason for outcome in found.outcomes], found.jobs, opened) == (["up to date"] * 2, [], [])
    assert set(found.recorded) == {"a.svs", "b/c.svs"}
    rewrite(output / "b/c.ozx")
    plan_archive(replace(request, product=product), Manifest(), Ledger(output, "summary").known)
    assert opened == ["c.ozx"]
    opened.clear()
    plan_archive(replace(request, product=product, check=True), Manifest(), Ledger(output, "summary").known)
    assert opened == ["a.ozx", "c.ozx"]


def test_a_swapped_summary_is_made_again(tmp_path: Path):
    archive, output = tmp_path / "in", tmp_path / "out"
    write_slides(archive, "a.svs", "b.svs")
    write_run(archive, output)
    (output / "a.ozx").write_bytes((output / "b.ozx").read_bytes())
    found = plan_archive(request_for(archive, output), Manifest(), Ledger(output, "summary").known)
    assert [name for name, _ in found.jobs] == ["a.svs"]


def test_the_report_has_no_records(job: Job):
    row = outcome_for("a.svs", job).as_dict()
    assert "record" not in row
    assert Outcome(**{name: value for name, value in row.items() if name != "ratio"}).record is None
