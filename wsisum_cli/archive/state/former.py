"""Outputs that a new one takes the place of.

Outputs are called after the paths of their slides. A slide that lies where another one was takes its name, and the old
output may be all that is left of that one: so it is kept, unless the new output is of the same slide.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from wsisum_cli.archive.state.journal import STATE_FOLDER
from wsisum_cli.errors import WsisumError
from wsisum_cli.pipeline.product import Product
from wsisum_cli.slides.source import state_of
from wsisum_cli.summary.container import new_owner, sync_folder
from wsisum_cli.summary.signature.minisign import signature_path

REPLACED = f"{STATE_FOLDER}/replaced"


def place_aside() -> PurePosixPath:
    """A folder within that of the outputs which nothing else is put into."""
    return PurePosixPath(REPLACED) / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{new_owner()}"


def hold(folder: Path, output: Path) -> Path | None:
    """A second name for an output within `folder`, and for the signature beside it; None where there is none.

    It is there before the new output is made, so that a killed run loses nothing. Raises OSError.
    """
    if not output.is_file():
        return None
    held = folder / place_aside() / output.relative_to(folder)
    held.parent.mkdir(parents=True)
    for path, other in ((output, held), (signature_path(output), signature_path(held))):
        if os.path.isfile(path):
            link(path, other)
    sync_folder(held.parent)
    return held


def link(path: Path, other: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copy2(path, other)


def let_go(folder: Path, held: Path) -> None:
    """Remove the second name, and the folders made for it. What cannot be removed is one copy too many."""
    with suppress(OSError):
        for path in (signature_path(held), held):
            path.unlink(missing_ok=True)
        for place in held.parents:
            if place == folder:
                break
            place.rmdir()


def settle(folder: Path, held: Path | None, output: Path, product: Product) -> str:
    """Where the output that was there before is kept, once a new one was made, or could not be made.

    A path within `folder`; empty where the output is still there, or was of the same slide.
    """
    if held is None:
        return ""
    if state_of(held)[:2] == state_of(output)[:2] or are_of_one_slide(product, held, output):
        let_go(folder, held)
        return ""
    return held.relative_to(folder).as_posix()


def are_of_one_slide(product: Product, former: Path, output: Path) -> bool:
    """Whether two outputs are known to be of one slide; False where one cannot be read."""
    try:
        one, other = product.provenance(former), product.provenance(output)
    except (WsisumError, OSError, ValueError, KeyError, TypeError):
        return False
    if one is None or other is None:
        return False
    return (one.source.sha256, one.source.image) == (other.source.sha256, other.source.image)
