"""Detached signatures: our own, those of the tool minisign, and what breaks them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import minisign
import pytest

from wsisum_cli.errors import UsageError
from wsisum_cli.summary.signature.minisign import (
    COMMENT,
    load_public_key,
    load_secret_key,
    sign_file,
    signature_path,
    what_is_wrong,
)

CONTENT = b"a summary"
#: Made with minisign 0.11 for these tests alone.
PUBLIC = """untrusted comment: minisign public key B29D3421FEA819E
RWSegeofQtMpC/xVt6+tjKW7BHeptyxBLeMyaghFIWCWyozrOxLn271s
"""
SECRET = """untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAnoHqH0LTKQuxF9/5vZy3ETRA67NIOuuwIM5GRWkJw5+C8hcafkXO5vxVt6+tjKW7BHeptyxBLeMyaghFIWCWyozrOxLn271sAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
"""
SIGNATURE = """untrusted comment: from the tool
RUSegeofQtMpCw8GVlqs3xLEHbGG6m6fVNzBBpCTfK7huKxjNJrxXWhh95CFVTvGKveUa4iM3VAfq9n7sImc1ADFSkrwWFLIJwk=
trusted comment: wsisum summary
5dOKtDo4VmkXHgZnDkqtHG+Q+YwI5WwhhTUkviYJvZ0rBMtZjFrx/1RMLHGB+GGJp0WF29ESfARN+EdnwyXoCw==
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in (("key.pub", PUBLIC), ("key", SECRET)):
        (tmp_path / name).write_text(text)
    (tmp_path / "Doe^Jane.ozx").write_bytes(CONTENT)
    return tmp_path


def never() -> str:
    raise AssertionError("the key is not encrypted")


def test_a_signature_is_that_of_the_tool(place: Path):
    path = place / "Doe^Jane.ozx"
    sign_file(path, load_secret_key(place / "key", never))
    ours, theirs = signature_path(path).read_text().splitlines(), SIGNATURE.splitlines()
    assert ours[1:] == theirs[1:]
    assert what_is_wrong(path, load_public_key(place / "key.pub")) is None


def test_the_same_file_and_key_give_the_same_bytes_without_a_name(place: Path):
    path, key = place / "Doe^Jane.ozx", load_secret_key(place / "key", never)
    first = sign_file(path, key).read_bytes()
    path.rename(place / "other.ozx")
    second = sign_file(place / "other.ozx", key).read_bytes()
    assert first == second
    assert b"Jane" not in first
    assert f"trusted comment: {COMMENT}\n".encode() in first


@pytest.mark.skipif(shutil.which("minisign") is None, reason="needs the tool minisign")
def test_the_tool_accepts_our_signature(place: Path):
    sign_file(place / "Doe^Jane.ozx", load_secret_key(place / "key", never))
    subprocess.run(["minisign", "-V", "-p", "key.pub", "-m", "Doe^Jane.ozx"], cwd=place, check=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(CONTENT + b"!"), "is not the signature of this file by this key"),
        (lambda path: signature_path(path).unlink(), "is missing"),
        (lambda path: signature_path(path).write_text("untrusted"), "is not the signature"),
        (lambda path: signature_path(path).write_bytes(bytes(20_000_000)), "is not the signature"),
        (
            lambda path: signature_path(path).write_text(SIGNATURE.replace("wsisum summary", "wsisum summary!")),
            "is not the signature",
        ),
    ],
    ids=["file", "missing", "no signature", "long", "trusted comment"],
)
def test_what_breaks_a_signature_is_said(place: Path, change, said: str):
    path = place / "Doe^Jane.ozx"
    sign_file(path, load_secret_key(place / "key", never))
    change(path)
    assert said in str(what_is_wrong(path, load_public_key(place / "key.pub")))


def test_another_key_is_said(place: Path):
    path = place / "Doe^Jane.ozx"
    with minisign.KeyPair.generate().secret_key as other:
        sign_file(path, other)
    assert "by this key" in str(what_is_wrong(path, load_public_key(place / "key.pub")))


def encrypted(path: Path, password: str) -> Path:
    """A key whose password takes little memory to try."""
    with minisign.KeyPair.generate().secret_key as key:
        key.encrypt(password, opslimit=32768, memlimit=1 << 20)
        path.write_bytes(bytes(key) + b"\n")
    return path


def test_a_key_opens_with_its_password_alone(tmp_path: Path):
    path = encrypted(tmp_path / "key", "right")
    assert not load_secret_key(path, lambda: "right").is_encrypted()
    with pytest.raises(
        UsageError, match="key: expected a secret key of minisign that opens with the password"
    ) as error:
        load_secret_key(path, lambda: "wrong")
    assert str(tmp_path) not in str(error.value)
    assert "wrong\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", PUBLIC.encode(), bytes(1 << 20), b"\xff\n\xff\n"])
def test_other_files_are_no_secret_keys(tmp_path: Path, content: bytes):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match="key: expected a secret key"):
        load_secret_key(tmp_path / "key", never)


@pytest.mark.parametrize("content", [b"", SECRET.encode(), b"\xff\n\xff\n"])
def test_other_files_are_no_public_keys(tmp_path: Path, content: bytes):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match="key: expected a public key"):
        load_public_key(tmp_path / "key")
