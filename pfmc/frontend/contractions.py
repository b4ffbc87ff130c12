"""Rules for floating-point operators: each becomes a MatMul, Gemm or Conv with its constant in the right place."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper

from pfmc.frontend.building import Kept, Place

Labels = tuple[str, ...]  # a name for each axis of a tensor


def contract(place: Place, x: str, xs: Labels, w: str, ws: Labels, ys: Labels) -> None:
    """Add what computes the einsum "xs,ws->ys" of a value x and a constant w.

    Axes that only x and the result have tell vectors apart; those that x and w share are rows of the matrix, unless the
    result has them too: then each position along them has a matrix of its own. What only w and the result have are
    columns.

    Raises:
        Kept: if an operand has an axis twice, or one of w's is only summed.
    """
    if any(len(set(labels)) < len(labels) for labels in (xs, ws, ys)):
        raise Kept("an axis occurs twice in one operand")
    x, xs, w, ws = _unbroadcast(place, x, xs, w, ws)
    if not set(ws) <= {*xs, *ys}:
        raise Kept("an axis of the constant is summed alone")
    summed = [i for i, label in enumerate(xs) if label not in (*ws, *ys)]
    if summed:
        x = place.add("ReduceSum", [x, place.constant("axes", summed)], keepdims=0)
        xs = tuple(label for i, label in enumerate(xs) if i not in summed)
    if set(xs) & set(ws) & set(ys):
        _grouped(place, x, xs, w, ws, ys)
    else:
        _plain(place, x, xs, w, ws, ys)


def _unbroadcast(place: Place, x: str, xs: Labels, w: str, ws: Labels) -> tuple[str, Labels, str, Labels]:
    """Operands without axes of one position that the other operand widens."""
    x_extents = dict(zip(xs, place.shape(x) or (None,) * len(xs), strict=True))
    w_extents = dict(zip(ws, place.constants.shape(w), strict=True))
    if 0 in w_extents.values():
        raise Kept("the weight has no elements")
    shared = [label for label in xs if label in w_extents]
    narrow_w = [label for label in shared if w_extents[label] == 1 != x_extents[label]]
    narrow_x = [label for label in shared if x_extents[label] == 1 != w_extents[label]]
    if narrow_w:
        w = place.reshape(w, [w_extents[label] for label in ws if label not in narrow_w])
        ws = tuple(label for label in ws if label not in narrow_w)
    if narrow_x:
        x = place.add("Squeeze", [x, place.constant("axes", [xs.index(label) for label in narrow_x])])
        xs = tuple(label for label in xs if label not in narrow_x)
    return x, xs, w, ws


def _order(now: Sequence[str], wanted: Sequence[str]) -> list[int]:
    return [now.index(label) for label in wanted]


def _plain(place: Place, x: str, xs: Labels, w: str, ws: Labels, ys: Labels) -> None:
    """One matrix for all vectors: a MatMul."""
    extent = dict(zip(ws, place.constants.shape(w), strict=True))
    rows, columns = [label for label in xs if label in ws], [label for label in ys if label in ws]
    rest = [label for label in ys if label not in ws]
    height, width = (math.prod(extent[label] for label in labels) for labels in (rows, columns))
    x = place.transpose(x, _order(xs, [*rest, *rows]))
    if len(rows) != 1:
        x = place.reshape(x, [*(0 for _ in rest), height])
    w = place.transpose(w, _order(ws, [*rows, *columns]))
    if (len(rows), len(columns)) != (1, 1):
        w = place.reshape(w, [height, width])
    y = place.add("MatMul", [x, w], name=place.name)
    if len(columns) != 1:
        y = place.reshape(y, [*(0 for _ in rest), *(extent[label] for label in columns)])
    place.transpose(y, _order([*rest, *columns], ys))


def _grouped(place: Place, x: str, xs: Labels, w: str, ws: Labels, ys: Labels) -> None:
    """A matrix for each position of some axes: a Conv over single positions, those axes its groups."""
    extent = dict(zip(ws, place.constants.shape(w), strict=True))
    groups = [label for label in ys if label in xs and label in ws]
    rows = [label for label in xs if label in ws and label not in ys]
    columns = [label for label in ys if label not in xs]
    rest = [label for label in ys if label not in ws]
    count, height, width = (math.prod(extent[label] for label in labels) for labels in (groups, rows, columns))
    x = place.transpose(x, _order(xs, [*groups, *rows, *rest]))
    behind = _extents_behind(place, x, len(groups) + len(rows)) if len(rest) > 1 else ""
    x = place.reshape(x, [1, count * height, -1])
    w = place.transpose(w, _order(ws, [*groups, *columns, *rows]))
    w = place.reshape(w, [count * width, height, 1])
    dtype = place.constants.dtype(w)
    if dtype != "float32":  # ONNX Runtime has no Conv for every type
        x, w = (place.add("Cast", [value], to=TensorProto.FLOAT) for value in (x, w))
    y = place.add("Conv", [x, w], name=place.name, group=count, kernel_shape=[1])
    if dtype != "float32":
        y = place.add("Cast", [y], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    front = [extent[label] for label in (*groups, *columns)]
    if behind:
        y = place.add("Reshape", [y, place.add("Concat", [place.constant("front", front), behind], axis=0)])
    else:
        y = place.reshape(y, [*front, *(-1 for _ in rest)])
    place.transpose(y, _order([*groups, *columns, *rest], ys))


def _extents_behind(place: Place, value: str, first: int) -> str:
    """Name of the extents of its axes from ``first`` on."""
    ends = place.constant("first", [first]), place.constant("end", [2**31 - 1])
    return place.add("Slice", [place.add("Shape", [value]), *ends])


def _operands(place: Place) -> tuple[str, str] | None:
    """The dynamic and the constant one of two operands, if there is one of each."""
    a, b = place.input(0), place.input(1)
    if (a in place.constants) == (b in place.constants):
        return None
    return (b, a) if a in place.constants else (a, b)


def _matmul(place: Place) -> None:
    operands = _operands(place)
    if operands is None:
        return
    x, w = operands
    left, shape = place.shape(place.input(0)), place.shape(place.input(1))
    if w == place.input(1) and len(place.constants.shape(w)) == 2:
        return
    if left is None or shape is None:
        raise Kept("how many axes its input has is not known")
    lefts, rights = _matmul_labels(len(left), "mk"), _matmul_labels(len(shape), "kn")
    xs, ws = (lefts, rights) if w == place.input(1) else (rights, lefts)
    x_extents, w_extents = (dict(zip(labels, place.shape(v) or (), strict=True)) for v, labels in ((x, xs), (w, ws)))
    if any(
        x_extents.get(label, 1) is None and extent != 1 for label, extent in w_extents.items() if label not in "mkn"
    ):
        raise Kept("whether its input has a matrix for each of the weight's is not known")
    batch = max(lefts, rights, key=len)[:-2] if max(len(lefts), len(rights)) > 2 else ()
    ys = (*batch, *(label for label in ("m", "n") if label in (*lefts, *rights)))
    contract(place, x, xs, w, ws, ys)


def _matmul_labels(rank: int, last: str) -> Labels:
    """Names of a MatMul operand's axes: those of a batch are numbered from the last one."""
    if rank == 1:
        return ("k",)
    return (*(f"batch{i}" for i in range(rank - 2, 0, -1)), *last)


