"""Open ONNX files on a device. The only room that imports onnxruntime at run time."""

from __future__ import annotations

import contextlib
import ctypes.util
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.errors import DeviceError, ModelError, UsageError
from wsisum_cli.models.metadata import check_weights
from wsisum_cli.slides.source import sha256_of

T = TypeVar("T")

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
DEVICES = ("auto", "cuda", "cpu")

#: What stops onnxruntime from sending telemetry, by its version.
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}
_FATAL = 4  # onnxruntime's log level: errors arrive as exceptions, so stderr stays clean
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(float)": np.dtype(np.float32),
}


@dataclass(frozen=True)
class Port:
    """One input or output of a graph."""

    name: str
    #: None if it is not bool, uint8, int64, float16 or float32.
    dtype: np.dtype[Any] | None
    #: A size is None if it is free; the shape is None if the graph does not state it.
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = "unknown shape" if self.shape is None else "(" + ", ".join(str(n or "any") for n in self.shape) + ")"
        return f"{self.name}: {self.dtype or 'another type'} {sizes}"


@dataclass(frozen=True)
class Session:
    """An open ONNX file. Safe to run from several threads."""

    #: File name, for messages.
    source: str
    #: The active provider: "CPUExecutionProvider" or "CUDAExecutionProvider".
    provider: str
    metadata: Mapping[str, str]
    #: Of the ONNX file; covers external weights only if its metadata lists their sha256.
    sha256: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    _session: Any = field(repr=False)

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Run the graph and return the named `outputs`, all if None. Raises ModelError when the model fails."""
        names = list(outputs) if outputs is not None else [port.name for port in self.outputs]
        try:
            return [np.asarray(value) for value in self._session.run(names, dict(feeds))]
        except Exception as error:
            remedy = "try a smaller batch, or the CPU" if self.provider == CUDA else "export it again"
            raise ModelError(f"{self.source}: cannot be run ({_brief(error)}); {remedy}") from error


def open_session(path: Path, device: str, serve: Callable[[Session], T], arena: bool = True) -> T:
    """Open a session and return `serve(session)`, which reads the card, checks the graph and runs it once.

    `device` is "cpu", "cuda", or "auto": CUDA if it really becomes active, else the CPU. `serve` may be called twice,
    and raises ModelError for an unusable model. `arena` says whether memory is kept for the next run: faster where all
    runs are alike, but what the largest run took is never given back.

    Raises ModelError when the file is unusable, DeviceError when "cuda" does not become active, UsageError for an
    unknown device.
    """
    if device not in DEVICES:
        raise UsageError(f"device: expected one of {', '.join(DEVICES)}, found {device!r}")
    if device == "cpu" or (device == "auto" and not nvidia_driver_found()):
        return serve(_open(path, [CPU], arena))
    served, findings = _serve_on_cuda(path, serve, arena)
    if served is not None:
        return served
    on_cpu = serve(_open(path, [CPU], arena))  # raises if the file is at fault
    if device == "cuda":
        raise DeviceError(
            f"CUDA was requested but is not active: {findings}; install the NVIDIA driver and "
            "the libraries (pip install 'onnxruntime-gpu[cuda,cudnn]'), or use the CPU (--device cpu)"
        )
    return on_cpu


def _brief(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:300]


def _onnxruntime() -> Any:
    """Import onnxruntime and silence it: it writes to stderr, and sends telemetry.

    On Linux and macOS it begins to send while it is imported, so that it must be stopped before: it would leave an
    identifier of the machine in the home folder, and report models and errors to its maker.
    """
    os.environ.update(NO_TELEMETRY)
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def _open(path: Path, providers: list[Any], arena: bool) -> Session:
    """Open with one thread and a fixed order, so that sums round the same on any number of cores.

    No library of custom operators is ever registered: a model with one is refused. Raises ModelError.
    """
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = _FATAL
    check_weights(path)
    try:
        # onnxruntime's own fallback prints to stdout.
        session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:
        why = _brief(error).replace(f"{path.parent}/", "")  # paths stay out of messages
        raise ModelError(
            f"{path.name}: expected a model that onnxruntime {onnxruntime.__version__} can load, "
            f"found {why}; export it again to ONNX"
        ) from error
    return Session(
        source=path.name,
        provider=session.get_providers()[0],
        metadata=session.get_modelmeta().custom_metadata_map,
        sha256=sha256_of(path),
        inputs=tuple(map(_port, session.get_inputs())),
        outputs=tuple(map(_port, session.get_outputs())),
        _session=session,
    )


def _port(node: Any) -> Port:
    sizes = tuple(size if isinstance(size, int) else None for size in node.shape)
    # onnxruntime reports an unknown shape as an empty one.
    return Port(node.name, _DTYPES.get(node.type), sizes or None)


def _serve_on_cuda(path: Path, serve: Callable[[Session], T], arena: bool) -> tuple[T | None, str]:
    """The result of `serve`, None if CUDA does not become active; and a description of what was found.

    onnxruntime lists CUDA as available even without a GPU, and silently falls back to the CPU.
    """
    onnxruntime = _onnxruntime()
    available = onnxruntime.get_available_providers()
    driver = "found" if nvidia_driver_found() else "not found"
    found = f"onnxruntime {onnxruntime.__version__} offers {', '.join(available)}; NVIDIA driver {driver}"
    if CUDA not in available:
        return None, found
    found += f"; CUDA libraries {_preload_cuda(onnxruntime)}"
    # TF32 and autotuned algorithms round differently from the CPU, and from run to run.
    options = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    try:
        session = _open(path, [(CUDA, options), CPU], arena)
        if session.provider != CUDA:
            return None, f"{found}; active {session.provider}"
        return serve(session), found
    except ModelError as error:
        return None, f"{found}; {error}"


def _preload_cuda(onnxruntime: Any) -> str:
    """Load CUDA libraries installed as Python packages. Returns what happened, read from onnxruntime's output."""
    if not hasattr(onnxruntime, "preload_dlls"):
        return "left to the system"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            onnxruntime.preload_dlls()
    except Exception as error:  # noqa: BLE001 - the session shows whether it matters
        return f"not loaded ({_brief(error)})"
    missing = re.findall(r"Failed to load ([^:\s]+)", printed.getvalue())
    return f"not loaded ({', '.join(dict.fromkeys(missing))})" if missing else "loaded"


