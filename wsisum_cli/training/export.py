"""A torch module to ONNX with its card inside, written only where ONNX Runtime computes what torch computes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from wsisum_cli.errors import ModelError
from wsisum_cli.models.card import CARD_KEY, ENCODER, WEIGHTS, Card, Fields, parse_card
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.models.metadata import copy_with_metadata
from wsisum_cli.models.session import Session, open_session
from wsisum_cli.slides.source import sha256_of

if TYPE_CHECKING:
    from onnx import ModelProto

#: What torch writes without converting, and every onnxruntime that this package runs on reads.
OPSET = 18
#: A protobuf message cannot be larger than 2 GB; past this the weights go into FILE.onnx.data.
MAX_BYTES = 1_900_000_000
#: Which of the tokens (B, T, D) of a transformer make the features.
POOLS = ("none", "cls", "mean", "cls+mean")


def export_onnx(
    module: nn.Module,
    examples: Sequence[Mapping[str, Tensor]],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
    card: Mapping[str, Any],
    path: Path,
    tolerance: float = 1e-4,
) -> float:
    """Write `module` to `path`, with `card` in its metadata; the same module and card give the same bytes.

    `module(*examples[0].values())` gives a tensor or a tuple of tensors, named by `outputs`; the keys of an example
    are the names of the graph's inputs. `dynamic` names the axes of inputs that are free, {"features": {0: "batch"}};
    those of the outputs follow from them. It is traced with the first example, whose free axes must be 2 or longer,
    and compared with ONNX Runtime on the CPU on all of them.

    Returns the largest absolute difference. Raises ModelError, and writes nothing, when the module cannot be
    exported, or when a value of it is further than `tolerance` * max(1, |value|) from torch's.
    """
    on_cpu = [{key: value.cpu() for key, value in example.items()} for example in examples]
    with _at_rest(module), _written_whole(path) as aside:
        proto = _trace(module, on_cpu[0], list(outputs), dynamic, path.name)
        _clean(proto, card)
        _save(proto, card, aside)
        return open_session(aside, "cpu", lambda session: _compare(module, session, on_cpu, list(outputs), tolerance))


@contextlib.contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """In evaluation mode and on the CPU, and afterwards as it was."""
    training = {part: part.training for part in module.modules()}
    device = next((weights.device for weights in module.parameters()), torch.device("cpu"))
    module.eval().cpu()
    try:
        yield
    finally:
        module.to(device)
        for part, was_training in training.items():
            part.training = was_training


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """A file of the same name to write to; it and those beside it take their places when the block ends well.

    ONNX files name those that hold their weights, so that another name for the time of writing will not do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        yield Path(folder) / path.name
        for written in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):  # the model last
            os.replace(written, path.parent / written.name)