def _einsum(place: Place) -> None:
    constant = [value in place.constants for value in place.node.input]
    if not any(constant):
        return
    if len(constant) != 2:
        raise Kept(f"it has {len(constant)} operands")
    operands = _operands(place)
    if operands is None:
        return
    shapes = [place.shape(value) for value in place.node.input]
    terms, result = _equation(place.attributes["equation"].decode(), shapes)
    if constant[0]:
        terms = terms[::-1]
    contract(place, operands[0], terms[0], operands[1], terms[1], result)


def _equation(text: str, shapes: Sequence[tuple[int | None, ...] | None]) -> tuple[list[Labels], Labels]:
    """Names of the axes of the operands and of the result; those of an ellipsis are numbered from the last one."""
    left, arrow, right = text.replace(" ", "").partition("->")
    terms: list[Labels] = []
    longest: Labels = ()
    for term, shape in zip(left.split(","), shapes, strict=True):
        letters = len(term.replace("...", ""))
        dots: Labels = ()
        if "..." in term:
            if shape is None:
                raise Kept("how many axes its input has is not known")
            dots = tuple(f"dots{i}" for i in range(len(shape) - letters, 0, -1))
        longest = max(longest, dots, key=len)
        terms.append(_spread(term, dots))
    if not arrow:
        once = [c for c in sorted(set(left) - set(".,")) if left.count(c) == 1]
        return terms, (*longest, *once)
    return terms, _spread(right, longest)


def _spread(term: str, dots: Labels) -> Labels:
    return tuple(label for part in re.findall(r"\.\.\.|.", term) for label in (dots if part == "..." else (part,)))


def _gemm(place: Place) -> None:
    operands = _operands(place)
    if operands is None:
        return
    x, w = operands
    flip_a, flip_b = (bool(place.attributes.get(key, 0)) for key in ("transA", "transB"))
    alpha, c = place.attributes.get("alpha", 1.0), place.input(2)
    left = w == place.input(0)
    if not left and not flip_a and (not c or is_bias(place, c, place.constants.shape(w)[0 if flip_b else 1])):
        return
    if left:  # y = A · x is the transposed of xᵀ · Aᵀ
        x = x if flip_b else place.transpose(x, [1, 0])
        y = place.add("Gemm", [x, w], name=place.name, alpha=alpha, transB=int(not flip_a))
        y = place.transpose(y, [1, 0])
    else:
        x = place.transpose(x, [1, 0]) if flip_a else x
        y = place.add("Gemm", [x, w], name=place.name, alpha=alpha, transB=int(flip_b))
    beta = place.attributes.get("beta", 1.0)
    if c and beta:
        if beta != 1.0:
            c = place.add("Mul", [c, place.constant("beta", _number(place, w, beta))])
        place.add("Add", [y, c])


