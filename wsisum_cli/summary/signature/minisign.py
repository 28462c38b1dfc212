"""Detached signatures in the format of minisign: Ed25519 over the BLAKE2b hash of the whole file. The one home of it.

The same file and key give the same bytes. The tool `minisign -V` accepts them too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.summary.container import name_of, open_anywhere, writing_aside

if TYPE_CHECKING:
    from minisign import PublicKey, SecretKey, Signature

SUFFIX = ".minisig"
#: What is signed besides the bytes. It holds no name: those of slides may be private.
COMMENT = "wsisum summary"
UNTRUSTED = "signature of a wsisum summary"
MAX_BYTES = 16 << 10  # of a key or signature


def load_secret_key(path: Path, password: Callable[[], str]) -> SecretKey:
    """The key that signs. `password` is asked where the key is encrypted. Raises UsageError."""
    minisign = library()
    try:
        key: SecretKey = minisign.SecretKey.from_bytes(read_small(path))
        if key.is_encrypted():
            key.decrypt(password())
    except (ValueError, OSError) as error:
        raise UsageError(
            f"{path.name}: expected a secret key of minisign that opens with the password, found another file, "
            f"key or password ({why(error)})"
        ) from None
    return key


def load_public_key(path: Path) -> PublicKey:
    """The key that signatures are checked with. Raises UsageError."""
    minisign = library()
    try:
        key: PublicKey = minisign.PublicKey.from_bytes(read_small(path))
    except (ValueError, OSError) as error:
        raise UsageError(f"{path.name}: expected a public key of minisign ({why(error)})") from None
    return key


def sign_file(path: Path, key: SecretKey) -> Path:
    """Write the signature of a file beside it, atomically. Raises OSError."""
    with open(path, "rb") as file:
        signature = key.sign(file, untrusted_comment=UNTRUSTED, trusted_comment=COMMENT)
    beside = signature_path(path)
    with writing_aside(beside) as aside, open(aside, "wb") as written:
        written.write(bytes(signature) + b"\n")
        written.flush()
        os.fsync(written.fileno())
    return beside


def signature_path(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def what_is_wrong(path: str | Path, key: PublicKey) -> str | None:
    """Why the signature beside a file, at a path or URL, is not that of this key; None if it is."""
    if "://" in str(path) and "?" in str(path):
        return "the address has a query; expected one to which .minisig can be added"
    try:
        with open_anywhere(f"{path}{SUFFIX}") as file:
            signature: Signature = library().Signature.from_bytes(file.read(MAX_BYTES))
        with open_anywhere(path) as file:
            key.verify(file, signature)
    except FileNotFoundError:
        return f"{name_of(path)}{SUFFIX} is missing"
    except ValueError as error:  # of the library: no signature, of another key, or of another file
        return f"{name_of(path)}{SUFFIX} is not the signature of this file by this key ({error})"
    except SummaryError as error:  # of an address
        return str(error)
    except Exception as error:  # noqa: BLE001
        return f"{name_of(path)}{SUFFIX} cannot be read ({type(error).__name__})"
    return None


def read_small(path: Path) -> bytes:
    """Raises OSError, and ValueError for a file that is too long to be a key."""
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError("it is too long")
    return data


def why(error: Exception) -> str:
    """An error in words, without a path."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def library() -> Any:
    """Raises UsageError where the extra is not installed."""
    try:
        import minisign
    except ImportError as error:
        raise UsageError("signatures need an extra: pip install 'wsisum[sign]'") from error
    return minisign
