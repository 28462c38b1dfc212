"""Runs into a bucket, killed at random moments and run again: what is in the bucket is whole at every moment.

    python tests/benchmarks/remote_kills.py 200

Moto's server stands for S3, on loopback; the slides are drawn, so that a run is short.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from draw import draw_tissue, write_svs
from stores import S3, running_s3

SLIDES = 3
OPTIONS = ("--keep", "8", "--draws", "100")


def command(source: object, output: object, cache: Path) -> list[str]:
    words = ["compress", str(source), "-o", str(output), *OPTIONS, "--cache-dir", str(cache)]
    return [sys.executable, "-m", "wsisum_cli", *words]


def kill_after(seconds: float, words: list[str], environment: dict[str, str]) -> bool:
    """Run a command and kill it with all of its processes; False if it ended before."""
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def check(s3: S3, local: dict[str, bytes]) -> int:
    """How many summaries there are, each of which has to be whole."""
    found = {key: data for key, data in s3.objects("kills", "out/").items() if key.endswith(".ozx")}
    for key, data in found.items():
        assert data == local[key.removeprefix("out/")], f"{key} is not whole"
    uploads = s3.client.list_multipart_uploads(Bucket="kills").get("Uploads", [])
    assert not uploads, "parts of an upload were left"
    return len(found)


def empty(s3: S3) -> None:
    for key in s3.objects("kills", "out/"):
        s3.client.delete_object(Bucket="kills", Key=key)


def try_kills(root: Path, s3: S3, count: int) -> tuple[int, int]:
    """Kill `count` runs; returns how many were killed, and how often all slides got done in spite of it."""
    slides = root / "slides"
    slides.mkdir()
    for number in range(SLIDES):
        write_svs(slides / f"{number}.svs", draw_tissue(2048, 1536, seed=number), tile=256)
    environment, cache = s3.proxy.environment, root / "cache"
    began = time.monotonic()
    subprocess.run(command(slides, root / "local", cache), env=environment, check=True, capture_output=True)
    whole = time.monotonic() - began
    local = {path.name: path.read_bytes() for path in (root / "local").glob("*.ozx")}
    s3.make_bucket("kills")
    s3.upload(slides, "kills", "in/")
    rng, killed, finished = random.Random(0), 0, 0
    for _ in range(count):
        ends = ("s3://kills/in", "s3://kills/out")
        began = time.monotonic()
        if kill_after(rng.uniform(0.2, 1.0) * whole, command(*ends, cache), environment):
            killed += 1
        else:
            whole = min(whole, time.monotonic() - began)  # the machine was busier before
        if check(s3, local) == SLIDES:
            finished += 1
            empty(s3)
    subprocess.run(command(*ends, cache), env=environment, check=True, capture_output=True)
    assert check(s3, local) == SLIDES
    assert not list(cache.glob("scratch*")), "what a killed run made was not cleaned up"
    return killed, finished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as root, running_s3() as s3:
        killed, finished = try_kills(Path(root), s3, count)
    print(f"{killed} of {count} runs killed; all summaries whole at every moment; {finished} times all slides done")


if __name__ == "__main__":
    main()
