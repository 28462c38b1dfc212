"""How many patches are kept: by number, by bytes, by coverage, and what a sweep of numbers shows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from draw import draw_tissue, write_svs
from hypothesis import given, settings
from hypothesis import strategies as st
from running import wsisum
from summaries import LENIENT, figures_of

from wsisum_cli.errors import SlideError, TooFewBytesError, UsageError
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.sweep import COLUMNS, patch_counts, read_sweep, sweep_slide
from wsisum_cli.pipeline.trim import trim_summary
from wsisum_cli.quality.measures import WeightedPatches as Weighed
from wsisum_cli.quality.measures import measure_kept
from wsisum_cli.quality.random_draws import affordable
from wsisum_cli.selection.budget import (
    BOUNDS,
    Limit,
    coverage_curve,
    fewest,
    most_kept,
    most_within,
    parse_bytes,
    parse_keep,
    reduced,
)
from wsisum_cli.selection.candidates import sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.prefixes import prefixes_of
from wsisum_cli.selection.selectors import NESTED, SELECTORS, pick
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.verification.verify import verify_summary

quick = settings(max_examples=40, deadline=None, derandomize=True)


def some_features(patches: int, dims: int, seed: int) -> np.ndarray:
    """Many are equal, some zero."""
    return np.random.default_rng(seed).integers(-2, 3, (patches, dims)).astype(np.float32)


# -- coverage of every prefix --------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 99), st.data())
@quick
def test_coverage_curve_matches_each_prefix_and_never_falls(patches, dims, seed, data):
    features = some_features(patches, dims, seed)
    rows = np.random.default_rng(seed).permutation(patches)[: data.draw(st.integers(1, patches))]
    curve = coverage_curve(prefixes_of(features, rows), len(rows))
    cluster = np.zeros(patches, np.int16)
    for keep in range(1, len(rows) + 1):
        kept = Weighed(features[rows[:keep]], np.full(keep, 1 / keep), np.ones(keep, int), cluster[:keep])
        if features[rows[:keep]].any(axis=1).all():  # which zero rows stand for is told by picking alone
            assert curve[keep - 1] == measure_kept(features, kept, cluster).coverage
    assert (np.diff(curve) >= 0).all()


@given(st.integers(1, 80), st.integers(0, 99), st.floats(0.05, 1))
@quick
def test_target_is_reached_with_the_fewest_patches(patches, seed, target):
    features = np.random.default_rng(seed).normal(size=(patches, 5)).astype(np.float32)
    rows = np.random.default_rng(seed).permutation(patches)
    curve = coverage_curve(prefixes_of(features, rows), patches)
    found = fewest(lambda keep: bool(curve[keep - 1] >= target), patches)
    assert found == (int((curve < target).sum()) + 1 if curve[-1] >= target else None)


@pytest.mark.parametrize("selector", sorted(NESTED - {"attention"}))  # which needs a slide encoder
@pytest.mark.parametrize("patches", [40, 150])
def test_picks_for_a_smaller_keep_are_a_prefix(selector, patches):
    rng = np.random.default_rng(patches)
    features = rng.normal(size=(patches, 9)).astype(np.float32) + 3 * rng.integers(0, 2, (patches, 1))
    coords = np.stack([np.arange(patches) % 10, np.arange(patches) // 10], axis=1)
    tissue_patches = TissuePatches(features, coords, sample_candidates(features, 30, 8), seed=2)
    most = pick(tissue_patches, patches, selector)
    for keep in (1, 7, 16, 33, patches - 1):
        assert np.array_equal(pick(tissue_patches, keep, selector), most[:keep])


def test_nested_names_are_selectors():
    assert set(SELECTORS) > NESTED


# -- searching -----------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(1, 3100), st.integers(-3, 4000))
@quick
def test_fewest_does_not_depend_on_the_guess(most, needed, guess):
    tried: list[int] = []

    def reaches(number: int) -> bool:
        tried.append(number)
        return number >= needed

    assert fewest(reaches, most, guess) == (needed if needed <= most else None)
    assert set(tried) <= set(range(1, most + 1))
    assert len(tried) == len(set(tried)) <= 26


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(0, 2500), st.integers(-60, 60))
@quick
def test_most_within_bytes_is_maximal(steps, limit, off):
    sizes = np.cumsum(steps).tolist()
    found = most_within(limit, len(sizes), lambda n: sizes[n - 1] + off, lambda n: sizes[n - 1])
    assert found == sum(size <= limit for size in sizes)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=60), st.integers(0, 1000), st.integers(0, 99))
@quick
def test_result_fits_even_if_sizes_do_not_increase(sizes, limit, seed):
    wrong = np.random.default_rng(seed).integers(1, 900, len(sizes)).tolist()
    found = most_within(limit, len(sizes), lambda n: wrong[n - 1], lambda n: sizes[n - 1])
    assert found == 0 or sizes[found - 1] <= limit


@given(st.integers(1, 3000), st.none() | st.integers(1, 3000), st.integers(1, 1024), st.integers(1, 3000))
@quick
def test_tightest_limit_applies(tissue, keep, most, other):
    limit = most_kept(tissue, keep, most)
    assert limit.bound in BOUNDS
    assert limit.keep == min(tissue, most if keep is None else keep)
    cut = limit.cut(other, "target")
    assert cut.keep == min(limit.keep, other)
    assert (cut.bound == "target") == (other < limit.keep)


def test_all_tissue_is_a_separate_bound():
    assert most_kept(20, 30, 256) == most_kept(20, 20, 256) == most_kept(20, None, 20) == Limit(20, "tissue")
    assert most_kept(2000, None, 256) == Limit(256, "most")
    assert most_kept(2000, 30, 256) == Limit(30, "keep")


def test_target_keeps_at_least_eight_patches():
    most = most_kept(2000, None, 256)
    assert reduced(most, None) == most
    assert reduced(most, 40) == Limit(40, "target")
    assert [reduced(most, few) for few in (8, 1)] == [Limit(8, "least")] * 2
    assert reduced(most_kept(5, None, 256), 2) == Limit(5, "tissue")
    assert reduced(most_kept(2000, 3, 256), 2) == Limit(3, "keep")


@given(st.integers(1, 1024), st.integers(1, 1500))
@quick
def test_large_draws_are_fewer(keep, count):
    found = affordable(keep, count)
    assert found == count if keep <= 256 else min(count, 100) <= found <= count
    assert found >= affordable(keep + 1, count)


# -- what users type -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [("5MB", 5_000_000), ("1.5 GiB", 1_610_612_736), ("800kB", 800_000), ("4MiB", 4 << 20), ("300000", 300_000)],
)
def test_sizes_are_parsed(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-5MB", "5 MBit", "1e6", "0", "0.1B", "5,5MB", "inf"])
def test_invalid_size_is_refused(text):
    with pytest.raises(UsageError, match="--max-bytes"):
        parse_bytes(text)


def test_auto_keep_is_none():
    assert parse_keep("auto") is None
    assert parse_keep("12") == 12
    for text in ("0", "-3", "many", "1.5", ""):
        with pytest.raises(UsageError, match=r"--keep .*expected a number of patches"):
            parse_keep(text)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--target", "1.5"], "--target 1.5: expected a share"),
        (["--max-bytes", "much"], "--max-bytes much: expected a size"),
        (["--keep", "some"], "--keep some: expected a number"),
        (["--sweep", "--keep", "8"], "--sweep tries numbers of its own"),
        (["--features", ".", "--selector", "location", "--target", "0.9"], "expected --keep alone"),
        (["--features", ".", "--selector", "attempts", "--sweep"], "expected --keep alone"),
    ],
)
def test_impossible_limits_are_refused(tmp_path, options, complaint):
    (tmp_path / "a.svs").touch()
    done = wsisum("compress", tmp_path, "-o", tmp_path / "out", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


# -- on a slide ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("texture", "cpu")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "drawn.svs"
    write_svs(path, draw_tissue(4200, 3600, seed=4), tile=256)
    return path


def summarize(slide: Path, output: Path, encoder: Encoder, **options: Any) -> SimpleNamespace:
    wanted = Options(draws=100, thresholds=LENIENT, **options)
    return figures_of(compress_slide(Job(find_source(slide), output, slide.name, mpp=0.25), wanted, Tools(encoder, 2)))


def parts(path: Path) -> dict[str, Any]:
    """All that does not say what was asked for."""
    with open_summary(path) as summary:
        about = {name: value for name, value in summary.attributes.items() if name not in ("options", "bound")}
        arrays = {name: summary.read(name) for name in summary.members if name != "zarr.json"}
    return {**about, **arrays, "target_reached": None}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drawn slide is simple: fewer than the least represent most of it."""
    monkeypatch.setattr("wsisum_cli.selection.budget.LEAST", 1)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("pixels", ["source", "jpeg"])
