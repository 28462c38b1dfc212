"""What runs over a store leave to folders, and how they know what is up to date without a journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from stores import S3
from summaries import write_tiny
from typer.testing import CliRunner

from wsisum_cli.archive.formats import A_SUMMARY
from wsisum_cli.archive.outcome import WRITTEN, Outcome
from wsisum_cli.archive.remote.outputs import is_run_file
from wsisum_cli.archive.remote.sites import open_archive
from wsisum_cli.archive.report import write_report
from wsisum_cli.archive.state.ledger import reported_outcomes
from wsisum_cli.archive.state.record import NO_ANSWER, source_state, telling_time
from wsisum_cli.archive.state.shard import Shard
from wsisum_cli.archive.walk import find_slides
from wsisum_cli.commands.main import app
from wsisum_cli.slides.remote.cache import Cache
from wsisum_cli.slides.remote.source import RemoteSource, remote_source
from wsisum_cli.slides.remote.store import RemoteFile
from wsisum_cli.slides.remote.url import Address
from wsisum_cli.slides.source import Source
from wsisum_cli.summary.reader import iter_summaries

NOW = 4_000_000_000_000_000_000  # ns since 1970, later than any clock here


def slide(tmp_path: Path, e_tag: str | None, modified: int = NOW) -> RemoteSource:
    path = tmp_path / "a.svs"
    path.write_bytes(b"x")
    file = RemoteFile(Address("s3", "bucket", "a.svs"), 1, modified, e_tag)
    return remote_source(Source(path, (path,)), (file,), Cache(tmp_path / "cache", 1000))


def test_an_e_tag_tells_versions_of_the_same_size_and_time_apart(tmp_path: Path):
    one, other = slide(tmp_path, "one"), slide(tmp_path, "other")
    assert source_state(one) == source_state(slide(tmp_path, "one")) != source_state(other)
    # Whatever the clock of the store says: a local file of this time could change without a trace.
    assert telling_time(one) != telling_time(other)
    assert None not in (telling_time(one), telling_time(other))


def test_a_server_that_tells_nothing_gives_no_answer(tmp_path: Path):
    unknown = slide(tmp_path, None, 0)
    assert source_state(unknown) == NO_ANSWER
    assert telling_time(unknown) is None


def report(folder: Path, shard: Shard | None, finished: str, *rows: tuple[str, int]) -> None:
    outcomes = [Outcome(name, WRITTEN, bytes_in=size) for name, size in rows]
    write_report(folder, outcomes, {"started": finished, "finished": finished}, shard)


def test_of_each_slide_the_latest_report_counts(tmp_path: Path):
    report(tmp_path, Shard(1, 2), "2026-01-02T00:00:00+00:00", ("a.svs", 2), ("b.svs", 2))
    report(tmp_path, None, "2026-01-01T00:00:00+00:00", ("a.svs", 1), ("c.svs", 1))
    report(tmp_path, Shard(2, 2), "2026-01-03T00:00:00+00:00", ("b.svs", 3))
    assert {name: row.bytes_in for name, row in reported_outcomes(tmp_path).items()} == {
        "a.svs": 2,
        "b.svs": 3,
        "c.svs": 1,
    }


def test_reports_of_shards_are_kept_in_a_store_and_nothing_else_of_a_run():
    kept = ("report.json", "report.csv", "report.1-of-4.json", "report.1-of-4.csv")
    assert all(map(is_run_file, kept))
    others = ("a.ozx", "sub/report.json", "catalogue.sqlite", ".wsisum/journal/a.jsonl", "report.html")
    assert not any(map(is_run_file, others))


def test_summaries_and_hidden_files_are_told_in_a_store(tmp_path: Path, s3: S3):
    write_tiny(tmp_path / "B12.ozx", "source")
    bucket = s3.make_bucket("told")
    for key in ("in/B12.ozx", "in/.old/B13.ozx", "in/.B14.ozx"):
        s3.client.upload_file(str(tmp_path / "B12.ozx"), bucket, key)
    with open_archive(Address("s3", bucket, "in"), None, Cache(tmp_path / "cache", 10**9)) as there:
        sources, outcomes, _ = find_slides(there.path, tmp_path / "out")
        assert (sources, [(one.source, one.reason) for one in outcomes]) == ([], [("B12.ozx", A_SUMMARY)])
    assert [summary.name for summary in iter_summaries(f"s3://{bucket}/in")] == ["B12.ozx"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("compress", ".", "-o", "s3://bucket/out", "--sweep"), "--sweep writes to a folder"),
        (("compress", ".", "-o", "s3://bucket/out", "--sign", "KEY"), "--sign signs files in a folder"),
        (("compress", "s3://bucket/in", "--scheduler", "tcp://host:1"), "--scheduler: expected folders"),
        (("features", ".", "-o", "az://box/out", "--scheduler", "tcp://host:1"), "--scheduler: expected folders"),
        (
            ("features", "https://host/B12.ozx", "-o", "s3://bucket/out"),
            "features of summaries are written to a folder",
        ),
        (("trim", "s3://bucket/out", "--keep", "8"), "s3://bucket/out: expected a path"),
        (("migrate", "s3://bucket/out/B12.ozx"), "s3://bucket/out/B12.ozx: expected a path"),
        (("trim", "B12.ozx", "--keep", "8", "-o", "s3://bucket/out"), "--output: expected a path, found an address"),
        (("export", "B12.ozx", "--to", "h5", "-o", "s3://bucket/out"), "--output: expected a path, found an address"),
        (("index", "s3://bucket/out"), "'s3://bucket/out' is an address, and this takes paths only"),
        (("status", "s3://bucket/out"), "'s3://bucket/out' is an address, and this takes paths only"),
    ],
)
def test_what_needs_folders_says_so(
    arguments: Sequence[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "KEY").write_text("")
    done = CliRunner().invoke(app, arguments)
    assert complaint in done.output + str(done.exception)
    assert not [path for path in tmp_path.iterdir() if path.name != "KEY"]
