"""ONNX sessions and providers: patches in, features out; onnxruntime lives here and nowhere else."""

from __future__ import annotations

import contextlib
import ctypes.util
import hashlib
import io
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.card import REMEDY, Card, Fields, parse_card, read_fields
from wsisum_cli.errors import DeviceError, ModelError, UsageError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
DEVICES = ("auto", "cuda", "cpu")
CPU_BATCH, CUDA_BATCH = 16, 128  # what fits a core's cache; what keeps a GPU busy

_FATAL = 4  # onnxruntime's log level: what goes wrong arrives as an exception, so stderr stays clean


class Encoder(Protocol):
    """Patches to features. May be called from several threads at once."""

    @property
    def card(self) -> Card: ...

    @property
    def provider(self) -> str:
        """What is really active: "CPUExecutionProvider" or "CUDAExecutionProvider"."""
        ...

    @property
    def batch_size(self) -> int:
        """How many patches go through the model at once; any number may be given."""
        ...

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, D) of RGB patches (B, P, P, 3)."""
        ...


# ------------------------------------------------------------------------------------------ finding models


def shipped_models() -> dict[str, Path]:
    """Name and file of the models that come with the package."""
    package = Path(__file__).resolve().parent
    folder = package / "models"
    if not folder.is_dir() and (package.parent / "pyproject.toml").is_file():
        folder = package.parent / "models"  # an editable install
    return {path.stem: path for path in sorted(folder.glob("*.onnx"))}


def find_model(name_or_path: str | Path) -> Path:
    """The file of a shipped model's name, or of a path to an ONNX file.

    Raises ModelError when there is neither.
    """
    shipped = shipped_models()
    path = Path(name_or_path)
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    if path.is_file():
        return path
    names = ", ".join(shipped) or "none"
    what = "no such file" if path.suffix == ".onnx" or len(path.parts) > 1 else "no model of this name"
    raise ModelError(f"{name_or_path}: {what}; give a shipped model ({names}) or the path of an ONNX file")


# ---------------------------------------------------------------------------------------- input and output


@dataclass(frozen=True)
class _Input:
    """How the graph takes patches: uint8 as (B, P, P, 3), float as normalised (B, 3, P, P)."""

    name: str
    dtype: np.dtype[Any]
    #: None where the graph takes any.
    batch_size: int | None
    sides: tuple[int | None, int | None]


@dataclass(frozen=True)
class _Output:
    name: str
    #: None where the graph does not say.
    dims: int | None


_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
}


def _fixed(size: object) -> int | None:
    return size if isinstance(size, int) else None


def _read_input(session: Any, source: str) -> _Input:
    inputs = session.get_inputs()
    found = ", ".join(f"{x.name}: {x.type} {x.shape}" for x in inputs)
    wrong = ModelError(
        f"{source}: expected one input, uint8 (batch, P, P, 3) or float (batch, 3, P, P), found {found}; "
        "export the model again with such an input"
    )
    if len(inputs) != 1 or inputs[0].type not in _DTYPES or len(inputs[0].shape) != 4:
        raise wrong
    dtype = _DTYPES[inputs[0].type]
    batch, *rest = (_fixed(size) for size in inputs[0].shape)
    channels = rest.pop(2 if dtype == np.uint8 else 0)
    if channels not in (3, None):
        raise wrong
    return _Input(inputs[0].name, dtype, batch, (rest[0], rest[1]))


def _read_output(session: Any, source: str) -> _Output:
    output = session.get_outputs()[0]
    # An unknown shape is given as an empty one; the trial run then tells.
    if output.type not in ("tensor(float)", "tensor(float16)") or len(output.shape) not in (0, 2):
        raise ModelError(
            f"{source}: expected a first output of floats (batch, dims), found {output.name}: {output.type} "
            f"{output.shape}; export the model again with its pooled features as first output"
        )
    return _Output(output.name, _fixed(output.shape[1]) if output.shape else None)


def _check_agreement(card: Card, fields: Fields, graph_input: _Input, graph_output: _Output) -> None:
    for side in graph_input.sides:
        if side not in (None, card.patch_size):
            raise fields.wrong("patch_size", f"the {side} px that the graph takes", str(card.patch_size))
    if graph_output.dims not in (None, card.dims):
        raise fields.wrong("dims", f"the {graph_output.dims} that the graph gives", str(card.dims))


# --------------------------------------------------------------------------------------------- the encoder


@dataclass(frozen=True)
class OnnxEncoder:
    """An `Encoder` that runs an ONNX file.

    Batches always have the same size: short ones are filled up with zeros, long ones are split, so that the
    features of a patch depend neither on the others it comes with nor on how many they are.
    """

    card: Card
    provider: str
    batch_size: int
    _session: Any = field(repr=False)
    _input: _Input = field(repr=False)
    _output: _Output = field(repr=False)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, D) of RGB patches (B, P, P, 3).

        Raises ModelError for pixels of another shape or type, when the model fails, and when a feature is
        not finite.
        """
        side = self.card.patch_size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (side, side, 3):
            raise self._error(
                f"expected uint8 patches (B, {side}, {side}, 3), found {pixels.dtype} {pixels.shape}; "
                f"give patches of {side} px"
            )
        features = np.empty((len(pixels), self.card.dims), np.float32)
        for start in range(0, len(pixels), self.batch_size):
            batch = slice(start, start + self.batch_size)
            features[batch] = self._run(pixels[batch])
        broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(broken):
            raise self._error(
                f"expected finite features, found {len(broken)} of {len(pixels)} patches with NaN or "
                "infinity; the model cannot be used on them (a float16 export may overflow)"
            )
        return features

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """Features of one batch or less, not looked at."""
        full = np.zeros((self.batch_size, *pixels.shape[1:]), np.uint8)
        full[: len(pixels)] = pixels
        try:
            features = self._session.run([self._output.name], {self._input.name: self._prepare(full)})[0]
        except Exception as error:
            remedy = "try a smaller batch, or the CPU" if self.provider == CUDA else "export it again"
            raise self._error(f"cannot be run ({_brief(error)}); {remedy}") from error
        expected = (self.batch_size, self.card.dims)
        if features.shape != expected:
            raise self._error(f"expected features {expected}, found {features.shape}; {REMEDY}")
        return np.asarray(features[: len(pixels)])

    def _prepare(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        if self._input.dtype == np.uint8:
            return pixels
        mean, std = np.array(self.card.mean), np.array(self.card.std)
        scale, offset = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
        normalised = pixels.astype(np.float32) * scale + offset
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), dtype=self._input.dtype)

    def _error(self, message: str) -> ModelError:
        return ModelError(f"model {self.card.name!r} (sha256 {self.card.sha256[:12]}): {message}")

    def try_once(self) -> None:
        """Run one grey patch. Raises ModelError when the model fails, or gives another shape than it says."""
        side = self.card.patch_size
        self._run(np.full((1, side, side, 3), 128, np.uint8))