@pytest.mark.parametrize("target", [0.9, 0.97])
def test_summary_reaches_the_target_with_the_fewest_patches(slide, encoder, tmp_path, pixels, target):
    done = summarize(slide, tmp_path / "a.ozx", encoder, target=target, pixels=pixels)
    assert (done.bound, done.target_reached) == ("target", True)
    assert done.represented >= target
    fewer = summarize(slide, tmp_path / "b.ozx", encoder, keep=done.patches - 1, pixels=pixels)
    assert fewer.represented < target
    summarize(slide, tmp_path / "c.ozx", encoder, keep=done.patches, pixels=pixels)
    assert parts(tmp_path / "a.ozx") == parts(tmp_path / "c.ozx")


@pytest.mark.parametrize("pixels", ["source", "jpeg"])
@pytest.mark.parametrize("most", [200_000, 456_789])
def test_summary_stays_within_max_bytes(slide, encoder, tmp_path, pixels, most):
    done = summarize(slide, tmp_path / "a.ozx", encoder, max_bytes=most, pixels=pixels)
    assert done.bound == "max_bytes"
    assert done.bytes_out == (tmp_path / "a.ozx").stat().st_size <= most
    more = summarize(slide, tmp_path / "b.ozx", encoder, keep=done.patches + 1, pixels=pixels)
    assert more.bytes_out > most
    assert verify_summary(tmp_path / "a.ozx", lambda card: encoder, "source", slide).ok


