"""Commands that take summaries by their addresses, and those that do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stores import S3, WebServer
from summaries import write_tiny

from wsisum_cli.archive.lookup import mirrored_names, named_summaries, refuse_addresses
from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.exports.export import outputs_of
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.summary.reader import iter_summaries
from wsisum_cli.verification.verify import verify_summary


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "B12.ozx"
    write_tiny(path, "source")
    return path


@pytest.fixture
def server(tiny: Path) -> Iterator[WebServer]:
    found = WebServer({"B12.ozx": tiny.read_bytes()})
    yield found
    found.close()


def test_a_folder_of_a_store_has_its_summaries_by_their_names(tiny: Path, s3: S3, tmp_path: Path):
    bucket = s3.make_bucket("named")
    for key in ("out/b/B12.ozx", "out/A 1.ozx", "out/report.json", "outer/C.ozx"):
        s3.client.put_object(Bucket=bucket, Key=key, Body=tiny.read_bytes())
    expected = {f"s3://{bucket}/out/A 1.ozx": "A 1.ozx", f"s3://{bucket}/out/b/B12.ozx": "b/B12.ozx"}
    for folder in (f"s3://{bucket}/out", f"s3://{bucket}/out/"):
        assert dict(named_summaries([folder])) == expected
        assert mirrored_names([folder], tmp_path) == {url: Path(name) for url, name in expected.items()}
    assert [summary.name for summary in iter_summaries(f"s3://{bucket}/out")] == ["A 1.ozx", "B12.ozx"]
    assert named_summaries([f"s3://{bucket}/out/b/B12.ozx"]) == [(f"s3://{bucket}/out/b/B12.ozx", "B12.ozx")]
    with pytest.raises(UsageError, match="no summary slides"):
        named_summaries([f"s3://{bucket}/none"])


def test_a_remote_summary_verifies_as_it_does_here(tiny: Path, server: WebServer):
    url = f"{server.url}/B12.ozx?signature=SECRET"
    assert verify_summary(url).as_dict() == verify_summary(tiny).as_dict()
    assert [finding.code for finding in verify_summary(url, tier="quick").findings] == []
    server.files["B12.ozx"] = tiny.read_bytes()[:-100]
    assert [finding.code for finding in verify_summary(url).findings] == ["unreadable"]


def test_a_server_has_no_folders(server: WebServer):
    with pytest.raises(SummaryError, match="a folder of a server cannot be listed"):
        list(iter_summaries(f"{server.url}/folder"))


def test_signatures_are_in_no_message():
    url = "https://host/B12.ozx?signature=SECRET"
    with pytest.raises(UsageError) as caught:
        outputs_of({url: Path("B12.ozx"), "b/B12.ozx": Path("B12.ozx")}, Path("out"), TARGETS["h5"])
    assert "SECRET" not in str(caught.value)
    with pytest.raises(UsageError, match=r"https://host/B12\.ozx\?\.\.\.: expected a path"):
        refuse_addresses(["a.ozx", url])
