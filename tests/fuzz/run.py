"""Fuzz a reader for as long as one likes: `python tests/fuzz/run.py READER --seconds N`.

Prints how many files were read, and each one that was not survived; those files are kept for a test.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "support", HERE.parents[1]):
    sys.path.insert(0, str(folder))

from fuzzing import fuzz, serve  # noqa: E402 - found by the path above


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=1 << 60, help="files at most")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for the files found")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        serve(given.reader, given.child, given.seed, given.seconds, given.most)
        return 0
    outcome = fuzz(given.reader, given.keep / given.reader, given.seed, given.seconds, given.most)
    print(f"{given.reader}: {outcome.executions} files read, {len(outcome.findings)} findings")
    for finding in outcome.findings:
        print(f"\n{finding.file}\n{finding.what}")
    return bool(outcome.findings)


if __name__ == "__main__":
    sys.exit(main())