@pytest.mark.usefixtures("few")
def test_tightest_of_several_limits_is_recorded(slide, encoder, tmp_path):
    asked = {
        "keep": {"keep": 3, "max_bytes": 10**7, "target": 1.0},
        "max_bytes": {"keep": 30, "max_bytes": 120_000, "target": 1.0},
        "target": {"keep": 30, "max_bytes": 10**7, "target": 0.9},
        "tissue": {"max_bytes": 10**9},
        "most": {"max_keep": 2, "target": 1.0},
    }
    found = {}
    for bound, options in asked.items():
        done = summarize(slide, tmp_path / "a.ozx", encoder, **options)
        found[done.bound] = done
        with open_summary(tmp_path / "a.ozx") as summary:
            about = summary.attributes
        assert (about["bound"], about["target_reached"]) == (bound, done.target_reached)
        assert {name: about["options"][name] for name in options} == options
        assert verify_summary(tmp_path / "a.ozx", lambda card: encoder).ok
    assert list(found) == list(asked)
    reached = [done.target_reached for done in found.values()]
    assert reached == [False, False, True, None, False]
    assert found["tissue"].patches == found["tissue"].tissue_patches


@pytest.mark.parametrize("selector", ["location", "cluster"])
def test_selectors_that_are_not_nested_reach_a_target(slide, encoder, tmp_path, selector):
    done = summarize(slide, tmp_path / "a.ozx", encoder, target=0.9, selector=selector)
    assert done.target_reached
    same = summarize(slide, tmp_path / "b.ozx", encoder, keep=done.patches, selector=selector)
    assert parts(tmp_path / "a.ozx") == parts(tmp_path / "b.ozx")
    assert same.represented >= 0.9


def test_error_names_the_smallest_possible_size(slide, encoder, tmp_path):
    with pytest.raises(TooFewBytesError, match=r"^drawn\.svs: .*at most 9000 bytes, .*takes \d+; raise") as caught:
        summarize(slide, tmp_path / "a.ozx", encoder, max_bytes=9000)
    assert caught.value.reason == "too few bytes"
    least = int(str(caught.value).split("takes ")[1].split(";")[0])
    assert list(tmp_path.iterdir()) == []
    done = summarize(slide, tmp_path / "a.ozx", encoder, max_bytes=least)
    assert (done.patches, done.bytes_out) == (1, least)


