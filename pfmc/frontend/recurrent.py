"""LSTM, GRU and RNN as what they consist of: one product of all inputs, and a Loop with a product of the state.

See the ONNX operators of these names for what they compute; ONNX Runtime is followed where they leave something open.
It runs none with ``layout`` 1, so there is none here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pfmc.frontend.bodies import replace_all
from pfmc.frontend.building import Names, Splice, graphs_of

GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}
_STATES: Final = {"LSTM": 2, "GRU": 1, "RNN": 1}
_USUAL: Final = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
# Activations and the numbers that ONNX Runtime takes where a node gives none: alpha, beta.
_NUMBERS: Final[dict[str, tuple[float | None, float | None]]] = {
    **dict.fromkeys(("Relu", "Sigmoid", "Softplus", "Softsign", "Tanh"), (None, None)),
    **{"Elu": (1.0, None), "LeakyRelu": (0.01, None), "ThresholdedRelu": (0.0, None)},
    **{"Affine": (0.0, 0.0), "HardSigmoid": (0.2, 0.5), "ScaledTanh": (0.0, 0.0)},
}
_OPERATORS: Final = {kind.lower(): kind for kind in _NUMBERS}
_TO_THE_START: Final = np.iinfo(np.int64).min  # end of a Slice that goes backward


@dataclass(frozen=True)
class _Activation:
    kind: str
    alpha: float | None
    beta: float | None


def expand_recurrent(graph: onnx.GraphProto) -> bool:
    """Expand what is recurrent with constant matrices, in a flat model of opset 13 at least; whether there was some.

    The products are called by the node's name followed by ``/W`` and ``/R``.
    """
    names, some = Names(graph), False
    constants = {tensor.name: tensor for tensor in graph.initializer}
    quantised: dict[str, onnx.NodeProto] = {}  # by the value that DequantizeLinear makes of them
    for part in graphs_of(graph):
        nodes: list[onnx.NodeProto] = []
        for node in part.node:
            blocked = any(a.name == "block_size" and a.i for a in node.attribute)
            stored = all(name in constants for name in node.input if name)
            if node.op_type == "DequantizeLinear" and stored and not blocked:
                quantised[node.output[0]] = node
            splice = Splice(node.name, names)
            plain = _with_plain_matrices(node, constants, quantised, splice)
            if plain is None:
                nodes.append(node)
            else:
                nodes += _Layer(plain, splice).expanded()
                graph.initializer.extend(splice.initializers)
                some = True
        replace_all(part.node, nodes)
    return some


@dataclass(frozen=True)
class _Plain:
    """A recurrent node whose two matrices are floating-point.

    Attributes:
        inputs: as the operator of this kind has them; the matrices may be others than the node's.
        dtype: of its numbers, as ONNX names it.
        shape: of the recurrent matrices: directions, gates · hidden, hidden.
    """

    node: onnx.NodeProto
    kind: str
    inputs: list[str]
    dtype: int
    shape: Sequence[int]


def _with_plain_matrices(
    node: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    quantised: Mapping[str, onnx.NodeProto],
    splice: Splice,
) -> _Plain | None:
    """A recurrent node whose matrices are constants, else None. What is quantised is made floating-point."""
    inputs = list(node.input)
    if node.op_type in GATES and all(name in constants or name in quantised for name in inputs[1:3]):
        kind, dtype = node.op_type, 0
        shape: Sequence[int] = ()
        for i in (1, 2):
            stored = quantised.get(inputs[i])
            tensor = constants[stored.input[0] if stored else inputs[i]]
            dtype, shape = tensor.data_type, list(tensor.dims)
            if stored:
                dtype = constants[stored.input[1]].data_type
                inputs[i] = _dequantised(splice, stored, len(shape), dtype)
    elif node.op_type == "DynamicQuantizeLSTM" and all(inputs[i] in constants for i in (1, 2, *range(8, 12))):
        kind, dtype = "LSTM", TensorProto.FLOAT
        for i in (1, 2):  # stored inputs first; a scale for each direction, or for each of its columns too
            scale, zero = inputs[6 + 2 * i : 8 + 2 * i]
            found = _floating(splice, inputs[i], scale, zero, [constants[scale].dims[0], 1, -1], dtype)
            inputs[i] = splice.add("Transpose", [found], perm=[0, 2, 1])
        directions, hidden, columns = constants[node.input[2]].dims
        shape = (directions, columns, hidden)
    else:
        return None
    return _Plain(node, kind, inputs, dtype, shape)


def _dequantised(splice: Splice, node: onnx.NodeProto, rank: int, dtype: int) -> str:
    """What DequantizeLinear makes, of one scale or one for each position of an axis."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % rank
    zero = node.input[2] if len(node.input) > 2 else ""
    return _floating(splice, node.input[0], node.input[1], zero, [1] * axis + [-1] + [1] * (rank - axis - 1), dtype)


