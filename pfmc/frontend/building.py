"""Nodes that take the place of another node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pfmc.frontend.checks import subgraphs_of


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
