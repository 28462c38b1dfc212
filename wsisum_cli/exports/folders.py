"""Folders that are written aside and renamed, as files are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsisum_cli.errors import UsageError
from wsisum_cli.features.h5 import EXPORT_KIND
from wsisum_cli.summary.container import PART, leftovers, new_owner, short_name, sync_folder, writing_aside

NEW, OLD = f".new{PART}", f".old{PART}"


@contextmanager
def writing(path: Path, marker: str | None) -> Iterator[Path]:
    """Yield a temporary path beside `path` for a file, or an empty folder if there is a `marker`; then put it in place.

    Raises UsageError for a folder that is there and does not hold an export, which is left alone.
    """
    with writing_aside(path) if marker is None else writing_folder_aside(path, marker) as aside:
        yield aside


@contextmanager
def writing_folder_aside(path: Path, marker: str) -> Iterator[Path]:
    """Yield an empty folder beside `path`, renamed to `path` when the block succeeds and removed when it fails.

    A folder that is there is replaced only if its file `marker` says that it is an export. Leftovers of killed
    processes are removed, or put back where a folder was about to be replaced.
    """
    if path.exists() and not is_ours(path, marker):
        raise UsageError(f"{path}: exists and is no export of a summary; move it away, or choose another --output")
    owner = new_owner()
    for stale in leftovers(path):
        if stale.name.endswith(OLD) and not path.exists():
            os.replace(stale, path)
        else:
            shutil.rmtree(stale, ignore_errors=True)
    aside, old = (path.with_name(f".{short_name(path)}.{owner}{what}") for what in (NEW, OLD))
    aside.mkdir()
    try:
        yield aside
        for folder in [aside, *(found for found in aside.rglob("*") if found.is_dir())]:
            sync_folder(folder)
        if path.exists():
            os.replace(path, old)
        os.replace(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(old, ignore_errors=True)
    sync_folder(path.parent)


def is_ours(path: Path, marker: str) -> bool:
    """Whether a folder holds an export, by its file `marker`: JSON that says so, or a summary's attributes."""
    try:
        found = json.loads((path / marker).read_bytes())
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict):
        return False
    attributes = found.get("attributes")
    return found.get("kind") == EXPORT_KIND or (isinstance(attributes, dict) and "wsisum" in attributes)


def put(path: Path, data: bytes) -> None:
    """Write `data` to a new file and sync it to disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