def available_providers() -> list[str]:
    """What the installed onnxruntime was built for; whether it starts here is for `try_provider` to say."""
    return [str(name) for name in _onnxruntime().get_available_providers()]


def try_provider(provider: str) -> str | None:
    """Run one convolution on a provider. Returns why it does not start; None where it does."""
    onnxruntime = _onnxruntime()
    if provider not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was built without it"
    loaded = _preload_cuda(onnxruntime) if provider == CUDA else "loaded"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    ones = {"x": np.ones((1, 1, 4, 4), np.float32), "w": np.ones((1, 1, 3, 3), np.float32)}
    try:
        session = onnxruntime.InferenceSession(_convolution(), options, providers=[provider], enable_fallback=0)
        if session.get_providers()[0] != provider:
            return f"its libraries do not load (CUDA libraries {loaded})" if provider == CUDA else "it does not load"
        found = session.run(None, ones)[0]
    except Exception as error:  # noqa: BLE001 - a provider's libraries throw what they like
        return _brief(error)
    return None if np.array_equal(found, np.full((1, 1, 2, 2), 9, np.float32)) else "it computes wrong numbers"


def _convolution() -> bytes:
    """An ONNX model of one convolution, of 4 x 4 px by 3 x 3."""

    def whole(number: int, value: int) -> bytes:
        return bytes([number << 3, value])

    def part(number: int, data: bytes) -> bytes:
        size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
        return bytes([number << 3 | 2]) + size + data

    def port(number: int, name: bytes, side: int) -> bytes:
        sides = b"".join(part(1, whole(1, size)) for size in (1, 1, side, side))
        return part(number, part(1, name) + part(2, part(1, whole(1, 1) + part(2, sides))))

    node = part(1, b"x") + part(1, b"w") + part(2, b"y") + part(4, b"Conv")
    graph = part(1, node) + part(2, b"convolution") + port(11, b"x", 4) + port(11, b"w", 3) + port(12, b"y", 2)
    return whole(1, 8) + part(8, whole(2, 13)) + part(7, graph)


def nvidia_driver_found() -> bool:
    """Whether the machine has an NVIDIA driver, without loading it."""
    if sys.platform == "win32":
        return ctypes.util.find_library("nvcuda.dll") is not None
    paths = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia/version", "/dev/dxg")
    return any(Path(path).exists() for path in paths)
