"""How many parameters a model has, and how many multiply-accumulates it does per sample."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import helper

from pfmc.data import RANDOM_EXTENTS, Dataset, random_dataset, sample_axis
from pfmc.errors import DataError
from pfmc.frontend.activations import Seen, record
from pfmc.frontend.bodies import entered
from pfmc.frontend.building import kind_of
from pfmc.frontend.checks import nodes_of, read_proto, tensors_of
from pfmc.frontend.importer import ImportedModel

TRAINED_TYPES: Final = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.INT8,
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT4,
        onnx.TensorProto.UINT4,
        onnx.TensorProto.INT2,
        onnx.TensorProto.UINT2,
        onnx.TensorProto.FLOAT4E2M1,
        onnx.TensorProto.FLOAT8E4M3FN,
        onnx.TensorProto.FLOAT8E4M3FNUZ,
        onnx.TensorProto.FLOAT8E5M2,
        onnx.TensorProto.FLOAT8E5M2FNUZ,
    }
)

Sizes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Counts:
    """Sizes of a model.

    Attributes:
        parameters: numbers in all floating-point and 2- to 8-bit tensors with more than one element, initialisers and
            constants, in subgraphs and functions too: of the original model, or of the folded one if those are more.
            The scales and zero points that say what quantised ones mean are not counted.
        macs_by_node: multiply-accumulates per sample of every node that multiplies matrices, in bodies too, from the
            shapes that occur when the first sample runs.
    """

    parameters: int
    macs_by_node: dict[str, int]

    @property
    def macs(self) -> int:
        """All of them."""
        return sum(self.macs_by_node.values())


def drawn_inputs(imported: ImportedModel, samples: int, seed: int) -> tuple[Dataset, Counts]:
    """Random inputs that a model runs on, as short on its open axes as it allows, and its sizes.

    Raises:
        DataError: if there are none; it says what is wrong with the shortest.
    """
    problems: list[DataError] = []
    given = all(None not in spec.shape[1:] for spec in imported.inputs)
    for extent in RANDOM_EXTENTS[:1] if given else RANDOM_EXTENTS:
        dataset = random_dataset(imported.inputs, samples, np.random.default_rng(seed), extent)
        try:
            return dataset, count(imported, dataset)
        except DataError as problem:
            problems.append(problem)
    raise problems[0]


def count(imported: ImportedModel, dataset: Dataset) -> Counts:
    """Count, running the model once.

    Raises:
        DataError: if the model cannot run on these inputs.
    """
    path = imported.files[0]
    model = onnx.load(imported.folded, load_external_data=False)
    busy = [node for _, node in entered(model.graph) if kind_of(node) in _MACS and node.name not in imported.helpers]
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    mapped = {contraction.name: contraction.weight.shape for contraction in imported.graph.contractions()}
    constants.update((node.input[1], mapped[node.name]) for node in busy if node.name in mapped)
    values = dict.fromkeys(
        name for node in busy for name in (*node.input, *node.output) if name and name not in constants
    )
    samples = sample_axis(imported.inputs)[0] or 1
    (seen,) = record(imported, dataset.take(samples), list(values), samples)
    macs = {
        node.name: sum(_MACS[kind_of(node)](node, shapes) for shapes in _shapes(node, seen, constants)) // samples
        for node in busy
    }
    # Folding can make weights of what was computed: constants that were filled, sliced or shared. What a loop starts
    # from is none then, such as the zeros that a recurrent layer begins with.
    begin = {name for node in nodes_of(model) if node.op_type == "Loop" for name in node.input[2:]}
    return Counts(max(_trained(read_proto(path), ()), _trained(model, imported.helpers | begin)), macs)


def _shapes(node: onnx.NodeProto, seen: Seen, constants: Sizes) -> Iterator[Sizes]:
    """Shapes of what a node reads and makes, each time it is run."""
    times = len(seen[node.output[0]])
    dynamic = [name for name in (*node.input, *node.output) if name in seen]
    for i in range(times):  # what was computed less often stands around the node's body
        now = {name: seen[name][i if len(seen[name]) == times else -1].shape for name in dynamic}
        yield {**{name: constants[name] for name in node.input if name in constants}, **now}


def _trained(model: onnx.ModelProto, others: Container[str]) -> int:
    """Numbers in trained tensors that are not among ``others``; packed ones count each."""
    nodes = list(nodes_of(model))
    meanings = {name for node in nodes for name in _at(node, _MEANINGS.get(kind_of(node), ()))}
    packed = {node.input[1]: _few_bits_size(node) for node in nodes if kind_of(node) == "com.microsoft::MatMulNBits"}
    sizes = [
        packed.get(tensor.name, math.prod(tensor.dims))
        for tensor in tensors_of(model)
        if tensor.data_type in TRAINED_TYPES and tensor.name not in meanings and tensor.name not in others
    ]
    return sum(size for size in sizes if size > 1)


def _at(node: onnx.NodeProto, places: Iterable[int]) -> list[str]:
    return [node.input[i] for i in places if i < len(node.input) and node.input[i]]


def _few_bits_size(node: onnx.NodeProto) -> int:
    return math.prod(a.i for a in node.attribute if a.name in ("K", "N"))


def _product(node: onnx.NodeProto, shapes: Sizes) -> int:
    """MatMul and Gemm: every output is a sum over the last axis of the first operand."""
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-2 if transposed else -1]


def _convolution(node: onnx.NodeProto, shapes: Sizes) -> int:
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _quantised_convolution(node: onnx.NodeProto, shapes: Sizes) -> int:
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[3]][1:])


def _transposed_convolution(node: onnx.NodeProto, shapes: Sizes) -> int:
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _recurrent(node: onnx.NodeProto, shapes: Sizes) -> int:
    """Input and recurrent matrices of all gates and directions, once per step and sequence."""
    steps = math.prod(shapes[node.input[0]][:2])
    return steps * (math.prod(shapes[node.input[1]]) + math.prod(shapes[node.input[2]]))


def _einsum(node: onnx.NodeProto, shapes: Sizes) -> int:
    """The product of all extents, as if nothing were summed early; an ellipsis is not counted."""
    equation = next(helper.get_attribute_value(a) for a in node.attribute if a.name == "equation").decode()
    terms = equation.replace(" ", "").split("->")[0].split(",")
    extents: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        if "..." not in term:
            extents.update(zip(term, shapes[name], strict=True))
    return math.prod(extents.values())


_MACS: Final = {
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "Gemm": _product,
    "com.microsoft::FusedMatMul": _product,
    "com.microsoft::MatMulNBits": _product,
    "com.microsoft::FusedGemm": _product,
    "com.microsoft::QGemm": _product,
    "com.microsoft::DynamicQuantizeMatMul": _product,
    "com.microsoft::MatMulIntegerToFloat": _product,
    "com.microsoft::FusedConv": _convolution,
    "com.microsoft::QLinearConv": _quantised_convolution,
    "com.microsoft.nchwc::Conv": _convolution,
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "QLinearConv": _quantised_convolution,
    "ConvTranspose": _transposed_convolution,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}

# Which inputs only say what quantised numbers mean.
_MEANINGS: Final = {
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "com.microsoft::QLinearConv": (1, 2, 4, 5, 6, 7),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
    "com.microsoft::MatMulNBits": (2, 3),
    "com.microsoft::DynamicQuantizeMatMul": (2, 3),
    "com.microsoft::MatMulIntegerToFloat": (2, 3, 4, 5),
    "com.microsoft::QGemm": (1, 2, 4, 5, 7, 8),
    "com.microsoft::QAttention": (3, 4, 6, 7),
}
