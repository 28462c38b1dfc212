"""Tests of archive/report.py: a report is read whatever its layout, and row by row in that of its writer."""

import json
import tracemalloc
from pathlib import Path

import pytest

from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.report import JSON_NAME, Report, read_report, write_report
from wsisum_cli.errors import UsageError

FACTS = {"started": "2026-01-01T00:00:00+00:00", "partial": None, "not_tried": ["left.svs"]}
SECONDS = {"tissue": 0.25, "features": 1.5}


def rows(count: int) -> list[Outcome]:
    return [
        Outcome(f"{number:06}.svs", "written", message='a "quoted", line\n ]\n', bytes_in=number, seconds=dict(SECONDS))
        for number in range(count)
    ]


def written(folder: Path, count: int) -> Report:
    write_report(folder, rows(count), FACTS)
    report = read_report(folder)
    assert report is not None
    return report


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_report_comes_back_as_it_was_written(tmp_path: Path, count: int):
    report = written(tmp_path, count)
    assert report.outcomes == rows(count)
    assert report.not_tried == ["left.svs"]
    assert report.facts["counts"] == {"written": count, "skipped": 0, "failed": 0}
    assert "slides" not in report.facts


@pytest.mark.parametrize("layout", [{}, {"indent": 1}, {"indent": 2}, {"indent": 1, "sort_keys": True}])
def test_a_report_that_was_laid_out_anew_reads_the_same(tmp_path: Path, layout: dict):
    report, path = written(tmp_path, 3), tmp_path / JSON_NAME
    path.write_text(json.dumps(json.loads(path.read_text()), **layout) + "\n")
    found = read_report(tmp_path)
    assert found is not None
    assert (found.outcomes, dict(found.facts), found.not_tried) == (report.outcomes, report.facts, report.not_tried)


def cut(text: str, line: int) -> str:
    return "".join(text.splitlines(keepends=True)[:line])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: cut(text, -3),  # in the rows
        lambda text: cut(text, -1),  # at its end
        lambda text: text[: len(text) // 2],
        lambda text: text + "more\n",
        lambda text: text.replace("},\n", "}\n"),
        lambda text: text.replace('"status"', '"state"'),
        lambda text: text.replace('"bytes_in": 1', '"bytes_in": "many"'),
        lambda text: text.replace('"bytes_in": 1', '"bytes_in": NaN'),
        lambda text: "[]\n",
        lambda text: "",
    ],
)
def test_a_damaged_report_is_refused(tmp_path: Path, damage):
    written(tmp_path, 3)
    path = tmp_path / JSON_NAME
    path.write_text(damage(path.read_text()))
    with pytest.raises(UsageError, match="expected the report of a run"):
        read_report(tmp_path)


def test_a_large_report_takes_little_memory(tmp_path: Path):
    written(tmp_path, 2000)
    text = (tmp_path / JSON_NAME).read_text()
    tracemalloc.start()
    try:
        json.loads(text)
        _, whole = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        assert read_report(tmp_path) is not None
        _, by_line = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert by_line < 0.75 * whole
