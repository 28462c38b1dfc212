"""A few seconds of fuzzing of each reader, always with the same files. `run.py` beside this goes on for longer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fuzzing import fuzz
from targets import SEEDS, TARGETS

FILES = {"tiff": 150, "dicom": 150, "czi": 100}
MOST_FILES, MOST_SECONDS = 400, 60.0


def test_each_reader_has_files_to_start_from():
    assert set(SEEDS) == set(TARGETS)


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the memory of a process as Linux does")
@pytest.mark.parametrize("reader", TARGETS)
def test_no_file_with_faults_ends_or_bloats_the_process(reader: str, tmp_path: Path):
    most = FILES.get(reader, MOST_FILES)
    outcome = fuzz(reader, tmp_path, seed=0, seconds=MOST_SECONDS, most=most)
    assert not outcome.findings, "\n".join(finding.what for finding in outcome.findings)
    assert outcome.executions > most // 10
