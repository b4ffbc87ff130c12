"""ONNX nodes as operations of the Graph: what can be mapped, what scales or shifts, and what stays on the host."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, Final

import numpy as np
import onnx
from jaxtyping import Float
from onnx import helper

from pfmc.frontend.bodies import ENTERED
from pfmc.frontend.building import Kept, kind_of
from pfmc.frontend.checks import subgraphs_of
from pfmc.frontend.constants import FLOATS, Constants
from pfmc.frontend.quantised import few_bits_matmul
from pfmc.ir.graph import Affine, Conv, Gemm, HostNode, MatMul, Node
from pfmc.ir.windows import Windows

Shapes = Mapping[str, tuple[int | None, ...]]

# Operators that multiply by trained constants: which of their inputs would be the weights. Those that a rule rewrites
# stand here too, for what the rule has to leave as it is.
WEIGHTS: Final = {
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Einsum": (0, 1),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "DeformConv": (1,),
    "QLinearMatMul": (0, 3),
    "QLinearConv": (3,),
    "MatMulInteger": (0, 1),
    "ConvInteger": (1,),
    "com.microsoft.nchwc::Conv": (1,),
    "com.microsoft::MatMulNBits": (1,),
    "com.microsoft::MatMulBnb4": (1,),
    "com.microsoft::DynamicQuantizeMatMul": (1,),
    "com.microsoft::MatMulIntegerToFloat": (0, 1),
    "com.microsoft::FusedMatMul": (0, 1),
    "com.microsoft::FusedGemm": (0, 1),
    "com.microsoft::FusedConv": (1,),
    "com.microsoft::QGemm": (3,),
    "com.microsoft::QLinearConv": (3,),
    "com.microsoft::Attention": (1,),
    "com.microsoft::QAttention": (1,),
    "com.microsoft::DynamicQuantizeLSTM": (1, 2),
}


def operation(node: onnx.NodeProto, constants: Constants, shapes: Shapes, reason: str = "") -> Node:
    """The operation that a node is.

    Args:
        reason: why the node was not rewritten.
    """
    try:
        found = _typed(node, constants, shapes, reason)
    except Kept as kept:
        found, reason = None, str(kept)
    if found is not None:
        return found
    read = dict.fromkeys(name for name in (*node.input, *_captured(node)) if name and name not in constants)
    return HostNode(node.name, kind_of(node), tuple(read), tuple(node.output), reason)


def _typed(node: onnx.NodeProto, constants: Constants, shapes: Shapes, reason: str) -> Node | None:
    """A typed operation, or None for an ordinary host node.

    Raises:
        Kept: for one that multiplies by a trained constant but is not mapped.
    """
    kind = kind_of(node)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if reason:
        raise Kept(reason)
    if kind in _LIFTS:
        return _LIFTS[kind](node, attributes, constants, shapes)
    if any(name in constants for name in _operands(node)) and not all(name in constants for name in node.input):
        raise Kept(f"{node.op_type} is not mapped")
    if kind not in ENTERED and _body_multiplies(node, constants):
        raise Kept("what stands in the body of this operator is not mapped")
    return None


def _operands(node: onnx.NodeProto) -> list[str]:
    """Those of a node's inputs that would be weights."""
    return [node.input[i] for i in WEIGHTS.get(kind_of(node), ()) if i < len(node.input)]


def _body_multiplies(node: onnx.NodeProto, constants: Container[str]) -> bool:
    """Whether a node of the node's subgraphs, or of theirs, multiplies by a constant."""
    for graph in subgraphs_of(node):
        own = {tensor.name for tensor in graph.initializer}
        for inner in graph.node:
            if any(name in own or name in constants for name in _operands(inner)) or _body_multiplies(inner, constants):
                return True
    return False


def _weight_is_constant(node: onnx.NodeProto, constants: Constants) -> bool:
    """Whether exactly the second operand is a constant that can be mapped.

    Raises:
        Kept: if the constant is of a type that is not mapped.
    """
    if node.input[0] in constants or node.input[1] not in constants:
        return False
    if constants.dtype(node.input[1]) not in FLOATS:
        raise Kept(f"weights of type {constants.dtype(node.input[1])} are not mapped")
    if 0 in constants.shape(node.input[1]):
        raise Kept("the weight has no elements")
    return True


def _matmul(node: onnx.NodeProto, _: Mapping[str, Any], constants: Constants, __: Shapes) -> Node | None:
    if not _weight_is_constant(node, constants):
        return None
    weight = constants.weight(node.input[1])
    return MatMul(node.name, node.input[0], node.output[0], weight, None, (node.name,))


def _gemm(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants, _: Shapes) -> Node | None:
    if not _weight_is_constant(node, constants):
        return None
    transposed = bool(attributes.get("transB", 0))
    columns = constants.shape(node.input[1])[0 if transposed else 1]
    bias = None
    if len(node.input) > 2 and node.input[2]:
        stored = constants.values(node.input[2])
        bias = np.broadcast_to(stored.reshape(-1) * attributes.get("beta", 1.0), columns)
    return Gemm(
        node.name,
        node.input[0],
        node.output[0],
        constants.weight(node.input[1]),
        bias,
        (node.name,),
        alpha=float(attributes.get("alpha", 1.0)),
        transposed=transposed,
    )


