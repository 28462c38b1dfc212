"""Names by a keyed hash or by the manifest: what they are, what they lie in, and what is refused."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from archives import write_slides

from wsisum_cli.archive.manifest import Entry, Manifest
from wsisum_cli.archive.plan import Plan, Request, plan_archive
from wsisum_cli.archive.scope.naming import (
    HASH,
    MANIFEST,
    STEM,
    Naming,
    read_key,
    read_naming,
    refuse_key_inside,
    refuse_unnamed,
)
from wsisum_cli.archive.several import Splitter
from wsisum_cli.errors import UsageError
from wsisum_cli.pipeline.job import Job, Options

KEY = bytes(range(32))
HASHES = Naming(HASH, KEY)
NAMES = Naming(MANIFEST)


def digits(path: str, key: bytes = KEY) -> str:
    return hmac.new(key, path.encode(), hashlib.sha256).hexdigest()[:32]


def request(archive: Path, naming: Naming, **changes: Any) -> Request:
    return Request(archive, archive.parent / "out", Options(), "0" * 64, naming=naming, **changes)


def plan(archive: Path, naming: Naming, manifest: Manifest | None = None, **changes: Any) -> Plan:
    return plan_archive(request(archive, naming, **changes), manifest or Manifest(), {})


def outputs(found: Plan, archive: Path) -> dict[str, tuple[str, str]]:
    """The output of each slide within the folder, and what it is called inside."""
    return {name: (job.output.relative_to(archive.parent / "out").as_posix(), job.name) for name, job in found.jobs}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_slides(tmp_path / "in", "a.svs", "DOE/a.svs", "DOE/b.ome.tiff")
    return tmp_path / "in"


# names by a hash


def test_a_hash_is_that_of_the_path_and_the_key(archive: Path):
    paths = ("DOE/a.svs", "DOE/b.ome.tiff", "a.svs")
    assert outputs(plan(archive, HASHES), archive) == {path: (f"{digits(path)}.ozx", digits(path)) for path in paths}
    others = outputs(plan(archive, Naming(HASH, KEY[::-1])), archive)
    assert {name for _, name in others.values()}.isdisjoint(map(digits, paths))


def test_the_spelling_of_a_letter_does_not_change_a_hash():
    composed = unicodedata.normalize("NFC", "M\u00fcller/1.svs")
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    assert HASHES.private_name(decomposed, Entry()) == digits(composed)


def test_a_path_that_is_no_text_has_a_hash():
    assert len(HASHES.private_name("a\udcff.svs", Entry())) == 32


def test_a_name_in_the_manifest_wins_over_the_hash(archive: Path):
    found = outputs(plan(archive, HASHES, Manifest({"DOE/a.svs": Entry(name="study-7")})), archive)
    assert found["DOE/a.svs"] == ("study-7.ozx", "study-7")
    assert found["a.svs"] == (f"{digits('a.svs')}.ozx", digits("a.svs"))


def test_the_slides_of_a_file_have_hashes_of_their_own(archive: Path):
    jobs, outcomes = split(archive, HASHES, Manifest())
    assert outcomes == []
    assert {name: (job.output.name, job.name, job.image) for name, job in jobs.items()} == {
        f"DOE/b.ome.tiff#{number}": (f"{(name := digits(f'DOE/b.ome.tiff#{number}'))}.ozx", name, number)
        for number in (1, 2)
    }
    assert {job.output.parent for job in jobs.values()} == {archive.parent / "out"}


def test_given_features_are_found_by_the_same_hash(archive: Path):
    folder = archive.parent / "h5"
    folder.mkdir()
    mine = folder / f"{digits('DOE/a.svs')}.h5"
    mine.write_bytes(b"x")
    jobs = dict(plan(archive, HASHES, features=folder).jobs)
    assert jobs["DOE/a.svs"].features == mine
    assert jobs["a.svs"].features == folder  # by the name of the slide, as other programs call them


# names by the manifest


def test_only_names_of_the_manifest_are_used(archive: Path):
    found = plan(archive, NAMES, Manifest({"DOE/a.svs": Entry(name="study-7")}))
    assert outputs(found, archive) == {"DOE/a.svs": ("study-7.ozx", "study-7")}
    failed = {outcome.source: (outcome.status, outcome.reason) for outcome in found.outcomes}
    assert failed == dict.fromkeys(("DOE/b.ome.tiff", "a.svs"), ("failed", "no name in the manifest"))
    assert "fill in its column name" in found.outcomes[0].message
    assert "DOE" not in found.outcomes[0].message


def test_two_slides_with_one_name_fail_across_folders(archive: Path):
    found = plan(archive, NAMES, Manifest({"DOE/a.svs": Entry(name="one"), "a.svs": Entry(name="ONE")}))
    failed = {outcome.source: outcome.reason for outcome in found.outcomes}
    assert failed == {"DOE/a.svs": "name taken", "a.svs": "name taken", "DOE/b.ome.tiff": "no name in the manifest"}
    assert not any("DOE" in outcome.message for outcome in found.outcomes)


def test_a_name_of_a_file_serves_its_slides(archive: Path):
    entries = {"DOE/b.ome.tiff": Entry(name="case"), "b.ome.tiff#2": Entry(name="other")}
    jobs, _ = split(archive, NAMES, Manifest(entries))
    assert [(job.output.name, job.name) for job in jobs.values()] == [("case.1.ozx", "case"), ("other.ozx", "other")]


def test_slides_of_a_file_without_a_name_may_have_names(archive: Path):
    jobs, outcomes = split(archive, NAMES, Manifest({"DOE/b.ome.tiff#2": Entry(name="other")}))
    assert {name: (job.output.name, job.name) for name, job in jobs.items()} == {
        "DOE/b.ome.tiff#2": ("other.ozx", "other")
    }
    assert [(found.source, found.reason) for found in outcomes] == [("DOE/b.ome.tiff#1", "no name in the manifest")]


def test_a_taken_name_is_never_replaced_by_that_of_the_file(archive: Path):
    entries = {"DOE/b.ome.tiff": Entry(name="case"), "DOE/a.svs": Entry(name="case.1")}
    jobs, outcomes = split(archive, NAMES, Manifest(entries))
    assert [job.output.name for job in jobs.values()] == ["case.2.ozx"]
    assert [(found.source, found.reason) for found in outcomes] == [("DOE/b.ome.tiff#1", "name taken")]


def split(archive: Path, naming: Naming, manifest: Manifest) -> tuple[dict[str, Job], list[Any]]:
    """Jobs and outcomes of the two slides that `DOE/b.ome.tiff` is said to hold."""
    wanted = request(archive, naming)
    planned = plan_archive(wanted, manifest, {})
    name, job = next(found for found in planned.jobs if found[0] == "DOE/b.ome.tiff")
    jobs, outcomes = Splitter(wanted, manifest, planned, {})(name, job, 2)
    return dict(jobs), outcomes


def test_a_job_without_a_name_is_not_worked_on(archive: Path):
    jobs = dict(plan(archive, NAMES, Manifest({"DOE/b.ome.tiff#2": Entry(name="other")})).jobs)
    assert jobs["DOE/b.ome.tiff"].name == ""
    with pytest.raises(Exception, match=r"b\.ome\.tiff"):
        refuse_unnamed(jobs["DOE/b.ome.tiff"])


# the key


@pytest.mark.parametrize(("size", "found"), [(0, "found 0"), (15, "found 15"), (4097, "found more than 4096")])
def test_a_key_of_another_size_is_refused(tmp_path: Path, size: int, found: str):
    (tmp_path / "name.key").write_bytes(b"k" * size)
    with pytest.raises(UsageError, match=rf"name\.key: expected 16 to 4096 bytes, {found}; make a key with head -c 32"):
        read_key(tmp_path / "name.key")


@pytest.mark.parametrize("key", [b"k" * 16, bytes(4096), b"with a newline and \xff\n"])
def test_every_byte_of_a_key_counts(tmp_path: Path, key: bytes):
    (tmp_path / "name.key").write_bytes(key)
    found = read_naming(HASH, tmp_path / "name.key")
    assert found.private_name("a.svs", Entry()) == digits("a.svs", key)


def test_a_key_goes_with_names_by_hash_alone(tmp_path: Path):
    (tmp_path / "name.key").write_bytes(KEY)
    with pytest.raises(UsageError, match="expected a key as --name-key, found none; make one with head -c 32"):
        read_naming(HASH, None)
    for by in (STEM, MANIFEST):
        with pytest.raises(UsageError, match=f"--name-key is for --name-by hash, found --name-by {by}"):
            read_naming(by, tmp_path / "name.key")
    with pytest.raises(UsageError, match="cannot be read"):
        read_naming(HASH, tmp_path / "gone.key")


def test_a_key_among_the_outputs_is_refused(tmp_path: Path):
    refuse_key_inside(tmp_path / "name.key", tmp_path / "out")
    refuse_key_inside(None, tmp_path)
    with pytest.raises(UsageError, match="would be given away with it"):
        refuse_key_inside(tmp_path / "out" / ".." / "out" / "name.key", tmp_path / "out")


def test_a_key_is_shown_nowhere():
    assert KEY.hex() not in repr(HASHES)
    assert repr(KEY) not in repr(HASHES)
    assert HASHES.facts().keys() == {"name_by", "name_check"}
    assert HASHES.facts()["name_check"] == hmac.new(KEY, b"\0 wsisum name key", hashlib.sha256).hexdigest()[:16]
    assert Naming(HASH, KEY[::-1]).check != HASHES.check
    assert NAMES.facts() == {"name_by": "manifest"}
