"""Rules for quantised operators: what is quantised is made floating-point in front of a contraction, and again behind.

Products of whole numbers come out of the physical part as numbers near to whole ones; they are rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from pfmc.frontend.building import Kept, Place
from pfmc.frontend.constants import Constants
from pfmc.ir.graph import MatMul
from pfmc.ir.weights import Quantisation, Weight


def dequantised(place: Place, value: str, scale: str, zero: str, axis: int) -> str:
    """A quantised value as floating-point numbers, with one scale, or one per position of an axis.

    Raises:
        Kept: if its scales or zero points are of another form.
    """
    if scale in place.constants:
        shape = place.constants.shape(scale)
        count = max(shape, default=1)
        if place.constants.weight(scale).size != count:
            raise Kept("it has a scale per matrix")
        if len(shape) > 1:
            scale, zero = (place.reshape(name, [count]) if name else "" for name in (scale, zero))
        if zero in place.constants and place.constants.shape(zero) != place.constants.shape(scale):
            zero = _alike(place, zero, place.constants.shape(scale))
    output = place.add("DequantizeLinear", [value, scale, *([zero] if zero else [])], axis=axis)
    found = place.shape(value)
    if found is not None:
        place.shapes[output] = found
    return output


def _alike(place: Place, zero: str, shape: tuple[int, ...]) -> str:
    """The same zero points in the shape of their scales."""
    name = place.constants.dtype(zero)
    values = place.constants.values(zero).astype(np.dtype(getattr(ml_dtypes, name, name)))
    if values.size not in (1, np.prod(shape, dtype=int)):
        raise Kept("its scales and zero points do not fit")
    return place.constant(
        "zero", np.ascontiguousarray(np.broadcast_to(values.reshape(-1), shape or (1,)).reshape(shape))
    )


def _ones(place: Place, zero: str) -> str:
    """Scales of one, as many as there are zero points."""
    shape = place.shape(zero) if zero else ()
    if shape is None or None in shape:
        shape = ()
    return place.constant("one", np.ones([extent or 0 for extent in shape], np.float32))


def _has_one_constant(place: Place, a: int, b: int) -> bool:
    return (place.input(a) in place.constants) != (place.input(b) in place.constants)


def weight_is_known(place: Place, *values: str) -> None:
    """See that one of the values is a constant.

    Raises:
        Kept: if none is.
    """
    if not any(value in place.constants for value in values):
        raise Kept("scale or zero point of the weight are not constant")


def _requantised(place: Place, y: str, scale: str, zero: str) -> None:
    if scale in place.constants and place.constants.weight(scale).size != 1:
        raise Kept("its output has more than one scale")
    place.add("QuantizeLinear", [y, scale, *([zero] if zero else [])])


def _whole(place: Place, y: str) -> None:
    place.add("Cast", [place.add("Round", [y])], to=TensorProto.INT32)


def _linear_matmul(place: Place) -> None:
    if not _has_one_constant(place, 0, 3):
        return
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = place.node.input
    a = dequantised(place, a, a_scale, a_zero, -2)
    b = dequantised(place, b, b_scale, b_zero, -1)
    weight_is_known(place, a, b)
    _requantised(place, place.add("MatMul", [a, b], name=place.name), y_scale, y_zero)


def _matmul_integer(place: Place) -> None:
    if not _has_one_constant(place, 0, 1):
        return
    a = dequantised(place, place.input(0), _ones(place, place.input(2)), place.input(2), -2)
    b = dequantised(place, place.input(1), _ones(place, place.input(3)), place.input(3), -1)
    weight_is_known(place, a, b)
    _whole(place, place.add("MatMul", [a, b], name=place.name))


def _linear_conv(place: Place) -> None:
    if place.input(3) not in place.constants or place.input(0) in place.constants:
        return
    last = bool(place.attributes.get("channels_last", 0))
    axes = len(place.constants.shape(place.input(3))) - 2
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = place.node.input[:8]
    values = [dequantised(place, x, x_scale, x_zero, 1), dequantised(place, w, w_scale, w_zero, 0)]
    weight_is_known(place, values[1])
    if place.input(8):
        values.append(_bias(place, place.input(8), x_scale, w_scale, 1.0))
    if last:
        values[0] = place.transpose(values[0], [0, axes + 1, *range(1, axes + 1)])
    y = place.add("Conv", values, name=place.name, **_own(place))
    if last:
        y = place.transpose(y, [0, *range(2, axes + 2), 1])
    _requantised(place, y, y_scale, y_zero)


def _bias(place: Place, bias: str, x_scale: str, w_scale: str, factor: float) -> str:
    """A bias that is counted in units of both scales."""
    if not all(name in place.constants for name in (bias, x_scale, w_scale)):
        raise Kept("its bias or its input's scale is not constant")
    unit = place.constants.values(x_scale).reshape(-1) * place.constants.values(w_scale).reshape(-1)
    values = place.constants.values(bias).reshape(-1) * unit * factor
    return place.constant("bias", values.astype(np.float32))


def _conv_integer(place: Place) -> None:
    if place.input(1) not in place.constants or place.input(0) in place.constants:
        return
    x = dequantised(place, place.input(0), _ones(place, place.input(2)), place.input(2), 1)
    w = dequantised(place, place.input(1), _ones(place, place.input(3)), place.input(3), 0)
    weight_is_known(place, w)
    _whole(place, place.add("Conv", [x, w], name=place.name, **_own(place)))


def _own(place: Place) -> dict[str, object]:
    return {key: value for key, value in place.attributes.items() if key != "channels_last"}


def _matmul_integer_to_float(place: Place) -> None:
    if not _has_one_constant(place, 0, 1):
        return
    a = dequantised(place, place.input(0), place.input(2), place.input(4), -2)
    b = dequantised(place, place.input(1), place.input(3), place.input(5), -1)
    weight_is_known(place, a, b)
    _with_bias(place, place.add("MatMul", [a, b], name=place.name), place.input(6))


def _dynamic_matmul(place: Place) -> None:
    """Its input is quantised only to make it cheap in numbers: here it stays as it is."""
    if not _has_one_constant(place, 0, 1) or place.input(0) in place.constants:
        return
    b = dequantised(place, place.input(1), place.input(2), place.input(3), -1)
    weight_is_known(place, b)
    _with_bias(place, place.add("MatMul", [place.input(0), b], name=place.name), place.input(4))


def _with_bias(place: Place, y: str, bias: str) -> None:
    if bias:
        place.add("Add", [y, bias])


def _quantised_gemm(place: Place) -> None:
    if not _has_one_constant(place, 0, 3) or place.input(0) in place.constants:
        return
    a, a_scale, a_zero, b, b_scale, b_zero = place.node.input[:6]
    alpha = place.attributes.get("alpha", 1.0)
    flipped = bool(place.attributes.get("transB", 0))
    values = [dequantised(place, a, a_scale, a_zero, -2), dequantised(place, b, b_scale, b_zero, 0 if flipped else 1)]
    weight_is_known(place, values[1])
    if place.input(6):
        values.append(_bias(place, place.input(6), a_scale, b_scale, alpha))
    y = place.add("Gemm", values, name=place.name, **place.attributes)
    if place.input(7):
        _requantised(place, y, place.input(7), place.input(8))


def few_bits_matmul(
    node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Constants, _: object
) -> MatMul | None:
    """com.microsoft MatMulNBits: weights of few bits, outputs first, packed block by block along the inputs.

    Raises:
        Kept: if its inputs are reordered, or something of the weight is not constant.
    """
    packed, scales, *others = node.input[1:]
    zero, order, bias = (*others, "", "", "")[:3]
    if packed not in constants:
        return None
    if order:
        raise Kept("its rows are in another order")
    if not all(name in constants for name in (packed, scales, zero, bias) if name):
        raise Kept("something of its weight is not constant")
    rows, columns, bits, block = (int(attributes[key]) for key in ("K", "N", "bits", "block_size"))
    blocks = -(-rows // block)
    scale = constants.weight(scales)
    stored = f"uint{bits}"
    zero_point: Weight | float = 2.0 ** (bits - 1)
    if zero:
        zero_point = constants.weight(zero)
        if constants.dtype(zero) == "uint8":
            pitch = -(-blocks * bits // 8) * 8 // bits
            zero_point = replace(
                zero_point, shape=(columns, blocks), dtype=stored, axes=((columns, pitch), (blocks, 1))
            )
    weight = replace(
        constants.weight(packed),
        shape=(rows, columns),
        dtype=scale.dtype,
        axes=((rows, 1), (columns, blocks * block)),
        stored=stored,
        quantisation=Quantisation(replace(scale, shape=(columns, blocks)), zero_point, blocks * block, 1, block),
    )
    offset = None if not bias else constants.values(bias).reshape(-1)
    return MatMul(node.name, node.input[0], node.output[0], weight, offset, (node.name,))


RULES: Final[Mapping[str, Callable[[Place], None]]] = {
    "QLinearMatMul": _linear_matmul,
    "QLinearConv": _linear_conv,
    "com.microsoft::QLinearConv": _linear_conv,
    "MatMulInteger": _matmul_integer,
    "ConvInteger": _conv_integer,
    "com.microsoft::MatMulIntegerToFloat": _matmul_integer_to_float,
    "com.microsoft::DynamicQuantizeMatMul": _dynamic_matmul,
    "com.microsoft::QGemm": _quantised_gemm,
}