def _conv(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants, shapes: Shapes) -> Node | None:
    if not _weight_is_constant(node, constants):
        return None
    bias = None
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in constants:
            raise Kept("its bias is not constant")
        bias = constants.values(node.input[2])
    windows = _windows(constants.shape(node.input[1])[2:], attributes, shapes.get(node.input[0]))
    return Conv(
        node.name,
        node.input[0],
        node.output[0],
        constants.weight(node.input[1]),
        bias,
        (node.name,),
        windows=windows,
        groups=int(attributes.get("group", 1)),
    )


def _windows(kernel: tuple[int, ...], attributes: Mapping[str, Any], shape: tuple[int | None, ...] | None) -> Windows:
    """The windows of a Conv with its padding in numbers.

    Raises:
        Kept: if the padding depends on a size that is not known.
    """
    axes = len(kernel)
    strides = tuple(attributes.get("strides") or (1,) * axes)
    dilations = tuple(attributes.get("dilations") or (1,) * axes)
    pads = tuple(attributes.get("pads") or (0,) * (2 * axes))
    how = attributes.get("auto_pad", b"NOTSET").decode()
    if how == "VALID":
        pads = (0,) * (2 * axes)
    elif how in ("SAME_UPPER", "SAME_LOWER"):
        spatial = shape[2:] if shape is not None else (None,) * axes
        total = [_same(*each) for each in zip(spatial, kernel, strides, dilations, strict=True)]
        less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        pads = less + more if how == "SAME_UPPER" else more + less
    if min(pads) < 0:
        raise Kept("its padding is negative")
    return Windows(kernel, strides, dilations, pads[:axes], pads[axes:])


def _same(size: int | None, kernel: int, stride: int, dilation: int) -> int:
    """Total padding of one axis at which the output has ceil(size / stride) positions."""
    reach = dilation * (kernel - 1) + 1
    if stride == 1:
        return reach - 1
    if size is None:
        raise Kept("its padding depends on a spatial size that is not known")
    return max((-(-size // stride) - 1) * stride + reach - size, 0)


def _elementwise(node: onnx.NodeProto, _: Mapping[str, Any], constants: Constants, shapes: Shapes) -> Node | None:
    """A Mul, Div, Add or Sub by a constant scalar or per-channel vector that leaves the shape as it is."""
    left, right = node.input
    if (left in constants) == (right in constants):
        return None
    x, name = (right, left) if left in constants else (left, right)
    if (left in constants and node.op_type == "Div") or constants.dtype(name) not in FLOATS:
        return None
    shape = constants.shape(name)
    size = int(np.prod(shape, dtype=np.int64))
    if sum(extent != 1 for extent in shape) > 1 or size == 0:
        return None
    rank = len(shapes[x]) if x in shapes else None
    if len(shape) > 0 and (rank is None or len(shape) > rank):
        return None
    axis = next((i - len(shape) for i, extent in enumerate(shape) if extent != 1), -1)
    extent = shapes[x][axis] if x in shapes and rank else None
    if size > 1 and extent != size:  # broadcasting would widen x
        return None
    values = constants.values(name).reshape(-1)
    return _affine(node, x, *_gain_and_offset(node.op_type, values, constant_first=left in constants), axis)


def _gain_and_offset(
    kind: str, values: Float[np.ndarray, " n"], *, constant_first: bool
) -> tuple[Float[np.ndarray, " n"] | None, Float[np.ndarray, " n"] | None]:
    if kind == "Mul":
        return values, None
    if kind == "Div":
        with np.errstate(divide="ignore", over="ignore"):
            return 1.0 / values, None
    if kind == "Add":
        return None, values
    return (-np.ones_like(values), values) if constant_first else (None, -values)


def _batch_normalization(
    node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants, _: Shapes
) -> Node | None:
    if attributes.get("training_mode", 0) or not all(name in constants for name in node.input[1:5]):
        return None
    if any(node.output[1:]) or len(constants.shape(node.input[1])) != 1:
        return None
    scale, bias, mean, variance = (constants.values(name) for name in node.input[1:5])
    with np.errstate(all="ignore"):
        gain = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        return _affine(node, node.input[0], gain, bias - mean * gain, 1)


def _affine(
    node: onnx.NodeProto,
    x: str,
    gain: Float[np.ndarray, " n"] | None,
    offset: Float[np.ndarray, " n"] | None,
    axis: int,
) -> Affine | None:
    """An Affine, unless a division by zero or the like makes it none."""
    if not all(np.isfinite(values).all() for values in (gain, offset) if values is not None):
        return None
    return Affine(node.name, x, node.output[0], gain, offset, axis)


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    """Outer values that the node's subgraphs read."""
    for graph in subgraphs_of(node):
        inside = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
        inside |= {tensor.values.name for tensor in graph.sparse_initializer}
        for inner in graph.node:
            yield from (name for name in (*inner.input, *_captured(inner)) if name not in inside)
            inside.update(inner.output)
        yield from (value.name for value in graph.output if value.name not in inside)


_LIFTS: Final = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "com.microsoft::MatMulNBits": few_bits_matmul,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _elementwise),
    "BatchNormalization": _batch_normalization,
}
