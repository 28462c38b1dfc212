"""Starts commands by a fork of a process that has imported what they need: `python warm_start.py SOCKET`.

It ends with its standard input.

Imports take most of the time of a short command. Each command still is a process of its own, with its own arguments,
environment, working folder, streams and exit code. Its workers start as `spawn` starts them, from what is pickled, by
a fork of the same imports.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import multiprocessing.util
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

import wsisum_cli

#: What a run imports beside the modules of the project. onnxruntime is not here: it starts threads, which forks lose.
IMPORTS = (
    *("cv2", "imagecodecs", "numcodecs", "openslide", "sklearn.cluster", "sklearn.utils.extmath"),
    *("tifffile", "zarr", "rich.console", "rich.progress", "rich.table"),
)
#: What needs torch, which most commands never import.
LEFT_OUT = ("wsisum_cli.training", "wsisum_cli.evaluation", "wsisum_cli.__main__")
PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 15, 36
MOST_BYTES = 1 << 18  # of a request

real_spawn = multiprocessing.util.spawnv_passfds


@dataclass(frozen=True)
class Request:
    """A process to start; streams and other files travel beside it, and get the numbers it states.

    `code` is what `python -c` would run; empty: the command line, or the script that `arguments` begin with.
    """

    arguments: Sequence[str]
    cwd: str
    environment: dict[str, str]
    code: str = ""
    numbers: Sequence[int] = (0, 1, 2)
    blocked: Sequence[int] = ()  # signals
    adopted: bool = False  # by the nearest ancestor that adopts, which waits for it

    def send(self, connection: socket.socket, files: Sequence[int]) -> int:
        """Start it. Returns a pipe that gives the number of the process, and its exit code if it is awaited."""
        answers, theirs = os.pipe()
        socket.send_fds(connection, [json.dumps(asdict(self)).encode()], [theirs, *files])
        os.close(theirs)
        return answers

    @classmethod
    def receive(cls, requests: socket.socket) -> tuple[Request | None, list[int]]:
        """The next one and its files; None when nobody can ask any more."""
        message, files, _, _ = socket.recv_fds(requests, MOST_BYTES, 64)
        return (cls(**json.loads(message)) if message else None), files


def import_all() -> None:
    """Import all that a run may need, as something no garbage collector looks at: a fork copies what it touches."""
    for name in IMPORTS:
        import_module(name)
    for module in pkgutil.walk_packages(wsisum_cli.__path__, "wsisum_cli."):
        if not module.name.startswith(LEFT_OUT):
            import_module(module.name)
    gc.collect()
    gc.freeze()


def serve(listening: socket.socket) -> Request:
    """Fork for each request, and return in the new process; end when there is no more input."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    running: dict[int, int] = {}  # process -> where its exit code goes
    while True:
        ready, _, _ = select.select([listening, woken, sys.stdin], [], [])
        if sys.stdin in ready:
            os._exit(0)
        if woken in ready:
            os.read(woken, 4096)
            report_ended(running)
        if listening in ready:
            with listening.accept()[0] as requests:
                request, (answers, *files) = Request.receive(requests)
            assert request is not None
            if (pid := os.fork()) == 0:
                listening.detach()  # once it is collected, it would close whatever has its number by then
                signal.set_wakeup_fd(-1)
                return born(request, answers, files)
            for file in files:
                os.close(file)
            if request.adopted:
                os.close(answers)
                os.waitpid(pid, 0)
            else:
                os.write(answers, b"%d\n" % pid)
                running[pid] = answers


def serve_one(requests: socket.socket) -> Request:
    """The same for the process that started this one, and adopts what is started here."""
    while True:
        request, files = Request.receive(requests)
        if request is None:
            os._exit(0)
        if (pid := os.fork()) == 0:
            requests.detach()  # as above
            return born(request, *split(files))
        os.waitpid(pid, 0)
        for file in files:
            os.close(file)


def split(files: list[int]) -> tuple[int, list[int]]:
    return files[0], files[1:]


def born(request: Request, answers: int, files: Sequence[int]) -> Request:
    """Become a process of its own, with the files of a request and no others."""
    if request.adopted:
        if os.fork() != 0:
            os._exit(0)
        os.write(answers, b"%d\n" % os.getpid())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked)
    high = [os.dup2(file, 1000 + place) for place, file in enumerate(files)]
    for file, number in zip(high, request.numbers, strict=True):
        os.dup2(file, number)
    for name in os.listdir("/proc/self/fd"):
        if (number := int(name)) not in request.numbers:
            with contextlib.suppress(OSError):  # the listing itself
                os.close(number)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115 - for good
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115 - for good
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - for good
    return request


def report_ended(running: dict[int, int]) -> None:
    for pid in list(running):
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            answers = running.pop(pid)
            os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(code))
            os.close(answers)


def run(request: Request) -> NoReturn:
    """Take on what a request states, and do it."""
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environment)
    nursery, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        nursery.close()
        run(serve_one(theirs))
    theirs.close()
    start_workers_by(lambda worker, files: worker.send(nursery, files))
    if request.code:
        sys.argv = ["-c", *request.arguments]
        if "spawn_main" in request.code:
            ctypes.CDLL(None).prctl(PR_SET_NAME, b"spawn_main")
        end(partial(exec, request.code, {"__name__": "__main__"}))
    script = next((word for word in request.arguments[:1] if word.endswith(".py")), None)
    sys.argv = list(request.arguments) if script else ["wsisum", *request.arguments]
    if script:
        end(partial(runpy.run_path, script, run_name="__main__"))
    end(partial(runpy.run_module, "wsisum_cli", run_name="__main__", alter_sys=True))


def start_workers_by(send: Callable[[Request, Sequence[int]], int] | None) -> None:
    """Let `multiprocessing` start the workers of this process by requests to a process that has imported all.

    None: as it does without this.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(send is not None))
    multiprocessing.util.spawnv_passfds = real_spawn if send is None else partial(spawn, send)


def spawn(
    send: Callable[[Request, Sequence[int]], int], path: bytes, arguments: Sequence[Any], kept: Sequence[int]
) -> int:
    """Start `python ... -c CODE ARGUMENTS` as `multiprocessing` does, by a request."""
    words = [os.fsdecode(word) for word in arguments]
    if words[-1] != "--multiprocessing-fork":
        return real_spawn(path, arguments, kept)
    at = words.index("-c")
    numbers = (0, 1, 2, *kept)
    blocked = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
    request = Request(words[at + 2 :], os.getcwd(), dict(os.environ), words[at + 1], numbers, blocked, True)
    with os.fdopen(send(request, numbers)) as answers:
        return int(answers.readline())


def end(last: Callable[[], object]) -> NoReturn:
    """Do what is all that is left of this process, without the tidying of imports that ends an interpreter."""
    code = 1
    try:
        last()
        code = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as an interpreter does
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    import_all()
    run(serve(socket.socket(fileno=int(sys.argv[1]))))
