"""A glass technology with volumes so small that a test can afford them, and a model that fills two."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALL = {"rows": 6, "columns": 3, "voxels": 14, "layers": 12, "voxels_max": 14, "layers_max": 15}


def small_glass(folder: Path, **changes: str) -> Path:
    """Fused silica with tiles of 6 × 3 weights in 12 layers of 14 × 14 voxels; ``changes`` are values of entries."""
    text = (files("pfmc.technology.library") / "fused-silica.toml").read_text()
    for key, value in ({key: str(number) for key, number in SMALL.items()} | changes).items():
        text, count = re.subn(rf"^({key} = {{ value = )[^,]+", rf"\g<1>{value}", text, count=1, flags=re.MULTILINE)
        assert count == 1, key
    path = folder / "small.toml"
    path.write_text(text.replace('name = "fused-silica"', 'name = "small"'))
    return path


def small_model(folder: Path) -> Path:
    """Six inputs, five outputs: two volumes."""
    weights = np.random.default_rng(5).normal(size=(6, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = folder / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