def _brief(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:300]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(session: Any, path: Path, batch_size: int) -> OnnxEncoder:
    """Read card and graph of a session; the graph's own batch size wins where it is fixed."""
    graph_input, graph_output = _read_input(session, path.name), _read_output(session, path.name)
    fields = read_fields(session.get_modelmeta().custom_metadata_map, path.name)
    card = parse_card(fields, graph_input.dtype == np.uint8, _sha256(path))
    _check_agreement(card, fields, graph_input, graph_output)
    return OnnxEncoder(
        card=card,
        provider=session.get_providers()[0],
        batch_size=graph_input.batch_size or batch_size,
        _session=session,
        _input=graph_input,
        _output=graph_output,
    )


# -------------------------------------------------------------------------------------- sessions, providers


def load_encoder(name_or_path: str | Path, device: str = "auto", batch_size: int | None = None) -> Encoder:
    """Load a shipped model by its name, or any ONNX file with a card by its path.

    `device` is "cpu", "cuda", or "auto": CUDA where it truly becomes active, else the CPU. `batch_size` None
    means what suits the device.

    Raises ModelError when the file cannot serve, DeviceError when "cuda" does not become active,
    UsageError for another device or a batch of less than one.
    """
    if device not in DEVICES:
        raise UsageError(f"device: expected one of {', '.join(DEVICES)}, found {device!r}")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch size: expected at least 1, found {batch_size}")
    path = find_model(name_or_path)
    if device == "cuda" or (device == "auto" and nvidia_driver_found()):
        encoder, findings = _load_on_cuda(path, batch_size or CUDA_BATCH)
        if encoder is not None:
            return encoder
        if device == "cuda":
            raise DeviceError(
                f"CUDA was asked for and is not active: {findings}; install the NVIDIA driver and "
                "the libraries (pip install 'onnxruntime-gpu[cuda,cudnn]'), or use the CPU (--device cpu)"
            )
    encoder = _describe(_open_session(path, [CPU]), path, batch_size or CPU_BATCH)
    encoder.try_once()
    return encoder


def _onnxruntime() -> Any:
    """The package, told to be quiet: it would write to stderr, and on Windows send events."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def _open_session(path: Path, providers: list[Any]) -> Any:
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
        return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:
        raise ModelError(
            f"{path.name}: expected a model that onnxruntime {onnxruntime.__version__} can load, "
            f"found {_brief(error)}; export it again to ONNX"
        ) from error


def _load_on_cuda(path: Path, batch_size: int) -> tuple[OnnxEncoder | None, str]:
    """The encoder, or None when CUDA does not become active; and what was found.

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
        session = _open_session(path, [(CUDA, options), CPU])
    except ModelError as error:
        _open_session(path, [CPU])  # raises where the fault is the file's
        return None, f"{found}; {error}"
    encoder = _describe(session, path, batch_size)
    if encoder.provider != CUDA:
        return None, f"{found}; active {encoder.provider}"
    try:
        encoder.try_once()
    except ModelError as error:
        return None, f"{found}; {error}"
    return encoder, found


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
