"""A tiny encoder as an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, DIMS = 32, 21


CARD = {
    "name": "tiny",
    "version": "3",
    "kind": "encoder",
    "patch_size": SIDE,
    "mpp": 0.5,
    "mpp_tolerance": 0.2,
    "mean": [0.5, 0.25, 0.75],
    "std": [0.5, 0.25, 0.125],
    "dims": DIMS,
    "licence": "CC0-1.0",
    "description": "for tests",
}


def constant(name: str, values: Any, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def weights() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(3, DIMS)).astype(np.float32)


def write_model(
    path: Path,
    metadata: dict[str, str],
    *,
    uint8: bool = False,
    dtype: int = TensorProto.FLOAT,
    shape: tuple[Any, ...] | None = None,
    output: tuple[Any, ...] = ("batch", DIMS),
    last: str = "Identity",
    pool: int = 1,
) -> Path:
    """Mean colour times a random matrix; `last` is the operator that gives the output."""
    shape = shape or (("batch", SIDE, SIDE, 3) if uint8 else ("batch", 3, SIDE, SIDE))
    axes = [1, 2] if uint8 else [2, 3]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("AveragePool", ["float"], ["pooled"], kernel_shape=[pool, pool]),
        helper.make_node("ReduceMean", ["pooled"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["product"]),
        helper.make_node(last, ["product"], ["last"]),
        helper.make_node("Cast", ["last"], ["features"], to=dtype),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8 if uint8 else dtype, shape)
    features = helper.make_tensor_value_info("features", dtype, output)
    graph = helper.make_graph(nodes, "tiny", [pixels], [features], [constant("weights", weights())])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path


def card(**changes: Any) -> dict[str, str]:
    """Metadata with a card; a field changed to ... is left out."""
    fields = {key: value for key, value in (CARD | changes).items() if value is not ...}
    return {"wsisum.card": json.dumps(fields)}
