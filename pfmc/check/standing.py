"""What stands on the host in the place of contractions."""

from __future__ import annotations

import math
from typing import Final

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

from pfmc.check.functions import DOMAIN, OPERATOR
from pfmc.frontend.building import Names, Splice
from pfmc.ir.graph import Absorbed, MatrixVector
from pfmc.ir.windows import Windows

SHARED: Final = "tiles"  # attribute of a call: the contraction whose tiles it goes to, if they are not its own


def calling(node: MatrixVector, names: Names) -> Splice:
    """What stands in a contraction's place."""
    splice = Splice(node.name, names)
    x = node.input
    if node.weight.dtype != "float32":
        x = splice.add("Cast", [x], to=onnx.TensorProto.FLOAT)
    if node.windows is not None:
        x = _window_vectors(splice, node.windows, x, node.entries)
    if node.arranged is not None:
        x = _gathered(splice, x, node.arranged.rows, node.entries)
    of = {"rows": node.matrix.rows, "columns": node.matrix.columns, **({SHARED: node.shares} if node.shares else {})}
    y = splice.add(OPERATOR, [x], domain=DOMAIN, name=node.name, **of)
    for part, span in zip(node.members, node.spans, strict=True):
        _finish(splice, part, _outputs(splice, node, y, span))
    return splice


def without_matrix(node: Absorbed, names: Names) -> Splice:
    """What stands in the place of a contraction whose matrix went into another one."""
    splice = Splice(node.name, names)
    heads, size, width, axis = node.heads, node.size, node.width, 1 if node.positions else -1
    if node.adds:
        starts = range(0, heads * size, size)
        taken = [np.arange(start, start + width) for start in starts]
        splice.add("Sum", [_gathered(splice, node.input, places, heads * size, axis) for places in taken])
    else:
        places = np.tile(np.pad(np.arange(width), (0, size - width)), heads)
        y = _gathered(splice, node.input, places, width, axis)
        kept = np.tile(np.arange(size) < width, heads).astype(_numpy_type(node.dtype))
        if kept.all():
            splice.add("Identity", [y])
        else:
            splice.add("Mul", [y, splice.constant("kept", kept.reshape(-1, *[1] * node.positions))])
    splice.nodes[-1].output[0] = node.output
    return splice


def _outputs(splice: Splice, node: MatrixVector, y: str, span: range) -> str:
    """Some of the model's outputs, from the product with the matrix that is drawn."""
    if node.arranged is not None:
        own = slice(span.start, span.stop)
        y = _gathered(splice, y, node.arranged.columns[own], node.matrix.columns)
        gains = node.arranged.gains[own].astype(np.float32)
        return y if (gains == 1).all() else splice.add("Mul", [y, splice.constant("gains", gains)])
    if not node.parts:
        return y
    first, behind, last = (splice.constant("columns", [number]) for number in (span.start, span.stop, -1))
    return splice.add("Slice", [y, first, behind, last])


def _gathered(splice: Splice, x: str, places: np.ndarray, entries: int, axis: int = -1) -> str:
    """What stands at these places of vectors of so many entries."""
    if np.array_equal(places, np.arange(entries)):
        return x
    return splice.add("Gather", [x, splice.constant("places", places)], axis=axis)


def _finish(splice: Splice, node: MatrixVector, y: str) -> None:
    """What is still to be done with a contraction's product to make its output."""
    positions = 0 if node.windows is None else len(node.windows.kernel)
    if positions:
        y = splice.add("Transpose", [y], perm=[0, positions + 1, *range(1, positions + 1)])
    if node.bias is not None:
        bias = np.asarray(node.bias, dtype=np.float32).reshape(-1, *[1] * positions)
        y = splice.add("Add", [y, splice.constant("bias", bias)])
    if node.weight.dtype != "float32":
        splice.add("Cast", [y], to=helper.np_dtype_to_tensor_dtype(_numpy_type(node.weight.dtype)))
    splice.nodes[-1].output[0] = node.output


def _window_vectors(splice: Splice, windows: Windows, x: str, rows: int) -> str:
    """Windows of x as vectors on the last axis, as :meth:`Windows.__call__` has them.

    They are what a Conv of each channel by itself makes of it whose kernel is the identity, one output per tap; for
    finite numbers, that is exact. It is faster than one Slice per tap.
    """
    axes = len(windows.kernel)
    if any(size > 1 for size in (*windows.kernel, *windows.strides)) or any((*windows.pads_begin, *windows.pads_end)):
        taps = math.prod(windows.kernel)
        identity = splice.constant("windows", np.eye(taps, dtype=np.float32).reshape(taps, 1, *windows.kernel))
        x = splice.add("Reshape", [x, splice.constant("by_channel", [-1, 1, *[0] * axes])])
        pads = [*windows.pads_begin, *windows.pads_end]
        x = splice.add("Conv", [x, identity], strides=windows.strides, dilations=windows.dilations, pads=pads)
        x = splice.add("Reshape", [x, splice.constant("by_sample", [-1, rows, *[0] * axes])])
    return splice.add("Transpose", [x], perm=[0, *range(2, 2 + axes), 1])


def _numpy_type(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))
