"""One thing that was looked at, what was found, and what to do."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as TooLongError
from concurrent.futures.process import BrokenProcessPool
from typing import Literal

from pydantic import BaseModel, ConfigDict

from wsisum_cli.models.session import try_provider

State = Literal["ok", "warning", "problem"]
LONGEST = 120.0  # s that a trial in a process of its own may take


class Check(BaseModel):
    """`advice` says what to do, and is empty where all is well."""

    model_config = ConfigDict(frozen=True)

    area: str
    name: str
    state: State
    found: str
    advice: str = ""


def check(area: str, name: str, found: str, why: str | None, advice: str, state: State = "problem") -> Check:
    """A check that is ok where `why` is None, and of this `state` otherwise."""
    if why is None:
        return Check(area=area, name=name, state="ok", found=found)
    return Check(area=area, name=name, state=state, found=why, advice=advice)


class Apart:
    """Runs trials in a process of their own, which a library may take down, or hold up; a new one follows it."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, trial: Callable[[str], str | None], name: str) -> str | None:
        """What `trial(name)` returns: why it failed, or None. The function is one of a module."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        try:
            return self._pool.submit(trial, name).result(LONGEST)
        except BrokenProcessPool:
            self._stop()
            return "it takes its process down"
        except TooLongError:
            self._stop()
            return f"it does not answer within {LONGEST:.0f} s"

    def _stop(self) -> None:
        if self._pool is None:
            return
        for process in list((self._pool._processes or {}).values()):
            process.kill()  # it may hang; nothing that it holds is of use any more
        self._pool.shutdown()
        self._pool = None


def start_apart(provider: str) -> str | None:
    """Why a provider of onnxruntime does not start, None where it does; a GPU's memory is free again afterwards."""
    with Apart() as apart:
        return apart(try_provider, provider)