def is_bias(place: Place, value: str, columns: int) -> bool:
    """Whether a value is a constant with one number, or one per column."""
    if value not in place.constants:
        return False
    shape = place.constants.shape(value)
    return math.prod(shape) == 1 or (math.prod(shape) == columns and shape[-1] == columns)


def _number(place: Place, like: str, value: float) -> np.ndarray:
    """A number of a constant's type."""
    return np.array(value, dtype=np.dtype(place.constants.dtype(like)))


def _conv_transpose(place: Place) -> None:
    """What each input position gives to the outputs around it is the contraction; the host adds it up where it falls.

    That is itself a ConvTranspose, whose kernel is the identity: one channel per tap of the kernel.
    """
    x, w = place.input(0), place.input(1)
    if w not in place.constants or x in place.constants:
        return
    channels, width, *kernel = place.constants.shape(w)
    groups, taps, axes = place.attributes.get("group", 1), math.prod(kernel), len(kernel)
    height, columns = channels // groups, width * groups
    if 0 in (channels, width, *kernel):
        raise Kept("the weight has no elements")
    w = place.reshape(w, [groups, height, width * taps])
    w = place.reshape(place.transpose(w, [0, 2, 1]), [columns * taps, height, *(1 for _ in kernel)])
    y = place.add("Conv", [x, w], name=place.name, group=groups, kernel_shape=[1] * axes)
    y = place.reshape(y, [-1, taps, *(0 for _ in kernel)])
    dtype = np.dtype(place.constants.dtype(w))
    scatter = place.constant("scatter", np.eye(taps, dtype=dtype).reshape(taps, 1, *kernel))
    kept = {key: value for key, value in place.attributes.items() if key != "group"}
    y = place.add("ConvTranspose", [y, scatter], **kept)
    place.helpers += [scatter, place.nodes[-1].name]
    y = place.reshape(y, [-1, columns, *(0 for _ in kernel)])
    bias = place.input(2)
    if bias:
        place.add("Add", [y, place.reshape(bias, [-1, *(1 for _ in kernel)])])


def _fused_matmul(place: Place) -> None:
    if _operands(place) is None:
        return
    if any(place.attributes.get(key, 0) for key in ("transBatchA", "transBatchB")):
        raise Kept("its batch is transposed")
    values = []
    for i, key in enumerate(("transA", "transB")):
        value, shape = place.input(i), place.shape(place.input(i))
        if place.attributes.get(key, 0):
            if shape is None:
                raise Kept("how many axes its input has is not known")
            rank = len(shape)
            value = place.transpose(value, [*range(rank - 2), rank - 1, rank - 2]) if rank > 1 else value
        values.append(value)
    alpha = place.attributes.get("alpha", 1.0)
    y = place.add("MatMul", values, name=place.name)
    if alpha != 1.0:
        w = values[0] if values[0] in place.constants else values[1]
        place.add("Mul", [y, place.constant("alpha", _number(place, w, alpha))])


def _fused_gemm(place: Place) -> None:
    if _operands(place) is None:
        return
    own = {key: value for key, value in place.attributes.items() if not key.startswith("activation")}
    y = place.add("Gemm", [value for value in place.node.input if value], name=place.name, **own)
    numbers = [place.attributes.get(f"activation_{key}") for key in ("alpha", "beta")]
    _activation(place, y, [number for number in numbers if number is not None])


def _fused_conv(place: Place) -> None:
    if place.input(1) not in place.constants:
        return
    own = {key: value for key, value in place.attributes.items() if not key.startswith("activation")}
    y = place.add("Conv", [value for value in place.node.input[:3] if value], name=place.name, **own)
    if place.input(3):
        y = place.add("Add", [y, place.input(3)])
    _activation(place, y, place.attributes.get("activation_params", []))


def _reordered(place: Place) -> None:
    if place.input(1) in place.constants:
        raise Kept("its weights are reordered for one processor: save the model at the extended level of optimisation")


def _activation(place: Place, y: str, numbers: Sequence[float]) -> None:
    """The activation behind an operator that ONNX Runtime has fused."""
    kind = place.attributes.get("activation", b"").decode()
    if kind in ("Relu", "Sigmoid", "Tanh"):
        place.add(kind, [y])
    elif kind in ("LeakyRelu", "HardSigmoid"):
        named: dict[str, Any] = dict(zip(("alpha", "beta"), numbers, strict=False))
        place.add(kind, [y], **named)
    elif kind == "Clip" and len(numbers) == 2:
        low, high = (place.constant("limit", np.array(number, np.float32)) for number in numbers)
        place.add("Clip", [y, low, high])
    elif kind:
        raise Kept(f"the activation {kind} is not known")


RULES: Final[Mapping[str, Callable[[Place], None]]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "ConvTranspose": _conv_transpose,
    "com.microsoft::FusedMatMul": _fused_matmul,
    "com.microsoft::TransposeMatMul": _fused_matmul,
    "com.microsoft::FusedGemm": _fused_gemm,
    "com.microsoft::FusedConv": _fused_conv,
    "com.microsoft.nchwc::Conv": _reordered,
}
