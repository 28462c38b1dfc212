"""Failures that the manifest acknowledges."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsisum_cli.archive.manifest import Entry, Manifest, read_manifest
from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.scope.known import acknowledge, mended, unexpected
from wsisum_cli.errors import UsageError

FAILED = Outcome("a/1.svs", "failed", "No pixel size", "1.svs: no pixel size")


def manifest(known: str, slide: str = "a/1.svs") -> Manifest:
    return Manifest({slide: Entry(known=known)})


@pytest.mark.parametrize("known", ["yes", "no pixel size"])
def test_a_known_failure_is_no_failure_of_the_run(known: str):
    found = acknowledge(FAILED, manifest(known))
    assert (found.status, found.reason, found.known) == ("failed", "No pixel size", True)
    assert unexpected([FAILED])
    assert not unexpected([found])


def test_another_reason_is_never_hidden():
    found = acknowledge(FAILED, manifest("unreadable"))
    assert not found.known
    assert found.message == "1.svs: no pixel size; the manifest knows of another failure: unreadable"


def test_a_slide_of_a_file_of_several_is_known_by_its_file():
    found = Outcome("a/1.svs#2", "failed", "unreadable")
    assert acknowledge(found, manifest("unreadable")).known
    assert acknowledge(found, manifest("unreadable", "a/1.svs#2")).known
    assert not acknowledge(found, manifest("unreadable", "a/1.svs#3")).known


def test_slides_that_no_longer_fail_are_told():
    written, other = Outcome("a/1.svs", "written"), Outcome("b.svs", "written")
    assert mended([written, other], manifest("yes")) == [written]
    assert mended([FAILED], manifest("yes")) == []


def test_the_column_is_read(tmp_path: Path):
    path = tmp_path / "m.csv"
    path.write_text("slide,known\na.svs,YES\nb.svs,No pixel size\nc.svs,\n")
    found = read_manifest(path)
    assert [found.entry(Path(name)).known for name in ("a.svs", "b.svs", "c.svs")] == ["yes", "no pixel size", None]
    path.write_text("slide,knwon\na.svs,yes\n")
    with pytest.raises(UsageError, match="expected a column of your own or known, found knwon"):
        read_manifest(path)