def _trace(
    module: nn.Module,
    example: Mapping[str, Tensor],
    outputs: list[str],
    dynamic: Mapping[str, Mapping[int, str]],
    name: str,
) -> ModelProto:
    """The module as a graph, not looked at."""
    for key, axes in dynamic.items():
        for axis, axis_name in axes.items():
            # torch takes an axis of length 1 for one that always has that length
            if key in example and example[key].shape[axis] < 2:
                raise ValueError(f"{key}: the first example needs 2 or more along its free axis {axis} ({axis_name})")
    free = tuple(dict(dynamic.get(key, {})) for key in example)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                tuple(example.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(example),
                output_names=outputs,
                dynamic_shapes=free,
                verbose=False,
            )
    except ImportError as error:
        raise ModelError(f"{name}: cannot be exported ({error}); pip install 'wsisum[train]'") from error
    except Exception as error:
        # torch says what it stumbled over in its first line, and how it came there in the next thousand
        why = str(error).strip().partition("\n")[0][:300]
        raise ModelError(
            f"{name}: torch cannot export this module ({type(error).__name__}: {why}); "
            "write it without Python branches that depend on values"
        ) from error
    return program.model_proto  # type: ignore[union-attr]  # None only with another exporter


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of what it does itself, and logs that torchvision is not there."""
    logger = logging.getLogger("torch.onnx._internal.exporter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _clean(proto: ModelProto, card: Mapping[str, Any]) -> None:
    """Take out what names this machine's files and Python's modules, and put the card in."""
    graphs = [proto.graph, *proto.functions]
    for graph in graphs:
        graph.doc_string = ""
        graph.ClearField("metadata_props")
        for node in graph.node:
            node.doc_string = ""
            node.ClearField("metadata_props")
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            graphs += [inner for attribute in node.attribute for inner in attribute.graphs]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        value.doc_string = ""
        value.ClearField("metadata_props")
    proto.graph.ClearField("value_info")
    proto.graph.name = str(card.get("name", "model"))
    proto.producer_version = torch.__version__.partition("+")[0]
    proto.doc_string = ""
    proto.ClearField("metadata_props")
    proto.metadata_props.add(key=CARD_KEY, value=_as_json(card))


def _as_json(card: Mapping[str, Any]) -> str:
    return json.dumps(dict(card), sort_keys=True, allow_nan=False)


def _save(proto: ModelProto, card: Mapping[str, Any], path: Path) -> None:
    if sum(len(weights.raw_data) for weights in proto.graph.initializer) <= MAX_BYTES:
        path.write_bytes(proto.SerializeToString(deterministic=True))
        return
    import onnx

    weights, without = path.with_name(f"{path.name}.data"), path.with_name(f"{path.name}.part")
    onnx.save_model(proto, str(without), save_as_external_data=True, location=weights.name)
    # other weights would make the same graph, and a model is known by the sha256 of that file
    copy_with_metadata(without, path, CARD_KEY, _as_json({**card, WEIGHTS: {weights.name: sha256_of(weights)}}))
    without.unlink()


def _compare(
    module: nn.Module,
    session: Session,
    examples: Sequence[Mapping[str, Tensor]],
    outputs: list[str],
    tolerance: float,
) -> float:
    """The largest absolute difference between torch and ONNX Runtime. Raises ModelError when one is too large."""
    largest = 0.0
    for example in examples:
        with torch.no_grad():
            result = module(*example.values())
        expected = [result] if isinstance(result, Tensor) else list(result)
        # an input that the module makes no use of is no input of the graph
        wanted = {port.name for port in session.inputs}
        feeds = {key: value.detach().cpu().numpy() for key, value in example.items() if key in wanted}
        for name, ours, theirs in zip(outputs, expected, session.run(feeds, outputs), strict=True):
            reference = ours.detach().cpu().numpy()
            if reference.shape != theirs.shape:
                raise ModelError(
                    f"{session.source}: {name}: torch gives {reference.shape}, ONNX Runtime {theirs.shape}"
                )
            if not (np.isfinite(reference).all() and np.isfinite(theirs).all()):
                raise ModelError(f"{session.source}: {name}: some values are not finite; train it again")
            apart = np.abs(reference.astype(np.float64) - theirs)
            if (apart > tolerance * np.maximum(1, np.abs(reference))).any():
                raise ModelError(
                    f"{session.source}: {name}: expected ONNX Runtime within {tolerance:g} of torch, found a "
                    f"difference of {apart.max():.3g}; nothing was written"
                )
            largest = max(largest, float(apart.max(initial=0)))
    return largest


# ------------------------------------------------------------------------------------------------- encoders


class _Patches(nn.Module):
    """Patches in, one vector each out: what an encoder's graph does around the module."""

    scale: Tensor
    offset: Tensor

    def __init__(self, module: nn.Module, card: Card, uint8: bool, pool: str, prefix: int) -> None:
        super().__init__()
        self.module, self.uint8, self.pool, self.prefix = module, uint8, pool, prefix
        self.side = card.patch_size
        mean, std = torch.tensor(card.mean), torch.tensor(card.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", (-mean / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (B, D) of pixels: uint8 (B, P, P, 3), or normalised (B, 3, P, P)."""
        found = self.given(pixels)
        if self.pool == "none":
            return torch.flatten(found, 1)
        parts: list[Tensor] = []
        if self.pool != "mean":
            parts.append(found[:, 0])
        if self.pool != "cls":
            parts.append(found[:, self.prefix :].mean(dim=1))
        return torch.cat(parts, dim=1)

    def given(self, pixels: Tensor) -> Tensor:
        """What the module gives: features, or tokens (B, T, D)."""
        found = self.module(self.normalised(pixels) if self.uint8 else pixels)
        features: Tensor = getattr(found, "last_hidden_state", found)  # as models of transformers give their tokens
        return features

    def normalised(self, pixels: Tensor) -> Tensor:
        floats: Tensor = pixels.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.offset
        return floats

    def example(self, count: int) -> Tensor:
        """Seeded noise, as the graph takes it."""
        generator = torch.Generator().manual_seed(count)
        pixels = torch.randint(0, 256, (count, self.side, self.side, 3), generator=generator, dtype=torch.uint8)
        return pixels if self.uint8 else self.normalised(pixels).contiguous()


def export_encoder(
    module: nn.Module,
    path: Path,
    card: Mapping[str, Any],
    tolerance: float = 1e-4,
    *,
    uint8: bool = False,
    pool: str = "none",
    prefix_tokens: int | None = None,
) -> float:
    """Write a patch encoder: a module that takes normalised float32 (B, 3, P, P).

    It gives features (B, D), or with `pool` tokens (B, T, D) of which "cls" takes the first, "mean" the mean of all
    after the first `prefix_tokens` (class token and registers; None: what the module says, else 1), "cls+mean" both,
    one after the other. With `uint8` the graph takes pixels as they are, (B, P, P, 3), and normalises by the card's
    mean and std.

    Returns the largest difference. Raises ModelError, and writes nothing, as `export_onnx` does, and when the card
    does not fit the graph.
    """
    if pool not in POOLS:
        raise ModelError(f"{path.name}: pooling: expected one of {', '.join(POOLS)}, found {pool!r}")
    fields = Fields(path.name, {"kind": ENCODER, **card}, "correct it in the card")
    parsed = parse_card(fields, takes_uint8=False, sha256="")
    prefix = int(getattr(module, "num_prefix_tokens", 1)) if prefix_tokens is None else prefix_tokens
    wrapped = _Patches(module, parsed, uint8, pool, prefix)
    examples = [{"pixels": wrapped.example(count)} for count in (2, 3, 1)]
    with _at_rest(wrapped), _written_whole(path) as aside:
        _check_features(wrapped, fields, parsed)
        difference = export_onnx(
            wrapped, examples, ["features"], {"pixels": {0: "batch"}}, fields.values, aside, tolerance
        )
        load_encoder(aside, "cpu", batch_size=2)
    return difference


@torch.no_grad()
def _check_features(wrapped: _Patches, fields: Fields, card: Card) -> None:
    """Raise ModelError when the module gives something else than asked for; exporting takes minutes, this seconds."""
    pixels, name = wrapped.example(1), fields.source
    try:
        found = wrapped.given(pixels)
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{name}: the module fails on patches of {card.patch_size} px ({type(error).__name__}: {why}); correct "
            "patch_size in the card, or what makes the module"
        ) from error
    if not isinstance(found, Tensor):
        raise ModelError(f"{name}: expected a tensor of the module, found a {type(found).__name__}; return one alone")
    shape = tuple(found.shape)
    if wrapped.pool == "none" and len(shape) == 3:
        raise ModelError(
            f"{name}: expected features (batch, dims), found tokens {shape}; say which make the features "
            "(--pool cls, mean or cls+mean)"
        )
    if wrapped.pool != "none" and (len(shape) != 3 or shape[1] <= wrapped.prefix):
        raise ModelError(
            f"{name}: expected tokens (batch, tokens, dims), more than {wrapped.prefix}, to pool, found {shape}; leave "
            "the pooling to the module (--pool none)"
        )
    dims = wrapped(pixels).shape[1]
    if dims != card.dims:
        raise fields.wrong("dims", f"the {dims} that the module gives", str(card.dims))
