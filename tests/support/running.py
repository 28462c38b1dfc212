"""Running the command line in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def wsisum(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wsisum_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
