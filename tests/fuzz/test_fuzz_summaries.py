"""A few seconds of fuzzing of the reader of summaries, always with the same files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FILES, MOST_SECONDS = 150, 60


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the memory of a process as Linux does")
def test_no_summary_with_faults_ends_or_bloats_the_process(tmp_path: Path):
    target = Path(__file__).with_name("summary_target.py")
    command = [sys.executable, str(target), "--most", str(FILES), "--seconds", str(MOST_SECONDS)]
    done = subprocess.run([*command, "--keep", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 findings" in done.stdout
