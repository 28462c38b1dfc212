"""Running the command line in a process of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from warm_start import Request

WARM = Path(__file__).with_name("warm_start.py")


def wsisum(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a process that begins with its imports done where there are forks: `warm_start`."""
    if sys.platform != "linux":
        return fresh(*arguments, cwd=cwd, env=env, timeout=timeout)
    return Command(*arguments, cwd=cwd, env=env).communicate(timeout)


def fresh(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """The same by a new interpreter, as a user starts it."""
    command = [sys.executable, "-m", "wsisum_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd, env=env)


def start(*arguments: object) -> Command | subprocess.Popen[bytes]:
    """Begin a command, to be killed; it begins with its imports done where there are forks."""
    if sys.platform == "linux":
        return Command(*arguments)
    command = [sys.executable, "-m", "wsisum_cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def python(
    code: str, *arguments: object, cwd: Path | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `python -c` to its end, in a process that begins with the imports of commands done where there are forks."""
    if sys.platform != "linux":
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd)
    return Command(*arguments, code=code, cwd=cwd).communicate(timeout)


class Command:
    """A command that runs, in a process that began with its imports done. `code` is run in place of `wsisum`."""

    def __init__(
        self, *arguments: object, code: str = "", cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        from warm_start import Request

        self.arguments = [*map(str, arguments)]
        self.said = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115 - closed once read
        request = Request(self.arguments, str(cwd or Path.cwd()), dict(os.environ if env is None else env), code)
        with open(os.devnull, "rb") as nothing:
            answers = _ask(request, [nothing.fileno(), *(stream.fileno() for stream in self.said)])
        self._told = os.fdopen(answers, "rb", buffering=0)
        self.pid = _number(self._told)

    def communicate(self, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Wait for its end, and what it said. Raises TimeoutExpired, after it was killed."""
        if not select.select([self._told], [], [], timeout)[0]:
            self.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        with self._told:
            code = _number(self._told)
        said = [stream.seek(0) or stream.read().decode() for stream in self.said]
        for stream in self.said:
            stream.close()
        return subprocess.CompletedProcess(["wsisum", *self.arguments], code, *said)

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _ask(request: Request, files: Sequence[int]) -> int:
    """Send a request to the process that starts commands; returns where its answers come from."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(_process_of_imports())
        return request.send(connection, files)


def _number(stream: IO[bytes]) -> int:
    line = stream.readline()
    assert line, "the process that starts commands has ended"
    return int(line)


@cache
def _process_of_imports() -> str:
    """The address of the process that starts commands, which ends with this one."""
    folder = tempfile.mkdtemp()
    address = f"{folder}/commands"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen(16)
        number = listening.fileno()
        process = subprocess.Popen([sys.executable, WARM, str(number)], pass_fds=[number], stdin=subprocess.PIPE)

    def end() -> None:
        process.communicate()
        shutil.rmtree(folder)

    atexit.register(end)
    return address


#: A process without imports, which hands its streams over.
PROGRAM = """#!{python} -IS
import json, os, socket, sys
answers, theirs = os.pipe()
about = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}}
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
    connection.connect({address!r})
    socket.send_fds(connection, [json.dumps(about).encode()], [theirs, 0, 1, 2])
os.close(theirs)
with open(answers) as told:
    sys.exit([int(line) for line in told][1])
"""


def write_program(path: Path) -> None:
    """Write `wsisum` as a program for a shell, which runs as `wsisum` here does."""
    if sys.platform == "linux":
        path.write_text(PROGRAM.format(python=sys.executable, address=_process_of_imports()))
    else:
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wsisum_cli "$@"\n')
    path.chmod(0o755)
