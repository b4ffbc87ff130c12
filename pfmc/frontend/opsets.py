"""Versions of the standard operators."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx
from onnx import helper, version_converter

from pfmc.errors import ImportModelError

OPSET_MIN: Final = 13  # Pad, Slice, Unsqueeze and ReduceSum take their numbers as inputs from here on


def opset_of(model: onnx.ModelProto) -> int:
    """Of the standard operators."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def brought_to_opset_min(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model, of ``OPSET_MIN`` or newer.

    Raises:
        ImportModelError: if it is older and cannot be brought there.
    """
    if opset_of(model) >= OPSET_MIN:
        return model
    try:
        return _pads_mended(version_converter.convert_version(model, OPSET_MIN))
    except (RuntimeError, ValueError, version_converter.ConvertError, onnx.shape_inference.InferenceError) as e:
        reason = str(e).rpartition("failed: ")[2]  # behind the converter's own file, line and assertion
        problem = f"opset {opset_of(model)} cannot be brought to {OPSET_MIN}: {reason}"
        raise ImportModelError(problem, str(path), "export the model with a newer opset") from None


def _pads_mended(model: onnx.ModelProto) -> onnx.ModelProto:
    """The converter (onnx 1.23) leaves the value of a Pad as the attribute that it was; an input takes its place."""
    for i, node in enumerate(model.graph.node):
        old = [attribute for attribute in node.attribute if attribute.name == "value"] if node.op_type == "Pad" else []
        if old:
            name = f"{node.output[0]}/pad_value_{i}"
            model.graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [old[0].f]))
            node.attribute.remove(old[0])
            node.input.append(name)
    return model
