"""Parts of an archive by the hash of their names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from archives import request_for, write_slides

from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.outcome import FAILED, SKIPPED, Outcome
from wsisum_cli.archive.plan import plan_archive
from wsisum_cli.archive.state.shard import Shard, parse_shard
from wsisum_cli.errors import UsageError
from wsisum_cli.slides.source import Source

NAMES = [f"{number % 7}/{number}.svs" for number in range(2000)]


def test_every_slide_falls_to_one_shard():
    shards = [Shard(number, 16) for number in range(1, 17)]
    found = Counter(shard.number for name in NAMES for shard in shards if shard.holds(name))
    assert sum(found.values()) == len(NAMES)
    assert all(90 < count < 165 for count in found.values())


def test_the_shard_of_a_slide_never_changes():
    held = [name for name in ("a/1.svs", "a/2.svs", "b/é.svs", "c/bad\udcff.svs") if Shard(2, 3).holds(name)]
    assert held == ["a/1.svs", "b/é.svs"]
    assert Shard(2, 3).holds("b/é.svs") == Shard(2, 3).holds("b/e\u0301.svs")  # as macOS writes it


def test_slides_of_one_file_stay_together():
    for shard in (Shard(number, 5) for number in range(1, 6)):
        assert len({shard.holds(name) for name in ("x/two.ome.tif", "x/two.ome.tif#1", "x/two.ome.tif#12")}) == 1


def test_files_of_one_slide_stay_together():
    root = Path("/archive")
    first, others = root / "s/1.dcm", [root / f"s/{number}.dcm" for number in range(2, 9)]
    outcomes = [Outcome(f"s/{path.name}", SKIPPED, "part of a slide") for path in others]
    counts = [len(Shard(n, 3).part_of(outcomes, root, [Source(first, (first, *others))])) for n in (1, 2, 3)]
    assert sorted(counts) == [0, 0, 7]


def test_a_folder_that_cannot_be_listed_belongs_to_every_shard():
    unlisted = Outcome("locked", FAILED, "file system", "the folder cannot be listed")
    assert all(Shard(n, 3).part_of([unlisted], Path("/archive"), []) == [unlisted] for n in (1, 2, 3))


def test_shards_make_the_archive_together(tmp_path: Path):
    write_slides(tmp_path / "in", "a.svs", "a.ndpi", "b/c.svs", "b/d.svs", "e.svs")
    whole = plan_archive(request_for(tmp_path / "in", tmp_path / "out"), Manifest(), {})
    parts = [
        plan_archive(request_for(tmp_path / "in", tmp_path / "out", shard=Shard(number, 3)), Manifest(), {})
        for number in (1, 2, 3)
    ]
    assert sorted(name for part in parts for name, _ in part.jobs) == [name for name, _ in whole.jobs]
    outputs = {name: job.output for name, job in whole.jobs}
    assert all(job.output == outputs[name] for part in parts for name, job in part.jobs)
    assert {part.taken for part in parts} == {whole.taken}  # so that slides of one file get the same names


@pytest.mark.parametrize("text", ["3", "0/4", "5/4", "1/0", "a/b", "1/4/2", "-1/4", "1/9999999"])
def test_a_wrong_shard_is_refused(text: str):
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text)


def test_a_shard_is_parsed():
    assert parse_shard("3/16") == Shard(3, 16)
    assert str(Shard(3, 16)) == "3/16"
