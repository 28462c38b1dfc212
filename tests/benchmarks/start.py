"""CPU seconds of commands that read one summary, as a ratio to `python -c "import numpy"` in the same run.

    python tests/benchmarks/start.py SUMMARY [--rounds 7] [--before FOLDER]

Each round starts every command once, in a process of its own; `--before` adds the commands of another checkout to the
same rounds. User and system time count, of a process and its threads. Bytecode is compiled in a round that does not
count, as an installed package has it. Printed: the median, the smallest, and the median over that of numpy.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[2]
AIMS = {"--help": 0.25, "inspect": 0.8, "verify --quick": 0.6}  # CPU seconds
NUMPY, WORKER = "import numpy", "import of a worker"


def commands(summary: str) -> dict[str, list[str]]:
    """Arguments of python by what is measured."""
    program = ["-m", "wsisum_cli"]
    return {
        NUMPY: ["-c", NUMPY],
        "--help": [*program, "--help"],
        "inspect": [*program, "inspect", summary],
        "verify --quick": [*program, "verify", "--quick", "--require", "review", summary],
        WORKER: ["-c", "import wsisum_cli.archive.workers, wsisum_cli.pipeline.compress"],
    }


def cpu_seconds(arguments: list[str], folder: Path, bytecode: str) -> float:
    """CPU seconds of one process that runs the code in `folder`. Raises CalledProcessError when it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(folder), "PYTHONPYCACHEPREFIX": bytecode}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, cwd=bytecode, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(summary: str, folders: dict[str, Path], rounds: int) -> dict[tuple[str, str], list[float]]:
    """CPU seconds of each round, by code and command."""
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as bytecode:
        for number in range(rounds + 1):
            for name, arguments in commands(summary).items():
                for code, folder in folders.items():
                    seconds = cpu_seconds(arguments, folder, bytecode)
                    if number:
                        found.setdefault((code, name), []).append(seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summary", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--before", type=Path, help="another checkout")
    options = parser.parse_args()
    folders = {"before": options.before.resolve()} if options.before else {}
    found = measure(str(options.summary.resolve()), folders | {"now": HERE}, options.rounds)
    print(f"{'':20} {'code':8} {'median':>8} {'smallest':>9} {'over numpy':>11}  aim")
    for (code, name), seconds in found.items():
        median = statistics.median(seconds)
        times = median / statistics.median(found[code, NUMPY])
        print(f"{name:20} {code:8} {median:6.2f} s {min(seconds):7.2f} s {times:11.2f}  {AIMS.get(name, '')}")


if __name__ == "__main__":
    main()
