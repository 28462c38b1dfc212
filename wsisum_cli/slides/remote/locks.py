"""Locks on files that end with their process, however it ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL = 0.1  # s between tries


def lock(handle: int) -> bool:
    """Lock an open file for this handle alone, without waiting; False where another holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of a file, which is made; `waiting` is called while another holds it."""
    with opened(path) as handle:
        while not lock(handle):
            waiting()
            time.sleep(POLL)
        yield


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """The lock goes when the file is closed."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not lock(handle)
    finally:
        os.close(handle)
