"""`--sign` and `--key`: what is signed, what is left unsigned and said so, and what `verify` makes of it."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import minisign
import pytest
from draw import draw_tissue, write_svs
from summaries import write_tiny

from wsisum_cli.commands.main import app
from wsisum_cli.commands.options import NOT_STARTED
from wsisum_cli.commands.signing.keys import PASSWORD
from wsisum_cli.errors import WsisumError


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    pair = minisign.KeyPair.generate()
    (folder / "key.pub").write_bytes(bytes(pair.public_key) + b"\n")
    with pair.secret_key as key:
        (folder / "plain").write_bytes(bytes(key) + b"\n")
        key.encrypt("open sesame", opslimit=32768, memlimit=1 << 20)
        (folder / "encrypted").write_bytes(bytes(key) + b"\n")
    return {"public": folder / "key.pub", "plain": folder / "plain", "encrypted": folder / "encrypted"}


def wsisum(*arguments: object, password: str | None = None) -> SimpleNamespace:
    """Run a command in this process, where nobody can be asked for a password."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr("sys.stdin", io.StringIO())
        patch.delenv(PASSWORD, raising=False)
        if password is not None:
            patch.setenv(PASSWORD, password)
        try:
            code = app([str(part) for part in arguments], standalone_mode=False)
        except WsisumError as error:
            err.write(f"wsisum: {error}")
            code = NOT_STARTED
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.ozx")


def verified(folder: Path, keys: dict[str, Path]) -> dict[str, bool]:
    done = wsisum("verify", folder, "--quick", "--key", keys["public"], "--require", "review", "--json")
    return {result["path"]: result["signed"] for result in json.loads(done.stdout)}


def test_a_run_signs_what_it_writes_and_no_more(keys: dict[str, Path], tmp_path: Path):
    write_svs(tmp_path / "a.svs", draw_tissue(1200, 1000, 1))
    out = tmp_path / "out"
    compress = ("compress", tmp_path / "a.svs", "-o", out, "--encoder", "texture", "--keep", "8")
    assert wsisum(*compress).returncode == 0
    done = wsisum(*compress, "--sign", keys["encrypted"], password="open sesame")
    assert done.returncode == 1
    assert "a.ozx: up to date, without a signature of this key; write it again with --force" in done.stderr
    assert verified(out, keys) == {"a.ozx": False}
    done = wsisum(*compress, "--force", "--sign", keys["encrypted"], password="open sesame")
    assert done.returncode == 0
    assert "sesame" not in done.stdout + done.stderr + (out / "report.json").read_text()
    assert verified(out, keys) == {"a.ozx": True}
    assert wsisum(*compress, "--sign", keys["encrypted"], password="open sesame").returncode == 0
    done = wsisum(*compress, "--force")
    assert "a.ozx: its old signature removed; sign it with --sign" in done.stderr
    assert not (out / "a.ozx.minisig").exists()


def test_a_signature_that_cannot_be_written_ends_no_run(keys: dict[str, Path], tmp_path: Path):
    (tmp_path / "in").mkdir()
    for name in ("a.svs", "b.svs"):
        write_svs(tmp_path / "in" / name, draw_tissue(1200, 1000, 1))
    out = tmp_path / "out"
    (out / "a.ozx.minisig").mkdir(parents=True)
    compress = ("compress", tmp_path / "in", "-o", out, "--encoder", "texture", "--keep", "8")
    done = wsisum(*compress, "--sign", keys["plain"])
    assert done.returncode == 1
    assert "a.ozx: it stays unsigned (Is a directory)" in done.stderr
    assert verified(out, keys) == {"a.ozx": False, "b.ozx": True}
    done = wsisum(*compress, "--force")
    assert done.returncode == 1
    assert "a.ozx: its old signature could not be removed" in done.stderr


def test_nobody_is_asked_for_a_password_without_a_terminal(keys: dict[str, Path], tiny: Path, tmp_path: Path):
    done = wsisum("trim", tiny, "--keep", 2, "-o", tmp_path, "--sign", keys["encrypted"])
    assert done.returncode == 2
    assert f"encrypted: the key is encrypted; set {PASSWORD}, or run the command in a terminal" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [("trim", "--keep", "2"), ("migrate",)])
def test_what_is_made_of_a_summary_is_signed_anew(
    keys: dict[str, Path], tiny: Path, tmp_path: Path, command: tuple[str, ...]
):
    name, *options = command
    (tmp_path / "tiny.ozx").write_bytes(tiny.read_bytes())
    signed = wsisum(name, tmp_path / "tiny.ozx", *options, "-o", tmp_path / "signed", "--sign", keys["plain"])
    assert (signed.returncode, signed.stderr) == (0, "")
    assert verified(tmp_path / "signed", keys) == {"tiny.ozx": True}
    (tmp_path / "tiny.ozx.minisig").write_bytes((tmp_path / "signed/tiny.ozx.minisig").read_bytes())
    unsigned = wsisum(name, tmp_path / "tiny.ozx", *options, "-o", tmp_path / "unsigned")
    assert "tiny.ozx: not signed, though the summary it was made of is; sign it with --sign" in unsigned.stderr
    assert verified(tmp_path / "unsigned", keys) == {"tiny.ozx": False}
    again = wsisum(name, tmp_path / "tiny.ozx", *options, "-o", tmp_path / "signed", "--force")
    assert "tiny.ozx: its old signature removed; sign it with --sign" in again.stderr


def test_a_summary_with_further_features_is_signed_anew(keys: dict[str, Path], tmp_path: Path):
    write_svs(tmp_path / "a.svs", draw_tissue(1200, 1000, 1))
    wsisum(
        "compress", tmp_path / "a.svs", "-o", tmp_path, "--encoder", "texture", "--keep", "8", "--sign", keys["plain"]
    )
    reembed = ("reembed", tmp_path / "a.ozx", "--encoder", "encoder")
    done = wsisum(*reembed, "-o", tmp_path / "signed", "--sign", keys["plain"])
    assert (done.returncode, done.stderr) == (0, "")
    assert verified(tmp_path / "signed", keys) == {"a.ozx": True}
    done = wsisum(*reembed, "-o", tmp_path / "unsigned")
    assert "a.ozx: not signed, though the summary it was made of is; sign it with --sign" in done.stderr


def test_verify_names_each_summary_without_its_signature(keys: dict[str, Path], tiny: Path, tmp_path: Path):
    wsisum("migrate", tiny, "-o", tmp_path, "--sign", keys["plain"])
    (tmp_path / "other.ozx").write_bytes(tiny.read_bytes())
    done = wsisum("verify", tmp_path, "--quick", "--key", keys["public"], "--require", "review")
    assert done.returncode == 1
    assert "signature: other.ozx.minisig is missing" in done.stdout
    assert "tiny.ozx: ok" in done.stdout
    signature = tmp_path / "tiny.ozx.minisig"
    (tmp_path / "other.ozx.minisig").write_bytes(signature.read_bytes())  # of the same bytes
    assert wsisum("verify", tmp_path, "--quick", "--key", keys["public"], "--require", "review").returncode == 0
    data = bytearray((tmp_path / "other.ozx").read_bytes())
    data[-1] ^= 1
    (tmp_path / "other.ozx").write_bytes(data)
    done = wsisum("verify", tmp_path / "other.ozx", "--quick", "--key", keys["public"])
    assert "is not the signature of this file by this key" in done.stdout
