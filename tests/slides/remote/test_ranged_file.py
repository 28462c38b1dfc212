"""A remote file reads as the same file on disk, with few requests."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import S3, WebServer

from wsisum_cli.errors import RemoteError
from wsisum_cli.slides.remote.file import BLOCK, END, RangedFile
from wsisum_cli.slides.remote.url import Address, parse_place

CONTENT = np.random.default_rng(0).bytes(20 * BLOCK + 77)


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    found = WebServer({"x": CONTENT, "small": b"abc", "empty": b""})
    yield found
    found.close()


def opened(server: WebServer, name: str = "x") -> RangedFile:
    address = parse_place(f"{server.url}/{name}")
    assert isinstance(address, Address)
    return RangedFile(address)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(CONTENT) + 10), st.integers(-1, 3 * BLOCK)), min_size=1, max_size=12))
def test_any_reads_give_the_bytes_of_the_file(server: WebServer, reads: list[tuple[int, int]]):
    there, here = opened(server), io.BytesIO(CONTENT)
    for start, size in reads:
        assert there.seek(start) == here.seek(start)
        assert there.read(size) == here.read(size)
        assert there.tell() == here.tell()


def test_small_files_take_one_request(server: WebServer):
    server.requests.clear()
    with opened(server, "small") as file:
        assert file.read() == b"abc"
        assert file.read() == b""
        assert file.seek(-2, os.SEEK_END) == 1
        buffer = bytearray(5)
        assert file.readinto(buffer) == 2
    assert len(server.requests) == 1


def test_the_end_and_what_is_read_is_fetched_once(server: WebServer):
    server.requests.clear()
    with opened(server) as file:
        for _ in range(3):
            file.seek(len(CONTENT) - END)
            file.read()
            file.seek(BLOCK // 2)
            file.read(BLOCK)
    assert [request.bytes for request in server.requests] == [END, 2 * BLOCK]
    assert file.fetched == END + 2 * BLOCK


def test_who_reads_on_asks_seldom(server: WebServer):
    server.requests.clear()
    with opened(server) as file:
        assert b"".join(iter(lambda: file.read(1000), b"")) == CONTENT
    assert len(server.requests) <= 7


def test_a_zip_lists_its_members_in_one_request():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(100):
            archive.writestr(f"{number}", bytes(10_000))
        archive.comment = b"comment"
    server = WebServer({"x.zip": content.getvalue()})
    with zipfile.ZipFile(opened(server, "x.zip")) as archive:  # type: ignore[arg-type]
        assert len(archive.namelist()) == 100
    assert len(server.requests) == 1
    server.close()


def test_a_store_that_knows_no_ends_is_asked_for_the_size(s3: S3, monkeypatch: pytest.MonkeyPatch):
    """Azure is such a store."""
    s3.client.put_object(Bucket=s3.make_bucket("ends"), Key="x", Body=CONTENT)
    get = obstore.get

    def refuse(*arguments: Any, options: Any = None) -> Any:
        if isinstance(options["range"], dict):
            raise obstore.exceptions.NotSupportedError("no suffix")
        return get(*arguments, options=options)

    monkeypatch.setattr(obstore, "get", refuse)
    with RangedFile(Address("s3", "ends", "x")) as file:
        file.seek(-100, os.SEEK_END)
        assert file.read() == CONTENT[-100:]


def test_what_is_not_there_is_an_error(server: WebServer):
    with pytest.raises(RemoteError, match="none: not found; check the address"):
        opened(server, "none")
