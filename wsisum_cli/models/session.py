"""ONNX files opened on a device: sessions and providers; onnxruntime lives here and nowhere else at run time."""

from __future__ import annotations

import contextlib
import ctypes.util
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.errors import DeviceError, ModelError, UsageError
from wsisum_cli.slides.source import sha256_of

T = TypeVar("T")

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
DEVICES = ("auto", "cuda", "cpu")

_FATAL = 4  # onnxruntime's log level: what goes wrong arrives as an exception, so stderr stays clean
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
    #: None where it is none of bool, uint8, int64, float16, float32.
    dtype: np.dtype[Any] | None
    #: A size is None where the graph takes or gives any; the shape is None where the graph does not say.
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = "unknown shape" if self.shape is None else "(" + ", ".join(str(n or "any") for n in self.shape) + ")"
        return f"{self.name}: {self.dtype or 'another type'} {sizes}"


@dataclass(frozen=True)
class Session:
    """An ONNX file, opened. May be run from several threads at once."""

    #: Name of the file, for messages.
    source: str
    #: What is really active: "CPUExecutionProvider" or "CUDAExecutionProvider".
    provider: str
    metadata: Mapping[str, str]
    #: Of the ONNX file; weights in other files only where its metadata names their sha256.
    sha256: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    _session: Any = field(repr=False)

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """The outputs named, None for all of them. Raises ModelError when the model fails."""
        names = list(outputs) if outputs is not None else [port.name for port in self.outputs]
        try:
            return [np.asarray(value) for value in self._session.run(names, dict(feeds))]
        except Exception as error:
            remedy = "try a smaller batch, or the CPU" if self.provider == CUDA else "export it again"
            raise ModelError(f"{self.source}: cannot be run ({_brief(error)}); {remedy}") from error


def open_session(path: Path, device: str, serve: Callable[[Session], T]) -> T:
    """What `serve` makes of the file's session: it reads the card, looks at the graph and runs it once.

    `device` is "cpu", "cuda", or "auto": CUDA where it truly becomes active, else the CPU. `serve` may be called
    twice, and raises ModelError for a model that cannot serve.

    Raises ModelError when the file cannot serve, DeviceError when "cuda" does not become active, UsageError for
    another device.
    """
    if device not in DEVICES:
        raise UsageError(f"device: expected one of {', '.join(DEVICES)}, found {device!r}")
    if device == "cpu" or (device == "auto" and not nvidia_driver_found()):
        return serve(_open(path, [CPU]))
    served, findings = _serve_on_cuda(path, serve)
    if served is not None:
        return served
    on_cpu = serve(_open(path, [CPU]))  # raises where the fault is the file's
    if device == "cuda":
        raise DeviceError(
            f"CUDA was asked for and is not active: {findings}; install the NVIDIA driver and "
            "the libraries (pip install 'onnxruntime-gpu[cuda,cudnn]'), or use the CPU (--device cpu)"
        )
    return on_cpu


def _brief(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:300]


def _onnxruntime() -> Any:
    """The package, told to be quiet: it would write to stderr, and on Windows send events."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def _open(path: Path, providers: list[Any]) -> Session:
    """One thread and a fixed order, so that sums are rounded the same on every number of cores."""
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = _FATAL
    try:
        # Its own fallback prints to stdout.
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
    # onnxruntime gives an unknown shape as an empty one.
    return Port(node.name, _DTYPES.get(node.type), sizes or None)


def _serve_on_cuda(path: Path, serve: Callable[[Session], T]) -> tuple[T | None, str]:
    """What is served, None when CUDA does not become active; and what was found.

    onnxruntime lists CUDA as available on machines without it, and silently uses the CPU instead.
    """
    onnxruntime = _onnxruntime()
    available = onnxruntime.get_available_providers()
    driver = "found" if nvidia_driver_found() else "not found"
    found = f"onnxruntime {onnxruntime.__version__} offers {', '.join(available)}; NVIDIA driver {driver}"
    if CUDA not in available:
        return None, found
    found += f"; CUDA libraries {_preload_cuda(onnxruntime)}"
    # TF32 and the fastest of several algorithms would round otherwise than the CPU, and from run to run.
    options = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    try:
        session = _open(path, [(CUDA, options), CPU])
        if session.provider != CUDA:
            return None, f"{found}; active {session.provider}"
        return serve(session), found
    except ModelError as error:
        return None, f"{found}; {error}"


def _preload_cuda(onnxruntime: Any) -> str:
    """Load the CUDA libraries that come as Python packages; says how it went, which onnxruntime prints."""
    if not hasattr(onnxruntime, "preload_dlls"):
        return "left to the system"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            onnxruntime.preload_dlls()
    except Exception as error:  # noqa: BLE001 - the session will tell whether it mattered
        return f"not loaded ({_brief(error)})"
    missing = re.findall(r"Failed to load ([^:\s]+)", printed.getvalue())
    return f"not loaded ({', '.join(dict.fromkeys(missing))})" if missing else "loaded"


def nvidia_driver_found() -> bool:
    """Whether the machine has an NVIDIA driver, without loading it."""
    if sys.platform == "win32":
        return ctypes.util.find_library("nvcuda.dll") is not None
    signs = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia/version", "/dev/dxg")
    return any(Path(sign).exists() for sign in signs)
