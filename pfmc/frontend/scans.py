"""A Scan as a Loop, so that there is one kind of loop."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from pfmc.frontend.bodies import replace_all
from pfmc.frontend.building import Names, Splice, graphs_of


def scans_to_loops(graph: onnx.GraphProto) -> bool:
    """Make a Loop of every Scan of a flat model whose nodes are named; gives whether there was one."""
    names, some = Names(graph), False
    for part in graphs_of(graph):
        nodes: list[onnx.NodeProto] = []
        for node in part.node:
            if node.op_type == "Scan":
                some = True
                splice = _Scan(node, Splice(node.name, names)).as_loop()
                nodes += splice.nodes
                graph.initializer.extend(splice.initializers)
            else:
                nodes.append(node)
        replace_all(part.node, nodes)
    return some


class _Scan:
    """A Scan on its way to a Loop.

    Attributes:
        splice: what takes its place.
        states: how many values go from step to step.
    """

    def __init__(self, node: onnx.NodeProto, splice: Splice) -> None:
        self.node, self.splice = node, splice
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.states = len(node.input) - self.attributes["num_scan_inputs"]

    def as_loop(self) -> Splice:
        """Read entry by entry, compute, stack what comes out."""
        add, constant = self.splice.add, self.splice.constant
        scanned = self.node.input[self.states :]
        axes = self.attributes.get("scan_input_axes") or [0] * len(scanned)
        length = add("Gather", [add("Shape", [scanned[0]]), constant("axis", np.array(axes[0]))])
        last = add("Sub", [length, constant("one", np.array(1))])
        body = self._body(axes, last)
        results = self.node.output[self.states :]
        stacked = [self.splice.names.new(f"{value}/stacked") if value else "" for value in results]
        outputs = [*self.node.output[: self.states], *stacked]
        inputs = [length, "", *self.node.input[: self.states]]
        self.splice.nodes.append(helper.make_node("Loop", inputs, outputs, name=self.node.name, body=body))
        axes = self.attributes.get("scan_output_axes") or [0] * len(results)
        backward = self.attributes.get("scan_output_directions") or [0] * len(results)
        for value, y, axis, reverse in zip(results, stacked, axes, backward, strict=True):
            if value:
                self._stack(value, y, axis, last if reverse else None)
        return self.splice

    def _body(self, axes: list[int], last: str) -> onnx.GraphProto:
        """The Scan's body with the number of the step and a condition as first inputs."""
        body: onnx.GraphProto = self.attributes["body"]
        names, inside = self.splice.names, Splice(self.node.name, self.splice.names)
        step, going = names.new(f"{self.node.name}/step"), names.new(f"{self.node.name}/going")
        backward = self.attributes.get("scan_input_directions") or [0] * len(axes)
        entries = zip(body.input[self.states :], self.node.input[self.states :], axes, backward, strict=True)
        for entry, x, axis, reverse in entries:
            inside.add("Gather", [x, inside.add("Sub", [last, step]) if reverse else step], axis=axis)
            inside.nodes[-1].output[0] = entry.name
        still = inside.add("Identity", [going])
        replace_all(body.node, [*inside.nodes, *body.node])
        control = [
            helper.make_tensor_value_info(step, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
        ]
        replace_all(body.input, [*control, *body.input[: self.states]])
        replace_all(body.output, [helper.make_tensor_value_info(still, TensorProto.BOOL, []), *body.output])
        return body

    def _stack(self, value: str, y: str, axis: int, last: str | None) -> None:
        """What a Loop stacks on the first axis, in the order and on the axis that the Scan has it."""
        add, constant = self.splice.add, self.splice.constant
        if last is not None:
            down = constant("down", np.array(-1))
            y = add("Gather", [y, add("Range", [last, down, down])], axis=0)
        if axis:
            y = add("ConcatFromSequence", [add("SplitToSequence", [y], axis=0, keepdims=0)], axis=axis, new_axis=1)
        add("Identity", [y])
        self.splice.nodes[-1].output[0] = value
