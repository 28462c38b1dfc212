"""Patch encoders in ONNX files: patches go in, features come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.errors import ModelError, UsageError
from wsisum_cli.models.card import ENCODER, REMEDY, Card, Fields, parse_card, read_fields
from wsisum_cli.models.places import find_model
from wsisum_cli.models.session import CUDA, Session, open_session

CPU_BATCH, CUDA_BATCH = 8, 128  # fits a core's cache; keeps a GPU busy


class Encoder(Protocol):
    """Turns patches into features. Safe to call from several threads."""

    @property
    def card(self) -> Card: ...

    @property
    def provider(self) -> str:
        """The active provider: "CPUExecutionProvider" or "CUDAExecutionProvider"."""
        ...

    @property
    def batch_size(self) -> int:
        """How many patches the model runs at once; a call may pass any number."""
        ...

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, D) of RGB patches (B, P, P, 3)."""
        ...


# ---------------------------------------------------------------------------------------- input and output


@dataclass(frozen=True)
class _Input:
    """The graph's input: uint8 (B, P, P, 3), or normalised float (B, 3, P, P)."""

    name: str
    dtype: np.dtype[Any]
    #: None if the graph takes any.
    batch_size: int | None
    sides: tuple[int | None, int | None]


@dataclass(frozen=True)
class _Output:
    name: str
    #: None if the graph does not state it.
    dims: int | None


def _read_input(session: Session) -> _Input:
    found = ", ".join(map(str, session.inputs))
    wrong = ModelError(
        f"{session.source}: expected one input, uint8 (batch, P, P, 3) or float (batch, 3, P, P), found {found}; "
        "export the model again with this input"
    )
    if len(session.inputs) != 1:
        raise wrong
    port = session.inputs[0]
    if port.dtype not in (np.uint8, np.float32, np.float16) or port.shape is None or len(port.shape) != 4:
        raise wrong
    batch, *rest = port.shape
    channels = rest.pop(2 if port.dtype == np.uint8 else 0)
    if channels not in (3, None):
        raise wrong
    return _Input(port.name, np.dtype(port.dtype), batch, (rest[0], rest[1]))


def _read_output(session: Session) -> _Output:
    port = session.outputs[0]
    # If the graph does not state the shape, the trial run checks it.
    if port.dtype not in (np.float32, np.float16) or (port.shape is not None and len(port.shape) != 2):
        raise ModelError(
            f"{session.source}: expected a first output of floats (batch, dims), found {port}; "
            "export the model again with its pooled features as the first output"
        )
    return _Output(port.name, port.shape[1] if port.shape else None)


def _check_agreement(card: Card, fields: Fields, graph_input: _Input, graph_output: _Output) -> None:
    for side in graph_input.sides:
        if side not in (None, card.patch_size):
            raise fields.wrong("patch_size", f"the {side} px of the graph's input", str(card.patch_size))
    if graph_output.dims not in (None, card.dims):
        raise fields.wrong("dims", f"the {graph_output.dims} of the graph's output", str(card.dims))


# --------------------------------------------------------------------------------------------- the encoder


@dataclass(frozen=True)
class OnnxEncoder:
    """An `Encoder` that runs an ONNX file.

    Batches always have the same size: short ones are padded with zeros, long ones are split. The features of a patch
    therefore do not depend on the other patches or on their number.
    """

    card: Card
    provider: str
    batch_size: int
    _session: Session = field(repr=False)
    _input: _Input = field(repr=False)
    _output: _Output = field(repr=False)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, D) of RGB patches (B, P, P, 3).

        Raises ModelError for a wrong shape or dtype, when the model fails, and when a feature is not finite.
        """
        side = self.card.patch_size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (side, side, 3):
            raise self._error(
                f"expected uint8 patches (B, {side}, {side}, 3), found {pixels.dtype} {pixels.shape}; "
                f"pass patches of {side} px"
            )
        features = np.empty((len(pixels), self.card.dims), np.float32)
        for start in range(0, len(pixels), self.batch_size):
            batch = slice(start, start + self.batch_size)
            features[batch] = self._run(pixels[batch])
        broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(broken):
            raise self._error(
                f"expected finite features, found {len(broken)} of {len(pixels)} patches with NaN or "
                "infinity; the model cannot encode them (a float16 export may overflow)"
            )
        return features

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """Features of at most one batch, unchecked."""
        full = np.zeros((self.batch_size, *pixels.shape[1:]), np.uint8)
        full[: len(pixels)] = pixels
        features = self._session.run({self._input.name: self._prepare(full)}, [self._output.name])[0]
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
        """Run one grey patch. Raises ModelError when the model fails or its output has a wrong shape."""
        side = self.card.patch_size
        self._run(np.full((1, side, side, 3), 128, np.uint8))


def _describe(session: Session, batch_size: int | None) -> OnnxEncoder:
    """Read a session's card and graph. A fixed batch size in the graph takes precedence."""
    fields = read_fields(session.metadata, session.source)
    fields.check_kind(ENCODER)  # before the graph: an error about its inputs is less clear
    graph_input, graph_output = _read_input(session), _read_output(session)
    card = parse_card(fields, graph_input.dtype == np.uint8, session.sha256)
    _check_agreement(card, fields, graph_input, graph_output)
    return OnnxEncoder(
        card=card,
        provider=session.provider,
        batch_size=graph_input.batch_size or batch_size or (CUDA_BATCH if session.provider == CUDA else CPU_BATCH),
        _session=session,
        _input=graph_input,
        _output=graph_output,
    )


def load_encoder(name_or_path: str | Path, device: str = "auto", batch_size: int | None = None) -> Encoder:
    """Load a bundled model by name, or any ONNX file with an encoder's card by path.

    `device` is "cpu", "cuda", or "auto": CUDA if it really becomes active, else the CPU. `batch_size` None means a
    default for the device.

    Raises ModelError when the file is unusable, DeviceError when "cuda" does not become active, UsageError for an
    unknown device or a batch size below one.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch size: expected at least 1, found {batch_size}")

    def serve(session: Session) -> OnnxEncoder:
        encoder = _describe(session, batch_size)
        encoder.try_once()
        return encoder

    return open_session(find_model(name_or_path), device, serve)
