"""Summarizers: features of a slide's candidates go in, a reconstruction from a few of them and an embedding come out.

The masked autoencoder of WSISum (Medical Image Analysis 110:103970, 2026) at run time. The graph gets the features of
the visible candidates and the positions of all, but not the features of masked ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.errors import ModelError
from wsisum_cli.models.card import SUMMARIZER, SummarizerCard, parse_summarizer_card, read_fields
from wsisum_cli.models.session import CUDA, Port, Session, open_session

#: Most candidates, over all masks, per run of the graph: with more, attention takes hundreds of MB.
BATCH_CANDIDATES = 8192
#: Most pairs of a candidate and a visible patch, over all masks, per run on a CPU: a pair takes 350 bytes.
BATCH_PAIRS = 2**18
#: Most patches to keep with a summarizer, since attention memory grows with their square.
MOST_KEPT = 2048
#: Largest change of the output, relative to its largest value, that masked features may cause.
LEAK = 1e-3

Ports = Mapping[str, tuple[type[Any], tuple[int | None, ...]]]  # name -> dtype and shape; None: any size


@dataclass(frozen=True)
class Reconstruction:
    """The output of a summarizer for B choices of visible candidates."""

    reconstruction: NDArray[np.float32]  # (B, N, D) of every candidate, including the visible ones
    embedding: NDArray[np.float32]  # (B, E) of the slide, from the visible candidates alone


class Summarizer(Protocol):
    """Reconstructs candidates. Safe to call from several threads."""

    @property
    def card(self) -> SummarizerCard: ...

    @property
    def provider(self) -> str:
        """The active provider: "CPUExecutionProvider" or "CUDAExecutionProvider"."""
        ...

    def __call__(
        self,
        features: NDArray[np.floating[Any]],
        coords: NDArray[np.number[Any]],
        patch_size_level0: float,
        kept: NDArray[np.integer[Any]],
    ) -> Reconstruction:
        """Reconstruct features (N, D) at coords (N, 2); rows of kept (B, K) are visible, one choice per row."""
        ...


@dataclass(frozen=True)
class OnnxSummarizer:
    """A `Summarizer` that runs an ONNX file, on as many choices at once as memory allows."""

    card: SummarizerCard
    provider: str
    _session: Session = field(repr=False)

    def __call__(
        self,
        features: NDArray[np.floating[Any]],
        coords: NDArray[np.number[Any]],
        patch_size_level0: float,
        kept: NDArray[np.integer[Any]],
    ) -> Reconstruction:
        """Reconstruct features (N, D) at coords (N, 2) in level-0 px; kept (B, K) are visible, one choice per row.

        Raises ModelError for features of wrong length or not finite, rows out of range, when the model fails, and when
        its output is not finite.
        """
        self._check(features, coords, kept)
        places = in_patch_sides(coords, patch_size_level0)
        # Parts of about the same length: a graph may round otherwise for a single choice.
        parts = [
            self._run(features, places, part)
            for part in np.array_split(kept, -(-len(kept) // self._most_at_once(len(features), kept.shape[1])))
        ]
        output = Reconstruction(*(np.concatenate([part[i] for part in parts]) for i in range(2)))
        if not (np.isfinite(output.reconstruction).all() and np.isfinite(output.embedding).all()):
            raise self._error("expected finite numbers, found NaN or infinity; it cannot be used on these features")
        return output

    def _most_at_once(self, count: int, visible: int) -> int:
        """Number of choices of `visible` among `count` candidates per run."""
        most = BATCH_CANDIDATES // count
        return max(1, most if self.provider == CUDA else min(most, BATCH_PAIRS // (count * visible)))

    def _check(self, features: NDArray[Any], coords: NDArray[Any], kept: NDArray[Any]) -> None:
        check_features(features, coords, self.card.dims, self._error)
        if len(features) > 2 * MOST_KEPT:
            raise self._error(f"expected at most {2 * MOST_KEPT} candidates, found {len(features)}; keep fewer patches")
        rows = np.issubdtype(kept.dtype, np.integer) and kept.ndim == 2 and kept.size > 0
        if not rows or kept.min() < 0 or kept.max() >= len(features):
            raise self._error(
                f"expected rows (B, K) of {len(features)} candidates as kept, found {kept.dtype} {kept.shape}"
            )

    def _run(self, features: NDArray[Any], places: NDArray[Any], kept: NDArray[Any]) -> list[NDArray[Any]]:
        """Run one batch, checking only the output shapes."""
        count, batch = len(features), len(kept)
        feeds = {
            "features": np.broadcast_to(features.astype(np.float32), (batch, count, self.card.dims)),
            "coords": np.broadcast_to(places, (batch, count, 2)),
            "valid": np.ones((batch, count), np.bool_),
            "kept": kept.astype(np.int64),
        }
        made = run_graph(self._session, feeds, ("reconstruction", "embedding"))
        expected = [(batch, count, self.card.dims), (batch, self.card.embedding_dims)]
        if [value.shape for value in made] != expected:
            raise self._error(f"expected {expected}, found {[value.shape for value in made]}; export it again")
        return made

    def _error(self, message: str) -> ModelError:
        return ModelError(f"model {self.card.name!r} (sha256 {self.card.sha256[:12]}): {message}")

    def try_once(self) -> None:
        """Run a few candidates, and a single one, and check that masked features do not leak into the output.

        Raises ModelError when the model fails, its output has a wrong shape, or masked features leak.
        """
        rng = np.random.default_rng(0)
        features, other = rng.standard_normal((2, 5, self.card.dims)).astype(np.float32)
        coords = np.array([(0, 0), (1, 0), (3, 2), (0, 7), (2, 2)])
        self(features[:1], coords[:1], 1, np.array([[0]]))
        visible = np.array([[0, 3], [1, 4]])
        before = self(features, coords, 1, visible)
        other[visible[0]] = features[visible[0]]
        after, masked = self(other, coords, 1, visible[:1]), [1, 2, 4]
        pairs = [
            (before.reconstruction[0, masked], after.reconstruction[0, masked]),
            (before.embedding[0], after.embedding[0]),
        ]
        if any(np.abs(a - b).max() > LEAK * max(1.0, float(np.abs(a).max())) for a, b in pairs):
            raise self._error(
                "expected the output not to depend on the features of masked candidates, found that it does; its "
                "figures would be meaningless, mask the features in the graph"
            )


def load_summarizer(path: Path, device: str = "auto") -> Summarizer:
    """Load a summarizer from an ONNX file. `device` is "cpu", "cuda", or "auto".

    Raises ModelError when the file is unusable, DeviceError when "cuda" does not become active, UsageError for an
    unknown device.
    """
    return open_session(path, device, _serve, arena=False)  # runs differ in their number of candidates


def _serve(session: Session) -> OnnxSummarizer:
    card = parse_summarizer_card(read_fields(session.metadata, session.source, SUMMARIZER), session.sha256)
    dims, width = card.dims, card.embedding_dims
    inputs: Ports = {
        "features": (np.float32, (None, None, dims)),
        "coords": (np.float32, (None, None, 2)),
        "valid": (np.bool_, (None, None)),
        "kept": (np.int64, (None, None)),
    }
    outputs: Ports = {"reconstruction": (np.float32, (None, None, dims)), "embedding": (np.float32, (None, width))}
    check_graph(session, inputs, outputs)
    summarizer = OnnxSummarizer(card, session.provider, session)
    summarizer.try_once()
    return summarizer


# ------------------------------------------------------------------------------- shared with slide encoders


def in_patch_sides(coords: NDArray[np.number[Any]], patch_size_level0: float) -> NDArray[np.float32]:
    """Convert level-0 px (N, 2) to the models' frame: patch sides, from the upper left of all patches."""
    places = np.asarray(coords, np.float64)
    return np.asarray((places - places.min(axis=0)) / patch_size_level0, np.float32)


