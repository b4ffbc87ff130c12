"""Factors moved to where they can be part of a matrix: attention's scale, and the gains of normalisations."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx

from pfmc.frontend.attention_ways import Dataflow
from pfmc.frontend.building import Names, Splice, kind_of
from pfmc.frontend.constants import FLOATS, Constants

REARRANGING: Final = ("Expand", "Identity", "Neg", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
NORMALISATIONS: Final = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
WEIGHTED: Final = ("Gemm", "MatMul")


def gains_apart(graph: onnx.GraphProto, constants: Constants) -> None:
    """A normalisation whose result is multiplied by matrices only, as one without gain and shift, and those behind it.

    Where the model's graph itself holds it; the matrices then take them in.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)
    outputs = {value.name for value in graph.output}
    names, nodes = Names(graph), list[onnx.NodeProto]()
    for node in graph.node:
        nodes.append(node)
        made = node.output[0] if node.output else ""
        if kind_of(node).removeprefix("com.microsoft::") not in NORMALISATIONS or made in outputs:
            continue
        numbers = [name for name in node.input[1:] if name]
        read = readers.get(made, [])
        if not (
            numbers
            and read
            and all(name in constants and len(constants.shape(name)) == 1 for name in numbers)
            and all(_multiplies(reader, made, constants) for reader in read)
        ):
            continue
        splice = Splice(node.name, names)
        dtype = np.dtype(constants.dtype(numbers[0]))
        ones = splice.constant("ones", np.ones(constants.shape(numbers[0]), dtype))
        plain = names.new(f"{node.name}/plain")
        del node.input[1:]
        node.input.append(ones)
        node.output[0] = plain
        value = splice.add("Mul", [plain, numbers[0]])
        for shift in numbers[1:]:
            value = splice.add("Add", [value, shift])
        splice.nodes[-1].output[0] = made
        nodes += splice.nodes
        graph.initializer.extend(splice.initializers)
        constants.store(splice.initializers)
    del graph.node[:]
    graph.node.extend(nodes)


def _multiplies(node: onnx.NodeProto, value: str, constants: Constants) -> bool:
    """Whether a node multiplies a value by a constant matrix, and nothing else."""
    return (
        kind_of(node) in WEIGHTED
        and list(node.input).count(value) == 1
        and node.input[0] == value
        and node.input[1] in constants
        and constants.dtype(node.input[1]) in FLOATS
        and not any(a.name == "transA" and a.i for a in node.attribute)
    )


def scales_in_front(graph: onnx.GraphProto, constants: Constants) -> None:
    """Multiply by a number right behind a contraction, not after heads are told apart, on the keys' side or the scores.

    Queries are rearranged, rotated and multiplied by keys: a factor may stand anywhere on that way, if nothing else is
    made from what it would then multiply.
    """
    names = Names(graph)
    while _moved(graph, Dataflow(graph, constants, {}, {}), names):
        pass


def _moved(graph: onnx.GraphProto, flow: Dataflow, names: Names) -> bool:
    """Move one factor, if there is one to move."""
    for node in graph.node:
        moving = flow.dynamic(node)
        if flow.factor(node) == 1.0 or len(moving) != 1 or node.output[0] in flow.outputs or _settled(flow, node):
            continue
        start, readers, last = moving[0], flow.readers.get(node.output[0], []), node
        if len(readers) == 1 and kind_of(readers[0]) == "MatMul" and readers[0].input[1] == node.output[0]:
            start, last = readers[0].input[0], readers[0]
        elif _is_scores(flow, start):
            start, last = flow.maker[start].input[0], flow.maker[start]
        region = set[str]()
        front = _front(flow, start, region)
        if front is not None and (front != start or last is not node) and _closed(flow, region, last):
            _move(graph, flow, node, front, names)
            return True
    return False


def _is_scores(flow: Dataflow, value: str) -> bool:
    """Whether a value is a product of two that are no constants, and only multiplied by a number."""
    node = flow.maker.get(value)
    return (
        node is not None and kind_of(node) == "MatMul" and len(flow.dynamic(node)) == 2 and _readers(flow, value) == 1
    )


def _readers(flow: Dataflow, value: str) -> int:
    return sum(reader.op_type != "Shape" for reader in flow.readers.get(value, ())) + (value in flow.outputs)


def _front(flow: Dataflow, value: str, region: set[str]) -> str | None:
    """What a contraction makes, of which a value is a linear function; None: of more than that, or of no such thing.

    Args:
        region: gets the values on the way.
    """
    node = flow.maker.get(value)
    if node is None:
        return None
    if _settled(flow, node):
        fronts: set[str | None] = {value}
    elif kind_of(node) in REARRANGING:
        fronts = {_front(flow, node.input[0], region)}
    elif node.op_type == "Mul":
        fronts = {_front(flow, name, region) for name in flow.dynamic(node)} - {None}
    elif node.op_type in ("Add", "Concat", "Sub"):
        fronts = {_front(flow, name, region) for name in node.input}
    else:
        return None
    if len(fronts) != 1:
        return None
    region.add(value)
    return fronts.pop()


def _settled(flow: Dataflow, node: onnx.NodeProto) -> bool:
    """Whether a node is a contraction, or adds a bias or multiplies by a number right behind one."""
    if _multiplies(node, node.input[0] if node.input else "", flow.constants):
        return True
    if node.op_type not in ("Add", "Div", "Mul") or (node.op_type != "Add" and flow.factor(node) == 1.0):
        return False
    dynamic = flow.dynamic(node)
    maker = flow.maker.get(dynamic[0]) if len(dynamic) == 1 else None
    return maker is not None and _settled(flow, maker)


def _closed(flow: Dataflow, region: set[str], last: onnx.NodeProto) -> bool:
    """Whether nothing is made from values but one another, and what ``last`` makes; none is a result of the model."""
    return region.isdisjoint(flow.outputs) and all(
        reader is last or reader.op_type == "Shape" or not region.isdisjoint(reader.output)
        for value in region
        for reader in flow.readers.get(value, ())
    )


def _move(graph: onnx.GraphProto, flow: Dataflow, factor: onnx.NodeProto, front: str, names: Names) -> None:
    """Take a factor away and multiply by it behind ``front``."""
    (value,) = flow.dynamic(factor)
    splice = Splice(factor.name, names)
    (constant,) = (name for name in factor.input if name != value)
    number = np.array(flow.factor(factor), np.dtype(flow.constants.dtype(constant)))
    scaled = splice.add("Mul", [front, splice.constant("factor", number)], name=factor.name)
    for old, new in ((front, scaled), (factor.output[0], scaled if value == front else value)):
        for reader in flow.readers.get(old, ()):
            for i, name in enumerate(reader.input):
                if name == old:
                    reader.input[i] = new
    graph.node.remove(factor)
    place = next(i for i, node in enumerate(graph.node) if front in node.output) + 1
    graph.node.insert(place, splice.nodes[0])
    graph.initializer.extend(splice.initializers)
    flow.constants.store(splice.initializers)
