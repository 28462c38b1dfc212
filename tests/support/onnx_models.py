"""Tiny summarizers and slide encoders as ONNX files, whose results plain numpy gives as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DIMS, WIDTH, PROTOTYPES = 12, 5, 3
LENGTH = 2.0  # patch sides; of the kernel that the summarizer weighs visible candidates by

SUMMARIZER_CARD = {
    "name": "tiny-summarizer",
    "version": "1",
    "kind": "summarizer",
    "dims": DIMS,
    "embedding_dims": WIDTH,
    "encoder": "stub",
    "encoder_sha256": "ab" * 32,
    "candidates": 500,
    "mask_ratio": 0.875,
    "licence": "CC0-1.0",
    "description": "for tests",
}
SLIDE_ENCODER_CARD = {
    "name": "tiny-slide-encoder",
    "version": "1",
    "kind": "slide-encoder",
    "dims": DIMS,
    "embedding_dims": WIDTH,
    "encoder": "stub",
    "encoder_sha256": "ab" * 32,
    "prototypes": PROTOTYPES,
    "region": 16,
    "licence": "CC0-1.0",
    "description": "for tests",
}


def size(stated: Any, otherwise: int) -> int:
    """Of the graph, whose card may say nonsense."""
    return stated if isinstance(stated, int) and stated > 0 else otherwise


def projection(dims: int, width: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(dims, width)).astype(np.float32)


def constant(name: str, values: Any, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def save(path: Path, graph: onnx.GraphProto, card: dict[str, Any]) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    fields = {key: value for key, value in card.items() if value is not ...}
    helper.set_model_props(model, {"wsisum.card": json.dumps(fields)} if fields else {})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def write_summarizer(
    path: Path,
    *,
    last: str = "Identity",
    leaks: bool = False,
    fixed: int | None = None,
    output: str = "reconstruction",
    graph_dims: int | None = None,
    **card: Any,
) -> Path:
    """Reconstruction: the mean of the visible features, weighed by a Gaussian of the distance; embedding: their mean,
    projected. `last` is the operator that gives the reconstruction; with `leaks` that is the features themselves.
    The graph takes features of the card's length, or of `graph_dims`, and any number of candidates, or `fixed`.
    """
    card = SUMMARIZER_CARD | card
    dims, width = graph_dims or size(card["dims"], DIMS), size(card["embedding_dims"], WIDTH)
    candidates = fixed or "candidates"
    nodes = [
        helper.make_node("Unsqueeze", ["kept", "minus1"], ["rows"]),
        helper.make_node("GatherND", ["features", "rows"], ["visible"], batch_dims=1),
        helper.make_node("GatherND", ["coords", "rows"], ["places"], batch_dims=1),
        helper.make_node("Unsqueeze", ["coords", "two"], ["at"]),
        helper.make_node("Unsqueeze", ["places", "one"], ["from"]),
        helper.make_node("Sub", ["at", "from"], ["way"]),
        helper.make_node("Mul", ["way", "way"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "minus1"], ["squared"], keepdims=0),
        helper.make_node("Mul", ["squared", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "visible"], ["smooth"]),
        helper.make_node("Where", ["leaks", "features", "smooth"], ["made"]),
        helper.make_node(last, ["made"], [output]),
        helper.make_node("ReduceMean", ["visible"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "projection"], ["embedding"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "summarizer",
        [
            value("features", TensorProto.FLOAT, ("batch", candidates, dims)),
            value("coords", TensorProto.FLOAT, ("batch", candidates, 2)),
            value("valid", TensorProto.BOOL, ("batch", candidates)),
            value("kept", TensorProto.INT64, ("batch", "kept")),
        ],
        [
            value(output, TensorProto.FLOAT, ("batch", candidates, dims)),
            value("embedding", TensorProto.FLOAT, ("batch", width)),
        ],
        [
            constant("minus1", [-1], np.int64),
            constant("one", [1], np.int64),
            constant("two", [2], np.int64),
            constant("scale", -1 / (2 * LENGTH**2)),
            constant("leaks", leaks, np.bool_),
            constant("projection", projection(dims, width)),
        ],
    )
    return save(path, graph, card)


def write_slide_encoder(
    path: Path,
    *,
    shares: tuple[float, ...] | None = None,
    last: str = "Identity",
    attention: bool = False,
    doubled: bool = False,
    **card: Any,
) -> Path:
    """Embedding: the mean of the features, projected; prototypes: that mean times 1, 2, ...; coords count for
    nothing. `last` is the operator that gives the embedding. With `attention` the graph says it: the first number of
    each feature, twice over if `doubled`.
    """
    card = SLIDE_ENCODER_CARD | card
    dims, width, count = card["dims"], card["embedding_dims"], card["prototypes"]
    weights = shares or tuple(np.arange(count, 0, -1) * 2 / (count * (count + 1)))
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("MatMul", ["mean", "projection"], ["row"]),
        helper.make_node("Squeeze", ["row", "zero"], ["flat"]),
        helper.make_node(last, ["flat"], ["embedding"]),
        helper.make_node("Mul", ["mean", "factors"], ["prototypes"]),
        helper.make_node("Identity", ["weights"], ["prototype_weights"]),
    ]
    said = []
    if attention:
        said = [helper.make_tensor_value_info("attention", TensorProto.FLOAT, ("attended",))]
        nodes += [
            helper.make_node("Gather", ["features", "first"], ["once"], axis=1),
            helper.make_node("Concat", ["once"] * (2 if doubled else 1), ["attention"], axis=0),
        ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "slide-encoder",
        [value("features", TensorProto.FLOAT, ("patches", dims)), value("coords", TensorProto.FLOAT, ("patches", 2))],
        [
            value("embedding", TensorProto.FLOAT, (width,)),
            value("prototypes", TensorProto.FLOAT, (count, dims)),
            value("prototype_weights", TensorProto.FLOAT, (len(weights),)),
            *said,
        ],
        [
            constant("zero", [0], np.int64),
            *([constant("first", 0, np.int64)] if attention else []),
            constant("projection", projection(dims, width)),
            constant("factors", np.arange(1, count + 1)[:, None]),
            constant("weights", weights),
        ],
    )
    return save(path, graph, card)


def expected_reconstruction(features: np.ndarray, places: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(N, D) for `kept` (K,) and `places` (N, 2) in patch sides."""
    squared = ((places[:, None] - places[kept][None]) ** 2).sum(axis=-1)
    weights = np.exp(-squared / (2 * LENGTH**2))
    return np.asarray(weights @ features[kept] / weights.sum(axis=1, keepdims=True))


def expected_embedding(features: np.ndarray, width: int = WIDTH) -> np.ndarray:
    return np.asarray(features.mean(axis=0) @ projection(features.shape[1], width))
