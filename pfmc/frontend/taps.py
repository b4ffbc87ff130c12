"""Watching values inside a model, in the bodies of control flow too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from pfmc.frontend.bodies import made_in, replace_all
from pfmc.frontend.building import Names, Splice, graphs_of
from pfmc.frontend.checks import subgraphs_of


def tap(graph: onnx.GraphProto, values: Sequence[str]) -> list[str]:
    """Make values of a flat model outputs of it, wherever they are made.

    A value of the graph itself becomes an output as it is. One that is made in a body becomes a sequence, as float32,
    of what it was each time: every If and Loop on the way hands the sequence on.

    Args:
        values: none of them an output already.

    Returns:
        The names of the outputs, in the order of the values.
    """
    outside = set(made_in(graph))
    names = Names(graph)
    start = Splice("tapped", names)
    inside = {
        value: start.add("SequenceEmpty", [], dtype=TensorProto.FLOAT) for value in values if value not in outside
    }
    found = _collect(graph, inside, names)
    replace_all(graph.node, [*start.nodes, *graph.node])
    graph.output.extend(
        _sequence(found[value]) if value in inside else helper.make_empty_tensor_value_info(value) for value in values
    )
    return [found.get(value, value) for value in values]


def _collect(graph: onnx.GraphProto, sequences: Mapping[str, str], names: Names) -> dict[str, str]:
    """Let a graph, and its bodies, add to sequences what they make.

    Args:
        sequences: by value, the name that its sequence has where the graph begins.

    Returns:
        The names that they have where it ends.
    """
    now = dict(sequences)
    splice = Splice("tapped", names)

    def see(made: Sequence[str]) -> None:
        for value in made:
            if value in now:
                entry = splice.add("Cast", [value], to=TensorProto.FLOAT)
                now[value] = splice.add("SequenceInsert", [now[value], entry])

    see([value.name for value in graph.input])
    for node in graph.node:
        splice.nodes.append(node)
        within = {name for body in subgraphs_of(node) for part in graphs_of(body) for name in made_in(part)}
        passed = {value: now[value] for value in now if value in within}
        if passed:
            now |= (_through_if if node.op_type == "If" else _through_loop)(node, passed, names)
        see(node.output)
    replace_all(graph.node, splice.nodes)
    return now


def _through_if(node: onnx.NodeProto, sequences: Mapping[str, str], names: Names) -> dict[str, str]:
    """The branch that is taken adds to the sequences."""
    for branch in subgraphs_of(node):
        end = _collect(branch, sequences, names)
        copies = Splice("tapped", names)
        for value, name in sequences.items():
            if end[value] == name:  # a branch cannot give what it got: it adds an entry and takes it away
                more = copies.add("SequenceInsert", [name, copies.add("Constant", [], value_float=0.0)])
                end[value] = copies.add("SequenceErase", [more])
        branch.node.extend(copies.nodes)
        branch.output.extend(_sequence(end[value]) for value in sequences)
    after = {value: names.new(f"{value}/tapped") for value in sequences}
    node.output.extend(after.values())
    return after


def _through_loop(node: onnx.NodeProto, sequences: Mapping[str, str], names: Names) -> dict[str, str]:
    """Each iteration adds to the sequences."""
    (body,) = subgraphs_of(node)
    carried = len(body.input) - 2
    begin, after = ({value: names.new(f"{value}/tapped") for value in sequences} for _ in range(2))
    body.input.extend(_sequence(name) for name in begin.values())
    end = _collect(body, begin, names)
    given = [_sequence(end[value]) for value in sequences]
    replace_all(body.output, [*body.output[: carried + 1], *given, *body.output[carried + 1 :]])
    replace_all(node.input, [*node.input, *[""] * (2 - len(node.input)), *sequences.values()])
    replace_all(node.output, [*node.output[:carried], *after.values(), *node.output[carried:]])
    return after


def _sequence(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, None)
