"""Keys that sign and check summaries, and the password of a key."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wsisum_cli.errors import UsageError

PASSWORD = "WSISUM_SIGN_PASSWORD"
SignOption = Annotated[
    Path | None,
    typer.Option(
        "--sign",
        help="Sign what is written with this secret key of minisign; NAME.ozx.minisig lies beside it. The key's "
        f"password is asked for, or taken from {PASSWORD}.",
        metavar="KEY",
        exists=True,
        dir_okay=False,
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        help="Public key of minisign; a summary without its signature is an error.",
        metavar="FILE",
        exists=True,
        dir_okay=False,
    ),
]


def signer(path: Path | None) -> Any:
    """The key of `--sign`, opened; None without one. Raises UsageError."""
    if path is None:
        return None
    from wsisum_cli.summary.signature.minisign import load_secret_key

    return load_secret_key(path, lambda: password_of(path))


def checker(path: Path | None) -> Any:
    """The key of `--key`; None without one. Raises UsageError."""
    if path is None:
        return None
    from wsisum_cli.summary.signature.minisign import load_public_key

    return load_public_key(path)


def password_of(path: Path) -> str:
    """Raises UsageError where nobody can be asked."""
    found = os.environ.get(PASSWORD)
    if found is not None:
        return found
    if not sys.stdin.isatty():
        raise UsageError(f"{path.name}: the key is encrypted; set {PASSWORD}, or run the command in a terminal")
    return str(typer.prompt(f"password of {path.name}", hide_input=True, err=True))