def _floating(splice: Splice, stored: str, scale: str, zero: str, shape: list[int], dtype: int) -> str:
    """(q − zero point) · scale by operators that are folded, with scale and zero point in a shape."""
    add, broadcast = splice.add, splice.constant("broadcast", shape)
    value = add("Cast", [stored], to=dtype)
    if zero:
        value = add("Sub", [value, add("Cast", [add("Reshape", [zero, broadcast])], to=dtype)])
    return add("Mul", [value, add("Reshape", [scale, broadcast])])


class _Layer:
    """A recurrent node on its way.

    Attributes:
        splice: what takes its place.
        lengths: of the sequences, N × 1, or nothing.
    """

    def __init__(self, plain: _Plain, splice: Splice) -> None:
        self.node, self.kind, self.inputs, self.dtype = plain.node, plain.kind, plain.inputs, plain.dtype
        self.directions, self.columns, self.hidden = plain.shape
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in plain.node.attribute}
        self.splice, self.lengths = splice, ""

    def given(self, i: int) -> str:
        """Name of an input, or nothing."""
        return self.inputs[i] if i < len(self.inputs) else ""

    def one(self, i: int, direction: int) -> str:
        """What an input has for one direction: its first axis is gone."""
        if self.directions == 1:
            return self.splice.add("Squeeze", [self.given(i), self.splice.constant("directions", [0])])
        return self.splice.add("Gather", [self.given(i), self.splice.constant("direction", np.array(direction))])

    def part(self, value: str, start: int, stop: int, axis: int = 0) -> str:
        """Some entries along an axis."""
        numbers = (("start", start), ("stop", stop), ("axis", axis))
        return self.splice.add("Slice", [value, *(self.splice.constant(what, [number]) for what, number in numbers)])

    def zero(self) -> str:
        """A zero of the layer's type."""
        return self.splice.constant("zero", np.zeros((), helper.tensor_dtype_to_np_dtype(self.dtype)))

    def expanded(self) -> list[onnx.NodeProto]:
        """The nodes."""
        add, constant = self.splice.add, self.splice.constant
        if self.given(4):
            column = add("Unsqueeze", [self.given(4), constant("column", [1])])
            self.lengths = add("Cast", [column], to=TensorProto.INT64)
        found = [self.direction(d, x) for d, x in enumerate(self.products())]
        for i, (name, axis) in enumerate(zip(self.node.output, (1, 0, 0), strict=False)):
            if name:
                axes = constant("directions", [axis])
                add("Concat", [add("Unsqueeze", [values[i], axes]) for values in found], axis=axis)
                self.splice.nodes[-1].output[0] = name
        return self.splice.nodes

    def products(self) -> list[str]:
        """Of the inputs and the matrices of all directions, with the bias; one value for each direction."""
        add, constant = self.splice.add, self.splice.constant
        stacked = add("Reshape", [self.given(1), constant("stacked", [self.directions * self.columns, -1])])
        matrix = add("Transpose", [stacked], perm=[1, 0])
        y = add("MatMul", [self.given(0), matrix], name=f"{self.node.name}/W")
        if self.given(3):
            bias = self.part(self.given(3), 0, self.columns, axis=1)
            y = add("Add", [y, add("Reshape", [bias, constant("row", [-1])])])
        if self.directions == 1:
            return [y]
        add("Split", [y, constant("columns", [self.columns] * 2)], axis=2)
        halves = [self.splice.names.new(f"{self.node.name}/half") for _ in range(2)]
        replace_all(self.splice.nodes[-1].output, halves)
        return halves

    def direction(self, d: int, x: str) -> list[str]:
        """All states and the last ones of one direction, from its products of the inputs."""
        add, constant, names = self.splice.add, self.splice.constant, self.splice.names
        backward = d == 1 or self.attributes.get("direction") == b"reverse"
        if backward:
            x = self.reversed(x)
        steps = add("Gather", [add("Shape", [x]), constant("time", np.array(0))])
        cell = _Cell(self, d, x)
        begin = [self.begin(5 + i, d, x) for i in range(_STATES[self.kind])]
        end = [names.new(f"{self.node.name}/last") for _ in begin]
        y = names.new(f"{self.node.name}/all")
        name = names.new(f"{self.node.name}/Loop")
        self.splice.nodes.append(helper.make_node("Loop", [steps, "", *begin], [*end, y], name=name, body=cell.body()))
        return [self.reversed(y) if backward else y, *end]

    def begin(self, i: int, d: int, x: str) -> str:
        """A state before the first step: an input or zero; what has no steps ends with zero."""
        add, constant = self.splice.add, self.splice.constant
        if self.given(i):
            state = self.one(i, d)
        else:
            shape = add("Concat", [self.part(add("Shape", [x]), 1, 2), constant("hidden", [self.hidden])], axis=0)
            none = np.zeros(1, helper.tensor_dtype_to_np_dtype(self.dtype))
            state = add("ConstantOfShape", [shape], value=numpy_helper.from_array(none))
        if self.lengths:
            state = add("Where", [add("Greater", [self.lengths, constant("none", [0])]), state, self.zero()])
        return state

    def reversed(self, value: str) -> str:
        """In time: each sequence within its length."""
        if self.given(4):
            lengths = self.splice.add("Cast", [self.given(4)], to=TensorProto.INT64)
            return self.splice.add("ReverseSequence", [value, lengths], time_axis=0, batch_axis=1)
        numbers = (("last", -1), ("before", _TO_THE_START), ("time", 0), ("backward", -1))
        given = [self.splice.constant(what, [number]) for what, number in numbers]
        return self.splice.add("Slice", [value, *given])

    def activations(self, d: int) -> list[_Activation]:
        """Of one direction; numbers are given to those that have some, in the order of all directions."""
        kinds = [kind.decode() for kind in self.attributes.get("activations", ())] or _USUAL[
            self.kind
        ] * self.directions
        alphas, betas = (iter(self.attributes.get(f"activation_{which}", ())) for which in ("alpha", "beta"))
        found = []
        for kind in (_OPERATORS[kind.lower()] for kind in kinds):
            alpha, beta = _NUMBERS[kind]
            alpha = None if alpha is None else next(alphas, alpha)
            beta = None if beta is None else next(betas, beta)
            found.append(_Activation(kind, alpha, beta))
        each = len(found) // self.directions
        return found[d * each : (d + 1) * each]


