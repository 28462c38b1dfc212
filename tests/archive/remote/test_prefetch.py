"""Slides are fetched ahead in their order, no further than they fit, and not once the run has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stores import S3

from wsisum_cli.archive.remote.prefetch import Prefetcher
from wsisum_cli.pipeline.job import Job
from wsisum_cli.slides.remote.cache import Cache
from wsisum_cli.slides.remote.source import RemoteSource, remote_source
from wsisum_cli.slides.remote.store import find_file
from wsisum_cli.slides.remote.url import Address
from wsisum_cli.slides.source import Source

SIZE = 1000  # bytes of a slide


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    assert holds()


@pytest.fixture
def jobs(s3: S3, tmp_path: Path, request: pytest.FixtureRequest) -> list[tuple[str, Job]]:
    bucket = s3.make_bucket(f"prefetch-{abs(hash(request.node.name))}")
    found = []
    for number in range(6):
        name = f"{number}.svs"
        s3.client.put_object(Bucket=bucket, Key=name, Body=bytes([number]) * SIZE)
        file = find_file(Address("s3", bucket, name))
        assert file is not None
        slide = remote_source(Source(Path(name), (Path(name),)), (file,), Cache(tmp_path / "cache", 3 * SIZE))
        found.append((name, Job(slide, tmp_path / name, name)))
    s3.proxy.forget()
    return found


def fetched(s3: S3) -> list[str]:
    return [request.path.rpartition("/")[2] for request in s3.proxy.requests]


def use(job: Job) -> bytes:
    assert isinstance(job.source, RemoteSource)
    with job.source.staged() as staged:
        assert staged.fetched == SIZE
        return staged.path.read_bytes()


def test_the_next_are_fetched_while_the_first_are_computed(jobs: list[tuple[str, Job]], s3: S3):
    with Prefetcher(jobs, 1) as prefetcher:
        wait_until(lambda: fetched(s3) == ["0.svs", "1.svs"])
        for number, (_, job) in enumerate(jobs):
            assert use(job) == bytes([number]) * SIZE
            prefetcher.finished()
            wanted = [f"{one}.svs" for one in range(min(6, number + 3))]
            wait_until(lambda wanted=wanted: fetched(s3) == wanted)  # type: ignore[misc]
    assert fetched(s3) == [f"{number}.svs" for number in range(6)]  # none twice


def test_a_cache_for_few_slides_stops_it_until_there_is_room(jobs: list[tuple[str, Job]], s3: S3):
    first = ["0.svs", "1.svs", "2.svs"]
    with Prefetcher(jobs, 3) as prefetcher:
        wait_until(lambda: fetched(s3) == first)
        time.sleep(1.5)
        assert fetched(s3) == first
        assert use(jobs[0][1]) == bytes(SIZE)
        prefetcher.finished()
        wait_until(lambda: fetched(s3) == [*first, "3.svs"])


def test_a_run_that_ends_ends_it(jobs: list[tuple[str, Job]], s3: S3):
    s3.proxy.fault = lambda *_: "slow"
    with Prefetcher(jobs, 2):
        pass
    before = len(fetched(s3))
    time.sleep(0.2)
    assert len(fetched(s3)) == before


def test_local_slides_need_none(tmp_path: Path):
    path = tmp_path / "a.svs"
    with Prefetcher([("a.svs", Job(Source(path, (path,)), tmp_path / "out", "a.svs"))], 1) as prefetcher:
        prefetcher.finished()
