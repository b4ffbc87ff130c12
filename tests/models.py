"""ONNX models made for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOAT = onnx.TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    dtype: int = FLOAT,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
    opset: int = 18,
) -> onnx.ModelProto:
    """A model whose inputs are of one type, and whose outputs state no shape."""
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)


def saved(made: onnx.ModelProto, folder: Path) -> Path:
    """Write a model to a file called m.onnx."""
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def node(kind: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    """A node; names are separated by spaces."""
    return helper.make_node(kind, inputs.split(" "), outputs.split(" "), **attributes)  # type: ignore[arg-type]


def weights_model(values: np.ndarray, **external: str) -> onnx.ModelProto:
    """x · w, with w in the model or, if entries are given, in external data."""
    made = model([node("MatMul", "x w", "y")], {"x": [None, values.shape[0]]}, ["y"], {"w": values})
    if external:
        tensor = made.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in external.items():
            tensor.external_data.add(key=key, value=value)
    return made