def test_command_reports_the_bound_and_resumes(slide, tmp_path):
    command = ["compress", slide, "-o", tmp_path, "--encoder", "texture", "--draws", 100, "--mpp", 0.25, "--json"]
    rows = []
    for options in (["--max-bytes", "300kB", "--keep", "auto"], ["--max-bytes", "300 kB"], ["--target", "0.9"]):
        rows += json.loads(wsisum(*command, *options).stdout)["slides"]
    whole = (tmp_path / "drawn.ozx").read_bytes()
    trim_summary(tmp_path / "drawn.ozx", tmp_path / "drawn.ozx", 3, force=True)
    rows += json.loads(wsisum(*command, "--target", "0.9").stdout)["slides"]
    assert (tmp_path / "drawn.ozx").read_bytes() == whole  # one that was cut down is made again
    assert [(row["status"], row["bound"]) for row in rows] == [
        ("written", "max_bytes"),
        ("skipped", "max_bytes"),
        ("written", "least"),
        ("written", "least"),
    ]
    assert [row["target_reached"] for row in rows] == [None, None, True, True]
    assert rows[0]["bytes_out"] <= 300_000


# -- several numbers at once ---------------------------------------------------------------------------------


def test_patch_counts_end_with_all_patches():
    assert patch_counts(1000) == [8, 16, 32, 64, 128, 256]
    assert patch_counts(256) == [8, 16, 32, 64, 128, 256]
    assert patch_counts(50) == [8, 16, 32, 50]
    assert patch_counts(3) == [3]


def test_sweep_rows_match_real_summaries(slide, encoder, tmp_path):
    output = tmp_path / "deep" / "drawn.sweep.csv"
    options = Options(draws=100, thresholds=LENIENT, target=0.5)
    swept = sweep_slide(Job(find_source(slide), output, "$drawn_é.svs", mpp=0.25), options, Tools(encoder, 2))
    assert sorted(path.name for path in output.parent.iterdir()) == ["drawn.sweep.csv", "drawn.sweep.png"]
    assert (output.parent / "drawn.sweep.png").read_bytes().startswith(b"\x89PNG")
    rows = read_sweep(output)
    assert [row["patches"] for row in rows] == patch_counts(swept.tissue_patches)
    job = Job(find_source(slide), tmp_path / "a.ozx", "$drawn_é.svs", mpp=0.25)
    done = figures_of(compress_slide(job, Options(keep=16, draws=100, thresholds=LENIENT), Tools(encoder, 2)))
    row = rows[1]
    assert (row["bytes"], row["verdict"]) == (done.bytes_out, done.verdict)
    for name in ("coverage", "coverage_p05", "coverage_min", "weighted_cosine", "composition"):
        assert row[name] == getattr(done.quality, name)
    assert row["reconstruction"] is None


def test_foreign_table_is_refused(tmp_path):
    (tmp_path / "a.sweep.csv").write_text("patches,bytes\n3,many\n")
    with pytest.raises(SlideError, match=r"^a\.sweep\.csv: expected a table"):
        read_sweep(tmp_path / "a.sweep.csv")


def test_sweep_command_writes_no_report(slide, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.svs").write_bytes(slide.read_bytes())
    (tmp_path / "in" / "b.svs").write_bytes(b"no slide")
    command = ["compress", tmp_path / "in", "-o", tmp_path / "out", "--encoder", "texture", "--draws", 100]
    done = wsisum(*command, "--sweep", "--mpp", 0.25, "--json")
    assert done.returncode == 1
    first, second = json.loads(done.stdout)["slides"]
    assert (first["sweep"], first["status"], second["status"], second["table"]) == (
        "a.sweep.csv",
        "written",
        "failed",
        None,
    )
    assert set(first["table"][0]) == set(COLUMNS)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.sweep.csv", "a.sweep.png"]


# -- on a real slide -----------------------------------------------------------------------------------------


def test_limits_hold_on_a_real_slide(shared, encoder, tmp_path):
    slide = shared / "slides" / "stomach" / "stomach-metaplasia.svs"
    done = summarize(slide, tmp_path / "a.ozx", encoder, max_bytes=1_500_000, target=0.97, pixels="source")
    assert done.bytes_out <= 1_500_000
    assert done.target_reached is (done.quality.coverage >= 0.97)
    assert done.bound == ("target" if done.target_reached else "max_bytes")
