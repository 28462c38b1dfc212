"""Slides on a Dask cluster: workers that die, decoders that crash, other versions, files of several slides."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from draw import draw_tissue, write_svs

from wsisum_cli.archive.engines import cluster as engine
from wsisum_cli.archive.engines.cluster import REFUSED, Cluster, Dispatch, with_absolute_paths
from wsisum_cli.archive.manifest import read_manifest
from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.plan import Request
from wsisum_cli.archive.workers import Event, Setup, run_jobs
from wsisum_cli.errors import UsageError
from wsisum_cli.models.choice import ModelChoice, ModelChoices
from wsisum_cli.pipeline.job import Job, Options
from wsisum_cli.slides.source import find_source

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals"),
    # Dask's own: sockets and loops of workers that were killed.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
SLIDES = 5


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for number in range(SLIDES):
        write_svs(folder / f"{number}.svs", draw_tissue(1400, 1200, seed=number), tile=256)
    return folder


@pytest.fixture(scope="module")
def local(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The summaries of a run without a cluster."""
    output = tmp_path_factory.mktemp("local")
    assert [done.status for done in run_jobs(jobs(archive, output), setup(output), 1)] == ["written"] * SLIDES
    return contents(output)


def cluster_of(workers: int) -> Any:
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    )


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Any]:
    """A cluster whose workers no test kills."""
    with cluster_of(2) as running:
        yield running


@pytest.fixture
def doomed_cluster() -> Iterator[Any]:
    with cluster_of(3) as running:
        yield running


def setup(output: Path, **changes: Any) -> Setup:
    values = {"options": Options(draws=100), "encoder": "texture", "device": "cpu", "threads": 1, "output": output}
    return Setup(**{**values, **changes})


def jobs(archive: Path, output: Path) -> list[tuple[str, Job]]:
    paths = sorted(archive.glob("*.svs"))
    return [(path.name, Job(find_source(path), output / f"{path.stem}.ozx", path.name)) for path in paths]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.ozx")}


def test_two_of_three_workers_killed_at_random(
    archive: Path, local: dict[str, bytes], doomed_cluster: Any, tmp_path: Path
):
    """All slides are done, none twice, and the bytes are those of a run without a cluster."""
    draw = random.Random(time.time_ns())
    pids = [worker.pid for worker in doomed_cluster.workers.values()]
    doomed = draw.sample(pids, 2)
    moments = sorted(draw.sample(range(1, 40), 2))  # messages after which a worker is killed
    heard: list[Event] = []

    def kill(event: Event) -> None:
        heard.append(event)
        if doomed and len(heard) >= moments[-len(doomed)]:
            os.kill(doomed.pop(), signal.SIGKILL)

    cluster = Cluster(doomed_cluster.scheduler_address)
    outcomes = list(cluster.run_jobs(jobs(archive, tmp_path), setup(tmp_path), kill))
    assert not doomed, "both were killed in the middle of the run"
    assert Counter(done.source for done in outcomes) == {f"{number}.svs": 1 for number in range(SLIDES)}
    assert {done.status for done in outcomes} == {"written"}
    assert contents(tmp_path) == local
    assert {event.stage for event in heard} >= {"tissue", "features", "write"}


def test_a_decoder_that_dies_costs_one_slide(archive: Path, scheduler: Any, tmp_path: Path):
    """The process of a slide dies, the Dask worker lives on."""
    pids = {worker.pid for worker in scheduler.workers.values()}
    killed: list[str] = []

    def kill_once(event: Event) -> None:
        if not killed:
            killed.append(event.source)
            (child,) = children_of(pids)
            os.kill(child, signal.SIGKILL)

    (outcome,) = Cluster(scheduler.scheduler_address).run_jobs(jobs(archive, tmp_path)[:1], setup(tmp_path), kill_once)
    assert (outcome.status, outcome.reason) == ("failed", "process died")
    assert "SIGKILL" in outcome.message
    assert {worker.pid for worker in scheduler.workers.values()} == pids


def children_of(parents: set[int]) -> list[int]:
    """Processes that work for these, without the helpers that Python starts beside them."""
    psutil = pytest.importorskip("psutil")
    found = [child for parent in parents for child in psutil.Process(parent).children()]
    return [child.pid for child in found if "spawn_main" in " ".join([child.name(), *child.cmdline()])]


def test_a_slide_that_kills_every_worker_is_given_up(archive: Path, doomed_cluster: Any, tmp_path: Path):
    """As one does that takes all memory: after the first try and one more it fails, and the others are done."""

    # The message of the first stage tells that the slide began; the worker that has it is asked for by its key.
    deaths: list[str] = []

    def kill_holder(event: Event) -> None:
        if event.source == "0.svs" and event.stage == "tissue":
            with distributed.Client(doomed_cluster.scheduler_address, set_as_default=False) as client:
                holder = next(
                    (address for address, keys in client.processing().items() if any(name_in(key) for key in keys)),
                    None,
                )
            worker = next((one for one in doomed_cluster.workers.values() if one.worker_address == holder), None)
            if worker is not None and worker.pid:
                deaths.append(event.source)
                os.kill(worker.pid, signal.SIGKILL)

    def name_in(key: str) -> bool:
        return key.startswith("wsisum-")

    cluster = Cluster(doomed_cluster.scheduler_address, retries=1)
    (outcome,) = cluster.run_jobs(jobs(archive, tmp_path)[:1], setup(tmp_path), kill_holder)
    assert len(deaths) == 2
    assert (outcome.status, outcome.reason) == ("failed", "process died")
    assert "2 times" in outcome.message


