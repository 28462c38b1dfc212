"""Runs over a store: the same bytes as of folders, whatever fails between."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import running
from draw import draw_tissue, write_svs
from remote_kills import try_kills
from stores import S3, Request

from wsisum_cli.summary.reader import iter_summaries, open_summary

OPTIONS = ("--keep", "8", "--draws", "100")
IMPATIENT = Path(__file__).parents[2] / "support/impatient.py"
FAULTS = ("500", "reset", "truncated", "503", "slow", "lost")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "sub").mkdir()
    for number in range(3):
        write_svs(folder / f"sub/{number}.svs", draw_tissue(2048, 1536, seed=number), tile=256)
    return folder


@pytest.fixture(scope="module")
def local(archive: Path, store: S3) -> dict[str, bytes]:
    """What a run from folder to folder writes."""
    output = archive.parent / "local"
    assert compress(store, archive, output).returncode == 0
    return summaries({path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*.ozx")})


@pytest.fixture
def bucket(archive: Path, s3: S3, request: pytest.FixtureRequest) -> str:
    name = "runs-" + "".join(c for c in request.node.name if c.isalnum()).lower()[:50]
    s3.make_bucket(name)
    s3.upload(archive, name, "in/")
    return name


def compress(s3: S3, source: object, output: object, *options: object, **environment: str) -> Any:
    return wsisum(s3, "compress", source, "-o", output, *OPTIONS, *options, **environment)


def wsisum(s3: S3, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return running.wsisum(IMPATIENT, *arguments, env={**s3.proxy.environment, **environment}, timeout=300)


def summaries(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.endswith(".ozx")}


def outputs(s3: S3, bucket: str) -> dict[str, bytes]:
    return {key.removeprefix("out/"): content for key, content in s3.objects(bucket, "out/").items()}


def test_a_run_in_a_store_writes_the_same_and_is_resumed(
    archive: Path, local: dict[str, bytes], bucket: str, s3: S3, tmp_path: Path
):
    counts: dict[str, int] = {}

    def fail(_: int, request: Request) -> str | None:
        """Every request but a listing fails the first time, each in another way."""
        key = f"{request.method} {request.path} {request.headers.get('range')}"
        counts[key] = counts.get(key, 0) + 1
        return FAULTS[len(counts) % len(FAULTS)] if counts[key] == 1 else None

    s3.proxy.fault = fail
    ends = (f"s3://{bucket}/in", f"s3://{bucket}/out", "--cache-dir", tmp_path / "cache")
    done = compress(s3, *ends, "--workers", 2)
    assert done.returncode == 0, done.stderr
    written = outputs(s3, bucket)
    assert summaries(written) == local
    assert set(written) == {*local, "report.csv", "report.json"}
    assert bucket.encode() not in b"".join(written.values())
    rows = json.loads(written["report.json"])["slides"]
    assert {row["source"]: row["bytes_fetched"] for row in rows} == {
        path.relative_to(archive).as_posix(): path.stat().st_size for path in archive.rglob("*.svs")
    }
    assert all(row["seconds"]["fetch"] >= 0 for row in rows)
    assert sorted(path.name for path in (tmp_path / "cache").glob("scratch*")) == []
    s3.proxy.forget()
    again = compress(s3, *ends)
    assert again.returncode == 0, again.stderr
    assert json.loads(outputs(s3, bucket)["report.json"])["counts"] == {"written": 0, "skipped": 3, "failed": 0}
    reads = [request for request in s3.proxy.requests if request.path.endswith(".ozx")]
    assert len(reads) == 2 * len(local)  # the end and the beginning of each summary
    assert not [request for request in s3.proxy.requests if request.path.endswith(".svs")]


def test_a_slide_in_the_place_of_another_leaves_that_ones_summary(
    archive: Path, local: dict[str, bytes], bucket: str, s3: S3
):
    for name in ("0", "1"):
        s3.client.upload_file(str(archive / f"sub/{name}.svs"), bucket, "one/0.svs")
        done = compress(s3, f"s3://{bucket}/one", f"s3://{bucket}/out")
        assert done.returncode == 0, done.stderr
    written = outputs(s3, bucket)
    (row,) = json.loads(written["report.json"])["slides"]
    assert row["former"].startswith(".wsisum/replaced/")
    assert written[row["former"]] == local["sub/0.ozx"]
    assert written["0.ozx"] != written[row["former"]]
    assert row["former"] in done.stderr
    assert [path for path in written if path.startswith(".wsisum")] == [row["former"]]


def test_names_by_hash_are_the_same_in_a_store_and_keep_to_one_key(archive: Path, bucket: str, s3: S3, tmp_path: Path):
    key, other = tmp_path / "name.key", tmp_path / "other.key"
    key.write_bytes(bytes(range(32)))
    other.write_bytes(bytes(32))
    quick = ("--encoder", "texture", "--include", "0.svs", "--cache-dir", tmp_path / "cache", "--name-by", "hash")
    source, output = f"s3://{bucket}/in", f"s3://{bucket}/out"
    assert compress(s3, source, output, *quick, "--name-key", key).returncode == 0
    name = hmac.new(key.read_bytes(), b"sub/0.svs", hashlib.sha256).hexdigest()[:32]
    assert set(summaries(outputs(s3, bucket))) == {f"{name}.ozx"}
    assert compress(s3, archive, output, *quick, "--name-key", key).returncode == 0
    assert json.loads(outputs(s3, bucket)["report.json"])["counts"] == {"written": 0, "skipped": 1, "failed": 0}
    refused = compress(s3, archive, output, *quick, "--name-key", other)
    assert (refused.returncode, "found another one" in refused.stderr) == (2, True), refused.stderr
    assert set(summaries(outputs(s3, bucket))) == {f"{name}.ozx"}


def test_summaries_in_a_store_are_read_in_ranges(local: dict[str, bytes], bucket: str, s3: S3, tmp_path: Path):
    for name, content in local.items():
        s3.client.put_object(Bucket=bucket, Key=f"out/{name}", Body=content)
    url = f"s3://{bucket}/out"
    s3.proxy.forget()
    with open_summary(f"{url}/sub/0.ozx") as summary:
        assert len(summary.features) == 8
        assert summary.patches[0].shape[2] == 3
    assert s3.proxy.fetched <= len(local["sub/0.ozx"])
    assert [summary.record.source.name for summary in iter_summaries(url)] == ["0.svs", "1.svs", "2.svs"]
    for command in (
        ("inspect", f"{url}/sub/0.ozx", "--json"),
        ("verify", url, "--quick", "--require", "review"),
        ("export", url, "--to", "geojson", "-o", tmp_path / "exported"),
    ):
        done = wsisum(s3, *command)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "exported" / "sub").iterdir()) == [
        f"{number}.summary.geojson" for number in range(3)
    ]


def test_summaries_are_compared_with_slides_in_a_store(archive: Path, local: dict[str, bytes], bucket: str, s3: S3):
    command = ("verify", archive.parent / "local", "--source", f"s3://{bucket}/in", "--json", "--require", "review")
    cache = ("--cache-dir", archive.parent / "verified")
    s3.proxy.forget()
    done = wsisum(s3, *command, *cache)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {result["path"]: (result["tier"], result["ok"]) for result in found} == dict.fromkeys(
        local, ("source", True)
    )
    assert s3.proxy.fetched <= sum(path.stat().st_size for path in archive.rglob("*.svs")) + 100_000  # each once
    s3.client.put_object(Bucket=bucket, Key="in/sub/3.svs", Body=(archive / "sub/0.svs").read_bytes() + b"more")
    content = bytearray((archive / "sub/1.svs").read_bytes())
    content[-1] ^= 1
    s3.client.put_object(Bucket=bucket, Key="in/sub/1.svs", Body=bytes(content))
    done = wsisum(s3, *command, *cache)
    assert done.returncode == 1
    assert "sub/3.svs" in done.stderr  # has no summary
    codes = {result["path"]: [finding["code"] for finding in result["findings"]] for result in json.loads(done.stdout)}
    assert "source-missing" in codes["sub/1.ozx"]
    assert "source-missing" not in codes["sub/0.ozx"]


@pytest.mark.usefixtures("local")
def test_a_slide_that_has_no_place_here_has_no_summary(archive: Path, bucket: str, s3: S3, tmp_path: Path):
    """No folder can hold a file and a folder of one name."""
    s3.client.put_object(Bucket=bucket, Key="in/sub/0.svs/9.svs", Body=(archive / "sub/2.svs").read_bytes() + b"x")
    command = ("verify", archive.parent / "local", "--source", f"s3://{bucket}/in", "--require", "review")
    done = wsisum(s3, *command, "--cache-dir", tmp_path)
    assert done.returncode == 1
    assert "sub/0.svs/9.svs" in done.stderr


@pytest.mark.usefixtures("local")
def test_a_slide_in_a_store_that_cannot_be_fetched_is_no_proof(archive: Path, bucket: str, s3: S3, tmp_path: Path):
    options = ("--require", "review", "--cache-dir", tmp_path)
    s3.proxy.fault = lambda _, request: "500" if request.method == "GET" and request.path.endswith("svs") else None
    one = archive.parent / "local/sub/0.ozx"
    done = wsisum(s3, "verify", one, "--source", f"s3://{bucket}/in/sub/0.svs", *options)
    assert done.returncode == 1
    assert "cannot be fetched" in done.stdout
    s3.proxy.fault = lambda _, request: "expired" if request.path.endswith("svs") else None
    done = wsisum(s3, "verify", one, "--source", f"s3://{bucket}/in", *options)
    assert done.returncode == 2
    assert "the credentials have expired" in done.stderr
    done = wsisum(s3, "verify", one, "--source", f"s3://{bucket}/in", "--plan", tmp_path / "plan.csv")
    assert done.returncode == 2
    assert "expects paths" in done.stderr


def test_a_slide_that_cannot_be_fetched_is_an_outcome(local: dict[str, bytes], bucket: str, s3: S3, tmp_path: Path):
    changed = threading.Event()

    def fail(_: int, request: Request) -> str | None:
        if request.method == "GET" and request.path.endswith("1.svs") and not changed.is_set():
            changed.set()
            s3.client.put_object(Bucket=bucket, Key="in/sub/1.svs", Body=b"another")
        return "500" if request.method == "GET" and request.path.endswith("0.svs") else None

    s3.proxy.fault = fail
    done = compress(s3, f"s3://{bucket}/in", f"s3://{bucket}/out", "--cache-dir", tmp_path / "cache", "--json")
    assert done.returncode == 1
    reasons = {row["source"]: row["reason"] for row in json.loads(done.stdout)["slides"]}
    assert reasons == {"sub/0.svs": "cannot be fetched", "sub/1.svs": "changed while it was read", "sub/2.svs": ""}
    assert summaries(outputs(s3, bucket)) == {"sub/2.ozx": local["sub/2.ozx"]}


def test_credentials_that_expire_end_the_run(bucket: str, s3: S3, tmp_path: Path):
    s3.proxy.fault = lambda _, request: "expired" if request.path.endswith("1.svs") else None
    done = compress(s3, f"s3://{bucket}/in", tmp_path / "out", "--cache-dir", tmp_path / "cache")
    assert done.returncode == 2
    assert f"wsisum: s3://{bucket}: the credentials have expired; renew them" in done.stderr
    assert "AKIASECRET" not in done.stderr + done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["source"] for row in report["slides"]] == ["sub/0.svs"]
    assert report["not_tried"] == ["sub/1.svs", "sub/2.svs"]


def test_a_cache_that_is_too_small_for_a_slide_says_so(bucket: str, s3: S3, tmp_path: Path):
    done = compress(
        s3, f"s3://{bucket}/in/sub/0.svs", tmp_path / "out", "--cache-dir", tmp_path / "cache", "--cache-size", "100kB"
    )
    assert done.returncode == 1
    assert "expected at most the 100000 bytes of the cache" in done.stderr
    assert "raise --cache-size" in done.stderr


def test_a_preview_fetches_no_slide(bucket: str, s3: S3, tmp_path: Path):
    done = compress(s3, f"s3://{bucket}/in", tmp_path / "out", "--cache-dir", tmp_path / "cache", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in json.loads(done.stdout)["slides"]] == ["would write"] * 3
    assert not [request for request in s3.proxy.requests if request.path.endswith(".svs")]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_run_that_is_killed_leaves_whole_summaries(s3: S3, tmp_path: Path):
    try_kills(tmp_path, s3, 2)


def test_two_runs_into_one_folder_leave_each_summary_whole(
    local: dict[str, bytes], bucket: str, s3: S3, tmp_path: Path
):
    ends = (f"s3://{bucket}/in", f"s3://{bucket}/out", "--cache-dir", tmp_path / "cache")
    with ThreadPoolExecutor(2) as pool:
        done = [run.result() for run in [pool.submit(compress, s3, *ends) for _ in range(2)]]
    assert [run.returncode for run in done] == [0, 0], [run.stderr for run in done]
    assert summaries(outputs(s3, bucket)) == local


def test_features_in_a_bucket_are_looked_at_before_they_are_made_again(bucket: str, s3: S3, tmp_path: Path):
    ends = (f"s3://{bucket}/in/sub/0.svs", "-o", f"s3://{bucket}/out", "--cache-dir", tmp_path / "cache")
    states = []
    for _ in range(2):
        done = wsisum(s3, "features", *ends, "--encoder", "texture", "--json")
        assert done.returncode == 0, done.stderr
        states += [(row["status"], row["features"]) for row in json.loads(done.stdout)["slides"]]
    assert states == [("written", "0.h5"), ("skipped", "0.h5")]
    assert set(outputs(s3, bucket)) == {"0.h5", "report.csv", "report.json"}
