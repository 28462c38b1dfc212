"""A real archive from S3 to S3: the same bytes as from folder to folder, and what crosses the network.

    python tests/benchmarks/remote.py ../shared/slides --mpp 0.25

Moto's server stands for S3, on loopback. Then the requests and bytes that reading the summaries takes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from stores import KEYS, S3, running_s3

from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.verification.verify import verify_summary

#: What is done with a summary, and how.
READS: dict[str, Callable[[str], Any]] = {
    "attributes": lambda url: reading(url, lambda summary: summary.record),
    "features": lambda url: reading(url, lambda summary: summary.features),
    "one patch": lambda url: reading(url, lambda summary: summary.patches[3]),
    "verify --quick": lambda url: verify_summary(url, tier="quick"),
    "every byte": lambda url: reading(url, lambda summary: [summary.read(name) for name in summary.members]),
}


def reading(url: str, use: Callable[[Summary], Any]) -> None:
    with open_summary(url) as summary:
        use(summary)


def compress(source: str, output: str, arguments: argparse.Namespace, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "wsisum_cli", "compress", source, "-o", output]
    command += ["--mpp", arguments.mpp, "--encoder", arguments.encoder, "--cache-dir", arguments.cache]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def fetched_slides(s3: S3) -> dict[str, int]:
    found: dict[str, int] = {}
    for request in s3.proxy.requests:
        if request.method == "GET" and "/in/" in request.path:
            name = request.path.partition("/in/")[2]
            found[name] = found.get(name, 0) + request.bytes
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path)
    parser.add_argument("--mpp", default="0.25")
    parser.add_argument("--encoder", default="encoder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, running_s3() as s3:
        root = Path(scratch)
        arguments.cache = str(root / "cache")
        s3.make_bucket("bench")
        s3.upload(arguments.slides, "bench", "in/")
        environment = s3.proxy.environment
        compress(str(arguments.slides), str(root / "local"), arguments, environment)
        compress("s3://bench/in", "s3://bench/out", arguments, environment)
        local = {path.relative_to(root / "local").as_posix(): path for path in (root / "local").rglob("*.ozx")}
        remote = s3.objects("bench", "out/")
        same = [name for name, path in local.items() if remote.get(f"out/{name}") == path.read_bytes()]
        print(f"{len(same)} of {len(local)} summaries have the same bytes")
        rows = json.loads(remote["out/report.json"])["slides"]
        over = fetched_slides(s3)
        for row in rows:
            size = (arguments.slides / row["source"]).stat().st_size
            print(f"{row['source']}: {size} bytes, fetched {over.get(row['source'], 0)} ({row['seconds']['fetch']} s)")
        os.environ |= {**KEYS, "AWS_ENDPOINT_URL": s3.proxy.url}
        for what, read in READS.items():
            s3.proxy.forget()
            for name in local:
                read(f"s3://bench/out/{name}")
            size = sum(path.stat().st_size for path in local.values())
            requests = len(s3.proxy.requests)
            print(f"{what}: {requests / len(local):.1f} requests, {s3.proxy.fetched / size:.1%} of a summary's bytes")


if __name__ == "__main__":
    main()
