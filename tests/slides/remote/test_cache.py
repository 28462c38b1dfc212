"""The bounded cache: what it removes, what it never removes, and several users at once."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wsisum_cli.errors import RemoteError
from wsisum_cli.slides.remote import cache as module
from wsisum_cli.slides.remote.cache import Cache, NoRoomYetError, bytes_in
from wsisum_cli.slides.remote.locks import locked


def filling(size: int, counts: list[int] | None = None) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "slide").write_bytes(bytes(size))
        if counts is not None:
            counts.append(size)

    return fill


def keys(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir() and path.name != "locks"}


def test_a_second_use_fetches_nothing(tmp_path: Path):
    cache, counts = Cache(tmp_path, 1000), []
    for _ in range(2):
        with cache.holding("a", 100, filling(100, counts)) as folder:
            assert (folder / "slide").stat().st_size == 100
    assert counts == [100]


def test_the_longest_unused_goes_first_and_the_limit_holds(tmp_path: Path):
    cache = Cache(tmp_path, 300)
    for key in ("a", "b", "c", "a", "d"):
        with cache.holding(key, 100, filling(100)):
            assert bytes_in(tmp_path) < 300 + 100  # the notes of what is set aside take some bytes
    assert keys(tmp_path) == {"a", "c", "d"}


def test_what_was_fetched_ahead_outlasts_what_is_done(tmp_path: Path):
    cache = Cache(tmp_path, 300)
    with cache.holding("ahead", 100, filling(100), patient=False):
        pass
    for key in ("a", "b", "c"):
        with cache.holding(key, 100, filling(100)):
            pass
    assert keys(tmp_path) == {"ahead", "b", "c"}


def test_nothing_in_use_is_removed_and_others_wait(tmp_path: Path):
    cache = Cache(tmp_path, 150)
    waited = threading.Event()
    seen: list[bool] = []

    def other() -> None:
        with cache.holding("b", 100, filling(100), waited.set):
            seen.append((tmp_path / "a").is_dir())

    with cache.holding("a", 100, filling(100)) as folder:
        with pytest.raises(NoRoomYetError), cache.holding("c", 100, filling(100), patient=False):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        assert waited.wait(10)
        assert (folder / "slide").is_file()
    thread.join(10)
    assert seen == [False]


def test_what_is_larger_than_the_cache_is_refused(tmp_path: Path):
    with pytest.raises(RemoteError, match="raise --cache-size"), Cache(tmp_path, 99).holding("a", 100, filling(100)):
        pass


def test_a_full_disk_is_seen_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache, counts = Cache(tmp_path, 10**6), []
    with cache.holding("old", 1000, filling(1000)):
        pass
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, module.SPARE + 10))
    with cache.holding("small", 500, filling(500)):  # the old one makes room
        assert keys(tmp_path) == {"small"}
    with pytest.raises(RemoteError, match="free some"), cache.holding("b", 5000, filling(5000, counts)):
        pass
    assert counts == []


def test_a_failed_fetch_leaves_nothing(tmp_path: Path):
    def fail(folder: Path) -> None:
        (folder / "slide").write_bytes(bytes(50))
        raise OSError("gone")

    cache = Cache(tmp_path, 100)
    with pytest.raises(OSError, match="gone"), cache.holding("a", 100, fail):
        pass
    assert keys(tmp_path) == set()
    assert not list(tmp_path.glob("a.*"))


def hold_long(folder: Path, ready: object) -> None:
    def stall(part: Path) -> None:
        (part / "slide").write_bytes(bytes(60))
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)

    with Cache(folder, 100).holding("a", 100, stall):
        pass


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_killed_process_leaves_nothing_in_the_way(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold_long, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert keys(tmp_path) == {"a.part"}
    with Cache(tmp_path, 100).holding("b", 100, filling(100)):
        assert keys(tmp_path) == {"b"}
    assert not list(tmp_path.glob("*.use.*"))


def fetch_many(folder: Path, numbers: list[int]) -> None:
    for number in numbers:
        with Cache(folder, 250).holding(f"k{number}", 100, filling(100)) as entry:
            assert (entry / "slide").stat().st_size == 100
            time.sleep(0.01)


def test_processes_share_one_cache(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    orders = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 0, 4, 1, 5, 3]]
    team = [context.Process(target=fetch_many, args=(tmp_path, order)) for order in orders]
    for process in team:
        process.start()
    for process in team:
        process.join(60)
    assert [process.exitcode for process in team] == [0, 0, 0]
    assert bytes_in(tmp_path) < 250 + 100
    assert not list(tmp_path.glob("*.use.*"))


def test_scratch_folders_go_with_their_process(tmp_path: Path):
    cache = Cache(tmp_path, 100)
    (tmp_path / "scratch-1-0").mkdir()
    (tmp_path / "scratch-1-0.use").touch()
    with cache.scratch() as one, cache.scratch() as other:
        assert one.is_dir()
        assert other.is_dir()
        assert not (tmp_path / "scratch-1-0").exists()
    assert keys(tmp_path) == set()


def test_a_lock_ends_with_its_holder(tmp_path: Path):
    waits: list[int] = []
    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=lambda: take(tmp_path / "lock", waits))
        thread.start()
        time.sleep(0.3)
    thread.join(10)
    assert waits


def take(path: Path, waits: list[int]) -> None:
    with locked(path, lambda: waits.append(1)):
        pass