def check_features(features: NDArray[Any], coords: NDArray[Any], dims: int, error: Callable[[str], ModelError]) -> None:
    """Raise `error(message)` unless features are finite floats (N, `dims`) at coords (N, 2)."""
    floats = np.issubdtype(features.dtype, np.floating)
    if not floats or features.ndim != 2 or features.shape[1] != dims or not len(features):
        raise error(
            f"expected features (N, {dims}), found {features.dtype} {features.shape}; use features of the encoder "
            "it was trained on"
        )
    if coords.shape != (len(features), 2):
        raise error(f"expected coords ({len(features)}, 2), found {coords.shape}")
    if not np.isfinite(features).all():
        raise error("expected finite features, found NaN or infinity; encode the slide again")


def run_graph(session: Session, feeds: Mapping[str, NDArray[Any]], outputs: Iterable[str]) -> list[NDArray[Any]]:
    """Run a graph, which may lack inputs it does not use. Raises ModelError when the model fails."""
    taken = {port.name for port in session.inputs}
    given = {name: np.ascontiguousarray(value) for name, value in feeds.items() if name in taken}
    return session.run(given, list(outputs))


def check_graph(session: Session, inputs: Ports, outputs: Ports) -> None:
    """Raise ModelError for a graph without these outputs or with other inputs; unused inputs may be missing."""
    fitting = [port.name in inputs and fits(port, *inputs[port.name], free=True) for port in session.inputs]
    if not all(fitting):
        raise _wrong_graph(session, "inputs", inputs, session.inputs)
    given = {port.name: port for port in session.outputs}
    if not all(name in given and fits(given[name], *wanted, free=False) for name, wanted in outputs.items()):
        raise _wrong_graph(session, "outputs", outputs, session.outputs)


def fits(port: Port, dtype: type[Any], shape: tuple[int | None, ...], free: bool) -> bool:
    """Whether a port has this dtype and shape. With `free` it must accept any size where `shape` has None."""
    if port.shape is None:  # unknown; the trial run checks it
        return port.dtype == dtype
    same = len(port.shape) == len(shape) and all(
        found in (None, want) or (want is None and not free) for found, want in zip(port.shape, shape, strict=True)
    )
    return same and port.dtype == dtype


def _wrong_graph(session: Session, what: str, wanted: Ports, found: tuple[Port, ...]) -> ModelError:
    expected = ", ".join(str(Port(name, np.dtype(dtype), shape)) for name, (dtype, shape) in wanted.items())
    return ModelError(
        f"{session.source}: expected the {what} {expected}; found {', '.join(map(str, found))}; export the model "
        "again with these, or correct its card (docs/models.md)"
    )
