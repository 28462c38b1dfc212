"""Which addresses are opened, and that none prints a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsisum_cli.errors import UsageError
from wsisum_cli.slides.remote.url import Address, name_of_place, parse_place, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slides/a.svs", Path("slides/a.svs")),
        ("file:///data/a%20b.svs", Path("/data/a b.svs")),
        ("s3://bucket", Address("s3", "bucket", "")),
        ("S3://bucket/a/b.svs/", Address("s3", "bucket", "a/b.svs")),
        ("s3://bucket/a b#1.svs", Address("s3", "bucket", "a b#1.svs")),
        ("gs://bucket/a.svs", Address("gs", "bucket", "a.svs")),
        ("az://container/a.svs", Address("az", "container", "a.svs")),
        ("https://host:8080/a/b.svs?sig=x#part", Address("https", "host:8080", "a/b.svs", "sig=x")),
    ],
)
def test_paths_and_addresses_are_told_apart(text: str, expected: Path | Address):
    assert parse_place(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("reference://x", "simplecache::s3://b/x", "zip://x::file:///tmp/a.zip", "memory://x", "ftp://host/x"),
        *("s3://bucket/x::zip://y", "github://o:r@main/x", "nothing://x", "filecache::https://h/x", "s3:///x", "://x"),
        *("s3://KEY:SECRET@bucket/x", "https://user:SECRET@host/x", "s3://bucket/x?X-Amz-Signature=SECRET"),
    ],
)
def test_other_addresses_are_refused(text: str):
    with pytest.raises(UsageError) as caught:
        parse_place(text)
    assert "SECRET" not in str(caught.value)


def test_a_signed_address_prints_without_its_signature():
    address = parse_place("https://host/folder/a%20b.svs?X-Amz-Signature=SECRET")
    assert isinstance(address, Address)
    assert address.url.endswith("SECRET")
    assert "SECRET" not in f"{address} {address!r} {name_of_place(address)} {address.name}"
    assert address.name == "a b.svs"


def test_places_are_shown_without_keys():
    assert shown("a/b.ozx") == "a/b.ozx"
    assert shown("s3://bucket/a.ozx") == "s3://bucket/a.ozx"
    assert shown("https://host/a.ozx?sig=SECRET") == "https://host/a.ozx?..."
    assert shown("https://user:SECRET@host/a.ozx?sig=SECRET") == "a.ozx"


def test_a_folder_contains_what_lies_in_it():
    folder = Address("s3", "bucket", "out")
    assert folder.contains(Address("s3", "bucket", "out/a.ozx"))
    assert folder.contains(folder)
    assert not folder.contains(Address("s3", "bucket", "outer/a.ozx"))
    assert not folder.contains(Address("s3", "other", "out/a.ozx"))
    assert Address("s3", "bucket", "").contains(folder)
    assert folder.child("b/c.ozx") == Address("s3", "bucket", "out/b/c.ozx")
    assert Address("s3", "bucket", "").child("c.ozx") == Address("s3", "bucket", "c.ozx")
