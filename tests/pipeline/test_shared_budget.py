"""A folder of summaries trimmed to a number of bytes in all."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from draw import draw_tissue, write_svs
from places import DATA
from running import wsisum
from summaries import LENIENT

from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.shared_budget import SharedResult, read_cuttable, trim_within
from wsisum_cli.pipeline.trim import TrimResult, trim_summary
from wsisum_cli.slides.source import find_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Summaries of three drawn slides, in both modes of pixels."""
    made = tmp_path_factory.mktemp("summaries")
    encoder = load_encoder("texture", "cpu")
    for seed, mode in ((1, "source"), (2, "jpeg"), (3, "source")):
        slide = tmp_path_factory.mktemp("slides") / f"drawn{seed}.svs"
        write_svs(slide, draw_tissue(2400 + 600 * seed, 3000, seed=seed), tile=256)
        options = Options(draws=100, thresholds=LENIENT, keep=24, pixels=mode)
        job = Job(find_source(slide), made / f"{slide.stem}.ozx", slide.name, mpp=0.25)
        compress_slide(job, options, Tools(encoder, 2))
    return made


def trim_all(folder: Path, output: Path, budget: int) -> SharedResult:
    def trim(path: Path, place: Path, keep: int, force: bool) -> TrimResult | None:
        return trim_summary(path, place, keep, None, force)

    return trim_within({path: output / path.name for path in sorted(folder.glob("*.ozx"))}, budget, read_cuttable, trim)


@pytest.mark.parametrize("name", ["drawn1.ozx", "drawn2.ozx"])
def test_estimated_bytes_are_close_to_those_written(folder, tmp_path, name):
    cuttable = read_cuttable(folder / name)
    assert cuttable.curve is not None
    assert np.all(np.diff(cuttable.curve.gain) >= 0)
    assert np.all(np.diff(cuttable.curve.cost) > 0)
    assert cuttable.cost(24) == (folder / name).stat().st_size
    for keep in (8, 16):
        done = trim_summary(folder / name, tmp_path / "a.ozx", keep, force=True)
        assert cuttable.cost(keep) == pytest.approx(done.bytes_out, rel=0.03)
        assert done.represented is not None
        assert cuttable.curve.gain[keep - 1] == pytest.approx(done.represented * cuttable.tissue_mm2, abs=1e-4)


def test_all_summaries_together_keep_within_the_budget(folder, tmp_path):
    whole = sum(path.stat().st_size for path in folder.glob("*.ozx"))
    least = sum(read_cuttable(path).cost(8) for path in folder.glob("*.ozx"))
    shares = []
    for part in (0.2, 0.5, 0.9):
        budget = int(least + part * (whole - least))
        result = trim_all(folder, tmp_path / str(part), budget)
        written = [tmp_path / str(part) / trimmed.name for trimmed in result.trimmed]
        assert result.bytes_out == sum(path.stat().st_size for path in written) <= budget
        assert result.after_mm2 <= min(result.before_mm2, result.bound_mm2 + 1e-3)
        assert result.after_mm2 >= 0.97 * result.bound_mm2
        shares.append(result.after_mm2)
    assert shares == sorted(shares)


def test_budget_for_everything_copies_everything(folder, tmp_path):
    whole = sum(path.stat().st_size for path in folder.glob("*.ozx"))
    result = trim_all(folder, tmp_path, whole)
    for trimmed in result.trimmed:
        if trimmed.trimmed_from is None:
            assert (tmp_path / trimmed.name).read_bytes() == (folder / trimmed.name).read_bytes()
    assert result.after_mm2 == pytest.approx(result.before_mm2)


def test_too_small_a_budget_is_refused_before_anything_is_written(folder, tmp_path):
    with pytest.raises(UsageError, match="3 summaries with their fewest patches take about"):
        trim_all(folder, tmp_path / "out", 1000)
    assert not (tmp_path / "out").exists()


def test_estimates_that_are_too_low_are_corrected(folder, tmp_path):
    """Even where a summary turns out larger than was estimated, all together keep within the budget."""
    whole = sum(path.stat().st_size for path in folder.glob("*.ozx"))

    def trim(path: Path, place: Path, keep: int, force: bool) -> TrimResult | None:
        done = trim_summary(path, place, keep, None, force)
        return TrimResult(**{**vars(done), "bytes_out": int(done.bytes_out * 1.1)})

    places = {path: tmp_path / path.name for path in sorted(folder.glob("*.ozx"))}
    assert trim_within(places, int(0.95 * whole), read_cuttable, trim).bytes_out <= 0.95 * whole

    def never(path: Path, place: Path, keep: int, force: bool) -> TrimResult | None:
        return TrimResult(**{**vars(trim(path, place, keep, force)), "bytes_out": whole})

    with pytest.raises((SummaryError, UsageError), match="--total-bytes"):
        trim_within(places, int(0.95 * whole), read_cuttable, never, force=True)


def test_summary_without_a_curve_is_copied_and_counted(folder, tmp_path):
    old = tmp_path / "in" / "old.ozx"
    old.parent.mkdir()
    shutil.copy(DATA / "formats" / "1.3-jpeg.ozx", old)
    shutil.copy(folder / "drawn1.ozx", old.parent)
    budget = old.stat().st_size + int(read_cuttable(folder / "drawn1.ozx").cost(12))
    result = trim_all(old.parent, tmp_path / "out", budget)
    assert result.uncut == ["old.ozx"]
    assert (tmp_path / "out" / "old.ozx").read_bytes() == old.read_bytes()
    assert result.bytes_out <= budget


def test_command_says_what_became_of_all(folder, tmp_path):
    whole = sum(path.stat().st_size for path in folder.glob("*.ozx"))
    done = wsisum("trim", folder, "--total-bytes", f"{int(0.8 * whole)}", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "3 summaries: " in done.stdout
    assert "no choice of first patches in as many bytes" in done.stdout
    assert re.search(r"verdicts: .*[0-9] -> [0-9]", done.stdout)
    assert sum(path.stat().st_size for path in (tmp_path / "out").glob("*.ozx")) <= 0.8 * whole
    again = wsisum("trim", folder, "--total-bytes", f"{whole}", "-o", tmp_path / "out", "--json")
    assert again.returncode == 2
    assert "use --force" in again.stderr
    listed = wsisum("trim", folder, "--total-bytes", f"{whole}", "-o", tmp_path / "out", "--json", "--force")
    assert len(json.loads(listed.stdout)) == 3
    assert "3 summaries: " in listed.stderr
    for wrong in ([], ["--keep", "5", "--total-bytes", "5MB"], ["--total-bytes", "many"]):
        refused = wsisum("trim", folder, *wrong, "-o", tmp_path / "out")
        assert refused.returncode == 2
        assert "--total-bytes" in refused.stderr


def test_damaged_summary_costs_only_itself(folder, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(folder, source)
    broken = source / "drawn2.ozx"
    data = bytearray(broken.read_bytes())
    data[len(data) // 2] ^= 0xFF
    broken.write_bytes(data)
    whole = sum(path.stat().st_size for path in source.glob("*.ozx"))
    done = wsisum("trim", source, "--total-bytes", f"{int(0.8 * whole)}", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "drawn2.ozx: damaged" in done.stderr
    broken.write_bytes(b"no summary")
    done = wsisum("trim", source, "--total-bytes", f"{int(0.8 * whole)}", "-o", tmp_path / "out", "--force")
    assert done.returncode == 1
    assert "drawn2.ozx: " in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("*.ozx")) == ["drawn1.ozx", "drawn3.ozx"]
