"""A store that fails: what is tried again, and what is said."""

from __future__ import annotations

import itertools
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

import pytest
from stores import S3, Fault, Request

from wsisum_cli.errors import AccessError, ChangedSlideError, RemoteError, WsisumError
from wsisum_cli.slides.remote import store as module
from wsisum_cli.slides.remote.cache import Cache
from wsisum_cli.slides.remote.source import remote_source
from wsisum_cli.slides.remote.store import (
    ConflictError,
    RemoteFile,
    fetch,
    find_file,
    list_files,
    open_store,
    overwrite,
    put,
    read_range,
)
from wsisum_cli.slides.remote.url import Address
from wsisum_cli.slides.source import Source

pytestmark = pytest.mark.usefixtures("impatient")

CONTENT = bytes(range(256)) * 4096 * 3  # three parts
BUCKETS = (f"faults-{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 1 << 20)


@pytest.fixture
def address(s3: S3) -> Address:
    bucket = s3.make_bucket(next(BUCKETS))
    s3.client.put_object(Bucket=bucket, Key="folder/a.svs", Body=CONTENT)
    return Address("s3", bucket, "folder/a.svs")


def here(address: Address) -> RemoteFile:
    found = find_file(address)
    assert found is not None
    return found


def at(numbers: Iterable[int], fault: str) -> Fault:
    wanted = set(numbers)
    return lambda number, _: fault if number in wanted else None


@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncated", "slow"])
def test_what_passes_is_tried_again(fault: str, address: Address, s3: S3, tmp_path: Path):
    file = here(address)
    s3.proxy.forget()
    s3.proxy.fault = at({0, 1, 3, 4, 5, 7}, fault)
    fetch(file, tmp_path / "a.svs")
    assert (tmp_path / "a.svs").read_bytes() == CONTENT
    assert len(s3.proxy.requests) == (3 if fault == "slow" else 9)
    assert {request.headers["if-match"] for request in s3.proxy.requests} == {file.e_tag}


def test_silence_is_ended_and_tried_again(address: Address, s3: S3, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SILENCE", "300ms")
    file = here(address)
    s3.proxy.forget()
    open_store.cache_clear()
    s3.proxy.fault = at({0, 1}, "stall")
    assert read_range(file, 0, 10) == CONTENT[:10]
    assert len(s3.proxy.requests) == 3


@pytest.mark.parametrize("fault", ["500", "reset", "truncated"])
def test_tries_have_an_end(fault: str, address: Address, s3: S3, tmp_path: Path):
    file = here(address)
    s3.proxy.fault = lambda *_: fault
    with pytest.raises(RemoteError, match=r"^a\.svs: cannot be fetched: 6 tries in \d+ s failed; run again later$"):
        read_range(file, 0, 10)
    with pytest.raises(RemoteError):
        fetch(file, tmp_path / "a.svs")


def test_a_listing_that_breaks_goes_on_where_it_was(s3: S3, monkeypatch: pytest.MonkeyPatch):
    bucket = s3.make_bucket(next(BUCKETS))
    for number in range(25):
        s3.client.put_object(Bucket=bucket, Key=f"{number:02}", Body=b"x")
    monkeypatch.setattr(module, "PAGE", 10)
    s3.proxy.fault = at({0, 2}, "500")
    assert [file.address.key for file in list_files(Address("s3", bucket, ""))] == [f"{n:02}" for n in range(25)]


def test_names_that_no_path_can_have_are_said_to_be_the_reason(s3: S3):
    bucket = s3.make_bucket(next(BUCKETS))
    s3.client.put_object(Bucket=bucket, Key="slides//a.svs", Body=b"x")
    with pytest.raises(RemoteError, match=r"whose name has an empty part"):
        list(list_files(Address("s3", bucket, "")))


def test_credentials_that_expired_end_the_run_and_are_not_shown(address: Address, s3: S3):
    file = here(address)
    s3.proxy.fault = lambda *_: "expired"
    with pytest.raises(AccessError, match="have expired; renew them and run the same command again") as caught:
        read_range(file, 0, 10)
    assert "AKIASECRET" not in "".join(traceback.format_exception(caught.value))
    assert len(s3.proxy.requests) == 2  # the one before, and one that is not tried again


def test_without_credentials_it_is_said_which_to_set(address: Address, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9/metadata.google")  # where nobody answers
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "obstore.auth.boto3", raising=False)
    open_store.cache_clear()
    with pytest.raises(AccessError, match="no credentials found; set AWS_ACCESS_KEY_ID"):
        find_file(address)


def test_no_boto3_is_needed(address: Address, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "obstore.auth.boto3", raising=False)
    open_store.cache_clear()
    assert here(address).bytes == len(CONTENT)


def test_what_is_not_there_is_said(address: Address):
    assert find_file(Address("s3", address.host, "folder/b.svs")) is None
    gone = RemoteFile(Address("s3", "no-such-bucket", "a.svs"), 10, 0)
    with pytest.raises(RemoteError, match=r"^a\.svs: there is no bucket no-such-bucket; check the address$"):
        read_range(gone, 0, 10)


def test_another_object_in_its_place_is_noticed(address: Address, s3: S3, tmp_path: Path):
    file = here(address)
    s3.client.put_object(Bucket=address.host, Key=address.key, Body=CONTENT[:-1] + b"!")
    for act in (lambda: read_range(file, 0, 10), lambda: fetch(file, tmp_path / "a.svs")):
        with pytest.raises(ChangedSlideError, match=r"^a\.svs: expected a file that stays as it is"):
            act()


def test_a_slide_that_changes_while_it_is_staged_fails(address: Address, s3: S3, tmp_path: Path):
    slide = remote_source(Source(Path("a.svs"), (Path("a.svs"),)), (here(address),), Cache(tmp_path, 10**9))

    def change(number: int, _: Request) -> None:
        if number == 2:
            s3.client.put_object(Bucket=address.host, Key=address.key, Body=CONTENT[::-1])

    s3.proxy.forget()
    s3.proxy.fault = change
    with pytest.raises(ChangedSlideError), slide.staged():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]
    s3.proxy.forget()
    again = remote_source(Source(Path("a.svs"), (Path("a.svs"),)), (here(address),), Cache(tmp_path, 10**9))
    assert again.modified != slide.modified
    with again.staged() as staged:
        assert staged.path.read_bytes() == CONTENT[::-1]
        assert staged.fetched == len(CONTENT)
    with again.staged() as staged:
        assert staged.fetched == 0


def test_a_put_replaces_only_what_was_found(address: Address, s3: S3):
    new = Address("s3", address.host, "folder/b.ozx")
    put(new, b"one", None)
    with pytest.raises(ConflictError):
        put(new, b"two", None)
    first = here(new)
    put(new, b"two", first)
    with pytest.raises(ConflictError):
        put(new, b"three", first)
    assert s3.objects(address.host)["folder/b.ozx"] == b"two"
    overwrite(new, b"four")
    assert s3.objects(address.host)["folder/b.ozx"] == b"four"


def test_a_put_is_one_request_and_is_tried_again(address: Address, s3: S3):
    s3.proxy.forget()
    s3.proxy.fault = at({0, 1}, "500")
    put(Address("s3", address.host, "b.ozx"), CONTENT * 3, None)
    assert [request.method for request in s3.proxy.requests] == ["PUT"] * 3
    assert s3.objects(address.host)["b.ozx"] == CONTENT * 3


def test_errors_pass_between_processes(address: Address):
    import pickle

    for error in (RemoteError("x", "no bucket"), AccessError("x")):
        assert isinstance(pickle.loads(pickle.dumps(error)), WsisumError)
    assert address.name == "a.svs"
