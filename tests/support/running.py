"""Running the command line in a process of its own."""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO

WARM = Path(__file__).with_name("warm_start.py")


def wsisum(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a process that begins with its imports done where there are forks: `warm_start`."""
    words = [*map(str, arguments)]
    if sys.platform != "linux":
        return fresh(*words, cwd=cwd, env=env, timeout=timeout)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        code = _warm(words, out, errors, cwd or Path.cwd(), os.environ if env is None else env, timeout)
        said = [stream.seek(0) or stream.read().decode() for stream in (out, errors)]
    return subprocess.CompletedProcess(["wsisum", *words], code, *said)


def fresh(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """The same by a new interpreter, as a user starts it."""
    command = [sys.executable, "-m", "wsisum_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd, env=env)


def _warm(
    words: list[str], out: IO[bytes], errors: IO[bytes], cwd: Path, env: Mapping[str, str], timeout: float
) -> int:
    """Run a command by a fork, and return its exit code. Raises TimeoutExpired."""
    from warm_start import Request

    request = Request(words, str(cwd), dict(env))
    with open(os.devnull, "rb") as nothing:
        answers = request.send(_process_of_imports(), [nothing.fileno(), out.fileno(), errors.fileno()])
    with os.fdopen(answers, "rb", buffering=0) as told:
        pid, limit = _number(told), time.monotonic() + timeout
        if not select.select([told], [], [], max(0.0, limit - time.monotonic()))[0]:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(words, timeout)
        return _number(told)


def _number(stream: IO[bytes]) -> int:
    line = stream.readline()
    assert line, "the process that starts commands has ended"
    return int(line)


@cache
def _process_of_imports() -> socket.socket:
    """A connection to the process that starts commands, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen([sys.executable, WARM, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