def test_a_worker_with_another_version_is_refused(
    archive: Path, scheduler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "__version__", "0.0.0")
    with pytest.raises(UsageError, match=r"a worker of the cluster has wsisum .*, this is 0\.0\.0"):
        list(Cluster(scheduler.scheduler_address).run_jobs(jobs(archive, tmp_path), setup(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_load_are_refused(archive: Path, scheduler: Any, tmp_path: Path):
    with pytest.raises(UsageError, match="no model with this name"):
        list(Cluster(scheduler.scheduler_address).run_jobs(jobs(archive, tmp_path), setup(tmp_path, encoder="nothing")))


def test_no_scheduler_is_a_usage_error(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "PATIENCE", 0.5)
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        list(Cluster("tcp://127.0.0.1:9").run_jobs(jobs(archive, tmp_path), setup(tmp_path)))


def test_no_jobs_need_no_scheduler(tmp_path: Path):
    assert list(Cluster("tcp://127.0.0.1:9").run_jobs([], setup(tmp_path))) == []


def test_paths_for_other_machines_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    request = Request(Path("in"), Path("out"), Options(), "", features=Path("features"))
    there, ready = with_absolute_paths(request, setup(Path("out")))
    assert (there.source, there.output, there.features) == (tmp_path / "in", tmp_path / "out", tmp_path / "features")
    assert ready.output == tmp_path / "out"
    card: Any = None
    choices = ModelChoices(ModelChoice(Path("mine.onnx"), card, True), None)
    there, ready = with_absolute_paths(replace(request, choices=choices), setup(Path("out"), choices=choices))
    assert there.choices == ready.choices == ModelChoices(ModelChoice(tmp_path / "mine.onnx", card, True), None)
    (tmp_path / "mask.png").touch()
    (tmp_path / "manifest.csv").write_text("slide,mask\na.svs,mask.png\n")
    assert read_manifest(Path("manifest.csv")).entries["a.svs"].mask == tmp_path / "mask.png"


class FakeCluster:
    """Two workers, of which nothing is heard but what a test says."""

    status = "running"

    def __init__(self) -> None:
        self.wishes: list[Any] = []

    def nthreads(self) -> dict[str, int]:
        return {"bad": 1, "good": 1}

    def submit(self, *_task: object, workers: Any = None, **_options: object) -> Any:
        self.wishes.append(workers)
        return SimpleNamespace(status="finished", result=None, add_done_callback=lambda _call: None)


def refuse(dispatch: Dispatch, place: str) -> None:
    key, (_, future) = next(iter(dispatch.going.items()))
    future.result = lambda: (REFUSED, (place, "no such model"))
    assert list(dispatch._collect(key)) == []


def test_a_worker_that_cannot_load_the_models_hands_its_slide_back(archive: Path, tmp_path: Path):
    client = FakeCluster()
    nobody: Any = None
    dispatch = Dispatch(client, setup(tmp_path), 2, nobody, nobody, lambda _provider: None)
    dispatch.waiting.extend(jobs(archive, tmp_path)[:1])
    dispatch._submit()
    refuse(dispatch, "bad")
    assert [name for name, _ in dispatch.waiting] == ["0.svs"]
    dispatch._submit()
    assert client.wishes == [None, ["good"]]
    with pytest.raises(UsageError, match="no such model"):
        refuse(dispatch, "good")
    list(dispatch._message({"what": "ready", "provider": "CPU"}))
    dispatch.waiting.extend(jobs(archive, tmp_path)[:1])
    dispatch.refused.clear()
    dispatch._submit()
    refuse(dispatch, "bad")
    dispatch._submit()
    refuse(dispatch, "good")  # which has loaded them before, so it may again
    dispatch._submit()
    assert (len(dispatch.waiting), len(client.wishes)) == (1, 4), "nobody is asked for a while"


def test_a_slide_that_is_no_longer_wanted_is_stopped(archive: Path, scheduler: Any, tmp_path: Path):
    """When the run is interrupted, no process of the cluster goes on writing."""
    running = Cluster(scheduler.scheduler_address).run_jobs(jobs(archive, tmp_path), setup(tmp_path))
    assert isinstance(next(running), Outcome)
    running.close()  # type: ignore[attr-defined]  # a generator
    time.sleep(6 * engine.POLL)
    before = contents(tmp_path)
    time.sleep(4)
    assert contents(tmp_path) == before
