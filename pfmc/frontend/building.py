"""Nodes that take the place of another node."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pfmc.frontend.checks import subgraphs_of
from pfmc.frontend.constants import Constants

Shapes = MutableMapping[str, tuple[int | None, ...]]


class Kept(Exception):  # noqa: N818  not an error
    """The reason why a node with constant weights stays on the host."""


def kind_of(node: onnx.NodeProto) -> str:
    """A node's operator: "domain::Type", or "Type" in the standard domain."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs_of(node):
            yield from graphs_of(inner)


class Names:
    """Names of a graph's values and nodes; gives out new ones."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken: set[str] = set()
        for part in graphs_of(graph):
            for values in (part.input, part.output, part.initializer, part.node):
                self._taken.update(value.name for value in values)
            self._taken.update(name for node in part.node for name in (*node.input, *node.output))

    def new(self, wanted: str) -> str:
        """``wanted``, or if that is taken, with a number behind."""
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


@dataclass
class Splice:
    """Nodes and initialisers that take the place of a node; their names begin with its name."""

    name: str
    names: Names
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; gives the name of its output."""
        name = attributes.pop("name", None) or self.names.new(f"{self.name}/{kind}")
        output = self.names.new(f"{self.name}/{kind}_output")
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def constant(self, what: str, values: np.ndarray | Sequence[int]) -> str:
        """Add an initialiser; gives its name."""
        name = self.names.new(f"{self.name}/{what}")
        array = values if isinstance(values, np.ndarray) else np.array(values, dtype=np.int64)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name


@dataclass
class Place(Splice):
    """Where a node of the model is rewritten: the last node added makes what it made.

    Attributes:
        helpers: names of nodes and initialisers that only rearrange, though their operator could multiply.
    """

    node: onnx.NodeProto = field(kw_only=True)
    constants: Constants = field(kw_only=True)
    shapes: Shapes = field(kw_only=True)
    attributes: dict[str, Any] = field(kw_only=True)
    helpers: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, node: onnx.NodeProto, names: Names, constants: Constants, shapes: Shapes) -> Place:
        """The place of a node."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return cls(node.name, names, node=node, constants=constants, shapes=shapes, attributes=attributes)

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; if its inputs are constants and it only rearranges them, its output is one."""
        output = super().add(kind, inputs, **attributes)
        self.constants.learn(self.nodes[-1])
        return output

    def constant(self, what: str, values: np.ndarray | Sequence[int]) -> str:
        """Add an initialiser; gives its name."""
        name = super().constant(what, values)
        self.constants.store(self.initializers[-1:])
        return name

    def input(self, i: int) -> str:
        """Name of an input, or nothing."""
        return self.node.input[i] if i < len(self.node.input) else ""

    def shape(self, value: str) -> tuple[int | None, ...] | None:
        """Shape of a constant or another value, None if not even its number of axes is known."""
        return self.constants.shape(value) if value in self.constants else self.shapes.get(value)

    def transpose(self, value: str, order: Sequence[int]) -> str:
        """Its axes in another order; the value itself if that is the order they have."""
        if list(order) == sorted(order):
            return value
        shape = self.shape(value)
        output = self.add("Transpose", [value], perm=list(order))
        if shape is not None:
            self.shapes[output] = tuple(shape[i] for i in order)
        return output

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """In another shape: 0 is an axis as it was, -1 the one that takes the rest."""
        return self.add("Reshape", [value, self.constant("shape", shape)])
