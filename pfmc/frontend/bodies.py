"""Graphs inside graphs: the branches of an If and the bodies of a Loop or a Scan.

A model is brought to a form in which they are no special case: every value and node has a name of its own, all
constants lie in the model's graph, where every body sees them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import onnx
from onnx import helper

from pfmc.frontend.building import Names, graphs_of
from pfmc.frontend.checks import subgraphs_of

ENTERED: Final = ("If", "Loop")  # operators whose bodies are looked into; of others only what they read is known


def entered(graph: onnx.GraphProto) -> Iterator[tuple[onnx.GraphProto, onnx.NodeProto]]:
    """The nodes that may be mapped, each with the graph that it is in; those of a body stand before its owner."""
    for node in graph.node:
        if node.op_type in ENTERED:
            for inner in subgraphs_of(node):
                yield from entered(inner)
        yield graph, node


def made_in(graph: onnx.GraphProto) -> Iterator[str]:
    """Values that a graph itself makes or is given."""
    for values in (graph.input, graph.initializer):
        yield from (value.name for value in values)
    yield from (name for node in graph.node for name in node.output if name)


def replace_all(repeated: Any, values: Iterable[Any]) -> None:
    """Replace the content of a repeated protobuf field."""
    copies = list(values)
    del repeated[:]
    repeated.extend(copies)


def flatten(graph: onnx.GraphProto) -> None:
    """Give every value and node of a model a name of its own, and move the constants of bodies into its graph.

    Names of the graph's own values, and of its nodes if they have one, stay as they are.
    """
    names = Names(onnx.GraphProto())
    for name in {*made_in(graph), *(value.name for value in graph.output)}:
        names.new(name)
    for body in _bodies(graph.node):
        _rename(body, {}, names)
    for body in [inner for outer in _bodies(graph.node) for inner in graphs_of(outer)]:
        graph.initializer.extend(body.initializer)
        _hand_out(body, {tensor.name for tensor in body.initializer}, names)
        del body.initializer[:]


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node of a model a name of its own: ONNX Runtime has refused models in which two have the same."""
    taken = {node.name for node in graph.node}
    numbers: dict[str, int] = {}
    for part in graphs_of(graph):
        for node in part.node:
            if part is not graph and node.name in taken:
                node.name = ""
            while not node.name:
                numbers[node.op_type] = number = numbers.get(node.op_type, 0) + 1
                wanted = f"{node.op_type}_{number}"
                node.name = "" if wanted in taken else wanted
            taken.add(node.name)


def _bodies(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        yield from subgraphs_of(node)


def _rename(body: onnx.GraphProto, outer: Mapping[str, str], names: Names) -> None:
    """Values that a body makes get new names where theirs are taken; ``outer`` holds the new names around it."""
    given = {value.name for value in body.input}  # a stored value for what is given is not used
    replace_all(body.initializer, [tensor for tensor in body.initializer if tensor.name not in given])
    known = {**outer, **{name: names.new(name) for name in made_in(body)}}
    for node in body.node:
        replace_all(node.input, [known.get(name, name) for name in node.input])
        replace_all(node.output, [known.get(name, name) for name in node.output])
        for inner in subgraphs_of(node):
            _rename(inner, known, names)
    for values in (body.input, body.initializer, body.output, body.value_info):
        for value in values:
            value.name = known.get(value.name, value.name)


def _hand_out(body: onnx.GraphProto, constants: set[str], names: Names) -> None:
    """A body cannot give a value from outside as its own: it gives a copy."""
    for value in body.output:
        if value.name in constants:
            copy = names.new(f"{value.name}/copy")
            body.node.append(helper.make_node("Identity", [value.name], [copy]))
            value.name = copy
