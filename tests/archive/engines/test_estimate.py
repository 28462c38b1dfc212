"""Time and bytes of a run, estimated from a few of its slides."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from draw import draw_tissue, write_svs

from wsisum_cli.archive.engines.estimate import Measured, estimate_run, output_range, spread_over, time_range
from wsisum_cli.archive.workers import Named, Setup, run_jobs
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.pipeline.extract import FeatureOptions
from wsisum_cli.pipeline.job import Job, Options
from wsisum_cli.pipeline.product import FEATURES, SWEEPS
from wsisum_cli.slides.source import find_source


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("texture", "cpu")


def setup(output: Path, options: object = None, **more: object) -> Setup:
    return Setup(options or Options(), "texture", "cpu", 1, output, **more)  # type: ignore[arg-type]


def jobs(folder: Path, output: Path) -> list[Named]:
    paths = sorted(folder.glob("*.svs"))
    return [(path.name, Job(find_source(path), output / f"{path.stem}.h5", path.name)) for path in paths]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for number in range(3):
        write_svs(folder / f"{number}.svs", draw_tissue(2048, 1536, seed=number), tile=256)
    (folder / "broken.svs").write_bytes(b"no slide")
    return folder


def test_bytes_of_features_are_those_that_a_run_writes(archive: Path, tmp_path: Path, encoder: Encoder):
    wanted = setup(tmp_path, FeatureOptions(), product=FEATURES)
    began = time.perf_counter()
    found = estimate_run(jobs(archive, tmp_path), wanted, encoder, 1)
    assert time.perf_counter() - began < 60
    assert found is not None
    assert (found.slides, found.sampled) == (4, 4)
    assert not list(tmp_path.iterdir()), "nothing is written"
    done = [outcome for outcome in run_jobs(jobs(archive, tmp_path), wanted, 1) if outcome.status == "written"]
    stored = sum(4 * (outcome.patches or 0) * encoder.card.dims for outcome in done)
    assert found.bytes[0] == found.bytes[1] == pytest.approx(stored, rel=0.15)
    assert found.patches == pytest.approx(sum(outcome.patches or 0 for outcome in done) / 4, abs=2)


def test_time_follows_bytes_and_says_how_far_it_may_be_off():
    steady = [Measured(100, 10, 1.0), Measured(200, 20, 2.0)]
    low, high = time_range(steady, 3000)
    assert low == pytest.approx(30 / 1.2)
    assert high == pytest.approx(30 * 1.2)
    uneven = [Measured(100, 10, 1.0), Measured(100, 90, 9.0), Measured(100, 50, 5.0)]
    low, high = time_range(uneven, 300)
    assert low < 15 / 1.5 < 15 * 1.5 < high
    assert time_range([Measured(100, 10, 1.0)], 100) == pytest.approx((1 / 1.5, 1.5))
    assert time_range([Measured(100), Measured(100)], 1000) == (0, 0)


def test_the_sample_is_even_over_the_sizes_and_always_the_same():
    named: list[Named] = [(f"{number}.svs", None) for number in range(100)]  # type: ignore[misc]
    sizes = {name: int(size) for (name, _), size in zip(named, np.random.default_rng(0).permutation(100), strict=True)}
    assert [sizes[name] for name, _ in spread_over(named, sizes)] == [10, 30, 50, 70, 90]
    assert spread_over(named[::-1], sizes) == spread_over(named, sizes)
    assert len(spread_over(named[:2], sizes)) == 2


def test_bytes_of_summaries_follow_the_options(tmp_path: Path):
    low, high = output_range(setup(tmp_path), 5000, 768)
    assert low < 400_000 < 10_000_000 < high
    assert output_range(setup(tmp_path, Options(keep=32)), 5000, 768)[0] > low
    assert output_range(setup(tmp_path, Options(max_bytes=300_000)), 5000, 768) == (300_000, 300_000)
    assert output_range(setup(tmp_path), 4, 768)[1] < high / 10


def test_nothing_is_said_where_nothing_is_known(archive: Path, tmp_path: Path, encoder: Encoder):
    assert estimate_run([], setup(tmp_path), encoder, 1) is None
    assert estimate_run(jobs(archive, tmp_path), setup(tmp_path, product=SWEEPS), encoder, 1) is None
    given = [(name, Job(job.source, job.output, job.name, features=tmp_path)) for name, job in jobs(archive, tmp_path)]
    assert estimate_run(given, setup(tmp_path), encoder, 1) is None