class _Cell:
    """One step of one direction: the body of its Loop.

    Attributes:
        x: products of the inputs.
    """

    def __init__(self, layer: _Layer, d: int, x: str) -> None:
        self.layer, self.d, self.x = layer, d, x
        self.inside = Splice(layer.node.name, layer.splice.names)
        self.functions = layer.activations(d)
        self.matrix = layer.one(2, d)
        self.bias = layer.part(layer.one(3, d), layer.columns, 2 * layer.columns) if layer.given(3) else ""

    def body(self) -> onnx.GraphProto:
        """Number of the step, condition and states in; condition, states and what is stacked out."""
        add, names, layer = self.inside.add, self.inside.names, self.layer
        step, going, *states = (
            names.new(f"{layer.node.name}/{what}") for what in ("step", "going", "h", "c")[: 2 + _STATES[layer.kind]]
        )
        still = add("Identity", [going])
        x = add("Gather", [self.x, step], axis=0)
        steps: dict[str, Callable[..., list[str]]] = {"LSTM": self.lstm, "GRU": self.gru, "RNN": self.rnn}
        found = steps[layer.kind](x, *states)
        shown = found[0]
        if layer.lengths:
            within = add("Less", [step, layer.lengths])
            shown = add("Where", [within, shown, layer.zero()])
            found = [add("Where", [within, new, old]) for new, old in zip(found, states, strict=True)]
        else:
            shown = add("Identity", [shown])
        layer.splice.initializers.extend(self.inside.initializers)
        shape = [None, layer.hidden]
        inputs = [
            helper.make_tensor_value_info(step, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(name, layer.dtype, shape) for name in states),
        ]
        outputs = [
            helper.make_tensor_value_info(still, TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(name, layer.dtype, shape) for name in (*found, shown)),
        ]
        return helper.make_graph(self.inside.nodes, "step", inputs, outputs)

    def product(self, state: str, start: int, stop: int, name: str = "R") -> str:
        """Of a state and the recurrent matrix of some gates, with their bias."""
        matrix, bias = self.matrix, self.bias
        if stop - start < GATES[self.layer.kind]:
            matrix, bias = (self.gates(value, start, stop) if value else "" for value in (matrix, bias))
        columns = self.layer.splice.add("Transpose", [matrix], perm=[1, 0])
        new = self.inside.names.new(f"{self.layer.node.name}/{name}")
        y = self.inside.add("MatMul", [state, columns], name=new)
        return self.inside.add("Add", [y, bias]) if bias else y

    def gates(self, value: str, start: int, stop: int) -> str:
        """Entries of some gates along the first axis."""
        return self.layer.part(value, start * self.layer.hidden, stop * self.layer.hidden)

    def split(self, value: str, *gates: int) -> list[str]:
        """Parts of so many gates each."""
        parts = [self.inside.names.new(f"{self.layer.node.name}/gate") for _ in gates]
        self.inside.add("Split", [value, self.inside.constant("gates", [n * self.layer.hidden for n in gates])], axis=1)
        replace_all(self.inside.nodes[-1].output, parts)
        return parts

    def activated(self, which: int, value: str) -> str:
        """An activation; gates are clipped before, the state of an LSTM is not."""
        add, dtype = self.inside.add, helper.tensor_dtype_to_np_dtype(self.layer.dtype)

        def number(what: str, value: float | None) -> str:
            return self.inside.constant(what, np.array(value, dtype))

        limit = self.layer.attributes.get("clip", 0.0)
        if limit and which < 2:
            value = add("Clip", [value, number("low", -limit), number("high", limit)])
        function = self.functions[which]
        if function.kind == "Affine":
            scaled = add("Mul", [value, number("alpha", function.alpha)])
            return add("Add", [scaled, number("beta", function.beta)])
        if function.kind == "ScaledTanh":
            bent = add("Tanh", [add("Mul", [value, number("beta", function.beta)])])
            return add("Mul", [bent, number("alpha", function.alpha)])
        numbers = {key: getattr(function, key) for key in ("alpha", "beta") if getattr(function, key) is not None}
        return add(function.kind, [value], **numbers)

    def rnn(self, x: str, h: str) -> list[str]:
        """H = f(x + h R)."""
        return [self.activated(0, self.inside.add("Add", [x, self.product(h, 0, 1)]))]

    def gru(self, x: str, h: str) -> list[str]:
        """Gates z, r and h: H = (1 − z) ∘ g(…) + z ∘ h; r is applied before or behind the product of the last."""
        add = self.inside.add
        pair, last = self.split(x, 2, 1)
        if self.layer.attributes.get("linear_before_reset", 0):
            pair_h, last_h = self.split(self.product(h, 0, 3), 2, 1)
            z, r = self.split(self.activated(0, add("Add", [pair, pair_h])), 1, 1)
            last_h = add("Mul", [r, last_h])
        else:
            z, r = self.split(self.activated(0, add("Add", [pair, self.product(h, 0, 2, "R_zr")])), 1, 1)
            last_h = self.product(add("Mul", [r, h]), 2, 3, "R_h")
        new = self.activated(1, add("Add", [last, last_h]))
        return [add("Add", [new, add("Mul", [z, add("Sub", [h, new])])])]

    def lstm(self, x: str, h: str, c: str) -> list[str]:
        """Gates i, o, f and c: C = f ∘ c + i ∘ g(…), H = o ∘ h(C)."""
        add, layer = self.inside.add, self.layer
        i, o, f, g = self.split(add("Add", [x, self.product(h, 0, 4)]), 1, 1, 1, 1)
        seeing = [""] * 3
        if layer.given(7):
            own = layer.one(7, self.d)
            seeing = [layer.part(own, k * layer.hidden, (k + 1) * layer.hidden) for k in range(3)]

        def gate(value: str, peephole: str, state: str) -> str:
            if peephole:
                value = add("Add", [value, add("Mul", [state, peephole])])
            return self.activated(0, value)

        i = gate(i, seeing[0], c)
        if layer.attributes.get("input_forget", 0):
            f = add("Sub", [self.inside.constant("one", np.ones((), helper.tensor_dtype_to_np_dtype(layer.dtype))), i])
        else:
            f = gate(f, seeing[2], c)
        new = add("Add", [add("Mul", [f, c]), add("Mul", [i, self.activated(1, g)])])
        o = gate(o, seeing[1], new)
        return [add("Mul", [o, self.activated(2, new)]), new]
