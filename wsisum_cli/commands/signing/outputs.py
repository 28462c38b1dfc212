"""Signatures of the summaries that a command wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wsisum_cli.archive.outcome import UP_TO_DATE, WRITTEN, Outcome

if TYPE_CHECKING:
    from wsisum_cli.archive.run import Listener

Written = TypeVar("Written")


def sign_or_drop(path: Path, key: Any) -> str:
    """Sign a summary that was just written. Without a key the signature of what was there before is removed.

    Returns what became of it in words; empty where there is nothing to say. Raises OSError.
    """
    from wsisum_cli.summary.signature.minisign import sign_file, signature_path

    if key is not None:
        sign_file(path, key)
        return "signed"
    old = signature_path(path)
    if not os.path.exists(old):  # nor can there be one where the name is too long for it
        return ""
    old.unlink()
    return "its old signature removed; sign it with --sign"


def signed(before: Path, path: Path, key: Any, result: Written) -> Written:
    """What was made of the summary `before` and written to `path`, once it is signed. Says so where it is not."""
    from wsisum_cli.commands.console import warn
    from wsisum_cli.summary.signature.minisign import signature_path

    done = sign_or_drop(path, key)
    if key is None and (done or signature_path(before).exists()):
        warn(f"{path.name}: {done or 'not signed, though the summary it was made of is; sign it with --sign'}")
    return result


def signing(
    listener: Listener, output: Path, key: Any, say: Callable[[str], None], failed: list[str] | None = None
) -> Listener:
    """The listener, which also signs each summary in the folder `output` as soon as it is written.

    A signature that cannot be written ends no run: it is said, and the summary is added to `failed`.
    """

    def outcome(found: Outcome) -> None:
        if found.status == WRITTEN and found.summary:
            sign(found.summary)
        listener.outcome(found)

    def sign(summary: str) -> None:
        try:
            done = sign_or_drop(output / summary, key)
        except OSError as error:
            what = "it stays unsigned" if key is not None else "its old signature could not be removed"
            say(f"{summary}: {what} ({error.strerror or type(error).__name__})")
            if failed is not None:
                failed.append(summary)
            return
        if done and key is None:
            say(f"{summary}: {done}")

    return replace(listener, outcome=outcome)


def unsigned(outcomes: Iterable[Outcome], output: Path, key: Any) -> list[str]:
    """Summaries that are up to date, and have no signature of this key.

    They are not signed here: only what this run wrote is known to be what its slide gives.
    """
    from wsisum_cli.summary.signature.minisign import what_is_wrong

    public = key.get_public_key()
    kept = [found.summary for found in outcomes if found.reason == UP_TO_DATE and found.summary]
    return [name for name in kept if what_is_wrong(output / name, public) is not None]
