"""Versions of the standard operators."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx
from onnx import version_converter

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
        return version_converter.convert_version(model, OPSET_MIN)
    except (RuntimeError, ValueError, version_converter.ConvertError, onnx.shape_inference.InferenceError) as e:
        reason = str(e).rpartition("failed: ")[2]  # behind the converter's own file, line and assertion
        problem = f"opset {opset_of(model)} cannot be brought to {OPSET_MIN}: {reason}"
        raise ImportModelError(problem, str(path), "export the model with a newer opset") from None
